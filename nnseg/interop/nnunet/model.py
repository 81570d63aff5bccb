"""Import of trained models of nnU-Net v2: a folder of its results as a `Model`, without executing anything in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.errors import ModelError
from nnseg.core.plan import Plan
from nnseg.core.validation import shown
from nnseg.interop.nnunet.checkpoint import Checkpoint, open_checkpoint
from nnseg.interop.nnunet.dataset import from_nnunet
from nnseg.interop.nnunet.json import read_object
from nnseg.interop.nnunet.pickle_interpreter import MOST_AXES, StoredTensor
from nnseg.interop.nnunet.plans import NnunetPlans, read_plans
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.network.nnunet_names import nnunet_name
from nnseg.system.regular import resolved

log = logging.getLogger(__name__)

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
"""The first that exists is used."""

ALL_CASES = -1
"""The fold of a network trained on all cases: nnU-Net's fold_all."""

COPIES = r"^decoder\.encoder\.|\.all_modules\."
"""Names under which nnU-Net stores copies of weights."""

CROSSVALIDATION = "crossval_results_folds_"
"""Prefix, before the folds, of a folder with the results of their cross-validation."""

LARGEST = "remove_all_but_largest_component_from_segmentation"


@dataclass(frozen=True, kw_only=True)
class TrainedFolder:
    """A folder ``TRAINER__PLANS__CONFIGURATION`` of nnU-Net's results, with its checkpoints by fold, in order."""

    path: Path
    plans: NnunetPlans
    configuration: str
    folds: Mapping[int, Path]

    @property
    def previous(self) -> Path | None:
        """The folder of a cascade's previous stage; None for other configurations.

        Raises:
            ModelError: it is missing.
        """
        name = self.plans.previous(self.configuration)
        if name is None:
            return None
        folder = self.path.parent / (self.path.name.removesuffix(self.configuration) + name)
        if not (folder / "plans.json").is_file():
            raise ModelError(f"{self.path} needs the label maps of {name}; its folder {folder} is missing; copy it there")
        return folder


def read_nnunet_model(folder: Path, *, folds: tuple[int, ...] | None = None, configurations: Sequence[str] = ()) -> Model:
    """The model in a folder of nnU-Net's results.

    Args:
        folder: ``TRAINER__PLANS__CONFIGURATION`` of one model, or a dataset's folder for an ensemble of all in it. The previous
            stage of a cascade is read from the folder beside it, and is no member of the ensemble.
        folds: to read; absent for all, where fold_all is read only without numbered ones.
        configurations: of a dataset's folder, by nnU-Net's names; none for all.

    Raises:
        ModelError: something is missing, damaged or not supported, named in the message.
    """
    trained = {path: _trained(path, folds) for path in _folders(resolved(Path(folder)), configurations)}
    previous = dict.fromkeys(path for path in (model.previous for model in trained.values()) if path)
    final = [model for path, model in trained.items() if path not in previous]
    first = [trained.get(path) or _trained(path, folds) for path in previous]
    if any(model.previous for model in first):
        raise ModelError(f"{folder}: a cascade of three stages; nnseg supports two")
    members, first_members = (tuple(m for model in stage for m in _members(model)) for stage in (final, first))
    return Model(members=members, about=_about(final), previous=first_members, postprocessing=_postprocessing_steps(final))


def _folders(folder: Path, configurations: Sequence[str]) -> list[Path]:
    """The folders of trained configurations: the folder itself, or those in it."""
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
    plans, configuration = read_plans(path), path.name.rpartition("__")[2]
    if configuration not in plans.general.configurations:
        file = next(iter(checkpoints.values()))
        with open_checkpoint(file) as checkpoint:
            configuration = _configuration(checkpoint, file)
    return TrainedFolder(path=path, plans=plans, configuration=configuration, folds=checkpoints)


