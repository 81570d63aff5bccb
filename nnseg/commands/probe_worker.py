"""The process that measures seconds and memory of a candidate plan for `nnseg.commands.probe`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nnseg.commands.preprocess import PreprocessingTask
from nnseg.commands.probe import ProbeRequest, ProbeResult
from nnseg.core.dataset import Case
from nnseg.core.errors import DatasetError, NnsegError
from nnseg.core.geometry import count_tiles
from nnseg.core.image import LabelMap
from nnseg.core.options import Options
from nnseg.core.plan import Plan
from nnseg.core.probe import CaseCost, Trial
from nnseg.core.schedule import Course
from nnseg.crossval.evidence import PredictorWrapper
from nnseg.crossval.predict import PredictionJob, predict_cases
from nnseg.inference.networks import MemberNetwork, window_of
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.inference.sliding_window import sliding_window
from nnseg.inference.tiles import Window
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model, save_model
from nnseg.network.checkpoint import save_tensors
from nnseg.network.device import autocast_dtype, resolve_device, time_calls
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.system.contention import OtherPrograms, idle_seconds
from nnseg.system.machine import GIGABYTE, held_gb, peak_ram
from nnseg.system.process import ParentConnection
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.loop import memory_for
from nnseg.training.patches import Patches
from nnseg.training.timing import time_steps
from nnseg.training.validation import MOST_PATCHES, Validation

log = logging.getLogger(__name__)

LONG = 10.0
"""Seconds of a first step, pass or tile after which it is not repeated."""

WARM = 2.0
"""Seconds of a first case above which its warm-up is negligible."""

STEPS_SECONDS, MOST_STEPS = 6.0, 20
"""Limits of the timed training steps."""

TILES_SECONDS, MOST_COPIES = 1.5, 64
"""Limits of the timed tiles and mirrored copies, which go through the network in one pass as in prediction."""

CASES_SECONDS = 15.0
"""Seconds after which no further case is measured."""

SAMPLING_SECONDS = 0.005
"""Between two measurements of the memory: the peak of a step is short."""

CHECKPOINT_SECONDS = Options.checkpoint
"""Between two checkpoints of a run, by default."""


def main() -> None:
    """Send the parent process the measurements it requests, or the reason why the candidate plan does not work here."""
    parent = ParentConnection()
    request = parent.receive(ProbeRequest)
    try:
        result = _measure(request)
    except torch.OutOfMemoryError:
        result = ProbeResult(error=f"needs more memory than {request.device} has free")
    except (NnsegError, MemoryError) as error:
        result = ProbeResult(error=str(error) or "needs more memory than there is")
    parent.send(result)


def _measure(request: ProbeRequest) -> ProbeResult:
    device = resolve_device(request.device)
    result = ProbeResult(device=str(device), threads=torch.get_num_threads(), base_gb=held_gb())
    if request.task == "handle":
        return result.model_copy(update={"handling": measure_cases(request, device)})
    return result.model_copy(update={"trial": measure_training(request, device)})


def measure_cases(request: ProbeRequest, device: torch.device) -> CaseCost:
    """The cost of preprocessing the cases into the request's store, and of predicting them apart from the network's time."""
    store = CaseStore(request.store)
    preprocessing = _rate(request, request.cases, lambda case: _preprocess(case, request))
    stored = [case for case in request.cases if case.name in store.names()]
    prediction = _rate(request, stored, _prediction_timer(request, device))
    unpacked = [store.read(case.name) for case in stored]
    packed = sum(f.stat().st_size for f in request.store.iterdir()) / sum(c.image.nbytes + c.labels.nbytes for c in unpacked)
    return CaseCost(
        key="",
        seconds=preprocessing.seconds,
        start_seconds=preprocessing.start_seconds,
        packed=packed,
        memory_gb=preprocessing.memory_gb,
        predict_seconds=prediction.seconds,
        predict_start_seconds=prediction.start_seconds,
        predict_gb=prediction.memory_gb,
        label_bytes=prediction.bytes,
    )


def measure_training(request: ProbeRequest, device: torch.device) -> Trial:
    """Seconds and memory of the candidate's tiles, steps, and pauses between epochs on a device, and its sizes of files."""
    plan, store = request.plan, CaseStore(request.store)
    tile_seconds, tile_gb = time_tiles(plan, device)  # first: the memory of torch's libraries is part of a prediction's
    cases = [store.read(name) for name in store.names()]
    held_out = min(MOST_PATCHES, request.held_out)
    dtype = autocast_dtype(device, plan.training.precision)
    context = TrainingContext(plan=plan, fold=0, device=device, dtype=dtype)
    checkpoint, model = (request.store.with_name(name) for name in ("checkpoint", "model"))
    _reset_peak(device)
    with memory_for(device), peak_ram(every=SAMPLING_SECONDS, children=False) as peak:
        learner = Learner(context, Course.of(10_000, plan.training))
        patches = Patches(cases, plan, fold=0, device=device)
        others, cpu = OtherPrograms(), time.process_time()
        timed = time_steps(learner, patches, least=2, most=MOST_STEPS, seconds=STEPS_SECONDS, longest=LONG)
        cpu_seconds, taken = (time.process_time() - cpu) / len(timed), others.cores()
        step_seconds = _typical(timed)
        slowdown = _slowdown(step_seconds, cpu_seconds, device=device, others=taken)
        validation = Validation((cases * held_out)[:held_out], context)
        pause_seconds = _time_pause(learner, validation, step_seconds, checkpoint)
    save_model(Model(members=(Member(plan=plan, fold=0, weights=learner.weights()),)), model)
    return Trial(
        key="",
        precision=str(dtype).removeprefix("torch."),
        step_seconds=step_seconds / slowdown,
        pause_seconds=pause_seconds / slowdown,
        tile_seconds=tile_seconds / slowdown,
        slowdown=slowdown,
        memory_gb=max(0.0, peak.gb - sum(map(_bytes_in_memory, cases)) / GIGABYTE),
        device_gb=_device_peak_gb(device),
        tile_gb=tile_gb,
        checkpoint_bytes=checkpoint.stat().st_size,
        model_bytes=model.stat().st_size,
    )


