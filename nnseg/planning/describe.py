"""Plans as text: a few sentences, all settings with their reasons, and a page for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median
from typing import Any

from pydantic import BaseModel

from nnseg.core.dataset import counted
from nnseg.core.fingerprint import Fingerprint, Intensity
from nnseg.core.geometry import format_axes
from nnseg.core.image import VOXEL
from nnseg.core.plan import Plan, Section, Training
from nnseg.core.units import LengthUnit, length_in, length_name, volume_name
from nnseg.planning.preflight import Preflight, StageCost
from nnseg.storage.images.units import from_mm

WIDTH = 100
INDENT = 14


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One setting of a plan, its value in words, and the planner's reason; empty where it gave none."""

    setting: str
    value: str
    reason: str


def list_decisions(plan: Plan) -> list[Decision]:
    """Every setting of a plan in order, but for the labels."""
    return [decision for decision in _list_section(plan) if decision.setting != "labels"]


def summarize_plan(plan: Plan, unit: LengthUnit = "mm", done: Sequence[int] = (), more: Sequence[float] = ()) -> str:
    """A plan in a few sentences.

    Args:
        unit: of the dataset's lengths.
        done: steps of each finished training.
        more: seconds by which each was continued after it had ended.
    """
    network, training = plan.network, plan.training
    length = _length(training)
    trained = (
        f"was trained for {describe_steps(done)} (planned: {length}{_continued(more)})" if done else f"is trained for {length}"
    )
    mirrored = 2 ** len(plan.inference.mirror_axes)
    again = f", averaged over {mirrored} mirrored copies" if mirrored > 1 else ""
    unet = f"{network.kind} {plan.dimensions}D U-Net of {len(network.features)} stages"
    architecture = unet if network.is_unet else f"{plan.dimensions}D network ({network.kind})"
    previous = f", with the segmentation of the {plan.previous} plan as a further input" if plan.previous else ""
    return (
        f"Scans are brought to a voxel spacing of {_grid_spacing(plan, unit)} and normalized "
        f"({', '.join(dict.fromkeys(n.scheme for n in plan.preprocessing.normalization))}). "
        f"A {architecture} processes patches of {format_axes(plan.patch)} voxels, {training.batch_size} at a time{previous}. "
        f"It {trained} with {training.optimizer} on {training.loss} "
        f"(learning rate {training.learning_rate:g}, {training.schedule} schedule). "
        f"A scan is predicted in overlapping tiles, {plan.inference.step:g} of a patch apart{again}."
    )


def describe_steps(steps: Sequence[int]) -> str:
    """Steps of several trainings: "250 steps", or "29 to 32 steps"."""
    low, high = min(steps), max(steps)
    return f"{f'{low:,} to ' if low < high else ''}{high:,} step{'s' if high != 1 else ''}"


def _length(training: Training) -> str:
    """The planned length of a training; within a time the number of steps is an estimate."""
    steps = f"{training.steps:,} step{'s' if training.steps != 1 else ''}" if training.steps else ""
    if training.seconds is None:
        return steps or "as many steps as the time budget allows"
    return f"{training.seconds:.0f} s" + (f", estimated at {steps}" if steps else "")


def _continued(more: Sequence[float]) -> str:
    """By how much trainings were continued after they had ended."""
    low, high = min(more, default=0.0), max(more, default=0.0)
    return f", then {f'{low:.0f} to ' if low < high else ''}{high:.0f} s more" if high else ""


def _grid_spacing(plan: Plan, unit: LengthUnit, form: str = "g") -> str:
    return f"{format_axes([length_in(unit, mm) for mm in plan.preprocessing.spacing], form)} {length_name(unit)}"


def describe(plan: Plan, fingerprint: Fingerprint, *, width: int = WIDTH) -> str:
    """One page: the measurements of the dataset, and the main settings with their reasons; lines of at most so many columns."""
    entry = partial(_entry, width=min(width, WIDTH))
    title = f"Plan {plan.name} for {plan.dataset} (recipe {plan.recipe})"
    reasons = {decision.setting: decision.reason for decision in list_decisions(plan)}
    measured = [line for name, text in case_entries(fingerprint) for line in entry(name, text)]
    decided = [
        line
        for name, text, *settings in _main_settings(plan, fingerprint.length_unit)
        for line in entry(name, text, *(reasons[setting] for setting in settings))
    ]
    return "\n".join([title, "=" * len(title), "", "Dataset", *measured, "", "Settings and reasons", *decided])


