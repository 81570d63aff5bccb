"""The folds of a run: kept once written, taken from the user's division where there is one, and never against an edited file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nnseg.core.dataset import Case, Dataset, Finding, Fold, counted, listed
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.labels import Labels
from nnseg.core.options import SPLIT_FILES, Options, select_folds
from nnseg.planning.duplicates import same_images
from nnseg.planning.folds import find_labels, is_stack, make_folds, merge_groups, missing_labels
from nnseg.storage.datasets.groups import TABLES, read_groups
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.patients import find_patients
from nnseg.storage.datasets.splits import SPLIT_FILE, GivenSplit, read_split, split_of_cases
from nnseg.storage.files import write_text
from nnseg.storage.run import Run
from nnseg.system.regular import resolved

log = logging.getLogger(__name__)


class FoldSettings(FrozenModel):
    """What a run's folds were made with, as kept in its record.

    Args:
        split, group_by, every_case: options, see `Options`; paths are full ones.
        written: digests of all folds that nnseg wrote into the run, the last ones at the end; others were edited by a person.
    """

    split: str = "auto"
    group_by: str | None = None
    every_case: bool = False
    written: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What folds are made from.

    Args:
        names: of the usable cases.
        absent: names of cases that cannot be used.
        labels: that each usable case shows.
        patients: the group of each case; empty if there are none.
        asked: the groups are by the user's option, not noticed.
        images: names of cases that have one image.
        given: the user's division.
    """

    names: frozenset[str]
    absent: frozenset[str]
    labels: Mapping[str, Collection[str]]
    patients: Mapping[str, str]
    asked: bool
    images: Sequence[Sequence[str]]
    given: GivenSplit | None
    stack: bool

    @property
    def used(self) -> frozenset[str]:
        """The cases to divide, where the folds are made."""
        return self.names.difference(self.given.test if self.given else ())


def check_fold_options(run: Run, folder: Path, found: FoundDataset, options: Options) -> None:
    """Refuse groups, a division or numbers of folds that a new run's cases rule out by their names, before any case is read.

    Args:
        run: whose folds these would be; where there are some already, `decide_folds` checks the options.
        folder: of the dataset.
        found: what it holds; cases that prove unusable can only make the folds fewer.
        options: of the command.

    Raises:
        DatasetError: the groups cannot be determined, or the division cannot be used.
        NnsegError: there will be no fold of a number.
    """
    cases = tuple(case for case in found.cases if case.labels is not None)
    if Run.folds.path(run).exists() or not cases:
        return
    labels = found.declared or Labels(names=("background", "label"), values=(0, 1))
    dataset = Dataset(
        name=folder.name, folder=folder.absolute(), layout=found.layout, cases=cases, channels=(), labels=labels, suffix="",
        findings=found.findings,
    )  # fmt: skip
    groups = _find_groups(options.group_by, dataset)
    given = _find_split(options.split, dataset, frozenset(finding.case for finding in found.findings))
    names = {case.name for case in cases}.difference(given.test if given else ())
    folds = given.folds if given and given.folds else make_folds(names, groups=groups)
    select_folds(options.folds, len(_with_every_case(folds) if options.every_case else folds))


