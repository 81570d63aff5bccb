"""Part of the scores: do predicted volumes agree with those of the references?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.core.scores import Scores
from nnseg.evaluation.volume_agreement import VolumeAgreement, agreement, volumes
from nnseg.reporting.charts.charts import Dot, Guide, Scale, scatter_svg
from nnseg.reporting.charts.drawing import short

MOST_PLOTS = 8
"""Labels that are drawn; the table has all."""


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """One label's volumes, in words."""

    label: str
    n: int
    reference: str
    bias: str
    bias_interval: str
    limits: str
    icc: str
    icc_interval: str


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """How volumes agree.

    Args:
        rows: one a label.
        plots: captions and drawings.
        verdict: in a sentence.
    """

    rows: Sequence[VolumeRow]
    plots: Sequence[tuple[str, str]]
    verdict: str


def agreeing(scores: Scores) -> Volumes | None:
    """How predicted volumes agree with the references'; None if too few cases know theirs."""
    found = agreement(scores)
    if not found:
        return None
    return Volumes(
        rows=[_row(label, of) for label, of in found.items()],
        plots=[(label, _plot(scores, label, of)) for label, of in list(found.items())[:MOST_PLOTS]],
        verdict=_verdict(found),
    )


def _row(label: str, of: VolumeAgreement) -> VolumeRow:
    return VolumeRow(
        label=label,
        n=of.n,
        reference=short(of.mean_reference_ml),
        bias=_signed(of.bias_ml),
        bias_interval=_to(of.bias_interval, "+.2g"),
        limits=_to(of.limits_ml, "+.3g"),
        icc="–" if of.icc is None else f"{of.icc:.3f}",  # noqa: RUF001 (a dash in a table is an en dash)
        icc_interval=_to(of.icc_interval, ".3f") if of.icc_interval else "",
    )


def _plot(scores: Scores, label: str, of: VolumeAgreement) -> str:
    """Bland and Altman's: the difference of each case by the mean of both volumes."""
    shown = [case for case in scores.cases if len(volumes([case.labels[label]]))]
    pairs = volumes([case.labels[label] for case in shown])
    dots = [
        Dot(x=float(mine + given) / 2, y=float(mine - given), told=f"{case.name}: {short(mine)} ml, reference {short(given)} ml")
        for case, (mine, given) in zip(shown, pairs.tolist(), strict=True)
    ]
    low, high = of.limits_ml
    guides = [
        Guide(left=high, right=high, words=_signed(high), kind="bound"),
        Guide(left=of.bias_ml, right=of.bias_ml, words=f"mean {_signed(of.bias_ml)}"),
        Guide(left=low, right=low, words=_signed(low), kind="bound"),
    ]
    title = (
        f"{label}: predicted minus reference volume by their mean, in {of.n} cases; mean {_signed(of.bias_ml)} ml, "
        f"95 % between {low:+.3g} and {high:+.3g} ml"
    )
    return scatter_svg(title, dots, x=Scale(label="mean of both, ml"), y=Scale(label="predicted - reference, ml"), guides=guides)


def _verdict(found: dict[str, VolumeAgreement]) -> str:
    high = [label for label, of in found.items() if of.bias_interval[0] > 0]
    low = [label for label, of in found.items() if of.bias_interval[1] < 0]
    parts = [f"{_listed(names)} {verb}" for names, verb in ((high, "too large"), (low, "too small")) if names]
    if not parts:
        return "No label's volume is off in one direction beyond chance; single volumes still are, by what the limits say."
    return f"On average predicted volumes are off beyond chance: {'; '.join(parts)}."


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _signed(ml: float) -> str:
    return f"{round(ml, 6):+.3g}"


def _to(interval: tuple[float, float], form: str) -> str:
    return f"{interval[0]:{form}} to {interval[1]:{form}}"
