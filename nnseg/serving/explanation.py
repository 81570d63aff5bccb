"""`Explainer`: maps of what a model's predictions of one scan rest on, each with the checks that it must pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.explanation import Explanation, ExplanationMethod, why_withheld
from nnseg.core.frozen import short_repr
from nnseg.core.image import Floats, Scan
from nnseg.evaluation.attribution import SampledBody, body_of, concentrate, rank_correlation
from nnseg.inference.attribution import COPIES, Attributor, LabelledScan, Target
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device

Mask = npt.NDArray[np.bool_]

RANDOMIZED: Mapping[str, float] = {"half": 0.5, "all": 1.0}
"""Shares of the layers that get random weights, by the names that the record has for them. The map of a network
all of whose weights are random may be noise, with which no map correlates; that of half of them is not."""

ELSEWHERE = "voxels elsewhere"
"""The other target where no other label was predicted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainedLabel:
    """The map of one label of a scan.

    Args:
        explanation: what its checks gave.
        values: float32 (Z, Y, X), on the scan's canonical grid, also if it is to be withheld.
        structure: (Z, Y, X), the voxels predicted as the label.
    """

    explanation: Explanation
    values: Floats
    structure: Mask

    __repr__ = short_repr


class Explainer:
    """A model whose predictions are explained, with copies of its networks that have random weights.

    Args:
        model: of one or more networks, without a cascade.
        method: "smoothgrad", which needs the extra "explain", or "occlusion".
        device: where the networks compute.
        copies: noisy copies of each voxel's surroundings in a map of SmoothGrad.
        seed: of the noise, of random weights, and of the voxels that maps are compared at.

    Raises:
        ModelError: a network is part of a cascade.
    """

    def __init__(
        self, model: Model, method: ExplanationMethod, *, device: str = "auto", copies: int = COPIES, seed: int = 0
    ) -> None:
        target = resolve_device(device)
        attributor = Attributor.of(model, method, device=target, copies=copies)
        self.labels, self.method = model.labels, method
        self._predictor = Predictor(model, device=target)
        self._seeds = [int(number) for number in np.random.SeedSequence(seed).generate_state(3)]
        self.copies, self.seed = 0 if method == "occlusion" else copies, seed
        self._whole = attributor
        self._half = replace(attributor, copies=(copies + 1) // 2)
        self._random = {name: attributor.randomized(share, self._seeds[2]) for name, share in RANDOMIZED.items()}

    def explain(self, scan: Scan, case: str, names: Sequence[str]) -> Iterator[ExplainedLabel]:
        """The map of each of these labels or regions that was predicted.

        Args:
            case: name of the scan.
            names: of labels or regions.

        Raises:
            ScanError: the scan has another number of channels, or nothing of these labels was predicted.
            ModelError: the networks give no numbers.
        """
        predicted = self._predictor(scan).label_map
        structures = {name: self.labels.mask(name, predicted.labels) for name in self.labels.foreground}
        structures = {name: structure for name, structure in structures.items() if structure.any()}
        if not set(names) & set(structures):
            raise ScanError(f"case {case}: no voxel is predicted as {' or '.join(names)}, so there is nothing to explain")
        maps = _Maps(self, scan, self._whole.prepare(scan, predicted))
        for name in names:
            if name in structures:
                yield maps.explain(case, name, structures)

    def _map(self, labelled: LabelledScan, target: Target) -> tuple[Floats, Floats | None]:
        """The map of a target, and what would be it with other noise where there is noise: means of halves of the copies."""
        if self.method == "occlusion":
            return self._whole.attribute(labelled, target, self._seeds[0]), None
        one, other = (self._half.attribute(labelled, target, seed) for seed in self._seeds[:2])
        return one, other

    def _random_maps(self, labelled: LabelledScan, target: Target) -> Iterator[tuple[str, Floats]]:
        """The maps of the copies with random weights, by share of their layers."""
        for name, attributor in self._random.items():
            yield name, attributor.attribute(labelled, target, self._seeds[0])


class _Maps:
    """The maps of one scan, which are compared at the same voxels of the body."""

    def __init__(self, explainer: Explainer, scan: Scan, labelled: LabelledScan) -> None:
        self._explainer, self._grid, self._labelled = explainer, scan.grid, labelled
        self._body = body_of(scan.image)
        self._sampled = SampledBody.of(self._body, scan.grid.spacing, explainer._seeds[0])
        self._values: dict[str, npt.NDArray[Any]] = {}
        """Of the maps so far, by label."""

    def explain(self, case: str, name: str, structures: Mapping[str, Mask]) -> ExplainedLabel:
        """The map of a label, and what its checks give."""
        start = time.perf_counter()
        structure, target = structures[name], self._target(name)
        one, second = self._explainer._map(self._labelled, target)
        found: Floats = one if second is None else 0.5 * (one + second)
        shells = self._sampled.shells_around(structure, self._grid.spacing)
        own = self._values[name] = self._sampled.values(found)
        halves = None if second is None else rank_correlation(self._sampled.values(one), self._sampled.values(second), shells)
        random = {
            share: rank_correlation(own, self._sampled.values(of_random), shells)
            for share, of_random in self._explainer._random_maps(self._labelled, target)
        }
        other = self._other(name, structures)
        inside, near = concentrate(found, structure, self._body, self._grid)
        explanation = Explanation(
            case=case,
            label=name,
            method=self._explainer.method,
            voxels=int(structure.sum()),
            random=random,
            other=other,
            other_correlation=rank_correlation(own, self._values_of(other, name), shells),
            repeated=None if halves is None else 2 * halves / (1 + max(halves, 0.0)),
            inside=inside,
            near=near,
            copies=self._explainer.copies,
            seed=self._explainer.seed,
            seconds=round(time.perf_counter() - start, 3),
        )
        explanation = explanation.model_copy(update={"withheld": why_withheld(explanation)})
        return ExplainedLabel(explanation=explanation, values=found, structure=structure)

    def _target(self, name: str) -> Target:
        return Target(head=self._explainer.labels.heads.index(name))

    def _other(self, name: str, structures: Mapping[str, Mask]) -> str:
        """The other label with most voxels, or `ELSEWHERE` if no other label was predicted."""
        sizes = {other: int(mask.sum()) for other, mask in structures.items() if other != name}
        return max(sizes, key=lambda other: sizes[other]) if sizes else ELSEWHERE

    def _values_of(self, other: str, name: str) -> npt.NDArray[Any]:
        """The values of the map of another target than the label ``name``."""
        if other == ELSEWHERE:
            target = replace(self._target(name), elsewhere=True)
            return self._sampled.values(self._explainer._whole.attribute(self._labelled, target, self._explainer._seeds[0]))
        if other not in self._values:
            of_other = self._explainer._whole.attribute(self._labelled, self._target(other), self._explainer._seeds[0])
            self._values[other] = self._sampled.values(of_other)
        return self._values[other]
