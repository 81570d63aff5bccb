"""From a model and a scan to a label map on the scan's own grid."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError
from nnseg.core.geometry import Grid, Reorientation
from nnseg.core.image import Floats, LabelMap, PreprocessedCase, Scan
from nnseg.core.likeness import facts_of
from nnseg.core.plan import Plan
from nnseg.core.sides import swapped_heads
from nnseg.core.trust import Confidence, Trust
from nnseg.inference.memory import Share, needed_gb
from nnseg.inference.postprocess import apply
from nnseg.inference.restore import Block, Stream, Voxels, blocks, cropped_view, decided, interpolated, layout_of, mean
from nnseg.inference.sliding_window import sliding_window
from nnseg.inference.uncertainty import Sample, Tally, tempered
from nnseg.inference.voter import Voter
from nnseg.inference.window import Window, batch_for
from nnseg.network.bundle import Member, Model
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.preprocessing.preprocess import OwnNormalizer, preprocess, separate_back, turn_for

log = logging.getLogger(__name__)

BLOCK_VALUES = 2_000_000
"""Of all labels of a block on the way back: few enough for caches, many enough to be worth a call."""

LEAST_PROBABILITY = 1e-7
"""That a logarithm is taken of."""

IN_MEMORY_BYTES = 2**28
"""Probabilities above this size are kept in a file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A scan made ready for a model's networks.

    Args:
        scan: as it was read.
        cases: the scan preprocessed, by the digest of how; without those that are shown an answer that is not there yet.
        previous: the same for the networks that answer first, in a cascade.
        seconds: it took.
    """

    scan: Scan
    cases: Mapping[str, PreprocessedCase]
    previous: Prepared | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a model says about a scan.

    Args:
        label_map: the decision, on the scan's canonical grid.
        probabilities: float32 (K, Z, Y, X) on the same grid, one for each of ``labels.heads``; in a file where they are large. None
            unless asked for.
        uncertainty: float32 (Z, Y, X) on the same grid, the chance that a voxel's label is wrong; None unless asked for.
        confidence: how good the whole is expected to be, and whether the scan is like those of the training; with uncertainty.
        sample: some voxels' probabilities, if asked for.
        seconds: of "preprocess", "network" and "restore".
    """

    label_map: LabelMap
    probabilities: Floats | None = None
    uncertainty: Floats | None = None
    confidence: Confidence | None = None
    sample: Sample | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Networks that are shown the same tiles.

    Args:
        key: of how their scans are preprocessed.
        plan: of one of them; all preprocess alike.
        voters: the networks.
        window: how the tiles are cut.
    """

    key: str
    plan: Plan
    voters: tuple[Voter, ...]
    window: Window


def predict(model: Model, scan: Scan, *, device: torch.device | str = "auto", probabilities: bool = False) -> Prediction:
    """The model's answer to one scan; for many scans, and for more options, make one `Predictor`.

    Args:
        model: one or more members; in a cascade the previous networks answer first, and the members are shown what they say.
        scan: with the model's channels, in their order.
        device: where the networks compute: "auto", "cpu", "cuda:1", ...
        probabilities: also keep them.

    Raises:
        ScanError: the scan has another number of channels.
        ModelError: weights do not fit their plan, or give no numbers, or a cascade's previous networks are missing.
    """
    predictor = Predictor(model, device=device)
    return predictor.answer(predictor.prepare(scan), probabilities=probabilities)


class Predictor:
    """A model made ready once, for many scans. Calls change nothing in it, so that threads may share one.

    Args:
        model: as for `predict`.
        device: where the networks compute.
        step: distance of neighbouring tiles as a share of the patch; absent for the plan's.
        mirror: also average over mirrored copies, along the plan's axes.
        classic: answer as nnU-Net does: in float32, logits averaged over the networks of a plan, and probabilities only over plans.
            Otherwise in the fastest precision, and probabilities averaged over all networks.
        network: the function that made the networks, if they are of one's own.
        normalizer: that the cases were preprocessed with, if it is one's own.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device | str = "auto",
        step: float | None = None,
        mirror: bool = True,
        classic: bool = False,
        network: Callable[[Plan], nn.Module] | None = None,
        normalizer: OwnNormalizer | None = None,
    ) -> None:
        device = resolve_device(device) if isinstance(device, str) else device
        _check_shown(model)
        self.model, self._classic, self._normalizer = model, classic, normalizer
        voters = [Voter.of(member, device, network) for member in model.members]
        windows = [window_of(v.member, device, step=step, mirror=mirror, classic=classic) for v in voters]
        self._groups = _grouped(voters, windows, by_plan=classic)
        self._previous: Predictor | None = None
        if model.previous:
            first = Model(members=model.previous)
            self._previous = Predictor(
                first, device=device, step=step, mirror=mirror, classic=classic, network=network, normalizer=normalizer
            )

    def __call__(self, scan: Scan) -> Prediction:
        """The prediction for one scan; raises as `predict` does."""
        return self.answer(self.prepare(scan))

    def prepare(self, scan: Scan) -> Prepared:
        """The scan preprocessed for every network that needs no other's answer; on the CPU, without the networks.

        Raises:
            ScanError: the scan has another number of channels.
        """
        start = time.perf_counter()
        cases: dict[str, PreprocessedCase] = {}
        for group in self._groups:
            if group.key not in cases and not group.plan.previous:
                cases[group.key] = self._preprocess(scan, group.plan, None)
        previous = self._previous.prepare(scan) if self._previous else None
        return Prepared(scan=scan, cases=cases, previous=previous, seconds=time.perf_counter() - start)

    def answer(
        self,
        prepared: Prepared,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        sample: int = 0,
        scratch: Path | None = None,
    ) -> Prediction:
        """The prediction for a prepared scan.

        Args:
            probabilities: also keep them, tempered as the model's held-out cases ask for.
            uncertainty: also say how sure it is.
            sample: voxels whose untempered probabilities are drawn, with uncertainty.
            scratch: folder for what is too large to be held; the system's if absent.

        Raises:
            ModelError: the networks give no numbers.
            RunError: there is too little memory for a single tile.
        """
        scan = prepared.scan
        clock = {"preprocess": prepared.seconds, "network": 0.0}
        if self._previous and prepared.previous:
            first = self._previous.answer(prepared.previous)
            clock["network"] += first.seconds["network"] + first.seconds["restore"]
            start = time.perf_counter()
            cases = {g.key: self._preprocess(scan, g.plan, first.label_map) for g in self._groups if g.plan.previous}
            prepared = Prepared(scan=scan, cases={**prepared.cases, **cases})
            clock["preprocess"] += time.perf_counter() - start
        start, before = time.perf_counter(), clock["network"]
        tally = Tally(self.model.labels, self.model.trust, sample=sample) if uncertainty else None
        with torch.inference_mode():
            canvas = _Canvas(self.model, scan.grid, probabilities=probabilities, uncertainty=uncertainty, scratch=scratch)
            self._paint(canvas, prepared, tally, clock)
        labels = apply(canvas.labels, self.model.postprocessing, self.model.labels, voxel_mm3=math.prod(scan.grid.spacing))
        clock["restore"] = time.perf_counter() - start - (clock["network"] - before)
        return Prediction(
            label_map=LabelMap(labels=labels, grid=scan.grid),
            probabilities=canvas.probabilities,
            uncertainty=canvas.uncertainty,
            confidence=self._confidence(prepared, tally) if tally else None,
            sample=self._sample(prepared, tally) if tally and sample else None,
            seconds=clock,
        )

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM, beyond what the process holds idle, that a scan on a grid takes at most from reading to writing.

        What the networks compute on a device with memory of its own is not counted.
        """
        shares = [
            Share(plan=g.plan, window=g.window, networks=len(g.voters), on_cpu=g.voters[0].device.type == "cpu")
            for g in self._groups
        ]
        own = needed_gb(shares, grid, uncertainty=uncertainty)
        if probabilities:
            own += min(4.0 * len(self.model.labels.heads) * math.prod(grid.shape), IN_MEMORY_BYTES) / 1e9
        return own + self._previous.memory_gb(grid) if self._previous else own

    def _preprocess(self, scan: Scan, plan: Plan, previous: LabelMap | None) -> PreprocessedCase:
        return preprocess(scan, None, plan, previous=previous if plan.previous else None, normalizer=self._normalizer)

    def _confidence(self, prepared: Prepared, tally: Tally) -> Confidence:
        image = prepared.cases[self._groups[0].key].image[: len(self.model.channels)]
        facts, networks = facts_of(prepared.scan.grid, image), len(self.model.members)
        return (self.model.trust or Trust()).confidence(tally.agreement(), facts, networks=networks)

    def _sample(self, prepared: Prepared, tally: Tally) -> Sample:
        """The sample, by places in the canonical scan."""
        sample, placement = tally.sample(), prepared.cases[self._groups[0].key].placement
        layout = _layout(prepared, self._groups[0])
        voxels = np.empty_like(sample.voxels)
        for axis, (own, flip) in enumerate(zip(layout.axes, layout.flips, strict=True)):
            line = np.arange(prepared.scan.grid.shape[own])[:: -1 if flip else 1][placement.crop.slices[placement.axes[axis]]]
            voxels[:, own] = line[sample.voxels[:, axis]]
        return replace(sample, voxels=voxels)

    def _paint(self, canvas: _Canvas, prepared: Prepared, tally: Tally | None, clock: dict[str, float]) -> None:
        layouts = [_layout(prepared, group) for group in self._groups]
        streams = [self._stream(group, prepared.cases[group.key], clock) for group in self._groups]
        streams = [stream.turned(layout, layouts[0]) for stream, layout in zip(streams, layouts, strict=True)]
        placement = prepared.cases[self._groups[0].key].placement
        canvas.frame(lambda volume: cropped_view(volume, placement, layouts[0]))
        for block in blocks(streams, values=BLOCK_VALUES, channels=len(self.model.labels.heads)):
            if len(streams) == 1 and canvas.probabilities is None and tally is None:
                canvas.paint(block, decided(streams[0], block, self.model.labels))
                continue
            probabilities = mean([self._probabilities(logits) for logits in interpolated(streams, block)], streams)
            canvas.paint_probabilities(block, probabilities)
            if tally:
                canvas.paint_uncertainty(block, tally.add(probabilities, (block[0].start, block[1].start, block[2].start)))

    def _logits(self, answer: Tensor) -> Tensor:
        """What is interpolated on the way back of a mean answer (K, ...): logits, because probabilities would blur the edges.

        Those of labels are logarithms of probabilities, which leaves no doubt about what cannot win.

        Args:
            answer: probabilities; logits in classic mode.
        """
        if self._classic:
            return answer if self.model.labels.regions else answer.log_softmax(0)
        if self.model.labels.regions:
            return answer.logit(LEAST_PROBABILITY)
        return answer.clamp(min=LEAST_PROBABILITY).log_()

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (K, ...) of logits."""
        return logits.sigmoid() if self.model.labels.regions else logits.softmax(0)

    def _stream(self, group: Group, case: PreprocessedCase, clock: dict[str, float]) -> Stream:
        slabs = _timed(sliding_window(group.voters, torch.from_numpy(case.image), group.window), clock)
        weight = 1.0 if self._classic else float(len(group.voters))
        logits = (self._logits(slab) for slab in slabs)
        return Stream(logits, case.placement, separate=separate_back(case.placement, group.plan), weight=weight)