def describe_preflight(preflights: Sequence[Preflight]) -> str:
    """A table of the estimated time, memory and disk space of each part of a run."""
    lines = []
    for found in preflights:
        source = "measured on this machine" if found.measured else "estimated; times are unknown without a probe"
        lines.append(f"Cost of the {found.plan} plan ({source})")
        lines.append(_row("", "time", "RAM", "device", "disk").rstrip())
        folds = "1 fold" if found.folds == 1 else f"one of {found.folds} folds"
        lines += [
            _cost_row(f"preprocess {counted(found.cases, 'case')}", found.preprocess),
            _cost_row(f"train {folds}", found.train),
            _cost_row("predict held-out cases", found.held_out),
            _cost_row("predict a scan", found.predict),
            _cost_row("predict the largest scan", found.predict_largest),
        ]
        lines.append(_cost_row("whole run", found.total))
    return "\n".join(lines)


def _cost_row(name: str, cost: StageCost) -> str:
    return _row(name, _time(cost.seconds), *map(_gigabytes, (cost.ram_gb, cost.device_gb, cost.disk_gb)))


def _row(name: str, *cells: str) -> str:
    return f"  {name:26}" + "".join(f"{cell:>12}" for cell in cells)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _gigabytes(amount: float) -> str:
    if not amount:
        return "-"
    return f"{amount:.3g} GB" if amount >= 0.1 else f"{max(amount * 1000, 0.01):.2g} MB"


def case_entries(fingerprint: Fingerprint) -> list[tuple[str, str]]:
    """Cases, sizes, voxel sizes, labels and intensities of a dataset: a name and a text of each."""
    unusable = f", {len(fingerprint.unusable)} more could not be used" if fingerprint.unusable else ""
    kind = "2D image" if fingerprint.is_2d else "volume"
    labels, channels = fingerprint.labels, zip(fingerprint.channels, fingerprint.intensities, strict=True)
    return [
        ("cases", f"{counted(len(fingerprint.cases), kind)} ({fingerprint.layout}){unusable}"),
        ("size", _spread([case.shape for case in fingerprint.cases]) + " voxels (z, y, x)"),
        ("voxel", _voxel_sizes(fingerprint)),
        *(("label", f"{name} ({value}): {_occurrence(fingerprint, name)}") for name, value in labels.named.items()),
        *(("channel", _describe_channel(name, of)) for name, of in channels),
    ]


def _describe_channel(name: str, of: Intensity) -> str:
    middle = f"99 % of them {of.percentile_00_5:.4g} to {of.percentile_99_5:.4g}"
    return f"{name}: labelled voxels have mean {of.mean:.4g}, standard deviation {of.std:.4g}, {middle}"


def _voxel_sizes(fingerprint: Fingerprint) -> str:
    """The voxel sizes, in the unit that most files state; those of files that state none are said to be unknown."""
    units = {case.length_unit for case in fingerprint.cases}
    if units == {VOXEL}:
        return f"none stored, 1 mm assumed: lengths are in {length_name(fingerprint.length_unit)}"
    unit = units.pop() if len(units) == 1 else fingerprint.length_unit
    unknown = sum(case.length_unit == VOXEL for case in fingerprint.cases)
    left_out = f"; the files of {counted(unknown, 'case')} state none, which were taken as 1 mm" if unknown else ""
    flat = unit != "mm" and all(case.shape[0] == 1 for case in fingerprint.cases)  # pictures have no distance of slices
    return _spread([from_mm(case.spacing, unit)[flat:] for case in fingerprint.cases]) + f" {unit}{left_out}"


def _occurrence(fingerprint: Fingerprint, name: str) -> str:
    volumes = fingerprint.volumes_of(name)
    if not volumes:
        return "in no case"
    here = f"in {len(volumes)} of {counted(len(fingerprint.cases), 'case')}"
    if fingerprint.is_2d:
        shares = [c.voxels[name] / prod(c.shape) for c in fingerprint.cases if c.voxels[name]]
        return f"{here}, {median(shares):.1%} of an image in the median"
    unit = volume_name(fingerprint.length_unit)
    if any(case.length_unit == VOXEL for case in fingerprint.cases):
        volumes, unit = [c.voxels[name] for c in fingerprint.cases if c.voxels[name]], "voxels"
    low, middle, high = (_number(v) for v in (min(volumes), median(volumes), max(volumes)))
    return f"{here}, {middle} {unit} in the median" + (f", from {low} to {high}" if low != high else "")


