"""A model in one file of tensors and text: the weights of its networks, their plans, and all else that prediction needs.

Tensors are named ``member_0/NAME``, those of a cascade's first stage ``previous_0/NAME``; the text holds each network's plan and
fold, and what is known of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from nnseg.core.card import ModelCard
from nnseg.core.cutoffs import CutOffs
from nnseg.core.decisions import ObjectRules, PostprocessingStep
from nnseg.core.errors import ModelError, PlanError
from nnseg.core.frozen import short_repr
from nnseg.core.labels import Labels
from nnseg.core.limits import check_limit
from nnseg.core.plan import Plan
from nnseg.core.population import Population
from nnseg.core.trust import Trust
from nnseg.core.validation import parse
from nnseg.network.checkpoint import content_digest, join_groups, load_tensors, save_tensors, split_groups
from nnseg.storage.model_header import check_format

FORMAT = 1
"""Version of the text; a file of another version is refused."""


FEWEST_WEIGHTS, MOST_MISSING = 10_000_000, 4
"""A plan may describe so many weights more than its file holds, or times as many: the network is then built, and tells what is
missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One trained network.

    Args:
        plan: that it was trained with.
        fold: whose held-out cases it was not trained on.
        weights: its ``state_dict``.
        weight: of its probabilities in the mean over members.
    """

    plan: Plan
    fold: int
    weights: Mapping[str, Tensor]
    weight: float = 1.0

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """An ensemble of networks, with what turns their probabilities into a result.

    Args:
        members: at least one, all with the same labels and channels; their probabilities are averaged.
        about: where the model came from, in words: "trained_on", "created", ...
        previous: networks of a cascade's first stage: the mean of their segmentations is an input of the members that need one.
        postprocessing: steps applied to label maps, in this order.
        objects: rules by which objects are told apart, and labels whose connected components are objects; None if there are none.
        trust: calibration of its uncertainty; None if not measured.
        population: volumes in the training set, to compare those of scans with; None if not known.
        cutoffs: by which it answers questions about scans; None if none were asked.
        card: what users should know; None if not written.

    Raises:
        ModelError: there are no members, or they, the ranges of scans or the rules for objects have different labels or channels,
            or a weight is not a positive number.
    """

    members: tuple[Member, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    previous: tuple[Member, ...] = ()
    postprocessing: tuple[PostprocessingStep, ...] = ()
    objects: ObjectRules | None = None
    trust: Trust | None = None
    population: Population | None = None
    cutoffs: CutOffs | None = None
    card: ModelCard | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not self.members:
            raise ModelError("a model needs at least one member")
        for member in self.members:
            if not 0 < member.weight < math.inf:
                raise ModelError(f"the weight of a {member.plan.name} network is {member.weight}; it must be a positive number")
        if self.trust and self.trust.ranges and len(self.trust.ranges.channels) != len(self.channels):
            raise ModelError(f"the ranges of its training scans are of other channels than {_listed(self.channels)}")
        if self.objects and (unknown := set(self.objects.rules) - set(self.labels.names)):
            raise ModelError(f'its rules for objects name "{min(unknown)}", which is none of its labels; export it again')
        for member in (*self.members[1:], *self.previous):
            plan = member.plan
            if plan.channels != self.channels:
                raise ModelError(f"members have different channels: {_listed(self.channels)} and {_listed(plan.channels)}")
            if plan.labels != self.learned:
                raise ModelError(f"members have different labels: {self.learned.describe()} and {plan.labels.describe()}")

    @property
    def labels(self) -> Labels:
        """The values of its label maps, by name."""
        return self.learned.whole

    @property
    def learned(self) -> Labels:
        """The labels of its networks: those of label maps and borders of objects."""
        return self.members[0].plan.labels

    @property
    def lesions(self) -> tuple[str, ...]:
        """Names of labels whose connected components are objects, such as lesions."""
        return tuple(self.objects.thresholds) if self.objects else ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of its input channels, in order."""
        return self.members[0].plan.channels

    def key(self) -> str:
        """A digest of all that can change a prediction: equal keys, equal predictions."""
        plans = [member.plan.key() for member in (*self.members, *self.previous)]
        weights = [{"weights": [m.weight for m in self.members]}] if any(m.weight != 1 for m in self.members) else []
        rest = [part.model_dump(mode="json") for part in (*self.postprocessing, self.objects, self.trust, self.cutoffs) if part]
        return content_digest(_tensors(self), [*plans, *weights, *rest])


