"""`Segmenter`: a loaded model that predicts arrays, images and files in memory; `load` makes one."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import SpatialImage

from nnseg.core.dataset import counted
from nnseg.core.errors import ScanError
from nnseg.core.geometry import IDENTITY, Grid, Matrix, Vector, as_matrix, as_shape, as_vector
from nnseg.core.image import Integers, Scan, Source
from nnseg.core.labels import Labels
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model
from nnseg.network.load import load_model
from nnseg.storage.images.itk import as_image
from nnseg.storage.images.nibabel_files import as_nibabel
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import to_stored_order

log = logging.getLogger(__name__)

ARRAY = Path("the array")

LETTERS: dict[str, Vector] = {
    "L": (1.0, 0.0, 0.0), "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0), "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0), "I": (0.0, 0.0, -1.0),
}  # fmt: skip
"""Where an axis leads, in LPS."""


class Segmenter:
    """A model loaded for many scans; threads may share it.

    Args:
        settings: as for `Predictor`: ``device``, ``step``, ``mirror``, ``classic``.
    """

    def __init__(self, model: Model, **settings: Any) -> None:
        self._predictor, self._told = Predictor(model, **settings), False

    def __repr__(self) -> str:
        members = self._predictor.model.members
        plans = ", ".join(dict.fromkeys(member.plan.name for member in members))
        labels = ", ".join(f"{name} {value}" for name, value in zip(self.labels.names, self.labels.values, strict=True))
        lines = (
            f"nnseg model: {counted(len(members), 'network')} of {plans}",
            f"channels: {', '.join(self.channels)}",
            f"labels: {labels}",
        )
        return "\n".join(textwrap.shorten(line, 80, placeholder=" ...") for line in lines)

    @property
    def labels(self) -> Labels:
        """The labels of its label maps."""
        return self._predictor.model.labels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it needs, in order."""
        return self._predictor.model.channels

    def predict(self, scan: Any, *, spacing: Sequence[float] | None = None, orientation: str | None = None) -> Any:
        """The label map of one scan, with the dataset's label values: an array for an array, else an image on the scan's grid.

        Args:
            scan: an array (Z, Y, X), or (C, Z, Y, X) for several channels; for 2D images (Y, X) or (C, Y, X). Or an image of
                SimpleITK or nibabel, which gives one of the same kind. Or a path, or a DICOM folder, which gives one of SimpleITK.
                All of them may be lists, one for each channel.
            spacing: mm between voxels of an array along its axes without the channels'; 1 for 2D images if absent.
            orientation: where the three axes of an array lead, as letters of L, R, A, P, S and I in the array's order: "RAS" for
                (X, Y, Z) as nibabel's canonical images have them. "SPL", what SimpleITK's arrays of axial images have, if absent,
                which is logged once.

        Raises:
            ScanError: the scan has another number of channels or axes, NaN or Inf, or no spacing; or cannot be read.
            ModelError: the networks give no numbers.
        """
        if isinstance(scan, list | tuple) and scan and all(isinstance(one, np.ndarray) for one in scan):
            scan = _stacked(scan)
        if isinstance(scan, np.ndarray):
            found = self._scan_of_array(scan, spacing, orientation)
            labels = self._labels(found)
            return labels[0] if found.source.is_2d else labels
        if spacing is not None or orientation is not None:
            raise ScanError("files and images have a spacing and an orientation of their own; leave out spacing and orientation")
        found = read_scan(scan, repair=True)
        for note in found.notes:
            log.warning("%s", note)
        labels = self._labels(found)
        first = scan[0] if isinstance(scan, list | tuple) else scan
        if isinstance(first, SpatialImage):
            return as_nibabel(labels, first)
        return as_image(labels, found.source.grid, is_2d=found.source.is_2d)

    def _labels(self, scan: Scan) -> Integers:
        """The label values in the stored order of axes; what is unlike the training scans is logged."""
        prediction = self._predictor(scan)
        for difference in prediction.unlike:
            log.warning("the scan is unlike those of the training: %s; check its label map", difference)
        return to_stored_order(prediction.label_map, scan.source)

    def _scan_of_array(self, voxels: npt.NDArray[Any], spacing: Sequence[float] | None, orientation: str | None) -> Scan:
        axes = voxels.ndim - (len(self.channels) > 1)
        wanted = "(Z, Y, X) or (Y, X)" if len(self.channels) == 1 else "(C, Z, Y, X) or (C, Y, X)"
        channels = voxels.shape[0] if len(self.channels) > 1 and voxels.ndim else 1
        if axes not in (2, 3) or channels != len(self.channels) or not voxels.size:
            raise ScanError(f"an array of shape {voxels.shape} does not fit {len(self.channels)} channels; it must be {wanted}")
        if voxels.dtype.kind not in "biuf":
            raise ScanError(f"the array holds {voxels.dtype.name}; expected integers or floats; give magnitudes of complex numbers")
        if spacing is None and axes == 3:
            raise ScanError("the spacing of an array must be given, in mm along (z, y, x)")
        image = np.ascontiguousarray(voxels, np.float32).reshape(channels, *(1,) * (3 - axes), *voxels.shape[-axes:])
        if not np.isfinite(image).all():
            raise ScanError("the array has NaN or Inf voxels; replace them, for instance by the background's value")
        grid = Grid(
            shape=as_shape(image.shape[1:]),
            spacing=_spacing_3d((1.0,) * axes if spacing is None else spacing, axes),
            direction=self._direction(orientation, axes),
        )
        turn, source = grid.canonical(), Source(files=(ARRAY,), grid=grid, is_2d=axes == 2)
        return Scan(image=np.ascontiguousarray(turn.apply(image)), grid=grid.reoriented(turn), source=source)

    def _direction(self, orientation: str | None, axes: int) -> Matrix:
        if orientation is None:
            if axes == 3 and not self._told:
                self._told = True
                log.warning(
                    'axes of arrays are taken to lead up, back and left (orientation="SPL"); state an orientation otherwise'
                )
            return IDENTITY
        found = [LETTERS.get(letter) for letter in orientation.upper()]
        if axes != 3 or len(found) != 3 or None in found or np.linalg.matrix_rank(np.array(found)) < 3:
            raise ScanError(f'orientation "{orientation}" is none of a volume; expected one letter of LR, AP and SI for each axis')
        return as_matrix(vector for vector in found if vector is not None)


