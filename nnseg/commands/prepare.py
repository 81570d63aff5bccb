"""``nnseg prepare``: scans after steps such as N4 and a brain mask, in files of their own, for training and prediction alike."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import Field

from nnseg.core.dataset import AS_FOUND, Case, Finding, Reading, Unused, counted
from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Vector
from nnseg.core.image import Scan
from nnseg.core.names import CaseName
from nnseg.core.registration import StepRecord
from nnseg.preprocessing.prepare import prepare_scan
from nnseg.storage.datasets.find_scans import FoundScans, find_scans, named_channels
from nnseg.storage.files import read_json, write_json
from nnseg.storage.images.formats import FORMATS, image_name, suffix_of
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import write_map
from nnseg.storage.locks import locked
from nnseg.storage.overwrite import check_made_folder, remove_recorded
from nnseg.storage.prepared import write_prepared
from nnseg.storage.temporary import sweep
from nnseg.system.machine import versions
from nnseg.system.parallel import map_items
from nnseg.system.regular import resolved

log = logging.getLogger(__name__)

RECORD = "prepared.json"
"""In the folder of the scans, beside them."""

SUFFIX = ".nii.gz"
"""Of all files: values after a step are no whole numbers."""


class PreparedCase(FrozenModel):
    """The files of a scan, and how they were made.

    Args:
        files: one for each channel; paths in the folder.
        steps: what each did.
        more: channels after each step, if these are saved.
        notes: what was repaired or skipped.
    """

    files: tuple[str, ...]
    steps: tuple[StepRecord, ...]
    more: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class PreparedFolder(FrozenModel):
    """What ``nnseg prepare`` writes.

    Args:
        nnseg: version.
        folder: of the scans.
        steps: that were asked for.
        inferred: what was concluded from names of files, in one line each.
        unused: what lies among the scans besides.
        scans: by name of the case.
        findings: why cases have no files.
    """

    nnseg: str
    folder: Path
    steps: tuple[str, ...]
    inferred: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    scans: dict[CaseName, PreparedCase] = {}
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    def describe(self) -> str:
        """One line for users: how many scans, by which steps, and where."""
        total = len(self.scans) + len(self.findings)
        return f"{len(self.scans)} of {counted(total, 'scan')} prepared ({', '.join(self.steps)}) in {self.folder}"


@dataclass(frozen=True, kw_only=True)
class _Preparation:
    """What is done to every scan.

    Args:
        spacing: mm (z, y, x), for scans whose files have none.
    """

    folder: Path
    steps: tuple[str, ...]
    spacing: Vector | None
    save_steps: bool


def prepare(
    scans: Path,
    folder: Path,
    steps: tuple[str, ...],
    reading: Reading = AS_FOUND,
    *,
    save_steps: bool = False,
    workers: int = 0,
    force: bool = False,
) -> PreparedFolder:
    """Write scans after some steps into another folder, under the names of their files; one that fails does not affect the others.

    Args:
        scans: a scan, or a folder of files or DICOM series. Label maps in it are left out.
        folder: of the prepared scans; those of an earlier preparation are removed.
        steps: names, see `prepare_scan`.
        reading: which files are scans and channels, where their names do not tell it.
        save_steps: also write the channels after each step.
        workers: processes.
        force: also overwrite files that nnseg did not make.

    Raises:
        DatasetError: there is no scan.
        RunError: the folder is that of the scans, has files of others, or cannot be written.
    """
    if resolved(folder) == resolved(scans) or resolved(scans) in resolved(folder).parents:
        raise RunError(f"{folder} is where the scans are; choose another folder")
    check_made_folder(folder, RECORD, "record of prepared scans", "prepare", force=force)
    found = _find(scans, reading)
    made = PreparedFolder(nnseg=versions()["nnseg"], folder=folder, steps=steps, inferred=found.inferred, unused=found.unused)
    job = _Preparation(folder=folder, steps=steps, spacing=reading.spacing, save_steps=save_steps)
    with locked(folder, busy="another nnseg is writing to {}; wait for it, or choose another folder"):
        sweep(folder)
        _remove_earlier(folder)
        write_json(folder / RECORD, made)  # first: if it is killed, it is known whose the files are
        done, failed = dict[str, PreparedCase](), list[Finding]()
        items = [*_named(found.cases, scans.absolute())]
        for outcome in map_items(partial(_prepare_case, job), items, workers=workers, label="preparing"):
            name = outcome.item[0].name
            if outcome.result is None:
                failed.append(Finding.read(outcome.reason or "", "NS-S001", case=name))
            else:
                done[name] = outcome.result
                for note in outcome.result.notes:
                    log.warning("case %s: %s", name, note)
        made = made.model_copy(update={"scans": dict(sorted(done.items())), "findings": tuple(failed)})
        write_json(folder / RECORD, made)
    return made


def _find(scans: Path, reading: Reading) -> FoundScans:
    """The scans, with as many channels as are asked for, or as their numbered names have in common; else of one file each."""
    found = find_scans(scans, channels=len(reading.channels) or 1, names=reading.channels, reading=reading)
    numbers = {} if reading.channels else named_channels(found.cases)
    if not numbers:
        return found
    return find_scans(scans, channels=len(next(iter(numbers.values()))), reading=reading)


def _named(cases: Sequence[Case], root: Path) -> list[tuple[Case, tuple[Path, ...]]]:
    """Each case, and paths of its files without suffix: as they lie below the scans, or its name where two would be equal."""
    names = {case.name: _own_names(case, root) for case in cases}
    counts = Counter(chain.from_iterable(names.values()))
    own = {name: bool(paths) and all(counts[path] == 1 for path in paths) for name, paths in names.items()}
    return [(case, names[case.name] if own[case.name] else (Path(case.name),)) for case in cases]


def _own_names(case: Case, root: Path) -> tuple[Path, ...]:
    """Paths of a case's files below a folder, without their suffixes; () of slices, volumes in a file, and files elsewhere."""
    top = root if root.is_dir() else root.parent
    usual = all(path.is_relative_to(top) and (path.is_dir() or suffix_of(path) in FORMATS) for path in case.images)
    return tuple(path.relative_to(top).parent / image_name(path) for path in case.images) if usual else ()


