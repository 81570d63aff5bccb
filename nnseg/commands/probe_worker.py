"""What happens in the process that measures for `nnseg.commands.probe`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import torch

from nnseg.commands.preprocess import PreprocessingTask
from nnseg.commands.probe import ProbeRequest, ProbeResult
from nnseg.core.dataset import Case
from nnseg.core.errors import DatasetError, NnsegError
from nnseg.core.geometry import tile_starts
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
from nnseg.storage.images.read import read_label_map
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
"""Seconds of a single step, pass or case that is an estimate by itself."""

WARM = 2.0
"""Seconds of a first case above which what it takes to warm up hardly matters."""

STEPS_SECONDS, MOST_STEPS = 6.0, 20
"""How long, and at most how often, steps are timed."""

TILES_SECONDS, MOST_COPIES = 1.5, 64
"""About how long tiles are timed, and how many copies at most: one pass over many, as a scan is predicted."""

CASES_SECONDS = 15.0
"""Seconds after which no further case is handled."""

GLANCE = 0.005
"""Seconds between two looks at the memory: the peak of a step is short."""

CHECKPOINT_SECONDS = Options.checkpoint
"""Between two checkpoints, as a run makes them unless asked otherwise."""


def main() -> None:
    """Measure what the parent's request says and send it the result; what the candidate cannot do is part of it."""
    parent = ParentConnection()
    request = parent.receive(ProbeRequest)
    try:
        result = _answer(request)
    except torch.OutOfMemoryError:
        result = ProbeResult(error=f"needs more memory than {request.device} has free")
    except (NnsegError, MemoryError) as error:
        result = ProbeResult(error=str(error) or "needs more memory than there is")
    parent.send(result)


def _answer(request: ProbeRequest) -> ProbeResult:
    device = resolve_device(request.device)
    about = ProbeResult(device=str(device), threads=torch.get_num_threads(), base_gb=held_gb())
    if request.task == "handle":
        return about.model_copy(update={"handling": handle(request, device)})
    return about.model_copy(update={"trial": train_a_little(request, device)})


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """What some cases took: seconds and bytes of a million voxels of the scan; GB and further seconds of the first one."""

    seconds: float
    start_seconds: float
    bytes: float
    memory_gb: float


def handle(request: ProbeRequest, device: torch.device) -> CaseCost:
    """What it takes to preprocess the cases into the store, and to predict them with a network that costs next to nothing."""
    store = CaseStore(request.store)
    put = _rate(request, request.cases, lambda case: _preprocess(case, request))
    held = [case for case in request.cases if case.name in store.names()]
    predicted = _rate(request, held, _stand_in(request, device))
    unpacked = [store.read(case.name) for case in held]
    packed = sum(f.stat().st_size for f in request.store.iterdir()) / sum(c.image.nbytes + c.labels.nbytes for c in unpacked)
    return CaseCost(
        key="",
        seconds=put.seconds,
        start_seconds=put.start_seconds,
        packed=packed,
        memory_gb=put.memory_gb,
        predict_seconds=predicted.seconds,
        predict_start_seconds=predicted.start_seconds,
        predict_gb=predicted.memory_gb,
        label_bytes=predicted.bytes,
    )


def train_a_little(request: ProbeRequest, device: torch.device) -> Trial:
    """What tiles, steps and the pause between epochs take on a device."""
    plan, store = request.plan, CaseStore(request.store)
    tile_seconds, tile_gb = time_tiles(plan, device)  # first: what a process takes to compute at all is part of a prediction
    cases = [store.read(name) for name in store.names()]
    dtype = autocast_dtype(device, plan.training.precision)
    context = TrainingContext(plan=plan, fold=0, device=device, dtype=dtype)
    files = [request.store.with_name(name) for name in ("checkpoint", "model")]
    _forget_peak(device)
    with memory_for(device), peak_ram(every=GLANCE, children=False) as peak:
        learner = Learner(context, Course.of(10_000, plan.training))
        patches = Patches(cases, plan, fold=0, device=device)
        step_seconds = _typical(time_steps(learner, patches, least=2, most=MOST_STEPS, seconds=STEPS_SECONDS, longest=LONG))
        pause_seconds = _time_pause(learner, _repeated(cases, request.held_out), context, step_seconds, files[0])
    save_model(Model(members=(Member(plan=plan, fold=0, weights=learner.weights()),)), files[1])
    return Trial(
        key="",
        precision=str(dtype).removeprefix("torch."),
        step_seconds=step_seconds,
        pause_seconds=pause_seconds,
        tile_seconds=tile_seconds,
        memory_gb=max(0.0, peak.gb - sum(map(_bytes_in_memory, cases)) / GIGABYTE),
        device_gb=_device_peak_gb(device),
        tile_gb=tile_gb,
        checkpoint_bytes=files[0].stat().st_size,
        model_bytes=files[1].stat().st_size,
    )


