"""Prediction of a scan by a model: the label map, and optionally probabilities and uncertainty, on the scan's own grid."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError, ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, PreprocessedCase, Scan
from nnseg.core.options import Runtime
from nnseg.core.plan import Plan, Preprocessing
from nnseg.core.scan_ranges import ScanFacts, measure_scan
from nnseg.core.trust import Confidence, Trust
from nnseg.inference.instances import mean_intensities
from nnseg.inference.memory import needed_gb
from nnseg.inference.networks import MemberNetwork, NetworkGroup, group_networks, window_of
from nnseg.inference.prediction import DrawnVoxels, Prediction, PreparedScan
from nnseg.inference.restore import RestoreStream, blocks, canonical_voxels, cropped_view, decide_labels, network_orientation
from nnseg.inference.sliding_window import sliding_window
from nnseg.inference.uncertainty import UncertaintyStats
from nnseg.inference.volumes import IN_MEMORY_BYTES, OutputVolumes, RequestedOutputs
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.preprocessing.normalize import ChannelStatistics, fix_statistics
from nnseg.preprocessing.preprocess import OwnNormalizer, preprocess, separate_back

log = logging.getLogger(__name__)

BLOCK_VALUES = 2_000_000
"""Values (voxels times labels) of a block on the way back to the scan's grid: it must fit into the caches of a CPU."""

LEAST_PROBABILITY = 1e-7
"""Smaller probabilities are raised to this before the logarithm."""


