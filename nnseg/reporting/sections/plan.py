"""Section: the plan in words, with its reasons, and the network drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from nnseg.core.plan import Plan, Section
from nnseg.reporting.charts.network import NetworkStage, network_stages, network_svg
from nnseg.reporting.content import ReportContent


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One setting of a plan, as people read it."""

    setting: str
    value: str
    why: str


@dataclass(frozen=True, kw_only=True)
class PlanTold:
    """A plan as people read it.

    Args:
        title: its name and recipe.
        words: in a few sentences.
        drawing: of the network.
        caption: what the drawing leaves out.
        stages: of the network.
        reasoned: decisions that have a reason.
        settings: all decisions.
    """

    title: str
    words: str
    drawing: str
    caption: str
    stages: Sequence[NetworkStage]
    reasoned: Sequence[Decision]
    settings: Sequence[Decision]


def plans(content: ReportContent) -> list[PlanTold] | None:
    """The plans of a run, told; None before there is one."""
    return [_told(plan) for plan in content.plans] or None


def decisions(plan: Plan) -> list[Decision]:
    """Every setting of a plan in order, with the planner's reason where it gave one."""
    return _decisions(plan, "")


def describe(plan: Plan) -> str:
    """A plan in a few sentences."""
    network, training = plan.network, plan.training
    length = f"{training.steps:,} steps" if training.steps else "as many steps as the time budget allows"
    mirrored = 2 ** len(plan.inference.mirror_axes)
    again = f", averaged over {mirrored} mirrored copies" if mirrored > 1 else ""
    shown = f", and is shown the answer of the {plan.previous} plan" if plan.previous else ""
    return (
        f"Scans are brought to a voxel spacing of {_times(plan.preprocessing.spacing)} mm and normalized "
        f"({', '.join(dict.fromkeys(n.scheme for n in plan.preprocessing.normalization))}). "
        f"A {network.kind} {plan.dimensions}D U-Net of {len(network.features)} stages "
        f"sees patches of {_times(plan.patch)} voxels, {training.batch_size} at a time{shown}. "
        f"It is trained for {length} with {training.optimizer} on {training.loss} "
        f"(learning rate {training.learning_rate:g}, {training.schedule} schedule). "
        f"A scan is predicted in overlapping tiles, {plan.inference.step:g} of a patch apart{again}."
    )


def _told(plan: Plan) -> PlanTold:
    settings = decisions(plan)
    return PlanTold(
        title=f"{plan.name} plan, recipe {plan.recipe}",
        words=describe(plan),
        drawing=network_svg(plan),
        caption=_caption(plan),
        stages=network_stages(plan),
        reasoned=[d for d in settings if d.why],
        settings=settings,
    )


def _caption(plan: Plan) -> str:
    """What is true of all stages."""
    weights = plan.network.weights
    size = f"{weights / 1e6:.3g} million" if weights >= 1e6 else f"{weights:,}"
    kernels = list(dict.fromkeys(_times(k) for k in plan.network.kernels))
    every = f"all kernels {kernels[0]}" if len(kernels) == 1 else f"kernels {' and '.join(kernels)}"
    deep = " In training the coarser stages of the right side are scored too." if plan.training.deep_supervision else ""
    return (
        f"A patch goes down on the left, where it is made coarser and described by more features, and up on the right, where the "
        f"fine detail joins again over the skips. About {size} weights, {every}.{deep}"
    )


def _decisions(section: Section, prefix: str) -> list[Decision]:
    plain, nested = [], []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            nested += _decisions(value, f"{prefix}{name}.")
        elif name != "why" and not (prefix == "" and name == "labels"):
            plain.append(Decision(setting=prefix + name, value=_in_words(value), why=section.why.get(name, "")))
    return plain + nested


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):
        return ", ".join(f"{k} {_in_words(v)}" for k, v in value if v != type(value).model_fields[k].default)
    if isinstance(value, tuple):
        return ", ".join(_times(v) if isinstance(v, tuple) else _in_words(v) for v in value) or "none"
    return "not set" if value is None else str(value)


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
