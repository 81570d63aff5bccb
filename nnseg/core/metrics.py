"""Names, titles, units and directions of the metrics, which `nnseg.evaluation` computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nnseg.core.units import LengthUnit, length_name, volume_name


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Name and meaning of a metric.

    Args:
        formula: in LaTeX; docs/reference/metrics.md defines its symbols.
        unit: empty for a fraction.
        better: direction of improvement; "zero" for signed errors.
        digits: decimal places in tables.
    """

    title: str
    meaning: str
    formula: str
    unit: str = ""
    better: Literal["higher", "lower", "zero"] = "higher"
    digits: int = 3


METRICS = {
    "dice": Metric(
        title="Dice",
        meaning="overlap: twice the intersection of both masks, over the sum of their volumes",
        formula=r"\frac{2\,\left|P \cap R\right|}{\left|P\right| + \left|R\right|}",
    ),
    "iou": Metric(
        title="IoU",
        meaning="overlap: the intersection of both masks, over their union",
        formula=r"\frac{\left|P \cap R\right|}{\left|P \cup R\right|}",
    ),
    "hd95": Metric(
        title="HD95",
        unit="mm",
        better="lower",
        digits=2,
        meaning="95th percentile of the distances between both surfaces",
        formula=r"\max(q_{95}(S_P, S_R),\; q_{95}(S_R, S_P))",
    ),
    "hd": Metric(
        title="HD",
        unit="mm",
        better="lower",
        digits=2,
        meaning="largest distance between both surfaces",
        formula=r"\max(q_{100}(S_P, S_R),\; q_{100}(S_R, S_P))",
    ),
    "assd": Metric(
        title="ASSD",
        unit="mm",
        better="lower",
        meaning="mean distance between both surfaces",
        formula=r"\frac{\sum_{e \in S_P} a_e\,d(e, S_R) + \sum_{e \in S_R} a_e\,d(e, S_P)}{\left|S_P\right| + \left|S_R\right|}",
    ),
    "nsd": Metric(
        title="NSD",
        meaning="share of both surfaces within a tolerance of the other",
        formula=r"\frac{\sum_{e \in S_P,\,d(e, S_R) \le t} a_e + \sum_{e \in S_R,\,d(e, S_P) \le t} a_e}"
        r"{\left|S_P\right| + \left|S_R\right|}",
    ),
    "volume_error_ml": Metric(
        title="Volume error",
        unit="ml",
        better="zero",
        digits=2,
        meaning="predicted minus reference volume",
        formula=r"\left|P\right| - \left|R\right|",
    ),
    "relative_volume_error": Metric(
        title="Relative volume error",
        better="zero",
        meaning="predicted minus reference volume, over the reference volume",
        formula=r"\frac{\left|P\right| - \left|R\right|}{\left|R\right|}",
    ),
    "absolute_volume_error": Metric(
        title="Absolute volume error",
        better="lower",
        meaning="size of the volume error, over the reference volume",
        formula=r"\frac{\left| \left|P\right| - \left|R\right| \right|}{\left|R\right|}",
    ),
    "lesion_f1": Metric(
        title="Lesion F1",
        meaning="F1 of lesions matched with an IoU of 0.1 or more",
        formula=r"\frac{2\,m}{n_P + n_R}",
    ),
    "lesion_sensitivity": Metric(
        title="Lesion sensitivity", meaning="share of the reference's lesions that are matched", formula=r"\frac{m}{n_R}"
    ),
    "lesion_precision": Metric(
        title="Lesion precision", meaning="share of the predicted lesions that are matched", formula=r"\frac{m}{n_P}"
    ),
    "lesion_false_positives": Metric(
        title="False positives",
        unit="a case",
        better="lower",
        digits=2,
        meaning="predicted lesions without a match",
        formula=r"n_P - m",
    ),
    "panoptic_quality": Metric(
        title="Panoptic quality",
        meaning="lesions matched with an IoU above 0.5: their IoUs, over all lesions",
        formula=r"\frac{2\,\sum_{\mathrm{IoU} > 0.5} \mathrm{IoU}}{n_P + n_R}",
    ),
    "ap_50": Metric(
        title="AP at IoU 0.5",
        meaning="objects matched with an IoU of 0.5 or more, over all objects, a matched pair counting as one",
        formula=r"\frac{m_{0.5}}{n_P + n_R - m_{0.5}}",
    ),
    "mean_ap": Metric(
        title="Mean AP",
        meaning="mean of this AP at IoUs of 0.5, 0.6, 0.7, 0.8 and 0.9",
        formula=r"\frac{1}{5} \sum_t \frac{m_t}{n_P + n_R - m_t}",
    ),
    "object_f1": Metric(
        title="F1 at IoU 0.5", meaning="F1 of objects matched with an IoU of 0.5 or more", formula=r"\frac{2\,m_{0.5}}{n_P + n_R}"
    ),
    "v_rand": Metric(
        title="V-Rand",
        meaning="pairs of voxels of the reference that are in one object in both, over their mean number in each",
        formula=r"\frac{2\,\sum_{ij} p_{ij}^2}{\sum_i p_{i\cdot}^2 + \sum_j p_{\cdot j}^2}",
    ),
    "v_info": Metric(
        title="V-Info",
        meaning="mutual information of both divisions of the reference into objects, over the mean of their entropies",
        formula=r"\frac{2\,I(P; R)}{H(P) + H(R)}",
    ),
    "count_error": Metric(
        title="Count error",
        unit="a case",
        better="zero",
        digits=2,
        meaning="predicted minus reference number of objects",
        formula=r"n_P - n_R",
    ),
}
"""The metrics of a mask, by name. There is an ``nsd`` for each tolerance: ``nsd_1`` is at 1 mm."""


def metric_of(name: str, unit: LengthUnit = "mm") -> Metric:
    """The metric of a name such as "dice" or "nsd_2".

    Args:
        unit: in which lengths were measured (`CaseScore.length_unit`).

    Raises:
        KeyError: there is no such metric.
    """
    kind, _, tolerance = name.partition("_")
    if kind == "nsd":
        return replace(METRICS["nsd"], title=f"NSD at {float(tolerance):g} {length_name(unit) if float(tolerance) != 1 else unit}")
    metric, units = METRICS[name], {"mm": length_name(unit), "ml": volume_name(unit)}
    return replace(metric, unit=units.get(metric.unit, metric.unit))


def is_metric(name: str) -> bool:
    """True if there is a metric of this name."""
    try:
        metric_of(name)
    except (KeyError, ValueError):
        return False
    return True
