"""Models of runs and files: what ``nnseg predict`` loads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from nnseg.core.decisions import ObjectRules, with_window
from nnseg.core.errors import ModelError, RunError, suppress_unless_fault
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.options import select_folds
from nnseg.core.population import FEWEST_OF_ALL, Person, Population, make_population, volume_ml
from nnseg.network.bundle import Member, Model, load_model_file
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.system.machine import versions

log = logging.getLogger(__name__)


def load_model(path: str | Path, *, folds: tuple[int, ...] | None = None) -> Model:
    """The model of a run folder or an exported file.

    Its members are the networks of the run's final plans; the first stage of a cascade is its ``previous``.

    Args:
        path: of the run folder or file.
        folds: of the networks; None for all that are trained.

    Raises:
        ModelError: there is no model at the path, or no trained fold, or one of ``folds`` is not trained.
        NnsegError: one of ``folds`` does not exist.
    """
    path = Path(path)
    if path.is_file():
        return with_folds(load_model_file(path), folds, name=str(path))
    if not path.is_dir():
        raise ModelError(f"there is no model {path}; give a run folder or a file made by nnseg export")
    run = Run(path)
    if folds and Run.folds.path(run).exists():
        select_folds(folds, len(run.folds))
    plans = run.final_plans
    members = tuple(replace(m, weight=weight) for name, weight in run.weights.items() for m in _trained(run, plans[name], folds))
    stages = dict.fromkeys(member.plan.previous for member in members if member.plan.previous)
    previous = tuple(m for name in stages for m in _trained(run, run.plan_folder(name), folds))
    return model_of_run(run, members, previous)


def model_of_run(run: Run, members: tuple[Member, ...], previous: tuple[Member, ...] = ()) -> Model:
    """A model of networks that were trained in a run, with what the run has measured and chosen."""
    about = {"made_by": f"nnseg {versions()['nnseg']}", "dataset": members[0].plan.dataset}
    return Model(
        members=members,
        about=about,
        previous=previous,
        postprocessing=run.postprocessing.steps if run.postprocessing else (),
        objects=run.objects,
        trust=run.trust,
        population=population_of_run(run),
        cutoffs=run.cutoffs.valid_for(run.scores) if run.cutoffs else None,
    )


def population_of_run(run: Run) -> Population | None:
    """The volumes in a run's training set; None if it was not measured, as by older versions, or too few cases were."""
    with suppress_unless_fault(RunError):
        return training_population(run.fingerprint_of_folds)
    return None


def training_population(fingerprint: Fingerprint) -> Population | None:
    """The volumes of a dataset's reference label maps, without single patients' values; None for too few.

    Cases with voxels that are not annotated do not count.
    """
    whole = [case for case in fingerprint.cases if sum(case.voxels.values()) == prod(case.shape)]
    people = [Person(volumes=_volumes(case, fingerprint.labels)) for case in whole]
    if sum(bool(person.volumes) for person in people) < FEWEST_OF_ALL:
        return None
    return make_population(people, f"training set of {fingerprint.dataset}")


def _volumes(case: CaseMeasure, labels: Labels) -> dict[str, float]:
    """The ml of each label or region whose labels were all annotated."""
    voxel_ml = prod(case.spacing) / 1000.0
    return {
        name: volume_ml(sum(case.voxels.get(label, 0) for label in of_it), voxel_ml)
        for name, of_it in labels.parts().items()
        if case.annotated is None or set(of_it) <= {*case.annotated, labels.names[0]}
    }


def with_folds(model: Model, folds: tuple[int, ...] | None, *, name: str = "the model") -> Model:
    """A model with some of its folds only, also in the first stage of a cascade.

    Args:
        name: for messages.

    Raises:
        ModelError: it lacks one of the folds.
    """
    missing = set(folds or ()) - {member.fold for member in model.members}
    if missing:
        raise ModelError(
            f"{name} has no fold {min(missing)}; choose among those it has: --folds {_listed({m.fold for m in model.members})}"
        )
    if folds is None:
        return model
    members, previous = (tuple(m for m in networks if m.fold in folds) for networks in (model.members, model.previous))
    return replace(model, members=members, previous=previous)


