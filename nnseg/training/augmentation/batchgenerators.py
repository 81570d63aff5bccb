"""Transforms of batchgenerators, by name, for augmentations that nnseg lacks.

They run on the CPU, patch by patch, before nnseg's own changes of intensity. Only those in `CATALOGUE` can be named, so that a plan
from others can run no other code. Rotations, zooms, flips and deformations are left out: nnseg's own interpolate once for all and
swap left and right labels.
"""

from __future__ import annotations

import importlib
import inspect
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from nnseg.core.errors import PlanError
from nnseg.core.plan import Extra
from nnseg.core.validation import nearest

Transform = Callable[..., dict[str, Any]]

_GLOBAL_GENERATORS = threading.Lock()
"""Held while the global random generators have a patch's seed."""


class Transforms:
    """A plan's transforms, in their order.

    Args:
        extras: their names and settings.

    Raises:
        PlanError: a name or a setting is unknown, or a setting is missing.
    """

    def __init__(self, extras: Sequence[Extra]) -> None:
        self._extras = extras
        self._transforms = [_make_transform(extra, f"training.augmentation.extra.{n}") for n, extra in enumerate(extras)]

    def seed(self, rng: np.random.Generator) -> int:
        """A seed for one patch; nothing is drawn if there are no transforms."""
        return int(rng.integers(2**32)) if self._transforms else 0

    def apply(self, image: Tensor, maps: Sequence[Tensor], seeds: Sequence[int], *, masked: Sequence[int] = ()) -> None:
        """Change a batch in place; the state of global random generators is restored.

        Args:
            image: float32 (B, C, *space).
            maps: label maps (B, *space), which move with the voxels.
            seeds: for each patch, from `seed`.
            masked: channels normalized inside the object only; they stay zero where all channels are zero.

        Raises:
            PlanError: a transform fails with its settings, or changes the shape of patches.
        """
        for number, seed in enumerate(seeds if self._transforms else ()):
            outside = (image[number] == 0).all(0)
            follow = torch.stack([*(m[number].float() for m in maps), outside.float()])
            voxels, followed = self._changed(image[number].cpu().numpy(), follow.cpu().numpy(), seed)
            image[number] = torch.from_numpy(voxels).to(image)
            for labels, found in zip(maps, followed[:-1], strict=True):
                labels[number] = torch.from_numpy(np.rint(found)).to(labels)
            image[number, list(masked)] *= torch.from_numpy(followed[-1] < 0.5).to(image)

    def _changed(self, image: np.ndarray, follow: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        data = {"data": image[None].copy(), "seg": follow[None].copy()}
        with _GLOBAL_GENERATORS:
            numpy_state, python_state = np.random.get_state(), random.getstate()
            np.random.seed(seed)
            random.seed(seed)
            try:
                for number, (extra, transform) in enumerate(zip(self._extras, self._transforms, strict=True)):
                    data = _run(transform, data, f"training.augmentation.extra.{number} ({extra.name})")
            finally:
                np.random.set_state(numpy_state)
                random.setstate(python_state)
        return data["data"][0].astype(np.float32), data["seg"][0]


def transform_class(name: str) -> Callable[..., Any]:
    """The class of a transform in `CATALOGUE`."""
    kind: Callable[..., Any] = getattr(importlib.import_module(f"batchgenerators.transforms.{CATALOGUE[name]}"), name)
    return kind


def _make_transform(extra: Extra, where: str) -> Transform:
    if extra.name not in CATALOGUE:
        near = nearest([extra.name], [[name] for name in CATALOGUE])
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(CATALOGUE)}"
        raise PlanError(f'{where}.name = "{extra.name}" is not in the catalogue; {advice}')
    kind = transform_class(extra.name)
    signature = inspect.signature(kind)
    for name in extra.settings:
        if name not in signature.parameters:
            near = nearest([name], [[known] for known in signature.parameters])
            advice = f"did you mean {near[0]}?" if near else f"those of {extra.name} are {', '.join(signature.parameters)}"
            raise PlanError(f"{where}.settings.{name} is not a setting; {advice}")
    missing = [n for n, p in signature.parameters.items() if p.default is p.empty and n not in extra.settings]
    if missing:
        raise PlanError(f"{where}.settings.{missing[0]} is missing: {extra.name} has no default for it")
    return kind(**{name: _with_tuples(value) for name, value in extra.settings.items()})  # type: ignore[no-any-return]


def _run(transform: Transform, data: dict[str, Any], where: str) -> dict[str, Any]:
    shape = data["data"].shape
    try:
        data = transform(**data)
    except Exception as error:  # any error is possible with a user's settings
        raise PlanError(f"{where} failed on a patch of shape {shape[1:]}: {type(error).__name__}: {error}") from error
    if data["data"].shape != shape:
        raise PlanError(f"{where} changes the shape of patches from {shape[1:]} to {data['data'].shape[1:]}; it must not")
    return data


def _with_tuples(value: Any) -> Any:
    """A value of a plan file with tuples, which transforms expect, for lists."""
    return tuple(_with_tuples(v) for v in value) if isinstance(value, list) else value


CATALOGUE: Final[dict[str, str]] = {
    "BrightnessMultiplicativeTransform": "color_transforms",
    "BrightnessTransform": "color_transforms",
    "ClipValueRange": "color_transforms",
    "ContrastAugmentationTransform": "color_transforms",
    "GammaTransform": "color_transforms",
    "BrightnessGradientAdditiveTransform": "local_transforms",
    "LocalContrastTransform": "local_transforms",
    "LocalGammaTransform": "local_transforms",
    "LocalSmoothingTransform": "local_transforms",
    "BlankRectangleTransform": "noise_transforms",
    "BlankSquareNoiseTransform": "noise_transforms",
    "GaussianBlurTransform": "noise_transforms",
    "GaussianNoiseTransform": "noise_transforms",
    "MedianFilterTransform": "noise_transforms",
    "RicianNoiseTransform": "noise_transforms",
    "SharpeningTransform": "noise_transforms",
    "CutOffOutliersTransform": "sample_normalization_transforms",
    "RangeTransform": "sample_normalization_transforms",
    "ZeroMeanUnitVarianceTransform": "sample_normalization_transforms",
    "SimulateLowResolutionTransform": "resample_transforms",
    "AnatomyInformedTransform": "spatial_transforms",
    "MisalignTransform": "spatial_transforms",
}
"""Every transform that a plan may name, and its module in `batchgenerators.transforms`, imported when needed."""