class _Canvas:
    """The volumes of a prediction, filled block by block."""

    def __init__(self, model: Model, grid: Grid, *, probabilities: bool, uncertainty: bool, scratch: Path | None) -> None:
        self._labels, self._temperature = model.labels, model.trust.temperature if model.trust else 1.0
        self.labels = np.full(grid.shape, model.labels.values[0], model.labels.dtype)
        self.uncertainty = np.zeros(grid.shape, np.float32) if uncertainty else None
        self.probabilities: Floats | None = None
        if probabilities:
            self.probabilities = _empty((len(model.labels.heads), *grid.shape), scratch)
            self.probabilities[:] = 0
            if not model.labels.regions:
                self.probabilities[0] = 1  # outside the crop the background is certain

    def frame(self, view: Callable[[Voxels], Voxels]) -> None:
        """Say which part of the volumes blocks lie in, and how it is turned."""
        self._label_view = view(self.labels)
        self._view = None if self.probabilities is None else view(self.probabilities)
        self._uncertainty_view = None if self.uncertainty is None else view(self.uncertainty)

    def paint(self, block: Block, values: Voxels) -> None:
        """Set the labels of a block."""
        self._label_view[block] = values

    def paint_probabilities(self, block: Block, answer: Tensor) -> None:
        """Set the labels of a block, and its probabilities where they are kept."""
        self._label_view[block] = self._labels.decide(answer.cpu().numpy())
        if self._view is not None:
            kept = tempered(answer, self._temperature, regions=bool(self._labels.regions))
            self._view[(slice(None), *block)] = kept.cpu().numpy()

    def paint_uncertainty(self, block: Block, answer: Tensor) -> None:
        """Set the uncertainty of a block."""
        assert self._uncertainty_view is not None
        self._uncertainty_view[block] = answer.cpu().numpy()


