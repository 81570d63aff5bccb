"""`ModelCard`: what a user should know of a model. Source: Mitchell et al. 2019, Model Cards for Model Reporting."""

from __future__ import annotations

from typing import Any

from pydantic import FiniteFloat

from nnseg.core.decisions import Choice, Interval, Postprocessing, WindowChoice
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Shape, Vector
from nnseg.core.verdict import Verdict


class TrainingData(FrozenModel):
    """The training data of a model.

    Args:
        about: "licence", "reference", "release" and "description", as published.
        labels: names in order, each with the number of cases that have it.
        spacing: least and largest, mm (z, y, x).
        has_spacing: False if the files state none, and 1 mm is assumed.
        shape: least and largest, voxels (z, y, x).
        key: digest of its files.
    """

    dataset: str
    about: dict[str, str] = {}
    cases: int
    channels: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    spacing: tuple[Vector, Vector]
    has_spacing: bool = True
    shape: tuple[Shape, Shape]
    key: str


class Networks(FrozenModel):
    """The networks of one plan.

    Args:
        weight: of each in the ensemble; None for the first stage of a cascade.
        hashes: of the weights of each network.
    """

    plan: str
    folds: tuple[int, ...]
    weight: FiniteFloat | None = 1.0
    words: str = ""
    key: str = ""
    hashes: tuple[str, ...] = ()


class MetricSummary(FrozenModel):
    """The average of a metric over the held-out cases.

    Args:
        digits: decimals of its values.
        average: "per_mask", "per_image" or "pooled".
        mean: None where it is undefined in all cases.
        interval: 95 % confidence interval; None for few cases.
        labels: name, mean and interval of each label, in order.
    """

    title: str
    unit: str = ""
    digits: int = 3
    average: str
    mean: FiniteFloat | None
    interval: Interval | None = None
    labels: tuple[tuple[str, FiniteFloat | None, Interval | None], ...] = ()


class SelfAssessment(FrozenModel):
    """How well the model estimates the quality of its own predictions.

    Args:
        temperature: that its logits are divided by.
        error: mean distance of the expected Dice of a case from the true one.
        threshold: expected Dice below which a prediction is flagged.
        calibration_error: expected calibration error of its probabilities at this temperature.
        intervals: of each label, number of held-out cases, then what 90 % of scans like them lie within: the Dice at its mean
            expected Dice, and the true volume as factors of the predicted one; None for too few cases.
    """

    temperature: FiniteFloat
    error: FiniteFloat | None = None
    threshold: FiniteFloat | None = None
    calibration_error: FiniteFloat | None = None
    intervals: tuple[tuple[str, int, Interval | None, Interval | None], ...] = ()


class ModelCard(FrozenModel):
    """A model card. Ordered content is in tuples, not in dicts, whose keys files sort.

    Args:
        held_out: number of held-out cases that were scored.
        choice: of the ensemble; None for a single plan.
        windows: the sliding window of each plan, where it was chosen on held-out cases.
        postprocessing: of its label maps; None if none was chosen or rejected.
        reliance: quality of its own estimates; None if it was not measured.
        limits: of its use, in sentences.
        model: digest of everything that can change a prediction.
        versions: of the software it was trained with.
        verdict: on the model; None in cards of earlier versions.
    """

    name: str
    made: str
    purpose: str
    material: TrainingData
    networks: tuple[Networks, ...]
    held_out: int = 0
    scores: tuple[MetricSummary, ...] = ()
    choice: Choice | None = None
    windows: tuple[tuple[str, WindowChoice], ...] = ()
    postprocessing: Postprocessing | None = None
    reliance: SelfAssessment | None = None
    limits: tuple[str, ...] = ()
    model: str
    versions: dict[str, str] = {}
    verdict: Verdict | None = None

    def content(self) -> dict[str, Any]:
        """Everything except the date: equal for equal models."""
        return self.model_dump(mode="json", exclude={"made"})
