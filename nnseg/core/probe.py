"""`Probe`: measured speed and memory of candidate plans on a machine. Recorded once, so that planning stays a pure function."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.plan import Plan
from nnseg.core.validation import NotNegative


class Trial(FrozenModel):
    """Measurements of a candidate plan: a few real training steps and tiles in a process of its own.

    Args:
        key: `Plan.key()` of the candidate, without steps and with ``precision`` as its recipe has it.
        precision: the fastest arithmetic: "float32", "bfloat16" or "float16".
        step_seconds: per training step, with making its batch.
        pause_seconds: between two epochs, for validation patches and a checkpoint.
        tile_seconds: per tile of the sliding window, without mirroring.
        memory_gb: peak RAM of the training process, without its cases.
        device_gb: peak memory on the device; 0 on a CPU.
        slowdown: times as long that a step took, since other programs computed meanwhile; the seconds above are those without.
        tile_gb: RAM, or memory of the device, for a batch of tiles in the network.
        failed: why the candidate cannot be trained here; empty if it can.
    """

    key: str
    work: str = ""
    precision: str = "float32"
    step_seconds: NotNegative = 0.0
    pause_seconds: NotNegative = 0.0
    tile_seconds: NotNegative = 0.0
    slowdown: Annotated[float, Field(ge=1)] = 1.0
    memory_gb: NotNegative = 0.0
    device_gb: NotNegative = 0.0
    tile_gb: NotNegative = 0.0
    checkpoint_bytes: NotNegative = 0.0
    model_bytes: NotNegative = 0.0
    failed: str = ""


class CaseCost(FrozenModel):
    """Cost of preprocessing some of the dataset's cases for one plan, and of predicting them, without the network.

    Args:
        seconds: to read, preprocess and store a million voxels of the scan, in one process.
        packed: size of a stored case relative to its voxels' bytes on the network's grid.
        memory_gb: additional RAM of a process for the largest case.
        predict_seconds: to read, preprocess, restore and write a million voxels of the scan.
        start_seconds: additional time of the first case, for loading libraries and allocating memory.
        predict_start_seconds: the same for the first scan that a process predicts.
        predict_gb: additional RAM for predicting the largest scan.
        label_bytes: of a label map's file, for a million voxels of the scan.
        failed: why it could not be measured; empty if it could.
    """

    key: str
    seconds: NotNegative = 0.0
    packed: NotNegative = 0.0
    memory_gb: NotNegative = 0.0
    predict_seconds: NotNegative = 0.0
    start_seconds: NotNegative = 0.0
    predict_start_seconds: NotNegative = 0.0
    predict_gb: NotNegative = 0.0
    label_bytes: NotNegative = 0.0
    failed: str = ""


class Probe(FrozenModel):
    """Measurements of a machine.

    Args:
        device: of the training: "cpu", "cuda:0", ...
        threads: of the processor that torch uses.
        device_gb: memory free on the device; RAM free for this process on a CPU.
        ram_gb: RAM free for this process.
        base_gb: RAM of a process that has loaded all libraries and no data.
        machine: a description; for another machine, or another torch, the measurements are not valid.
        dataset: key of the fingerprint of the dataset used.
        handling: for each distinct preprocessing among the candidates.
    """

    device: str
    threads: int
    device_gb: NotNegative
    ram_gb: NotNegative
    base_gb: NotNegative = 0.0
    machine: str = ""
    dataset: str = ""
    trials: tuple[Trial, ...] = ()
    handling: tuple[CaseCost, ...] = ()

    def trial(self, key: str) -> Trial | None:
        """The trial of a candidate, if there was one."""
        return next((t for t in self.trials if t.key == key), None)

    def trial_of(self, plan: Plan) -> Trial | None:
        """The trial of the candidate that a plan was made from, whatever its steps, seed and precision."""
        work, precision = work_key(plan), plan.training.precision
        return next((t for t in self.trials if t.work == work and precision in ("auto", t.precision)), None)

    def case_cost_of(self, plan: Plan) -> CaseCost | None:
        """The cost of cases that are preprocessed as in a plan."""
        key = handling_key(plan)
        return next((h for h in self.handling if h.key == key), None)


def trial_key(plan: Plan) -> str:
    """The key of a candidate: of all its decisions except the length of the training."""
    return plan.model_copy(update={"training": plan.training.model_copy(update=dict.fromkeys(LENGTH))}).key()


LENGTH = ("steps", "seconds", "patience")
FREE = {*LENGTH, "seed", "precision", "learning_rate", "weight_decay", "momentum", "schedule", "warmup_steps", "clip_norm", "why"}
"""Settings of the training that do not change the cost of a step."""

FREE_AUGMENTATION = ("mirror_axes", "rotation_degrees", "swapped_labels", "swap_axis")
"""Settings of the augmentation that do not change the cost of a step."""


def work_key(plan: Plan) -> str:
    """A digest of the settings that determine the cost of a plan's steps and tiles."""
    sections = plan.key("channels", "labels", "patch", "preprocessing", "network", "previous")
    excluded: dict[str, Any] = {"augmentation": {"why", *FREE_AUGMENTATION}, **dict.fromkeys(FREE, True)}
    return digest([sections, plan.inference.step, plan.training.model_dump(mode="json", exclude=excluded)])


def handling_key(plan: Plan) -> str:
    """A digest of the settings that determine preprocessing and the restoring of predictions."""
    return plan.key("preprocessing", "labels", "channels", "previous")
