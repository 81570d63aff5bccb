"""``nnseg convert``: predictions as files for other programs, without predicting again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import Field

from nnseg.core.dataset import Finding, counted
from nnseg.core.errors import NnsegError, RunError, ScanError
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Vector
from nnseg.core.labels import Labels
from nnseg.core.names import CaseName
from nnseg.interop.conversion.bids import check_bids_names, write_bids, write_description
from nnseg.interop.conversion.contours import write_contours
from nnseg.interop.conversion.converted_scan import ConvertedScan, with_labels
from nnseg.interop.conversion.freesurfer import aseg_numbers, colour_table, write_aseg
from nnseg.interop.conversion.masks import write_masks
from nnseg.interop.conversion.measurement_report import write_measurement_report
from nnseg.interop.conversion.surfaces import write_surfaces
from nnseg.storage.files import read_json, write_json, write_text
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS
from nnseg.storage.images.read import read_label_map, read_labels_of, read_scan
from nnseg.storage.images.write import check_label_suffix, write_label_files
from nnseg.storage.locks import locked
from nnseg.storage.overwrite import check_made_folder, remove_recorded
from nnseg.storage.predictions import ScanRecord, read_record
from nnseg.storage.temporary import sweep
from nnseg.system.extras import check_extra
from nnseg.system.parallel import map_items

RECORD = "converted.json"
"""In the folder of the files, beside them."""


class ConvertedFolder(FrozenModel):
    """What ``nnseg convert`` writes.

    Args:
        folder: of the files.
        forms: what was asked for, such as "masks".
        labels: names of the labels or regions that the files show.
        shared: files that are of no case.
        converted: files of each case, by its name; paths in the folder.
        findings: why cases have no files.
    """

    folder: Path
    forms: tuple[str, ...]
    labels: tuple[str, ...]
    shared: tuple[str, ...] = ()
    converted: dict[CaseName, tuple[str, ...]] = {}
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    def describe(self) -> str:
        """One line for users: how many cases, as what, and where."""
        total = len(self.converted) + len(self.findings)
        return f"{len(self.converted)} of {counted(total, 'case')} as {', '.join(self.forms)} in {self.folder}"


@dataclass(frozen=True, kw_only=True)
class _Conversion:
    """Predictions, and what is made of them.

    Args:
        predictions: their folder.
        records: of the cases, by name.
        labels: the chosen ones.
        some: True if there are others, whose voxels become background.
        spacing: mm (z, y, x), for scans whose files have none.
    """

    predictions: Path
    folder: Path
    forms: tuple[str, ...]
    records: Mapping[str, ScanRecord]
    labels: Labels
    some: bool
    spacing: Vector | None


def convert(
    predictions: Path, folder: Path, forms: Sequence[str], *, labels: Sequence[str] = (), workers: int = 0, force: bool = False
) -> ConvertedFolder:
    """Write predictions into another folder as files for other programs; a case that fails does not affect the others.

    Args:
        predictions: folder that ``nnseg predict`` made.
        folder: of the files; those of an earlier conversion are removed.
        forms: names of `FORMS`, or suffixes of label maps.
        labels: names of labels or regions; () for all.
        workers: processes.
        force: also overwrite files that nnseg did not make.

    Raises:
        RunError: there are no predictions, or the folder has files of others, or cannot be written.
        ScanError: a form is unknown, or cannot show any of the labels.
        NnsegError: the model has no such label, or an extra is not installed.
    """
    record, known = read_record(predictions)
    known.whole.check_known(labels)
    chosen = known.whole.only(labels) if labels else known.whole
    for form in forms:
        check_form(form)
        if form in EXTRAS:
            check_extra(*EXTRAS[form])
    if "aseg" in forms:
        aseg_numbers(chosen)
    if "bids" in forms:
        _check_bids(forms, list(record.cases))
    _check_place(predictions, folder, force=force)
    made = ConvertedFolder(folder=folder, forms=tuple(forms), labels=chosen.foreground)
    job = _Conversion(
        predictions=predictions,
        folder=folder,
        forms=made.forms,
        records=record.cases,
        labels=chosen,
        some=bool(labels),
        spacing=record.options.get("spacing"),
    )
    with locked(folder, busy="another nnseg is writing to {}; wait for it, or choose another folder"):
        sweep(folder)
        _remove_earlier(folder)
        write_json(folder / RECORD, made)  # first: if it is killed, it is known whose the files are
        made = made.model_copy(update={"shared": _relative(folder, _write_shared(job))})
        found, failed = dict[str, tuple[str, ...]](), list[Finding]()
        for outcome in map_items(partial(_convert_case, job), sorted(record.cases), workers=workers, label="converting"):
            if outcome.result is None:
                failed.append(Finding.read(outcome.reason or "", "NS-S001", case=outcome.item))
            else:
                found[outcome.item] = outcome.result
        made = made.model_copy(update={"converted": dict(sorted(found.items())), "findings": tuple(failed)})
        write_json(folder / RECORD, made)
    return made


def check_form(form: str) -> None:
    """Raise ScanError for a form that is neither one of `FORMS` nor the suffix of label maps."""
    if form in FORMS:
        return
    try:
        check_label_suffix(f".{form}")
    except ScanError:
        label_maps = [suffix for suffix, known in FORMATS.items() if known.write and not known.label_suffix]
        suffixes = (suffix.lstrip(".") for suffix in (*label_maps, *(known.suffix for known in FOLDER_FORMATS.values())) if suffix)
        raise ScanError(f'"{form}" is none of {", ".join((*FORMS, *suffixes))}; write one of these') from None


def _check_bids(forms: Sequence[str], cases: Sequence[str]) -> None:
    if len(forms) > 1:
        raise RunError("bids is a dataset in a folder of its own; convert into another folder for the other formats")
    check_bids_names(cases)


def _check_place(predictions: Path, folder: Path, *, force: bool) -> None:
    """Raise RunError unless the folder is new, empty, or of an earlier conversion."""
    if folder.absolute() == predictions.absolute():
        raise RunError(f"{folder} holds the predictions; choose another folder")
    check_made_folder(folder, RECORD, "record of a conversion", "convert", force=force)


def _remove_earlier(folder: Path) -> None:
    """Remove the files of an earlier conversion, that none is taken for one of this."""
    if (folder / RECORD).exists():
        earlier = read_json(folder / RECORD, ConvertedFolder)
        remove_recorded(folder, (*earlier.shared, *chain.from_iterable(earlier.converted.values())))


def _write_shared(job: _Conversion) -> tuple[Path, ...]:
    """The files that are written once for all cases."""
    files: tuple[Path, ...] = ()
    if "bids" in job.forms:
        files += write_description(job.folder, [RECORD, ".lock*"])
    tables = {"mgz": lambda: job.labels.named, "aseg": lambda: aseg_numbers(job.labels)}
    for form in [form for form in job.forms if form in tables]:
        files += (job.folder / f"{form}.ctab",)
        write_text(files[-1], colour_table(tables[form]()))
    return files


def _convert_case(job: _Conversion, name: str) -> tuple[str, ...]:
    """The files that are written for a case; paths in the folder.

    Raises:
        NnsegError: it was not predicted, cannot be read, or cannot be written in one of the forms.
    """
    record = job.records[name]
    if record.status == "failed":
        raise ScanError(f"was not predicted: {record.reason}")
    file = job.predictions / record.file
    try:
        scan = read_scan(record.images, repair=True, spacing=job.spacing)
        label_map, source = read_labels_of(file, scan), scan.source
    except NnsegError as error:
        label_map = read_label_map(file)
        if error.is_fault or label_map.source is None:
            raise
        source = label_map.source  # the scan is somewhere else now; what needs it says so
    seg = next((job.predictions / other for other in record.more if other.endswith(".dcm")), None)
    shown = with_labels(label_map, job.labels) if job.some else label_map
    labelled = ConvertedScan(name=name, label_map=shown, source=source, labels=job.labels, record=record, seg=seg)
    files = (path for form in job.forms for path in _write(form, labelled, job.folder))
    return _relative(job.folder, [*dict.fromkeys(files)])  # meshes of two kinds share a table


def _write(form: str, scan: ConvertedScan, folder: Path) -> tuple[Path, ...]:
    """The files that are written for a case in one form."""
    if form in FORMS:
        return FORMS[form](scan, folder)
    return write_label_files(scan.label_map, folder, scan.name, like=scan.source, labels=scan.labels, suffix=f".{form}")


def _relative(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    return tuple(file.relative_to(folder).as_posix() for file in files)


FORMS: dict[str, Callable[[ConvertedScan, Path], tuple[Path, ...]]] = {
    "masks": write_masks,
    "aseg": write_aseg,
    "bids": write_bids,
    "rtstruct": write_contours,
    "sr": write_measurement_report,
    **{suffix: partial(write_surfaces, suffix=f".{suffix}") for suffix in ("stl", "ply", "glb")},
}
"""What writes a case in each form that is more than a label map of another suffix."""

EXTRAS = {"sr": ("sr", "structured reports"), **dict.fromkeys(("stl", "ply", "glb"), ("meshes", "surfaces"))}
"""The extra that a form needs, and what needs it."""
