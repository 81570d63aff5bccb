"""What a process that predicts and the one that watches it tell each other, a line of JSON each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from nnseg.core.dataset import Case
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Vector
from nnseg.core.labels import Labels
from nnseg.core.population import Population
from nnseg.storage.predictions import ScanRecord


class PredictionOrder(FrozenModel):
    """How scans are to be predicted.

    Args:
        models: run folders or exported files, which answer together.
        folds: of runs; None for all.
        device: where the networks compute.
        step: distance of tiles as a share of the patch; None for the plan's.
        mirror: average over mirrored copies.
        classic: answer as nnU-Net does.
        postprocessing: mend label maps as the model says.
        out: folder of the label maps.
        suffix: of the label maps; the scans' own if empty.
        probabilities, uncertainty: also write them.
        spacing: mm along the stored axes (z, y, x), for scans whose files say none.
        room_gb: RAM that the process may use.
        most_gb: RAM that it may use for a case that is predicted while nothing else is.
        verbose: also log details.
    """

    models: tuple[Path, ...]
    folds: tuple[int, ...] | None = None
    device: str = "auto"
    step: float | None = None
    mirror: bool = True
    classic: bool = False
    postprocessing: bool = True
    out: Path
    suffix: str = ""
    probabilities: bool = False
    uncertainty: bool = False
    spacing: Vector | None = None
    room_gb: float = float("inf")
    most_gb: float = float("inf")
    verbose: bool = False

    def options(self) -> dict[str, Any]:
        """What can change a byte of the files, apart from scans and model."""
        return self.model_dump(mode="json", exclude={"models", "folds", "device", "out", "room_gb", "most_gb", "verbose"})


class PredictionTask(FrozenModel):
    """A case to predict.

    Args:
        case: its files.
        known: what the folder's record says of it.
        alone: nothing else is predicted meanwhile, so that it may use all the memory there is.
    """

    case: Case
    known: ScanRecord | None = None
    alone: bool = False


class Ready(FrozenModel):
    """The process has loaded its models.

    Args:
        model: their key.
        channels: that scans must have.
        device: found for "auto".
        base_gb: RAM that the process holds before the first case.
        labels: what the label maps' values will mean.
        population: to compare volumes with; None if the model has none.
    """

    kind: Literal["ready"] = "ready"
    model: str
    channels: int
    device: str
    base_gb: float
    labels: Labels
    population: Population | None = None


class Refused(FrozenModel):
    """The process cannot do what it was asked for, whatever the case.

    Args:
        reason: for the user.
    """

    kind: Literal["refused"] = "refused"
    reason: str


class StageReached(FrozenModel):
    """A case has come to a stage.

    Args:
        case: its name.
        stage: "read", "preprocess", "network" or "write".
        needed_gb: RAM that it takes at most, by computation; 0 if not known yet.
    """

    kind: Literal["stage"] = "stage"
    case: str
    stage: str
    needed_gb: float = 0.0


class Finished(FrozenModel):
    """Nothing more is to be done for a case.

    Args:
        case: its name.
        written: what became of it.
        alone: it failed for want of memory, and might not if it were alone.
    """

    kind: Literal["finished"] = "finished"
    case: str
    written: ScanRecord
    alone: bool = False


class Alive(FrozenModel):
    """A sign of life for machines without /proc.

    Args:
        cpu_seconds: the process has computed.
    """

    kind: Literal["alive"] = "alive"
    cpu_seconds: float


Message = Ready | Refused | StageReached | Finished | Alive

MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
"""Reads any message of a worker."""
