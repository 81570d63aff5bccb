"""``dataset.json`` as the Medical Segmentation Decathlon and nnU-Net write it, with the keys of either."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnseg.core.errors import DatasetError
from nnseg.core.labels import Labels, Region
from nnseg.core.limits import check_limit
from nnseg.storage.bounded import parse_json, read_text
from nnseg.storage.datasets.parts import PARTS

DESCRIPTION = "dataset.json"
"""Name of the file."""

ANNOTATED_KEY = "annotated_labels"

ABOUT = {
    "description": ("description",),
    "licence": ("licence", "license"),
    "reference": ("reference",),
    "release": ("release", "relase"),  # the Decathlon's own spelling
}
"""What `Description.about` holds, and the keys that hold it."""

LONGEST_ABOUT = 500
"""Characters of each that are kept."""

LISTS = ("training", "validation", "testing", "test")
"""Keys of lists of cases, each of a part of a split."""

DECATHLON, NNUNET = "Medical Segmentation Decathlon layout", "nnU-Net raw layout (with a table of files)"
"""Layouts whose dataset.json lists the cases."""


@dataclass(frozen=True, kw_only=True)
class CaseEntry:
    """One case as dataset.json lists it.

    Args:
        images: as listed; not checked to exist.
        labels: as listed; None if there is none.
        masks: of label maps in several files, one for each label in the order of their values.
        split: "fold 0", ..., "validation" or "test", if the list says so; "" for training.
        problem: why the entry cannot be used, if it cannot.
    """

    name: str = ""
    images: tuple[Path, ...] = ()
    labels: Path | None = None
    masks: tuple[Path, ...] = ()
    split: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of a dataset.json.

    Args:
        name: of the dataset, empty if not given.
        channels: names in order; empty if not given.
        labels: None if not given.
        layout: `DECATHLON` or `NNUNET` if the file lists the cases.
        entries: the listed cases; None if there is no list.
        count: numTraining, if given.
        suffix: nnU-Net's file_ending, empty if not given.
        annotated: names of the labels that were annotated, by case, as listed; None if there is no such list.
        instances: names of labels whose connected components count one by one, checked to be labels or regions.
        about: description, licence, reference and release, if given.
    """

    path: Path
    name: str
    channels: tuple[str, ...]
    labels: Labels | None
    layout: str = ""
    entries: tuple[CaseEntry, ...] | None
    count: int | None
    suffix: str
    annotated: dict[str, tuple[str, ...]] | None
    instances: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict)


