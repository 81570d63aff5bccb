"""The channels of cases: words that tell the images of one case apart, and occur in most cases."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from nnseg.core.dataset import list_some
from nnseg.core.errors import DatasetError, coded
from nnseg.storage.datasets.items import NUMBER, OFTEN, Channels, Group, Named, not_used, same_name
from nnseg.storage.datasets.names import CONTRASTS, contrast, shows_channel
from nnseg.storage.datasets.patterns import common_start, pattern_of

FRAME = re.compile(r"(?:t|z|frame|slice)_?\d{2,}", re.IGNORECASE)
"""Numbers of time points and slices, which are no channels."""

QUALIFIERS = frozenset(("gd", "gad", "ce", "c", "post", "pre", "contrast", "early", "late", "native", "high", "low"))
"""Words that, after the name of a channel, make the name of another one, not of a processed copy."""


def find_channels(root: Path, groups: Sequence[Group], *, wanted: Sequence[str] = (), count: int | None = None) -> Channels:
    """The channels of groups.

    Args:
        wanted: channels to use, in this order; () for all.
        count: number of channels, if a description gives it.

    Raises:
        DatasetError: the images of a case cannot be told to be channels, or a wanted channel does not exist.
    """
    groups_of_contrasts(root, groups, wanted)
    by_group = {id(group): _by_words(group.images) for group in groups}
    counts = Counter(text for found in by_group.values() if len(found) > 1 for text in found)
    several = sum(len(found) > 1 for found in by_group.values())
    numbered = all(NUMBER.fullmatch(text) for text in counts)
    if not counts or (not numbered and several < OFTEN * len(groups)):
        return _single(groups)
    if numbered:
        names = tuple(f"{i:04d}" for i in range(count or max(map(int, counts)) + 1))
    else:
        often = (t for t, n in counts.items() if n >= OFTEN * len(groups) and (n > 1 or _is_contrast(t)))
        names = tuple(sorted(often, key=str.casefold))
        _check_channels(root, groups, names)
    if not (numbered and count):  # with declared names, `layouts.find_layout` chooses
        names = _wanted(root, names, wanted)
    found = Channels(names=names)
    for group in groups:
        _assign(found, group, by_group[id(group)], numbered=numbered)
    return found


def _single(groups: Sequence[Group]) -> Channels:
    """Channels of cases of one file each."""
    found = Channels()
    for group in groups:
        if len(group.images) > 1:
            found.problems[id(group)] = _several(group)
        found.images[id(group)] = tuple(group.images[:1])
    return found


def _several(group: Group) -> str:
    """The problem of a case that has several images where the others have one."""
    if len({(one.place, tuple(map(str.casefold, one.words))) for one in group.images}) == 1:
        return same_name(one.item.path for one in group.images)
    listed = list_some([one.item.path.name for one in group.images])
    text = f"{len(group.images)} images fit one label map: {listed}"
    return coded(f"{text}; expected one as in the other cases; remove or rename the others", "NS-D011")


def _by_words(images: Sequence[Named]) -> dict[str, list[Named]]:
    """Images by the words that tell them apart: those without the first and last words that all of them share."""
    paths = [(*one.place, *one.words) for one in images]
    start, end = common_start(paths), common_start([path[::-1] for path in paths])
    shortest = min(map(len, paths))
    if start == shortest and len(set(paths)) > 1:
        start -= 1
    end = min(end, shortest - start - (len(set(paths)) > 1)) if shortest > start else 0
    found = defaultdict[str, list[Named]](list)
    for path, one in zip(paths, images, strict=True):
        found["_".join(path[start : len(path) - max(0, end)])].append(one)
    return dict(found)


def _is_contrast(text: str) -> bool:
    return contrast(text) in CONTRASTS.values()


def _check_channels(root: Path, groups: Sequence[Group], names: tuple[str, ...]) -> None:
    """Raise an error if words cannot be told to be channels."""
    largest = max(groups, key=lambda group: len(group.images))
    known = all(map(_is_contrast, names))
    copies = [n for n in names for other in names if n.startswith(other + "_") and n[len(other) + 1 :].casefold() not in QUALIFIERS]
    frames = all(FRAME.fullmatch(name) for name in names)
    if len(names) > 1 and not copies and not frames and (len(groups) > 1 or known):
        return
    files = [one.item.below for one in largest.images]
    found = f"{len(files)} images fit one label map, {largest.labels[0].item.below}: {list_some(files, 4)}"
    advice = f"say with --images which to use, such as --images {pattern_of(files)}, or name channels with --channels"
    raise DatasetError.at(root, found, "one image for each case, or channels whose names recur in other cases", advice)


def _wanted(root: Path, names: tuple[str, ...], wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the wanted channels as they are written in names of files."""
    if not wanted:
        return names
    chosen = []
    for text in wanted:
        fits = [n for n in names if n.casefold() == text.casefold()] or [n for n in names if contrast(n) == contrast(text)]
        if len(fits) != 1:
            raise DatasetError.at(root, f"there is no channel {text}", f"some of {', '.join(names)}", "correct --channels")
        chosen += fits
    return tuple(chosen)


