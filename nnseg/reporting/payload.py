"""Cases for the viewer: small NIfTI volumes, cropped and downsampled only as far as the size of the page requires."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import PLANES, Box, Grid, Shape, Vector, as_shape, as_vector
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.slices import box_around

MOST_CHANNELS = 4
"""Channels of a scan that are packed."""
MARGIN, LEAST_MARGIN = 0.25, 8
"""Context kept around what is labelled where a scan is cropped: a share of its extent, and at least so many voxels."""
WORST_RATIO = 6
"""Voxels per available byte above which a scan is cropped without trying to pack it whole."""
LABEL_INTENT = 1002
"""NIfTI's intent code for label maps."""
RAS = np.diag([-1.0, -1.0, 1.0])
"""From LPS, the coordinates of a `Grid`, to those of NIfTI."""

Voxels = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedCase:
    """A case ready for the page. Positions are voxels (x, y, z) of the packed volumes.

    Args:
        name, caption, labels, channels: of the case.
        notes: of the case, and on cropping and downsampling.
        volumes: gzip-compressed NIfTI files by name: "scan 0", "scan 1" ..., "prediction", "reference" and "uncertainty" if
            known. In label maps 0 is the background; the labels follow in order, and last what is ignored.
        grid: of the volumes.
        box: part of the case's grid that they cover.
        colour: True if the scan is a picture in colours.
        start: first position of the crosshair.
        jumps: by plane, the slice with the most of ``jumps_to``.
        jumps_to: "disagreement", "uncertainty", or empty where neither is known.
    """

    name: str
    caption: str
    labels: Labels
    channels: tuple[str, ...]
    notes: tuple[str, ...]
    volumes: Mapping[str, bytes]
    grid: Grid
    box: Box
    colour: bool
    start: tuple[int, ...]
    jumps: Mapping[str, tuple[int, ...]]
    jumps_to: str

    @property
    def size(self) -> int:
        """Bytes of all volumes."""
        return sum(map(len, self.volumes.values()))

    @property
    def factor(self) -> Vector:
        """Voxels of the case per packed voxel along (z, y, x), at least 1."""
        a, b, c = (n / m for n, m in zip(self.box.shape, self.grid.shape, strict=True))
        return a, b, c