def read_description(path: Path) -> Description:
    """The content of a dataset.json.

    Raises:
        DatasetError: it is no JSON, or a key does not mean what it must.
    """
    content = _load(path)
    labels = _labels(path, content) if "labels" in content else None
    training, table = _training(path, content), _table(path, content)
    return Description(
        path=path,
        name=str(content.get("name") or "")[:LONGEST_ABOUT],
        channels=_channels(path, content),
        labels=labels,
        layout=DECATHLON if training is not None else NNUNET if table is not None else "",
        entries=training if training is not None else table,
        count=count if isinstance(count := content.get("numTraining"), int) else None,
        suffix=str(content.get("file_ending") or "").lower(),
        annotated=_annotated(path, content),
        instances=_instances(path, content, labels),
        about=_about(content),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise DatasetError.at(
            place, f"is not valid JSON ({error.msg})", "JSON", "correct that line (a comma too many?)", "NS-D004"
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, a number of thousands of digits, lists nested too deeply
        raise DatasetError.at(path, f"is not valid JSON ({error})", "JSON text in UTF-8", "save it again", "NS-D004") from error
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise DatasetError.at(path, found, "a readable file", "check its permissions", "NS-D004") from error
    if not isinstance(content, dict):
        found = f"holds a {type(content).__name__}"
        raise DatasetError.at(path, found, "an object {...}", "see docs/layouts.md", "NS-D004")
    return content


def _get(path: Path, content: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    """A value that must be a list or an object; None if it is absent."""
    value = content.get(key)
    if value is not None and not isinstance(value, kind):
        raise DatasetError.at(path, f'"{key}" is no {"list" if kind is list else "object"}', expected, "correct it", "NS-D004")
    return value


def _check_names(path: Path, key: str, given: Any) -> None:
    """Raise DatasetError for very long names in a list or object: every message and page repeats them."""
    texts = [*given, *given.values()] if isinstance(given, dict) else given if isinstance(given, list) else ()
    longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
    check_limit("name_letters", longest, path, f'"{key}" has a name of {{:,}} letters', DatasetError, code="NS-D004")


def _channels(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Names by number, {"0": "MRI"}, or numbers by name, {"R": 0}; a plain list of names or a single name will do."""
    key = "channel_names" if "channel_names" in content else "modality"
    given = content.get(key)
    if given is None:
        return ()
    names = [given] if isinstance(given, str) else given
    _check_names(path, key, names)
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if isinstance(numbered, dict) and numbered:
        by_number = {_whole(number): str(name) for number, name in numbered.items()}
        if None in by_number:
            by_number = {_whole(number): str(name) for name, number in numbered.items()}
        if set(by_number) == set(range(len(numbered))):
            return tuple(by_number[i] for i in range(len(numbered)))
    raise DatasetError.at(path, f'"{key}" is {numbered!r}', '{"0": "MRI", "1": ...} with numbers from 0', "correct it", "NS-D004")


_LABELS = '{"background": 0, "liver": 1} or {"0": "background", "1": "liver"}'


def _labels(path: Path, content: dict[str, Any]) -> Labels:
    """Labels from names by value (Decathlon) or values by name (nnU-Net), where a list of values is a region."""
    named = _named_values(path, content["labels"])
    ignore = next((name for name in named if name.casefold() == "ignore"), None)
    ignored = named.pop(ignore) if ignore else ()
    background = next((name for name in named if name.casefold() == "background"), None)
    zero = next((name for name, values in named.items() if values == (0,)), None)
    if background and len(named[background]) != 1:
        raise DatasetError.at(path, f'"background" covers {named[background]}', "one value", 'correct "labels"', "NS-D004")
    empty_name = background or zero
    empty = named.pop(empty_name) if empty_name else (0,)
    single = {values[0]: name for name, values in named.items() if len(values) == 1}
    values = sorted({v for vs in named.values() for v in vs} - set(empty))
    try:
        return Labels(
            names=(empty_name or "background", *(single.get(v, f"label {v}") for v in values)),
            values=(*empty, *values),
            ignore=ignored[0] if ignored else None,
            regions=_regions(path, content, named) if any(len(v) > 1 for v in named.values()) else (),
        )
    except ValidationError as error:
        message = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise DatasetError.at(path, f'"labels" cannot be used: {message}', _LABELS, 'correct "labels"', "NS-D004") from error


def _named_values(path: Path, given: Any) -> dict[str, tuple[int, ...]]:
    """Values by name, whichever way round they were given."""
    if not isinstance(given, dict) or not given:
        raise DatasetError.at(path, f'"labels" is {given!r}', _LABELS, "correct it", "NS-D004")
    kind = "regions" if any(isinstance(value, list) and len(value) > 1 for value in given.values()) else "labels"
    check_limit(kind, len(given), path, f'"labels" has {{:,}} {kind}', DatasetError, code="NS-D004")
    _check_names(path, "labels", given)
    named: dict[str, tuple[int, ...]] = {}
    for key, value in given.items():
        values, name = [_whole(v) for v in (value if isinstance(value, list) else [value])], str(key)
        if None in values and not isinstance(value, list):
            name, values = str(value), [_whole(key)]
        whole = tuple(v for v in values if v is not None)
        if not whole or len(whole) < len(values) or name in named:
            found = f'"labels" has {key!r}: {value!r}'
            raise DatasetError.at(path, found, _LABELS, "give each label a name and a whole number", "NS-D004")
        named[name] = whole
    single = Counter(values[0] for values in named.values() if len(values) == 1)
    if doubled := sorted(v for v, count in single.items() if count > 1):
        sharing = ", ".join(name for name, values in named.items() if values == (doubled[0],))
        found = f'"labels" gives the value {doubled[0]} to {sharing}'
        raise DatasetError.at(path, found, _LABELS, "give each a different value", "NS-D004")
    return named


def _regions(path: Path, content: dict[str, Any], named: dict[str, tuple[int, ...]]) -> tuple[Region, ...]:
    """The regions, each before those inside it, so that painting them in this order hides none.

    Without nnU-Net's ``regions_class_order`` a region is painted with the value that no region inside it has, if there is just one.
    """
    order = content.get("regions_class_order")
    if order is None:
        paints: Iterable[int | None] = [_own_value(values, named) for values in named.values()]
    else:
        paints = map(_whole, order) if isinstance(order, list) else []
    whole = [p for p in paints if p is not None]
    if len(whole) != len(named) or not set(whole) <= {v for values in named.values() for v in values}:
        expected = f"{len(named)} label values, the one to paint for each of the regions {', '.join(named)}"
        raise DatasetError.at(path, f'"regions_class_order" is {order!r}', expected, "add or correct it", "NS-D004")
    regions = [Region(name=n, values=v, paint=p) for (n, v), p in zip(named.items(), whole, strict=True)]
    return tuple(sorted(regions, key=lambda region: -len(set(region.values))))


def _own_value(values: tuple[int, ...], named: dict[str, tuple[int, ...]]) -> int | None:
    """The one value of a region that no smaller region inside it has."""
    own = set(values).difference(*(other for other in named.values() if set(other) < set(values)))
    return own.pop() if len(own) == 1 else None


def _training(path: Path, content: dict[str, Any]) -> tuple[CaseEntry, ...] | None:
    """The entries of "training", then those of the other parts of a datalist.

    Source: the Medical Segmentation Decathlon; MONAI's datalists, ``monai.data.decathlon_datalist``.
    """
    if "training" not in content:
        return None
    entries = []
    for key in LISTS:
        given, split = _get(path, content, key, list, '[{"image": ..., "label": ...}, ...]') or [], PARTS[key]
        for i, item in enumerate(given):
            entry = _entry(
                path, {"image": item} if split and isinstance(item, str) else item, f'entry {i + 1} of "{key}"', images="image"
            )
            entries.append(replace(entry, split=split or _fold(item)))
    return tuple(entries)


def _fold(item: Any) -> str:
    fold = item.get("fold") if isinstance(item, dict) else None
    return f"fold {number}" if fold is not None and (number := _whole(fold)) is not None else ""


def _table(path: Path, content: dict[str, Any]) -> tuple[CaseEntry, ...] | None:
    given = _get(path, content, "dataset", dict, '{"CASE": {"images": [...], "label": ...}}')
    if given is None:
        return None
    return tuple(_entry(path, item, f'"{name}" in "dataset"', images="images", name=str(name)) for name, item in given.items())


def _entry(path: Path, item: Any, place: str, *, images: str, name: str = "") -> CaseEntry:
    """An entry; one that cannot be used has the reason as its problem, and others stay usable."""
    given = item.get(images) if isinstance(item, dict) else None
    files = [given] if isinstance(given, str) else given
    label = item.get("label") if isinstance(item, dict) else None
    maps = [] if label is None else [label] if isinstance(label, str) else label
    if not isinstance(files, list) or not files or not all(isinstance(f, str) and f for f in files):
        return CaseEntry(name=name, problem=f'{place} names no image file; expected "{images}" with a path; correct or remove it')
    if not isinstance(maps, list) or not all(isinstance(f, str) and f for f in maps):
        return CaseEntry(name=name, problem=f"{place} has label {label!r}; expected a path; correct or remove it")
    if long := [f for f in (*files, *maps) if any(len(part.encode(errors="replace")) > 255 for part in Path(f).parts)]:
        found = f"names a file by {len(long[0])} characters, more than any file's name has"
        return CaseEntry(name=name, problem=f"{place} {found}; expected a path; correct or remove it")
    if any("\0" in f for f in (*files, *maps)):
        return CaseEntry(name=name, problem=f"{place} names a file with a zero byte; expected a path; correct or remove it")
    paths = tuple(path.parent / f for f in maps)
    return CaseEntry(
        name=name,
        images=tuple(path.parent / f for f in files),
        labels=paths[0] if paths else None,
        masks=paths if len(paths) > 1 else (),
    )


def _annotated(path: Path, content: dict[str, Any]) -> dict[str, tuple[str, ...]] | None:
    expected = '{"CASE": ["liver", ...]} with names of labels'
    given = _get(path, content, ANNOTATED_KEY, dict, expected)
    if given is None:
        return None
    lists = {str(case): [names] if isinstance(names, str) else names for case, names in given.items()}
    for case, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DatasetError.at(path, f'"{ANNOTATED_KEY}" has {case!r}: {names!r}', expected, "correct it", "NS-D004")
    return {case: tuple(names) for case, names in lists.items()}


def _instances(path: Path, content: dict[str, Any], labels: Labels | None) -> tuple[str, ...]:
    given = content.get("instances", [])
    known = labels.foreground if labels else ()
    if not isinstance(given, list) or not all(name in known for name in given):
        expected = f"some of {', '.join(known)}" if known else 'names of "labels", which are not given'
        raise DatasetError.at(
            path, f'"instances" is {given!r}', expected, "correct it: it names the labels counted one by one", "NS-D004"
        )
    return tuple(dict.fromkeys(given))


def _about(content: dict[str, Any]) -> dict[str, str]:
    found = {name: next((content[key] for key in keys if content.get(key)), None) for name, keys in ABOUT.items()}
    texts = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    return {name: " ".join(str(value).split())[:LONGEST_ABOUT] for name, value in texts.items()}


def _whole(value: Any) -> int | None:
    """A whole number given as such or as text; None for anything else."""
    convert: Callable[[Any], int] = int
    try:
        return None if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()) else convert(value)
    except (TypeError, ValueError):
        return None
