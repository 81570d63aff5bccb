"""Scans to predict in a file or a folder: which images are scans, and which of them are channels of one case."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from nnseg.core.dataset import AS_FOUND, Case, Reading, Unused, counted
from nnseg.core.errors import DatasetError, ScanError
from nnseg.core.names import fault_of_case, printable, shortened
from nnseg.storage.datasets.patterns import fit_patterns
from nnseg.storage.datasets.scan_channels import find_candidates, group_scans, single_names
from nnseg.storage.datasets.scan_table import TABLES, read_scan_table
from nnseg.storage.datasets.tree import known_no_scans, leave_out_own, list_unused, suffixes_found, walk
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, folder_format, image_name, known_suffixes, suffix_of
from nnseg.storage.images.unread import why_unread

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""nnU-Net's names: CASE_0000 is the first channel of CASE."""

FEWEST_LIKE_CHANNELS, MOST_CHANNELS = 2, 9
"""Scans, and channels of each, from which and up to which names are taken for those of channels, and not of a stack's slices."""

MOST_NAMED = 4
"""Channels whose files a message names."""

KNOWN = f"{', '.join(FOLDER_FORMATS)} or one of {known_suffixes()}"
"""What can be read, for messages."""


@dataclass(frozen=True, kw_only=True)
class FoundScans:
    """Scans to predict.

    Args:
        cases: sorted by name.
        inferred: what was concluded from names, in one line each.
        unused: what lies there besides.
    """

    cases: tuple[Case, ...]
    inferred: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()


def find_scans(
    path: Path, *, channels: int, names: Sequence[str] = (), reading: Reading = AS_FOUND, incomplete: bool = False
) -> FoundScans:
    """The scans in a file or a folder and its folders, or in a table of them (`read_scan_table`), sorted by name.

    Files whose names have the names of the model's channels, ``p1_T1w``, ``p1_FLAIR``, are the channels of one case; and so are
    ``CASE_0000``, ``CASE_0001``, ... A file without either holds all channels of a case. Label maps, by their names or folders, are
    left out. A folder of DICOM slices is a case with the folder's name; of several volumes in it, or in a file, each is a case.
    Names of cases in folders begin with the folders' names. A folder that cannot be listed is a case, which fails when it is read.

    Args:
        channels: number that the model needs; it decides whether numbers at the end of names count channels or slices.
        names: of these channels.
        reading: what names of files do not tell; ``channels`` are words in names of files, in the order of the model's channels.
        incomplete: scans may lack channels, all of them too.

    Raises:
        DatasetError: no such file or folder, or no scan in it whose name a file can have.
        ScanError: two scans would have the same name.

    Example:
        ``[case.name for case in find_scans(Path("imagesTs"), channels=2).cases] == ["BRATS_485", "BRATS_486"]``
    """
    path = Path(path).absolute()
    found, cases, unused = _look(path, channels, names, reading, incomplete=incomplete), list[Case](), list[Unused]()
    for case in found.cases:
        name = shortened(case.name)
        if fault := fault_of_case(name, case.images):
            unused.append(Unused(path=case.images[0], reason=f"its name {fault}", suspect=True))
        else:
            cases.append(replace(case, name=name))
    if unused and not cases:
        expected = "a name without separators and control characters"
        raise DatasetError.at(printable(str(unused[0].path)), unused[0].reason, expected, "rename it")
    return replace(found, cases=tuple(cases), unused=(*found.unused, *unused))


def _look(path: Path, channels: int, names: Sequence[str], reading: Reading, *, incomplete: bool) -> FoundScans:
    """The scans with the names that their files and folders have."""
    if path.is_file() and (form := folder_format(path)) and (several := form.sort([path])[0]):
        return FoundScans(cases=tuple(Case(name=image_name(files[0]), images=files) for files in several.values()))
    if path.is_file() and path.suffix.lower() in TABLES:
        return FoundScans(cases=_sorted(read_scan_table(path, channels=channels)))
    if path.is_file() or path.parent.is_file():
        return FoundScans(cases=(_single(path, channels),))
    if not path.is_dir():
        raise DatasetError.at(path, "there is no such file or folder", "a scan or a folder of scans", "check the path")
    if reading.channels and len(reading.channels) != channels:
        raise DatasetError(f"--channels names {counted(len(reading.channels), 'channel')}, but the model has {channels}")
    tree = walk(path)
    leave_out_own(tree, "label map", "DICOM-SEG", "spacing")
    labels = {item.path for item in tree.items if item.is_label}
    tree.no_scans |= known_no_scans(sorted(labels))
    tree.items = [item for item in tree.items if item.path not in labels]
    if not tree.items and not tree.locked:
        found = f"holds no scan; found {suffixes_found(path)}"
        raise DatasetError.at(path, found, KNOWN, "convert the files")
    reading = fit_patterns(tree, reading)
    candidates = find_candidates(tree, reading)
    scans = group_scans(candidates, names, reading.channels, incomplete=incomplete)
    called = single_names(scans.single, candidates.layout)
    entries = [Case(name=name, images=one.item.images) for name, one in zip(called, scans.single, strict=True)]
    entries += [Case(name="_".join(p.relative_to(path).parts) or path.name, images=(p,)) for p in tree.locked]
    cases = [*_cases(_distinct(entries), channels)]
    for name, ones in scans.grouped.items():
        images = tuple(p for one in ones.values() for p in one.item.images)
        cases.append(Case(name=name, images=images, missing=_missing(ones, channels)))
    rest = (one for one in list_unused(tree) if one.path not in tree.locked)
    ordered = _sorted(cases)
    return FoundScans(cases=ordered, inferred=(*scans.inferred, *_like_channels(ordered, channels)), unused=(*scans.unused, *rest))


