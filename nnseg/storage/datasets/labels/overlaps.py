"""Structures that overlap: regions where they do so by intent, nothing but noise where only a few voxels do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from nnseg.core.label_files import Marks, join_marks
from nnseg.core.labels import Labels, Region

NEGLIGIBLE = 0.01
"""Two structures that have less than this share of the smaller one's voxels in common do not overlap by intent."""


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """What voxels in several structures are.

    Args:
        labels: with a label and regions for each overlap by intent.
        values: label value of each overlap, by joined marks, by case.
        noise: lines about overlaps that count for the later structure alone.
        inferred: lines about regions.
    """

    labels: Labels
    values: Mapping[str, Mapping[str, int]]
    noise: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()


def find_overlaps(
    marks: Mapping[str, Marks], singles: Mapping[str, Mapping[str, int]], names: Mapping[int, str], *, declared: Labels | None
) -> Overlaps:
    """The overlaps in the label maps of a dataset.

    Args:
        marks: voxels of each mark, by case.
        singles: label value of each structure by its key in the marks, by case; 0 for the background.
        names: of label values.
        declared: labels, where they are known; with regions they stay as they are.
    """
    sets = {case: {mark: _values(mark, singles[case]) for mark in of_case} for case, of_case in marks.items()}
    total: Counter[tuple[int, ...]] = Counter()
    for case, of_case in marks.items():
        for mark, voxels in of_case.items():
            total[sets[case][mark]] += voxels
    noise = _negligible(total)
    kept = {values: _without(values, noise) for values in total}
    together = [values for values in dict.fromkeys(kept.values()) if len(values) > 1]
    base = declared or Labels(names=("background", *names.values()), values=(0, *names))
    labels, of_set = base, dict[tuple[int, ...], int]()
    if together and not base.regions:
        labels, of_set = _with_regions(base, together, {values[0] for values in kept.values() if len(values) == 1})
    of_set |= {(value,): value for value in labels.values} | {(): base.values[0]}
    values = {
        case: {join_marks(m): of_set[kept[v]] for m, v in of_case.items() if len(m) > 1 and kept[v] in of_set}
        for case, of_case in sets.items()
    }
    named = base.by_value
    inferred = (f"regions, since labels overlap: {', '.join(r.name for r in labels.regions)}",) if together else ()
    return Overlaps(labels=labels, values=values, noise=_describe_noise(noise, named), inferred=inferred)


def _describe_noise(noise: Mapping[tuple[int, int], int], named: Mapping[int, str]) -> tuple[str, ...]:
    lines = tuple(f"{named[a]} and {named[b]} overlap in {n} voxels, which count as {named[b]}" for (a, b), n in noise.items())
    if len(lines) <= 3:
        return lines
    return (f"{lines[0]}; {len(lines) - 1} more pairs of labels overlap in {sum(noise.values())} voxels in all",)


def _values(mark: Sequence[str], values: Mapping[str, int]) -> tuple[int, ...]:
    """Label values of a mark's structures, each once, the last one last."""
    found = [values[key] for key in mark if values.get(key)]
    return tuple(v for i, v in enumerate(found) if v not in found[i + 1 :])


def _negligible(total: Counter[tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """Voxels of each pair, in order, that overlaps by noise only."""
    sizes: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for values, voxels in total.items():
        sizes.update(dict.fromkeys(values, voxels))
        pairs.update(dict.fromkeys(combinations(values, 2), voxels))
    return {(a, b): n for (a, b), n in pairs.items() if n < NEGLIGIBLE * min(sizes[a], sizes[b])}


def _without(values: tuple[int, ...], noise: Mapping[tuple[int, int], int]) -> tuple[int, ...]:
    """The structures that count where these overlap: of a pair that overlaps by noise the later one."""
    return tuple(a for i, a in enumerate(values) if not any((a, b) in noise for b in values[i + 1 :]))


def _with_regions(
    base: Labels, together: Sequence[tuple[int, ...]], alone: Collection[int]
) -> tuple[Labels, dict[tuple[int, ...], int]]:
    """Labels with one region for each structure and a value for each overlap, and the values of overlaps.

    A structure that lies within others everywhere gives its value to the overlap; other overlaps get new values.

    Args:
        alone: values of structures that occur without another.
    """
    named = base.by_value
    free = [value for value in base.values[1:] if value not in alone]
    of_set: dict[tuple[int, ...], int] = {}
    for values in sorted(together, key=len):
        own = next((v for v in reversed(values) if v in free), None)
        if own is None:
            own = max(*base.values, *of_set.values(), base.ignore or 0) + 1
            named[own] = join_marks([named[v] for v in values])
        else:
            free.remove(own)
        of_set[values] = own
    regions = []
    for value in base.values[1:]:
        covered = [own for values, own in of_set.items() if value in values]
        if value in alone or not covered:
            covered.insert(0, value)
        paint = value if value in covered else covered[0]
        regions.append(Region(name=named[value], values=tuple(dict.fromkeys(covered)), paint=paint))
    ordered = tuple(sorted(regions, key=lambda region: -len(region.values)))
    values_of = (*base.values, *(v for v in named if v not in base.values))
    labels = Labels(names=tuple(named[v] for v in values_of), values=values_of, ignore=base.ignore, regions=ordered)
    return labels, of_set
