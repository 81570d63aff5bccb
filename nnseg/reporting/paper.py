"""Figures for papers and notebooks: training curves, scores, cases, the network, a slice with labels (extra ``nnseg[figures]``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from nnseg.core.colours import hex_colour_of
from nnseg.core.metrics import metric_of
from nnseg.core.plan import Plan
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Scores
from nnseg.evaluation.averages import FEW, table
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.charts.network import DrawingSizes, NetworkStage, layout_network, network_stages
from nnseg.reporting.overlay import LabelledSlice
from nnseg.reporting.pictures import PREDICTION, REFERENCE
from nnseg.reporting.slices import View, find_views
from nnseg.storage.files import write_aside

MM = 1 / 25.4
ONE_COLUMN, TWO_COLUMNS = 85 * MM, 174 * MM
"""Inches."""
TALLEST = 230 * MM
"""Height in inches of a figure that fills a page of a journal."""
DPI = 300

BLUE, VERMILLION, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
SERIES = ((BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, (0, (4, 1, 1, 1, 1, 1))))
"""Colour and dashes of the mean of each plan's folds. Source: Okabe and Ito, Color universal design, 2008."""

STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,
    "pdf.compression": 9,
    "svg.fonttype": "none",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "axes.unicode_minus": True,
    "text.parse_math": False,
}

REDUNDANT = ("iou", "hd", "volume_error_ml", "absolute_volume_error")
"""Metrics that add little to Dice, HD95 and the relative volume error."""
METADATA: Final = {".png": {"Software": "nnseg"}, ".pdf": {"Creator": "nnseg", "CreationDate": None, "Producer": None}}
"""By which a figure is known as one of nnseg; without dates, so that equal figures are equal files."""

MOST_LABELS = 30
"""Labels in a figure of scores; of more, those with the lowest median of the first metric."""
DRAWS = 2000
"""Resampled sets of cases for the interval of a median."""
GOLDEN = 0.618

Numbers = npt.NDArray[np.float64]
Histories = Mapping[str, Sequence[Epoch]]


