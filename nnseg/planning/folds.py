"""Which cases are held out in which fold: random or blocked, grouped, stratified by label; kept once written."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from nnseg.core.dataset import Dataset, Finding, Fold, counted, listed
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.frozen import FrozenModel
from nnseg.core.options import Split
from nnseg.storage.datasets.groups import TABLES, find_subjects, read_groups
from nnseg.storage.run import Run


def make_folds(
    names: Collection[str],
    *,
    count: int = 5,
    seed: int = 12345,
    blocks: bool = False,
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, Collection[str]] | None = None,
) -> tuple[Fold, ...]:
    """Divide cases into folds so that each is held out once, and with it every case of its group.

    With the default seed the folds are nnU-Net's (scikit-learn's shuffled KFold over sorted names), so that both tools can be
    compared case by case; groups of several cases, and labels that a training part would lack, are the reasons to deviate.
    Fewer cases or groups than folds give leave-one-out; a single one trains without held-out cases.

    Args:
        names: of all cases.
        count: folds wanted.
        seed: of the shuffle.
        blocks: keep neighbours in name order together instead of shuffling: for slices of one stack. Groups have precedence.
        groups: the group of each case, its patient for instance; a group is never divided.
        labels: the labels that each case shows; every training part shows all of them if that can be, except with blocks.
    """
    ordered = sorted(names)
    units = _units(ordered, groups or {})
    if len(units) == 1:
        return (Fold(training=tuple(ordered), held_out=()),)
    sizes, count, blocks = [len(unit) for unit in units], min(count, len(units)), blocks and not groups
    order = np.arange(len(units))
    if not blocks:
        np.random.RandomState(seed).shuffle(order)
    places = _balanced(sizes, order.tolist(), count) if max(sizes) > 1 else _even(order, count)
    if labels and not blocks:
        places = _repaired(places, sizes, _carriers(units, labels))
    fold_of = {name: place for unit, place in zip(units, places, strict=True) for name in unit}
    return tuple(
        Fold(training=tuple(n for n in ordered if fold_of[n] != i), held_out=tuple(n for n in ordered if fold_of[n] == i))
        for i in range(count)
    )


def missing_labels(folds: Sequence[Fold], labels: Mapping[str, Collection[str]]) -> tuple[Finding, ...]:
    """A warning for each label that a fold cannot learn, because none of its training cases shows it.

    Args:
        folds: to be checked.
        labels: the labels that each case shows.
    """
    findings = []
    for number, fold in enumerate(folds):
        seen = {label for name in fold.training for label in labels[name]}
        for label in sorted({label for shown in labels.values() for label in shown} - seen):
            cases = [name for name in sorted(labels) if label in labels[name]]
            left = "holds out" if set(cases) <= set(fold.held_out) else "does not train on"
            message = f"label {label} occurs only in {listed(cases)}, which fold {number} {left}: that fold cannot learn it"
            findings.append(Finding(level="warning", message=f"{message}; add cases that show it"))
    return tuple(findings)


def _units(ordered: Sequence[str], groups: Mapping[str, str]) -> list[list[str]]:
    """Cases that stay together: those of each group, or each alone; in the order of their first names."""
    units: dict[str, list[str]] = {}
    for name in ordered:
        units.setdefault(groups[name] if groups else name, []).append(name)
    return list(units.values())


def _even(order: npt.NDArray[np.int_], count: int) -> list[int]:
    """The fold of each unit of one case: neighbours in the given order share one."""
    places = np.empty_like(order)
    for fold, part in enumerate(np.array_split(order, count)):
        places[part] = fold
    return [int(place) for place in places]


def _balanced(sizes: Sequence[int], order: Sequence[int], count: int) -> list[int]:
    """The fold of each unit: the largest goes first, into the fold with the fewest cases; among equals the order decides."""
    places, filled = [0] * len(sizes), [0] * count
    for unit in sorted(order, key=lambda unit: -sizes[unit]):
        places[unit] = filled.index(min(filled))
        filled[places[unit]] += sizes[unit]
    return places


def _carriers(units: Sequence[Sequence[str]], labels: Mapping[str, Collection[str]]) -> list[list[int]]:
    """The units that show each label, for labels that can be both trained on and held out: those of several units."""
    carriers: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        for label in sorted({label for name in unit for label in labels[name]}):
            carriers.setdefault(label, []).append(i)
    return [found for _, found in sorted(carriers.items()) if len(found) > 1]


def _repaired(places: Sequence[int], sizes: Sequence[int], carriers: Sequence[Sequence[int]]) -> list[int]:
    """The fold of each unit, changed as little as it takes for no label's carriers to be all in one fold.

    Step by step a label is mended by the change that leaves fewest such labels, then the one that alters the folds' sizes least.
    Four labels in five folds can always be mended; with many the search may end early, and `missing_labels` names what is left.
    """
    places = list(places)
    wanted = np.bincount(places, sizes)

    def cost(candidate: Sequence[int]) -> tuple[int, float]:
        return len(_gathered(candidate, carriers)), float(np.abs(np.bincount(candidate, sizes) - wanted).sum())

    while gathered := _gathered(places, carriers):
        changes = (min(_changes(places, found), key=cost, default=places) for found in gathered)
        better = next((changed for changed in changes if cost(changed)[0] < len(gathered)), None)
        if better is None:
            break
        places = better
    return places


def _gathered(places: Sequence[int], carriers: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Those carriers of a label that are all in one fold, whose training part therefore lacks it."""
    return [found for found in carriers if all(places[unit] == places[found[0]] for unit in found)]


