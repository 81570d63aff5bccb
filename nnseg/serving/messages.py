"""The messages between a process that predicts and its parent, each a line of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from nnseg.core.dataset import Case
from nnseg.core.decisions import Threshold
from nnseg.core.errors import NnsegError
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Vector
from nnseg.core.labels import Labels
from nnseg.core.options import OnMissingChannel, Runtime
from nnseg.core.population import Population
from nnseg.storage.predictions import ScanRecord


class OutputOptions(FrozenModel):
    """The folder of predictions, and which files are written.

    Args:
        out: folder of the label maps.
        suffix: of the label maps, ".dcm" for DICOM-SEG; the scan's own if empty.
        probabilities: also write them.
        uncertainty: also write a map of it, and the confidence into the record.
        spacing: mm along the stored axes (z, y, x), for scans whose files have none.
        on_missing_channel: a scan without a file of a channel fails, or is predicted with zeros in its place.
        prepare: steps before preprocessing, see `nnseg.preprocessing.prepare`.
        save_steps: also write the channels after each of these.

    Raises:
        NnsegError: there are no steps to save.
    """

    out: Path
    suffix: str = ""
    probabilities: bool = False
    uncertainty: bool = False
    spacing: Vector | None = None
    on_missing_channel: OnMissingChannel = "error"
    prepare: tuple[str, ...] = Field(default=(), exclude_if=lambda steps: not steps)  # left out, so that old digests hold
    save_steps: bool = Field(default=False, exclude_if=lambda saved: not saved)  # likewise

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.save_steps and not self.prepare:
            raise NnsegError("--save-steps writes what the steps of --prepare make, and there are none; name some")
        return self


class PredictionOrder(OutputOptions):
    """How scans are to be predicted.

    Args:
        models: run folders or exported files, which predict as one ensemble.
        folds: of runs; None for all.
        step: distance of tiles as a share of the patch; None for the plan's.
        mirror: average over mirrored copies; None for what the model's plan says.
        classic: combine networks as nnU-Net does.
        dropout: draws of dropped channels that are averaged; 0 for none.
        runtime: that computes the networks.
        postprocessing: apply the model's postprocessing to label maps.
        thresholds: of probabilities, by name of the label, see `nnseg.network.load.with_thresholds`.
        memory_gb: RAM that the process may use.
        exclusive_gb: RAM that it may use for a case that is predicted alone.
        ram_share: where it is not 0, the share of the RAM that is free on the process's machine, which it may use instead.
    """

    models: tuple[Path, ...]
    folds: tuple[int, ...] | None = None
    device: str = "auto"
    step: float | None = None
    mirror: bool | None = None
    classic: bool = False
    dropout: int = Field(default=0, exclude_if=lambda draws: not draws)  # likewise
    runtime: Runtime = Field(default="torch", exclude_if=lambda runtime: runtime == "torch")  # likewise
    postprocessing: bool = True
    thresholds: dict[str, Threshold] = Field(default={}, exclude_if=lambda thresholds: not thresholds)  # so that old keys hold
    memory_gb: float = float("inf")
    exclusive_gb: float = float("inf")
    ram_share: float = 0.0
    verbose: bool = False

    def options(self) -> dict[str, Any]:
        """The options that can change a byte of the files, apart from scans and model."""
        machine = {"models", "folds", "device", "out", "memory_gb", "exclusive_gb", "ram_share", "verbose"}
        return self.model_dump(mode="json", exclude={*machine, "on_missing_channel"})  # scans with all channels stay as they are


class PredictionTask(FrozenModel):
    """A case to predict.

    Args:
        suffix: of its label map; that of the order if empty.
        previous: the folder's record of the case, if any.
        exclusive: no other case is predicted meanwhile, so it may use all memory.
        withdrawn: nobody waits any more for the prediction of this case, which was given before.
    """

    case: Case
    suffix: str = ""
    previous: ScanRecord | None = None
    exclusive: bool = False
    withdrawn: bool = False


class Ready(FrozenModel):
    """The process has loaded its models.

    Args:
        model: key of the models.
        channels: number that scans must have.
        channel_names: of the model.
        device: the one in use, also where "auto" was given.
        base_gb: RAM that the process holds before the first case.
        labels: meaning of the label maps' values.
        population: to compare volumes with; None if the model has none.
    """

    kind: Literal["ready"] = "ready"
    model: str
    channels: int
    channel_names: tuple[str, ...] = ()
    device: str
    base_gb: float
    labels: Labels
    population: Population | None = None


class Refused(FrozenModel):
    """The process cannot carry out its order, for any case; the reason is for the user."""

    kind: Literal["refused"] = "refused"
    reason: str


class StageReached(FrozenModel):
    """A case has reached a stage.

    Args:
        stage: "read", "prepare", "preprocess", "network" or "write".
        needed_gb: computed peak memory; 0 if not known yet.
    """

    kind: Literal["stage"] = "stage"
    case: str
    stage: str
    needed_gb: float = 0.0


class Finished(FrozenModel):
    """A case is finished.

    Args:
        retry_exclusive: it failed for lack of memory, and might succeed when it is predicted alone.
    """

    kind: Literal["finished"] = "finished"
    case: str
    record: ScanRecord
    retry_exclusive: bool = False


class Alive(FrozenModel):
    """A heartbeat with a `ProcessUsage`, for processes that cannot be inspected from outside."""

    kind: Literal["alive"] = "alive"
    cpu_seconds: float
    io_bytes: int = 0
    own_gb: float = 0.0


Message = Ready | Refused | StageReached | Finished | Alive

MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
"""Reads any message of a worker."""


def suffix_named(form: str | None) -> str:
    """The suffix of files of a format: ".nrrd" for "nrrd" or ".nrrd"; "" for None."""
    return "" if form is None else f".{form.lower().lstrip('.')}"
