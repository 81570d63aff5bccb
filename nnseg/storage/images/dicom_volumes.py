"""Volumes among DICOM frames: one series may hold several, by orientation, echo, b value, time and others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.storage.images.dicom_frame import DicomFile, Frame

SAME_PLACE = 1e-3
"""mm along the normal within which two frames are at one place."""

ROUNDING = 0.05
"""Share by which echo times of one volume may differ."""

SAME_DIRECTION = 0.01
"""Difference of cosines within which frames have one orientation."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The frames of one series that make up one volume.

    Args:
        frames: ordered along their normal, or as stored if they are stored against it.
        heights: mm along that normal; empty if a frame has no place.
        name: what tells it from others of its series, such as "echo2"; "" if it is the only one.
        missing: frames that a volume of the same stack has and this one lacks.
        broken: files that seem to be part of it and cannot be read.
    """

    file: DicomFile
    frames: tuple[Frame, ...]
    heights: tuple[float, ...]
    name: str = ""
    missing: int = 0
    broken: tuple[Path, ...] = ()

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files of the frames, each once."""
        return tuple(dict.fromkeys([*(frame.path for frame in self.frames), *self.broken]))

    @property
    def plane(self) -> str:
        """axial, coronal or sagittal, whichever is closest; "unplaced" without orientation."""
        return _plane_name(self.frames[0].orientation)

    @property
    def number(self) -> str:
        """SeriesNumber."""
        return self.file.number

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"{self.number or '?'}{name} {self.file.description!r} ({len(self.frames)} slices)"


@dataclass(kw_only=True)
class _Stack:
    """Frames of one series, size and orientation."""

    file: DicomFile
    key: tuple[Any, ...]
    orientation: tuple[float, ...]
    frames: list[Frame] = field(default_factory=list)

    def fits(self, key: tuple[Any, ...], orientation: tuple[float, ...]) -> bool:
        """True if a frame belongs to it."""
        if self.key != key or len(self.orientation) != len(orientation):
            return False
        return all(abs(a - b) <= SAME_DIRECTION for a, b in zip(self.orientation, orientation, strict=True))


def find_volumes(files: Iterable[DicomFile]) -> tuple[Volume, ...]:
    """All volumes, by series number: localisers and single slices too."""
    stacks: dict[tuple[Any, ...], list[_Stack]] = defaultdict(list)
    for file in files:
        for frame in file.frames:
            key = (file.uid, file.stack, frame.size, frame.colours)
            stack = next((s for s in stacks[key] if s.fits(key, frame.orientation)), None)
            if stack is None:
                stack = _Stack(file=file, key=key, orientation=frame.orientation)
                stacks[key].append(stack)
            stack.frames.append(frame)
    several = Counter((key[0], key[1]) for key, group in stacks.items() for _ in group)
    volumes = []
    for key, group in stacks.items():
        for i, stack in enumerate(group):
            turned = _stack_name(stack, group, i) if several[key[0], key[1]] > 1 and stack.key[1] else ""
            volumes += _volumes_of(stack, turned)
    return tuple(sorted(volumes, key=lambda v: (v.number.zfill(9), v.file.uid)))


def _stack_name(stack: _Stack, group: Sequence[_Stack], i: int) -> str:
    """The name of one of several stacks of a file: axial, or axial2 if there are more of them."""
    names = [_plane_name(s.orientation) for s in group]
    size = "" if len(group) > 1 else "x".join(map(str, stack.key[2]))
    same = names[: i + 1].count(names[i])
    return (names[i] + (str(same) if names.count(names[i]) > 1 else "")) if not size else f"{names[i]}-{size}"


def _plane_name(orientation: tuple[float, ...]) -> str:
    if len(orientation) != 6:
        return "unplaced"
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return ("sagittal", "coronal", "axial")[int(np.argmax(normal))]


