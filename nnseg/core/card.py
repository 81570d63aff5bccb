"""What people should know of a model before they use it. Source: Mitchell et al. 2019, Model Cards for Model Reporting."""

from __future__ import annotations

from typing import Any

from pydantic import FiniteFloat

from nnseg.core.decisions import Choice, Interval, Postprocessing
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Shape, Vector


class TrainingData(FrozenModel):
    """What a model learned from.

    Args:
        dataset: its name.
        about: what its makers say of it: "licence", "reference", "release", "description".
        cases: that were used.
        channels: of a scan, in order.
        labels: the name of each, in order, and how many cases show it.
        spacing: least and largest, mm (z, y, x).
        shape: least and largest, voxels (z, y, x).
        key: digest of its files.
    """

    dataset: str
    about: dict[str, str] = {}
    cases: int
    channels: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    spacing: tuple[Vector, Vector]
    shape: tuple[Shape, Shape]
    key: str


class Networks(FrozenModel):
    """The networks of one plan.

    Args:
        plan: its name.
        folds: that they were trained on.
        weight: what the answer of each counts; None if it is only shown to the networks of a cascade.
        words: the plan in a few sentences.
        key: digest of the plan.
        hashes: of each network's weights.
    """

    plan: str
    folds: tuple[int, ...]
    weight: FiniteFloat | None = 1.0
    words: str = ""
    key: str = ""
    hashes: tuple[str, ...] = ()


class MetricSummary(FrozenModel):
    """A metric of the held-out cases, averaged.

    Args:
        title, unit: of the metric.
        average: "per_mask", "per_image" or "pooled".
        mean: None where nothing is defined.
        interval: 95 %; None for few cases.
        labels: name, mean and interval of each label, in order.
    """

    title: str
    unit: str = ""
    average: str
    mean: FiniteFloat | None
    interval: Interval | None = None
    labels: tuple[tuple[str, FiniteFloat | None, Interval | None], ...] = ()


class SelfAssessment(FrozenModel):
    """How far the model says itself how good its answers are.

    Args:
        temperature: that its probabilities are tempered by.
        error: mean distance of the Dice that it expects of a case from the true one.
        threshold: expected Dice below which an answer is flagged.
        calibration_error: of its tempered probabilities, the mean distance from how often they are right.
    """

    temperature: FiniteFloat
    error: FiniteFloat | None = None
    threshold: FiniteFloat | None = None
    calibration_error: FiniteFloat | None = None


class ModelCard(FrozenModel):
    """A model's card. What has an order is no dict: in files they are sorted.

    Args:
        name: of the model.
        made: date and time.
        purpose: what it is for.
        material: what it learned from.
        networks: what it is made of.
        held_out: cases that were held out in turn, and scored.
        scores: of these.
        choice: of the plans; None if there was only one.
        postprocessing: of its answers; None if it was not looked for.
        reliance: None if it was not measured.
        limits: in sentences.
        model: digest of all that can change an answer.
        versions: of the software that trained it.
    """

    name: str
    made: str
    purpose: str
    material: TrainingData
    networks: tuple[Networks, ...]
    held_out: int = 0
    scores: tuple[MetricSummary, ...] = ()
    choice: Choice | None = None
    postprocessing: Postprocessing | None = None
    reliance: SelfAssessment | None = None
    limits: tuple[str, ...] = ()
    model: str
    versions: dict[str, str] = {}

    def content(self) -> dict[str, Any]:
        """All but when it was made: what is the same for the same model."""
        return self.model_dump(mode="json", exclude={"made"})
