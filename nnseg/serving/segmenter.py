"""`Segmenter`: a loaded model that predicts arrays, images and files in memory; `load` makes one."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnseg.core.dataset import counted
from nnseg.core.errors import ScanError
from nnseg.core.geometry import IDENTITY, Grid, Matrix, Vector, as_matrix, as_shape, as_vector
from nnseg.core.image import VOXEL, Scan, Source
from nnseg.core.keywords import Words
from nnseg.core.label_volumes import sizes_in_unit
from nnseg.core.labels import Labels
from nnseg.core.options import Runtime, parse_steps
from nnseg.core.plan import Plan
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import Prediction
from nnseg.network.bundle import Model
from nnseg.network.load import load_model, with_folds
from nnseg.preprocessing.prepare import prepare_scan
from nnseg.preprocessing.preprocess import OwnNormalizer
from nnseg.reporting.overlay import most_labelled_slice
from nnseg.serving.image_kinds import as_array, of_kind
from nnseg.serving.segmentation import Predicted, Segmentation
from nnseg.storage.hub import model_path
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import map_to_stored_order, to_stored_order

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)

ARRAY = Path("the array")

LETTERS: dict[str, Vector] = {
    "L": (1.0, 0.0, 0.0), "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0), "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0), "I": (0.0, 0.0, -1.0),
}  # fmt: skip
"""Where an axis leads, in LPS."""


class Given(TypedDict, total=False):
    """What else `Segmenter.predict` takes."""

    spacing: Sequence[float] | None
    orientation: str | None
    probabilities: bool
    uncertainty: bool


class Segmenter:
    """A model loaded for many scans; threads may share it. `load` makes one.

    Args:
        model: its networks, labels and channels.
        prepare, settings: as for `load`.
    """

    def __init__(self, model: Model, *, prepare: Words = (), **settings: Any) -> None:
        self._predictor, self._told, self._steps = Predictor(model, **settings), False, parse_steps(prepare)

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

    @overload
    def predict(self, scan: Tensor | list[Tensor], **given: Unpack[Given]) -> Segmentation[Tensor]: ...
    @overload
    def predict(self, scan: Array | list[Array] | Scan, **given: Unpack[Given]) -> Segmentation[Array]: ...
    @overload
    def predict(self, scan: Any, **given: Unpack[Given]) -> Segmentation[Any]: ...
    def predict(
        self,
        scan: Any,
        *,
        spacing: Sequence[float] | None = None,
        orientation: str | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Segmentation[Any]:
        """What the model predicts for one scan: label map, volumes, and if requested probabilities and uncertainty.

        Args:
            scan: an array or a tensor (Z, Y, X), or (C, Z, Y, X) for several channels; for 2D images (Y, X) or (C, Y, X). Or an
                image of SimpleITK or nibabel. Or a path, or a DICOM folder, which give images of SimpleITK. All of them may be
                lists, one for each channel. Or what `nnseg.read_scan` returns, which gives arrays on its grid.
            spacing: mm between voxels of an array along its axes without the channels'; 1 for 2D images if absent.
            orientation: where the three axes of an array lead, as letters of L, R, A, P, S and I in the array's order: "RAS" for
                (X, Y, Z) as nibabel's canonical images have them. "SPL", what SimpleITK's arrays of axial images have, if absent,
                which is logged once.
            probabilities: also return them, as float32.
            uncertainty: also return the uncertainty, and the expected Dice if the model is calibrated.

        Raises:
            ScanError: the scan has another number of channels or axes, NaN or Inf, or no spacing; or cannot be read.
            ModelError: the networks give no numbers.

        Example:
            >>> found = model.predict("scan.nii.gz", uncertainty=True)
            >>> found.volumes, found.expected_dice
        """
        read, first = self._read(scan, spacing, orientation)
        read = prepare_scan(read, self._steps)
        for note in read.notes:
            log.warning("%s", note)
        prepared = self._predictor.prepare(read)
        prediction = self._predictor.infer(prepared, probabilities=probabilities, uncertainty=uncertainty)
        for difference in prediction.unlike:
            log.warning("the scan is unlike those of the training: %s; check its label map", difference)
        return self._segmentation(prediction, read, first)

    def _segmentation(self, prediction: Prediction, scan: Scan, first: Any) -> Segmentation[Any]:
        """A prediction in the kind of image of the scan's first channel as it was given."""
        labels, source = self.labels, scan.source
        if isinstance(first, Scan):  # whose array is on its canonical grid
            source = replace(source, grid=scan.grid)
        stored = to_stored_order(prediction.label_map, source)
        label_map, array = of_kind(stored, first, source)
        volumes, unit = sizes_in_unit(prediction.label_map, labels, source)
        objects = None
        if prediction.objects is not None:
            objects = to_stored_order(replace(prediction.label_map, labels=prediction.objects.astype(np.int32)), source)
        maps = prediction.probabilities
        chances = None if maps is None else np.stack([map_to_stored_order(one, source) for one in maps])
        unsure = None if prediction.uncertainty is None else map_to_stored_order(prediction.uncertainty, source)
        trust = self._predictor.model.trust
        confidence = prediction.confidence if trust and trust.is_calibrated else None
        factors = confidence.volume_factors if confidence else {}
        return Segmentation(
            label_map=label_map,
            labels=labels.by_name,
            volumes=volumes,
            unit=unit,
            objects=None if objects is None else of_kind(objects, first, source)[0],
            object_counts=prediction.object_counts,
            probabilities=None if chances is None else of_kind(chances, first, source)[0],
            uncertainty=None if unsure is None else of_kind(unsure, first, source)[0],
            expected_dice=confidence.expected_dice if confidence else None,
            dice_intervals=confidence.dice_intervals if confidence else {},
            volume_intervals={name: (volumes[name] * low, volumes[name] * high) for name, (low, high) in factors.items()},
            flagged=confidence.flagged if confidence else None,
            foreign=bool(prediction.unlike) if trust and trust.ranges else None,
            unlike=prediction.unlike,
            preparation=scan.preparation,
            _predicted=Predicted(
                label_map=prediction.label_map,
                source=scan.source,
                labels=labels,
                array=array,
                shown=most_labelled_slice(scan, prediction.label_map, labels),
            ),
        )

    def _read(self, scan: Any, spacing: Sequence[float] | None, orientation: str | None) -> tuple[Scan, Any]:
        """A scan as it is predicted, and its first channel as it was given."""
        several = isinstance(scan, list | tuple) and bool(scan)
        first = scan[0] if several else scan
        if several and all(isinstance(one, np.ndarray | Tensor) for one in scan):
            scan = _stacked([as_array(one) for one in scan])
        if isinstance(scan, np.ndarray | Tensor):
            return self._scan_of_array(as_array(scan), spacing, orientation), first
        if spacing is not None or orientation is not None:
            raise ScanError("files and images have a spacing and an orientation of their own; leave out spacing and orientation")
        return (scan if isinstance(scan, Scan) else read_scan(scan, repair=True)), first

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
        turn, unit = grid.canonical(), VOXEL if spacing is None else "mm"
        source = Source(files=(ARRAY,), grid=grid, is_2d=axes == 2, length_unit=unit)
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


