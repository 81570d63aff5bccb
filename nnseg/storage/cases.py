"""Preprocessed cases on disk, compressed, read whole or patch by patch.

One case is one file, an ordinary zip whose members are stored as they are::

    case.json         name, key, placement, known labels; size, digest and checksums of the chunks of each other member
    image.b2nd        float32 (C, Z, Y, X), Blosc2: LZ4 after byte shuffling
    labels.b2nd       int8 or int16 (Z, Y, X)
    locations.b2nd    int32 (n, 3), voxels of one label after another

One file, so that one rename makes a case complete, even after ``kill -9``, and there is one file to flush to disk, not four. A zip,
because Blosc2 reads memory-mapped arrays at any offset of a file, and because every tool can open it. Equal cases give equal bytes.

Blosc2 checks nothing. What is read into memory is compared with its digest; a chunk of an array that stays on disk with its CRC-32,
when the process reads it for the first time.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import DamagedCaseError, ScanError, is_fault
from nnseg.core.frozen import FrozenModel, digest, short_repr
from nnseg.core.geometry import Placement
from nnseg.core.image import IN_MEMORY_BYTES, MOST_LOCATIONS, PreprocessedCase
from nnseg.core.limits import limit
from nnseg.storage.bounded import open_archive
from nnseg.storage.case_arrays import MADE_AGAIN, ArrayFile, describe, open_in_place, pack, read_into_memory
from nnseg.storage.files import write_aside

if TYPE_CHECKING:
    from nnseg.core.plan import Plan

Locations = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredCase:
    """A preprocessed case for drawing patches.

    Args:
        image: float32 (C, Z, Y, X), in memory or on disk; slicing returns NumPy arrays either way.
        labels: int8 or int16 (Z, Y, X), label indices, -1 where ignored; as ``image`` in memory or on disk.
        locations: for each label index above 0 that occurs, a random sample of its voxels (n, 3) in ascending order.
        annotated: a sample of the voxels (n, 3) that are not ignored; None where nothing is ignored.
        placement: of the network's grid in the scan.
        known: indices of the labels that were annotated in this case, the background's always; None for all.
    """

    name: str
    image: Any
    labels: Any
    locations: Mapping[int, Locations]
    annotated: Locations | None
    placement: Placement
    known: tuple[int, ...] | None = None

    __repr__ = short_repr


class _Contents(FrozenModel):
    """case.json. ``counts`` are rows of locations.b2nd per label index, in order; those of index -1 are ``annotated``."""

    format: Literal[1] = 1
    name: str
    key: str
    placement: Placement
    known: tuple[int, ...] | None = None
    unpacked_bytes: int
    counts: dict[int, int]
    members: dict[str, ArrayFile]

    @property
    def last_label(self) -> int:
        """The largest label index that occurs."""
        return max((0, *self.counts))


@dataclass(frozen=True)
class CaseStore:
    """A folder of preprocessed cases.

    Args:
        folder: created when the first case is written.
        channels, labels: number of those that each case has, the background counted; None if they are not checked.
    """

    folder: Path
    channels: int | None = None
    labels: int | None = None

    @classmethod
    def of(cls, folder: Path, plan: Plan) -> CaseStore:
        """The store of the cases that the networks of a plan are trained on: of images, or of levels if it is distilled."""
        channels = len(plan.labels.foreground) if plan.training.distillation else plan.stored_channels
        return cls(folder, channels, len(plan.labels.values))

    def names(self) -> tuple[str, ...]:
        """Names of all complete cases, sorted."""
        found = {path: _read_contents(path) for path in self.folder.glob(f"*{SUFFIX}")}
        return tuple(sorted(contents.name for path, contents in found.items() if contents and self._path(contents.name) == path))

    def has(self, name: str, key: str) -> bool:
        """True if the case is there with members of the recorded sizes, and was written with this key."""
        contents = self._contents(name)
        return contents is not None and contents.key == key

    def write(self, case: PreprocessedCase, key: str, *, dimensions: int = 3) -> None:
        """Write a case, replacing an older one of its name.

        Args:
            case: with a name, and with labels.
            key: digest of everything the case was made from.
            dimensions: of the patches that will be read; arrays are chunked into slices for 2, into cubes for 3.

        Raises:
            ScanError: the case has no name or no labels.
            RunError: the folder cannot be written to.
        """
        self._write(case, case.image, *_labels_and_locations(case), key, dimensions)

    def write_levels(self, case: StoredCase, levels: npt.NDArray[np.uint8], key: str, *, dimensions: int = 3) -> None:
        """Write a case of another store with levels in the place of its image, see `nnseg.storage.case_levels`; as `write`.

        Args:
            case: from the other store.
            levels: (F, Z, Y, X).
            key: digest of everything the levels were made from.
            dimensions: of the patches that will be read.
        """
        chosen = dict(case.locations) | ({} if case.annotated is None else {ANNOTATED: case.annotated})
        self._write(case, levels, np.asarray(case.labels[...]), chosen, key, dimensions)

    def _write(
        self,
        case: PreprocessedCase | StoredCase,
        image: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        chosen: dict[int, Locations],
        key: str,
        dimensions: int,
    ) -> None:
        rows = np.concatenate([np.zeros((0, 3), np.int32), *chosen.values()])
        frames = {IMAGE: pack(image, dimensions), LABELS: pack(labels, dimensions), LOCATIONS: pack(rows, 0)}
        contents = _Contents(
            name=case.name,
            key=key,
            placement=case.placement,
            known=case.known,
            unpacked_bytes=image.nbytes + labels.nbytes,
            counts={index: len(where) for index, where in chosen.items()},
            members={name: describe(frame) for name, frame in frames.items()},
        )
        with write_aside(self._path(case.name)) as aside, zipfile.ZipFile(aside, "w") as file:
            file.writestr(zipfile.ZipInfo(CONTENTS), contents.model_dump_json())
            for name, frame in frames.items():
                file.writestr(zipfile.ZipInfo(name), frame)

    def read(self, name: str) -> StoredCase:
        """A case. Arrays that are read into memory are verified now, the chunks of those on disk when they are read.

        Raises:
            DamagedCaseError: the case is not there, or damaged; also raised by slicing an array on disk.
        """
        path, contents = self._path(name), self._contents(name)
        if contents is None:
            raise DamagedCaseError(f"{path}: this preprocessed case is missing or damaged; {MADE_AGAIN}")
        try:
            with zipfile.ZipFile(path) as file:
                read: Callable[..., Any] = read_into_memory if contents.unpacked_bytes < IN_MEMORY_BYTES else open_in_place
                image = read(file, IMAGE, contents.members[IMAGE])
                labels = read(file, LABELS, contents.members[LABELS], contents.last_label)
                rows = read_into_memory(file, LOCATIONS, contents.members[LOCATIONS])
        except Exception as error:  # Blosc2 raises whatever the description in a damaged frame leads it into
            raise DamagedCaseError(f"{path}: this preprocessed case is damaged ({error}); {MADE_AGAIN}") from error
        if not _fit(image, labels, rows, list(contents.counts.values())):
            raise DamagedCaseError(
                f"{path}: the arrays of this preprocessed case do not fit each other; delete it, and it is made again"
            )
        if misfit := self._misfit(contents, image.shape[0]):
            raise DamagedCaseError(f"{path}: this preprocessed case has {misfit}; {MADE_AGAIN}")
        ends = np.cumsum(list(contents.counts.values()))
        locations = {index: rows[end - count : end] for (index, count), end in zip(contents.counts.items(), ends, strict=True)}
        return _stored_case(contents, image, labels, locations)

    def is_intact(self, name: str) -> bool:
        """True if the case is there, has the store's channels and labels, and every byte is as written, by the zip's checksums."""
        contents = self._contents(name)
        if contents is None:
            return False
        try:
            with zipfile.ZipFile(self._path(name)) as file:
                return file.testzip() is None and not self._misfit(contents, _channels(file, contents))
        except Exception:  # as in `read`
            return False

    def _misfit(self, contents: _Contents, channels: int) -> str:
        """Which other channels or labels a case has than those of the store; "" if it has the same."""
        if self.channels not in (None, channels):
            return f"{channels} channels, and its plan {self.channels}"
        if self.labels is not None and contents.last_label >= self.labels:
            return f"label {contents.last_label}, and its plan {self.labels} with the background"
        return ""

    def _path(self, name: str) -> Path:
        """The file of a case.

        Characters that some system forbids, or that would hide the file, are percent-encoded. A name that is too long then is its
        beginning with a digest, after "%-", which no encoded character begins with.
        """
        plain = quote(name, safe=" ()[]+,=@~")
        plain = f"%2E{plain[1:]}" if plain.startswith(".") else plain
        return self.folder / ((plain if len(plain) <= LONGEST_PLAIN else f"{plain[:120]}%-{digest(name)}") + SUFFIX)

    def _contents(self, name: str) -> _Contents | None:
        contents = _read_contents(self._path(name))
        return contents if contents and contents.name == name else None


def _fit(image: Any, labels: Any, rows: Locations, counts: Sequence[int]) -> bool:
    """True if the arrays of a case can be read together: labels and positions lie in the image, and all positions are counted."""
    shape, axes = tuple(image.shape), 4
    alike = len(shape) == axes and tuple(labels.shape) == shape[1:]
    kinds = np.dtype(image.dtype).kind in "fu" and np.dtype(labels.dtype).kind == "i"
    counted = min(counts, default=0) >= 0 and rows.shape == (sum(counts), 3)
    return alike and kinds and counted and bool((rows >= 0).all() and (rows < shape[1:]).all())


def _channels(file: zipfile.ZipFile, contents: _Contents) -> int:
    """Number of channels of a case's image, which is not read."""
    return int(open_in_place(file, IMAGE, contents.members[IMAGE]).shape[0])


