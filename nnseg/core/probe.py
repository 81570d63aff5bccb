"""`Probe`: what a machine was measured to do with candidate plans. Recorded once, so that planning stays a pure function."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NotNegative = Annotated[float, Field(ge=0)]


class Trial(BaseModel):
    """One candidate plan, tried for a few real training steps and tiles in a process of its own.

    Args:
        key: `Plan.key()` of the candidate, without steps and with ``precision`` as its recipe has it.
        precision: the arithmetic found fastest: "float32", "bfloat16" or "float16".
        step_seconds: of one training step, its batch included.
        pause_seconds: between two epochs: held-out patches and a checkpoint.
        tile_seconds: of one tile through the sliding window, without mirroring.
        memory_gb: peak RAM of the training process, less the cases it held.
        device_gb: peak memory on the device; 0 on a CPU.
        failed: why the candidate cannot be trained here; empty if it can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    precision: str = "float32"
    step_seconds: NotNegative = 0.0
    pause_seconds: NotNegative = 0.0
    tile_seconds: NotNegative = 0.0
    memory_gb: NotNegative = 0.0
    device_gb: NotNegative = 0.0
    failed: str = ""


class Handling(BaseModel):
    """What it took to preprocess some of the dataset's cases for one plan.

    Args:
        key: `Plan.key("preprocessing", "labels", "channels")`.
        seconds: to read, preprocess and store a million voxels of the scan, one process.
        bytes: on disk, for a million voxels of the scan.
        memory_gb: peak RAM of a process that did it with the largest case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    seconds: NotNegative = 0.0
    bytes: NotNegative = 0.0
    memory_gb: NotNegative = 0.0


class Probe(BaseModel):
    """A machine, measured.

    Args:
        device: what trains: "cpu", "cuda:0", ...
        threads: of the processor that torch uses.
        device_gb: memory free on the device; RAM free for this process on a CPU.
        ram_gb: RAM free for this process.
        trials: of candidate plans.
        handling: of preprocessing, for each distinct one among the candidates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    threads: int
    device_gb: NotNegative
    ram_gb: NotNegative
    trials: tuple[Trial, ...] = ()
    handling: tuple[Handling, ...] = ()

    def trial(self, key: str) -> Trial | None:
        """The trial of a candidate, if there was one."""
        return next((t for t in self.trials if t.key == key), None)
