"""Cases in a folder of images: which files are images, and which of them are channels of one case."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from nnseg.core.dataset import Case
from nnseg.core.errors import DatasetError, ScanError
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, folder_format, folder_stem, known_suffixes, stem_of, suffix_of
from nnseg.storage.images.unread import why_unread

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""nnU-Net's names: CASE_0000 is the first channel of CASE."""

KNOWN = f"{', '.join(FOLDER_FORMATS)} or one of {known_suffixes()}"
"""What can be read, for messages."""


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images in a folder by name: files with a known suffix, and folders with DICOM slices; hidden ones are left out."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return tuple(p for p in entries if (folder_format(p) if p.is_dir() else suffix_of(p) in FORMATS))


def image_name(path: Path) -> str:
    """The case name of a file, a volume in a file or a series' folder, with the channel number if it has one."""
    if path.parent.is_file():
        return f"{stem_of(path.parent)}_{path.name}"
    return folder_stem(path) if path.is_dir() else stem_of(path)


def case_name(name: str) -> str:
    """A name without its channel number, if it has one."""
    match = CHANNEL.fullmatch(name)
    return match["case"] if match else name


def suffixes_found(folder: Path) -> str:
    """The suffixes of the files in a folder, or what else they are, for messages: ".txt (3), DICOM RT Structure Set (1)"."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    known = {path: why for form in FOLDER_FORMATS.values() for path, why in form.not_scans(files).items()}
    counts = Counter(known[p].removeprefix("is a ") if p in known else suffix_of(p) or "no suffix" for p in files)
    return ", ".join(f"{suffix} ({n})" for suffix, n in counts.most_common(10)) or "no file at all"


def find_scans(path: Path, *, channels: int) -> tuple[Case, ...]:
    """The scans in a file or a folder and its folders, sorted by name.

    ``CASE_0000``, ``CASE_0001``, ... are the channels of one case; a file without channel number holds all channels of a case. A
    folder of DICOM slices is a case with the folder's name; of several volumes in it, or in a file, each is a case. Names of cases
    in folders begin with the folders' names. A folder that cannot be listed is a case too, which fails when it is read.

    Args:
        channels: number that the model needs; it decides whether numbers at the end of names count channels or slices.

    Raises:
        DatasetError: no such file or folder, or no scan in it.
        ScanError: two scans would have the same name.

    Example:
        ``[case.name for case in find_scans(Path("imagesTs"), channels=2)] == ["BRATS_485", "BRATS_486"]``
    """
    path = Path(path).absolute()
    if path.is_file() and (form := folder_format(path)) and (several := form.split([path])):
        return tuple(Case(name=image_name(files[0]), images=files) for files in several.values())
    if path.is_file() or path.parent.is_file():
        return (_single(path, channels),)
    if not path.is_dir():
        raise DatasetError.at(path, "there is no such file or folder", "a scan or a folder of scans", "check the path")
    entries = list(_walk(path, ()))
    if not entries:
        found = f"holds no scan; found {suffixes_found(path)}"
        raise DatasetError.at(path, found, KNOWN, "convert the files")
    cases = sorted(_cases(_distinct(entries), channels), key=lambda c: c.name)
    for one, other in pairwise(cases):
        if one.name.casefold() == other.name.casefold():
            raise ScanError(f"{one.images[0]} and {other.images[0]} would both be called {one.name}; rename one of them")
    return tuple(cases)


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
    return Case(name=match["case"], images=(path, *(p for p in others if p.is_file())))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Case]:
    name = "_".join(above) or folder.name
    if any(form.is_image and form.is_image(folder) for form in FOLDER_FORMATS.values()):
        yield Case(name="_".join((*above[:-1], image_name(folder))), images=(folder,))
        return
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        images = [p for p in entries if p.is_file() and suffix_of(p) in FORMATS]
        folders = [p for p in entries if p.is_dir()]
    except OSError:  # reading this case will raise the error
        yield Case(name=name, images=(folder,))
        return
    yield from (Case(name="_".join((*above, image_name(path))), images=(path,)) for path in images)
    used: set[Path] = set()
    for form in FOLDER_FORMATS.values():
        if parts := [p for p in form.files(folder) if suffix_of(p) not in FORMATS]:
            used.update(parent for part in parts for parent in part.parents)
            several = form.split(parts)
            yield from (Case(name=f"{name}_{mark}", images=files) for mark, files in several.items())
            if not several:
                yield Case(name=name, images=(folder,))
    for path in folders:
        circular = path.resolve() in (folder.resolve(), *folder.resolve().parents)  # a link may lead back
        if not circular and path not in used:
            yield from _walk(path, (*above, path.name))


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
            yield Case(name=name, images=tuple(group[i].images[0] for i in sorted(group)))
        else:
            loose += group.values()
    yield from (Case(name=e.name, images=e.images) for e in loose)


def _are_channels(group: dict[int, Case], channels: int) -> bool:
    """True if the numbers count channels: 0 to the model's last, some of them perhaps missing, but not 1, 2, 3 of a stack."""
    return set(group) <= set(range(channels)) and (0 in group or channels > 1)
