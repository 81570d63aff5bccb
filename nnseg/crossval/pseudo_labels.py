"""Pseudo-labels: the model that a training begins with predicts its labels in the cases in which they were not annotated.

Source: Lee 2013, Pseudo-Label, and for labels that are annotated in some cases only Huang et al. 2020 (MICCAI), Multi-organ
segmentation via co-training weight-averaged models from few-organ datasets.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnseg.core.dataset import Case, counted
from nnseg.core.frozen import digest
from nnseg.core.image import Scan
from nnseg.core.labels import Labels, Values
from nnseg.core.names import match_channels, match_names
from nnseg.core.options import Options
from nnseg.crossval.evidence import PredictorWrapper
from nnseg.crossval.predict import PredictionJob, predict_cases
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.network.load import load_model
from nnseg.storage.pretrained import description_file
from nnseg.storage.pseudo_labels import missing_labels
from nnseg.storage.run import STAGES, Run

log = logging.getLogger(__name__)

STAGE = "pseudo-labels"


def predict_pseudo_labels(run: Run, options: Options) -> None:
    """Predict the labels that were not annotated in some of a run's cases, with the model that the training begins with.

    The label maps go to `Run.pseudo_labels_folder`; a case that is predicted already is not predicted again. If the options name no
    model, those on file stay; if none are wanted, or none can be made, those on file are removed.

    Raises:
        ModelError: there is no such model.
    """
    if options.init is None:
        return
    measured = {case.name for case in run.fingerprint.cases if not case.is_test}
    partial = [case for case in run.dataset.cases if case.annotated is not None and case.name in measured]
    if not (partial and options.pseudo_labels) or description_file(options.init):  # weights from elsewhere predict nothing
        remove_pseudo_labels(run)
        return
    dataset, model = run.dataset, load_model(options.init)
    names, places = shared_names(dataset.labels, model.labels), match_channels(model.channels, dataset.channels)
    cases = tuple(case for case in partial if missing_labels(case.annotated, names))
    absent = [name for name, place in zip(model.channels, places, strict=True) if place is None]
    if cases and absent:
        log.warning("%s cannot predict what was not annotated: the dataset lacks its channel %s", options.init, ", ".join(absent))
    if absent or not cases:
        remove_pseudo_labels(run)
        return
    log.info("%s", describe(cases, tuple(names), options.init))
    device = resolve_device(options.device)
    predictor = PseudoLabelPredictor(
        predictor=Predictor(model, device=device),
        names=names,
        labels=labels_of(dataset.labels, tuple(names)),
        channels=dataset.channels,
        places=tuple(place for place in places if place is not None),
    )
    job = PredictionJob(cases=cases, out=run.pseudo_labels_folder, key=predictor.key(), model=options.init)
    with run.timed(STAGE):
        records = predict_cases(job, predictor, device=device.type, label=STAGES[STAGE])
    if failed := [name for name in records if records[name].status == "failed"]:
        log.warning("%s could not be predicted: what was not annotated there does not count", counted(len(failed), "case"))


def remove_pseudo_labels(run: Run) -> None:
    """Remove the predictions of labels that were not annotated."""
    shutil.rmtree(run.pseudo_labels_folder, ignore_errors=True)


def describe(cases: Sequence[Case], names: Sequence[str], model: Path) -> str:
    """One line on which labels a model predicts in how many cases."""
    missing = [missing_labels(case.annotated, names) for case in cases]
    counts = {name: sum(name in of_case for of_case in missing) for name in names}
    shown = ", ".join(f"{name} in {counted(n, 'case')}" for name, n in counts.items() if n)
    return f"{model}: predicts what was not annotated, for training and not for scores: {shown}"


def shared_names(labels: Labels, known: Labels) -> dict[str, str]:
    """The labels of a dataset that a model's label maps can show, with the names of these labels or regions in the model."""
    offered, wanted = known.predictable, labels.names[1:]
    places = match_names(wanted, offered)
    return {name: offered[place] for name, place in zip(wanted, places, strict=True) if place is not None}


def labels_of(labels: Labels, names: Sequence[str]) -> Labels:
    """The background and some of a dataset's labels, with its values."""
    kept = (labels.names[0], *names)
    return Labels(names=kept, values=tuple(labels.by_name[name] for name in kept))


@dataclass(frozen=True, kw_only=True)
class PseudoLabelPredictor(PredictorWrapper):
    """Predicts scans of a dataset with a model that has other channels and labels; the label maps have the dataset's values.

    Args:
        names: of the dataset's labels, with those of the model.
        labels: of the label maps.
        channels: of the dataset's scans.
        places: of the model's channels among them.
    """

    names: Mapping[str, str]
    labels: Labels
    channels: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def model(self) -> Model:
        """The model, described with the dataset's channels and the labels of the label maps."""
        member, *_ = self.predictor.model.members
        plan = member.plan.model_copy(update={"channels": self.channels, "labels": self.labels})
        return Model(members=(replace(member, plan=plan),))

    def key(self) -> str:
        """A digest of all that determines the label map of a scan."""
        return digest([self.predictor.model.key(), dict(self.names), self.labels.model_dump(), self.places])

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed, with the model's channels in its order."""
        return self.predictor.prepare(replace(scan, image=scan.image[list(self.places)]))

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        """The prediction, its label map with the dataset's values."""
        prediction = self.predictor.infer(
            prepared, probabilities=probabilities, uncertainty=uncertainty, objects=False, scratch=scratch
        )
        label_map = replace(prediction.label_map, labels=self.renumbered(prediction.label_map.labels))
        return replace(prediction, label_map=label_map, interior=None)

    def renumbered(self, predicted: Values) -> Values:
        """The values of the dataset's labels; of two that cover a voxel that of the one of fewer labels."""
        known = self.predictor.model.labels
        parts = known.parts()
        result = np.full(predicted.shape, self.labels.values[0], self.labels.dtype)
        for name, of_model in sorted(self.names.items(), key=lambda pair: -len(parts.get(pair[1], ()))):
            result[known.mask(of_model, predicted)] = self.labels.by_name[name]
        return result