def _remove_earlier(folder: Path) -> None:
    """Remove the files of an earlier preparation, that none is taken for one of this."""
    if (folder / RECORD).exists():
        earlier = read_json(folder / RECORD, PreparedFolder)
        remove_recorded(folder, chain.from_iterable((*case.files, *case.more) for case in earlier.scans.values()))


def _prepare_case(job: _Preparation, item: tuple[Case, tuple[Path, ...]]) -> PreparedCase:
    """The files of a case.

    Raises:
        ScanError: it cannot be read, or a step cannot be done with it.
        RunError: a file cannot be written.
    """
    case, names = item
    scan, more = read_scan(case.images, repair=True, spacing=job.spacing or case.spacing), list[Path]()

    def keep(step: StepRecord, after: Scan) -> None:
        more.extend(write_prepared(after, step.step, case.name, job.folder))

    scan = prepare_scan(scan, job.steps, keep if job.save_steps else None)
    if len(names) != len(scan.image):  # channels in one file, or slices of one
        names = tuple(names[0].with_name(f"{names[0].name}_{number:04d}") for number in range(len(scan.image)))
    files = [job.folder / name.with_name(name.name + SUFFIX) for name in names]
    for channel, file in zip(scan.image, files, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_map(channel, file, like=scan.source)
    paths, further = (tuple(path.relative_to(job.folder).as_posix() for path in some) for some in (files, more))
    return PreparedCase(files=paths, steps=scan.preparation, more=further, notes=scan.notes)