def _checkpoints(path: Path, folds: tuple[int, ...] | None) -> dict[int, Path]:
    numbered = {int(m[1]): place for place in path.glob("fold_*") if (m := re.fullmatch(r"fold_(\d+)", place.name))}
    available = dict(sorted(numbered.items())) or ({ALL_CASES: path / "fold_all"} if (path / "fold_all").is_dir() else {})
    missing = set(folds or ()) - set(available)
    if missing or not available:
        found = ", ".join(place.name for place in available.values()) or "no fold"
        raise ModelError(f"{path} has {found}, and {f'fold {min(missing)} was requested' if missing else 'one is needed'}")
    return {fold: _checkpoint(place) for fold, place in available.items() if folds is None or fold in folds}


def _checkpoint(fold: Path) -> Path:
    for name in CHECKPOINTS:
        if (fold / name).is_file():
            if name != CHECKPOINTS[0]:
                log.warning("%s has no %s, which a finished training writes; %s is read", fold, CHECKPOINTS[0], name)
            return fold / name
    raise ModelError(f"{fold} has none of {', '.join(CHECKPOINTS)}; copy one there, or leave the fold out (--folds)")


def _members(trained: TrainedFolder) -> Iterator[Member]:
    for fold, path in trained.folds.items():
        with open_checkpoint(path) as checkpoint:
            name = _configuration(checkpoint, path)
            if name != trained.configuration:
                raise ModelError(f"{path} is of configuration {shown(name)}, in a folder of {trained.configuration}; copy it again")
            plan = trained.plans.plan(trained.configuration, _mirror_axes(checkpoint, path))
            yield Member(plan=plan, fold=fold, weights=_weights(checkpoint, plan, path))


def _configuration(checkpoint: Checkpoint, path: Path) -> str:
    name = _entry(checkpoint, "init_args", dict, path).get("configuration")
    if type(name) is not str:
        raise ModelError(f"{path}: the configuration in its init_args is a {type(name).__name__}, it must be a name")
    return name


def _mirror_axes(checkpoint: Checkpoint, path: Path) -> tuple[int, ...]:
    axes = _entry(checkpoint, "inference_allowed_mirroring_axes", (tuple, list, type(None)), path) or ()
    if len(axes) > MOST_AXES or not all(type(axis) is int for axis in axes):
        raise ModelError(f"{path}: inference_allowed_mirroring_axes is something else than at most {MOST_AXES} whole numbers")
    return tuple(axes)


def _weights(checkpoint: Checkpoint, plan: Plan, path: Path) -> dict[str, Tensor]:
    """The network's weights by our names.

    Raises:
        ModelError: weights are missing, left over, of another shape, or not finite.
    """
    stored = {_without_wrappers(str(name)): value for name, value in _entry(checkpoint, "network_weights", dict, path).items()}
    with torch.device("meta"):
        ours = build_network(plan).state_dict()
    shapes = {nnunet_name(name): tuple(tensor.shape) for name, tensor in ours.items()}
    if difference := _first_difference(stored, shapes):
        raise ModelError(f"{path}: the network is not the {plan.network.kind} U-Net of its plans: it {difference}")
    weights = from_nnunet({name: checkpoint.read(stored[name]) for name in shapes}, ours)
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f"{path}: {nnunet_name(broken[0])} has values that are not numbers; take another checkpoint or fold")
    return weights


def _first_difference(stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first difference of names or shapes, known before any weight is read; None if there is none."""
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


def _without_wrappers(name: str) -> str:
    """A weight's name without the prefixes of wrappers of a network."""
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
        "imported_from": ", ".join(model.path.name for model in trained),
    }


def _postprocessing_steps(trained: Sequence[TrainedFolder]) -> tuple[PostprocessingStep, ...]:
    """The postprocessing chosen by cross-validation, which is valid for one configuration and the same folds."""
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
        raise ModelError(f"{file}: {shown(rule)} with {shown(settings)} is not supported; nnseg supports {LARGEST}")
    values = [v for region in _listed(settings.get("labels_or_regions")) for v in _listed(region)]
    if settings.get("background_label", 0) != 0 or not values or not all(type(v) is int for v in values):
        raise ModelError(f"{file}: {rule} has {shown(settings)}; it needs values of labels, and 0 as the background")
    return PostprocessingStep(action="largest", labels=tuple(dict.fromkeys(values)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
