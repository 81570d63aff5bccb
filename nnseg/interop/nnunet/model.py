"""Trained models of nnU-Net v2: a folder of its results becomes a `Model`, without running anything that is in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.errors import ModelError
from nnseg.core.plan import Plan
from nnseg.core.validation import shown
from nnseg.interop.nnunet.checkpoint import MOST_AXES, Checkpoint, StoredTensor, open_checkpoint
from nnseg.interop.nnunet.dataset import from_nnunet, nnunet_name
from nnseg.interop.nnunet.json import read_object
from nnseg.interop.nnunet.plans import NnunetPlans, read_plans
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model

log = logging.getLogger(__name__)

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
"""The first that is there is taken."""

ALL_CASES = -1
"""The fold of a network that has seen all cases: nnU-Net's fold_all."""

COPIES = r"^decoder\.encoder\.|\.all_modules\."
"""Names under which nnU-Net stores weights a second time."""

CROSSVALIDATION = "crossval_results_folds_"
"""Before the folds, in the name of the folder that has what cross-validation with them found."""

LARGEST = "remove_all_but_largest_component_from_segmentation"


@dataclass(frozen=True, kw_only=True)
class TrainedFolder:
    """A folder ``TRAINER__PLANS__CONFIGURATION`` of nnU-Net's results.

    Args:
        path: of the folder.
        plans: that are in it.
        configuration: which of them its networks have.
        folds: checkpoints by fold, in order.
    """

    path: Path
    plans: NnunetPlans
    configuration: str
    folds: Mapping[int, Path]

    @property
    def previous(self) -> Path | None:
        """The folder of the networks whose answer these are shown; None but in a cascade."""
        name = self.plans.previous(self.configuration)
        if name is None:
            return None
        folder = self.path.parent / (self.path.name.removesuffix(self.configuration) + name)
        if not (folder / "plans.json").is_file():
            raise ModelError(f"{self.path} is shown the answers of {name}; its folder {folder} is missing: copy it there")
        return folder


def read_nnunet_model(folder: Path, *, folds: tuple[int, ...] | None = None, configurations: Sequence[str] = ()) -> Model:
    """The model in a folder of nnU-Net's results.

    Args:
        folder: ``TRAINER__PLANS__CONFIGURATION``, which gives that model; or a dataset's folder, which gives an ensemble of all
            in it. The networks that a cascade is shown the answers of are found beside it, and are not members themselves.
        folds: to take; absent for all there are, where numbered ones come before fold_all.
        configurations: of a dataset's folder, by nnU-Net's names for them; none for all.

    Raises:
        ModelError: something is missing, damaged, or of a kind that nnseg does not have, named in the message.
    """
    trained = {path: _trained(path, folds) for path in _folders(Path(folder).resolve(), configurations)}
    shown = dict.fromkeys(place for place in (of.previous for of in trained.values()) if place)
    answering = [of for path, of in trained.items() if path not in shown]
    first = [trained.get(path) or _trained(path, folds) for path in shown]
    if any(of.previous for of in first):
        raise ModelError(f"{folder}: a cascade of three stages; nnseg has cascades of two")
    members, previous = (tuple(member for of in group for member in _members(of)) for group in (answering, first))
    return Model(members=members, about=_about(answering), previous=previous, postprocessing=_postprocessing_steps(answering))


def _folders(folder: Path, configurations: Sequence[str]) -> list[Path]:
    """The folders of trained configurations that a folder is or has."""
    if (folder / "plans.json").is_file():
        found = [folder]
    else:
        found = sorted(path.parent for path in folder.glob("*__*__*/plans.json"))
        found = [path for path in found if any(path.glob("fold_*"))]
    if not found:
        place = "neither it nor a folder TRAINER__PLANS__CONFIGURATION in it has a plans.json and folds"
        raise ModelError(f"{folder} is no trained model of nnU-Net v2: {place}; give one that has")
    names = {path: path.name.rpartition("__")[2] for path in found}
    missing = [name for name in configurations if name not in names.values()]
    if missing:
        raise ModelError(f"{folder} has no {missing[0]}, but {', '.join(dict.fromkeys(names.values()))}")
    return [path for path, name in names.items() if not configurations or name in configurations]


def _trained(path: Path, folds: tuple[int, ...] | None) -> TrainedFolder:
    checkpoints = _checkpoints(path, folds)
    plans, known = read_plans(path), path.name.rpartition("__")[2]
    if known not in plans.general.configurations:
        file = next(iter(checkpoints.values()))
        with open_checkpoint(file) as checkpoint:
            known = _configuration(checkpoint, file)
    return TrainedFolder(path=path, plans=plans, configuration=known, folds=checkpoints)


def _checkpoints(path: Path, folds: tuple[int, ...] | None) -> dict[int, Path]:
    numbered = {int(m[1]): place for place in path.glob("fold_*") if (m := re.fullmatch(r"fold_(\d+)", place.name))}
    there = dict(sorted(numbered.items())) or ({ALL_CASES: path / "fold_all"} if (path / "fold_all").is_dir() else {})
    missing = set(folds or ()) - set(there)
    if missing or not there:
        found = ", ".join(place.name for place in there.values()) or "no fold"
        raise ModelError(f"{path} has {found}, and {f'fold {min(missing)} was asked for' if missing else 'one is needed'}")
    return {fold: _checkpoint(place) for fold, place in there.items() if folds is None or fold in folds}


