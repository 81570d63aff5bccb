"""How fast is a GPU? Measurements of gpu.py: seconds of training steps, of a prediction, and what is learned in five minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache, partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from gpu_setting import Found, NotHereError, Setting
from learners import name_of, peak_rates, seconds_of, step_flops
from stepping import Clock

from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.patch_growth import DRAWN_AHEAD, PatchGrowth
from nnseg.core.plan import Inference, Plan
from nnseg.core.schedule import Course, Epoch
from nnseg.inference.networks import MemberNetwork, window_of
from nnseg.inference.predict import Predictor
from nnseg.inference.sliding_window import sliding_window
from nnseg.network.bundle import Member, Model
from nnseg.network.device import exact
from nnseg.storage.cases import StoredCase
from nnseg.training.learner import Learner, fresh_network
from nnseg.training.loop import memory_for, prefetched, take_steps
from nnseg.training.patches import Patches
from nnseg.training.schedule import TimeLimit
from nnseg.training.timing import steps_fitting
from nnseg.training.validation import Validation


def peak(setting: Setting) -> Found:
    """Operations a second of matrix products, by type."""
    types = (torch.bfloat16, torch.float16, torch.float32) if setting.on_cuda else (torch.bfloat16, torch.float32)
    rates = {name_of(dtype): _peak(setting.device, dtype, setting.small) for dtype in types}
    text = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items())
    return Found(text=text, numbers=rates)


@cache
def _peak(device: torch.device, dtype: torch.dtype, small: bool) -> float:
    return max(peak_rates(device, dtype, (256,) if small else ()))


# --- steps

STEPS = 250
"""Of an epoch of nnU-Net: what is measured, or computed from fewer steps where time is short."""

WARM_UP = 5
"""Steps that are not counted."""

TOGETHER = 10
"""Steps after which the device is waited for."""

SHARE = 0.8
"""Of a row's time, after which no further step is taken."""


def hippocampus_steps(recipe: str, setting: Setting) -> Found:
    """Steps on the prepared cases, with the plan of a recipe."""
    return steps(setting, setting.prepared_plan(recipe), setting.prepared_cases()[0])


def made_steps(edge: int, setting: Setting, *, residual: bool = False) -> Found:
    """Steps on noise, with a large network."""
    return steps(setting, setting.made_plan(edge, residual=residual), setting.made_cases())


def channels_last_steps(setting: Setting, *, fused_norm: bool = False) -> Found:
    """The same with a plain network that computes channels-last, with PyTorch's norm or that in Triton."""
    if fused_norm:
        setting.need_triton()
    return steps(setting, setting.made_plan(128), setting.made_cases(), channels_last=True, fused_norm=fused_norm)