def _assign(found: Channels, group: Group, by_words: dict[str, list[Named]], *, numbered: bool) -> None:
    """Put a group's images in the order of the channels, or note its problem."""
    low = {text.casefold(): text for text in by_words}
    if len(by_words) == 1:  # its channel is known from other cases only
        (only,) = by_words.values()
        low = {name.casefold(): next(iter(by_words)) for name in found.names if shows_channel(only[0], name)}
        if not low and numbered:
            found.images[id(group)] = tuple(only)
            low = {found.names[0]: next(iter(by_words))}
    chosen = [by_words[low[name.casefold()]] for name in found.names if name.casefold() in low]
    doubled = next((ones for ones in chosen if len(ones) > 1), None)
    missing = [name for name in found.names if name.casefold() not in low]
    extra = [one for ones in by_words.values() for one in ones if ones not in chosen]
    if doubled:
        found.problems[id(group)] = same_name([one.item.path for one in doubled])
    elif missing:
        found.problems[id(group)] = _missing(group, missing, found.names, numbered=numbered)
    elif extra and numbered:
        text = f"{extra[-1].item.path} is one channel too many"
        advice = "remove it or correct dataset.json"
        found.problems[id(group)] = coded(f"{text}; expected {len(found.names)} as declared; {advice}", "NS-D008")
    else:
        found.unused += not_used(extra, "another channel, which is not used")
    found.images[id(group)] = tuple(ones[0] for ones in chosen)


def suffix_slip(groups: Sequence[Group], count: int) -> str:
    """The problem of a dataset whose only case has numbered images, more than the ``count`` channels that are declared, 0 for none.

    As if cases were called CASE_0000, CASE_0001, ... without the number of a channel behind; "" if it is not so.
    """
    if len(groups) > 1 or len(groups[0].images) < 2 or len(groups[0].images) == count:
        return ""
    files = sorted(one.item.path.name for one in groups[0].images)
    declared = f"{count} declared" if count else "none declared"
    found = f"1 case with {len(files)} channels, {declared} ({files[0]} to {files[-1]})"
    advice = f"if they are {len(files)} cases, write _0000 behind the case's name; if not, list channel_names in dataset.json"
    return coded(f"{found}; expected several cases; {advice}", "NS-D012")


def _missing(group: Group, missing: Sequence[str], names: Sequence[str], *, numbered: bool) -> str:
    label = group.labels[0].item.stem
    what = f"{label}_{missing[0]}" if numbered else f"of {missing[0]}"
    others = [name for name in names if name not in missing]
    without = "" if numbered or not others else f", or train without it: --channels {','.join(others)}"
    advice = f"restore it or remove the case{without}"
    return coded(f"channel file {what} is missing; expected {len(names)} files a case; {advice}", "NS-D007")


def groups_of_contrasts(root: Path, groups: Sequence[Group], wanted: Sequence[str]) -> None:
    """Raise an error if cases of one image each are images of different contrasts, each with a label map of its own."""
    last = Counter(contrast(one.words[-1]) for group in groups if len(group.images) == 1 for one in group.images if one.words)
    found = {name: n for name, n in last.items() if name in CONTRASTS.values() and n > 1}
    if len(found) > 1 and not wanted:
        listed = ", ".join(f"{name} ({n})" for name, n in found.items())
        what = f"has label maps of their own for images of different contrasts: {listed}"
        raise DatasetError.at(root, what, "one contrast", f"choose with --channels, such as --channels {next(iter(found))}")


def of_channel(root: Path, groups: Sequence[Group], wanted: Sequence[str]) -> tuple[Sequence[Group], list[Named]]:
    """The groups of the wanted channel where each group is of one image, and the images of the others.

    Raises:
        DatasetError: no image shows the channel, or several are wanted.
    """
    if not wanted or any(len(group.images) > 1 for group in groups):
        return groups, []
    exact = [group for group in groups if wanted[0].casefold() in map(str.casefold, group.images[0].words[-1:])]
    kept = exact or [group for group in groups if shows_channel(group.images[0], wanted[0])]
    if not kept or len(wanted) > 1:
        found = f"--channels names {', '.join(wanted)}, but each label map has one image, such as {groups[0].images[0].item.below}"
        expected = "words that end names of images" if not kept else "one channel"
        raise DatasetError.at(root, found, expected, "correct --channels, or leave it out")
    return kept, [one for group in groups if group not in kept for one in group.images]


def written_as(groups: Sequence[Group], wanted: Sequence[str]) -> tuple[str, ...]:
    """The channel of groups of one image each, as their names write it; () if none was wanted."""
    written = {one.words[-1] for group in groups for one in group.images if one.words}
    return tuple(written) if wanted and len(written) == 1 and contrast(*written) == contrast(wanted[0]) else tuple(wanted)
