"""One walk through a folder: its images, and what else lies in it. No file of a known suffix is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nnseg.core.dataset import Unused, counted
from nnseg.core.errors import ScanError
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, folder_stem, suffix_of
from nnseg.storage.images.unread import why_unread
from nnseg.storage.predictions import OwnKind, own_files

_TEXTS = ".json .jsonl .tsv .csv .txt .md .rst .cfg .ini .toml .yml .yaml .xml .html .htm .pdf .doc .docx .xls .xlsx .ods .odt .log"
_OTHERS = ".bval .bvec .bvals .bvecs .bib .py .sh .ipynb .md5 .sha256 .url .lnk .ctbl .mrml .pth .pt .ckpt .onnx .pkl"
COMPANIONS = frozenset(f"{_TEXTS} {_OTHERS}".split())
"""Suffixes of files that hold no scan of their own: texts, tables, models, voxels of another file."""

COMPANION_NAMES = frozenset("readme license licence changes copying citation authors notice thumbs desktop".split())  # noqa: SIM905
"""Names, without suffix, of texts."""

HEADERS = frozenset((".hdr", ".head", ".mhd", ".nhdr"))
"""Suffixes of headers whose voxels are in another file."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image: a file of a known suffix, the folder of a series, or those files of one that belong to one volume.

    Args:
        path: of the file or folder.
        folders: names of the folders between the root and it.
        stem: its name without suffix.
        suffix: "" for a folder.
        files: of one volume, where a folder holds several.
        is_label: a label map by its format, such as DICOM-SEG.
    """

    path: Path
    folders: tuple[str, ...]
    stem: str
    suffix: str = ""
    files: tuple[Path, ...] = ()
    is_label: bool = False

    @property
    def images(self) -> tuple[Path, ...]:
        """What is read for it."""
        return self.files or (self.path,)

    @property
    def below(self) -> str:
        """Its path below the root, for patterns and messages."""
        return "/".join((*self.folders, self.path.name)) if not self.files else "/".join((*self.folders, self.stem))


@dataclass(kw_only=True)
class Tree:
    """What lies in a folder and its folders.

    Args:
        items: images, in the order of their paths.
        unread: files that are neither images nor their companions.
        hidden: number of hidden files and folders.
        companions: numbers of texts, tables and the like, by suffix.
        parts: files of formats that are a folder of files, such as DICOM.
        locked: folders that cannot be listed.
        own: what nnseg predict wrote there, beside label maps.
    """

    root: Path
    items: list[Item] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    hidden: int = 0
    companions: Counter[str] = field(default_factory=Counter)
    locked: list[Path] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)
    own: list[Unused] = field(default_factory=list)

    def unused(self) -> tuple[Unused, ...]:
        """What is no image: files that cannot be read one by one, companions and hidden files by number."""
        found = [Unused(path=path, reason="cannot be listed", suspect=True) for path in self.locked]
        known = {path: why for form in FOLDER_FORMATS.values() for path, why in form.not_scans(self.parts).items()}
        found += [Unused(path=path, reason=why) for path, why in known.items()]
        found += [_unread(path) for path in self.unread if path not in known]
        if self.companions:
            most = sorted(self.companions.items(), key=lambda one: (-one[1], one[0]))
            listed = ", ".join(f"{suffix} ({n})" for suffix, n in most[:5]) + (", ..." if len(most) > 5 else "")
            found.append(Unused(path=self.root, reason=f"{counted(self.companions.total(), 'file')} without image: {listed}"))
        if self.hidden:
            found.append(Unused(path=self.root, reason=counted(self.hidden, "hidden file")))
        return (*found, *self.own)

    def leave_out_own(self, *kinds: OwnKind) -> None:
        """Remove files of these kinds that nnseg predict wrote from what may be used."""
        folders = sorted({path.parent for path in (*self.unread, *(item.path for item in self.items))})
        own = {path: kind for folder in folders for path, kind in own_files(folder).items() if kind in kinds}
        self.items = [item for item in self.items if item.path not in own]
        self.unread = [path for path in self.unread if path not in own]
        self.own += [Unused(path=path, reason=f"{kind} written by nnseg predict") for path, kind in own.items()]


def _unread(path: Path) -> Unused:
    """A file of no format that is read; someone may miss it if it is of another format of scans."""
    suffix = suffix_of(path)
    known = why_unread(path).removeprefix("is ")
    return Unused(path=path, reason=known or f"{suffix or 'a file without suffix'} is no format that is read", suspect=bool(known))


def walk(root: Path) -> Tree:
    """All that lies in a folder. Links that lead back to a folder above them are not followed."""
    tree = Tree(root=root)
    _look_into(tree, root, (), frozenset({os.path.realpath(root)}))
    tree.leave_out_own("uncertainty map", "probabilities")
    return tree


def _look_into(tree: Tree, folder: Path, above: tuple[str, ...], seen: frozenset[str]) -> None:
    if any(form.is_image is not None and form.is_image(folder) for form in FOLDER_FORMATS.values()):
        tree.items.append(Item(path=folder, folders=above[:-1], stem=folder_stem(folder)))
        return
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        tree.locked.append(folder)
        return
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    tree.hidden += len(entries) - len(shown)
    others = _take_files(tree, folder, above, [entry.name for entry in shown if entry.is_file()])
    used = _take_series(tree, folder, above, others) if others else set()
    tree.unread += [path for path in others if path not in used]
    for entry in shown:
        path = folder / entry.name
        if entry.is_dir() and path not in used:
            real = os.path.realpath(path) if entry.is_symlink() else ""
            if not real:
                _look_into(tree, path, (*above, entry.name), seen)
            elif real not in seen and not f"{os.path.realpath(folder)}{os.sep}".startswith(f"{real}{os.sep}"):
                _look_into(tree, path, (*above, entry.name), seen | {real})


def _take_files(tree: Tree, folder: Path, above: tuple[str, ...], names: Sequence[str]) -> list[Path]:
    """Add the images and count the companions among the files of a folder; the others."""
    others, headers = [], []
    for name in names:
        path = folder / name
        suffix = suffix_of(path)
        if suffix in FORMATS:
            tree.items.append(Item(path=path, folders=above, stem=name[: -len(suffix)], suffix=suffix))
            headers += [path] if suffix in HEADERS else []
        elif suffix in COMPANIONS or path.stem.casefold() in COMPANION_NAMES:
            tree.companions[suffix or name] += 1
        else:
            others.append(path)
    voxels = _voxels_of(headers) if others else set()
    tree.companions.update(suffix_of(path) for path in others if path in voxels)
    return [path for path in others if path not in voxels]


def _voxels_of(headers: Sequence[Path]) -> set[Path]:
    """The files that are read with headers."""
    found: set[Path] = set()
    for path in headers:
        with suppress(OSError, ScanError):
            found.update(FORMATS[suffix_of(path)].beside(path))
    return found


def _take_series(tree: Tree, folder: Path, above: tuple[str, ...], others: Sequence[Path]) -> set[Path]:
    """Add the images of `FOLDER_FORMATS` in a folder; the files and folders that they are made of."""
    used: set[Path] = set()
    name = above[-1] if above else folder.name
    for form in (form for form in FOLDER_FORMATS.values() if not form.is_image):
        own = [path for path in others if form.is_part(path)]
        try:
            parts = [path for path in form.files(folder) if suffix_of(path) not in FORMATS]
        except ScanError:
            parts = []
        among = set(parts)
        labels = [path for path in own if path not in among and form.is_labels(path)]
        tree.items += [Item(path=path, folders=above, stem=path.stem, suffix=path.suffix, is_label=True) for path in labels]
        tree.parts += [path for path in own if path not in labels]
        used.update(own, parts, *(part.parents for part in parts))
        several = form.split(parts) if parts else {}
        for mark, files in several.items():
            tree.items.append(Item(path=folder, folders=above[:-1], stem=f"{name}_{mark}", files=files))
        if parts and not several:
            tree.items.append(Item(path=folder, folders=above[:-1], stem=name))
    return used