def write_figure(build: Callable[[], Figure], stem: Path) -> tuple[Path, Path]:
    """The PNG and PDF files of a figure, which are written without dates or names of machines.

    Args:
        build: one of the functions below with its data.
        stem: path without suffix.

    Raises:
        RunError: a file cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = build()
        FigureCanvasAgg(figure)
        paths = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
        for path in paths:
            drawn = BytesIO()  # matplotlib's writer of PDF hides the error of a full disk behind one of its own
            figure.savefig(drawn, format=path.suffix[1:], metadata=METADATA[path.suffix])
            with write_aside(path) as aside:
                aside.write_bytes(drawn.getvalue())
    return paths


def curves_figure(histories: Histories) -> Figure:
    """Loss and estimated Dice over the steps: a thin line for each fold, a thick one for the mean of each plan's folds.

    Args:
        histories: epochs by "PLAN fold NUMBER".
    """
    figure = Figure(figsize=(ONE_COLUMN, 92 * MM), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    plans: dict[str, list[Sequence[Epoch]]] = {}
    for name, epochs in histories.items():
        plans.setdefault(name.rsplit(" fold ", 1)[0], []).append(epochs)
    for (colour, dashes), (plan, folds) in zip(cycle(SERIES), plans.items(), strict=False):
        name = f"{plan}: " if len(plans) > 1 else ""
        label = f"{name}mean of {len(folds)} folds" if len(folds) > 1 else f"{name}fold" if name else "the only fold"
        style = {"color": colour, "linestyle": dashes, "label": label}
        _folds(above, [[one for e in epochs for one in e.step_losses] for epochs in folds], style)
        _folds(below, [[(e.step, d) for e in epochs if (d := e.mean_dice) is not None] for epochs in folds], style)
    above.set_ylabel("training loss")
    below.set_ylabel("Dice on held-out patches")
    below.set_ylim(top=min(1.0, below.get_ylim()[1]))
    below.set_xlabel("optimizer steps")
    below.set_xlim(left=0)
    below.xaxis.set_major_formatter(EngFormatter(sep=""))
    if any(len(folds) > 1 for folds in plans.values()):
        below.plot([], [], color="#868e99", linewidth=0.5, label="each fold")
    below.legend(loc="lower right")
    for number, axes in enumerate((above, below)):
        _letter(axes, number)
    return figure


def memory_figure(curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> Figure:
    """RAM of a prediction by time, and where a device was used its memory below; a line for each case.

    Args:
        curves: seconds, GB of RAM and GB of the device's memory, by case.
    """
    parts = [("RAM (GB)", 1), *([("device memory (GB)", 2)] if any(max(device) for _, _, device in curves.values()) else [])]
    figure = Figure(figsize=(ONE_COLUMN, 46 * MM * len(parts)), layout="constrained")
    drawn = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, place) in zip(drawn, parts, strict=True):
        for (colour, dashes), curve in zip(cycle(SERIES), curves.values(), strict=False):
            axes.plot(curve[0], curve[place], color=colour, linestyle=dashes, linewidth=0.8)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    drawn[-1].set_xlabel("seconds")
    drawn[-1].set_xlim(left=0)
    if len(curves) <= len(SERIES):
        drawn[0].legend([*curves], loc="lower right")
    return figure


def scores_figure(scores: Scores) -> Figure:
    """A dot for each case, and the median with its 95 % confidence interval, of every label and metric.

    `REDUNDANT` metrics are left out.
    """
    defined = [m for m in scores.metrics if np.isfinite(table(scores.cases, scores.labels, m)).any()]
    metrics = [m for m in defined if m not in REDUNDANT] or ["dice"]
    labels = _choose_labels(scores, metrics[0])
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    height = min(TALLEST, rows * (max(12, 5.5 * len(labels) + 3) + 13) * MM + 6 * MM)
    figure = Figure(figsize=(ONE_COLUMN if columns == 1 else TWO_COLUMNS, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.ravel()):
        if number >= len(metrics):
            axes.set_axis_off()
            continue
        about = metric_of(metrics[number], scores.length_unit)
        _strips(axes, labels, table(scores.cases, labels, metrics[number]))
        if about.better == "zero":
            axes.axvline(0, color="#868e99", linewidth=0.6, zorder=0.5)
        axes.set_xlabel(f"{about.title}{f' ({about.unit})' if about.unit else ''}")
        if number % columns:
            axes.set_yticklabels([])
        if len(metrics) > 1:
            _letter(axes, number)
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=3, alpha=0.6, linestyle="", label="a case"),
        Line2D(
            [],
            [],
            color=VERMILLION,
            marker="D",
            markersize=4,
            label="median" + (" with 95 % interval" if len(scores.cases) >= FEW else ""),
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def cases_figure(cases: Sequence[CaseImages]) -> Figure:
    """A row for each case, a column for each plane: outlines of the reference solid, those of the prediction dashed."""
    shown = [find_views(case) for case in cases]
    flat = all(len(of_case) == 1 for of_case in shown)
    rows = [[view for of_case in shown for view in of_case]] if flat else [list(of_case) for of_case in shown]
    captions = [[case.caption for case in cases]] if flat else [[case.caption] for case in cases]
    gap, room = 1.5 * MM, 5 * MM
    heights = [min(70 * MM, (TWO_COLUMNS - gap * (len(row) - 1)) / sum(view.aspect for view in row)) for row in rows]
    total = sum(heights) + room * (len(rows) + 1)
    shrunk = min(1.0, (TALLEST - room * (len(rows) + 1)) / sum(heights))
    total -= (1 - shrunk) * sum(heights)
    figure, top = Figure(figsize=(TWO_COLUMNS, total)), total
    for row, titles, height in zip(rows, captions, (shrunk * h for h in heights), strict=True):
        top -= room + height
        left = (TWO_COLUMNS - height * sum(view.aspect for view in row) - gap * (len(row) - 1)) / 2
        for number, view in enumerate(row):
            width = height * view.aspect
            axes = figure.add_axes((left / TWO_COLUMNS, top / total, width / TWO_COLUMNS, height / total))
            _slice(axes, view)
            if number < len(titles):
                axes.set_title(titles[number], loc="left", pad=2.5)
            left += width + gap
    handles = [
        Line2D([], [], color=REFERENCE, label="reference"),
        Line2D([], [], color=PREDICTION, linestyle=(0, (2.5, 1.5)), label="prediction"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, borderaxespad=0.2)
    return figure


def overlay_figure(shown: LabelledSlice, names: Sequence[str]) -> Figure:
    """A slice with its labels in colours, and the names of those in it; shown by a notebook, and by pyplot where it opens windows.

    Args:
        names: of all labels or regions, in order.
    """
    figure = pyplot.figure(figsize=(5.0, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown.in_colours(), interpolation="none")
    axes.set_title(shown.title, fontsize=9)
    axes.set_axis_off()
    handles = [Patch(color=hex_colour_of(number - 1), label=names[number - 1]) for number in shown.shown]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    if figure.canvas.required_interactive_framework is None:  # else a notebook would show it twice
        pyplot.close(figure)
    return figure


def _folds(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], style: Mapping[str, Any]) -> None:
    known = [np.array(curve, np.float64) for curve in curves if curve]
    if not known:
        return
    for curve in known if len(known) > 1 else ():
        axes.plot(curve[:, 0], curve[:, 1], color=style["color"], linewidth=0.5, alpha=0.5)
    steps = np.unique(np.concatenate([curve[:, 0] for curve in known]))
    inside = steps[(steps >= max(c[0, 0] for c in known)) & (steps <= min(c[-1, 0] for c in known))]
    mean = np.mean([np.interp(inside, curve[:, 0], curve[:, 1]) for curve in known], axis=0)
    axes.plot(inside, mean, linewidth=1.4, marker="o" if len(inside) == 1 else "", markersize=3, **style)


def _choose_labels(scores: Scores, metric: str) -> list[str]:
    """Up to `MOST_LABELS` labels with the lowest medians, in the dataset's order."""
    if len(scores.labels) <= MOST_LABELS:
        return list(scores.labels)
    values = table(scores.cases, scores.labels, metric)
    middles = [float(np.median(known)) if len(known := column[np.isfinite(column)]) else np.inf for column in values.T]
    chosen = set(np.argsort(middles, kind="stable")[:MOST_LABELS].tolist())
    return [name for i, name in enumerate(scores.labels) if i in chosen]