def _read_contents(path: Path) -> _Contents | None:
    """The content of case.json; None unless the file is there and its members have the recorded sizes.

    Raises:
        ScanError: the disk does not give what is there: a training would go on without the case.
    """
    try:
        with open_archive(path, MOST_MEMBERS) as file:
            if file.getinfo(CONTENTS).file_size > limit("case_text_bytes") or any(i.compress_type for i in file.infolist()):
                return None  # not one that was written here
            contents = _Contents.model_validate_json(file.read(CONTENTS))
            sizes = {i.filename: i.file_size for i in file.infolist() if i.filename != CONTENTS}
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:  # of encrypted and odd members, too
        if is_fault(error):
            found = f"cannot be read ({getattr(error, 'strerror', error)})"
            raise ScanError.at(path, found, "a preprocessed case", "check the disk, and repeat the command") from error
        return None
    return contents if sizes == {m: member.bytes for m, member in contents.members.items()} else None


def in_memory(case: PreprocessedCase) -> StoredCase:
    """The case as a store would return it, without a file, for training on arrays.

    Args:
        case: with a name, and with labels; its image is not copied.

    Raises:
        ScanError: the case has no name or no labels.
    """
    return _stored_case(case, case.image, *_labels_and_locations(case))


def _stored_case(about: PreprocessedCase | _Contents, image: Any, labels: Any, locations: dict[int, Locations]) -> StoredCase:
    annotated = locations.pop(ANNOTATED, None)
    return StoredCase(
        name=about.name,
        image=image,
        labels=labels,
        locations=locations,
        annotated=annotated,
        placement=about.placement,
        known=about.known,
    )