def steps(setting: Setting, plan: Plan, cases: Sequence[Any], *, channels_last: bool = False, fused_norm: bool = False) -> Found:
    """Seconds of whole training steps, patches drawn meanwhile; the share of the peak, of waiting and of the device's work.

    Args:
        plan: of the training.
        cases: to draw from.
        channels_last: let the network compute in this layout.
        fused_norm: with the norm in Triton.
    """
    began, device = time.perf_counter(), setting.device
    with exact(device, wanted=False), memory_for(device):
        if setting.on_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        learner, clock = (
            Learner(setting.context(plan), Course.of(10_000, plan.training), fused_norm=fused_norm),
            Clock(torch, device),
        )
        if channels_last:
            learner.network.to(memory_format=torch.channels_last_3d)
        patches = Patches(cases, plan, fold=0, device=device)
        with closing(prefetched(patches.batch, 0, ahead=DRAWN_AHEAD if setting.on_cuda else 0)) as batches:
            first = seconds_of(lambda: learner.take_step(next(batches)), device)
            for _ in range(0 if setting.small else WARM_UP):
                learner.take_step(next(batches))
            clock.wait()
            waiting, busy, count, start = 0.0, 0.0, 0, time.perf_counter()
            while count < (TOGETHER if setting.small else STEPS) and time.perf_counter() - began < SHARE * setting.seconds:
                for _ in range(TOGETHER):
                    before = time.perf_counter()
                    batch = next(batches)
                    waiting += time.perf_counter() - before
                    clock.timed(learner.take_step, batch)
                busy += clock.wait() or 0.0
                count += TOGETHER
            wall = time.perf_counter() - start
            gb = round(torch.cuda.max_memory_reserved(device) / 1e9, 2) if setting.on_cuda else None
        learner.check()
    if not count:
        raise RuntimeError(f"the first steps took {wall:.0f} s")
    step_s, rate = wall / count, step_flops(plan) * count / wall
    numbers = {
        "patch": list(plan.patch),
        "batch": plan.training.batch_size,
        "precision": name_of(learner.context.dtype),
        "steps": count,
        "s_250_steps": round(STEPS * step_s, 3),
        "s_first_step": round(first, 3),
        "tflops": round(rate / 1e12, 3),
        "share_of_peak": round(rate / _peak(device, learner.context.dtype, setting.small), 4),
        "waiting_share": round(waiting / wall, 4),
        "busy_share": round(busy / wall, 4) if setting.on_cuda else None,
        "gb": gb,
        "parts": learner.parts,
    }
    text = (
        f"{STEPS * step_s:.1f} s for 250 steps, {rate / 1e12:.3g} TFLOP/s, {numbers['share_of_peak']:.0%} of the peak; "
        f"{waiting / wall:.0%} of the time waiting for data"
    )
    if setting.on_cuda:
        text += f", {busy / wall:.0%} computing; {gb:.1f} GB"
    return Found(text=text, numbers=numbers)


# --- prediction

CT, CT_SPACING = (280, 512, 512), (1.5, 0.78, 0.78)
"""Voxels of a CT of the abdomen, and mm between them."""

NETWORK_SPACING = 1.5
"""mm between the voxels of the network's grid."""


def prediction(setting: Setting) -> Found:
    """Seconds of the prediction of a CT in memory, with all mirrored copies and without."""
    made = setting.made_plan(128)
    spaced = made.preprocessing.model_copy(update={"spacing": (NETWORK_SPACING,) * 3})
    plan = made.model_copy(update={"preprocessing": spaced, "inference": Inference(mirror_axes=(0, 1, 2))})
    weights = fresh_network(setting.context(plan)).state_dict()
    model = Model(members=(Member(plan=plan, fold=0, weights=weights),))
    scan = made_ct((16, 24, 24) if setting.small else CT, CT_SPACING)
    numbers: dict[str, Any] = {"voxels": list(scan.grid.shape)}
    for name, mirror in (("without mirrored copies", False), ("with 8 mirrored copies", True)):
        predictor = Predictor(model, device=setting.device, mirror=mirror)
        predictor(made_ct((16, 24, 24), CT_SPACING))  # so that nothing is done for the first time
        began = time.perf_counter()
        found = predictor(scan)
        numbers[name] = {"wall": round(time.perf_counter() - began, 3), **{k: round(v, 3) for k, v in found.seconds.items()}}
    text = "; ".join(
        f"{name} {numbers[name]['wall']:.1f} s (preprocessing {numbers[name]['preprocess']:.1f}, network "
        f"{numbers[name]['network']:.1f}, back to the scan's grid {numbers[name]['restore']:.1f})"
        for name in list(numbers)[1:]
    )
    return Found(text=text, numbers=numbers)