def decide_folds(
    run: Run,
    dataset: Dataset | None,
    fingerprint: Fingerprint,
    *,
    split: str = "auto",
    group_by: str | None = None,
    every_case: bool | None = None,
) -> tuple[Fold, ...]:
    """The run's folds: those on file if cases and options are the same, or if a person edited them; otherwise new ones, written.

    New ones are those of the user's division, if there is one: a file given as ``split``, the dataset's own, or nnU-Net's
    splits_final.json beside it. Cases in no fold are neither trained on nor held out. Logs what was used, and a warning for labels
    missing from a training part, for patients that are divided, and if no case is held out.

    Args:
        run: whose folds they are.
        dataset: for groups by names and paths; None for the dataset of the run.
        fingerprint: of the dataset: the usable cases, and the labels of each.
        split: a name of `SPLITS`, or the path of a file for `read_split`; "auto" for the option of the folds on file.
        group_by: as `read_groups` takes it, "none" for no groups, "auto" for patients that are noticed; None for the option of
            the folds on file.
        every_case: add a last fold that trains on all cases of the others; None for the option of the folds on file.

    Raises:
        DatasetError: the groups cannot be determined, or the user's division cannot be used.
        RunError: a case, or a group asked for, is both trained on and held out.
    """
    before = _previous_settings(run)
    settings = before.model_copy(
        update={
            "split": split_of_run(run, split),
            "group_by": _absolute(group_by, TABLES) if group_by else before.group_by,
            "every_case": before.every_case if every_case is None else every_case,
        }
    )
    known = _collect(run, dataset, fingerprint, settings)
    folds = _folds_on_file(run, known, before, settings)
    if folds is None:
        folds = known.given.folds if known.given and known.given.folds else _make(known, settings.split)
        folds = _with_every_case(folds) if settings.every_case else folds
        _write(run, folds, settings)
    _check_groups(Run.folds.path(run), folds, known)
    _log_unused(folds, known)
    for finding in (*_nothing_held_out(folds, known.patients), *missing_labels(folds, known.labels)):
        log.warning("%s: %s", finding.level, finding)
    return folds


def known_names(dataset: Dataset, fingerprint: Fingerprint) -> frozenset[str]:
    """The names of a dataset's cases, whether they can be used or not."""
    found = {case.name for case in dataset.cases} | {finding.case for finding in dataset.findings if finding.case}
    return frozenset(found | set(fingerprint.unusable))


def check_case_names(run: Run, folds: Sequence[Fold], known: frozenset[str]) -> None:
    """Check that the folds on file name known cases only, after an edit or an exchange of the file.

    Raises:
        RunError: names the others.
    """
    if unknown := _names(folds) - known:
        raise RunError(
            f"{Run.folds.path(run)} names {listed(unknown)}, not in the dataset; "
            "correct the names, or delete the file and repeat nnseg run"
        )


def patients_of_run(run: Run) -> Mapping[str, str]:
    """The patient, or the group that was asked for, of each case of a run; empty if none has several cases.

    Raises:
        DatasetError: the groups cannot be determined.
    """
    return _find_groups(_previous_settings(run).group_by, run.dataset)


def split_of_run(run: Run, split: str) -> str:
    """The division of cases that is asked for; for "auto" that of the folds on file."""
    return _previous_settings(run).split if split == "auto" else _absolute(split, SPLIT_FILES)


def _previous_settings(run: Run) -> FoldSettings:
    try:
        record = run.record
        former = {"split": (record.get("plan") or {}).get("split", "auto")}  # where earlier versions kept it
        return FoldSettings.model_validate(record.get("folds") or former)
    except ValidationError:
        return FoldSettings()


def _absolute(option: str, suffixes: Collection[str]) -> str:
    """The full path of a file, to find it from another working folder; anything else as it is."""
    return str(resolved(Path(option))) if Path(option).suffix.lower() in suffixes else option


def _collect(run: Run, dataset: Dataset | None, fingerprint: Fingerprint, settings: FoldSettings) -> _Known:
    dataset = dataset or (run.dataset if run.has_dataset else _stand_in(fingerprint))
    names = frozenset(case.name for case in fingerprint.cases)
    absent = known_names(dataset, fingerprint) - names
    asked = settings.group_by not in (None, "auto")
    given = _find_split(settings.split, dataset, absent)
    if given:
        log.info("%s", given.describe())
    return _Known(
        names=names,
        absent=absent,
        labels=find_labels(fingerprint),
        patients=_find_groups(settings.group_by, dataset),
        asked=asked,
        images=[[case.name for case in cases] for cases in same_images(fingerprint.cases)],
        given=given.without(absent) if given else None,
        stack=is_stack(fingerprint),
    )


def _stand_in(fingerprint: Fingerprint) -> Dataset:
    """A dataset of which only the names of cases are known."""
    cases = tuple(Case(name=case.name, images=()) for case in fingerprint.cases)
    return Dataset(
        name=fingerprint.dataset, folder=Path(fingerprint.dataset), layout=fingerprint.layout, cases=cases,
        channels=fingerprint.channels, labels=fingerprint.labels, suffix="",
    )  # fmt: skip