def _volumes_of(stack: _Stack, turned: str) -> list[Volume]:
    heights = _heights(stack.frames)
    if heights is None:
        frames = stack.frames if stack.key[1] else sorted(stack.frames, key=lambda f: f.path.name)
        return [Volume(file=stack.file, frames=tuple(frames), heights=(), name=turned)]
    levels = _levels(heights)
    everything = np.arange(len(levels))
    parts = _separate(stack.frames, levels, everything, tuple(MARKS))
    sizes = [frozenset(levels[p].tolist()) for _, p in parts]
    volumes = []
    for (marks, members), own in zip(parts, sizes, strict=True):
        ordered = _in_order(stack.frames, heights, members)
        missing = max((len(other) - len(own) for other in sizes if own < other), default=0)
        name = "_".join(part for part in (turned, *(f"{mark}{value}" for mark, value in marks)) if part)
        volumes.append(
            Volume(
                file=stack.file,
                frames=tuple(stack.frames[i] for i in ordered),
                heights=tuple(float(heights[i]) for i in ordered),
                name=name,
                missing=missing,
            )
        )
    return _distinct(volumes)


def _distinct(volumes: list[Volume]) -> list[Volume]:
    """Volumes whose names differ."""
    counts = Counter(v.name for v in volumes)
    seen: Counter[str] = Counter()
    distinct = []
    for volume in volumes:
        seen[volume.name] += 1
        distinct.append(replace(volume, name=f"{volume.name}_{seen[volume.name]}") if counts[volume.name] > 1 else volume)
    return distinct


def _heights(frames: Sequence[Frame]) -> npt.NDArray[np.float64] | None:
    """mm of each frame along the normal of the first; None if one has no place."""
    if not all(len(f.position) == 3 and len(f.orientation) == 6 for f in frames):
        return None
    normal = np.cross(frames[0].orientation[:3], frames[0].orientation[3:])
    normal = normal / (np.linalg.norm(normal) or 1.0)
    heights: npt.NDArray[np.float64] = np.asarray([f.position for f in frames]) @ normal
    return heights