def _trained(run: Run, folder: PlanFolder, folds: tuple[int, ...] | None) -> list[Member]:
    """The networks of a plan's trained folds, or of the chosen ones."""
    trained = {f.number: load_model_file(f.model_file).members[0] for f in folder.trained_folds()}
    missing = set(folds or ()) - set(trained)
    if not trained:
        raise ModelError(f"{folder.path}: no fold is trained yet; run nnseg train {run.path}")
    if missing:
        advice = f"nnseg train {run.path} --folds {_listed(missing)}, or choose among those that are: --folds {_listed(trained)}"
        raise ModelError(f"{folder.path}: fold {min(missing)} is not trained yet; {advice}")
    chosen = {number: member for number, member in trained.items() if folds is None or number in folds}
    for number, member in chosen.items():
        if member.plan.key() != folder.plan.key():
            raise ModelError(
                f"fold {number} was trained with a plan that differs from {folder.plan_file}; run nnseg train {run.path} to renew "
                "it, or choose other folds"
            )
        schedule = folder.fold(number).schedule()
        if schedule and schedule.ended is None:
            log.warning("the training of %s fold %d was stopped; its network is used as it was then", member.plan.name, number)
    return [with_own_window(member, run) for member in chosen.values()]


def _listed(folds: Iterable[int]) -> str:
    """Folds as --folds takes them."""
    return ",".join(map(str, sorted(folds)))


def with_own_window(member: Member, run: Run) -> Member:
    """A member of a run, with the sliding window that was chosen for its plan on held-out cases, if one was."""
    chosen = (run.windows or {}).get(member.plan.name)
    return replace(member, plan=with_window(member.plan, chosen)) if chosen else member


def merge(models: Sequence[Model]) -> Model:
    """One model of the members of several, with the postprocessing steps they have in common.

    It has no `Trust` if there are several, since their ensemble was not calibrated.

    Raises:
        ModelError: labels or channels differ.
    """
    first, *others = models
    if not others:
        return first
    return Model(
        members=tuple(member for model in models for member in model.members),
        about=first.about,
        previous=tuple(member for model in models for member in model.previous),
        postprocessing=tuple(step for step in first.postprocessing if all(step in m.postprocessing for m in others)),
        objects=first.objects,
        population=first.population,
    )


def with_thresholds(model: Model, thresholds: Mapping[str, float]) -> Model:
    """A model that finds labels where their probability reaches thresholds; the connected components of these are objects.

    Args:
        thresholds: by name of the label; "" stands for all labels whose components are objects already, or for the only label.

    Raises:
        ModelError: there is no such label, or its objects are told apart by their borders.
    """
    labels = tuple(name for name in model.labels.foreground if name not in model.learned.borders.values())
    every = model.lesions or (labels if len(labels) == 1 else ())
    if "" in thresholds and not every:
        share = f"{thresholds['']:g}"
        raise ModelError(
            f"--threshold {share} does not say of which label; write --threshold LABEL={share}, of {', '.join(labels)}"
        )
    found = dict.fromkeys(every, thresholds.get("")) if "" in thresholds else {}
    found |= {name: share for name, share in thresholds.items() if name}
    if unknown := set(found) - set(labels):
        raise ModelError(
            f"there is no threshold for {min(unknown)}; the model finds {', '.join(labels) or 'objects by their borders'}"
        )
    rules = model.objects or ObjectRules(rules={})
    if not found:
        return model
    objects = rules.model_copy(update={"thresholds": rules.thresholds | found})
    return replace(model, objects=objects, cutoffs=None)  # which were chosen on other label maps
