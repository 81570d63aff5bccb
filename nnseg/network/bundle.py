"""A model one can hand over: weights with their plans, in one file of tensors and text.

Tensors are named ``member_0/NAME``; the text holds each member's plan and fold, and where the model came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError, PlanError
from nnseg.core.labels import Labels
from nnseg.core.parse import parse
from nnseg.core.plan import Plan
from nnseg.network.checkpoint import content_digest, load_tensors, save_tensors
from nnseg.network.unet import build_network

FORMAT = 1
"""Version of the bundle's text; a file of another one is refused, not guessed at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One trained network.

    Args:
        plan: what it was trained by.
        fold: which cases it has not seen.
        weights: its ``state_dict``.
    """

    plan: Plan
    fold: int
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Members that answer together.

    Args:
        members: at least one, all with the same labels and channels.
        about: where the model came from, in words: "trained_on", "created", ...

    Raises:
        ModelError: there are no members, or they disagree.
    """

    members: tuple[Member, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members:
            raise ModelError("a model needs at least one member")
        for member in self.members[1:]:
            plan = member.plan
            if plan.channels != self.channels:
                raise ModelError(f"members disagree on channels: {_listed(self.channels)} and {_listed(plan.channels)}")
            if plan.labels != self.labels:
                raise ModelError(f"members disagree on labels: {self.labels.describe()} and {plan.labels.describe()}")

    @property
    def labels(self) -> Labels:
        """What its label maps' values mean."""
        return self.members[0].plan.labels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it expects, in order."""
        return self.members[0].plan.channels

    def key(self) -> str:
        """A digest of all that can change a prediction: equal keys, equal label maps."""
        return content_digest(_tensors(self), [member.plan.key() for member in self.members])


def save_model(model: Model, path: Path) -> None:
    """Write a model to one self-contained file.

    Raises:
        RunError: the file cannot be written.
    """
    members = [{"plan": m.plan.model_dump(mode="json"), "fold": m.fold} for m in model.members]
    save_tensors(path, _tensors(model), {"kind": "model", "format": FORMAT, "members": members, "about": dict(model.about)})


def load_model_file(path: Path) -> Model:
    """The model in a file that `save_model` wrote.

    Raises:
        ModelError: the file is missing, damaged, of another version, or holds something else.
    """
    tensors, text = load_tensors(path)
    if text.get("kind") != "model":
        raise ModelError(f'{path} is not a model but a "{text.get("kind", "file without a kind")}"; make one with `nnseg export`')
    if text.get("format") != FORMAT:
        raise ModelError(
            f"{path} is a model of format {text.get('format')}, this nnseg reads {FORMAT}; export it again from its run"
        )
    weights = _by_member(tensors)
    try:
        members = tuple(_member(entry, weights.get(i, {}), f"{path}, member {i}") for i, entry in enumerate(text["members"]))
        return Model(members=members, about=text["about"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: its description is incomplete: {error}") from error


def build(member: Member, device: torch.device) -> nn.Module:
    """A member's network on ``device``, for inference: one tensor of logits, no gradients.

    Where type and device allow, it shares the member's memory instead of copying it.

    Raises:
        ModelError: the weights are not those of the network that the plan describes; names the first that is not.
    """
    plan = member.plan
    with torch.device("meta"):  # no time and no random numbers spent on a start that is overwritten
        network = build_network(plan.network, channels=len(plan.channels), heads=len(plan.labels.heads))
    expected = network.state_dict()
    _check_weights(expected, member)
    network.load_state_dict({n: member.weights[n].detach().to(t.dtype) for n, t in expected.items()}, assign=True)
    network.deep_supervision = False
    return network.requires_grad_(False).to(device).eval()


def _check_weights(expected: Mapping[str, Tensor], member: Member) -> None:
    where = f"the weights of fold {member.fold} do not fit their {member.plan.name} plan"
    for name, tensor in expected.items():
        found = member.weights.get(name)
        if found is None:
            raise ModelError(f"{where}: {name} is missing")
        if found.shape != tensor.shape:
            raise ModelError(f"{where}: {name} has shape {tuple(found.shape)}, expected {tuple(tensor.shape)}")
    extra = sorted(set(member.weights) - set(expected))
    if extra:
        raise ModelError(f"{where}: {extra[0]} is not in the network")


def _tensors(model: Model) -> dict[str, Tensor]:
    return {f"member_{i}/{name}": tensor for i, member in enumerate(model.members) for name, tensor in member.weights.items()}


def _by_member(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    weights: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        prefix, _, name = full.partition("/")
        number = prefix.removeprefix("member_")
        if number.isdecimal():
            weights.setdefault(int(number), {})[name] = tensor
    return weights


def _member(entry: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> Member:
    try:
        plan = parse(Plan, entry["plan"], where)
    except PlanError as error:
        raise ModelError(f"the model's plan is not valid: {error}") from error
    return Member(plan=plan, fold=entry["fold"], weights=weights)


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names)})"
