"""The network drawn: stages of a U-Net from the patch down to the coarsest grid and up again, with their skips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from xml.etree.ElementTree import Element, SubElement, tostring

from nnseg.core.plan import Plan
from nnseg.reporting.charts.drawing import WIDTH, Place, canvas, line, text
from nnseg.reporting.formatting import by

BOX = (112.0, 42.0)
PITCH = 66.0
"""From stage to stage."""
TOP = 40.0
MOST_INSET = 24.0


@dataclass(frozen=True, kw_only=True)
class NetworkStage:
    """One resolution of a network, in words.

    Args:
        features: channels.
        shape: voxels of a patch there.
        stride: from the stage above.
        kernel: edges of its convolutions.
        encoder, decoder: what is computed on the way down and up; empty where there is nothing.
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
    unit = "residual block" if of.kind == "residual" else "convolution"
    parts = zip(of.features, of.strides, of.kernels, of.blocks, (*of.decoder_blocks, 0), strict=True)
    stages, shape = [], plan.patch
    for features, stride, kernel, blocks, more in parts:
        shape = tuple(n // s for n, s in zip(shape, stride, strict=True))
        stages.append(
            NetworkStage(
                features=features,
                shape=by(shape),
                stride="" if prod(stride) == 1 else by(stride),
                kernel=by(kernel),
                encoder=_counted(blocks, unit),
                decoder=_counted(more, "convolution") if more else "",
            )
        )
    return stages


def network_svg(plan: Plan) -> str:
    """A drawing of a plan's network, legible on a phone."""
    stages, heads = network_stages(plan), len(plan.labels.heads)
    told = ", ".join(f"{s.features} features at {s.shape}" for s in stages)
    title = f"{plan.network.kind} {plan.dimensions}D U-Net of {len(stages)} stages: {told}; skips join the two sides"
    svg = canvas(title, height=TOP + PITCH * len(stages) - (PITCH - BOX[1]) + 6, kind="chart network")
    inset = min(MOST_INSET, 56.0 / max(1, len(stages) - 2))
    for number, stage in enumerate(stages[:-1]):
        left = (4.0 + number * inset, TOP + number * PITCH)
        right = (WIDTH - 4.0 - number * inset - BOX[0], left[1])
        _skip(svg, left, right)
        _box(svg, left, stage, "encoder", stage.encoder)
        _box(svg, right, stage, "decoder", stage.decoder)
    bottom = ((WIDTH - BOX[0]) / 2, TOP + (len(stages) - 1) * PITCH)
    _box(svg, bottom, stages[-1], "bottleneck", stages[-1].encoder)
    _steps(svg, stages, inset=inset, bottom=bottom)
    channels = f"{len(plan.channels)} channel{'s' if len(plan.channels) > 1 else ''} in"
    ends = (bottom[0], bottom[0]) if len(stages) == 1 else (4.0, WIDTH - 4.0 - BOX[0])
    _end(svg, ends[0], channels, "start")
    _end(svg, ends[1], f"{heads} {'regions' if plan.labels.regions else 'labels'} out", "end")
    return tostring(svg, encoding="unicode")


def describe_network(plan: Plan) -> str:
    """A caption for the drawing, with what is the same in all stages."""
    weights = plan.network.weights
    size = f"{weights / 1e6:.3g} million" if weights >= 1e6 else f"{weights:,}"
    kernels = list(dict.fromkeys(" x ".join(f"{n:g}" for n in kernel) for kernel in plan.network.kernels))
    every = f"all kernels {kernels[0]}" if len(kernels) == 1 else f"kernels {' and '.join(kernels)}"
    deep = " In training the coarser stages of the right side are scored too." if plan.training.deep_supervision else ""
    return (
        f"A patch goes down on the left, where it is made coarser and described by more features, and up on the right, where the "
        f"fine detail joins again over the skips. About {size} weights, {every}.{deep}"
    )


def _box(svg: Element, corner: Place, stage: NetworkStage, kind: str, work: str) -> None:
    group = SubElement(svg, "g", {"class": f"stage {kind}"})
    SubElement(group, "title").text = f"{work} of {stage.kernel}, {stage.features} features, {stage.shape} voxels"
    (x, y), (width, height) = corner, BOX
    SubElement(group, "rect", {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:g}", "height": f"{height:g}", "rx": "6"})
    text(group, f"{stage.features} features", (x + width / 2, y + 18), "middle", "strong")
    text(group, stage.shape, (x + width / 2, y + 34), "middle")


def _skip(svg: Element, left: Place, right: Place) -> None:
    middle = left[1] + BOX[1] / 2
    line(svg, "skip", (left[0] + BOX[0], middle), (right[0] - 5, middle))
    _head(svg, (right[0] - 1, middle), (-6, -4), (-6, 4))
    if right[0] - left[0] - BOX[0] > 60:
        text(svg, "skip", ((left[0] + BOX[0] + right[0]) / 2, middle - 6), "middle")


def _steps(svg: Element, stages: Sequence[NetworkStage], *, inset: float, bottom: Place) -> None:
    """Arrows down the encoder, with strides, and up the decoder."""
    for number, stage in enumerate(stages[1:]):
        above, below = TOP + number * PITCH + BOX[1], TOP + (number + 1) * PITCH
        x = 4.0 + (number + 0.5) * inset + BOX[0] / 2
        if number == len(stages) - 2:
            x = max(bottom[0] + 10, 4.0 + number * inset + BOX[0] / 2)
        line(svg, "flow", (x, above), (x, below - 5))
        _head(svg, (x, below - 1), (-4, -6), (4, -6))
        line(svg, "flow", (WIDTH - x, below), (WIDTH - x, above + 5))
        _head(svg, (WIDTH - x, above + 1), (-4, 6), (4, 6))
        text(svg, f"÷ {stage.stride}", (x - 7, above + 16), "end")


def _end(svg: Element, x: float, words: str, kind: str) -> None:
    middle = x + BOX[0] / 2
    text(svg, words, (middle, 12.0), "middle", "strong")
    if kind == "start":
        line(svg, "flow", (middle, 18), (middle, TOP - 5))
        _head(svg, (middle, TOP - 1), (-4, -6), (4, -6))
    else:
        line(svg, "flow", (middle, TOP), (middle, 23))
        _head(svg, (middle, 18), (-4, 6), (4, 6))


def _head(svg: Element, tip: Place, *others: Place) -> None:
    """Of an arrow."""
    corners = [tip, *((tip[0] + x, tip[1] + y) for x, y in others)]
    SubElement(svg, "polygon", {"class": "head", "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)})


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