def _strips(axes: Axes, labels: Sequence[str], values: Numbers) -> None:
    """A row of dots for each label, the first on top."""
    for row, column in enumerate(values.T):
        known = np.sort(column[np.isfinite(column)])
        if not len(known):
            continue
        heights = row + 0.5 * (np.arange(len(known)) * GOLDEN % 1.0 - 0.5)
        axes.plot(known, heights, "o", color=BLUE, markersize=2, alpha=0.45, markeredgewidth=0)
        if len(known) >= FEW:
            low, high = np.percentile(_medians(known), (2.5, 97.5))
            axes.plot([low, high], [row, row], color=VERMILLION, linewidth=1.6, solid_capstyle="butt")
        axes.plot(np.median(known), row, "D", color=VERMILLION, markersize=3.8, markeredgecolor="white", markeredgewidth=0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _medians(values: Numbers) -> Numbers:
    """Bootstrap medians, with a fixed seed. Source: Efron 1979, Bootstrap methods."""
    draws = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    medians: Numbers = np.median(values[draws], axis=1)
    return medians


def _slice(axes: Axes, view: View) -> None:
    height, width = view.grey.shape
    axes.imshow(view.grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="auto", interpolation="none")
    for outlines, colour, dashes in ((view.reference, REFERENCE, "-"), (view.prediction, PREDICTION, (0, (2.5, 1.5)))):
        for _, points in outlines:
            axes.plot(points[:, 0], points[:, 1], color=colour, linestyle=dashes, linewidth=0.9)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()


def _letter(axes: Axes, number: int) -> None:
    """Mark a panel with a letter."""
    axes.set_title("abcdefghijklmnopqrstuvwxyz"[number], loc="left", fontweight="bold", fontsize=8)


ON_PAPER = DrawingSizes(width=85.0, margin=1.0, top=11.0, box=(25.0, 9.0), pitch=14.0, inset=6.0, insets=13.5, bend=2.0)
"""In mm."""
STAGE_COLOURS = {"encoder": "#d9ebf7", "decoder": "#fbe3c4", "bottleneck": "#d3eee4"}
INK, SOFT = "#1b1f24", "#5b6470"


def plan_figure(plans: Sequence[Plan]) -> Figure:
    """The U-Nets of plans below one another: features and voxels of a patch at each stage, with skips and strides."""
    heights = [ON_PAPER.pitch * len(plan.network.features) + 8 for plan in plans]
    figure = Figure(figsize=(ONE_COLUMN, sum(heights) * MM))
    top = float(sum(heights))
    for plan, height in zip(plans, heights, strict=True):
        top -= height
        axes = figure.add_axes((0.0, top / sum(heights), 1.0, height / sum(heights)))
        axes.set_xlim(0, ON_PAPER.width)
        axes.set_ylim(height, 0)
        axes.set_axis_off()
        _network(axes, plan, named=len(plans) > 1)
    return figure


def _network(axes: Axes, plan: Plan, *, named: bool) -> None:
    name = f"{plan.name}: " if named else ""
    architecture = f"{plan.network.kind} U-Net" if plan.network.is_unet else plan.network.kind
    axes.text(ON_PAPER.width / 2, 2.5, name + architecture, ha="center", va="center", fontweight="bold", color=INK)
    if not plan.network.is_unet:
        return
    layout, first = layout_network(plan, ON_PAPER), ON_PAPER.top
    for start, end in layout.skips:
        _arrow(axes, start, end, dashed=True)
    for corner, stage, side in layout.boxes:
        _box(axes, corner, stage, STAGE_COLOURS[side])
    for (down, up), stage in zip(layout.flows, network_stages(plan)[1:], strict=True):
        _arrow(axes, *down)
        _arrow(axes, *up)
        (x, above), (_, below) = down
        axes.text(x - 1.2, (above + below) / 2, f"÷ {stage.stride}", ha="right", va="center", fontsize=5.5, color=SOFT)
    for (x, label), inwards in zip(layout.ends, (True, False), strict=True):
        ends = ((x, first - 4.0), (x, first))
        _arrow(axes, *(ends if inwards else ends[::-1]))
        axes.text(x, first - 5.6, label, ha="center", va="center", fontsize=6.5, color=INK)


def _box(axes: Axes, corner: tuple[float, float], stage: NetworkStage, colour: str) -> None:
    (x, y), (width, height) = corner, ON_PAPER.box
    rounded = "round,pad=0,rounding_size=1"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=rounded, facecolor=colour, edgecolor=INK, linewidth=0.5))
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    axes.text(x + width / 2, y + 2.9, f"{stage.features} features", fontsize=6.5, fontweight="bold", **middle)
    axes.text(x + width / 2, y + 6.3, stage.shape, fontsize=6, **middle)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, dashed: bool = False) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>,head_width=.13,head_length=.25", "color": SOFT, "linewidth": 0.7}
    style |= {"shrinkA": 0.0, "shrinkB": 0.0} | ({"linestyle": (0, (3, 2))} if dashed else {})
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