def _main_settings(plan: Plan, unit: LengthUnit) -> Iterator[tuple[str, ...]]:
    """Name and value in words of each main setting, then the settings whose reasons stand below it."""
    of, network, training = plan.preprocessing, plan.network, plan.training
    yield "path", f"{plan.dimensions}D", "name"
    yield "grid", _grid_spacing(plan, unit, ".4g"), "preprocessing.spacing"
    if of.axes != (0, 1, 2):
        yield "axes", f"network axes are scan axes {', '.join('zyx'[a] for a in of.axes)}", "preprocessing.axes"
    schemes = dict.fromkeys(f"{c} by {n.scheme}" for c, n in zip(plan.channels, of.normalization, strict=True))
    yield "intensities", ", ".join(schemes), "preprocessing.normalization"
    yield "patch", f"{format_axes(plan.patch)} voxels", "patch"
    architecture = f"{network.kind} U-Net" if network.is_unet else network.kind
    yield "network", f"{architecture}, {len(network.features)} stages", "network.strides", "recipe"
    yield "", f"{', '.join(map(str, network.features))} channels", "network.features"
    if any(k != 3 for kernel in network.kernels for k in kernel):
        yield "", "anisotropic kernels in the first stages", "network.kernels"
    yield "length", "as the budget allows" if training.steps is None else f"{training.steps} steps", "training.steps"
    yield "batch", f"{training.batch_size} patches a step", "training.batch_size"
    yield "loss", f"{training.loss}, {'a batch' if training.batch_dice else 'a patch'} at a time", "training.batch_dice"
    rate = f"{training.optimizer}, rate {training.learning_rate:g}, {training.schedule} to zero"
    yield "optimizer", rate, "training.optimizer"
    yield _rotation(plan)
    axes = ", ".join("zyx"[of.axes[a + 3 - plan.dimensions]] for a in plan.inference.mirror_axes)
    yield "prediction", f"averaged over mirrored copies along {axes}" if axes else "without mirroring"


def _rotation(plan: Plan) -> tuple[str, str, str]:
    of = plan.training.augmentation
    reason = "in_plane" if "in_plane" in of.why else "rotation_degrees"
    rotated = f"patches rotated by up to {of.rotation_degrees:g} degrees{' in the plane of slices' if of.in_plane else ''}"
    return "rotation", rotated, f"training.augmentation.{reason}"


def _list_section(section: Section, prefix: str = "") -> list[Decision]:
    plain, nested = [], []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            nested += _list_section(value, f"{prefix}{name}.")
        elif name != "why":
            plain.append(Decision(setting=prefix + name, value=_format_value(value), reason=section.why.get(name, "")))
    return plain + nested


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):
        return ", ".join(f"{k} {_format_value(v)}" for k, v in value if v != type(value).model_fields[k].default)
    if isinstance(value, tuple):
        return ", ".join(format_axes(v) if isinstance(v, tuple) else _format_value(v) for v in value) or "none"
    return "not set" if value is None else str(value)


def _entry(name: str, text: str, *reasons: str, width: int) -> Iterator[str]:
    """Wrapped lines: a name in the margin, the text beside it, and the reasons below, indented."""
    yield from textwrap.wrap(text, width, initial_indent=f"  {name}".ljust(INDENT), subsequent_indent=" " * INDENT)
    for reason in filter(None, reasons):
        yield from textwrap.wrap(reason, width, initial_indent=" " * INDENT + "- ", subsequent_indent=" " * (INDENT + 2))


def _spread(rows: Sequence[Sequence[float]]) -> str:
    """The median along each axis, with its range where it varies."""
    low, high = [min(c) for c in zip(*rows, strict=True)], [max(c) for c in zip(*rows, strict=True)]
    middle = [median(column) for column in zip(*rows, strict=True)]
    smallest, typical, largest = (format_axes(ends, ".4g") for ends in (low, middle, high))
    return f"all {typical}" if low == high else f"{typical} in the median, from {smallest} to {largest}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
