"""``nnseg export``: a run's model as one file, with its model card."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from nnseg.core.card import MetricSummary, ModelCard, Networks, SelfAssessment, TrainingData
from nnseg.core.dataset import Dataset, counted, list_some
from nnseg.core.errors import ModelError, RunError, suppress_unless_fault
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.geometry import Shape, Vector
from nnseg.core.metrics import metric_of
from nnseg.core.scores import Average, Grouped, Scores
from nnseg.core.trust import INTERVAL_LEVEL, Trust
from nnseg.core.units import length_name
from nnseg.evaluation.calibration import calibration
from nnseg.evaluation.conformal import fewest_errors
from nnseg.interop.nnunet.write_model import write_nnunet_model
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.network.checkpoint import content_digest
from nnseg.network.load import load_model
from nnseg.planning.describe import summarize_plan
from nnseg.planning.verdict import FEW_CASES, Histories, give_verdict
from nnseg.reporting.atlas_card import atlas_card_json
from nnseg.reporting.model_card import model_card_markdown
from nnseg.storage.files import StoredFile, write_text
from nnseg.storage.pseudo_labels import count_pseudo_labels, read_pseudo_labels
from nnseg.storage.run import Run

log = logging.getLogger(__name__)

Content = TypeVar("Content")

FEW = 10
"""A label in fewer cases counts as rare."""


def make_card(run: Run, model: Model, *, others: Histories | None = None) -> ModelCard:
    """The model card of a run's model.

    Args:
        run: that it was loaded from.
        model: as it will be exported.
        others: histories of trainings beside those of the run's plans, by names such as "3d fold 0".
    """
    fingerprint, dataset = run.fingerprint_of_folds, run.dataset
    scores, histories = _readable(run, Run.scores), run.histories
    return ModelCard(
        name=dataset.name,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        purpose=_purpose(dataset),
        material=_material(dataset, fingerprint),
        networks=(
            *_networks(run, {**histories, **(others or {})}, model.members),
            *_networks(run, histories, model.previous, inputs=True),
        ),
        held_out=len(scores.cases) if scores else 0,
        scores=tuple(_summarize_metrics(scores)) if scores else (),
        choice=run.choice if len(run.final_plans) > 1 else None,
        windows=tuple((run.windows or {}).items()),
        postprocessing=run.postprocessing,
        reliance=_self_assessment(run, model.trust),
        limits=tuple(describe_limits(run, model, scores)),
        model=model.key(),
        versions={name: str(version) for name, version in run.record.get("versions", {}).items()},
        verdict=give_verdict(scores, histories, model.trust, folds=len(run.folds)),
    )


def describe_limits(run: Run, model: Model, scores: Scores | None) -> Iterator[str]:
    """Known and possible limits of the model, in sentences."""
    dataset, fingerprint = run.dataset, run.fingerprint_of_folds
    yield "For research only. It is not a medical device, and not approved for decisions about patients."
    yield (
        f"It was trained on {counted(len(fingerprint.cases), 'case')} of one dataset, {dataset.name}. Its performance on "
        "scans of other sites, scanners, protocols or patients was not measured; check its predictions of some of yours first."
    )
    if lost := fingerprint.lost_cases:
        yield f"It was trained without {counted(len(lost), 'case')} of the dataset that cannot be used: {', '.join(lost)}."
    low, high = _range([case.spacing for case in fingerprint.cases])
    if not fingerprint.has_spacing:
        unit = length_name(fingerprint.length_unit)
        yield f"Its scans state no voxel spacing, and 1 mm was assumed: give it scans of objects that are as large in {unit}."
    elif low != high:
        yield "Scans with smaller or larger voxels than those of the training are predicted too, perhaps less accurately."
    else:
        yield "All scans of the training have the same voxel spacing; others are predicted too, perhaps less accurately."
    yield from _rare_labels(fingerprint, count_pseudo_labels(read_pseudo_labels(run.pseudo_labels_folder, fingerprint.cases)))
    yield from _score_limits(scores)
    if run.choice:
        yield "Its plans were chosen on the same held-out cases as its scores, which are therefore slightly optimistic."
    yield from _group_limits(_readable(run, Run.groups))
    trained = {member.fold for member in model.members}
    whole = [number for number in sorted(trained) if number in run.folds and not run.folds[number].held_out]
    if any(member.plan.training.distillation for member in model.members):
        yield (
            "Its network also learned from probabilities of the networks of the folds. No case was held out from it, and no score "
            "of it exists: the scores are those of the networks of the folds."
        )
    elif len(trained) < len(run.folds):
        used = f"{len(trained)} of {counted(len(run.folds), 'fold')}"
        yield f"It has the networks of only {used}; its scores are of the cases held out there."
    if whole:
        yield f"Its network of fold {whole[0]} was trained on every case, and no score of it exists."
    yield from _trust_limits(model.trust)


def _trust_limits(trust: Trust | None) -> Iterator[str]:
    if trust is None or not trust.is_calibrated:
        yield "Its probabilities are not calibrated."
        return
    if trust.threshold is None:
        yield "Too few cases were held out to set a threshold for flagging predictions."
    if few := [name for name, of in trust.labels.items() if of.errors is None]:
        needed = fewest_errors(INTERVAL_LEVEL)
        yield f"Too few held-out cases have {list_some(few)} for an interval of its Dice and volume: {needed} are needed."


def _rare_labels(fingerprint: Fingerprint, predicted: Mapping[str, int]) -> Iterator[str]:
    """What is to be known of labels that few cases show, or in which they were not annotated.

    Args:
        predicted: number of cases in which another model predicted a label for the training, by the label.
    """
    for name, cases in _label_cases(fingerprint).items():
        if cases < FEW:
            yield f"The label {name} is in {counted(cases, 'case')} only; it may be missed, or predicted where it is absent."
    partly = sum(case.annotated is not None for case in fingerprint.cases)
    if partly:
        rest = "" if predicted else "; the missing labels were learned from the others only"
        yield f"In {counted(partly, 'case')} not every label was annotated{rest}."
    for name, cases in predicted.items():
        yield f"In {counted(cases, 'case')} {name} was predicted by an earlier model; the training may have learned its faults."


def _score_limits(scores: Scores | None) -> Iterator[str]:
    if scores is None:
        yield "It has no scores of held-out cases; its performance is unknown."
        return
    if len(scores.cases) < FEW_CASES:
        yield f"Its scores are those of {counted(len(scores.cases), 'case')}, and uncertain."
    found = {name: dice for name, dice in scores.averages.per_mask["dice"].labels.items() if dice is not None}
    if len(found) > 1:
        worst = min(found, key=lambda name: found[name])
        yield f"Of its labels {worst} has the lowest mean Dice, {found[worst]:.3f}."
    known = [case.mean_dice for case in scores.cases if case.mean_dice is not None]
    if known:
        yield f"In the worst of the held-out cases its mean Dice is {min(known):.3f}."
    if scores.failed:
        yield f"{counted(len(scores.failed), 'held-out case')} could not be predicted or scored, and are not counted."


def _group_limits(grouped: Grouped | None) -> Iterator[str]:
    for by, of in groupby(grouped.groups if grouped else (), key=lambda group: group.by):
        groups = list(of)
        known = {group.value: mean for group in groups if (mean := group.averages["dice"].mean) is not None}
        if len(known) > 1:
            worst = min(known, key=lambda value: known[value])
            yield f"Of the groups by {by}, {worst} has the lowest mean Dice, {known[worst]:.3f}."
        small = [f"{group.value} ({group.n})" for group in groups if group.n < FEW]
        if small:
            yield f"Some groups by {by} have too few cases for reliable scores: {', '.join(small)}."


def _purpose(dataset: Dataset) -> str:
    labels = ", ".join(dataset.labels.foreground)
    return (
        f"To outline {labels} in scans like those of its training ({', '.join(dataset.channels)}), for research. Not for "
        "diagnosis, treatment or any other decision about patients, and not for scans of another kind."
    )


def _material(dataset: Dataset, fingerprint: Fingerprint) -> TrainingData:
    shapes = _range([case.shape for case in fingerprint.cases])
    return TrainingData(
        dataset=dataset.name,
        about=dict(dataset.about),
        cases=len(fingerprint.cases),
        channels=dataset.channels,
        labels=tuple(_label_cases(fingerprint).items()),
        spacing=_range([case.spacing for case in fingerprint.cases]),
        has_spacing=fingerprint.has_spacing,
        shape=(_whole(shapes[0]), _whole(shapes[1])),
        key=fingerprint.key,
    )


def _label_cases(fingerprint: Fingerprint) -> dict[str, int]:
    """The number of cases with each label."""
    return {name: sum(case.voxels.get(name, 0) > 0 for case in fingerprint.cases) for name in fingerprint.labels.names[1:]}


def _range(rows: Sequence[Vector] | Sequence[Shape]) -> tuple[Vector, Vector]:
    """The least and the largest along each axis."""
    z, y, x = zip(*rows, strict=True)
    return (min(z), min(y), min(x)), (max(z), max(y), max(x))


def _whole(values: Vector) -> Shape:
    z, y, x = values
    return int(z), int(y), int(x)


def _networks(run: Run, histories: Histories, members: Sequence[Member], *, inputs: bool = False) -> Iterator[Networks]:
    continued, unit = run.continued, run.fingerprint_of_folds.length_unit
    for _, group in groupby(members, key=lambda member: member.plan.key()):
        first, *others = group
        names = [f"{member.plan.name} fold {member.fold}" for member in (first, *others)]
        done = [epochs[-1].step for name in names if (epochs := histories.get(name))]
        more = [continued.get(name, 0.0) for name in names if histories.get(name)]
        yield Networks(
            plan=first.plan.name,
            folds=tuple(member.fold for member in (first, *others)),
            weight=None if inputs else first.weight,
            words=summarize_plan(first.plan, unit, done, more),
            key=first.plan.key(),
            hashes=tuple(content_digest(member.weights, None) for member in (first, *others)),
        )


def _summarize_metrics(scores: Scores) -> Iterator[MetricSummary]:
    averages: Mapping[str, Average] = {name: getattr(scores.averages, name) for name in ("per_mask", "per_image", "pooled")}
    for name in scores.metrics:
        metric = metric_of(name, scores.length_unit)
        for average, found in averages.items():
            of = found[name]
            labels = tuple((label, of.labels[label], of.intervals.get(label)) for label in scores.labels)
            yield MetricSummary(
                title=metric.title,
                unit=metric.unit,
                digits=metric.digits,
                average=average,
                mean=of.mean,
                interval=of.interval,
                labels=labels,
            )


def _self_assessment(run: Run, trust: Trust | None) -> SelfAssessment | None:
    """The calibration of the model's own confidence."""
    if trust is None or not trust.is_calibrated:
        return None
    confidences = [record.confidence for record in run.predictions().values() if record.confidence]
    found = calibration([c.reliability for c in confidences if c.reliability], trust.temperature)
    intervals = trust.label_intervals([c.agreement for c in confidences])
    return SelfAssessment(
        temperature=trust.temperature,
        error=trust.error,
        threshold=trust.threshold,
        calibration_error=found.after.ece if found else None,
        intervals=tuple((of.label, of.cases, of.dice, of.volume) for of in intervals),
    )


