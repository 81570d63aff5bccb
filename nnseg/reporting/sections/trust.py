"""Section: how far to trust an answer: calibration, and cases that are flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from nnseg.evaluation.calibration import Calibrated, Calibration
from nnseg.reporting.charts.charts import Dot, Guide, Point, Scale, curves_svg, scatter_svg
from nnseg.reporting.content import ExpectedQuality, ReportContent

FEWEST_FLAGGED = 3
"""Below so many flagged cases nothing is said of what flags catch."""
MOST_FLAGGED = 30
"""Rows of the table of flagged cases."""


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """Probabilities at a temperature, in words."""

    name: str
    ece: str
    ece_interval: str
    brier: str
    brier_interval: str


@dataclass(frozen=True, kw_only=True)
class FlaggedRow:
    """A case that would have been flagged, in words."""

    name: str
    expected: str
    dice: str
    unlike: str


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """What is told of trust.

    Args:
        words: what was measured, in sentences.
        expectation: drawing of true against expected Dice.
        coverage: drawing of the mean Dice of what is left where the least trusted cases are left out.
        coverage_words: what it says.
        flagged: the worst expected first.
        more: flagged cases left out of the table.
        unlike: is any of them unlike others in what can be named?
        reliability: drawing of how often probabilities are right.
        calibration: before and after.
        calibration_words: what it says.
    """

    words: Sequence[str]
    expectation: str
    coverage: str
    coverage_words: str
    flagged: Sequence[FlaggedRow]
    more: int
    unlike: bool
    reliability: str
    calibration: Sequence[CalibrationRow]
    calibration_words: str


def trusted(content: ReportContent) -> Trusted | None:
    """What is told of trust; None if nothing was measured."""
    known = [f for f in content.expected_quality if f.dice is not None]
    if content.trust is None and not known and content.calibration is None:
        return None
    flagged = sorted((f for f in content.expected_quality if f.name in content.flagged), key=lambda f: (f.expected, f.name))
    return Trusted(
        words=_words(content, known),
        expectation=_expectation(content, known) if len(known) > 1 else "",
        coverage=_coverage(known) if len(known) > 1 else "",
        coverage_words=_coverage_words(known, content.flagged) if len(known) > 1 else "",
        flagged=[_flagged(f) for f in flagged[:MOST_FLAGGED]],
        more=len(flagged[MOST_FLAGGED:]),
        unlike=any(f.unlike for f in flagged[:MOST_FLAGGED]),
        reliability=_reliability(content.calibration) if content.calibration else "",
        calibration=_calibration(content.calibration) if content.calibration else [],
        calibration_words=_calibration_words(content.calibration) if content.calibration else "",
    )


def coverage(known: Sequence[ExpectedQuality]) -> tuple[list[float], list[float]]:
    """Mean Dice of the k cases that are expected to be best, and of the k that truly are, for k from 1 to all."""
    as_expected = [f.dice or 0.0 for f in sorted(known, key=lambda f: (-f.expected, f.name))]
    return _running_means(as_expected), _running_means(sorted(as_expected, reverse=True))


def _running_means(values: Sequence[float]) -> list[float]:
    return [total / (k + 1) for k, total in enumerate(accumulate(values))]


def _words(content: ReportContent, known: Sequence[ExpectedQuality]) -> list[str]:
    words, trust = [], content.trust
    if trust and trust.error is not None:
        words.append(
            f"Of a new scan without a reference the model says how good its answer is. On {trust.cases} held-out cases that "
            f"expectation was off by {trust.error:.3f} Dice on average; each was judged by what the other cases say."
        )
    if trust and trust.threshold is not None:
        words.append(
            f"Answers below an expected Dice of {trust.threshold:.3f} are flagged: that is where the worst expected tenth of the "
            f"held-out cases lies ({len(content.flagged)} of {len(content.expected_quality)})."
        )
    elif trust and known:
        words.append("The held-out cases are too few to know below which quality an answer should be flagged.")
    return words


def _expectation(content: ReportContent, known: Sequence[ExpectedQuality]) -> str:
    dots = [
        Dot(
            x=f.expected,
            y=f.dice or 0.0,
            told=f"{f.name}: expected {f.expected:.3f}, true {f.dice:.3f}",
            kind="flagged" if f.name in content.flagged else "",
        )
        for f in known
    ]
    low = 0.05 * int(20 * min(*(d.x for d in dots), *(d.y for d in dots)))
    title = f"True against expected mean Dice of {len(dots)} held-out cases; on the line they are equal"
    return scatter_svg(
        title,
        dots,
        x=Scale(label="expected Dice", low=low, high=1.0),
        y=Scale(label="true Dice", low=low, high=1.0),
        guides=[Guide(left=low, right=1.0)],
    )


def _coverage(known: Sequence[ExpectedQuality]) -> str:
    """Over at most a hundred shares of the cases."""
    as_expected, as_is = coverage(known)
    count = len(known)
    kept = sorted({max(1, round(count * share / 100)) for share in range(1, 101)})
    series = {
        name: [Point(x=100 * k / count, y=values[k - 1], told=f"{k} of {count} cases kept") for k in kept]
        for name, values in (("expected best first", as_expected), ("truly best first", as_is))
    }
    title = "Mean Dice of the cases that are kept, by their share"
    return curves_svg(title, series, x_label="cases kept, %", y_label="mean Dice", right=100.0)


def _coverage_words(known: Sequence[ExpectedQuality], flagged: frozenset[str]) -> str:
    everything = fmean(f.dice or 0.0 for f in known)
    kept = [f.dice or 0.0 for f in known if f.name not in flagged]
    if not kept or len(known) - len(kept) < FEWEST_FLAGGED:
        return f"All cases together have a mean Dice of {everything:.3f}."
    worst = {f.name for f in sorted(known, key=lambda f: (f.dice or 0.0, f.name))[: len(known) - len(kept)]}
    caught = len(worst & flagged)
    return (
        f"Without the flagged cases the mean Dice goes from {everything:.3f} to {fmean(kept):.3f}. Of the {len(worst)} worst "
        f"cases the flags catch {caught}; by chance they would catch {len(worst) ** 2 / len(known):.1f}."
    )


def _flagged(case: ExpectedQuality) -> FlaggedRow:
    return FlaggedRow(
        name=case.name,
        expected=f"{case.expected:.3f}",
        dice="–" if case.dice is None else f"{case.dice:.3f}",  # noqa: RUF001 (a dash in a table is an en dash)
        unlike="; ".join(case.unlike),
    )


def _sides(calibration: Calibration) -> dict[str, Calibrated]:
    return {"as the networks give it": calibration.before, f"at temperature {calibration.after.temperature:.2f}": calibration.after}


def _reliability(calibration: Calibration) -> str:
    series = {
        name: [
            Point(x=b.confidence, y=b.accuracy, told=f"{b.share:.2%} of the voxels, said {b.confidence:.3f}, right")
            for b in of.curve
        ]
        for name, of in _sides(calibration).items()
    }
    title = "How often decisions are right, by how sure the model is; on the line it is as often right as it says"
    return curves_svg(
        title, series, x_label="probability of what was decided", y_label="share that is right", top=1.0, right=1.0, diagonal=True
    )


def _calibration(calibration: Calibration) -> list[CalibrationRow]:
    return [
        CalibrationRow(
            name=name,
            ece=f"{of.ece:.4f}",
            ece_interval=f"{of.ece_interval[0]:.4f} to {of.ece_interval[1]:.4f}",
            brier=f"{of.brier:.4f}",
            brier_interval=f"{of.brier_interval[0]:.4f} to {of.brier_interval[1]:.4f}",
        )
        for name, of in _sides(calibration).items()
    ]


def _calibration_words(calibration: Calibration) -> str:
    temperature = calibration.after.temperature
    sure = "about as sure as they should be"
    if calibration.after.ece < calibration.before.ece and not 0.98 <= temperature <= 1.02:
        sure = "too sure of themselves" if temperature > 1 else "too doubtful"
    return (
        f"The networks are {sure}; their answers are tempered by {temperature:.2f}. All voxels count, most of which are background "
        f"that nobody doubts: the errors are small for every model, and can be compared on the same scans only."
    )
