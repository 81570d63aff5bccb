"""Division of the cases into folds: random or in blocks, by groups, stratified by label."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import Finding, Fold, listed
from nnseg.core.fingerprint import Fingerprint

Units = Sequence[Sequence[str]]
"""Names of cases that stay together, in the order of the first of each."""


def make_folds(
    names: Collection[str],
    *,
    count: int = 5,
    seed: int = 12345,
    split: str = "random",
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, Collection[str]] | None = None,
    together: Sequence[Collection[str]] = (),
) -> tuple[Fold, ...]:
    """The folds of some cases: each case is held out in one fold, together with its whole group.

    With the default seed the folds are nnU-Net's (scikit-learn's shuffled KFold over sorted names), so that both can be compared
    case by case, unless there are groups of several cases or a label would be missing from a training part. With fewer cases or
    groups than folds each is held out alone; a single one is only trained on.

    Args:
        names: of all cases.
        count: number of folds.
        seed: of the shuffle.
        split: the order in `SPLITS` from which consecutive cases share a fold; groups of cases are always shuffled.
        groups: the group of each case, for instance its patient; a group is never divided.
        labels: the labels present in each case; every training part gets all of them if possible, when shuffled.
        together: further sets of cases that are not divided, such as those of one image; they are shuffled only if others are.
    """
    ordered, split = sorted(names), "random" if groups else split
    units = _group_cases(ordered, merge_groups(ordered, groups or {}, together))
    if len(units) == 1:
        return (Fold(training=tuple(ordered), held_out=()),)
    sizes, count, order = [len(unit) for unit in units], min(count, len(units)), SPLITS[split](units, seed)
    balanced = max(sizes) > 1 and split == "random"
    fold_of_unit = _balance(sizes, order.tolist(), count) if balanced else _split_evenly(order, count)
    if labels and split == "random":
        fold_of_unit = _spread_labels(fold_of_unit, sizes, _units_of_labels(units, labels))
    fold_of = {name: fold for unit, fold in zip(units, fold_of_unit, strict=True) for name in unit}
    return tuple(
        Fold(training=tuple(n for n in ordered if fold_of[n] != i), held_out=tuple(n for n in ordered if fold_of[n] == i))
        for i in range(count)
    )


def missing_labels(folds: Sequence[Fold], labels: Mapping[str, Collection[str]]) -> tuple[Finding, ...]:
    """A warning for each label that is in none of the training cases of a fold.

    Args:
        folds: to be checked.
        labels: the labels present in each case.
    """
    findings = []
    for number, fold in enumerate(folds):
        seen = {label for name in fold.training for label in labels[name]}
        for label in sorted({label for shown in labels.values() for label in shown} - seen):
            cases = [name for name in sorted(labels) if label in labels[name]]
            left = "holds out" if set(cases) <= set(fold.held_out) else "does not train on"
            message = f"label {label} occurs only in {listed(cases)}, which fold {number} {left}: that fold cannot learn it"
            findings.append(Finding.of("NS-D031", f"{message}; add cases with it"))
    return tuple(findings)


def merge_groups(names: Sequence[str], groups: Mapping[str, str], more: Sequence[Collection[str]]) -> dict[str, str]:
    """The group of each case, where groups with a case in one of some further sets become one; {} without groups and sets.

    Args:
        names: of all cases.
        groups: the group of each case; a case without one stands alone.
        more: sets of cases that stay together too.
    """
    if not groups and not more:
        return {}
    merged = {name: groups.get(name, name) for name in names}
    for together in more:
        joined = {merged[name] for name in together if name in merged}
        merged = {name: min(joined) if group in joined else group for name, group in merged.items()}
    return merged


def _group_cases(ordered: Sequence[str], groups: Mapping[str, str]) -> list[list[str]]:
    """The units that stay together: the cases of each group, or single cases; in the order of their first names."""
    units: dict[str, list[str]] = {}
    for name in ordered:
        units.setdefault(groups[name] if groups else name, []).append(name)
    return list(units.values())


def _split_evenly(order: npt.NDArray[np.int_], count: int) -> list[int]:
    """The fold of each unit: consecutive units of the order share a fold."""
    folds = np.empty_like(order)
    for fold, part in enumerate(np.array_split(order, count)):
        folds[part] = fold
    return [int(fold) for fold in folds]


def _balance(sizes: Sequence[int], order: Sequence[int], count: int) -> list[int]:
    """The fold of each unit: the largest unit first, each into the fold with fewest cases; equal sizes in the given order."""
    folds, filled = [0] * len(sizes), [0] * count
    for unit in sorted(order, key=lambda unit: -sizes[unit]):
        folds[unit] = filled.index(min(filled))
        filled[folds[unit]] += sizes[unit]
    return folds


def _units_of_labels(units: Sequence[Sequence[str]], labels: Mapping[str, Collection[str]]) -> list[list[int]]:
    """The numbers of the units with each label, for labels of several units: only these can be both trained on and held out."""
    found: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        for label in sorted({label for name in unit for label in labels[name]}):
            found.setdefault(label, []).append(i)
    return [numbers for _, numbers in sorted(found.items()) if len(numbers) > 1]


def _spread_labels(folds: Sequence[int], sizes: Sequence[int], units_of_labels: Sequence[Sequence[int]]) -> list[int]:
    """The fold of each unit, changed as little as possible so that no label has all its units in one fold.

    Greedy: each step takes the change that leaves fewest such labels, and among equals the one that alters the sizes of the folds
    least. Four labels in five folds can always be spread; with many the search may end early, see `missing_labels`.
    """
    folds = list(folds)
    wanted = np.bincount(folds, sizes)

    def cost(candidate: Sequence[int]) -> tuple[int, float]:
        return len(_confined(candidate, units_of_labels)), float(np.abs(np.bincount(candidate, sizes) - wanted).sum())

    while confined := _confined(folds, units_of_labels):
        changes = (min(_changes(folds, units), key=cost, default=folds) for units in confined)
        better = next((changed for changed in changes if cost(changed)[0] < len(confined)), None)
        if better is None:
            break
        folds = better
    return folds


def _confined(folds: Sequence[int], units_of_labels: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The units of each label that is in one fold only, and thus missing from its training part."""
    return [units for units in units_of_labels if len({folds[unit] for unit in units}) == 1]