def _readable(run: Run, file: StoredFile[Content | None]) -> Content | None:
    """The content of a file of the run; None, with a warning, if it is damaged or of another version of nnseg."""
    try:
        return file.of(run)
    except RunError as error:
        if error.is_fault:
            raise
        log.warning("%s is damaged, or of another version of nnseg, and not on the card; nnseg run makes it anew", file.path(run))
        return None


CARD_SUFFIX = ".md"
"""Of the model card beside a model file."""
ATLAS_SUFFIX = ".json"
"""Of the same for programs, in the form of RSNA's ATLAS."""


def export(run: Run, path: Path, *, folds: tuple[int, ...] | None = None) -> Model:
    """Write a run's model as one file, its card beside it as Markdown and JSON. A file with the same model and card is not touched.

    Raises:
        RunError: the folder holds no run, the name is that of a card, or the files cannot be written.
        ModelError: a fold is not trained.
    """
    if not run.exists:
        raise RunError(f"{run.path} is not a run folder")
    if path.suffix.lower() == CARD_SUFFIX:
        raise RunError(f"{path} is the name of the model card; call the model {path.stem}.nnseg")
    return write_model(run, load_model(run.path, folds=folds), path)


def export_nnunet(run: Run, folder: Path, *, folds: tuple[int, ...] | None = None) -> list[Path]:
    """Write a run's model for nnU-Net v2; returns its folders, one for each plan.

    Raises:
        RunError: the folder exists.
        ModelError: a fold is not trained, or nnU-Net has no equal of the model.
    """
    name = re.sub(r"\W+", "", run.dataset.name) or "nnseg"
    model = load_model(run.path, folds=folds)
    if model.postprocessing:
        log.warning("nnU-Net does not read the run's postprocessing: its label maps are those without it")
    return write_nnunet_model(model, folder, suffix=run.dataset.suffix, name=f"Dataset001_{name}")