class Predictor:
    """A model loaded once for many scans. Calls change nothing in it, so threads may share one.

    Args:
        model: one or more members; in a cascade, with the networks of the previous stage.
        device: where the networks compute.
        step: distance of neighbouring tiles as a share of the patch; absent for the plan's.
        mirror: average over mirrored copies, along the plan's axes, or if it has none, along those mirrored in training; absent for
            the plan's.
        classic: combine networks as nnU-Net does: in float32, by the mean logits of the networks of a plan, and the mean
            probabilities of plans. Otherwise in the fastest precision, by the mean probabilities of all networks.
        dropout: average over so many draws of the channels that each network's dropout drops; 0 to drop none.
        runtime: that computes the networks; others than "torch" only on the CPU. "auto" is the fastest that agrees with torch.
        network: the function that made the networks, if it is the user's own.
        normalizer: of the training cases, if it is the user's own.

    Raises:
        ModelError: weights do not fit their plan, the previous stage of a cascade is missing, or a network has no dropout to draw
            from.
        NnsegError: the extra for the runtime is not installed.
        RunError: the runtime does not compute on the device.
    """

    def __init__(  # noqa: PLR0913 (options of a prediction)
        self,
        model: Model,
        *,
        device: torch.device | str = "auto",
        step: float | None = None,
        mirror: bool | None = None,
        classic: bool = False,
        dropout: int = 0,
        runtime: Runtime = "torch",
        network: Callable[[Plan], nn.Module] | None = None,
        normalizer: OwnNormalizer | None = None,
    ) -> None:
        device = resolve_device(device) if isinstance(device, str) else device
        _check_previous(model)
        _check_dropout(model, dropout)
        self.model, self._classic, self._normalizer, self._draws = model, classic, normalizer, max(1, dropout)
        drawn = [(member, draw) for member in model.members for draw in (range(1, dropout + 1) if dropout else (0,))]
        networks = [MemberNetwork.of(member, device, network, draw) for member, draw in drawn]
        windows = [window_of(member, device, step=step, mirror=mirror, classic=classic) for member, _ in drawn]
        networks = [one.compiled(runtime, window) for one, window in zip(networks, windows, strict=True)]
        self._groups = group_networks(networks, windows, by_plan=classic)
        self._previous: Predictor | None = None
        if model.previous:
            self._previous = Predictor(
                Model(members=model.previous),
                device=device,
                step=step,
                mirror=mirror,
                classic=classic,
                runtime=runtime,
                network=network,
                normalizer=normalizer,
            )

    @property
    def groups(self) -> tuple[NetworkGroup, ...]:
        """The networks, by the tiles they share."""
        return self._groups

    def __call__(self, scan: Scan) -> Prediction:
        """The prediction for one scan.

        Raises:
            ScanError: the scan has another number of channels.
            ModelError: the networks give no numbers.
        """
        return self.infer(self.prepare(scan))

    def for_parts(self, statistics: Sequence[ChannelStatistics]) -> Predictor:
        """The predictor, with the same networks, for parts of one large image: normalized as the whole, and not postprocessed.

        Args:
            statistics: of each channel of the whole.
        """
        parts = copy.copy(self)
        parts.model = replace(self.model, postprocessing=())
        parts._groups = tuple(
            replace(group, plan=group.plan.model_copy(update={"preprocessing": _fixed(group.plan.preprocessing, statistics)}))
            for group in self._groups
        )
        return parts

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed, on the CPU, for all networks that need no previous stage.

        Raises:
            ScanError: the scan has another number of channels, or is none.
        """
        if not isinstance(scan, Scan):
            found = type(scan).__name__
            raise ScanError(f"a scan is expected, not an object of type {found}; nnseg.read_scan(file or image) makes one")
        previous = self._previous.prepare(scan) if self._previous else None
        groups = [group for group in self._groups if not group.plan.previous]
        return self._with_cases(PreparedScan(scan=scan, cases={}, previous=previous), groups)

    def infer(
        self,
        prepared: PreparedScan,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        objects: bool = True,
        sample: int = 0,
        scratch: Path | None = None,
    ) -> Prediction:
        """The prediction for a prepared scan.

        Args:
            probabilities: also return them, at the model's temperature.
            uncertainty: also return the uncertainty and the confidence.
            objects: also tell objects apart, where the networks have learned their borders.
            sample: number of voxels sampled with their probabilities at temperature 1; needs uncertainty.
            scratch: folder for large arrays; the system's if absent.

        Raises:
            ModelError: the networks give no numbers.
            RunError: there is too little memory for a single tile.
        """
        requested = RequestedOutputs(
            probabilities=probabilities,
            uncertainty=uncertainty,
            confidence=uncertainty,
            objects=objects,
            sample=sample,
            scratch=scratch,
        )
        (prediction,) = self._infer(prepared, [self._weights()], requested)
        return prediction

    def infer_ensembles(
        self, prepared: PreparedScan, ensembles: Mapping[str, Mapping[str, float]], *, sample: int = 0
    ) -> dict[str, Prediction]:
        """Predictions of several ensembles of the model's plans, with confidence; each network is applied once for all.

        Args:
            ensembles: by name, the weights of plans by their names; they replace the members' own.
            sample: number of voxels sampled with their probabilities.

        Returns:
            By name; ``seconds`` are those that the ensemble would have taken alone.

        Raises:
            ModelError: the networks give no numbers.
        """
        weights = [self._weights(plans) for plans in ensembles.values()]
        predictions = self._infer(prepared, weights, RequestedOutputs(confidence=True, sample=sample))
        return dict(zip(ensembles, predictions, strict=True))

    def previous_label_map(self, prepared: PreparedScan) -> LabelMap | None:
        """The label map of a cascade's previous stage, or None of another model's.

        Raises:
            ModelError: the networks give no numbers.
        """
        first = self._infer_previous(prepared)
        return first.label_map if first else None

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM in GB, beyond the idle process, that a scan on a grid takes at most from reading to writing.

        The memory of a GPU is not counted.
        """
        own = needed_gb(self._groups, grid, uncertainty=uncertainty, lesions=len(self.model.lesions))
        if probabilities:
            own += min(4.0 * len(self.model.labels.heads) * math.prod(grid.shape), IN_MEMORY_BYTES) / 1e9
        return own + self._previous.memory_gb(grid) if self._previous else own

    def _weights(self, plans: Mapping[str, float] | None = None) -> list[float]:
        """The weight of each group's mean: the sum over its networks, or in classic mode that of one.

        Args:
            plans: weights by the plans' names; the networks' own if absent.
        """
        return [
            (group.weight if plans is None else plans.get(group.plan.name, 0.0)) * (1 if self._classic else len(group.networks))
            for group in self._groups
        ]

    def _with_cases(self, prepared: PreparedScan, groups: Sequence[NetworkGroup], first: Prediction | None = None) -> PreparedScan:
        """The scan also preprocessed for more groups; ``first`` is the previous stage's prediction, whose time is included."""
        cases, seconds = dict(prepared.cases), dict(prepared.seconds)
        before = first.seconds if first else {}
        for key, plan in {group.key: group.plan for group in groups}.items():
            start = time.perf_counter()
            previous = first.label_map if first else None
            cases[key] = preprocess(prepared.scan, None, plan, previous=previous, normalizer=self._normalizer)
            seconds[key] = {
                "preprocess": before.get("preprocess", 0.0) + time.perf_counter() - start,
                "network": before.get("network", 0.0) + before.get("restore", 0.0),
            }
        return replace(prepared, cases=cases, seconds=seconds)

    def _with_cascade_cases(self, prepared: PreparedScan) -> PreparedScan:
        """The scan also preprocessed for a cascade's networks, after the prediction of the previous stage."""
        first = self._infer_previous(prepared)
        return self._with_cases(prepared, [group for group in self._groups if group.plan.previous], first) if first else prepared

    def _infer_previous(self, prepared: PreparedScan) -> Prediction | None:
        return self._previous.infer(prepared.previous, objects=False) if self._previous and prepared.previous else None

    def _infer(self, prepared: PreparedScan, weights: Sequence[Sequence[float]], requested: RequestedOutputs) -> list[Prediction]:
        """A prediction for each set of weights of the groups."""
        prepared = self._with_cascade_cases(prepared)
        timings = [{"network": 0.0, "restore": 0.0} for _ in self._groups]
        orientation = network_orientation(prepared.scan, self._groups[0].plan)
        placement = prepared.cases[self._groups[0].key].placement
        view = partial(cropped_view, placement=placement, orientation=orientation)
        with torch.inference_mode():
            outputs = [OutputVolumes(self.model, prepared.scan.grid, w, requested, view) for w in weights]
            streams = [
                self._stream(group, prepared.cases[group.key], timing).reoriented(
                    network_orientation(prepared.scan, group.plan), orientation
                )
                for group, timing in zip(self._groups, timings, strict=True)
            ]
            self._fill(outputs, streams, timings)
        return [self._prediction(output, prepared, timings) for output in outputs]

    def _stream(self, group: NetworkGroup, case: PreprocessedCase, timing: dict[str, float]) -> RestoreStream:
        """The logits of a group's networks, computed as blocks are taken."""
        slabs = _timed(sliding_window(group.networks, torch.from_numpy(case.image), group.window), timing)
        logits = (self._logits(slab) for slab in slabs)
        return RestoreStream(logits, case.placement, separate=separate_back(case.placement, group.plan))

    def _logits(self, mean: Tensor) -> Tensor:
        """Logits (K, ...) of a group's mean, to be interpolated: interpolated probabilities would blur edges.

        Those of labels are log probabilities, so that a label that cannot win in a block is recognized.

        Args:
            mean: probabilities; logits in classic mode.
        """
        if self._classic:
            return mean if self.model.labels.regions else mean.log_softmax(0)
        if self.model.labels.regions:
            return mean.logit(LEAST_PROBABILITY)
        return mean.clamp(min=LEAST_PROBABILITY).log_()

    def _fill(
        self, outputs: Sequence[OutputVolumes], streams: Sequence[RestoreStream], timings: Sequence[dict[str, float]]
    ) -> None:
        """Fill the volumes block by block, as far as the streams have come."""
        labels, only_labels = self.model.labels, len(streams) == len(outputs) == 1 and outputs[0].only_labels
        for block in blocks(streams, values=BLOCK_VALUES, channels=len(labels.heads)):
            if only_labels:
                with _timed_restore(timings[0]):
                    outputs[0].set_labels(block, decide_labels(streams[0], block, labels))
                continue
            probabilities = []
            for group, stream, timing in zip(self._groups, streams, timings, strict=True):
                with _timed_restore(timing):
                    logits = stream.interpolate(stream.source(block), block)
                    probabilities.append(group.window.probabilities(logits))
            for output in outputs:
                output.set_mean(block, probabilities)

    def _prediction(self, output: OutputVolumes, prepared: PreparedScan, timings: Sequence[Mapping[str, float]]) -> Prediction:
        labels, stats = output.postprocessed(), output.stats
        objects = output.numbered(labels)
        used = [(group, timing) for group, timing, w in zip(self._groups, timings, output.weights, strict=True) if w]
        groups, spent = [group for group, _ in used], [timing for _, timing in used]
        spent += [prepared.seconds.get(key, {}) for key in {group.key for group in groups}] + [{"restore": output.seconds}]
        trust, facts = self.model.trust, self._measure(prepared.scan, prepared.cases[groups[0].key])
        return Prediction(
            label_map=LabelMap(labels=labels, grid=prepared.scan.grid),
            probabilities=output.probabilities,
            objects=objects.numbers if objects else None,
            intensities=mean_intensities(objects.numbers, prepared.scan.image) if objects else None,
            object_scores=objects.scores if objects else None,
            object_counts=objects.counts if objects else {},
            interior=output.interior,
            levels=output.levels,
            uncertainty=output.uncertainty,
            confidence=self._confidence(facts, groups, stats) if stats else None,
            unlike=trust.ranges.differences(facts) if trust and trust.ranges else (),
            sample=self._sample(prepared, stats) if stats and stats.samples else None,
            registrations=prepared.cases[groups[0].key].registrations,
            seconds={stage: sum(of.get(stage, 0.0) for of in spent) for stage in ("preprocess", "network", "restore")},
        )

    def _measure(self, scan: Scan, case: PreprocessedCase) -> ScanFacts:
        """The properties of a scan that are compared with those of the training scans, along the scan's axes."""
        turned = case.image[: len(self.model.channels)].transpose(0, *(1 + axis for axis in case.placement.back))
        return measure_scan(scan.grid, turned, scan.image)

    def _confidence(self, facts: ScanFacts, groups: Sequence[NetworkGroup], stats: UncertaintyStats) -> Confidence:
        networks = sum(len(group.networks) for group in groups) // self._draws
        return (self.model.trust or Trust()).confidence(stats.agreement(), facts, networks=networks)

    def _sample(self, prepared: PreparedScan, stats: UncertaintyStats) -> DrawnVoxels:
        """The sampled voxels, with their indices in the canonical scan."""
        sample, placement = stats.sample(), prepared.cases[self._groups[0].key].placement
        orientation = network_orientation(prepared.scan, self._groups[0].plan)
        return replace(sample, voxels=canonical_voxels(sample.voxels, prepared.scan.grid, placement, orientation))


