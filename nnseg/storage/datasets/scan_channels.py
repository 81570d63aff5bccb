"""Scans to predict, out of the images of a folder: label maps left out, channels put together as a model names them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nnseg.core.dataset import Reading, Unused
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.bids import is_bids, parse_name, raw_images
from nnseg.storage.datasets.items import LEFT_OUT, Named, Tree, divide, not_used
from nnseg.storage.datasets.names import (
    CONTRASTS,
    END_WORDS,
    contrast,
    png_beside_jpeg,
    read_all_names,
    split_words,
    stem_end,
    stem_start,
)
from nnseg.storage.datasets.pairing import pair
from nnseg.storage.datasets.patterns import matches

LABEL_MAP = "a label map by its name or folder"

Same = Callable[[str, str], bool]


@dataclass(kw_only=True)
class Candidates:
    """Images that may be scans.

    Args:
        layout: what tells names of cases: "bids", "labels" where folders or names mark label maps beside them, or "".
        unused: images that are no scans.
    """

    images: list[Named]
    layout: str = ""
    unused: list[Unused] = field(default_factory=list)


@dataclass(kw_only=True)
class Scans:
    """Images of each scan, by its name.

    Args:
        grouped: by number of the model's channel, in their order.
        single: each may be a scan, or one of several channels by its number.
    """

    grouped: dict[str, dict[int, Named]] = field(default_factory=dict)
    single: list[Named] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)
    inferred: list[str] = field(default_factory=list)


def find_candidates(tree: Tree, reading: Reading) -> Candidates:
    """The images of a folder without label maps, previews and maps of probabilities.

    Raises:
        DatasetError: no image is left.
    """
    named = read_all_names(tree.items)
    if reading.images:
        chosen, others = divide(named, lambda one: matches(one.item, reading.images))
        return Candidates(images=[*chosen], unused=[*not_used(others, LEFT_OUT)])
    if is_bids(tree):
        images, others_there = raw_images(tree)
        return Candidates(images=[*images], layout="bids", unused=[*others_there])
    usable, derived = divide(named, lambda one: not one.derived)
    scans, maps = _without_label_maps(usable)
    if named and not scans:
        what = f"holds no scan but {len(maps) + len(derived)} images that are label maps or previews by their names"
        raise DatasetError.at(tree.root, what, "scans", 'to predict them nevertheless, name them: --images "*"')
    unused = [*not_used(maps, LABEL_MAP), *not_used(derived)]
    return Candidates(images=[*scans], layout="labels" if maps else "", unused=unused)


def _without_label_maps(named: Sequence[Named]) -> tuple[Sequence[Named], list[Named]]:
    """Images, and label maps: by their folder, by their last word, or by another word if a scan of that name lies there."""
    scans, maps = divide(named, lambda one: one.role != "label" and not _ends_as_label(one))
    marked = [one for one in scans if one.has_label_word]
    if not marked:
        scans, beside = png_beside_jpeg(scans)
        return scans, [*maps, *beside]
    plain = [one for one in scans if not one.has_label_word]
    paired = {id(one) for group in pair(plain, marked, by_folder=False).groups for one in group.labels}
    kept, more = divide(scans, lambda one: id(one) not in paired)
    return kept, [*maps, *more]


def _ends_as_label(one: Named) -> bool:
    """The last word of its name marks a label map."""
    return one.item.is_label or (bool(one.words) and one.words[-1].casefold() in END_WORDS)


def group_scans(candidates: Candidates, names: Sequence[str], wanted: Sequence[str] = (), *, incomplete: bool = False) -> Scans:
    """Scans of a model's channels.

    Args:
        names: of the model's channels.
        wanted: words in names of files that stand for these channels, in their order; () if they are the channels' names.
        incomplete: all of the scans may lack a channel; otherwise one at least has all, or names are taken for those of scans.
    """
    words = [*(wanted or names)]
    for same in (_equal, _same_contrast):
        found = _by_channel(candidates, words, same)
        complete = [base for base, images in found.items() if incomplete or len(images) == len(words)]
        if complete and (len(words) > 1 or wanted or _tells_apart(candidates.images, found)):
            return _grouped(candidates, words, found)
    return Scans(single=candidates.images, unused=candidates.unused)


def _equal(word: str, name: str) -> bool:
    return word.casefold() == name.casefold()


def _same_contrast(word: str, name: str) -> bool:
    return contrast(word) == contrast(name)


def _tells_apart(images: Sequence[Named], found: dict[tuple[str, ...], dict[int, Named]]) -> bool:
    """True if the other images are of other contrasts, so that a model of one channel is for those with its name alone."""
    chosen = {id(one) for group in found.values() for one in group.values()}
    return any(_has_contrast(one) for one in images if id(one) not in chosen)


def _has_contrast(one: Named) -> bool:
    return bool(one.words) and contrast(one.words[-1]) in CONTRASTS.values()


def _by_channel(candidates: Candidates, names: Sequence[str], same: Same) -> dict[tuple[str, ...], dict[int, Named]]:
    """Images by what is left of their path without the channel's name, and by number of the channel.

    Folders of modalities in BIDS, such as anat/, tell no scans apart.
    """
    found = defaultdict[tuple[str, ...], dict[int, Named]](dict)
    for one in candidates.images:
        folders = one.place if candidates.layout == "bids" else one.item.folders
        for number, name in enumerate(names):
            base = _without(one, folders, tuple(split_words(name)), same)
            if base is not None:
                found[base].setdefault(number, one)
                break
    return dict(found)


def _without(one: Named, above: Sequence[str], name: tuple[str, ...], same: Same) -> tuple[str, ...] | None:
    """The words of an image's path without those of a channel at the end, or the beginning, of its name, or of a folder."""
    n, words, stem = len(name), one.words, one.item.stem
    if n and len(words) >= n and all(map(same, words[-n:], name)):
        return (*above, "", stem_start(stem, len(words) - n) if len(words) > n else "")
    if n and len(words) >= n and all(map(same, words[:n], name)):
        return (*above, "", stem_end(stem, n))
    folders = [folder for folder in above if not same(folder, "_".join(name))]
    return (*folders, "", stem) if len(folders) == len(above) - 1 else None