def _changes(places: Sequence[int], movers: Sequence[int]) -> Iterator[list[int]]:
    """All ways to let one of the movers change places with a unit of another fold, or go there and leave others behind."""
    for unit in movers:
        for other, fold in enumerate(places):
            if fold != places[unit]:
                changed = list(places)
                changed[unit], changed[other] = fold, places[unit]
                yield changed
        for fold in sorted(set(places) - {places[unit]}):
            if places.count(places[unit]) > 1:
                changed = list(places)
                changed[unit] = fold
                yield changed


log = logging.getLogger(__name__)


class FoldSettings(FrozenModel):
    """How a run's cases were asked to be divided; in the run's record.

    Args:
        split: shuffled or in blocks.
        group_by: what keeps cases together, as `read_groups` takes it; None for the subjects of BIDS names, if there are any.
    """

    split: Split = "auto"
    group_by: str | None = None


def decide_folds(
    run: Run, dataset: Dataset | None, fingerprint: Fingerprint, *, split: Split = "auto", group_by: str | None = None
) -> tuple[Fold, ...]:
    """The run's folds: those on file if they divide the usable cases as asked for, else made anew and written.

    What a fold cannot learn, and that nothing is held out, is logged as a warning.

    Args:
        run: whose folds they are.
        dataset: whose names and paths may tell groups; None for the one that the run was made from.
        fingerprint: of the dataset: the usable cases, and the labels that each shows.
        split: "auto" for what was asked for before.
        group_by: as `read_groups` takes it; None for what was asked for before.

    Raises:
        DatasetError: the groups asked for cannot be told.
        RunError: the folds on file leak: a case or a group is both trained on and held out.
    """
    before = _asked_before(run)
    asked = FoldSettings(split=before.split if split == "auto" else split, group_by=_absolute(group_by) or before.group_by)
    groups = _groups(asked.group_by, dataset or _known_dataset(run))
    labels = find_labels(fingerprint)
    folds = _folds_on_file(run, fingerprint, changed=asked != before)
    if folds is None:
        blocks = not groups and (asked.split == "blocks" or (asked.split == "auto" and _is_a_stack(fingerprint)))
        if blocks:
            log.info("folds are blocks of neighbours, as for numbered slices of one stack (--split random to shuffle)")
        folds = make_folds(labels.keys(), blocks=blocks, groups=groups, labels=labels)
        run.folds = dict(enumerate(folds))
        run.update_record(folds=asked.model_dump())  # after the file, so that a kill between leaves no unmet request
    _refuse_divided(Run.folds.path(run), folds, groups)
    for finding in (*_nothing_held_out(folds, groups), *missing_labels(folds, labels)):
        log.warning("%s: %s", finding.level, finding)
    return folds


