"""One walk through a folder: its images, and what else lies in it. No file of a known suffix is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from nnseg.core.dataset import Unused, counted
from nnseg.core.errors import ScanError
from nnseg.core.limits import limit
from nnseg.storage.datasets.items import Item, Tree
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, folder_stem, suffix_of
from nnseg.storage.images.unread import why_unread
from nnseg.storage.predictions import OwnKind, own_files
from nnseg.system.regular import check_regular, files_below

_TEXTS = ".json .jsonl .tsv .csv .txt .md .rst .cfg .ini .toml .yml .yaml .xml .html .htm .pdf .doc .docx .xls .xlsx .ods .odt .log"
_OTHERS = ".bval .bvec .bvals .bvecs .bib .py .sh .ipynb .md5 .sha256 .url .lnk .ctbl .mrml .pth .pt .ckpt .onnx .pkl"
COMPANIONS = frozenset(f"{_TEXTS} {_OTHERS}".split())
"""Suffixes of files that hold no scan of their own: texts, tables, models."""

COMPANION_NAMES = frozenset("readme license licence changes copying citation authors notice thumbs desktop".split())  # noqa: SIM905
"""Names, without suffix, of texts."""


DESCRIPTIONS = frozenset({"dataset.json", "annotated_labels.csv", "splits_final.json"})
"""Names of files that say something of the images beside them, and are read."""


def list_unused(tree: Tree) -> tuple[Unused, ...]:
    """What is no image: files that cannot be read one by one, companions and hidden files by number."""
    found = [Unused(path=path, reason="cannot be listed", suspect=True) for path in tree.locked]
    found += [Unused(path=path, reason=why) for path, why in tree.no_scans.items()]
    found += [_unread(path) for path in tree.unread if path not in tree.no_scans]
    if companions := tree.companions - tree.beside:
        most = sorted(companions.items(), key=lambda one: (-one[1], one[0]))
        listed = ", ".join(f"{suffix} ({n})" for suffix, n in most[:5]) + (", ..." if len(most) > 5 else "")
        found.append(Unused(path=tree.root, reason=f"{counted(companions.total(), 'file')} without image: {listed}"))
    if tree.hidden:
        found.append(Unused(path=tree.root, reason=counted(tree.hidden, "hidden file")))
    return (*found, *tree.passed, *tree.own)


def suffixes_found(folder: Path) -> str:
    """The suffixes of the files in a folder, or what else they are, for messages: ".txt (3), DICOM RT Structure Set (1)"."""
    files = [p for p in sorted(files_below(folder)) if not p.name.startswith(".")]
    known = known_no_scans(files)
    counts = Counter(known[p].removeprefix("is a ") if p in known else suffix_of(p) or "no suffix" for p in files)
    return ", ".join(f"{suffix} ({n})" for suffix, n in counts.most_common(10)) or "no file at all"


def known_no_scans(files: Sequence[Path]) -> dict[Path, str]:
    """Those of the files that are of a format of scans and none, with the reason."""
    return {path: why for form in FOLDER_FORMATS.values() for path, why in form.sort(files)[1].items()}


def leave_out_own(tree: Tree, *kinds: OwnKind) -> None:
    """Remove files of these kinds that nnseg predict wrote from what may be used."""
    folders = sorted({path.parent for path in (*tree.unread, *(item.path for item in tree.items))})
    own = {path: kind for folder in folders for path, kind in own_files(folder).items() if kind in kinds}
    tree.items = [item for item in tree.items if item.path not in own]
    tree.unread = [path for path in tree.unread if path not in own]
    tree.own += [Unused(path=path, reason=f"{kind} written by nnseg predict") for path, kind in own.items()]


def _unread(path: Path) -> Unused:
    """A file of no format that is read; someone may miss it if it is of another format of scans."""
    suffix = suffix_of(path)
    known = why_unread(path).removeprefix("is ")
    return Unused(path=path, reason=known or f"{suffix or 'a file without suffix'} is no format that is read", suspect=bool(known))


def walk(root: Path) -> Tree:
    """All that lies in a folder. Links that lead back to a folder above them are not followed."""
    tree = Tree(root=root)
    _look_into(tree, root, (), frozenset({os.path.realpath(root)}))
    leave_out_own(tree, "uncertainty map", "probabilities", "objects", "prepared channel")
    if any(not item.is_localiser and not item.is_label for item in tree.items):
        tree.items = [item for item in tree.items if not item.is_localiser]
    else:
        used = {path for item in tree.items if item.is_localiser for path in item.files}
        tree.no_scans = {path: why for path, why in tree.no_scans.items() if path not in used}
    return tree


def _look_into(tree: Tree, folder: Path, above: tuple[str, ...], seen: frozenset[str]) -> None:
    if len(above) > limit("folder_depth"):
        tree.passed.append(Unused(path=folder, reason=f"lies below {len(above)} folders, and is not looked into", suspect=True))
        return
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
    kinds = {entry.name: _kind(entry) for entry in shown}
    others = _take_files(tree, folder, above, [name for name, kind in kinds.items() if kind == "file"])
    used = _take_series(tree, folder, above, others) if others else set()
    tree.unread += [path for path in others if path not in used]
    for entry in shown:
        path = folder / entry.name
        if kinds[entry.name] == "folder" and path not in used:
            real = os.path.realpath(path) if entry.is_symlink() else ""
            if not real or _may_follow(tree, folder, real, seen):
                _look_into(tree, path, (*above, entry.name), seen | {real} if real else seen)
            else:
                tree.passed.append(Unused(path=path, reason=f"is a link to {real}, which was looked into before"))
        elif kinds[entry.name] == "":
            tree.passed += _no_file(path)


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", ""]:
    """What an entry is; "" for other things, and for links that lead in a ring."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:
        return ""