PARTS: dict[str, Any] = {"objects": ObjectRules, "trust": Trust, "card": ModelCard, "population": Population, "cutoffs": CutOffs}
"""The optional parts of a model, by name."""


def save_model(model: Model, path: Path) -> None:
    """Write a model to one self-contained file.

    Raises:
        RunError: the file cannot be written.
    """
    text: dict[str, Any] = {"kind": "model", "format": FORMAT, "members": _described(model.members), "about": dict(model.about)}
    if model.previous:
        text["previous"] = _described(model.previous)
    if model.postprocessing:
        text["postprocessing"] = [step.model_dump(mode="json") for step in model.postprocessing]
    text |= {name: part.model_dump(mode="json") for name in PARTS if (part := getattr(model, name))}
    save_tensors(path, _tensors(model), text)


def load_model_file(path: Path) -> Model:
    """The model in a file that `save_model` wrote.

    Raises:
        ModelError: the file is missing, damaged, of another version, or holds something else.
    """
    tensors, text = load_tensors(path)
    if text.get("kind") != "model":
        raise ModelError(f'{path} is not a model but a "{text.get("kind", "file without a kind")}"; make one with `nnseg export`')
    check_format(path, text.get("format"), FORMAT)
    weights = split_groups(tensors)
    try:
        count = len(text["members"]) + len(text.get("previous", ()))
        check_limit("members", count, path, "has {:,} members", ModelError, "export it again")
        members, previous = (
            tuple(_member(entry, weights[f"{kind}_{i}"], f"{path}, {kind} {i}") for i, entry in enumerate(entries))
            for kind, entries in (("member", text["members"]), ("previous", text.get("previous", ())))
        )
        return Model(
            members=members,
            about=text["about"],
            previous=previous,
            postprocessing=tuple(PostprocessingStep.model_validate(entry) for entry in text.get("postprocessing", ())),
            **{name: kind.model_validate(text[name]) for name, kind in PARTS.items() if name in text},
        )
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: its description is incomplete: {error}") from error
    except ValidationError as error:
        raise ModelError(f"{path}: its description is not valid: {error.errors()[0]['msg']}") from error


def _tensors(model: Model) -> dict[str, Tensor]:
    kinds = {"member": model.members, "previous": model.previous}
    return join_groups({f"{kind}_{i}": m.weights for kind, members in kinds.items() for i, m in enumerate(members)})


def _described(networks: tuple[Member, ...]) -> list[dict[str, Any]]:
    return [
        {"plan": m.plan.model_dump(mode="json"), "fold": m.fold} | ({"weight": m.weight} if m.weight != 1 else {}) for m in networks
    ]


def _member(entry: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> Member:
    try:
        plan = parse(Plan, entry["plan"], where)
    except PlanError as error:
        raise ModelError(f"the model's plan is not valid: {error}") from error
    held = sum(tensor.numel() for tensor in weights.values())
    if plan.network.is_unet and plan.network.weights > FEWEST_WEIGHTS + MOST_MISSING * held:
        found = f"its plan describes {plan.network.weights:.2g} weights, but {held:.2g} are there"
        raise ModelError(f"{where}: {found}; export it again")
    return Member(plan=plan, fold=entry["fold"], weights=weights, weight=entry.get("weight", 1.0))


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names)})"