def time_tiles(plan: Plan, device: torch.device) -> tuple[float, float]:
    """Seconds of one tile, or mirrored copy, in the plan's window, and GB that the network and a batch of them take.

    The GB are of the device if it has its own memory.
    """
    before = held_gb()
    _forget_peak(device)
    with peak_ram(every=GLANCE, children=False) as peak:
        member = _untrained(plan)
        voter, window = MemberNetwork.of(member, device), window_of(member, device)
        first = _seconds_of_tile(voter, replace(window, mirror_axes=()), tiles=1)  # it also warms up
        copies = max(window.batch, min(MOST_COPIES, int(TILES_SECONDS / first)))
        chosen = window if copies >= len(window.flips) else replace(window, mirror_axes=())
        count = ceil(copies / len(chosen.flips))
        seconds = first if first > LONG else min(_seconds_of_tile(voter, chosen, tiles=count) for _ in range(2))
    return seconds, _device_peak_gb(device) or max(0.0, peak.gb - before)


def _seconds_of_tile(voter: MemberNetwork, window: Window, *, tiles: int) -> float:
    """Seconds of one copy of a tile, from a pass over an image of so many tiles in a row."""
    plan = voter.member.plan
    along, step = (0, 1.0) if plan.dimensions == 2 else (2, window.step)
    shape = list(window.tile)
    shape[along] = ceil(shape[along] * (1 + (tiles - 1) * step))
    image = torch.rand(plan.stored, *shape).to(voter.device)
    # float() waits for the device
    [seconds] = time_calls(lambda: [float(slab.flatten()[0]) for slab in sliding_window([voter], image, window)])
    return seconds / (len(tile_starts(shape[along], window.tile[along], step)) * len(window.flips))


def _untrained(plan: Plan) -> Member:
    network = build_network(plan)
    return Member(plan=plan, fold=0, weights=network.state_dict())


def _rate(request: ProbeRequest, cases: Sequence[Case], work: Callable[[Case], tuple[float, int]]) -> _Rate:
    """The rate of the cases, of which further ones are only done while they are quick.

    The first case also warms up. It counts like the others where it took so long that this hardly matters, or is the only one.
    """
    start, memory_gb = time.monotonic(), 0.0
    found: list[tuple[float, int, float]] = []
    for case in cases:
        if found and time.monotonic() - start > CASES_SECONDS:
            break
        before = held_gb()
        try:
            with peak_ram(every=GLANCE, children=False) as peak:
                seconds, size = work(case)
        except NnsegError as error:  # one bad case does not keep the others from being measured
            log.warning("case %s: %s", case.name, error)
            continue
        memory_gb = memory_gb if found else max(0.0, peak.gb - before)
        found.append((seconds, size, request.megavoxels[case.name]))
    if not found:
        raise DatasetError("none of the cases that were to be tried could be read")
    counted = found if found[0][0] > WARM or len(found) == 1 else found[1:]
    seconds, size, voxels = (sum(column) for column in zip(*counted, strict=True))
    more = max(0.0, found[0][0] - seconds / voxels * found[0][2]) if counted is not found else 0.0
    return _Rate(seconds=seconds / voxels, start_seconds=more, bytes=size / voxels, memory_gb=memory_gb)