def load(  # noqa: PLR0913 (options of a prediction)
    model: str | Path | Model,
    *,
    folds: Sequence[int] | None = None,
    device: torch.device | str = "auto",
    step: float | None = None,
    mirror: bool | None = None,
    classic: bool = False,
    dropout: int = 0,
    runtime: Runtime = "torch",
    network: Callable[[Plan], nn.Module] | None = None,
    normalizer: OwnNormalizer | None = None,
    prepare: Words = (),
) -> Segmenter:
    """A model loaded to predict in memory: arrays, tensors, images of SimpleITK or nibabel, or paths in, label maps out.

    Args:
        model: a run folder, an exported file, the name of a local model (nnseg models list), or the model that a training gives.
        folds: numbers of those whose networks are used; all if absent.
        device: where the networks compute: "auto", "cpu", "cuda:1", ...
        step: distance of neighbouring tiles as a share of the patch; absent for the plan's.
        mirror: also average over mirrored copies: 2 to 8 times slower, often better; absent for how the model was scored.
        classic: average exactly as nnU-Net does, in float32: slower.
        dropout: average over so many draws of dropped channels, of networks planned with ``network.dropout``.
        runtime: that computes the networks: "torch", on CPUs also "onnx", "openvino" (extra "runtimes"), or "auto" for the fastest.
        network: the function that made the networks, if it is your own.
        normalizer: of the training cases, if it is your own.
        prepare: steps before preprocessing, as of `prepare_scan`: "n4,mask,normalize".

    Raises:
        ModelError: nothing is at the path, or no fold is trained, or a chosen one is not; or weights do not fit the network.
        RunError: there is no such device.

    Example:
        >>> model = nnseg.load("model.nnseg")
        >>> found = model.predict("scan.nii.gz")
        >>> found.save("label_map.nii.gz")
    """
    chosen = None if folds is None else tuple(folds)
    loaded = with_folds(model, chosen) if isinstance(model, Model) else load_model(model_path(model), folds=chosen)
    return Segmenter(
        loaded,
        device=device,
        step=step,
        mirror=mirror,
        classic=classic,
        dropout=dropout,
        runtime=runtime,
        network=network,
        normalizer=normalizer,
        prepare=prepare,
    )
