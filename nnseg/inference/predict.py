"""From a model and a scan to a label map on the scan's own grid."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError
from nnseg.core.geometry import Grid, Reorientation
from nnseg.core.image import Floats, LabelMap, PreprocessedCase, Scan
from nnseg.core.plan import Plan
from nnseg.core.trust import Confidence, Trust, facts_of
from nnseg.inference.memory import NetworkShare, needed_gb
from nnseg.inference.networks import MemberNetwork, NetworkGroup, grouped, window_of
from nnseg.inference.restore import Block, RestoreStream, blocks, cropped_view, decided, layout_of
from nnseg.inference.sliding_window import sliding_window
from nnseg.inference.uncertainty import DrawnVoxels, UncertaintyStats
from nnseg.inference.volumes import IN_MEMORY_BYTES, OutputVolumes, RequestedOutputs
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.preprocessing.preprocess import OwnNormalizer, preprocess, separate_back, turn_for

log = logging.getLogger(__name__)

BLOCK_VALUES = 2_000_000
"""Of all labels of a block on the way back: few enough for caches, many enough to be worth a call."""

LEAST_PROBABILITY = 1e-7
"""That a logarithm is taken of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedScan:
    """A scan made ready for a model's networks.

    Args:
        scan: as it was read.
        cases: the scan preprocessed, by the digest of how; without those that are shown an answer that is not there yet.
        previous: the same for the networks that answer first, in a cascade.
        seconds: that each of ``cases`` took, by the same digests and by stage.
    """

    scan: Scan
    cases: Mapping[str, PreprocessedCase]
    previous: PreparedScan | None = None
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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
    sample: DrawnVoxels | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


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
    return predictor.infer(predictor.prepare(scan), probabilities=probabilities)


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
        voters = [MemberNetwork.of(member, device, network) for member in model.members]
        windows = [window_of(v.member, device, step=step, mirror=mirror, classic=classic) for v in voters]
        self._groups = grouped(voters, windows, by_plan=classic)
        self._previous: Predictor | None = None
        if model.previous:
            first = Model(members=model.previous)
            self._previous = Predictor(
                first, device=device, step=step, mirror=mirror, classic=classic, network=network, normalizer=normalizer
            )

    def __call__(self, scan: Scan) -> Prediction:
        """The prediction for one scan; raises as `predict` does."""
        return self.infer(self.prepare(scan))

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed for every network that needs no other's answer; on the CPU, without the networks.

        Raises:
            ScanError: the scan has another number of channels.
        """
        previous = self._previous.prepare(scan) if self._previous else None
        plans = {group.key: group.plan for group in self._groups if not group.plan.previous}
        return self._with_cases(PreparedScan(scan=scan, cases={}, previous=previous), plans, None)

    def infer(
        self,
        prepared: PreparedScan,
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
        wanted = RequestedOutputs(
            probabilities=probabilities, uncertainty=uncertainty, confidence=uncertainty, sample=sample, scratch=scratch
        )
        (prediction,) = self._infer(prepared, [self._weights()], wanted)
        return prediction

    def infer_ensembles(
        self, prepared: PreparedScan, ensembles: Mapping[str, Mapping[str, float]], *, sample: int = 0
    ) -> dict[str, Prediction]:
        """What several ensembles of the model's plans say of a scan, with their confidence. Each network answers once for all.

        Args:
            ensembles: weights of plans by their names, for each ensemble by its name; they take the place of the members' own.
            sample: voxels whose probabilities are drawn.

        Returns:
            Each with the seconds that it would have taken alone.

        Raises:
            ModelError: the networks give no numbers.
        """
        weights = [self._weights(plans) for plans in ensembles.values()]
        found = self._infer(prepared, weights, RequestedOutputs(confidence=True, sample=sample))
        return dict(zip(ensembles, found, strict=True))

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM, beyond what the process holds idle, that a scan on a grid takes at most from reading to writing.

        What the networks compute on a device with memory of its own is not counted.
        """
        shares = [
            NetworkShare(plan=g.plan, window=g.window, networks=len(g.voters), on_cpu=g.voters[0].device.type == "cpu")
            for g in self._groups
        ]
        own = needed_gb(shares, grid, uncertainty=uncertainty)
        if probabilities:
            own += min(4.0 * len(self.model.labels.heads) * math.prod(grid.shape), IN_MEMORY_BYTES) / 1e9
        return own + self._previous.memory_gb(grid) if self._previous else own

    def _weights(self, plans: Mapping[str, float] | None = None) -> list[float]:
        """What each group's answer counts: as much as its networks together, or in classic mode as one.

        Args:
            plans: weights by the plans' names; the networks' own if absent.
        """
        return [
            (group.weight if plans is None else plans.get(group.plan.name, 0.0)) * (1 if self._classic else len(group.voters))
            for group in self._groups
        ]

    def _infer(self, prepared: PreparedScan, weights: Sequence[Sequence[float]], wanted: RequestedOutputs) -> list[Prediction]:
        """A prediction for each way of weighing the groups."""
        prepared = self._shown(prepared)
        clocks = [{"network": 0.0, "restore": 0.0} for _ in self._groups]
        with torch.inference_mode():
            canvases = [OutputVolumes(self.model, prepared.scan.grid, w, wanted) for w in weights]
            self._paint(canvases, prepared, clocks)
        return [self._prediction(canvas, prepared, clocks) for canvas in canvases]

    def _prediction(self, canvas: OutputVolumes, prepared: PreparedScan, clocks: Sequence[Mapping[str, float]]) -> Prediction:
        voting = [group for group, weight in zip(self._groups, canvas.weights, strict=True) if weight]
        labels, tally = canvas.postprocessed(), canvas.tally
        spent = [clock for clock, weight in zip(clocks, canvas.weights, strict=True) if weight]
        spent += [prepared.seconds.get(key, {}) for key in {group.key for group in voting}] + [{"restore": canvas.seconds}]
        return Prediction(
            label_map=LabelMap(labels=labels, grid=prepared.scan.grid),
            probabilities=canvas.probabilities,
            uncertainty=canvas.uncertainty,
            confidence=self._confidence(prepared, voting, tally) if tally else None,
            sample=self._sample(prepared, tally) if tally and tally.samples else None,
            seconds={stage: sum(of.get(stage, 0.0) for of in spent) for stage in ("preprocess", "network", "restore")},
        )

    def _shown(self, prepared: PreparedScan) -> PreparedScan:
        """What is prepared, with the cases of networks that are shown the answer of the previous ones, which is made now."""
        if not self._previous or not prepared.previous:
            return prepared
        first = self._previous.infer(prepared.previous)
        return self._with_cases(prepared, {g.key: g.plan for g in self._groups if g.plan.previous}, first)

    def _with_cases(self, prepared: PreparedScan, plans: Mapping[str, Plan], first: Prediction | None) -> PreparedScan:
        """What is prepared, with the scan preprocessed for more plans; what the previous networks took counts for them."""
        cases, seconds = dict(prepared.cases), dict(prepared.seconds)
        before = first.seconds if first else {}
        for key, plan in plans.items():
            start = time.perf_counter()
            shown = first.label_map if first and plan.previous else None
            cases[key] = preprocess(prepared.scan, None, plan, previous=shown, normalizer=self._normalizer)
            seconds[key] = {
                "preprocess": before.get("preprocess", 0.0) + time.perf_counter() - start,
                "network": before.get("network", 0.0) + before.get("restore", 0.0),
            }
        return replace(prepared, cases=cases, seconds=seconds)

    def _confidence(self, prepared: PreparedScan, voting: Sequence[NetworkGroup], tally: UncertaintyStats) -> Confidence:
        image = prepared.cases[voting[0].key].image[: len(self.model.channels)]
        facts, networks = facts_of(prepared.scan.grid, image), sum(len(group.voters) for group in voting)
        return (self.model.trust or Trust()).confidence(tally.agreement(), facts, networks=networks)

    def _sample(self, prepared: PreparedScan, tally: UncertaintyStats) -> DrawnVoxels:
        """The sample, by places in the canonical scan."""
        sample, placement = tally.sample(), prepared.cases[self._groups[0].key].placement
        layout = _layout(prepared, self._groups[0])
        voxels = np.empty_like(sample.voxels)
        for axis, (own, flip) in enumerate(zip(layout.axes, layout.flips, strict=True)):
            line = np.arange(prepared.scan.grid.shape[own])[:: -1 if flip else 1][placement.crop.slices[placement.axes[axis]]]
            voxels[:, own] = line[sample.voxels[:, axis]]
        return replace(sample, voxels=voxels)

    def _paint(self, canvases: Sequence[OutputVolumes], prepared: PreparedScan, clocks: Sequence[dict[str, float]]) -> None:
        layouts = [_layout(prepared, group) for group in self._groups]
        streams = [self._stream(group, prepared.cases[group.key], clock) for group, clock in zip(self._groups, clocks, strict=True)]
        streams = [stream.turned(layout, layouts[0]) for stream, layout in zip(streams, layouts, strict=True)]
        placement = prepared.cases[self._groups[0].key].placement
        for canvas in canvases:
            canvas.frame(lambda volume: cropped_view(volume, placement, layouts[0]))
        fast = len(streams) == len(canvases) == 1 and canvases[0].only_labels
        for block in blocks(streams, values=BLOCK_VALUES, channels=len(self.model.labels.heads)):
            if fast:
                with _clocked(clocks[0]):
                    canvases[0].paint(block, decided(streams[0], block, self.model.labels))
                continue
            parts = [self._part(stream, block, clock) for stream, clock in zip(streams, clocks, strict=True)]
            for canvas in canvases:
                canvas.paint_mean(block, parts)

    def _part(self, stream: RestoreStream, block: Block, clock: dict[str, float]) -> Tensor:
        """Probabilities (K, z, y, x) of one stream in a block."""
        with _clocked(clock):
            return self._probabilities(stream.interpolate(stream.source(block), block))

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

    def _stream(self, group: NetworkGroup, case: PreprocessedCase, clock: dict[str, float]) -> RestoreStream:
        slabs = _timed(sliding_window(group.voters, torch.from_numpy(case.image), group.window), clock)
        logits = (self._logits(slab) for slab in slabs)
        return RestoreStream(logits, case.placement, separate=separate_back(case.placement, group.plan))


def _check_shown(model: Model) -> None:
    for plan in (member.plan for member in model.members):
        if plan.previous and all(shown.plan.name != plan.previous for shown in model.previous):
            raise ModelError(
                f"the {plan.name} network is shown the answer of {plan.previous}, which this model lacks; use the run "
                "folder, or a file that nnseg export made of it"
            )


def _layout(prepared: PreparedScan, group: NetworkGroup) -> Reorientation:
    """From the canonical scan to the axis order of a group's networks."""
    return layout_of(group.plan.preprocessing.axes, turn_for(prepared.scan, group.plan))


@contextmanager
def _clocked(clock: dict[str, float]) -> Iterator[None]:
    """What is done within counts as the way back."""
    start = time.perf_counter()
    yield
    clock["restore"] += time.perf_counter() - start


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
