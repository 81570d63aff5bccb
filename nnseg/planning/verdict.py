"""Is a training long enough, is the model good, and what comes next? Decided here for ``run``, report and model card alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, variance

from nnseg.core.dataset import counted, list_some
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Scores
from nnseg.core.trust import Trust
from nnseg.core.verdict import Level, Verdict
from nnseg.planning.describe import describe_steps

USEFUL_STEPS = 250
"""Steps of a training that most networks need. Source: ``benchmarks/RESULTS.md``, mean held-out Dice by steps with the recipe
"auto": 30 steps .19 (ACDC), 42 .67 (DRIVE), 250 .90 (phantoms), 300 .81, 1000 .86 and 4200 .89
(Hippocampus)."""

GOOD_DICE = 0.7
"""Source: Zijdenbos et al. 1994, IEEE Transactions on Medical Imaging 13(4): values above it are excellent agreement."""
FAIR_DICE = 0.5
"""Below it less of the two masks is shared than not (IoU of a third)."""
NOT_FOUND = 0.005
"""A Dice that is shown as 0."""
FEW_CASES = 10
"""Scores of fewer held-out cases are uncertain."""
LARGE_ERROR = 0.1
"""Mean error of the expected Dice above which flags say little."""

FEWEST_LOSSES = 12
"""Steps from which on it can be said whether a loss falls."""
FALLING = 0.01
"""Share by which the mean loss of the last quarter must lie below that of the quarter before."""

MINUTES = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)
"""Lengths that are advised, in minutes; longer ones in whole days."""

Histories = Mapping[str, Sequence[Epoch]]


def advised_time(seconds: float) -> str:
    """A round time that is not shorter, as options take it: "10m", "2h"."""
    minutes = next((m for m in MINUTES if 60 * m >= seconds), 1440 * math.ceil(seconds / 86400))
    hours, rest = divmod(minutes, 60)
    return f"{minutes}m" if not hours else f"{hours}h{rest}m" if rest else f"{hours}h"


def warn_of_length(steps: float, seconds: float | None, trainings: int, *, timed: bool) -> str:
    """What to know before a training starts that is too short for a useful model; empty if it is long enough.

    Args:
        steps: of each training, as estimated.
        seconds: that they take; None if unknown.
        trainings: number of trainings, one after the other, that share the time.
        timed: the time was given, not the number of steps.
    """
    if steps >= USEFUL_STEPS:
        return ""
    enough = f"a useful model needs about {USEFUL_STEPS}"
    if not timed or not seconds:
        return f"{counted(round(steps), 'step')} of training are few; {enough}: --steps {USEFUL_STEPS}"
    alone = seconds / max(1.0, steps) * USEFUL_STEPS
    needed, of_each = advised_time(alone * trainings), f" of each of {trainings} trainings" if trainings > 1 else ""
    single = f", or for a single fold --folds 0 --budget {advised_time(alone)}" if trainings > 1 else ""
    return (
        f"only {counted(round(steps), 'step')}{of_each} fit into {seconds * trainings:.0f} s on this machine; {enough} steps, "
        f"which take {needed}: --budget {needed}{single}"
    )


def give_verdict(scores: Scores | None, histories: Histories, trust: Trust | None = None, *, folds: int = 0) -> Verdict | None:
    """The verdict on a trained model; None before the first training ends its first epoch.

    Args:
        scores: of the held-out cases; None if there are none.
        histories: epochs of each training by its name.
        trust: calibration of the model's estimates of its quality; None if it was not measured.
        folds: of the run, trained or not.
    """
    trained = [epochs for epochs in histories.values() if epochs]
    if not trained:
        return None
    short, falling = min(e[-1].step for e in trained) < USEFUL_STEPS, sum(map(_still_falls, trained)) * 2 > len(trained)
    level, headline = _judge(scores)
    numbers = sorted({int(name.rsplit(" ", 1)[-1]) for name, epochs in histories.items() if epochs})
    only = f" --folds {','.join(map(str, numbers))}" if len(numbers) < folds else ""  # the others would be trained too
    advice, command = _advise(level, trained, longer=short or (level != "good" and falling), only=only)
    reasons = tuple(_reasons(level, trained, scores, trust, short=short, falling=falling))
    return Verdict(level=level, headline=headline, reasons=reasons, advice=advice, command=command)


def _reasons(
    level: Level, trained: Sequence[Sequence[Epoch]], scores: Scores | None, trust: Trust | None, *, short: bool, falling: bool
) -> Iterator[str]:
    """What else is to be known of a model, in sentences."""
    hope = "longer training should improve it" if level == "good" else f"a useful model needs about {USEFUL_STEPS}"
    if short:
        yield f"{describe_steps([epochs[-1].step for epochs in trained])} of training are few; {hope}."
    if falling:
        yield "The loss was still falling."
    elif level in ("fair", "poor") and not short:
        yield "The loss no longer falls: longer training will help little."
    if scores and 0 < len(scores.cases) < FEW_CASES:
        yield f"The scores are those of {counted(len(scores.cases), 'case')}, and uncertain."
    if scores and (unknown := unscored_labels(scores)):
        yield f"There is no score of {list_some(unknown)}: no held-out case shows {'it' if len(unknown) == 1 else 'them'}."
    if trust and trust.error is not None and trust.error > LARGE_ERROR:
        yield f"The expected Dice of a scan is off by {trust.error:.2f} on average."


def missing_labels(scores: Scores) -> list[str]:
    """Labels that no prediction of a held-out case has right in any voxel."""
    return [name for name, dice in _label_dice(scores).items() if dice < NOT_FOUND]


def unscored_labels(scores: Scores) -> list[str]:
    """Labels of which there is no score, since no held-out case that was annotated with them shows them."""
    known = scores.averages.per_mask["dice"].labels if scores.cases and "dice" in scores.metrics else {}
    return [name for name, dice in known.items() if dice is None]


def _label_dice(scores: Scores) -> dict[str, float]:
    return {name: dice for name, dice in scores.averages.per_mask["dice"].labels.items() if dice is not None}


def _judge(scores: Scores | None) -> tuple[Level, str]:
    dice = scores.averages.per_image["dice"].mean if scores and "dice" in scores.metrics else None
    if scores is None or dice is None:
        return "unknown", "Its quality is unknown: no held-out case was scored."
    lost = missing_labels(scores)
    weak = [f"{name} {value:.2f}" for name, value in _label_dice(scores).items() if NOT_FOUND <= value < FAIR_DICE]
    if lost:
        more = f" Found badly: {list_some(weak)}." if weak else ""
        return "poor", f"Not useful yet: {list_some(lost)} {'was' if len(lost) == 1 else 'were'} not found (Dice 0).{more}"
    if dice < FAIR_DICE:
        return "poor", f"Not useful yet: mean Dice {dice:.2f}."
    if weak or dice < GOOD_DICE:
        return "fair", f"Of limited use: mean Dice {dice:.2f}" + (f"; found badly: {list_some(weak)}." if weak else ".")
    return "good", f"All {'scored ' if unscored_labels(scores) else ''}labels were found: mean Dice {dice:.2f}."


def _advise(level: Level, trained: Sequence[Sequence[Epoch]], *, longer: bool, only: str) -> tuple[str, str]:
    """What to do next, and the command."""
    if longer:
        each = f" each of the {len(trained)} trainings" if len(trained) > 1 else ""
        command = f"nnseg train RUN --more {advised_time(max(map(_missing_seconds, trained)))}{only}"
        return f"Train{each} for longer, then repeat the nnseg run command, which scores the result:", command
    if level == "good":
        return "Predict new scans:", "nnseg predict SCANS OUT --model RUN"
    if level == "unknown":
        return "Score it on labelled scans that it was not trained on:", "nnseg predict SCANS OUT --model RUN"
    return "Look at the worst cases in the report, check their label maps, and add cases like them:", "nnseg check DATASET"


def _missing_seconds(epochs: Sequence[Epoch]) -> float:
    """Time for the steps that are missing for a useful model, or for as many as were done."""
    last = epochs[-1]
    return max(USEFUL_STEPS - last.step, last.step) * last.total_seconds / max(1, last.step)


def _still_falls(epochs: Sequence[Epoch]) -> bool:
    """True if the losses of the last quarter of the steps lie below those of the quarter before, by more than their noise."""
    losses = [loss for epoch in epochs for _, loss in epoch.step_losses]
    quarter = len(losses) // 4
    if len(losses) < FEWEST_LOSSES:
        return False
    before, after = losses[-2 * quarter : -quarter], losses[-quarter:]
    drop, noise = fmean(before) - fmean(after), math.sqrt((variance(before) + variance(after)) / quarter)
    return drop > max(2 * noise, FALLING * abs(fmean(before)))
