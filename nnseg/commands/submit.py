"""``nnseg submit``: predictions in the form that a challenge asks for, checked against its rules and packed."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field

from nnseg.core.dataset import Case, Finding, Reading, Unused, counted
from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.labels import Labels
from nnseg.core.names import CaseName
from nnseg.interop.challenges.archive import write_archive
from nnseg.interop.challenges.cases import SubmittedCase
from nnseg.interop.challenges.check import check_files
from nnseg.interop.challenges.files import write_files
from nnseg.interop.challenges.naming import check_names, check_values, label_map_values, name_files, written_values
from nnseg.interop.challenges.rules import Challenge
from nnseg.serving.folder import PredictedFolder, predict_scans
from nnseg.serving.messages import PredictionOrder
from nnseg.serving.pool import WorkerPool
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.files import write_json
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.predictions import ScanRecord

RECORD = "submission.json"
LABEL_MAPS, FILES = "label_maps", "files"
"""Folders of the predictions as nnseg writes them, and of the files that the archive holds."""


class WrittenLabel(FrozenModel):
    """How a label of the model is written.

    Args:
        name: of the label or region.
        value: that it is written as.
        meaning: of that value, as the challenge has it; "" if its rules do not say.
    """

    name: str
    value: int
    meaning: str = ""


class Submission(FrozenModel):
    """What ``nnseg submit`` does.

    Args:
        challenge: name of the rules.
        title: of the challenge.
        remarks: what its rules say that cannot be checked.
        archive: what is submitted; None if a rule is broken.
        files: paths in the archive by name of the case.
        labels: how the model's labels are written; () for probabilities.
        unused: what lies among the scans besides.
        findings: broken rules, and scans that could not be predicted.
    """

    challenge: str
    title: str
    remarks: tuple[str, ...] = ()
    archive: Path | None = None
    files: dict[CaseName, str] = {}
    labels: tuple[WrittenLabel, ...] = ()
    unused: tuple[Unused, ...] = ()
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    def describe(self) -> tuple[str, ...]:
        """Lines for users: the values of labels, what cannot be checked, and the archive."""
        meant = (f"{one.name}: written as {one.value}" + (f", {one.meaning}" if one.meaning else "") for one in self.labels)
        packed = f"{counted(len({*self.files.values()}), 'file')} of {self.title} in {self.archive}"
        none = "no archive is written, since a rule is broken or a scan could not be predicted:"
        return (*meant, *self.remarks, packed if self.archive else none)


def submission_order(order: PredictionOrder, out: Path, challenge: Challenge) -> PredictionOrder:
    """An order for predictions of which a submission can be made: in the format of the challenge, into a folder of ``out``."""
    asked = challenge.pixels.content == "probabilities"
    changed = {"out": out / LABEL_MAPS, "suffix": "" if asked else challenge.suffix, "probabilities": asked}
    return order.model_copy(update=changed)


def submit(scans: Path, workers: WorkerPool, challenge: Challenge, reading: Reading, *, force: bool = False) -> Submission:
    """Predict scans, write them as a challenge asks for, check all rules, and pack the files if none is broken.

    Args:
        scans: as for ``nnseg predict``.
        workers: processes that have a `submission_order`.
        challenge: the rules.
        reading: which files are scans.
        force: also overwrite files that nnseg did not make.

    Raises:
        DatasetError: there is no scan.
        PlanError: the rules name labels that the model does not have.
        RunError: the folder has files that nnseg did not make, or cannot be written.
        ModelError: the model cannot be loaded.
    """
    out = workers.order.out.parent
    _check_place(out, challenge, force=force)
    ready = workers.ready()
    found = find_scans(scans.absolute(), channels=ready.channels, names=ready.channel_names, reading=reading)
    names = [case.name for case in found.cases]
    broken = (*check_values(ready.labels, challenge.pixels), *check_names(names, challenge.names))
    shutil.rmtree(out / FILES, ignore_errors=True)
    (out / challenge.archive).unlink(missing_ok=True)
    begun = Submission(
        challenge=challenge.name,
        title=challenge.title,
        remarks=challenge.remarks,
        labels=_written_labels(ready.labels, challenge),
        unused=found.unused,
        findings=broken,
    )
    if broken:  # before hours of prediction
        return begun
    write_json(out / RECORD, begun)  # first: if it is killed, it is known whose the files are
    predicted = predict_scans(scans, workers, reading, force=force)
    made = begun.model_copy(update={"unused": predicted.unused, "findings": predicted.findings})
    if not predicted.findings:
        cases = [_predicted(case, predicted, workers.order) for case in found.cases]
        made = _write(cases, made, challenge, ready.labels, out)
    write_json(out / RECORD, made)
    return made


def _written_labels(labels: Labels, challenge: Challenge) -> tuple[WrittenLabel, ...]:
    if challenge.pixels.content == "probabilities":
        return ()
    written, meaning = written_values(labels, challenge.pixels), challenge.pixels.meaning
    values = {name: written[value] for name, value in label_map_values(labels).items()}
    return tuple(WrittenLabel(name=name, value=value, meaning=meaning.get(str(value), "")) for name, value in values.items())


def _check_place(out: Path, challenge: Challenge, *, force: bool) -> None:
    """Raise RunError if there are files of others in the way."""
    check_overwrite(out / RECORD, "record of a submission", force=force)
    own = (out / RECORD).exists() or force
    for place in (out / FILES, out / challenge.archive):
        if place.exists() and not own:
            found = "is there already, and was not made by nnseg submit"
            raise RunError.at(place, found, "a new folder", "choose another folder, or overwrite it with --force")


def _predicted(case: Case, predicted: PredictedFolder, order: PredictionOrder) -> SubmittedCase:
    record: ScanRecord = predicted.scans[case.name]
    probabilities = next((predicted.folder / name for name in record.more if name.endswith(".npz")), None)
    return SubmittedCase(
        name=case.name,
        images=case.images,
        label_map=predicted.folder / record.file,
        probabilities=probabilities,
        spacing=case.spacing or order.spacing,
    )


def _write(cases: list[SubmittedCase], made: Submission, challenge: Challenge, labels: Labels, out: Path) -> Submission:
    """Write and check the files, and pack them if no rule is broken."""
    archive, paths = out / challenge.archive, name_files([case.name for case in cases], challenge.names)
    write_files(cases, paths, challenge, labels, out / FILES)
    broken = check_files(out / FILES, cases, paths, challenge)
    if not broken:
        write_archive(out / FILES, archive)
    return made.model_copy(update={"files": paths, "findings": broken, "archive": None if broken else archive})