def made_ct(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Scan:
    """An elliptical body of noise in air, in Hounsfield units."""
    _, y, x = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    body = np.broadcast_to((y / 0.7) ** 2 + (x / 0.9) ** 2 < 1, shape)
    noise = np.random.default_rng(0).normal(0, 20, shape[1:]).astype(np.float32)  # the same in each slice, which is fast
    image = np.where(body, noise, np.float32(-1000))[np.newaxis]
    grid = Grid(shape=shape, spacing=spacing)
    return Scan(image=image, grid=grid, source=Source(files=(), grid=grid))


# --- a training

MINUTES = 5.0

CLOSING = 20.0
"""Seconds of a row's time for reading the cases, and for predicting those held out."""


def training(setting: Setting) -> Found:
    """Dice of the held-out cases after a training of five minutes, or what is left, with the plan of auto."""
    plan, (cases, held_out) = setting.prepared_plan("auto"), setting.prepared_cases()
    held_out = held_out[:1] if setting.small else held_out
    seconds = 1.0 if setting.small else min(60 * MINUTES, setting.seconds - CLOSING)
    if plan.labels.regions or seconds < 1:
        raise NotHereError("regions" if plan.labels.regions else "no time was left")
    context = setting.context(plan)
    patches, validation = Patches(cases, plan, fold=0, device=setting.device), Validation(held_out, context)
    began = time.perf_counter()
    with exact(setting.device, wanted=False):
        count, step_seconds = steps_fitting(seconds, patches, validation, context)
        learner = Learner(context, Course.of(count, plan.training))
        learner.earlier_seconds = time.perf_counter() - began
        limit = TimeLimit(seconds, learner, PatchGrowth(plan), step_seconds)
        epochs: list[Epoch] = []
        for epoch in take_steps(learner, patches, validation):
            epochs += [epoch] if epoch else []
            learner.course = limit.course(learner)
    learner.check()
    wall = time.perf_counter() - began
    member = Member(plan=plan, fold=0, weights=learner.weights())
    scores, predicting = _dice_of(held_out, member, setting)
    numbers = {
        "train_s": round(wall, 1),
        "steps": learner.step,
        "cases": len(cases),
        "held_out": len(held_out),
        "predict_s": round(predicting, 2),
        "dice": {name: round(mean(values), 4) for name, values in scores.items()},
        "loss": [epoch.loss for epoch in epochs],
    }
    average = mean(value for values in scores.values() for value in values)
    text = (
        f"Dice {average:.4f} ({', '.join(f'{name} {value:.4f}' for name, value in numbers['dice'].items())}) of {len(held_out)} "
        f"held-out cases on the network's grid, after {learner.step} steps in {wall:.0f} s on {len(cases)} cases"
    )
    return Found(text=text, numbers={**numbers, "mean_dice": round(average, 4)})


def _dice_of(cases: Sequence[StoredCase], member: Member, setting: Setting) -> tuple[dict[str, list[float]], float]:
    """Dice of each label over the cases that have it, in reference or prediction, on the network's grid; and seconds."""
    network, window = MemberNetwork.of(member, setting.device), window_of(member, setting.device)
    names, began = member.plan.labels.foreground, time.perf_counter()
    scores: dict[str, list[float]] = {name: [] for name in names}
    for case in cases:
        image = torch.from_numpy(np.ascontiguousarray(case.image[:]))
        found = torch.cat([slab.argmax(0).cpu() for slab in sliding_window([network], image, window)]).numpy()
        for index, name in enumerate(names, 1):
            predicted, reference = found == index, np.asarray(case.labels[:]) == index
            if total := int(predicted.sum() + reference.sum()):
                scores[name].append(2 * int((predicted & reference).sum()) / total)
    return scores, time.perf_counter() - began


MEASUREMENTS: dict[str, Callable[[Setting], Found]] = {
    "peak of matrix products": peak,
    "Hippocampus, nnU-Net's plan": partial(hippocampus_steps, "nnunet"),
    "Hippocampus, plan of auto": partial(hippocampus_steps, "auto"),
    "128 x 128 x 128, batch 2": partial(made_steps, 128),
    "128 x 128 x 128, batch 2, channels-last": channels_last_steps,
    "128 x 128 x 128, batch 2, channels-last, norm in Triton": partial(channels_last_steps, fused_norm=True),
    "192 x 192 x 192, batch 2, ResEnc-L": partial(made_steps, 192, residual=True),
    "prediction of a CT": prediction,
    "training on Hippocampus": training,
}
"""By the names of rows."""
