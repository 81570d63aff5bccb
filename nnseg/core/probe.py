"""`Probe`: what a machine was measured to do with candidate plans. Recorded once, so that planning stays a pure function."""

from __future__ import annotations

from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.plan import Plan
from nnseg.core.validation import NotNegative


class Trial(FrozenModel):
    """One candidate plan, tried for a few real training steps and tiles in a process of its own.

    Args:
        key: `Plan.key()` of the candidate, without steps and with ``precision`` as its recipe has it.
        work: `work_key` of the candidate.
        precision: the arithmetic found fastest: "float32", "bfloat16" or "float16".
        step_seconds: of one training step, its batch included.
        pause_seconds: between two epochs: held-out patches and a checkpoint.
        tile_seconds: of one tile through the sliding window, without mirroring.
        memory_gb: peak RAM of the training process, less the cases it held.
        device_gb: peak memory on the device; 0 on a CPU.
        tile_gb: RAM, or memory of the device, that a process takes to send a window's batch of tiles through the network.
        checkpoint_bytes: of one checkpoint on disk.
        model_bytes: of the model's file.
        failed: why the candidate cannot be trained here; empty if it can.
    """

    key: str
    work: str = ""
    precision: str = "float32"
    step_seconds: NotNegative = 0.0
    pause_seconds: NotNegative = 0.0
    tile_seconds: NotNegative = 0.0
    memory_gb: NotNegative = 0.0
    device_gb: NotNegative = 0.0
    tile_gb: NotNegative = 0.0
    checkpoint_bytes: NotNegative = 0.0
    model_bytes: NotNegative = 0.0
    failed: str = ""


class CaseCost(FrozenModel):
    """What it took to preprocess some of the dataset's cases for one plan, and to predict them with a network that costs nothing.

    Args:
        key: `handling_key` of the plan.
        seconds: to read, preprocess and store a million voxels of the scan, one process.
        packed: size of a stored case as a share of its voxels' bytes on the network's grid.
        memory_gb: RAM that a process took for the largest case, beyond what it held before.
        predict_seconds: to read, preprocess, restore and write a million voxels of the scan.
        start_seconds: what the first case takes longer than its voxels say: libraries that are loaded, memory that is claimed.
        predict_start_seconds: likewise of the first scan that a process predicts.
        predict_gb: RAM that predicting the largest scan took, beyond what the process held before.
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
    """A machine, measured.

    Args:
        device: what trains: "cpu", "cuda:0", ...
        threads: of the processor that torch uses.
        device_gb: memory free on the device; RAM free for this process on a CPU.
        ram_gb: RAM free for this process.
        base_gb: RAM of a process that has loaded all that training and prediction need, and no data.
        machine: what was measured, in words: on another one, or with another torch, nothing of it holds.
        dataset: key of the fingerprint of the dataset that lent its cases.
        trials: of candidate plans.
        handling: of preprocessing, for each distinct one among the candidates.
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

    def of(self, plan: Plan) -> Trial | None:
        """The trial of the candidate that became a plan, whatever steps, seed and precision it was then given."""
        work, precision = work_key(plan), plan.training.precision
        return next((t for t in self.trials if t.work == work and precision in ("auto", t.precision)), None)

    def handling_of(self, plan: Plan) -> CaseCost | None:
        """What handling cases takes that are preprocessed as the plan says."""
        key = handling_key(plan)
        return next((h for h in self.handling if h.key == key), None)


def trial_key(plan: Plan) -> str:
    """The key of a candidate: of all its decisions but the length of the training."""
    return plan.model_copy(update={"training": plan.training.model_copy(update=dict.fromkeys(LENGTH))}).key()


LENGTH = ("steps", "seconds", "patience")
FREE = {*LENGTH, "seed", "precision", "learning_rate", "weight_decay", "momentum", "schedule", "warmup_steps", "clip_norm", "why"}
"""Settings of the training that change how many steps there are, or what comes of them, but not what one costs."""


def work_key(plan: Plan) -> str:
    """A digest of what decides the cost of a plan's steps and tiles."""
    sections = plan.key("channels", "labels", "patch", "preprocessing", "network", "inference", "previous")
    return digest([sections, plan.training.model_dump(mode="json", exclude={"augmentation": {"why"}, **dict.fromkeys(FREE, True)})])


def handling_key(plan: Plan) -> str:
    """A digest of what decides how its cases are preprocessed and its predictions restored."""
    return plan.key("preprocessing", "labels", "channels", "previous")
