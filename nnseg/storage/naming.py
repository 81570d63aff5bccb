"""Which files of a folder are images, and which of them are channels of one case."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from nnseg.storage.dicom import is_dicom
from nnseg.storage.formats import FORMATS, known, stem_of, suffix_of

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""nnU-Net's names: CASE_0000 is the first channel of CASE."""


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder by name: files with a known suffix, and folders that hold DICOM slices; hidden ones are left out."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return tuple(p for p in entries if (has_dicom(p) if p.is_dir() else suffix_of(p) in FORMATS))


def has_dicom(folder: Path) -> bool:
    """True if a DICOM file lies in the folder itself."""
    return any(p.is_file() and not p.name.startswith(".") and is_dicom(p) for p in folder.iterdir())


def name_of(path: Path) -> str:
    """The case name of a file or of a series' folder, with the channel number if it has one."""
    return path.name if path.is_dir() else stem_of(path)


def case_of(name: str) -> str:
    """A name without its channel number, if it has one."""
    match = CHANNEL.fullmatch(name)
    return match["case"] if match else name


def suffixes_found(folder: Path) -> str:
    """What lies in a folder, for people: ".txt (3), .docx (1)"."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    counts = Counter(suffix_of(p) or "no suffix" for p in files)
    return ", ".join(f"{suffix} ({n})" for suffix, n in counts.most_common(10)) or "no file at all"


def known_suffixes() -> str:
    """All suffixes that can be read, for people."""
    return known()


def by_name(files: Iterable[Path]) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Files by case name, and those of one name apart: ``a.nii`` and ``a.nii.gz``, or names that differ in capitals only."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        groups[name_of(path).casefold()].append(path)
    single = {name_of(paths[0]): paths[0] for paths in groups.values() if len(paths) == 1}
    return single, {name_of(paths[0]): paths for paths in groups.values() if len(paths) > 1}


def by_channel(files: Mapping[str, Path], label_names: Collection[str]) -> dict[str, dict[int, Path]]:
    """Files by case and channel number, or each a case of its own if that fits the names of the label maps better.

    A stack saved as ``slice_0001.png``, ``slice_0002.png`` with label maps of the same names is not one case of many channels.
    """
    grouped: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, path in files.items():
        match = CHANNEL.fullmatch(name)
        grouped[case_of(name)][int(match["channel"]) if match else 0] = path
    labelled = set(label_names)
    if len(labelled & set(grouped)) > len(labelled & set(files)) or (not labelled & set(files) and _all_first(files)):
        return dict(grouped)
    return {name: {0: path} for name, path in files.items()}


def _all_first(names: Iterable[str]) -> bool:
    return all(name.endswith("_0000") for name in names)