def _preprocess(case: Case, request: ProbeRequest) -> tuple[float, int]:
    start = time.perf_counter()
    previous = case.labels if request.plan.previous else None  # a stand-in: nothing is predicted yet
    PreprocessingTask(case=case, plan=request.plan, store=request.store, key="trial", previous=previous)()
    return time.perf_counter() - start, 0


def _stand_in(request: ProbeRequest, device: torch.device) -> Callable[[Case], tuple[float, int]]:
    """A function that predicts a case as a run would, with a network of one channel, and returns seconds without it, and bytes."""
    store, member = CaseStore(request.store), _untrained(_tiny(request.plan))
    tile_seconds, _ = time_tiles(member.plan, device)
    predictor = Predictor(Model(members=(member,)), device=device, step=1.0, mirror=False)
    tile = window_of(member, device).tile
    out = request.store.with_name(f"{request.store.name}_predictions")

    def predict(case: Case) -> tuple[float, int]:
        assert case.labels is not None
        answerer = _Known(predictor=predictor, reference=read_label_map(case.labels))
        written = predict_cases(PredictionJob(cases=(case,), out=out, key="trial"), answerer)[case.name]
        if written.status == "failed":
            raise NnsegError(written.reason)
        shape = store.read(case.name).labels.shape
        tiles = np.prod([len(tile_starts(max(n, t), t, 1.0)) for n, t in zip(shape, tile, strict=True)])
        return max(0.0, written.total_seconds - float(tiles) * tile_seconds), (out / written.file).stat().st_size

    return predict


@dataclass(frozen=True, kw_only=True)
class _Known(PredictorWrapper):
    """Gives the reference in the end: an untrained network's noise would make a larger file."""

    reference: LabelMap

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        prediction = self.predictor.infer(prepared, probabilities=probabilities, uncertainty=uncertainty, scratch=scratch)
        return replace(prediction, label_map=replace(self.reference, grid=prediction.label_map.grid))


def _tiny(plan: Plan) -> Plan:
    """The plan with the smallest network that takes its patches, and shown the scan alone."""
    few = plan.network
    parts = {"strides": few.strides[:2], "kernels": few.kernels[:2], "blocks": (1, 1), "decoder_blocks": (1,)}
    network = few.model_copy(update={"kind": "plain", "features": (1, 1), **parts})
    return plan.model_copy(update={"network": network, "previous": None})


def _time_pause(
    learner: Learner, held_out: list[StoredCase], context: TrainingContext, step_seconds: float, checkpoint: Path
) -> float:
    """Seconds between two epochs: the estimate on held-out patches, and the epoch's share of a checkpoint."""
    validation = Validation(held_out, context)
    seconds = time_calls(lambda: validation.estimate(learner.network, learner.weights()), least=2, most=2, longest=LONG)
    [saving] = time_calls(lambda: save_tensors(checkpoint, *learner.snapshot()))
    epoch_seconds = context.plan.training.epoch_steps * step_seconds
    return _typical(seconds) + saving * min(1.0, epoch_seconds / CHECKPOINT_SECONDS)


def _typical(seconds: list[float]) -> float:
    """The mean without the first, which also warms up, and without the longest of many, which something else disturbed."""
    later = sorted(seconds[1:]) or seconds
    counted = later[:-1] if len(later) > 4 else later
    return sum(counted) / len(counted)


def _repeated(cases: list[StoredCase], held_out: int) -> list[StoredCase]:
    """As many cases as a fold would estimate its Dice on."""
    count = min(MOST_PATCHES, held_out)
    return (cases * count)[:count]


def _bytes_in_memory(case: StoredCase) -> int:
    arrays = [case.image, case.labels, *case.locations.values(), *([] if case.annotated is None else [case.annotated])]
    return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _device_peak_gb(device: torch.device) -> float:
    """Memory of the device that was reserved at once since `_forget_peak`; 0 for devices that share the machine's."""
    return torch.cuda.max_memory_reserved(device) / GIGABYTE if device.type == "cuda" else 0.0
