"""The network of a plan, drawn for papers as `nnseg.reporting.paper` draws the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nnseg.core.plan import Plan
from nnseg.reporting.network_drawing import NetworkStage, network_stages
from nnseg.reporting.paper import MM, ONE_COLUMN

BOX = (25.0, 9.0)
"""Of a stage, in mm."""
PITCH = 14.0
"""From stage to stage, in mm."""
INSET = 6.0
WIDTH = 85.0
ENCODER, DECODER, BOTTOM = "#d9ebf7", "#fbe3c4", "#d3eee4"
INK, SOFT = "#1b1f24", "#5b6470"


def plan_figure(plans: Sequence[Plan]) -> Figure:
    """The U-Nets of plans below one another: features and voxels of a patch at each stage, with skips and strides."""
    heights = [PITCH * len(plan.network.features) + 8 for plan in plans]
    figure = Figure(figsize=(ONE_COLUMN, sum(heights) * MM))
    top = float(sum(heights))
    for plan, height in zip(plans, heights, strict=True):
        top -= height
        axes = figure.add_axes((0.0, top / sum(heights), 1.0, height / sum(heights)))
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        axes.set_axis_off()
        _network(axes, plan, named=len(plans) > 1)
    return figure


def _network(axes: Axes, plan: Plan, *, named: bool) -> None:
    stages = network_stages(plan)
    inset = min(INSET, (WIDTH - 2 * BOX[0] - 8) / 2 / max(1, len(stages) - 2))
    first = 11.0
    for number, stage in enumerate(stages[:-1]):
        left, y = 1.0 + number * inset, first + number * PITCH
        right = WIDTH - left - BOX[0]
        _arrow(axes, (left + BOX[0], y + BOX[1] / 2), (right, y + BOX[1] / 2), dashed=True)
        _box(axes, (left, y), stage, ENCODER)
        _box(axes, (right, y), stage, DECODER)
    bottom = ((WIDTH - BOX[0]) / 2, first + (len(stages) - 1) * PITCH)
    _box(axes, bottom, stages[-1], BOTTOM)
    for number, stage in enumerate(stages[1:]):
        above = first + number * PITCH + BOX[1]
        x = 1.0 + (number + 0.5) * inset + BOX[0] / 2
        x = max(x, bottom[0] + 2) if number == len(stages) - 2 else x
        _arrow(axes, (x, above), (x, above + PITCH - BOX[1]))
        _arrow(axes, (WIDTH - x, above + PITCH - BOX[1]), (WIDTH - x, above))
        axes.text(x - 1.2, above + (PITCH - BOX[1]) / 2, f"÷ {stage.stride}", ha="right", va="center", fontsize=5.5, color=SOFT)
    _ends(axes, plan, first, single=len(stages) == 1)
    unit = "residual" if plan.network.kind == "residual" else "plain"
    words = f"{plan.name}: " if named else ""
    axes.text(WIDTH / 2, 2.5, f"{words}{unit} U-Net", ha="center", va="center", fontweight="bold", color=INK)


def _box(axes: Axes, corner: tuple[float, float], stage: NetworkStage, colour: str) -> None:
    (x, y), (width, height) = corner, BOX
    rounded = "round,pad=0,rounding_size=1"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=rounded, facecolor=colour, edgecolor=INK, linewidth=0.5))
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    axes.text(x + width / 2, y + 2.9, f"{stage.features} features", fontsize=6.5, fontweight="bold", **middle)
    axes.text(x + width / 2, y + 6.3, stage.shape, fontsize=6, **middle)


def _ends(axes: Axes, plan: Plan, first: float, *, single: bool) -> None:
    """What goes in above the encoder, and comes out above the decoder."""
    left = (WIDTH - BOX[0]) / 2 if single else 1.0
    channels, heads = len(plan.channels), len(plan.labels.heads)
    said = f"{channels} channel{'s' if channels > 1 else ''}", f"{heads} {'regions' if plan.labels.regions else 'labels'}"
    places = (left + BOX[0] * (0.3 if single else 0.5), WIDTH - left - BOX[0] * (0.3 if single else 0.5))
    for x, words, down in zip(places, said, (True, False), strict=True):
        ends = ((x, first - 4.0), (x, first))
        _arrow(axes, *(ends if down else ends[::-1]))
        axes.text(x, first - 5.6, words, ha="center", va="center", fontsize=6.5, color=INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, dashed: bool = False) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>,head_width=.13,head_length=.25", "color": SOFT, "linewidth": 0.7}
    style |= {"shrinkA": 0.0, "shrinkB": 0.0} | ({"linestyle": (0, (3, 2))} if dashed else {})
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