def _find_groups(group_by: str | None, dataset: Dataset) -> Mapping[str, str]:
    if group_by == "none":
        return {}
    if group_by not in (None, "auto"):
        return read_groups(group_by, dataset)
    patients = find_patients(dataset)
    if patients is None:
        return {}
    log.debug("%s", patients.message)  # a finding of the dataset says the same
    return patients.of


def _find_split(split: str, dataset: Dataset, absent: frozenset[str]) -> GivenSplit | None:
    """The user's division, which may name cases that cannot be used."""
    stated, beside = split_of_cases(dataset.cases), dataset.folder / SPLIT_FILE
    if Path(split).suffix.lower() in SPLIT_FILES:
        return read_split(Path(split), dataset.cases, unusable=absent)
    if split != "auto":
        return GivenSplit(folds=(), test=stated.test, source=stated.source) if stated and stated.test else None
    if stated is None and any(case.images for case in dataset.cases) and beside.is_file():
        return read_split(beside, dataset.cases, unusable=absent)
    return stated


def _folds_on_file(run: Run, known: _Known, before: FoldSettings, settings: FoldSettings) -> tuple[Fold, ...] | None:
    """The folds on file; None if there are none, or if they are nnseg's own and no longer what it would write."""
    path = Run.folds.path(run)
    if not path.exists():
        return None
    folds = tuple(run.folds.values())
    if not _is_ours(folds, known, before):
        return _keep_edited(run, folds, known, before, settings)
    given = known.given.folds if known.given else ()
    given = _with_every_case(given) if settings.every_case and given else given
    if settings != before and _only_every_case_differs(settings, before) and before.written:
        return None  # the others stay as they are
    if settings != before:
        log.warning("the options of the folds have changed: dividing the cases into folds again")
    elif before.written and _digest(folds) != before.written[-1]:
        log.debug("%s was not finished", path)
    elif given and folds != given:
        log.warning("the division of %s has changed: its folds are taken again", known.given.source if known.given else "")
    elif not given and _names(folds) != known.used:
        log.warning("the cases have changed: dividing them into folds again")
    else:
        return folds
    if not before.written:
        log.warning("the folds of an earlier version are kept as %s, in case they were edited", _copy(path))
    return None


def _is_ours(folds: tuple[Fold, ...], known: _Known, before: FoldSettings) -> bool:
    """True for folds that nnseg wrote; in runs of earlier versions, which did not record it, for those that it would make."""
    if before.written:
        return _digest(folds) in before.written
    names = [name for name in _names(folds) if name in known.labels]
    labels = {name: known.labels[name] for name in names}
    made = (
        make_folds(names, split=split, groups=groups, labels=labels)
        for split in ("random", "blocks")
        for groups in ({}, known.patients)
        if names
    )
    return len(names) < len(_names(folds)) or folds in made  # of cases that are gone, labels are not known


def _keep_edited(
    run: Run, folds: tuple[Fold, ...], known: _Known, before: FoldSettings, settings: FoldSettings
) -> tuple[Fold, ...] | None:
    """The folds of an edited file, without cases that cannot be used; None if another division was asked for.

    Raises:
        RunError: the file names what is no case.
    """
    path = Run.folds.path(run)
    if settings.split != before.split:
        log.warning("%s was edited, and --split now asks for another division: the edited file is kept as %s", path, _copy(path))
        return None
    check_case_names(run, folds, known.names | known.absent)
    log.info("the folds of %s were edited by hand and are kept", path)
    if missing := _names(folds) & known.absent:
        log.warning("%s cannot be used: taken out of %s; the file as it was is kept as %s", listed(missing), path, _copy(path))
        folds = GivenSplit(folds=folds, test=(), source="").without(missing).folds
        run.folds = dict(enumerate(folds))
    if settings.every_case and (more := _with_every_case(folds)) != folds:
        log.info("a fold of every case is added to %s; the file as it was is kept as %s", path, _copy(path))
        run.folds, folds = dict(enumerate(more)), more
    if settings != before:
        run.update_record(folds=settings.model_dump())
    return folds