def _levels(heights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The number of each frame's place, from the lowest."""
    order = np.argsort(heights, kind="stable")
    levels = np.empty(len(heights), np.int64)
    levels[order] = np.concatenate([[0], np.cumsum(np.diff(heights[order]) > SAME_PLACE)])
    return levels


def _in_order(frames: Sequence[Frame], heights: npt.NDArray[np.float64], members: npt.NDArray[np.int64]) -> list[int]:
    """Frames along the normal; those of one file as stored if they are stored in order against it."""
    rising = sorted(members.tolist(), key=lambda i: (heights[i], frames[i].path.name, frames[i].index))
    if len({frames[i].path for i in members}) == 1 and bool((np.diff(heights[members]) < 0).all()):
        return [int(i) for i in members]
    return rising


def _separate(
    frames: Sequence[Frame], levels: npt.NDArray[np.int64], members: npt.NDArray[np.int64], marks: tuple[str, ...]
) -> list[tuple[tuple[tuple[str, str], ...], npt.NDArray[np.int64]]]:
    """Groups of frames with their marks: divided until each place is there once, by the first marks that do so.

    Echo, part of a complex image and stack divide also frames at different places.
    """
    if len(members) < 2 or not marks:
        return [((), members)]
    name, *rest = marks
    names = _names(name, frames, levels, members)
    if names is None:
        return _separate(frames, levels, members, tuple(rest))
    groups: dict[str, list[int]] = defaultdict(list)
    for i, value in zip(members.tolist(), names, strict=True):
        groups[value].append(i)
    return [
        (((MARKS[name].label, value), *more), part)
        for value, group in groups.items()
        for more, part in _separate(frames, levels, np.asarray(group), tuple(rest))
    ]


def _names(name: str, frames: Sequence[Frame], levels: npt.NDArray[np.int64], members: npt.NDArray[np.int64]) -> list[str] | None:
    """What a mark says of each frame, as part of a name; None if it does not divide these frames into volumes."""
    mark = MARKS[name]
    values = [frames[i].marks.get(name) for i in members]
    distinct = set(values)
    if len(distinct) < 2:
        return None
    places = levels[members]
    per_place = Counter(places.tolist())
    most, pairs = max(per_place.values()), set(zip(places.tolist(), values, strict=True))
    if most == 1:
        alone = min(Counter(values).values()) < 2 or None in distinct
        return None if not mark.divides_places or alone or _differ_by_rounding(distinct) else mark.names(values)
    if len(pairs) == len(per_place):
        return None
    if len(distinct) <= most:
        return mark.names(values)
    if not mark.is_clock or None in distinct or len(set(per_place.values())) > 1 or len(pairs) < len(values):
        return None
    ranks = {}
    for place in per_place:
        here = sorted((v for p, v in zip(places.tolist(), values, strict=True) if p == place), key=_sortable)
        ranks.update({(place, v): rank for rank, v in enumerate(here, 1)})
    return [str(ranks[p, v]) for p, v in zip(places.tolist(), values, strict=True)]


def _differ_by_rounding(values: Iterable[Any]) -> bool:
    """True for numbers of which two are nearly the same: an echo time that varies over the slices of one volume."""
    numbers = sorted(v for v in values if isinstance(v, float))
    return any(low * (1 + ROUNDING) >= high for low, high in pairwise(numbers))


def _sortable(value: Any) -> tuple[int, Any]:
    """A key by which values of several types are put in order: none, numbers, texts."""
    if value is None:
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def _ranks(values: Sequence[Any]) -> list[str]:
    """Numbers from 1 in rising order of the values."""
    order = {value: str(rank) for rank, value in enumerate(sorted(set(values), key=_sortable), 1)}
    return [order[value] for value in values]


def _whole(values: Sequence[Any]) -> list[str]:
    """The values themselves as whole numbers where they differ as such, else their ranks."""
    texts = {v: "none" if v is None else f"{v:.0f}" if isinstance(v, float) else _in_name(str(v)) for v in set(values)}
    return [texts[v] for v in values] if len(set(texts.values())) == len(texts) else _ranks(values)


def _words(values: Sequence[Any]) -> list[str]:
    """The words in which the values differ."""
    sets = {v: set(v) if isinstance(v, tuple) else {v} if v else set() for v in set(values)}
    common = set.intersection(*sets.values())
    texts = {v: _in_name("-".join(str(w) for w in (v if isinstance(v, tuple) else (v,)) if w and w not in common)) for v in sets}
    texts = {v: text or "other" for v, text in texts.items()}
    return [texts[v] for v in values] if len(set(texts.values())) == len(texts) else _ranks(values)


def _in_name(text: str) -> str:
    """A text as part of a name of a file: letters and digits alone."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


@dataclass(frozen=True, kw_only=True)
class MarkRule:
    """How a mark of frames divides them.

    Args:
        label: of the mark in names.
        names: (values) -> what stands after the label.
        divides_places: frames at different places with different values belong to different volumes.
        is_clock: the value differs from slice to slice; at each place its order counts, if all places are there equally often.
    """

    label: str
    names: Callable[[Sequence[Any]], list[str]] = _whole
    divides_places: bool = False
    is_clock: bool = False


MARKS: dict[str, MarkRule] = {
    "component": MarkRule(label="", names=_words, divides_places=True),
    "echo": MarkRule(label="echo", names=_ranks, divides_places=True),
    "stack": MarkRule(label="stack", divides_places=True),
    "type": MarkRule(label="", names=_words),
    "ti": MarkRule(label="ti"),
    "b": MarkRule(label="b"),
    "dir": MarkRule(label="dir", names=_ranks),
    "t": MarkRule(label="t", names=_ranks),
    "acq": MarkRule(label="acq"),
    "trigger": MarkRule(label="t", names=_ranks, is_clock=True),
    "time": MarkRule(label="t", names=_ranks, is_clock=True),
    **{f"dim{i}": MarkRule(label=f"dim{i}") for i in range(9)},
    "when": MarkRule(label="t", names=_ranks, is_clock=True),
    "made": MarkRule(label="t", names=_ranks, is_clock=True),
    "instance": MarkRule(label="t", names=_ranks, is_clock=True),
}
"""Marks in the order in which they are tried; those that mean something come before those that only count."""