def write_model(run: Run, model: Model, path: Path, *, others: Histories | None = None) -> Model:
    """Write a model of networks that were trained in a run, and its card, as `export`; returns it with the card.

    Args:
        others: histories of trainings beside those of the run's plans.

    Raises:
        RunError: the files cannot be written.
    """
    card, before = make_card(run, model, others=others), _read_card(path)
    if before and before.content() == card.content():
        card = before
    else:
        about = {**model.about, "exported": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {f"trained with {k}": str(v) for k, v in run.record.get("versions", {}).items()}
        model = replace(model, about=about, card=card)
        save_model(model, path)
    write_text(path.with_suffix(CARD_SUFFIX), model_card_markdown(card))
    write_text(path.with_suffix(ATLAS_SUFFIX), atlas_card_json(card))
    return replace(model, card=card)


def read_card(path: Path) -> str:
    """The card of a model as Markdown.

    Args:
        path: an exported file, or a run folder.

    Raises:
        ModelError: there is no model, or it has no card.
    """
    if path.is_dir():
        return model_card_markdown(make_card(Run(path), load_model(path)))
    card = load_model_file(path).card
    if card is None:
        raise ModelError(f"{path} has no card: it was imported, or made by an older nnseg; nnseg export RUN writes one for a run")
    return model_card_markdown(card)


def _read_card(path: Path) -> ModelCard | None:
    """The card in a model file, if there is one."""
    with suppress_unless_fault(ModelError):
        return load_model_file(path).card
    return None