def _make(known: _Known, split: str) -> tuple[Fold, ...]:
    """New folds of the usable cases, without the dataset's test cases."""
    if split not in ("random", "blocks") and (split == "auto" or Path(split).suffix.lower() in SPLIT_FILES):
        split = "blocks" if known.stack else "random"
        if split == "blocks" and not known.patients:
            log.info(
                "folds are blocks of neighbours, since cases look like numbered slices of one stack (--split random to shuffle)"
            )
    labels = {name: known.labels[name] for name in known.used}
    return make_folds(labels.keys(), split=split, groups=known.patients, labels=labels, together=known.images)


def _with_every_case(folds: tuple[Fold, ...]) -> tuple[Fold, ...]:
    """The folds and one that trains on all of their cases, unless one does already."""
    if any(not fold.held_out for fold in folds):
        return folds
    return (*folds, Fold(training=tuple(sorted(_names(folds))), held_out=()))


def _only_every_case_differs(settings: FoldSettings, before: FoldSettings) -> bool:
    return settings == before.model_copy(update={"every_case": settings.every_case})


def _write(run: Run, folds: tuple[Fold, ...], settings: FoldSettings) -> None:
    """Write folds, first their digest: if killed in between, they are made again."""
    written = [key for key in settings.written if key != _digest(folds)]
    run.update_record(folds=settings.model_copy(update={"written": (*written, _digest(folds))}).model_dump())
    run.folds = dict(enumerate(folds))


def _digest(folds: Sequence[Fold]) -> str:
    return digest([[list(fold.training), list(fold.held_out)] for fold in folds])


def _names(folds: Sequence[Fold]) -> frozenset[str]:
    return frozenset(name for fold in folds for name in (*fold.training, *fold.held_out))


def _copy(path: Path) -> str:
    """The name of a copy of a file, beside it, under a name that is free."""
    number = 1
    while (copy := path.with_name(f"{path.stem}.before-{number}{path.suffix}")).exists():
        number += 1
    write_text(copy, path.read_text(encoding="utf-8"))
    return copy.name


def _check_groups(file: Path, folds: tuple[Fold, ...], known: _Known) -> None:
    """Warn of a fold that trains on a patient or an image that it holds out, as after an edit of the file.

    Raises:
        RunError: the groups are those that the user asked for.
    """
    for number, fold in enumerate(folds):
        for groups, asked in ((known.patients, known.asked), (merge_groups(sorted(known.names), {}, known.images), False)):
            trained = {groups[name]: name for name in fold.training if name in groups}
            divided = [name for name in fold.held_out if groups.get(name) in trained]
            if not divided:
                continue
            name, group = divided[0], groups[divided[0]]
            found = f"{file}: fold {number} holds out case {name} and trains on case {trained[group]} of the same"
            if asked:
                raise RunError(f"{found} group ({group}); move one of them, or delete the file to have it made again")
            which = f"patient ({group})" if groups is known.patients else "image"
            more = f", and {len(divided) - 1} more like it" if len(divided) > 1 else ""
            log.warning("warning: %s %s%s: its scores will be too high; delete the file to have it made again", found, which, more)


def _log_unused(folds: tuple[Fold, ...], known: _Known) -> None:
    """A line about the cases that are in no fold."""
    if unused := known.names - _names(folds):
        log.info("%s in no fold: neither trained on nor held out (%s)", counted(len(unused), "case"), listed(unused))


def _nothing_held_out(folds: tuple[Fold, ...], groups: Mapping[str, str]) -> tuple[Finding, ...]:
    """A warning if no fold holds out a case."""
    if any(fold.held_out for fold in folds):
        return ()
    names = folds[0].training
    one_group = " of one group" if groups and len(names) > 1 and len({groups.get(name) for name in names}) == 1 else ""
    message = f"one model is trained on all cases ({counted(len(names), 'case')}{one_group}) and none is held out"
    return (Finding.of("NS-D032", f"{message}: its quality stays unknown; add cases to evaluate it"),)