def _stacked(channels: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays of channels as one array (C, ...), or the only one."""
    shapes = {channel.shape for channel in channels}
    if len(shapes) > 1:
        raise ScanError(f"arrays of shapes {', '.join(map(str, sorted(shapes)))} are no channels of one scan; resample them first")
    return np.stack(channels) if len(channels) > 1 else channels[0]


def _spacing_3d(spacing: Sequence[float], axes: int) -> Vector:
    values = [float(s) for s in spacing]
    if len(values) != axes or not all(np.isfinite(values)) or min(values) <= 0:
        raise ScanError(f"spacing must be {axes} positive numbers of mm, not {tuple(spacing)}")
    return as_vector((*(1.0,) * (3 - axes), *values))


def load(path: str | Path, *, folds: tuple[int, ...] | None = None, **settings: Any) -> Segmenter:
    """A model loaded to predict in memory: arrays, images of SimpleITK or nibabel, or paths in, label maps out.

    Args:
        path: a run folder or an exported file.
        folds: of a run; all if absent.
        settings: as for `nnseg.Predictor`: ``device``, ``step``, ``mirror``, ``classic``.

    Raises:
        ModelError: nothing is at the path, or no fold is trained, or a chosen one is not.

    Example:
        >>> model = nnseg.load("model.nnseg")
        >>> label_map = model.predict(array, spacing=(1.0, 0.8, 0.8))
    """
    return Segmenter(load_model(path, folds=folds), **settings)
