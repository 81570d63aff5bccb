"""A model card as JSON of RSNA's ATLAS, the library of AI models of the Radiological Society of North America.

Source: github.com/RSNA/ATLAS, model.json, version 2025-11. What nnseg knows is filled in; authors, licence and the like are for the
user to add.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nnseg.core.card import ModelCard
from nnseg.core.dataset import counted
from nnseg.planning.modality import MODALITY_NAMES, has_word
from nnseg.reporting.formatting import by

SCHEMA: Final = "https://atlas.rsna.org/schemas/2025-11/model.json"

MODALITIES: Final[Mapping[str, str]] = {
    MODALITY_NAMES["ct"]: "Computed tomography (RID10321)",
    MODALITY_NAMES["mr"]: "Magnetic resonance imaging (RID10312)",
    r"pet|fdg|suv": "Positron emission tomography (RID10337)",
    r"us|ultrasound|sonography": "Ultrasound (RID10326)",
}
"""RadLex's names of modalities, by the words in names of channels."""

METRICS: Final[Mapping[str, str]] = {
    "Dice": "Dice similarity coefficient",
    "IoU": "intersection over union",
    "HD95": "95th percentile Hausdorff distance",
    "HD": "Hausdorff distance",
    "ASSD": "average symmetric surface distance",
    "NSD": "normalized surface distance",
    "Panoptic quality": "panoptic quality",
}
"""ROADMAP's names of metrics, by the beginning of ours."""


def atlas_card_json(card: ModelCard) -> str:
    """The card as JSON, ending with a line break. What is not known is absent.

    The link, which the schema requires, is a name of the model (its digest) until it is published somewhere.
    """
    found = {
        "$schema": SCHEMA,
        "Model": {
            "Name": f"{card.name}: segmentation model",
            "Link": f"urn:nnseg:{card.model}",
            "Descriptors": _descriptors(card),
            "Model properties": _properties(card),
            "Imaging": _imaging(card),
            "Model performance": _performance(card),
        },
    }
    return json.dumps(_without_empty(found), indent=1, ensure_ascii=False) + "\n"


def _without_empty(value: Any) -> Any:
    """The same without entries that hold nothing."""
    if not isinstance(value, dict):
        return value
    filled = {name: _without_empty(one) for name, one in value.items()}
    return {name: one for name, one in filled.items() if one not in ("", None, [], {})}


def _descriptors(card: ModelCard) -> dict[str, Any]:
    data = card.material
    licence = data.about.get("licence", "")
    return {
        "Date": {"Created": card.made[:10]},
        "Version": card.model,
        "Comments": f"Trained with nnseg on {counted(data.cases, 'case')} of {data.dataset} (digest of its files {data.key})."
        + (f" Licence of the training data: {licence}." if licence else ""),
        "References": [{"Title": reference} for reference in (data.about.get("reference"),) if reference],
    }


def _properties(card: ModelCard) -> dict[str, Any]:
    data, trust = card.material, card.reliance
    threshold = trust.threshold if trust else None
    return {
        "Architecture": " ".join(
            f"{counted(len(one.folds), 'network')} of the plan {one.plan}. {one.words}".strip() for one in card.networks
        ),
        "Indications for use": card.purpose,
        "Input": f"Scans with the channels {', '.join(data.channels)}",
        "Output": {"Description": f"A label map on the scan's grid: {', '.join(name for name, _ in data.labels)}"},
        "Limitations": " ".join(card.limits),
        "Decision threshold": "" if threshold is None else f"Scans with an expected mean Dice below {threshold:.3f} are flagged.",
        "Recommendation": " ".join(card.verdict.sentences) if card.verdict else "",
        "Reproducibility": f"Digest of everything that can change a prediction: {card.model}. "
        + ", ".join(f"{name} {version}" for name, version in sorted(card.versions.items())),
        "Use": {"Intended": ["Image segmentation"], "Out-of-scope": ["Diagnosis", "Treatment"]},
        "User": {"Intended": ["Researcher"]},
    }


def _imaging(card: ModelCard) -> dict[str, Any]:
    data = card.material
    named = (modality for words, modality in MODALITIES.items() if any(has_word(channel, words) for channel in data.channels))
    low, high = (by(ends) for ends in data.spacing)
    voxels = low if low == high else f"{low} to {high}"
    return {
        "Modalities": list(named),
        "Resolution": f"voxels of {voxels} mm (z, y, x)" if data.has_spacing else "no voxel size is stored",
    }


def _performance(card: ModelCard) -> dict[str, Any]:
    if not card.scores:
        return {}
    known = dict.fromkeys(name for one in card.scores if (name := _roadmap_name(one.title)))
    if card.reliance and card.reliance.calibration_error is not None:
        known["expected calibration error"] = None
    return {
        "Metrics": list(known),
        "Comments": f"Cross-validation on {counted(card.held_out, 'held-out case')} of the training data; means over cases. "
        + " ".join(_describe_scores(card)),
    }


def _describe_scores(card: ModelCard) -> Iterator[str]:
    """The mean over cases of each metric, and each label's, in a sentence each."""
    for one in card.scores:
        if one.average == "per_image" and one.mean is not None:
            unit = f" {one.unit}" if one.unit else ""
            ends = f" (95 % interval {one.interval[0]:.{one.digits}f} to {one.interval[1]:.{one.digits}f})" if one.interval else ""
            of_labels = ", ".join(f"{name} {mean:.{one.digits}f}" for name, mean, _ in one.labels if mean is not None)
            yield f"{one.title} {one.mean:.{one.digits}f}{unit}{ends}{f'; {of_labels}' if len(one.labels) > 1 else ''}."
    if card.reliance and card.reliance.calibration_error is not None:
        yield f"Expected calibration error of the probabilities {card.reliance.calibration_error:.4f}."


def _roadmap_name(title: str) -> str:
    """ROADMAP's name of a metric; "" if it has none."""
    return next((name for ours, name in METRICS.items() if re.match(rf"{ours}\b", title)), "")
