"""The section on trust: calibration of the probabilities and of the expected quality, and flagged cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

from nnseg.core.dataset import list_some
from nnseg.core.trust import INTERVAL_LEVEL
from nnseg.evaluation.calibration import Calibrated, Calibration
from nnseg.evaluation.conformal import fewest_errors
from nnseg.reporting.charts.charts import Guide, Point, Scale, curves_svg, scatter_svg
from nnseg.reporting.content import ExpectedQuality, ReportContent

FEWEST_FLAGGED = 3
"""Flagged cases below which their effect is not reported."""
MOST_FLAGGED = 30
"""Rows of the table of flagged cases."""


def summarize_trust(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``trust.html.j2``; None if neither quality was expected nor calibration measured."""
    known = [q for q in content.expected_quality if q.dice is not None]
    calibration, names = content.calibration, content.flagged
    if content.trust is None and not known and calibration is None:
        return None
    flagged = sorted((q for q in content.expected_quality if q.name in names), key=lambda q: (q.expected, q.name))
    drawn = len(known) > 1
    return {
        "sentences": _describe_trust(content, known),
        "expectation": _draw_expectation(known, names) if drawn else "",
        "coverage": _draw_coverage(known) if drawn else "",
        "coverage_effect": _describe_coverage(known, names) if drawn else "",
        "intervals": content.intervals,
        "no_interval": _describe_missing_intervals(content),
        "flagged": flagged[:MOST_FLAGGED],
        "more": len(flagged[MOST_FLAGGED:]),
        "unlike": any(q.unlike for q in flagged[:MOST_FLAGGED]),
        "reliability": _draw_reliability(calibration) if calibration else "",
        "calibration": _by_name(calibration) if calibration else {},
        "calibration_effect": _describe_calibration(calibration) if calibration else "",
    }


def coverage(known: Sequence[ExpectedQuality]) -> tuple[list[float], list[float]]:
    """Mean Dice of the k cases with the best expected and of the k with the best true quality, for k from 1 to all."""
    as_expected = [q.dice or 0.0 for q in sorted(known, key=lambda q: (-q.expected, q.name))]
    return _running_means(as_expected), _running_means(sorted(as_expected, reverse=True))


def _running_means(values: Sequence[float]) -> list[float]:
    return [total / (k + 1) for k, total in enumerate(accumulate(values))]


def _describe_trust(content: ReportContent, known: Sequence[ExpectedQuality]) -> list[str]:
    sentences, trust = [], content.trust
    if trust and trust.error is not None:
        sentences.append(
            f"The model estimates the Dice of a prediction without a reference. On {trust.cases} held-out cases this estimate was "
            f"off by {trust.error:.3f} on average; for each it was calibrated on the other cases."
        )
    if trust and trust.threshold is not None:
        sentences.append(
            f"Predictions with an expected Dice below {trust.threshold:.3f} are flagged, as the lowest tenth of the held-out cases "
            f"would have been ({len(content.flagged)} of {len(content.expected_quality)})."
        )
    elif trust and known:
        sentences.append("There are too few held-out cases for a threshold below which predictions are flagged.")
    return sentences


def _describe_missing_intervals(content: ReportContent) -> str:
    few, needed = [of.label for of in content.intervals if of.dice is None], fewest_errors(INTERVAL_LEVEL)
    return f"There is none of {list_some(few)}: that takes {needed} held-out cases where it was predicted." if few else ""


def _draw_expectation(known: Sequence[ExpectedQuality], flagged: frozenset[str]) -> str:
    dots = [
        Point(
            x=q.expected,
            y=q.dice or 0.0,
            tip=f"{q.name}: expected {q.expected:.3f}, true {q.dice:.3f}",
            kind="flagged" if q.name in flagged else "",
        )
        for q in known
    ]
    low = 0.05 * int(20 * min(*(q.expected for q in known), *(q.dice or 0.0 for q in known)))
    title = f"True against expected mean Dice of {len(dots)} held-out cases; on the line they are equal"
    return scatter_svg(
        title,
        dots,
        x=Scale(label="expected Dice", low=low, high=1.0),
        y=Scale(label="true Dice", low=low, high=1.0),
        guides=[Guide(left=low, right=1.0)],
    )


def _draw_coverage(known: Sequence[ExpectedQuality]) -> str:
    """Over at most a hundred shares of the cases."""
    as_expected, as_is = coverage(known)
    count = len(known)
    kept = sorted({max(1, round(count * share / 100)) for share in range(1, 101)})
    series = {
        name: [Point(x=100 * k / count, y=values[k - 1], tip=f"{k} of {count} cases kept") for k in kept]
        for name, values in (("expected best first", as_expected), ("true best first", as_is))
    }
    title = "Mean Dice of the cases that are kept, by their share"
    return curves_svg(title, series, x_label="cases kept, %", y_label="mean Dice", right=100.0)


def _describe_coverage(known: Sequence[ExpectedQuality], flagged: frozenset[str]) -> str:
    everything = fmean(q.dice or 0.0 for q in known)
    kept = [q.dice or 0.0 for q in known if q.name not in flagged]
    if not kept or len(known) - len(kept) < FEWEST_FLAGGED:
        return f"All cases together have a mean Dice of {everything:.3f}."
    worst = {q.name for q in sorted(known, key=lambda q: (q.dice or 0.0, q.name))[: len(known) - len(kept)]}
    caught = len(worst & flagged)
    return (
        f"Without the flagged cases the mean Dice goes from {everything:.3f} to {fmean(kept):.3f}. Of the {len(worst)} worst "
        f"cases the flags catch {caught}; by chance they would catch {len(worst) ** 2 / len(known):.1f}."
    )


def _by_name(calibration: Calibration) -> dict[str, Calibrated]:
    return {"uncalibrated": calibration.before, f"at temperature {calibration.after.temperature:.2f}": calibration.after}


def _draw_reliability(calibration: Calibration) -> str:
    series = {
        name: [
            Point(x=b.confidence, y=b.accuracy, tip=f"{b.share:.2%} of the voxels, confidence {b.confidence:.3f}, accuracy")
            for b in of.curve
        ]
        for name, of in _by_name(calibration).items()
    }
    title = "Accuracy of the labels by confidence of the model; on the line they are equal"
    return curves_svg(title, series, x_label="confidence", y_label="accuracy", top=1.0, right=1.0, diagonal=True)


def _describe_calibration(calibration: Calibration) -> str:
    temperature = calibration.after.temperature
    confidence = "well calibrated"
    if calibration.after.ece < calibration.before.ece and not 0.98 <= temperature <= 1.02:
        confidence = "overconfident" if temperature > 1 else "underconfident"
    return (
        f"The networks are {confidence}; their logits are divided by a temperature of {temperature:.2f}. All voxels count, most "
        f"of which are clear background: the errors are small for every model, and can be compared on the same scans only."
    )
