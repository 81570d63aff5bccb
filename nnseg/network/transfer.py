"""Initial weights from a trained model, as far as they fit, adapted where labels or channels differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError
from nnseg.core.names import match_channels, match_names
from nnseg.core.plan import Plan
from nnseg.network.bundle import Member, Model

DECODER = "decoder"


@dataclass(frozen=True, kw_only=True)
class WeightTransfer:
    """What was copied from a trained model into a network.

    Args:
        tensors: number copied, in whole or in part.
        total: number in the network.
        fold: of the model's member.
        heads: names of the labels or regions whose heads were copied.
        new_heads: names of the others.
        channels: number in the model's scans, and in the network's.
        new_channels: names of channels that the model lacks.
        left_out: names of the model's labels and channels that the plan lacks.
        renamed: names of copied heads and channels that the model writes otherwise, with the model's names.
        new_from: the first part that does not fit; it and all later parts are new. Empty if everything fits.
        misfit: the settings that differ, in words.
    """

    tensors: int
    total: int
    fold: int
    heads: tuple[str, ...]
    new_heads: tuple[str, ...]
    channels: tuple[int, int]
    new_channels: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    new_from: str = ""
    misfit: str = ""

    @property
    def channels_without_effect(self) -> tuple[str, ...]:
        """Names of channels whose weights are 0 until they are trained."""
        return self.new_channels if len(self.new_channels) < self.channels[1] else ()

    def describe(self) -> str:
        """One line for people."""
        before, now = self.channels
        parts = [f"reused {self.tensors} of {self.total} tensors (fold {self.fold})"]
        if self.new_from:
            parts.append(f"new from {self.new_from} on, because {self.misfit}")
        elif self.heads:
            parts.append(f"heads: {', '.join(self.heads)} from the model" + "".join(f", {name} new" for name in self.new_heads))
        else:
            parts.append(f"heads: {', '.join(self.new_heads)}, all new")
        if before != now:
            parts.append(f"first convolution adapted from {before} to {now} channels")
        if self.channels_without_effect:
            parts.append(f"new channels, whose weights start at 0: {', '.join(self.new_channels)}")
        elif self.new_channels:
            parts.append(f"none of the channels is the model's: {', '.join(self.new_channels)} start as the mean of its own")
        if self.left_out:
            parts.append(f"in the model only: {', '.join(self.left_out)}")
        if self.renamed:
            pairs = ", ".join(f"{name} ({known})" for name, known in self.renamed.items())
            parts.append(f"written otherwise in the model: {pairs}")
        return "; ".join(parts)


def transfer_weights(network: nn.Module, plan: Plan, model: Model, *, fold: int | None = None) -> WeightTransfer:
    """Copy a model's weights into a network, as far as they fit; returns what was copied.

    The first convolution's weights follow the names of channels, those of heads the names of labels. As features build on one
    another, tensors are copied stage by stage until one has another shape; the decoder is copied as a whole, and only after all
    of the encoder. Blocks that the model lacks in a stage stay as they are.

    Args:
        network: as `nnseg.network.build.build_network` made it; changed in place.
        plan: of the network.
        model: to copy from.
        fold: of the member to copy; the first member if there is no such fold, or for None. Members with a plan of the same name,
            or else as many axes, are preferred.

    Raises:
        ModelError: nothing fits; names the settings that differ.
    """
    member = _choose_member(model, plan, fold)
    initial, given = network.state_dict(), dict(member.weights)
    first = next(iter(initial))
    if first in given and given[first].shape[1:2] == (member.plan.input_channels,):
        given[first] = _first_convolution(given[first], member.plan, plan)
    reused, new_from = _fitting(initial, given)
    without_decoder = new_from == DECODER and not _decoder_names(given)
    misfit = (
        "the weights are those of an encoder" if without_decoder else describe_difference(member.plan, plan) if new_from else ""
    )
    if not reused:
        advice = "plan with --init MODEL, so that its network is taken (nnseg plan DATASET RUN --init MODEL)"
        raise ModelError(f"nothing of the model fits the plan {plan.name}: {misfit}; {advice}")
    rows = {} if new_from or not any(map(_is_head, given)) else _rows(member.plan, plan)
    if rows:
        heads = [name for name in initial if _is_head(name) and name in given and initial[name].shape[1:] == given[name].shape[1:]]
        reused |= {name: _head(initial[name], given[name], rows) for name in heads}
    network.load_state_dict(initial | reused)
    places = match_channels(plan.channels, member.plan.channels)
    return WeightTransfer(
        tensors=len(reused),
        total=len(initial),
        fold=member.fold,
        heads=tuple(name for k, name in enumerate(plan.labels.heads) if k in rows),
        new_heads=tuple(name for k, name in enumerate(plan.labels.heads) if k not in rows),
        channels=(len(member.plan.channels), len(plan.channels)),
        new_channels=tuple(name for name, place in zip(plan.channels, places, strict=True) if place is None),
        left_out=_left_out(member.plan, rows, places),
        renamed=_renamed(member.plan, plan, rows, places),
        new_from=new_from,
        misfit=misfit,
    )


SETTINGS = ("kind", "features", "strides", "kernels", "blocks", "decoder_blocks", "attention_gates")
"""Settings of a plan's network that determine which weights it has."""


def describe_difference(before: Plan, plan: Plan) -> str:
    """The settings in which the networks of two plans differ, in words."""
    pairs = [(f"network.{name}", getattr(before.network, name), getattr(plan.network, name)) for name in SETTINGS]
    pairs += [("patch", before.patch, plan.patch)] if len(before.patch) != len(plan.patch) else []
    texts = [f"{name} is {_written(old)} in the model and {_written(new)} in the plan" for name, old, new in pairs if old != new]
    return ", ".join(texts) or "the model's network was not built as the plan says"