def _slowdown(seconds: float, cpu_seconds: float, *, device: torch.device, others: float) -> float:
    """Times as long that a step took, since other programs took so many cores."""
    if device.type != "cpu":
        return 1.0
    return seconds / idle_seconds(seconds, cpu_seconds, threads=torch.get_num_threads(), others=others)


def time_tiles(plan: Plan, device: torch.device) -> tuple[float, float]:
    """Seconds of one tile or mirrored copy in the sliding window, and GB of the network with a batch of them.

    The GB are of the device if it has its own memory.
    """
    before = held_gb()
    _reset_peak(device)
    with peak_ram(every=SAMPLING_SECONDS, children=False) as peak:
        member = _untrained(plan)
        network, window = MemberNetwork.of(member, device), window_of(member, device)
        first = _seconds_of_tile(network, replace(window, mirror_axes=()), tiles=1)  # it also warms up
        copies = max(window.batch, min(MOST_COPIES, int(TILES_SECONDS / first)))
        chosen = window if copies >= len(window.flips) else replace(window, mirror_axes=())
        count = ceil(copies / len(chosen.flips))
        seconds = first if first > LONG else min(_seconds_of_tile(network, chosen, tiles=count) for _ in range(2))
    return seconds, _device_peak_gb(device) or max(0.0, peak.gb - before)


def _seconds_of_tile(network: MemberNetwork, window: Window, *, tiles: int) -> float:
    """Seconds of one tile or mirrored copy, from a pass over an image of ``tiles`` tiles in a row."""
    plan = network.member.plan
    along, step = (0, 1.0) if plan.dimensions == 2 else (2, window.step)
    shape = list(window.tile)
    shape[along] = ceil(shape[along] * (1 + (tiles - 1) * step))
    image = torch.rand(plan.stored_channels, *shape).to(network.device)
    # float() waits for the device
    [seconds] = time_calls(lambda: [float(slab.flatten()[0]) for slab in sliding_window([network], image, window)])
    return seconds / (count_tiles(shape[along], window.tile[along], step) * len(window.flips))


def _untrained(plan: Plan) -> Member:
    return Member(plan=plan, fold=0, weights=build_network(plan).state_dict())


class _Rate(NamedTuple):
    """Seconds and bytes of a million voxels of the scan, and the additional seconds and the GB of the first case."""

    seconds: float
    start_seconds: float
    bytes: float
    memory_gb: float


