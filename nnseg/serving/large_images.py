"""Prediction of an image that is too large to be held at once: part by part, with a margin around each."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nnseg.core.dataset import list_some
from nnseg.core.errors import ScanError, coded
from nnseg.core.image import Integers, Scan
from nnseg.core.limits import limit, raise_by
from nnseg.inference.interruption import check_between_tiles
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.inference.volumes import empty_array
from nnseg.preprocessing.normalize import OF_THE_IMAGE, ChannelStatistics, measure_channels
from nnseg.storage.images.formats import TIFF, suffix_of
from nnseg.storage.images.large_tiff import PART_PIXELS, LargeImage
from nnseg.storage.images.write import to_stored_order

if TYPE_CHECKING:
    from nnseg.core.plan import Plan
    from nnseg.network.bundle import Model
    from nnseg.serving.outputs import OutputTarget

FINER = 1.1
"""A level is read whose pixels are at most so many times those of the plan: its shape is rounded."""

FEW_HEADS = 4
"""Outputs of a network with which a part has `PART_PIXELS`; with more it has fewer, since each output is held for each pixel."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows and columns of an image that are predicted together.

    Args:
        core: those whose labels are kept.
        seen: the same with their margin.
    """

    core: tuple[slice, slice]
    seen: tuple[slice, slice]


@runtime_checkable
class PartPredictor(Protocol):
    """The part of a `Predictor` that is used for large images."""

    @property
    def model(self) -> Model:
        """The model, with its plans and labels."""

    def for_parts(self, statistics: Sequence[ChannelStatistics]) -> PartPredictor:
        """The predictor for parts of an image with these statistics."""

    def prepare(self, scan: Scan) -> PreparedScan:
        """The part preprocessed."""

    def infer(self, prepared: PreparedScan, *, objects: bool = ...) -> Prediction:
        """The prediction of a part."""


def for_model(image: LargeImage, model: Model, target: OutputTarget, suffix: str = "") -> LargeImage:
    """The coarsest level of an image that is no coarser than what the networks see.

    Raises:
        ScanError: the networks see more than one slice, or more is wanted than label maps as TIFF.
    """
    _check_possible(image, model, target, suffix)
    wanted = min(edge for plan in _plans(model) for edge in plan.preprocessing.spacing)
    levels = [replace(image, level=level) for level in range(len(image.shapes))]
    return max((one for one in levels if max(one.pixel) <= FINER * wanted), key=lambda one: one.level, default=levels[0])


def parts_of(image: LargeImage, model: Model) -> list[Part]:
    """The parts of an image; their margin is half a patch of the networks, since no further tile counts much."""
    margin = max(
        math.ceil(size / 2 * wanted / edge)
        for plan in _plans(model)
        for size, wanted, edge in zip(plan.patch, plan.preprocessing.spacing, image.pixel, strict=True)
    )
    pixels = PART_PIXELS * FEW_HEADS // max(FEW_HEADS, len(model.labels.heads))
    side = max(margin, math.isqrt(pixels) - 2 * margin)
    rows, columns = (list(_spans(count, side)) for count in image.shape)
    height, width = image.shape
    return [Part(core=(y, x), seen=(_widened(y, margin, height), _widened(x, margin, width))) for y, x in product(rows, columns)]


def measure_large(image: LargeImage, model: Model) -> tuple[ChannelStatistics, ...]:
    """Statistics of the image's channels by which the networks' normalization scales; any, where it needs none.

    Raises:
        ScanError: damaged.
    """
    settings = [one for plan in _plans(model) for one in plan.preprocessing.normalization]
    if all(one.scheme not in OF_THE_IMAGE for one in settings):
        return (ChannelStatistics(mean=0.0, std=1.0, low=0.0, high=1.0),) * image.channels
    return measure_channels(image.bands())


def predict_large(predictor: PartPredictor, image: LargeImage, scratch: Path | None = None) -> tuple[Integers, dict[str, float]]:
    """The label map of an image (Y, X), as stored, and the seconds of each stage.

    Args:
        scratch: folder for a large label map, which is kept in a file; the system's if absent.

    Raises:
        ScanError: the image is damaged.
        ModelError: the networks give no numbers.
        WriteError: the disk is full.
    """
    start = time.perf_counter()
    predictor = predictor.for_parts(measure_large(image, predictor.model))
    spent = defaultdict[str, float](float, preprocess=time.perf_counter() - start)
    labels = empty_array(image.shape, predictor.model.labels.dtype, scratch)
    for part in parts_of(image, predictor.model):
        check_between_tiles()
        start = time.perf_counter()
        scan = image.scan(*part.seen)
        spent["read"] += time.perf_counter() - start
        prediction = predictor.infer(predictor.prepare(scan), objects=False)
        for stage, seconds in prediction.seconds.items():
            spent[stage] += seconds
        stored = to_stored_order(prediction.label_map, scan.source)[0]
        labels[part.core] = stored[tuple(_within(core, seen) for core, seen in zip(part.core, part.seen, strict=True))]
    return labels, dict(spent)


def note_large(image: LargeImage, model: Model) -> str:
    """What a user should know of a prediction by parts."""
    left_out = ["no comparison with the training scans"]
    left_out += ["no postprocessing"] if model.postprocessing else []
    left_out += ["no answers to questions"] if model.cutoffs else []
    left_out += ["no numbers of objects"] if model.learned.borders or model.lesions else []
    size = " x ".join(map(str, image.shape))
    found = f"was predicted in {len(parts_of(image, model))} parts of {size} pixels, with {list_some(left_out)}"
    return coded(f"{image.path.name}: {found}", "NS-S043")


def largest_part(image: LargeImage, model: Model) -> tuple[int, int]:
    """Rows and columns of the largest part with its margin."""
    shapes = [[span.stop - span.start for span in part.seen] for part in parts_of(image, model)]
    return max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)


def label_file(image: LargeImage, name: str, suffix: str = "") -> str:
    """The name of the file of a case's label map."""
    return name + (suffix or suffix_of(image.path))


def _check_possible(image: LargeImage, model: Model, target: OutputTarget, suffix: str) -> None:
    plans = _plans(model)
    reasons = {
        "3D networks": any(plan.dimensions != 2 or plan.network.slices > 1 for plan in plans),
        "a cascade": bool(model.previous),
        "normalization within a mask": any(one.masked for plan in plans for one in plan.preprocessing.normalization),
        "steps of preparation": bool(target.prepare),
        "registration of channels": any(plan.preprocessing.registration != "none" for plan in plans),
        "probabilities": target.probabilities,
        "uncertainty": target.uncertainty,
        "objects of held-out cases": target.held_out,
        f'label maps as "{suffix}"': suffix not in ("", *TIFF),
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        shape = " x ".join(map(str, image.shape))
        found = f"has {shape} pixels, and is predicted in parts, for which there is no support of {list_some(wrong)}"
        advice = f"leave that out, or cut the image; {raise_by('whole_pixels')}"
        raise ScanError.at(image.path, found, f"at most {limit('whole_pixels'):,} pixels", advice, "NS-S037")


def _plans(model: Model) -> list[Plan]:
    return [member.plan for member in model.members]


def _spans(count: int, side: int) -> Iterator[slice]:
    """An axis cut into equal spans of about a length at most."""
    parts = math.ceil(count / side)
    for number in range(parts):
        yield slice(count * number // parts, count * (number + 1) // parts)


def _widened(core: slice, margin: int, count: int) -> slice:
    return slice(max(0, core.start - margin), min(count, core.stop + margin))


def _within(core: slice, seen: slice) -> slice:
    return slice(core.start - seen.start, core.stop - seen.start)
