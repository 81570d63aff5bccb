"""The sliding window of a run's predictions: how many tiles and mirrored copies held-out cases show to be worth their time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnseg.core.dataset import Case, counted
from nnseg.core.decisions import WindowCandidate, WindowChoice, with_window
from nnseg.core.errors import NnsegError, suppress_unless_fault
from nnseg.core.frozen import digest
from nnseg.core.image import LabelMap, Scan
from nnseg.crossval.predict import held_out_cases, load_fold
from nnseg.evaluation.metrics import NOTHING, count, dice
from nnseg.evaluation.statistics import bootstrap_weights, interval
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.planning.windows import FREE_VALUES, is_affordable, list_candidates
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Folds, Run
from nnseg.system.progress import progress

log = logging.getLogger(__name__)

RULE = 1
"""Raised when the rule below changes, so that runs decide anew."""

SAMPLE_SHARE = 0.1
"""Most work of measuring the candidates, relative to that of training."""

FEWEST, MOST = 4, 12
"""Held-out cases that candidates are measured on; with fewer than the first, none are."""

LEAST_GAIN = 0.001
"""Gain in mean Dice for which a window that takes more work is chosen."""


LARGE_GAIN, LARGE_SHARE = 0.01, 1.0
"""Gain in mean Dice for which a window is affordable that takes as much work as the training."""


def choose_windows(run: Run, folds: Folds, *, device: str = "auto") -> dict[str, WindowChoice]:
    """The sliding window of each final plan that leaves it open, by the plan's name; written to ``windows.json``.

    The candidates are wide tiles without mirrored copies, the plan's tiles without, and the plan's tiles and copies. Those are open
    whose predictions of all held-out cases are affordable (see `is_affordable`), or else the first. Where the work allows,
    all of them are measured on up to `MOST` held-out cases, and the first is chosen, or a later open one that gains `LEAST_GAIN`
    in mean Dice over the one before; one that gains `LARGE_GAIN` may take `LARGE_SHARE`. Without a measurement, the last open one
    is chosen. Work is counted in forward passes, not in seconds, so that the choice is the same whatever else a machine does.

    Args:
        run: with its trained folds.
        folds: that are trained.
        device: to compute on.
    """
    found: dict[str, WindowChoice] = {}
    for name, folder in run.final_plans.items():
        if folder.plan.inference.cheapest and (choice := _choose(run, folder, folds, device)):
            found[name] = choice
    if found != (run.windows or {}):
        run.windows = found or None
    return found


def _choose(run: Run, folder: PlanFolder, folds: Folds, device: str) -> WindowChoice | None:
    """The window of one plan; None if no case is held out, or there is a single candidate."""
    held = [(number, case) for number, cases in held_out_cases(run, folds) for case in cases]
    steps = {number: epochs[-1].step for number in folds if (epochs := folder.fold(number).history())}
    candidates = list_candidates(folder.plan, run.fingerprint.cases, [case.name for _, case in held], sum(steps.values()))
    if not held or not steps or len(candidates) < 2:
        return None
    models = {number: load_fold(run, folder, number, as_trained=True) for number in {number for number, _ in held}}
    key = digest([RULE, sorted(case.name for _, case in held), steps, {n: model.key() for n, model in models.items()}])
    known = (run.windows or {}).get(folder.plan.name)
    if known and known.key == key:
        return known
    count_of_cases = affordable_cases(candidates, len(held))
    sample = held[:: max(1, len(held) // count_of_cases)][:count_of_cases] if count_of_cases else []
    measured, cases = _measure(models, candidates, sample, device)
    choice = choose_window(measured, cases=cases)
    log.info("prediction by %s: %s", folder.plan.name, choice.reason)
    return choice.model_copy(update={"key": key})


def affordable_cases(candidates: Sequence[WindowCandidate], held_out: int) -> int:
    """The number of held-out cases to measure all candidates on; 0 if too few of them can be afforded."""
    share, values = (sum(getattr(candidate, of) for candidate in candidates) for of in ("share", "values"))
    part = max(SAMPLE_SHARE / share, 0.5 * FREE_VALUES / values) if values else 1.0
    most = min(MOST, held_out, math.floor(part * held_out))
    return most if most >= FEWEST else 0


def choose_window(candidates: Sequence[WindowCandidate], *, cases: int) -> WindowChoice:
    """The window to predict with, see `choose_windows`.

    Args:
        candidates: the cheapest first.
        cases: that they were measured on; 0 if they were not.
    """
    chosen, limited = candidates[0], False
    for candidate in candidates[1:]:
        gain = (candidate.dice or 0.0) - (chosen.dice or 0.0)
        worth = not cases or gain >= LEAST_GAIN
        affordable = is_affordable(candidate) or (gain >= LARGE_GAIN and candidate.share <= LARGE_SHARE)
        limited |= worth and not affordable
        chosen = candidate if worth and affordable else chosen
    reason = "; ".join([chosen.name, *_more(candidates, limited=limited, cases=cases)])
    return WindowChoice(step=chosen.step, mirror_axes=chosen.mirror_axes, reason=reason, cases=cases, candidates=tuple(candidates))


def _more(candidates: Sequence[WindowCandidate], *, limited: bool, cases: int) -> Iterator[str]:
    """What the window with the most work would take, and bring."""
    first, last = candidates[0], candidates[-1]
    if limited:
        yield f"{last.name} would take {last.share:.2g} times the work of the training for the held-out cases"
    if last.gain is not None:
        spread = f" (95 % from {last.interval[0]:+.4f} to {last.interval[1]:+.4f})" if last.interval else ""
        times = f"{last.seconds / first.seconds:.2g} times the time" if last.seconds and first.seconds else "more time"
        yield f"on {counted(cases, 'held-out case')} {last.name} gains {last.gain:+.4f} Dice{spread} over {first.name}, for {times}"


def _measure(
    models: Mapping[int, Model], candidates: Sequence[WindowCandidate], sample: Sequence[tuple[int, Case]], device: str
) -> tuple[Sequence[WindowCandidate], int]:
    """The candidates with Dice and seconds on held-out cases, each predicted by the network that did not see it, and how many."""
    target = resolve_device(device)
    predictors = {n: [Predictor(_with(models[n], one), device=target) for one in candidates] for n in {n for n, _ in sample}}
    found: list[tuple[list[float], list[float]]] = []
    for number, case in progress(sample, total=len(sample), label="comparing tiles and mirrored copies"):
        with suppress_unless_fault(NnsegError):  # the prediction of all held-out cases reports it
            scan = read_scan(case.images, repair=True, spacing=case.spacing)
            reference = read_labels_of(case.labels, scan) if case.labels else None
            if reference is not None:
                found.append(_dice_and_seconds(predictors[number], scan, reference, case))
    if len(found) < FEWEST:
        return candidates, 0
    values, seconds = (np.array(column) for column in zip(*found, strict=True))
    gains = values - values[:, :1]
    draws = bootstrap_weights(len(found)) @ gains / len(found)
    measured = [
        candidate.model_copy(
            update={
                "dice": float(values[:, i].mean()),
                "gain": float(gains[:, i].mean()) if i else None,
                "interval": interval(draws[:, i]) if i else None,
                "seconds": float(seconds[:, i].mean()),
            }
        )
        for i, candidate in enumerate(candidates)
    ]
    return measured, len(found)


def _with(model: Model, candidate: WindowCandidate) -> Model:
    """The model with a candidate's window."""
    return replace(model, members=tuple(replace(m, plan=with_window(m.plan, candidate)) for m in model.members))


def _dice_and_seconds(
    predictors: Sequence[Predictor], scan: Scan, reference: LabelMap, case: Case
) -> tuple[list[float], list[float]]:
    """Mean Dice of a scan by each predictor, and the seconds that its network and restoring took."""
    prepared = predictors[0].prepare(scan)
    values, seconds = [], []
    for predictor in predictors:
        start = time.perf_counter()
        label_map = predictor.infer(prepared, objects=False).label_map
        seconds.append(time.perf_counter() - start)
        counts = count(label_map.labels, reference.labels, predictor.model.labels, annotated=case.annotated)
        known = [1.0 if (one := dice(of)) is None else one for of in counts.values() if of != NOTHING]
        values.append(float(np.mean(known)) if known else 1.0)
    return values, seconds
