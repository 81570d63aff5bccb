"""A plan in words: one page for a terminal, for people who know medicine better than networks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from statistics import median

from nnseg.core.dataset import counted
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Plan
from nnseg.planning.preflight import Preflight, StageCost

WIDTH = 100
INDENT = 14


def describe(plan: Plan, fingerprint: Fingerprint) -> str:
    """One page: what was found in the dataset, what was decided, and why."""
    title = f"Plan {plan.name} for {plan.dataset} (recipe {plan.recipe})"
    found = [*_found(fingerprint)]
    decided = [*_preprocessing(plan), *_network(plan), *_training(plan)]
    return "\n".join([title, "=" * len(title), "", "Found", *found, "", "Decided, and why", *decided])


def describe_cases(fingerprint: Fingerprint) -> str:
    """A few lines: cases, sizes, voxel sizes, labels and intensities of a dataset."""
    return "\n".join(_found(fingerprint))


def describe_preflight(preflights: Sequence[Preflight]) -> str:
    """A table of what a run will take: time, memory and disk, a part a line."""
    lines = []
    for found in preflights:
        source = "measured here" if found.measured else "estimated; times are not known without a trial on this machine"
        lines.append(f"What the {found.plan} plan will take ({source})")
        lines.append(_row("", "time", "RAM", "device", "disk").rstrip())
        folds = "1 fold" if found.folds == 1 else f"one of {found.folds} folds"
        lines += [
            _cost_row(f"preprocess {counted(found.cases, 'case')}", found.preprocess),
            _cost_row(f"train {folds}", found.train),
            _cost_row("predict held-out cases", found.held_out),
            _cost_row("predict a scan", found.predict),
            _cost_row("predict the largest", found.predict_largest),
        ]
        lines.append(_row("the whole run", _time(found.seconds), *map(_gigabytes, (found.ram_gb, found.device_gb, found.disk_gb))))
    return "\n".join(lines)


def _cost_row(name: str, cost: StageCost) -> str:
    return _row(name, _time(cost.seconds), *map(_gigabytes, (cost.ram_gb, cost.device_gb, cost.disk_gb)))


def _row(name: str, *cells: str) -> str:
    return f"  {name:26}" + "".join(f"{cell:>14}" for cell in cells)


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


def _found(fingerprint: Fingerprint) -> Iterator[str]:
    unusable = f", {len(fingerprint.unusable)} more could not be used" if fingerprint.unusable else ""
    kind = "2D image" if fingerprint.is_2d else "volume"
    yield from _entry("cases", f"{counted(len(fingerprint.cases), kind)} ({fingerprint.layout}){unusable}")
    yield from _entry("size", _spread([case.shape for case in fingerprint.cases]) + " voxels (z, y, x)")
    yield from _entry("voxel", _spread([case.spacing for case in fingerprint.cases]) + " mm")
    for name, value in zip(fingerprint.labels.names[1:], fingerprint.labels.values[1:], strict=True):
        yield from _entry("label", f"{name} ({value}): {_occurrence(fingerprint, name)}")
    for name, of in zip(fingerprint.channels, fingerprint.intensities, strict=True):
        middle = f"99 % of them {of.percentile_00_5:.4g} to {of.percentile_99_5:.4g}"
        yield from _entry("channel", f"{name}: labelled voxels have mean {of.mean:.4g}, spread {of.std:.4g}, {middle}")


def _occurrence(fingerprint: Fingerprint, name: str) -> str:
    volumes = [c.voxels[name] * prod(c.spacing) / 1000 for c in fingerprint.cases if c.voxels[name]]
    if not volumes:
        return "in no case"
    here = f"in {len(volumes)} of {counted(len(fingerprint.cases), 'case')}"
    if fingerprint.is_2d:
        shares = [c.voxels[name] / prod(c.shape) for c in fingerprint.cases if c.voxels[name]]
        return f"{here}, {median(shares):.1%} of an image in the median"
    low, middle, high = (_number(v) for v in (min(volumes), median(volumes), max(volumes)))
    return f"{here}, {middle} ml in the median" + (f", from {low} to {high}" if low != high else "")


def _preprocessing(plan: Plan) -> Iterator[str]:
    of = plan.preprocessing
    yield from _entry("path", f"{plan.dimensions}D", plan.why.get("name"))
    yield from _entry("grid", f"{_by(of.spacing)} mm", of.why.get("spacing"))
    if of.axes != (0, 1, 2):
        yield from _entry("axes", f"network axes are scan axes {', '.join('zyx'[a] for a in of.axes)}", of.why.get("axes"))
    schemes = dict.fromkeys(f"{c} by {n.scheme}" for c, n in zip(plan.channels, of.normalization, strict=True))
    yield from _entry("intensities", ", ".join(schemes), of.why.get("normalization"))


def _network(plan: Plan) -> Iterator[str]:
    of = plan.network
    yield from _entry("patch", f"{_by(plan.patch)} voxels seen at once", plan.why.get("patch"))
    yield from _entry("network", f"{of.kind} U-Net, {len(of.features)} stages", of.why.get("strides"))
    yield from _reason(plan.why.get("recipe"))
    yield from _entry("", f"{', '.join(map(str, of.features))} channels", of.why.get("features"))
    if any(k != 3 for kernel in of.kernels for k in kernel):
        yield from _entry("", "flat kernels at first", of.why.get("kernels"))


def _training(plan: Plan) -> Iterator[str]:
    of, change = plan.training, plan.training.augmentation
    yield from _entry("length", "as the budget allows" if of.steps is None else f"{of.steps} steps", of.why.get("steps"))
    yield from _entry("batch", f"{of.batch_size} patches a step", of.why.get("batch_size"))
    yield from _entry("loss", f"{of.loss}, {'a batch' if of.batch_dice else 'a patch'} at a time", of.why.get("batch_dice"))
    yield from _entry("optimizer", f"{of.optimizer}, rate {of.learning_rate:g}, {of.schedule} to zero", of.why.get("optimizer"))
    turned = f"up to {change.rotation_degrees:g} degrees{' in the plane of slices' if change.in_plane else ''}"
    yield from _entry("variation", f"patches turned {turned}", change.why.get("in_plane", change.why.get("rotation_degrees")))
    axes = ", ".join("zyx"[plan.preprocessing.axes[a + 3 - plan.dimensions]] for a in plan.inference.mirror_axes)
    yield from _entry("prediction", f"averaged over mirrorings along {axes}" if axes else "without mirroring", None)


def _entry(name: str, text: str, reason: str | None = None) -> Iterator[str]:
    """A name in the margin and the text beside it; the reason beneath, set in a little."""
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"  {name}".ljust(INDENT), subsequent_indent=" " * INDENT)
    yield from _reason(reason)


def _reason(reason: str | None) -> Iterator[str]:
    if reason:
        yield from textwrap.wrap(reason, WIDTH, initial_indent=" " * INDENT + "- ", subsequent_indent=" " * (INDENT + 2))


def _spread(rows: Sequence[Sequence[float]]) -> str:
    """The median along each axis, with its range where it varies."""
    low, high = [min(c) for c in zip(*rows, strict=True)], [max(c) for c in zip(*rows, strict=True)]
    middle = _by(median(column) for column in zip(*rows, strict=True))
    return f"all {middle}" if low == high else f"{middle} in the median, from {_by(low)} to {_by(high)}"


def _by(values: Iterable[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