SUFFIX = ".case"
LONGEST_PLAIN = 240
"""Characters of an encoded name without a digest."""
MOST_MEMBERS = 16
CONTENTS, IMAGE, LABELS, LOCATIONS = "case.json", "image.b2nd", "labels.b2nd", "locations.b2nd"
ANNOTATED = -1
"""Key of the positions of annotated voxels among those of label indices."""


def _labels_and_locations(case: PreprocessedCase) -> tuple[npt.NDArray[Any], dict[int, Locations]]:
    """Labels in the smallest type that holds them, and the sampled voxels of each."""
    if not case.name or case.labels is None:
        raise ScanError(f'case "{case.name}" cannot be stored for training: it needs a name and a label map')
    smallest = np.int8 if case.labels.max() <= np.iinfo(np.int8).max else np.int16
    return case.labels.astype(smallest), _sample_locations(case.labels, case.name)


def _sample_locations(labels: npt.NDArray[np.int16], name: str) -> dict[int, Locations]:
    """A sample of `MOST_LOCATIONS` voxels, or a hundredth, of each label above 0, and of annotated ones (-1) if some are not.

    Source: nnU-Net's class locations. The sample depends on the case's name and labels only.
    """
    seed = int.from_bytes(hashlib.blake2b(name.encode() + labels.tobytes(), digest_size=8).digest())
    flat = labels.reshape(-1)
    present = [int(i) for i in np.unique(flat)]
    masks = {i: flat == i for i in present if i > 0}
    if present[0] < 0:
        masks[ANNOTATED] = flat >= 0
    chosen = {}
    for index, mask in masks.items():
        where = np.flatnonzero(mask)
        count = max(min(MOST_LOCATIONS, len(where)), -(-len(where) // 100))
        if count < len(where):
            picked = np.random.default_rng([seed, index + 1]).choice(len(where), count, replace=False, shuffle=False)
            where = where[np.sort(picked)]
        chosen[index] = np.stack(np.unravel_index(where, labels.shape), axis=1).astype(np.int32)
    return chosen
