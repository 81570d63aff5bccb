"""From a model and a scan to a label map on the scan's own grid."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
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
from nnseg.core.trust import Agreement, Confidence, Trust
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
        self._groups = _grouped(voters, [window_of(v.member, device, step=step, mirror=mirror, classic=classic) for v in voters])
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
        start, scan = time.perf_counter(), prepared.scan
        clock = {"preprocess": prepared.seconds, "network": 0.0}
        if self._previous and prepared.previous:
            first = self._previous.answer(prepared.previous)
            clock["network"] += sum(first.seconds.values())
            cases = {g.key: self._preprocess(scan, g.plan, first.label_map) for g in self._groups if g.plan.previous}
            prepared = Prepared(scan=scan, cases={**prepared.cases, **cases})
        tallies = [Tally(self.model.labels, self.model.trust, sample=sample) for _ in self._groups] if uncertainty else []
        with torch.inference_mode():
            canvas = _Canvas(self.model, scan.grid, probabilities=probabilities, uncertainty=uncertainty, scratch=scratch)
            self._paint(canvas, prepared, tallies, clock)
        labels = apply(canvas.labels, self.model.postprocessing, self.model.labels, voxel_mm3=math.prod(scan.grid.spacing))
        clock["restore"] = time.perf_counter() - start - clock["network"]
        return Prediction(
            label_map=LabelMap(labels=labels, grid=scan.grid),
            probabilities=canvas.probabilities,
            uncertainty=canvas.uncertainty,
            confidence=self._confidence(prepared, tallies) if tallies else None,
            sample=tallies[0].sample(prepared.cases[self._groups[0].key].placement) if tallies and sample else None,
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
        return max(own, self._previous.memory_gb(grid)) if self._previous else own

    def _preprocess(self, scan: Scan, plan: Plan, previous: LabelMap | None) -> PreprocessedCase:
        return preprocess(scan, None, plan, previous=previous if plan.previous else None, normalizer=self._normalizer)

    def _confidence(self, prepared: Prepared, tallies: Sequence[Tally]) -> Confidence:
        weights = [float(len(group.voters)) for group in self._groups]
        agreement = Agreement.mean([tally.agreement() for tally in tallies], weights)
        image = prepared.cases[self._groups[0].key].image[: len(self.model.channels)]
        facts = facts_of(prepared.scan.grid, image)
        return (self.model.trust or Trust()).confidence(agreement, facts, networks=int(sum(weights)))

    def _paint(self, canvas: _Canvas, prepared: Prepared, tallies: Sequence[Tally], clock: dict[str, float]) -> None:
        layouts = [_layout(prepared, group) for group in self._groups]
        streams = [
            self._stream(group, prepared.cases[group.key], tally, clock) for group, tally in zip_longest(self._groups, tallies)
        ]
        streams = [stream.turned(layout, layouts[0]) for stream, layout in zip(streams, layouts, strict=True)]
        placement = prepared.cases[self._groups[0].key].placement
        canvas.frame(lambda volume: cropped_view(volume, placement, layouts[0]))
        heads = slice(0, len(self.model.labels.heads))
        for block in blocks(streams, values=BLOCK_VALUES, channels=heads.stop):
            if len(streams) == 1 and canvas.probabilities is None:
                canvas.paint(block, decided(streams[0], block, self.model.labels))
            else:
                shares = [self._probabilities(part) for part in interpolated(streams, block, heads)]
                canvas.paint_probabilities(block, mean(shares, streams))
            if tallies:
                canvas.paint_uncertainty(block, mean(interpolated(streams, block, slice(heads.stop, None)), streams)[0])

    def _evidence(self, slabs: Iterator[Tensor], tally: Tally | None) -> Iterator[Tensor]:
        """Logits of each slab of mean votes and, with a tally, its uncertainty as one channel more."""
        for slab in slabs:
            logits = self._logits(slab)
            if tally is None:
                yield logits
            else:
                yield torch.cat([logits, tally.add(self._probabilities(slab) if self._classic else slab)[None]])

    def _logits(self, votes: Tensor) -> Tensor:
        """Logits (K, ...) of mean votes: what is interpolated on the way back, because probabilities would blur the edges.

        Those of labels are logarithms of probabilities, which leaves no doubt about what cannot win.
        """
        if self._classic:
            return votes if self.model.labels.regions else votes.log_softmax(0)
        if self.model.labels.regions:
            return votes.logit(LEAST_PROBABILITY)
        return votes.clamp(min=LEAST_PROBABILITY).log_()

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (K, ...) of logits."""
        return logits.sigmoid() if self.model.labels.regions else logits.softmax(0)

    def _stream(self, group: Group, case: PreprocessedCase, tally: Tally | None, clock: dict[str, float]) -> Stream:
        image = torch.from_numpy(case.image).to(group.voters[0].device)
        slabs = _finite(_timed(sliding_window(group.voters, image, group.window), clock), group)
        separate = separate_back(case.placement, group.plan)
        return Stream(self._evidence(slabs, tally), case.placement, separate=separate, weight=float(len(group.voters)))


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


def _grouped(voters: Sequence[Voter], windows: Sequence[Window]) -> tuple[Group, ...]:
    """The networks divided by the tiles that they are shown, in order of appearance."""
    found: dict[tuple[str, Window], list[Voter]] = {}
    for voter, window in zip(voters, windows, strict=True):
        found.setdefault((voter.member.plan.key("preprocessing", "previous"), window), []).append(voter)
    return tuple(
        Group(key=key, plan=voters[0].member.plan, voters=tuple(voters), window=window) for (key, window), voters in found.items()
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


def _finite(slabs: Iterator[Tensor], group: Group) -> Iterator[Tensor]:
    for slab in slabs:
        if not bool(torch.isfinite(slab).all()):
            folds = ", ".join(str(voter.member.fold) for voter in group.voters)
            word = "network of fold" if len(group.voters) == 1 else "networks of folds"
            raise ModelError(f"the {word} {folds} ({group.plan.name}) gave values that are not numbers; train again")
        yield slab


def _empty(shape: tuple[int, ...], scratch: Path | None) -> Floats:
    """An array, in a file without a name if it is large."""
    if math.prod(shape) * 4 <= IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)  # keeps the file open as long as it lives