def _rate(request: ProbeRequest, cases: Sequence[Case], work: Callable[[Case], tuple[float, int]]) -> _Rate:
    """The rate of some cases: of the first, and of others until `CASES_SECONDS` are over.

    The first case also warms up. Its time counts only if that is negligible, or if it is the only one.

    Args:
        work: returns the seconds of a case, and the bytes it wrote.
    """
    start, memory_gb = time.monotonic(), 0.0
    measured: list[tuple[float, int, float]] = []
    for case in cases:
        if measured and time.monotonic() - start > CASES_SECONDS:
            break
        before = held_gb()
        try:
            with peak_ram(every=SAMPLING_SECONDS, children=False) as peak:
                seconds, size = work(case)
        except NnsegError as error:  # the other cases can be measured
            log.warning("case %s: %s", case.name, error)
            continue
        memory_gb = memory_gb if measured else max(0.0, peak.gb - before)
        measured.append((seconds, size, request.megavoxels[case.name]))
    if not measured:
        raise DatasetError("none of the cases to measure with could be read")
    counted = measured if measured[0][0] > WARM or len(measured) == 1 else measured[1:]
    seconds, size, voxels = (sum(column) for column in zip(*counted, strict=True))
    more = max(0.0, measured[0][0] - seconds / voxels * measured[0][2]) if counted is not measured else 0.0
    return _Rate(seconds=seconds / voxels, start_seconds=more, bytes=size / voxels, memory_gb=memory_gb)


def _preprocess(case: Case, request: ProbeRequest) -> tuple[float, int]:
    previous = case.labels if request.plan.previous else None  # in place of the previous stage's segmentation, not made yet
    task = PreprocessingTask(case=case, plan=request.plan, store=request.store, key="trial", previous=previous)
    return time_calls(task)[0], 0


def _prediction_timer(request: ProbeRequest, device: torch.device) -> Callable[[Case], tuple[float, int]]:
    """A function that predicts a case with the smallest network: seconds apart from the network, and bytes written."""
    store, member = CaseStore(request.store), _untrained(_with_smallest_network(request.plan))
    tile_seconds, _ = time_tiles(member.plan, device)
    predictor = Predictor(Model(members=(member,)), device=device, step=1.0, mirror=False)
    tile = window_of(member, device).tile
    out = request.store.with_name(f"{request.store.name}_predictions")

    def predict(case: Case) -> tuple[float, int]:
        assert case.labels is not None
        reference = read_labels_of(case.labels, read_scan(case.images, resample=True, spacing=case.spacing))
        wrapped = _ReferencePredictor(predictor=predictor, reference=reference)
        written = predict_cases(PredictionJob(cases=(case,), out=out, key="trial"), wrapped)[case.name]
        if written.status == "failed":
            raise NnsegError(written.reason)
        shape = store.read(case.name).labels.shape
        tiles = np.prod([count_tiles(max(n, t), t, 1.0) for n, t in zip(shape, tile, strict=True)])
        return max(0.0, written.total_seconds - float(tiles) * tile_seconds), (out / written.file).stat().st_size

    return predict


@dataclass(frozen=True, kw_only=True)
class _ReferencePredictor(PredictorWrapper):
    """Predicts, but returns the reference: the noise of an untrained network would make a larger file."""

    reference: LabelMap

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        prediction = self.predictor.infer(prepared, probabilities=probabilities, uncertainty=uncertainty, scratch=scratch)
        return replace(prediction, label_map=replace(self.reference, grid=prediction.label_map.grid))


def _with_smallest_network(plan: Plan) -> Plan:
    """The plan with the smallest U-Net that fits its patches, and without the previous stage's segmentation as an input."""
    network = plan.network
    stages = {"strides": network.strides[:2], "kernels": network.kernels[:2], "blocks": (1, 1), "decoder_blocks": (1,)}
    smallest = network.model_copy(update={"kind": "plain", "features": (1, 1), **stages})
    return plan.model_copy(update={"network": smallest, "previous": None})


def _time_pause(learner: Learner, validation: Validation, step_seconds: float, checkpoint: Path) -> float:
    """Seconds between two epochs: the estimate on held-out patches, and the epoch's share of a checkpoint."""
    seconds = time_calls(lambda: validation.estimate(learner.network, learner.weights()), least=2, most=2, longest=LONG)
    [saving] = time_calls(lambda: save_tensors(checkpoint, *learner.snapshot()))
    epoch_seconds = learner.context.plan.training.epoch_steps * step_seconds
    return _typical(seconds) + saving * min(1.0, epoch_seconds / CHECKPOINT_SECONDS)


def _typical(seconds: list[float]) -> float:
    """The mean without the first, which also warms up, and, of five or more others, without the longest, an outlier."""
    later = sorted(seconds[1:]) or seconds
    counted = later[:-1] if len(later) > 4 else later
    return sum(counted) / len(counted)


def _bytes_in_memory(case: StoredCase) -> int:
    arrays = [case.image, case.labels, *case.locations.values(), *([] if case.annotated is None else [case.annotated])]
    return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _device_peak_gb(device: torch.device) -> float:
    """Peak memory reserved on the device since `_reset_peak`; 0 for devices without memory of their own."""
    return torch.cuda.max_memory_reserved(device) / GIGABYTE if device.type == "cuda" else 0.0