def window_of(
    member: Member, device: torch.device, *, step: float | None = None, mirror: bool = True, classic: bool = False
) -> Window:
    """How a member's tiles are cut and sent through its network on a device."""
    plan = member.plan
    return Window(
        patch=plan.patch,
        heads=len(plan.labels.heads),
        step=plan.inference.step if step is None else step,
        mirror_axes=plan.inference.mirror_axes if mirror else (),
        sigmoid=bool(plan.labels.regions),
        logits=classic,
        swap_axis=plan.training.augmentation.swap_axis,
        swaps=swapped_heads(plan.labels, plan.training.augmentation.swapped_labels) or (),
        previous_swaps=plan.training.augmentation.swapped_labels if plan.previous else (),
        batch=batch_for(plan.patch, max(plan.network.features[0], len(plan.labels.heads)), device),
        dtype=torch.float32 if classic else autocast_dtype(device, plan.training.precision),
    )


def _check_shown(model: Model) -> None:
    for plan in (member.plan for member in model.members):
        if plan.previous and all(shown.plan.name != plan.previous for shown in model.previous):
            raise ModelError(
                f"the {plan.name} network is shown the answer of {plan.previous}, which this model lacks; use the run "
                "folder, or a file that nnseg export made of it"
            )


def _grouped(voters: Sequence[Voter], windows: Sequence[Window], *, by_plan: bool) -> tuple[Group, ...]:
    """The networks divided by the tiles that they are shown, and by their plans if asked for; in order of appearance."""
    found: dict[tuple[str, Window, str], list[Voter]] = {}
    for voter, window in zip(voters, windows, strict=True):
        plan = voter.member.plan
        found.setdefault((plan.key("preprocessing", "previous"), window, plan.key() if by_plan else ""), []).append(voter)
    return tuple(
        Group(key=key, plan=voters[0].member.plan, voters=tuple(voters), window=window)
        for (key, window, _), voters in found.items()
    )


def _layout(prepared: Prepared, group: Group) -> Reorientation:
    """From the canonical scan to the axis order of a group's networks."""
    return layout_of(group.plan.preprocessing.axes, turn_for(prepared.scan, group.plan))


def _timed(slabs: Iterator[Tensor], clock: dict[str, float]) -> Iterator[Tensor]:
    """The slabs, with the time that they take put down as the network's."""
    while True:
        start = time.perf_counter()
        slab = next(slabs, None)
        if slab is not None and slab.is_cuda:
            torch.cuda.synchronize(slab.device)
        clock["network"] += time.perf_counter() - start
        if slab is None:
            return
        yield slab


def _empty(shape: tuple[int, ...], scratch: Path | None) -> Floats:
    """An array, in a file without a name if it is large."""
    if math.prod(shape) * 4 <= IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)  # keeps the file open as long as it lives