def _sorted(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Cases by name; raise ScanError where two would have the same."""
    found = sorted(cases, key=lambda case: case.name)
    for one, other in pairwise(found):
        if one.name.casefold() == other.name.casefold():
            raise ScanError(f"{one.images[0]} and {other.images[0]} would both be called {one.name}; rename one of them")
    return tuple(found)


def named_channels(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Numbers at the end of the names of several scans, by what stands before them, if they count channels: in all the same."""
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if (match := CHANNEL.fullmatch(case.name)) and len(case.images) == 1:
            groups[match["case"]].append(match["channel"])
    counts = {tuple(sorted(numbers)) for numbers in groups.values()}
    if len(groups) < FEWEST_LIKE_CHANNELS or len(counts) != 1:
        return {}
    (numbers,) = counts
    return groups if len(numbers) <= MOST_CHANNELS and numbers == tuple(f"{i:04d}" for i in range(len(numbers))) else {}


def _like_channels(cases: Sequence[Case], channels: int) -> Iterator[str]:
    """A line if several scans are named as channels of others, with more channels than the model has."""
    groups = named_channels(cases)
    numbers = sorted(next(iter(groups.values()), []))
    if len(numbers) > channels:
        suffix = suffix_of(cases[0].images[0])
        yield (
            f"warning: the names are those of {counted(len(groups), 'scan')} with {len(numbers)} channels each "
            f"({next(iter(groups))}_{numbers[0]} to _{numbers[-1]}), but the model has {counted(channels, 'channel')}: every file "
            f'is predicted as a scan of its own; --images "*_{numbers[0]}{suffix}" takes the first of each'
        )


def channel_files(names: Sequence[str], suffix: str) -> str:
    """How the files of a scan's channels are named, for messages: "CASE_0000.nii.gz (T1) and CASE_0001.nii.gz (T2)"."""
    files = [f"CASE_{number:04d}{suffix} ({name})" for number, name in enumerate(names)]
    few = files if len(files) <= MOST_NAMED else [*files[: MOST_NAMED - 1], "...", files[-1]]
    return " and ".join(filter(None, (", ".join(few[:-1]), few[-1])))


def _single(path: Path, channels: int) -> Case:
    """The case of one file, with the other channels that lie beside its first."""
    if suffix_of(path) not in FORMATS and not folder_format(path):
        if reason := why_unread(path):
            raise DatasetError(f"{path}: {reason}")
        found = f'is no scan; found the suffix "{suffix_of(path)}"'
        raise DatasetError.at(path, found, KNOWN, "convert the file")
    match = CHANNEL.fullmatch(image_name(path))
    if not match or int(match["channel"]) != 0:
        return Case(name=image_name(path), images=(path,))
    suffix = path.name[len(image_name(path)) :]
    others = [path.with_name(f"{match['case']}_{i:04d}{suffix}") for i in range(1, channels)]
    there = {number: one for number, one in enumerate((path, *others)) if not number or one.is_file()}
    return Case(name=match["case"], images=tuple(there.values()), missing=_missing(there, channels))


def _distinct(entries: Sequence[Case]) -> list[Case]:
    """Entries with distinct names: ``a.nii`` and ``a.nii.gz`` become a_nii and a_nii_gz."""
    counts = Counter(e.name.casefold() for e in entries)
    return [
        e if counts[e.name.casefold()] == 1 else Case(name=e.name + suffix_of(e.images[0]).replace(".", "_"), images=e.images)
        for e in entries
    ]


def _cases(entries: Sequence[Case], channels: int) -> Iterator[Case]:
    groups: dict[str, dict[int, Case]] = defaultdict(dict)
    loose = []
    for entry in entries:
        match = CHANNEL.fullmatch(entry.name)
        if match and len(entry.images) == 1:
            groups[match["case"]][int(match["channel"])] = entry
        else:
            loose.append(entry)
    names = {e.name for e in loose}
    for name, group in groups.items():
        if name not in names and _are_channels(group, channels):
            images = tuple(group[i].images[0] for i in sorted(group))
            yield Case(name=name, images=images, missing=_missing(group, channels))
        else:
            loose += group.values()
    yield from (Case(name=e.name, images=e.images) for e in loose)


def _missing(found: Collection[int], channels: int) -> tuple[int, ...]:
    """Numbers of the channels that were not found."""
    return tuple(number for number in range(channels) if number not in found)


def _are_channels(group: dict[int, Case], channels: int) -> bool:
    """True if the numbers count channels: 0 to the model's last, some of them perhaps missing, but not 1, 2, 3 of a stack."""
    return set(group) <= set(range(channels)) and (0 in group or channels > 1)
