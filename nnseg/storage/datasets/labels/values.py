"""Labels by values: named by them or by a palette, numbers of objects, or masks that are not clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnseg.core.dataset import Finding, listed
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import OBJECT, LabelFiles, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.labels.colours import name_colours
from nnseg.storage.datasets.labels.legends import find_legend, read_palette
from nnseg.storage.datasets.labels.request import FEWEST_OBJECTS, LabelMeaning, Request, ShownLabels, full_value, no_label
from nnseg.storage.images.label_codings import is_background

MANY_VALUES = 256
"""More undeclared values than this in label maps are intensities, not labels."""

SCATTERED = 64
"""So many undeclared values whose components were not counted, because they lie all over the image, are no labels."""

SMALLEST = 4
"""Voxels that half of all objects have at least."""

SINGLE, GAPLESS = 0.9, 0.8
"""Label maps number objects if the largest has at least `FEWEST_OBJECTS` values, of all values this share is one connected
component, in this share of label maps the values are 1, 2, 3, ... almost without gaps, and their number differs between cases."""

NOISE_VALUES, NOISE_SHARE = 8, 1e-4
"""A mask of two values is not clean, rather than a label map, if it has at least so many values or at most this share of others."""


VOID = 255
"""What Pascal VOC, Cityscapes and others write where nothing was annotated."""

_VOID = Finding.of(
    "NS-D027",
    'the value 255 is learned as a label; if it marks what was not annotated, as in Pascal VOC, write "ignore": 255 '
    'among the "labels" of a dataset.json',
)


def name_values(request: Request) -> LabelMeaning:
    """Values are labels, unless they number objects or a mask is not clean."""
    declared = request.declared
    if declared is not None:
        if request.instances == declared.foreground[:1] and len(declared.values) == 2 and _has_others(request, declared):
            return _objects(request, declared, request.instances)
        return _declared(request, declared)
    _refuse_values(request)
    sets = {name: {int(v): n for (v,), n in shown.marks.items()} for name, shown in request.usable().items()}
    values = sorted({0}.union(*sets.values()))
    if len(values) < 2:
        raise no_label(request.folder, request.problems)
    if _number_objects(request.usable()):
        labels = Labels(names=("background", OBJECT), values=(0, 1))
        return _objects(request, labels, (OBJECT,))
    if unclean := _unclean(sets):
        return _binary(request, sets, unclean)
    palette = _merged(palettes := _palettes(request, sets))
    if palette is None:
        return _by_palette(request, palettes)
    if len(values) > MANY_VALUES:
        raise _too_many(request, sets, len(values))
    return _named_values(request, values, palette)


def _declared(request: Request, declared: Labels) -> LabelMeaning:
    """Declared labels, with values that are to be added; and masks of 0 and the highest number, where one label is declared."""
    findings = []
    if request.auto_labels and (added := _undeclared(request, declared)):
        declared = declared.with_values(tuple(added))
        text = ", ".join(f"{value} in {listed(names)}" for value, names in added.items())
        findings.append(Finding.of("NS-D036", f"values that dataset.json does not declare became labels: {text}"))
    sources = request.plain()
    if len(declared.values) == 2 and declared.values[0] == 0:
        masks = [name for name, shown in request.usable().items() if full_value(shown.marks) not in (None, *declared.values[1:])]
        values = {"0": declared.values[1]}
        sources |= {name: LabelFiles(paths=(request.path(name),), coding="masks", values=values) for name in masks}
        text = f"label maps are masks of 0 and 255 or 65535 in {listed(masks)}; they were taken as {declared.names[1]}"
        findings += [Finding.of("NS-L014", f"{text} ({declared.values[1]})")] if masks else []
    return LabelMeaning(labels=declared, sources=sources, instances=request.instances, findings=tuple(findings))


def _undeclared(request: Request, declared: Labels) -> dict[int, list[str]]:
    """The cases with each value from 0 that is not declared."""
    found: dict[int, list[str]] = {}
    for name, shown in request.usable().items():
        for (value,) in shown.marks:
            if int(value) >= 0 and int(value) not in (*declared.values, declared.ignore):
                found.setdefault(int(value), []).append(name)
    if len(found) > MANY_VALUES:
        sets = {name: {int(v): n for (v,), n in one.marks.items()} for name, one in request.usable().items()}
        raise _too_many(request, sets, len(found))
    return dict(sorted(found.items()))


def _refuse_values(request: Request) -> None:
    """Exclude label maps with negative values, and images in their place."""
    for name, shown in request.shown.items():
        if lowest := min(0, *(int(v) for (v,) in shown.marks)):
            advice = 'name it in a dataset.json (as "ignore" if those voxels were not annotated) or correct the file'
            request.refuse(name, f"has the negative label value {lowest}", "values from 0", advice, "NS-L005")
        elif len(shown.marks) >= SCATTERED and not shown.components:
            found = f"has {len(shown.marks)} values, each of them all over the image, as intensities are"
            request.refuse(name, found, "a label map", "check that it is one, or name the labels in a dataset.json")


def _too_many(request: Request, sets: Mapping[str, Mapping[int, int]], count: int) -> DatasetError:
    name = max(sets, key=lambda name: len(sets[name]))
    found = f"has label maps with {count} different values, {len(sets[name])} of them in {request.path(name).name}"
    advice = "check that these are label maps, or name the labels in a dataset.json"
    return DatasetError.at(request.folder, found, f"at most {MANY_VALUES}", advice)


def _named_values(request: Request, values: Sequence[int], palette: Mapping[int, str]) -> LabelMeaning:
    """Labels named by the colours of a palette, where a legend names all of them, or by their values."""
    legend = find_legend(request.legend_folders()) if palette else None
    names_of = {v: legend.names[palette[v]] for v in values[1:] if legend and palette.get(v) in legend.names}
    named = names_of if len(names_of) == len(values) - 1 and not any(map(is_background, names_of.values())) else {}
    foreground = ["foreground"] if len(values) == 2 else [f"label {v}" for v in values[1:]]
    names = ("background", *(named.get(v, name) for v, name in zip(values[1:], foreground, strict=True)))
    labels = Labels(names=names, values=tuple(values))
    text = ", ".join(f"{value} {name}" for name, value in labels.by_name.items())
    note = Finding.of("NS-D013", f"labels were taken from the label maps: {text}; a dataset.json can name them")
    inferred = (f"label names from {legend.below(request.folder)} by the colours of palettes",) if named and legend else ()
    findings = [*(() if named else (note,)), *([_VOID] if VOID in values and VOID > 2 * values[-2] > 0 else [])]
    return LabelMeaning(labels=labels, sources=request.plain(), findings=tuple(findings), inferred=inferred)


def _palettes(request: Request, sets: Mapping[str, Mapping[int, int]]) -> dict[str, dict[int, str]]:
    """The colour of each value that occurs, of label maps that are palette pictures; {} if the first is none."""
    found: dict[str, dict[int, str]] = {}
    for name, counts in sets.items():
        palette = read_palette(request.path(name))
        if not palette and not found:
            return {}
        found[name] = {v: palette[v] for v in counts if v in palette}
    return found


def _merged(palettes: Mapping[str, Mapping[int, str]]) -> dict[int, str] | None:
    """The one palette of all label maps; None if a value has several colours."""
    merged: dict[int, str] = {}
    for palette in palettes.values():
        for value, colour in palette.items():
            if merged.setdefault(value, colour) != colour:
                return None
    return merged


def _by_palette(request: Request, palettes: Mapping[str, Mapping[int, str]]) -> LabelMeaning:
    """Labels by colours, since the same value has different colours in different files."""
    shown = {}
    for name, one in request.usable().items():
        marks: Counter[tuple[str, ...]] = Counter()
        for (value,), voxels in one.marks.items():
            marks[(palettes[name].get(int(value), f"#{int(value):02x}{int(value):02x}{int(value):02x}"),)] += voxels
        shown[name] = replace(one, coding="colours", marks=marks)
    meaning = name_colours(replace(request, shown=shown))
    return replace(meaning, inferred=("palettes differ between label maps, so that colours count, not values", *meaning.inferred))


def _has_others(request: Request, declared: Labels) -> bool:
    known = {str(v) for v in declared.values} | {str(declared.ignore)}
    return any(v not in known for shown in request.shown.values() for (v,) in shown.marks)


def _number_objects(shown: Mapping[str, ShownLabels]) -> bool:
    """True if values number the objects of each label map. See `SINGLE` for the rule."""
    numbered = [[int(v) for (v,) in one.marks if v != "0"] for one in shown.values()]
    counts = [len(values) for values in numbered if values]
    parts = [n for one in shown.values() for n in one.components.values()]
    sizes = [one.marks[mark] for one in shown.values() for mark in one.components]
    if not parts or np.median(sizes) < SMALLEST or max(counts) < FEWEST_OBJECTS or np.mean(np.array(parts) == 1) < SINGLE:
        return False
    if len(set().union(*numbered)) > MANY_VALUES:
        return True
    gapless = [max(values) <= 1.25 * len(values) for values in numbered if values]
    return len(set(counts)) >= min(3, len(counts)) > 1 and float(np.mean(gapless)) >= GAPLESS


def _objects(request: Request, labels: Labels, instances: tuple[str, ...]) -> LabelMeaning:
    usable = request.usable()
    counts = [sum(v != "0" for (v,) in shown.marks) for shown in usable.values()]
    line = f"values number the objects of each label map ({min(counts)} to {max(counts)}): all are {labels.names[1]}"
    sources = {
        name: LabelFiles(paths=label_paths(request.cases[name].labels), coding="instances", values={OBJECT: labels.values[1]})
        for name in usable
    }
    return LabelMeaning(labels=labels, sources=sources, instances=instances, inferred=(line,))


def _unclean(sets: Mapping[str, Mapping[int, int]]) -> tuple[str, ...]:
    """The cases with a mask that has voxels between its two values, if all label maps are masks of the same two values."""
    tops = Counter(max(counts) for counts in sets.values() if max(counts))
    top = tops.most_common(1)[0][0]
    found = []
    for name, counts in sets.items():
        between = sum(n for v, n in counts.items() if v not in (0, top)) / sum(counts.values())
        if set(counts) <= {0, top}:
            continue
        noisy = len(counts) >= NOISE_VALUES and between <= 0.1 and any(0.75 * top < v < top for v in counts)
        if top < 128 or max(counts) > top or not (noisy or between <= NOISE_SHARE):
            return ()
        found.append(name)
    return tuple(found)


def _binary(request: Request, sets: Mapping[str, Mapping[int, int]], unclean: Sequence[str]) -> LabelMeaning:
    top = max(max(counts) for counts in sets.values())
    sources = request.plain()
    sources |= {name: LabelFiles(paths=(request.path(name),), coding="masks", values={"0": top}) for name in unclean}
    line = f"label maps are masks of 0 and {top}; {len(unclean)} with values between are divided at the half"
    return LabelMeaning(labels=Labels(names=("background", "foreground"), values=(0, top)), sources=sources, inferred=(line,))
