"""Drawing of a U-Net: its stages from the patch down to the coarsest grid and up again, with their skips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from xml.etree.ElementTree import Element, SubElement, tostring

from nnseg.core.dataset import counted
from nnseg.core.geometry import format_axes
from nnseg.core.network_kinds import KINDS, Block, receptive_field
from nnseg.core.plan import Plan
from nnseg.reporting.charts.drawing import WIDTH, Place, canvas, line, text
from nnseg.reporting.formatting import by


@dataclass(frozen=True, kw_only=True)
class NetworkStage:
    """One resolution of a network, in words.

    Args:
        features: channels.
        shape: voxels of a patch.
        stride: from the stage above; empty if 1.
        kernel: edges of its convolutions.
        encoder, decoder: number and kind of its blocks; the decoder's are empty in the coarsest stage.
    """

    features: int
    shape: str
    stride: str
    kernel: str
    encoder: str
    decoder: str


def network_stages(plan: Plan) -> list[NetworkStage]:
    """The stages of a plan's network, finest first."""
    of = plan.network
    kind = KINDS[of.kind]
    parts = zip(of.features, of.strides, of.kernels, of.blocks, (*of.decoder_blocks, 0), strict=True)
    stages: list[NetworkStage] = []
    shape = plan.patch
    for features, stride, kernel, blocks, more in parts:
        shape = tuple(n // s for n, s in zip(shape, stride, strict=True))
        stages.append(
            NetworkStage(
                features=features,
                shape=by(shape),
                stride="" if prod(stride) == 1 else by(stride),
                kernel=by(kernel),
                encoder=_blocks(kind.encoder_block(len(stages), len(of.features)), blocks),
                decoder=counted(more, kind.decoder.name) if more else "",
            )
        )
    return stages


def _blocks(block: Block, count: int) -> str:
    return counted(count, block.name) + (f", then {len(block.dilations)} dilated" if block.dilations else "")


@dataclass(frozen=True, kw_only=True)
class DrawingSizes:
    """Sizes of a drawing of a network, in any unit.

    Args:
        width: of the drawing.
        margin: left and right.
        top: of the first stage.
        box: width and height of a stage.
        pitch: from stage to stage, downwards.
        inset: largest shift from stage to stage, inwards.
        insets: largest shift of all stages together.
        bend: from the left edge of the lowest box to the arrow that leads to it.
    """

    width: float
    margin: float
    top: float
    box: tuple[float, float]
    pitch: float
    inset: float
    insets: float
    bend: float


@dataclass(frozen=True, kw_only=True)
class NetworkLayout:
    """Places (x, y) of what is drawn of a network; y goes down.

    Args:
        boxes: upper left corner of each stage with its side: "encoder", "decoder" or "bottleneck".
        skips: start and end of each skip connection.
        flows: start and end of the arrows down the encoder and up the decoder, in pairs.
        ends: x of the input and of the output, with their text.
    """

    boxes: Sequence[tuple[Place, NetworkStage, str]]
    skips: Sequence[tuple[Place, Place]]
    flows: Sequence[tuple[tuple[Place, Place], tuple[Place, Place]]]
    ends: Sequence[tuple[float, str]]


def layout_network(plan: Plan, sizes: DrawingSizes) -> NetworkLayout:
    """The places of the stages and arrows of a plan's network."""
    stages, (width, height) = network_stages(plan), sizes.box
    last = len(stages) - 1
    inset = min(sizes.inset, sizes.insets / max(1, last - 1))
    bottom = ((sizes.width - width) / 2, sizes.top + last * sizes.pitch)
    boxes, skips, flows = [], [], []
    for number, stage in enumerate(stages[:-1]):
        left, y = sizes.margin + number * inset, sizes.top + number * sizes.pitch
        right = sizes.width - left - width
        boxes += [((left, y), stage, "encoder"), ((right, y), stage, "decoder")]
        skips.append(((left + width, y + height / 2), (right, y + height / 2)))
        x = left + (inset + width) / 2 if number < last - 1 else max(bottom[0] + sizes.bend, left + width / 2)
        above, below = y + height, y + sizes.pitch
        flows.append((((x, above), (x, below)), ((sizes.width - x, below), (sizes.width - x, above))))
    boxes.append((bottom, stages[-1], "bottleneck"))
    inwards = sizes.margin + width / 2 if last else bottom[0] + 0.3 * width
    labels = counted(len(plan.labels.heads), "region" if plan.labels.regions else "label")
    ends = [(inwards, counted(len(plan.channels), "channel")), (sizes.width - inwards, labels)]
    return NetworkLayout(boxes=boxes, skips=skips, flows=flows, ends=ends)


ON_PAGE = DrawingSizes(width=WIDTH, margin=4.0, top=40.0, box=(112.0, 42.0), pitch=66.0, inset=24.0, insets=56.0, bend=10.0)
HEAD = 6.0, 4.0
"""Length and half the width of an arrow's head."""


def network_svg(plan: Plan) -> str:
    """A drawing of a plan's network, legible on a phone."""
    layout, stages, (width, height) = layout_network(plan, ON_PAGE), network_stages(plan), ON_PAGE.box
    shapes = ", ".join(f"{s.features} features at {s.shape}" for s in stages)
    title = (
        f"{plan.network.kind} {plan.dimensions}D U-Net of {len(stages)} stages: {shapes}; skip connections join encoder and decoder"
    )
    svg = canvas(title, height=ON_PAGE.top + ON_PAGE.pitch * (len(stages) - 1) + height + 6, kind="chart network")
    for start, end in layout.skips:
        _arrow(svg, "skip", start, end)
        if end[0] - start[0] > 60:
            text(svg, "skip", ((start[0] + end[0]) / 2, start[1] - 6), "middle")
    for (x, y), stage, side in layout.boxes:
        group = SubElement(svg, "g", {"class": f"stage {side}"})
        work = stage.decoder if side == "decoder" else stage.encoder
        SubElement(group, "title").text = f"{work} of {stage.kernel}, {stage.features} features, {stage.shape} voxels"
        SubElement(group, "rect", {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:g}", "height": f"{height:g}", "rx": "6"})
        text(group, f"{stage.features} features", (x + width / 2, y + 18), "middle", "strong")
        text(group, stage.shape, (x + width / 2, y + 34), "middle")
    for (down, up), stage in zip(layout.flows, stages[1:], strict=True):
        _arrow(svg, "flow", *down)
        _arrow(svg, "flow", *up)
        text(svg, f"÷ {stage.stride}", (down[0][0] - 7, down[0][1] + 16), "end")
    for (x, label), way, y, tip in zip(layout.ends, ("in", "out"), (18.0, ON_PAGE.top), (ON_PAGE.top, 17.0), strict=True):
        text(svg, f"{label} {way}", (x, 12.0), "middle", "strong")
        _arrow(svg, "flow", (x, y), (x, tip))
    return tostring(svg, encoding="unicode")


def _arrow(svg: Element, kind: str, start: Place, end: Place) -> None:
    """A line along an axis with a head at its end."""
    length, half = HEAD
    x, y = ((b > a) - (b < a) for a, b in zip(start, end, strict=True))
    line(svg, kind, start, (end[0] - 5 * x, end[1] - 5 * y))
    tip, back = (end[0] - x, end[1] - y), (end[0] - (1 + length) * x, end[1] - (1 + length) * y)
    corners = [tip, (back[0] - half * y, back[1] - half * x), (back[0] + half * y, back[1] + half * x)]
    SubElement(svg, "polygon", {"class": "head", "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)})


def describe_network(plan: Plan) -> str:
    """A caption for the drawing, with what is the same in all stages."""
    weights = plan.network.weights
    size = f"{weights / 1e6:.3g} million" if weights >= 1e6 else f"{weights:,}"
    kernels = list(dict.fromkeys(format_axes(kernel) for kernel in plan.network.kernels))
    every = f"all kernels {kernels[0]}" if len(kernels) == 1 else f"kernels {' and '.join(kernels)}"
    seen = receptive_field(plan.network)
    reach = f"up to {format_axes(seen)} voxels" if seen else "all voxels of the patch"
    gates = " Attention gates weight the details voxel by voxel." if plan.network.attention_gates else ""
    deep = " Coarser stages of the decoder have a loss too (deep supervision)." if plan.training.deep_supervision else ""
    return (
        f"The encoder on the left lowers the resolution of a patch and computes more features; the decoder on the right "
        f"restores the resolution, with details from the skip connections. About {size} weights, {every}. "
        f"A voxel of the result depends on {reach}, apart from norms.{gates}{deep}"
    )
