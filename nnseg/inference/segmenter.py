"""`Segmenter`: a loaded model that predicts arrays, images and files in memory; `load` makes one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector, as_shape, as_vector
from nnseg.core.image import Integers, Scan, Source
from nnseg.core.labels import Labels
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model
from nnseg.network.load import load_model
from nnseg.storage.images.itk import as_image
from nnseg.storage.images.read import read_scan, scan_from_itk
from nnseg.storage.images.write import to_stored_order

log = logging.getLogger(__name__)

ARRAY = Path("the array")


class Segmenter:
    """A model loaded for many scans; threads may share it.

    Args:
        settings: as for `Predictor`: ``device``, ``step``, ``mirror``, ``classic``.
    """

    def __init__(self, model: Model, **settings: Any) -> None:
        self._predictor = Predictor(model, **settings)

    @property
    def labels(self) -> Labels:
        """The labels of its label maps."""
        return self._predictor.model.labels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it needs, in order."""
        return self._predictor.model.channels

    @overload
    def predict(self, scan: npt.NDArray[Any], *, spacing: Sequence[float] | None = None) -> Integers: ...

    @overload
    def predict(self, scan: sitk.Image | str | Path | Sequence[str | Path]) -> sitk.Image: ...

    def predict(
        self, scan: npt.NDArray[Any] | sitk.Image | str | Path | Sequence[str | Path], *, spacing: Sequence[float] | None = None
    ) -> Integers | sitk.Image:
        """The label map of one scan, with the dataset's label values: an array for an array, else an ITK image on the scan's grid.

        Args:
            scan: an array (Z, Y, X), or (C, Z, Y, X) for several channels; for 2D images (Y, X) or (C, Y, X); axes are assumed
                to point to superior, posterior and left. Or an ITK image. Or a path, one per channel, or a DICOM folder.
            spacing: mm between voxels of an array along (z, y, x), or (y, x); 1 for 2D images if absent.

        Raises:
            ScanError: the scan has another number of channels or axes, NaN or Inf, or no spacing; or cannot be read.
            ModelError: the networks give no numbers.
        """
        if isinstance(scan, np.ndarray):
            array_scan = self._scan_of_array(scan, spacing)
            labels = self._predictor(array_scan).label_map.labels
            return labels[0] if array_scan.source.is_2d else labels
        if spacing is not None:
            raise ScanError("files and ITK images have a spacing of their own; leave out spacing")
        found = scan_from_itk(scan) if isinstance(scan, sitk.Image) else read_scan(scan, repair=True)
        for note in found.notes:
            log.warning("%s", note)
        labels = to_stored_order(self._predictor(found).label_map, found.source)
        return as_image(labels, found.source.grid, is_2d=found.source.is_2d)

    def _scan_of_array(self, voxels: npt.NDArray[Any], spacing: Sequence[float] | None) -> Scan:
        axes = voxels.ndim - (len(self.channels) > 1)
        wanted = "(Z, Y, X) or (Y, X)" if len(self.channels) == 1 else "(C, Z, Y, X) or (C, Y, X)"
        channels = voxels.shape[0] if len(self.channels) > 1 and voxels.ndim else 1
        if axes not in (2, 3) or channels != len(self.channels) or not voxels.size:
            raise ScanError(f"an array of shape {voxels.shape} does not fit {len(self.channels)} channels; it must be {wanted}")
        if spacing is None and axes == 3:
            raise ScanError("the spacing of an array must be given, in mm along (z, y, x)")
        image = np.ascontiguousarray(voxels, np.float32).reshape(channels, *(1,) * (3 - axes), *voxels.shape[-axes:])
        if not np.isfinite(image).all():
            raise ScanError("the array has NaN or Inf voxels; replace them, for instance by the background's value")
        grid = Grid(shape=as_shape(image.shape[1:]), spacing=_spacing_3d((1.0,) * axes if spacing is None else spacing, axes))
        return Scan(image=image, grid=grid, source=Source(files=(ARRAY,), grid=grid, is_2d=axes == 2))


def _spacing_3d(spacing: Sequence[float], axes: int) -> Vector:
    values = [float(s) for s in spacing]
    if len(values) != axes or not all(np.isfinite(values)) or min(values) <= 0:
        raise ScanError(f"spacing must be {axes} positive numbers of mm, not {tuple(spacing)}")
    return as_vector((*(1.0,) * (3 - axes), *values))


def load(path: str | Path, *, folds: tuple[int, ...] | None = None, **settings: Any) -> Segmenter:
    """A model loaded to predict in memory: arrays, ITK images or paths in, label maps out.

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