def find_labels(fingerprint: Fingerprint) -> dict[str, frozenset[str]]:
    """What each case shows of that which the network has to learn: labels without the background, or regions."""
    labels = fingerprint.labels
    heads = [(head, covered) for head, covered in zip(labels.heads, labels.members(), strict=True) if head in labels.foreground]
    parts = {head: [name for name, inside in zip(labels.names, covered, strict=True) if inside] for head, covered in heads}
    return {
        case.name: frozenset(head for head, names in parts.items() if any(case.voxels.get(name) for name in names))
        for case in fingerprint.cases
    }


def _asked_before(run: Run) -> FoldSettings:
    try:
        record = run.record
        former = {"split": (record.get("plan") or {}).get("split", "auto")}  # where earlier versions kept it
        return FoldSettings.model_validate(record.get("folds") or former)
    except ValidationError:
        return FoldSettings()


def _absolute(group_by: str | None) -> str | None:
    """A table by its full path, so that it is found again from another working folder; else as it is."""
    return str(Path(group_by).resolve()) if group_by and Path(group_by).suffix.lower() in TABLES else group_by


def _known_dataset(run: Run) -> Dataset | None:
    """The dataset that the run was made from; None if it was planned from a fingerprint alone."""
    return run.dataset if Run.dataset.path(run).exists() else None


def _groups(group_by: str | None, dataset: Dataset | None) -> dict[str, str]:
    if dataset is None:
        return {}
    if group_by is not None:
        return read_groups(group_by, dataset)
    subjects = find_subjects(dataset)
    if subjects:
        log.info('cases of one subject stay together, as BIDS names tell (--group-by "(.+)" to take each case for itself)')
    return subjects


def _folds_on_file(run: Run, fingerprint: Fingerprint, *, changed: bool) -> tuple[Fold, ...] | None:
    """Those on file, if they divide the usable cases and nothing else was asked for since."""
    if not Run.folds.path(run).exists():
        return None
    if changed:
        log.warning("another division of the cases is asked for than before: dividing them into folds anew")
        return None
    folds = tuple(run.folds.values())
    if {n for f in folds for n in (*f.training, *f.held_out)} != {case.name for case in fingerprint.cases}:
        log.warning("the cases have changed: dividing them into folds anew")
        return None
    return folds


def _refuse_divided(file: Path, folds: tuple[Fold, ...], groups: Mapping[str, str]) -> None:
    """Nothing if no fold trains on a group that it holds out; an edit, or another table of groups, may have brought that about."""
    for number, fold in enumerate(folds):
        trained = {groups[name]: name for name in fold.training if name in groups}
        for name in fold.held_out:
            if name in groups and groups[name] in trained:
                raise RunError(
                    f"{file}: fold {number} holds out case {name} and trains on case {trained[groups[name]]} of the same group "
                    f"({groups[name]}); move one of them, or delete the file to have it made anew"
                )


def _nothing_held_out(folds: tuple[Fold, ...], groups: Mapping[str, str]) -> tuple[Finding, ...]:
    """A warning if every case is trained on in every fold."""
    if any(fold.held_out for fold in folds):
        return ()
    names = folds[0].training
    one_group = " of one group" if groups and len(names) > 1 and len({groups.get(name) for name in names}) == 1 else ""
    message = f"one model is trained on all there is ({counted(len(names), 'case')}{one_group}) and nothing is held out"
    return (Finding(level="warning", message=f"{message}: nothing will tell how good it is; add cases to have it scored"),)


def _is_a_stack(fingerprint: Fingerprint) -> bool:
    """2D images whose names differ only by a running number are most likely neighbours in one volume."""
    names = [re.fullmatch(r"(.*?)(\d+)", case.name) for case in fingerprint.cases]
    stems = {m.group(1) for m in names if m}
    return len(names) > 1 and all(names) and len(stems) == 1 and all(case.shape[0] == 1 for case in fingerprint.cases)
