"""What predictions and references show where nobody says it: the names on record, and all names and values found, matched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nnseg.core.dataset import list_some
from nnseg.core.errors import EvaluationError
from nnseg.core.label_files import LabelFiles, LabelSource, label_paths
from nnseg.core.labels import Labels, Region
from nnseg.evaluation.label_folder import LabelFolder
from nnseg.evaluation.shown_labels import Named, Side, by_plain_name, look_at, plain

MOST_NAMED = 6
"""Labels named in a note."""


@dataclass(frozen=True, kw_only=True)
class Legend:
    """What the label maps of predictions and references show.

    Args:
        labels: of both.
        predictions, references: label maps by case, read so that voxels have the values of the labels.
        instances: labels whose values were numbers of objects.
        failed: why the label map of a case cannot be used.
        notes: how that was concluded, in one line each.
    """

    labels: Labels
    predictions: Mapping[str, LabelSource]
    references: Mapping[str, LabelSource]
    instances: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_legend(predictions: LabelFolder, references: LabelFolder, declared: Labels | None = None, *, workers: int = 0) -> Legend:
    """The labels of two folders: those declared or on record, and all that either folder shows besides.

    Args:
        predictions, references: of the same cases.
        declared: the labels, if they are known; only these are then allowed.
        workers: processes that read label maps.

    Raises:
        EvaluationError: a folder holds scans, or nothing but background; or what one shows cannot be matched with the other.
        DatasetError: the label maps of a folder cannot be understood.
    """
    left_out: list[str] = []
    if declared:
        (predictions, *without), (references, *more) = (_only_declared(folder, declared) for folder in (predictions, references))
        left_out = [note for note in (*without, *more) if note]
    known = declared or _on_record(predictions, references)
    made, given = (look_at(folder, declared or folder.labels, known, workers) for folder in (predictions, references))
    if not declared and not given.shows_labels:
        raise EvaluationError(f"no reference in {references.path} has any label but background (0)")
    labels = declared or _all_labels(made, given, known)
    notes = [] if declared else [_source_of(labels, (references, predictions)), *_differences(made, given, labels)]
    return Legend(
        labels=labels,
        predictions=made.coded(labels),
        references=given.coded(labels),
        instances=()
        if declared
        else tuple(dict.fromkeys(n for side in (given, made) for n in side.objects if n in labels.foreground)),
        failed=given.failed | made.failed,
        notes=(*left_out, *given.inferred, *made.inferred, *notes),
    )


def _only_declared(folder: LabelFolder, declared: Labels) -> tuple[LabelFolder, str]:
    """The folder without masks of labels that are not declared, and a line that names these, or "".

    Raises:
        EvaluationError: a case has no other masks.
    """
    known = by_plain_name(declared)
    others = sorted({mask for masks in folder.masks.values() for mask in masks if plain(mask) not in known})
    if not others:
        return folder, ""
    files, masks = dict(folder.files), dict[str, tuple[str, ...]]()
    for case, names in folder.masks.items():
        kept = [(name, path) for name, path in zip(names, label_paths(folder.files[case]), strict=True) if plain(name) in known]
        if not kept:
            found = f"{folder.path} has masks of {list_some(names, MOST_NAMED)} for {case}"
            expected = ", ".join(declared.names[1:])
            raise EvaluationError(f"{found}; the labels are {expected}; rename the files by these, or leave out --labels")
        masks[case] = tuple(name for name, _ in kept)
        files[case] = LabelFiles(paths=tuple(path for _, path in kept), coding="masks")
    note = f"{folder.path}: masks of {list_some(others, MOST_NAMED)} are left out, since --labels declares no such labels"
    return replace(folder, files=files, masks=masks), note


def _on_record(predictions: LabelFolder, references: LabelFolder) -> Labels | None:
    """The labels that the folders' files name: those of the references first, with regions of either.

    Raises:
        EvaluationError: the folders name one value differently, or give one name two values.
    """
    given, made = references.labels, predictions.labels
    if given is None or made is None:
        return given or made
    meaning = dict(zip(given.values, map(plain, given.names), strict=True)) | (
        {given.ignore: ""} if given.ignore is not None else {}
    )
    for value, name in [*made.by_value.items(), *([(made.ignore, "")] if made.ignore is not None else [])]:
        others = [other for other, key in meaning.items() if key == plain(name) and value != made.values[0]]
        if meaning.get(value, plain(name)) != plain(name) or any(other != value for other in others):
            other = f"{value} is {_meaning(given, value)}" if value in meaning else f"{name or 'the ignore value'} is {others[0]}"
            found = f"{value} is {_meaning(made, value)} by {predictions.named_by}, but {other} by {references.named_by}"
            raise EvaluationError(f"{found}; correct one of them, or say with --labels what the values of both mean")
    whole = given.model_copy(update={"ignore": given.ignore if given.ignore is not None else made.ignore})
    if made.regions and not given.regions:
        whole = whole.model_copy(update={"regions": made.regions})
    return _extended(whole, {v: name for v, name in made.by_value.items() if v not in given.values})


def _meaning(labels: Labels, value: int | None) -> str:
    return "the ignore value" if value == labels.ignore else labels.by_value[value or 0]


def _all_labels(made: Side, given: Side, known: Labels | None) -> Labels:
    """The known labels, and those that predictions or references show besides.

    Raises:
        EvaluationError: what one shows cannot be matched with what the other shows.
    """
    only = [side.only for side in (made, given) if side.only is not None]
    if known and len(known.values) == 2 and any(value not in known.values for value in only):
        return known
    if not known and len(set(only)) == 2:
        return Labels(names=("background", "foreground"), values=(0, only[1]))
    named, taken = by_plain_name(known) if known else {}, set(known.values) if known else {0}
    names = {key: name for key, name in _merged(made.names, given.names).items() if key not in named}
    values = (made.values | given.values) - taken
    more = _numbered(names, values, taken)
    labels = _extended(known, dict(sorted((more | {v: f"label {v}" for v in values - set(more)}).items())))
    if made.of(labels) and not made.of(labels) & given.of(labels):
        shown = " and references ".join(_listed(labels, side.of(labels)) for side in (made, given))
        raise EvaluationError(f"predictions show {shown}, and nothing in common; name the values of both with --labels")
    return _with_regions(labels, [side for side in (given, made) if side.labels])


def _with_regions(labels: Labels, sides: Sequence[Side]) -> Labels:
    """The labels with the regions of structures that overlap on either side, if there are any."""
    if labels.regions or not any(side.labels and side.labels.regions for side in sides):
        return labels
    found: dict[str, tuple[str, dict[int, None]]] = {}
    for side in sides:
        assert side.labels is not None
        targets = side.targets(labels)
        own = side.labels.regions or [Region(name=n, values=(v,), paint=v) for n, v in side.labels.named.items()]
        for region in own:
            found.setdefault(plain(region.name), (region.name, {}))[1].update(dict.fromkeys(targets[v] for v in region.values))
    regions = [Region(name=name, values=tuple(values), paint=next(iter(values))) for name, values in found.values()]
    return labels.model_copy(update={"regions": tuple(sorted(regions, key=lambda region: -len(region.values)))})


def _merged(*sides: Mapping[str, Named]) -> dict[str, Named]:
    found: dict[str, Named] = {}
    for key, (name, values) in (item for side in sides for item in side.items()):
        found[key] = name, values | found.get(key, (name, frozenset()))[1]
    return found


def _numbered(names: Mapping[str, Named], values: Collection[int], taken: Collection[int]) -> dict[int, str]:
    """Names by value: that which headers agree on if it is free, else the next free one.

    Args:
        values: that other label maps show without a name.
        taken: values of other labels.

    Raises:
        EvaluationError: names without a value may be those of values without a name.
    """
    counts = Counter(value for _, headers in names.values() for value in headers)
    agreed = {key: min(of) if len(of) == 1 and counts[min(of)] == 1 else None for key, (_, of) in names.items()}
    if len(names) == len(values) == 1:
        agreed = dict.fromkeys(names, min(values))
    elif values and None in agreed.values():
        without, shown = ", ".join(names[key][0] for key, v in agreed.items() if v is None), ", ".join(map(str, sorted(values)))
        raise EvaluationError(f"nothing says which of the values {shown} are {without}; say it with --labels or in a dataset.json")
    found: dict[int, str] = {}
    for key, (name, _) in names.items():
        value, used = agreed[key], {*taken, *found}
        found[next(v for v in range(len(used) + 1) if v not in used) if value is None or value in used else value] = name
    return found


def _extended(labels: Labels | None, more: Mapping[int, str]) -> Labels:
    """Labels with further ones, by value, each a region of its own where there are regions."""
    if labels is None:
        return Labels(names=("background", *more.values()), values=(0, *more))
    regions = [Region(name=name, values=(value,), paint=value) for value, name in more.items()] if labels.regions else []
    return Labels(
        names=(*labels.names, *more.values()),
        values=(*labels.values, *more),
        ignore=labels.ignore,
        regions=(*labels.regions, *regions),
    )


def _source_of(labels: Labels, folders: Iterable[LabelFolder]) -> str:
    by = list(dict.fromkeys(folder.named_by for folder in folders if folder.labels))
    how = f"by {' and '.join(by)}" if by else "found in the label maps"
    return f"labels {how}: {labels.describe()}" + ("" if by else "; --labels or a dataset.json can name them")


def _differences(made: Side, given: Side, labels: Labels) -> list[str]:
    """What predictions and references do not both show, as far as it changes the scores."""
    values = [side.only if side.only is not None else labels.values[1] for side in (made, given)]
    if len(labels.values) == 2 and made.shows_labels and values[0] != values[1]:
        return [f"predictions have the value {values[0]}, references {values[1]}: both are taken for {labels.names[1]}"]
    missing = [value for value in labels.values[1:] if value not in given.of(labels) and value in made.of(labels)]
    return [f"no reference shows {_listed(labels, missing)}: all that is predicted of it is false positive"] if missing else []


def _listed(labels: Labels, values: Iterable[int]) -> str:
    wanted = set(values)
    names = [f"{name} ({value})" for name, value in labels.by_name.items() if value in wanted]
    return list_some(names, MOST_NAMED)