def _changes(folds: Sequence[int], units: Sequence[int]) -> Iterator[list[int]]:
    """All ways to swap one of some units with a unit of another fold, or to move it there unless its own fold would be empty."""
    for unit in units:
        own = folds[unit]
        swaps = [{unit: fold, other: own} for other, fold in enumerate(folds) if fold != own]
        moves = [{unit: fold} for fold in sorted(set(folds) - {own})] if folds.count(own) > 1 else []
        for change in (*swaps, *moves):
            yield [change.get(number, fold) for number, fold in enumerate(folds)]


def find_labels(fingerprint: Fingerprint) -> dict[str, frozenset[str]]:
    """The foreground labels, or regions, that are present in each case, by the case's name."""
    parts = fingerprint.labels.parts()
    return {
        case.name: frozenset(head for head, names in parts.items() if any(case.voxels.get(name) for name in names))
        for case in fingerprint.cases
    }


def is_stack(fingerprint: Fingerprint) -> bool:
    """True for 2D images whose names differ only by a number: most likely slices of one volume."""
    names = [re.fullmatch(r"(.*?)(\d+)", case.name) for case in fingerprint.cases]
    stems = {m.group(1) for m in names if m}
    return len(names) > 1 and all(names) and len(stems) == 1 and all(case.shape[0] == 1 for case in fingerprint.cases)


def shuffle(units: Units, seed: int) -> npt.NDArray[np.int_]:
    """A random order, as scikit-learn's KFold draws it."""
    order = np.arange(len(units))
    np.random.RandomState(seed).shuffle(order)
    return order


def keep_order(units: Units, _: int) -> npt.NDArray[np.int_]:
    """The order of names, so that neighbours share a fold: for slices of one stack."""
    return np.arange(len(units))


SPLITS: dict[str, Callable[[Units, int], npt.NDArray[np.int_]]] = {"random": shuffle, "blocks": keep_order}
"""Orders (units, seed) -> indices, by their name in `nnseg.core.options.Split`; "auto" is one of them, by the fingerprint."""