def _checkpoint(fold: Path) -> Path:
    for name in CHECKPOINTS:
        if (fold / name).is_file():
            if name != CHECKPOINTS[0]:
                log.warning("%s has no %s, which a finished training leaves; %s is taken", fold, CHECKPOINTS[0], name)
            return fold / name
    raise ModelError(f"{fold} has none of {', '.join(CHECKPOINTS)}; copy one there, or leave the fold out (--folds)")


def _members(trained: TrainedFolder) -> list[Member]:
    return [_member(trained, fold, path) for fold, path in trained.folds.items()]


def _member(trained: TrainedFolder, fold: int, path: Path) -> Member:
    with open_checkpoint(path) as checkpoint:
        told = _configuration(checkpoint, path)
        if told != trained.configuration:
            raise ModelError(f"{path} is of configuration {shown(told)}, in a folder of {trained.configuration}; copy it again")
        plan = trained.plans.plan(trained.configuration, _mirror_axes(checkpoint, path))
        return Member(plan=plan, fold=fold, weights=_weights(checkpoint, plan, path))


def _configuration(checkpoint: Checkpoint, path: Path) -> str:
    told = _entry(checkpoint, "init_args", dict, path).get("configuration")
    if type(told) is not str:
        raise ModelError(f"{path}: the configuration in its init_args is a {type(told).__name__}, it must be a name")
    return told


def _mirror_axes(checkpoint: Checkpoint, path: Path) -> tuple[int, ...]:
    axes = _entry(checkpoint, "inference_allowed_mirroring_axes", (tuple, list, type(None)), path) or ()
    if len(axes) > MOST_AXES or not all(type(axis) is int for axis in axes):
        raise ModelError(f"{path}: inference_allowed_mirroring_axes is something else than at most {MOST_AXES} whole numbers")
    return tuple(axes)


def _weights(checkpoint: Checkpoint, plan: Plan, path: Path) -> dict[str, Tensor]:
    """The network's weights by our names; all there are must have a place."""
    stored = {_bare(str(name)): value for name, value in _entry(checkpoint, "network_weights", dict, path).items()}
    with torch.device("meta"):
        ours = build_network(plan).state_dict()
    shapes = {nnunet_name(name): tuple(tensor.shape) for name, tensor in ours.items()}
    unlike = _first_difference(stored, shapes)
    if unlike:
        raise ModelError(f"{path}: the network is not the {plan.network.kind} U-Net of its plans: it {unlike}")
    weights = from_nnunet({name: checkpoint.read(stored[name]) for name in shapes}, ours)
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f"{path}: {nnunet_name(broken[0])} has values that are not numbers; take another checkpoint or fold")
    return weights


def _first_difference(stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What stored weights have or lack, known before any is read."""
    others = (name for name in stored if name not in shapes and not re.search(COPIES, name))
    if other := next(others, None):
        return f"has {other[:100]}, which that has not"
    for name, shape in shapes.items():
        found = stored.get(name)
        if not isinstance(found, StoredTensor):
            return f"lacks {name}"
        if found.shape != shape:
            return f"has {name} of shape {found.shape}, where that has {shape}"
    return None


def _bare(name: str) -> str:
    """A weight's name without what wrappers of a network put before it."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name)


def _entry(checkpoint: Checkpoint, name: str, kind: type | tuple[type, ...], path: Path) -> Any:
    content = checkpoint.content
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ModelError(f"{path} is no checkpoint of nnU-Net v2: its {name} is missing or something else than it should be")
    return value


def _about(trained: Sequence[TrainedFolder]) -> dict[str, str]:
    return {
        "made_by": "nnU-Net v2, imported by nnseg",
        "dataset": trained[0].plans.general.dataset_name,
        "imported_from": ", ".join(of.path.name for of in trained),
    }


def _postprocessing_steps(trained: Sequence[TrainedFolder]) -> tuple[PostprocessingStep, ...]:
    """What cross-validation found worth mending: it holds for one configuration, with the folds it was found with."""
    if len(trained) > 1:
        log.info("postprocessing is not imported: nnU-Net decides on it for each configuration, and this is an ensemble of several")
        return ()
    [only] = trained
    found = sorted(only.path.glob(f"{CROSSVALIDATION}*/postprocessing.json"))
    folds = {str(fold) for fold in only.folds}
    file = next((p for p in found if set(p.parent.name.removeprefix(CROSSVALIDATION).split("_")) == folds), None)
    if file is None:
        for other in found:
            log.warning("%s is not imported: it was found with other folds than those of this model", other)
        return ()
    content = read_object(file)
    rules, settings = content.get("postprocessing_fns", []), content.get("postprocessing_kwargs", [])
    if not (isinstance(rules, list) and isinstance(settings, list) and len(rules) == len(settings)):
        raise ModelError(f"{file}: postprocessing_fns and postprocessing_kwargs must be lists of one length")
    return tuple(_postprocessing_step(file, rule, setting) for rule, setting in zip(rules, settings, strict=True))


def _postprocessing_step(file: Path, rule: Any, settings: Any) -> PostprocessingStep:
    if rule != LARGEST or not isinstance(settings, dict) or set(settings) - {"labels_or_regions", "background_label"}:
        raise ModelError(f"{file}: {shown(rule)} with {shown(settings)} is not a rule that nnseg knows; it knows {LARGEST}")
    values = [v for region in _listed(settings.get("labels_or_regions")) for v in _listed(region)]
    if settings.get("background_label", 0) != 0 or not values or not all(type(v) is int for v in values):
        raise ModelError(f"{file}: {rule} has {shown(settings)}; it needs values of labels, and 0 as the background")
    return PostprocessingStep(action="largest", labels=tuple(dict.fromkeys(values)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