def _grouped(candidates: Candidates, names: Sequence[str], found: dict[tuple[str, ...], dict[int, Named]]) -> Scans:
    scans = Scans(unused=candidates.unused)
    places = {one.item.folders for images in found.values() for one in images.values()}
    used = {id(one) for images in found.values() for one in images.values()}
    called = _names(found)
    for base, images in found.items():
        scans.grouped[called[base]] = {number: images[number] for number in sorted(images)}
    for one in candidates.images:
        if id(one) in used:
            continue
        other = len(names) > 1 or candidates.layout == "bids" or _has_contrast(one)
        if one.item.folders in places and other:
            scans.unused += not_used([one], "none of the model's channels")
        else:
            scans.single.append(one)
    written = [
        sorted({images[i].words[-1] for images in found.values() if i in images and images[i].words}) for i in range(len(names))
    ]
    examples = ", ".join("/".join(words[:2]) for words in written if words)
    scans.inferred.append(f"channels {', '.join(names)} from names with {examples}")
    return scans


def _names(found: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Names of scans: of what their files share, or of their folder; with the folders before where they would be equal.

    A last folder that all scans have in common, as pre/ in PATIENT/pre/T1.nii.gz, tells none of them apart.
    """
    bases = tuple(found)
    shared = len(bases) > 1 and all(len(base) > 2 and not base[-1] for base in bases) and len({base[-3] for base in bases}) == 1
    short = {base: _short((*base[:-3], *base[-2:]) if shared else base) for base in bases}
    counts = Counter(name.casefold() for name in short.values())
    return {base: name if counts[name.casefold()] == 1 else "_".join(filter(None, base)) for base, name in short.items()}


def _short(base: tuple[str, ...]) -> str:
    *folders, _, own = base
    return own or (folders[-1] if folders else "scan")


def single_names(images: Sequence[Named], layout: str) -> list[str]:
    """Names of scans of one file: folders and stem; without what all scans have in common, where the layout is known."""
    constant = len(images) > 1 and len({one.item.stem for one in images}) == 1 and bool(layout)
    names = [_single_name(one, layout, constant=constant) for one in images]
    counts = Counter((name.casefold(), one.item.suffix) for name, one in zip(names, images, strict=True))
    return [
        name if counts[name.casefold(), one.item.suffix] == 1 else _whole_name(one, layout)
        for name, one in zip(names, images, strict=True)
    ]


def _whole_name(one: Named, layout: str) -> str:
    """A name that no other scan has; those of BIDS need no folders."""
    return one.item.stem if layout == "bids" else "_".join((*one.item.folders, one.item.stem))


def _single_name(one: Named, layout: str, *, constant: bool) -> str:
    if layout == "bids":
        return parse_name(one.item.stem).base
    if one.place and (constant or not one.rest):
        return "_".join(one.place)
    if layout == "labels":
        stem = one.item.stem
        return stem if any(stem.startswith(place) for place in one.place) else "_".join((*one.place, stem))
    return _whole_name(one, layout)
