"""`Explainer`: maps of what a model's predictions of one scan rest on, each with the checks that it must pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.explanation import Explanation, why_withheld
from nnseg.core.frozen import short_repr
from nnseg.core.image import Floats, Scan
from nnseg.core.options import ExplanationMethod
from nnseg.evaluation.attribution import Halves, SampledBody, alike, body_of, concentrate, repeatability
from nnseg.inference.attribution import COPIES, Attribution, Attributor, SegmentedScan, Target
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model

Mask = npt.NDArray[np.bool_]

RANDOMIZED: Mapping[str, float] = {"half": 0.5, "all": 1.0}
"""Shares of the layers that get random weights, by the names that the record has for them; the last one decides."""

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
        model: of one or more networks; of a cascade the last ones are explained, with the label map of the previous stage as it is.
        method: "smoothgrad", which needs the extra "explain", or "occlusion".
        device: where the networks compute.
        copies: noisy copies of each voxel's surroundings in a map of SmoothGrad.
        seed: of the noise, of random weights, and of the voxels that maps are compared at.

    Raises:
        ModelError: weights do not fit their plan, or the previous stage of a cascade is missing.
    """

    def __init__(
        self, model: Model, method: ExplanationMethod, *, device: str = "auto", copies: int = COPIES, seed: int = 0
    ) -> None:
        self.labels, self.method, self.seed = model.labels, method, seed
        self.copies = 0 if method == "occlusion" else copies
        self._predictor = Predictor(model, device=device)
        self._seeds = [int(number) for number in np.random.SeedSequence(seed).generate_state(3)]
        self._attributor = Attributor.of(model.labels, self._predictor.groups, method, copies=(copies + 1) // 2)
        self._random = {name: self._attributor.randomized(share, self._seeds[2]) for name, share in RANDOMIZED.items()}

    def explain(self, scan: Scan, case: str, names: Sequence[str]) -> Iterator[ExplainedLabel]:
        """The map of each of these labels or regions that was predicted.

        Args:
            case: name of the scan.
            names: of labels or regions.

        Raises:
            ScanError: the scan has another number of channels, or nothing of these labels was predicted.
            ModelError: the networks give no numbers.
        """
        prepared = self._predictor.prepare(scan)
        predicted = self._predictor.infer(prepared, objects=False).label_map
        structures = {name: self.labels.mask(name, predicted.labels) for name in self.labels.foreground}
        structures = {name: structure for name, structure in structures.items() if structure.any()}
        if not set(names) & set(structures):
            raise ScanError(f"case {case}: no voxel is predicted as {' or '.join(names)}, so there is nothing to explain")
        labelled = self._attributor.prepare(scan, predicted, self._predictor.previous_label_map(prepared))
        compared = _ComparedMaps(self, scan, labelled, structures)
        for name in names:
            if name in structures:
                yield compared.explain(case, name)

    def maps(self, labelled: SegmentedScan, target: Target, random: str = "") -> list[Attribution]:
        """The maps of two halves of the noisy copies, whose mean is that of all; a single one of a method without noise.

        Args:
            random: of the networks with random weights in this share of the layers, by its name; "" for the model's own.
        """
        attributor = self._random[random] if random else self._attributor
        return [attributor.attribute(labelled, target, seed) for seed in self._seeds[: 2 if self.copies else 1]]


class _ComparedMaps:
    """The maps of one scan, which are compared at the same voxels of the body."""

    def __init__(self, explainer: Explainer, scan: Scan, labelled: SegmentedScan, structures: Mapping[str, Mask]) -> None:
        self._explainer, self._grid, self._labelled, self._structures = explainer, scan.grid, labelled, structures
        self._body = body_of(scan.image)
        self._sampled = SampledBody.of(self._body, scan.grid.spacing, explainer.seed)
        self._values: dict[str, Halves] = {}
        """Of the maps so far, by label."""

    def explain(self, case: str, name: str) -> ExplainedLabel:
        """The map of a label, and what its checks give."""
        start = time.perf_counter()
        structure, target = self._structures[name], self._target(name)
        halves = self._explainer.maps(self._labelled, target)
        found = np.asarray(np.mean([half.values for half in halves], axis=0), np.float32)
        own = self._values[name] = self._sample(halves)
        shells = self._sampled.shells_around(structure, self._grid.spacing, halves[0].reach)
        random = {
            share: alike(own, self._sample(self._explainer.maps(self._labelled, target, share)), shells) for share in RANDOMIZED
        }
        other = self._other(name)
        inside, near = concentrate(found, structure, self._body, self._grid)
        explanation = Explanation(
            case=case,
            label=name,
            method=self._explainer.method,
            voxels=int(structure.sum()),
            random=random,
            other=other,
            other_correlation=alike(own, self._values_of(other, target), shells),
            repeated=repeatability(own, shells),
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

    def _sample(self, maps: Sequence[Attribution]) -> Halves:
        return [self._sampled.values(one.values) for one in maps]

    def _other(self, name: str) -> str:
        """The other label with most voxels, or `ELSEWHERE` if no other label was predicted."""
        sizes = {other: int(mask.sum()) for other, mask in self._structures.items() if other != name}
        return max(sizes, key=lambda other: sizes[other]) if sizes else ELSEWHERE

    def _values_of(self, other: str, target: Target) -> Halves:
        """The values of the map of another label, or of the label of a target elsewhere."""
        if other == ELSEWHERE:
            return self._sample(self._explainer.maps(self._labelled, replace(target, elsewhere=True)))
        if other not in self._values:
            self._values[other] = self._sample(self._explainer.maps(self._labelled, self._target(other)))
        return self._values[other]
