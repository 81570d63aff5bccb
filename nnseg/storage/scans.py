"""Scans to predict, found in files and folders: images of any format, channels in files of their own, DICOM series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nnseg.core.dataset import Case
from nnseg.core.errors import ScanError
from nnseg.storage.description import wrong
from nnseg.storage.dicom import dicom_files, is_dicom, readable_series, volumes_of
from nnseg.storage.formats import FORMATS, suffix_of
from nnseg.storage.naming import CHANNEL, known_suffixes, name_of, suffixes_found


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One image: its name, with the folders it lies in and a channel number if it has one, and its file or files."""

    name: str
    images: tuple[Path, ...]


def find_scans(path: Path, *, channels: int) -> tuple[Case, ...]:
    """The scans in a file or a folder and its folders, sorted by name.

    ``CASE_0000``, ``CASE_0001``, ... are the channels of one case; a file without channel number holds all channels of a case. A
    folder of DICOM slices is a case called like the folder. Cases in folders get the folders' names before theirs. A folder that
    cannot be looked into is a case too, which fails when it is read.

    Args:
        path: a file, or a folder.
        channels: of the model; tells whether numbers at the end of names count channels or slices.

    Raises:
        DatasetError: no such file or folder, or no scan in it.
        ScanError: two scans would have the same name.

    Example:
        ``[case.name for case in find_scans(Path("imagesTs"), channels=2)] == ["BRATS_485", "BRATS_486"]``
    """
    path = Path(path).absolute()
    if path.is_file():
        return (_single(path, channels),)
    if not path.is_dir():
        raise wrong(path, "there is no such file or folder", expected="a scan or a folder of scans", advice="check the path")
    entries = list(_walk(path, ()))
    if not entries:
        found = f"holds no scan; found {suffixes_found(path)}"
        raise wrong(path, found, expected=f"DICOM or one of {known_suffixes()}", advice="convert the files")
    cases = sorted(_cases(_distinct(entries), channels), key=lambda c: c.name)
    for one, other in pairwise(cases):
        if one.name.casefold() == other.name.casefold():
            raise ScanError(f"{one.images[0]} and {other.images[0]} would both be called {one.name}; rename one of them")
    return tuple(cases)


def _single(path: Path, channels: int) -> Case:
    """The case of one file, with the other channels that lie beside its first."""
    if suffix_of(path) not in FORMATS and not is_dicom(path):
        found = f'is no scan; found the suffix "{suffix_of(path)}"'
        raise wrong(path, found, expected=f"DICOM or one of {known_suffixes()}", advice="convert the file")
    match = CHANNEL.fullmatch(name_of(path))
    if not match or int(match["channel"]) != 0:
        return Case(name=name_of(path), images=(path,))
    suffix = path.name[len(name_of(path)) :]
    others = [path.with_name(f"{match['case']}_{i:04d}{suffix}") for i in range(1, channels)]
    return Case(name=match["case"], images=(path, *(p for p in others if p.is_file())))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[_Entry]:
    name = "_".join(above) or folder.name
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        images = [p for p in entries if p.is_file() and suffix_of(p) in FORMATS]
        folders = [p for p in entries if p.is_dir()]
    except OSError:  # told of when it is read
        yield _Entry(name=name, images=(folder,))
        return
    yield from (_Entry(name="_".join((*above, name_of(path))), images=(path,)) for path in images)
    slices = [p for p in dicom_files(folder) if suffix_of(p) not in FORMATS]
    if slices:
        yield from _series_entries(folder, slices, name)
    for path in folders:
        if path.resolve() not in (folder.resolve(), *folder.resolve().parents):  # a link may lead in circles
            yield from _walk(path, (*above, path.name))


def _series_entries(folder: Path, slices: Sequence[Path], name: str) -> Iterator[_Entry]:
    """The folder if it holds one volume; the files of each volume if it holds several, and those that cannot be read apart.

    A broken one is told of when it is read.
    """
    found, broken = readable_series(slices)
    volumes = volumes_of(found)
    if len(volumes) < 2:
        yield _Entry(name=name, images=(folder,))
        return
    if broken:
        yield _Entry(name=f"{name}_unreadable", images=broken)
    numbers = [v.number for v in volumes]
    for i, volume in enumerate(volumes):
        mark = volume.number if volume.number and numbers.count(volume.number) == 1 else f"{volume.number or 0}_{i + 1}"
        yield _Entry(name=f"{name}_series{mark}", images=volume.files)


def _distinct(entries: Sequence[_Entry]) -> list[_Entry]:
    """Entries whose names tell them apart: ``a.nii`` and ``a.nii.gz`` become a_nii and a_nii_gz."""
    counts = Counter(e.name.casefold() for e in entries)
    return [
        e if counts[e.name.casefold()] == 1 else _Entry(name=e.name + suffix_of(e.images[0]).replace(".", "_"), images=e.images)
        for e in entries
    ]


def _cases(entries: Sequence[_Entry], channels: int) -> Iterator[Case]:
    groups: dict[str, dict[int, _Entry]] = defaultdict(dict)
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
            yield Case(name=name, images=tuple(group[i].images[0] for i in sorted(group)))
        else:
            loose += group.values()
    yield from (Case(name=e.name, images=e.images) for e in loose)


def _are_channels(group: dict[int, _Entry], channels: int) -> bool:
    """True if the numbers count channels: 0 to the model's last, some of them perhaps missing, but not 1, 2, 3 of a stack."""
    return set(group) <= set(range(channels)) and (0 in group or channels > 1)