def pack_all(cases: Sequence[CaseImages], *, most_bytes: int) -> tuple[PackedCase, ...]:
    """Every case packed, in order; small cases leave what they do not need of their share to the larger ones.

    Args:
        cases: to be packed.
        most_bytes: of all of them together.
    """
    packed: dict[int, PackedCase] = {}
    for done, i in enumerate(sorted(range(len(cases)), key=lambda i: cases[i].image.size)):
        left = most_bytes - sum(p.size for p in packed.values())
        packed[i] = pack(cases[i], most_bytes=left // (len(cases) - done))
    return tuple(packed[i] for i in range(len(cases)))


def pack(case: CaseImages, *, most_bytes: int) -> PackedCase:
    """The whole case if it is small enough, else cropped to what is labelled, and downsampled if that is still too large."""
    packer = _Packer(case)
    whole = Box.whole(case.grid.shape)
    if math.prod(case.grid.shape) <= WORST_RATIO * most_bytes:
        packed = packer.pack(whole, whole.shape)
        if packed.size <= most_bytes:
            return packed
    box = box_around(packer.labelled, lambda extent: max(LEAST_MARGIN, math.ceil(MARGIN * extent)))
    packed = packer.pack(box, box.shape if math.prod(box.shape) <= WORST_RATIO * most_bytes else _coarser(case, box, most_bytes))
    while packed.size > most_bytes and math.prod(packed.grid.shape) > 1:
        voxels = math.prod(packed.grid.shape)
        packed = packer.pack(box, _coarser(case, box, min(voxels - 1, int(0.95 * voxels * most_bytes / packed.size))))
    return packed


def affine_of(grid: Grid) -> npt.NDArray[np.float64]:
    """The NIfTI affine (4, 4), from voxels (x, y, z) to mm in RAS."""
    affine = np.eye(4)
    affine[:3, :3] = RAS @ grid.steps[::-1].T
    affine[:3, 3] = RAS @ np.asarray(grid.origin)
    return affine


class _Packer:
    """Label maps, start and jumps of a case, for packing it several times."""

    def __init__(self, case: CaseImages) -> None:
        self.case = case
        self._maps = {"prediction": _indices(case.labels, case.prediction)}
        if case.reference is not None:
            self._maps["reference"] = _indices(case.labels, case.reference)
        self.labelled = np.any([m > 0 for m in self._maps.values()], axis=0)
        self._colour = case.grid.is_2d and len(case.image) == 3
        self._jumps, self._jumps_to = self._find_jumps()
        places = [_fullest(self.labelled, 0 if case.grid.is_2d else axis) for axis in range(3)]
        self._start = tuple(place[axis] for axis, place in enumerate(places))

    def pack(self, box: Box, shape: Shape) -> PackedCase:
        """The part of the case in a box, downsampled to ``shape``."""
        case, factor = self.case, np.array(box.shape) / np.array(shape)

        def at(place: tuple[int, ...]) -> tuple[int, ...]:
            inside = np.clip((np.array(place) - box.start) / factor, 0, np.array(shape) - 1)
            return tuple(int(i) for i in inside[::-1])

        grid = Grid(
            shape=shape,
            spacing=as_vector(np.array(case.grid.spacing) * factor),
            origin=case.grid.world(as_vector(np.array(box.start) + (factor - 1) / 2)),
            direction=case.grid.direction,
        )
        return PackedCase(
            name=case.name,
            caption=case.caption,
            labels=case.labels,
            channels=case.channels or tuple(f"channel {i}" for i in range(len(case.image))),
            notes=(*case.notes, *_losses(case, box, grid)),
            volumes={name: gzip.compress(content, 9, mtime=0) for name, content in self._volumes(box, grid).items()},
            grid=grid,
            box=box,
            colour=self._colour,
            start=at(self._start),
            jumps={plane: at(place) for plane, place in self._jumps.items()},
            jumps_to=self._jumps_to,
        )

    def _volumes(self, box: Box, grid: Grid) -> dict[str, bytes]:
        case, shape = self.case, grid.shape
        image = [_mean(channel[box.slices], shape) for channel in case.image[:MOST_CHANNELS]]
        found = {}
        if self._colour:
            found["scan 0"] = _nifti(_colours(np.stack(image, axis=-1)), grid)
        else:
            for i, channel in enumerate(image):
                found[f"scan {i}"] = _windowed(channel, grid)
        for name, indices in self._maps.items():
            found[name] = _nifti(_nearest(indices[box.slices], shape), grid, intent=LABEL_INTENT)
        if case.uncertainty is not None:
            chance = _mean(case.uncertainty[box.slices], shape)
            found["uncertainty"] = _nifti(np.round(np.clip(chance, 0, 1) * 255).astype(np.uint8), grid, slope=1 / 255)
        return found

    def _find_jumps(self) -> tuple[dict[str, tuple[int, ...]], str]:
        weight, kind = None, ""
        if "reference" in self._maps:
            reference = self._maps["reference"]
            known = reference != len(self.case.labels.values)  # the index of what is ignored
            weight, kind = (reference != self._maps["prediction"]) & known, "disagreement"
        elif self.case.uncertainty is not None:
            weight, kind = self.case.uncertainty, "uncertainty"
        if weight is None or not weight.any():
            return {}, ""
        axes = range(1 if self.case.grid.is_2d else 3)
        return {PLANES[axis]: _fullest(weight, axis) for axis in axes}, kind


def _losses(case: CaseImages, box: Box, grid: Grid) -> list[str]:
    """Notes on cropping, downsampling and channels that are left out."""
    found = []
    if box.shape != case.grid.shape:
        found.append(f"Cropped to {_times(box.shape)} of {_times(case.grid.shape)} voxels, around the labels.")
    if grid.shape != box.shape:
        found.append(
            f"Downsampled from voxels of {_times(case.grid.spacing)} mm to {_times(grid.spacing)} mm; scores are of the original."
        )
    if len(case.image) > MOST_CHANNELS:
        found.append(f"Only the first {MOST_CHANNELS} of {len(case.image)} channels are shown.")
    return found


def _indices(labels: Labels, label_map: Integers) -> Voxels:
    """Indices of labels, 0 for the background, the number of labels for what is ignored; uint8 if there are less than 256."""
    indices = labels.encode(label_map)
    indices = np.where(indices < 0, len(labels.values), indices)
    return indices.astype(np.uint8 if len(labels.values) < 256 else np.int16)


def _fullest(weight: Voxels, axis: int) -> tuple[int, ...]:
    """A central voxel (z, y, x) of the slice across ``axis`` with the largest sum of ``weight``."""
    index = int(np.argmax(weight.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)))
    plane = np.take(weight, index, axis)
    rows, columns = np.nonzero(plane > 0.5 * plane.max())
    if not len(rows):
        return tuple(n // 2 for n in weight.shape)
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return tuple(int(i) for i in np.insert([rows[nearest], columns[nearest]], axis, index))


def _coarser(case: CaseImages, box: Box, most_voxels: int) -> Shape:
    """The shape of a box with at most so many voxels, downsampled along its finest axes first."""
    extent = np.array(box.shape) * case.grid.spacing
    fine, coarse = min(case.grid.spacing), float(extent.max()) + 1.0
    for _ in range(40):
        middle = math.sqrt(fine * coarse)
        few = math.prod(_shape_at(box, case.grid, middle)) <= max(1, most_voxels)
        fine, coarse = (fine, middle) if few else (middle, coarse)
    return _shape_at(box, case.grid, coarse)


def _shape_at(box: Box, grid: Grid, least_spacing: float) -> Shape:
    return as_shape([max(1, round(n * s / max(s, least_spacing))) for n, s in zip(box.shape, grid.spacing, strict=True)])


def _mean(voxels: Voxels, shape: Shape) -> Voxels:
    """Voxels (z, y, x) downsampled to ``shape`` by means of blocks."""
    for axis, n in enumerate(shape):
        length = voxels.shape[axis]
        if n < length:
            edges = np.arange(n) * length // n
            counts = np.diff([*edges, length]).reshape([-1 if a == axis else 1 for a in range(3)])
            voxels = np.add.reduceat(voxels, edges, axis=axis) / counts
    return voxels


def _nearest(voxels: Voxels, shape: Shape) -> Voxels:
    """Voxels (z, y, x) downsampled to ``shape`` by the middle voxel of each block."""
    for axis, n in enumerate(shape):
        voxels = np.take(voxels, ((np.arange(n) + 0.5) * voxels.shape[axis] / n).astype(int), axis=axis)
    return voxels


def _windowed(channel: Voxels, grid: Grid) -> bytes:
    """A channel (Z, Y, X) in 256 steps from its 0.5th to its 99.5th percentile, which slope and intercept of the header restore."""
    low, high = (float(v) for v in np.percentile(channel, [0.5, 99.5]))
    width = max(high - low, 1e-6)
    steps = np.round(np.clip((channel - low) / width, 0, 1) * 255).astype(np.uint8)
    return _nifti(steps, grid, slope=width / 255, intercept=low)


def _colours(pixels: Voxels) -> Voxels:
    """Pixels (Z, Y, X, 3) in NIfTI's RGB type; values from 0 to 255 are kept."""
    low, high = (0.0, 255.0) if pixels.min() >= 0 and pixels.max() <= 255 else np.percentile(pixels, [0.5, 99.5])
    steps = np.round(np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(steps).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]


def _nifti(voxels: Voxels, grid: Grid, *, slope: float = 1.0, intercept: float = 0.0, intent: int = 0) -> bytes:
    """A NIfTI file of voxels (Z, Y, X) whose values are ``slope`` times what is stored plus ``intercept``."""
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(grid.shape[::-1])
    header["pixdim"][1:4] = grid.spacing[::-1]
    header.set_qform(affine_of(grid), code=1, strip_shears=True)
    header.set_sform(affine_of(grid), code=1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"], header["intent_code"] = slope, intercept, intent
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content: bytes = header.binaryblock + bytes(4) + np.ascontiguousarray(voxels).tobytes()
    return content


def _times(values: Sequence[float]) -> str:
    """Lengths along (z, y, x), written with x first."""
    return " × ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in reversed(values))  # noqa: RUF001