def _fixed(preprocessing: Preprocessing, statistics: Sequence[ChannelStatistics]) -> Preprocessing:
    return preprocessing.model_copy(update={"normalization": fix_statistics(preprocessing.normalization, statistics)})


def _check_previous(model: Model) -> None:
    for plan in (member.plan for member in model.members):
        if plan.previous and all(member.plan.name != plan.previous for member in model.previous):
            raise ModelError(
                f"the {plan.name} network needs the label map of {plan.previous}, which this model lacks; use the run "
                "folder, or a file that nnseg export made of it"
            )


def _check_dropout(model: Model, draws: int) -> None:
    """Raise ModelError if draws are wanted of a network without dropout, or fewer than none."""
    if draws < 0:
        raise ModelError(f"{draws} draws of dropout; expected 0 or more")
    without = next((member for member in model.members if not member.plan.network.dropout), None)
    if draws and without:
        raise ModelError(
            f"the {without.plan.name} network of fold {without.fold} has no dropout to draw from; train one with network.dropout = "
            "0.1 in its plan, or with dropout = 0.1 in [planner] of a recipe"
        )


@contextmanager
def _timed_restore(timing: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timing["restore"] += time.perf_counter() - start


def _timed(slabs: Iterator[Tensor], timing: dict[str, float]) -> Iterator[Tensor]:
    """The slabs; the time that each takes is added to that of the network."""
    while True:
        start = time.perf_counter()
        slab = next(slabs, None)
        if slab is not None and slab.is_cuda:
            torch.cuda.synchronize(slab.device)
        timing["network"] += time.perf_counter() - start
        if slab is None:
            return
        yield slab