def _written(value: object) -> str:
    return str(value).replace("(", "[").replace(")", "]").replace(",]", "]")


def _choose_member(model: Model, plan: Plan, fold: int | None) -> Member:
    """The network of a model to start with: of a plan of the same name or as many axes, and of the fold, where there is one.

    Raises:
        ModelError: none has as many axes.
    """
    members = (*model.members, *model.previous)
    member = min(
        members, key=lambda m: (m.plan.dimensions != plan.dimensions, m.plan.name != plan.name, fold not in (None, m.fold))
    )  # the first of equal ones
    if member.plan.dimensions != plan.dimensions:
        raise ModelError(
            f"the model takes {member.plan.dimensions}D patches, the plan {plan.name} {plan.dimensions}D ones; choose another model"
        )
    return member


def freeze(network: nn.Module, part: Literal["encoder"]) -> None:
    """Freeze a part of a network: its parameters no longer require a gradient.

    Raises:
        ModelError: the network has no such part.
    """
    if not isinstance(frozen := getattr(network, part, None), nn.Module):
        raise ModelError(f"the network has no {part} that could be frozen; omit --freeze")
    frozen.requires_grad_(False)


def _fitting(initial: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The model's tensors of all parts before the first that does not fit, without heads; and the name of that one."""
    reused: dict[str, Tensor] = {}
    same_decoder = _decoder_names(initial) == _decoder_names(given)
    for part, names in groupby((name for name in initial if not _is_head(name)), _part):
        shared = [name for name in names if name in given]
        fits = shared and all(initial[name].shape == given[name].shape for name in shared)
        if not fits or (part == DECODER and not same_decoder):
            return reused, part
        reused |= {name: given[name] for name in shared}
    return reused, "" if same_decoder else DECODER


def _is_head(name: str) -> bool:
    """True for a tensor of the layers that make logits."""
    return "heads" in name.split(".")


def _part(name: str) -> str:
    """The stage of the encoder that a tensor belongs to, "encoder.stages.2", or the whole decoder."""
    pieces = name.split(".")
    return pieces[0] if pieces[0] == DECODER else ".".join(pieces[: 3 if "stages" in pieces[1:2] else 2])


def _decoder_names(tensors: Mapping[str, Tensor]) -> set[str]:
    return {name for name in tensors if name.startswith(DECODER) and not _is_head(name)}


def _first_convolution(weight: Tensor, before: Plan, plan: Plan) -> Tensor:
    """Weights (features, inputs, *kernel) for the plan's inputs, from those for another plan's.

    A channel that the model lacks starts with weights of zero, so that the network begins by answering as the model; where one of
    the model's is missing, the others are scaled so that features keep their size. If no channel is the model's, all start as the
    mean of its channels, scaled alike. In a cascade, the input of a label that the model lacks starts with weights of zero.

    Source: Chen, Goodfellow & Shlens 2016, Net2Net, arXiv:1511.05641, for a network that computes the same function after it has
    grown; Wightman 2019, timm, `adapt_input_conv`, for the scale.
    """
    weight = weight.unflatten(1, (-1, before.network.slices))
    scans, labels = weight[:, : len(before.channels)], weight[:, len(before.channels) :]
    zero, places = torch.zeros_like(weight[:, 0]), match_channels(plan.channels, before.channels)
    matched = sum(place is not None for place in places)
    new = zero if matched else scans.mean(1)
    scale = len(before.channels) / (matched or len(plan.channels))
    columns = [(new if place is None else scans[:, place]) * scale for place in places]
    if plan.previous:
        places = match_names(plan.labels.names[1:], before.labels.names[1:] if before.previous else ())
        columns += [zero if place is None else labels[:, place] for place in places]
    return torch.stack(columns, 1).flatten(1, 2)


def _rows(before: Plan, plan: Plan) -> dict[int, int]:
    """The number of the model's head for each of the network's that it has; backgrounds match whatever their names."""
    places = match_names(plan.labels.heads, before.labels.heads)
    rows = {k: place for k, place in enumerate(places) if place is not None}
    return rows if before.labels.regions or plan.labels.regions else rows | {0: 0}


Places = Sequence[int | None]
"""Of each of the plan's channels among the model's."""


def _left_out(before: Plan, rows: Mapping[int, int], places: Places) -> tuple[str, ...]:
    """Names of the model's heads that are not copied, but for the background's, and of its channels that the plan lacks."""
    used = set(rows.values())
    heads = (name for k, name in enumerate(before.labels.heads) if rows and k not in used and name in before.labels.foreground)
    channels = (name for k, name in enumerate(before.channels) if k not in places)
    return (*heads, *channels)


def _renamed(before: Plan, plan: Plan, rows: Mapping[int, int], places: Places) -> dict[str, str]:
    """The names of copied heads, but for the background, and of channels whose names in the model differ."""
    background = not (before.labels.regions or plan.labels.regions)
    heads = [(plan.labels.heads[k], before.labels.heads[row]) for k, row in rows.items() if k or not background]
    channels = [(name, before.channels[place]) for name, place in zip(plan.channels, places, strict=True) if place is not None]
    return {name: known for name, known in (*heads, *channels) if name != known}


def _head(initial: Tensor, given: Tensor, rows: Mapping[int, int]) -> Tensor:
    """A head's weights or biases (heads, ...), with the model's rows where it has the label."""
    result = initial.clone()
    result[list(rows)] = given[list(rows.values())].to(initial)
    return result