def _may_follow(tree: Tree, folder: Path, real: str, seen: frozenset[str]) -> bool:
    """False for a link to a folder above it, and to one to which many links have led: rings of links have very many paths."""
    tree.visits[real] += 1
    above = f"{os.path.realpath(folder)}{os.sep}".startswith(f"{real}{os.sep}")
    return not above and real not in seen and tree.visits[real] <= limit("folder_visits")


def _no_file(path: Path) -> list[Unused]:
    """What is neither a file nor a folder; a link to what is missing does not count."""
    try:
        check_regular(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Unused(path=path, reason=error.strerror or str(error), suspect=True)]
    return []


def _take_files(tree: Tree, folder: Path, above: tuple[str, ...], names: Sequence[str]) -> list[Path]:
    """Add the images and count the companions among the files of a folder; the others."""
    images: list[Path] = []
    others: list[Path] = []
    companions: list[Path] = []
    for name in names:
        path = folder / name
        suffix = suffix_of(path)
        if suffix in FORMATS:
            tree.items.append(Item(path=path, folders=above, stem=name[: -len(suffix)], suffix=suffix))
            images.append(path)
        else:
            known = suffix in COMPANIONS or path.stem.casefold() in COMPANION_NAMES
            (companions if known else others).append(path)
    beside = _read_with(images) if others or companions else set()
    tree.companions.update(suffix_of(path) or path.name for path in companions)
    tree.beside.update(suffix_of(path) for path in companions if path in beside or path.name in DESCRIPTIONS)
    return [path for path in others if path not in beside]


def _read_with(images: Sequence[Path]) -> set[Path]:
    """The files that are read with images: voxels of headers, voxel sizes of pictures."""
    found: set[Path] = set()
    for path in images:
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
        several, no_scans = form.sort([path for path in dict.fromkeys((*own, *parts)) if path not in labels])
        tree.no_scans |= no_scans
        used.update(own, parts, *(part.parents for part in parts))
        if parts and not several:
            only = no_scans.keys() >= among
            files = tuple(parts) if only else ()
            tree.items.append(Item(path=folder, folders=above[:-1], stem=name, files=files, is_localiser=only))
        for mark, files in several.items():
            only = no_scans.keys() >= set(files)
            tree.items.append(Item(path=folder, folders=above[:-1], stem=f"{name}_{mark}", files=files, is_localiser=only))
    return used
