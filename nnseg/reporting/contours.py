"""Pictures of a case: grey slices with the outlines of reference (solid) and prediction (dashed).

Two hues and two line styles (Okabe and Ito's sky blue and orange) tell the two apart for every eye and in black-and-white print.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import approximate_polygon, find_contours

from nnseg.core.image import Integers
from nnseg.core.labels import Labels

REFERENCE = "#56b4e9"
PREDICTION = "#e69f00"
PLANES = ("axial", "coronal", "sagittal")
LONGEST_SIDE = 400
"""Pixels of the longer side of each picture of a volume; of a single picture twice as many."""
MARGIN = 0.3
"""Context kept around what is labelled, as a share of its extent; at least `LEAST_MARGIN` voxels."""
LEAST_MARGIN = 8

Points = npt.NDArray[np.float64]
Outline = tuple[str, Points]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExamplePicture:
    """A case to look at.

    Args:
        name: of the case.
        caption: why it is shown, and its score.
        image: one channel, (Z, Y, X) or (Y, X).
        spacing: mm along the image's axes.
        reference: label map of the same shape, stored values.
        prediction: label map of the same shape, stored values.
        labels: what the values mean.
    """

    name: str
    caption: str
    image: npt.NDArray[Any]
    spacing: tuple[float, ...]
    reference: Integers
    prediction: Integers
    labels: Labels


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One slice, ready to draw.

    Args:
        plane: "axial", "coronal" or "sagittal".
        title: plane and slice in words; empty for a 2D image.
        grey: uint8 (H, W), square pixels.
        reference, prediction: label name and outline, (points, 2) as x, y in pixels of ``grey``.
        area: of the reference in square mm.
    """

    plane: str
    title: str
    grey: npt.NDArray[np.uint8]
    reference: tuple[Outline, ...]
    prediction: tuple[Outline, ...]
    area: float

    @property
    def aspect(self) -> float:
        """Width over height, to four decimals."""
        height, width = self.grey.shape
        return float(round(width / height, 4))


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseViews:
    """A case's slices, ready to draw.

    Args:
        caption: why it is shown, and its score.
    """

    name: str
    caption: str
    views: tuple[View, ...]


def case_views(example: ExamplePicture) -> CaseViews:
    """What is drawn of a case; its voxels are not needed any more."""
    return CaseViews(name=example.name, caption=example.caption, views=views(example))


def views(example: ExamplePicture) -> tuple[View, ...]:
    """The slices that show most of the reference, trimmed to it: one of a 2D image, three orthogonal ones of a volume."""
    image, reference, prediction = (a if a.ndim == 3 else a[None] for a in (example.image, example.reference, example.prediction))
    spacing = np.array([1.0] * (3 - len(example.spacing)) + list(example.spacing))
    labelled = [_labelled(example.labels, a) for a in (reference, prediction)]
    box = _trim(labelled[0] | labelled[1])
    shown = labelled[0] if labelled[0].any() else labelled[1]
    low, high = np.percentile(image[box], [0.5, 99.5])
    grey = np.clip((image[box].astype(np.float64) - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    sides = (reference[box], prediction[box])
    planes = (0,) if len(image) == 1 else (0, 1, 2)
    draw = partial(_view, grey=grey, sides=sides, labels=example.labels, shown=shown[box], spacing=spacing)
    return tuple(draw(axis, start=box[axis].start) for axis in planes)


def picture_svg(view: View, description: str) -> str:
    """An inline SVG of a view; outlines show their label when pointed at, and ``description`` is what the blind hear."""
    height, width = view.grey.shape
    svg = ElementTree.Element(
        "svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": description, "class": "picture"}
    )
    ElementTree.SubElement(svg, "image", {"href": picture_url(view.grey), "width": str(width), "height": str(height)})
    for kind, outlines in (("reference", view.reference), ("prediction", view.prediction)):
        group = ElementTree.SubElement(svg, "g", {"class": kind})
        for label in dict.fromkeys(name for name, _ in outlines):
            lines = "".join(outline_path(points) for name, points in outlines if name == label)
            path = ElementTree.SubElement(
                group, "path", {"d": lines, "vector-effect": "non-scaling-stroke", "transform": "scale(.1)"}
            )
            ElementTree.SubElement(path, "title").text = f"{label}, {kind}"
    return ElementTree.tostring(svg, encoding="unicode")


def montage_png(examples: Sequence[ExamplePicture], *, height: int = 320) -> bytes:
    """One PNG with the examples side by side in the plane that shows most, captions below: for a README or a slide.

    Args:
        examples: at least one; best, median and worst, say.
        height: of each picture, in pixels.
    """
    shown = _same_plane(examples)
    tiles = [_tile(view, e.caption, height) for e, view in zip(examples, shown, strict=True)]
    gap, legend = 14, 34
    width = sum(t.width for t in tiles) + gap * (len(tiles) + 1)
    sheet = Image.new("RGB", (width, tiles[0].height + 2 * gap + legend), "#16191d")
    left = gap
    for tile in tiles:
        sheet.paste(tile, (left, gap))
        left += tile.width + gap
    _legend(ImageDraw.Draw(sheet), gap, tiles[0].height + gap + legend // 2)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()


def _labelled(labels: Labels, label_map: Integers) -> npt.NDArray[np.bool_]:
    values = [v for region in labels.regions for v in region.values] or labels.values[1:]
    return np.isin(label_map, values)


def _trim(labelled: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The block around everything labelled, with a margin; everything if nothing is."""
    blocks = []
    for axis, length in enumerate(labelled.shape):
        where = np.flatnonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(where[0]), int(where[-1])) if where.size else (0, length)
        margin = max(LEAST_MARGIN, round(MARGIN * (last - first)))
        blocks.append(slice(max(0, first - margin), min(length, last + 1 + margin)))
    return blocks[0], blocks[1], blocks[2]


def _view(
    axis: int,
    *,
    grey: npt.NDArray[np.uint8],
    sides: Sequence[Integers],
    labels: Labels,
    shown: npt.NDArray[np.bool_],
    spacing: npt.NDArray[np.float64],
    start: int,
) -> View:
    """The slice across ``axis`` with most of ``shown``; slices along z are drawn with the head up."""
    areas = shown.sum(axis=tuple(a for a in range(3) if a != axis))
    index = int(np.argmax(areas)) if areas.any() else len(areas) // 2
    turn = slice(None) if axis == 0 else slice(None, None, -1)
    slice_mm = np.delete(spacing, axis)
    plane = np.take(grey, index, axis)[turn]
    longest_side = LONGEST_SIDE * (2 if len(grey) == 1 else 1)
    scale = slice_mm * longest_side / max(np.array(plane.shape) * slice_mm)
    height, width = (max(1, round(n * s)) for n, s in zip(plane.shape, scale, strict=True))
    reference, prediction = (_outlines(labels, np.take(side, index, axis)[turn], scale) for side in sides)
    return View(
        plane=PLANES[axis],
        title=f"{PLANES[axis]}, {'zyx'[axis]} = {start + index}" if len(areas) > 1 or axis else "",
        grey=np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)),
        reference=reference,
        prediction=prediction,
        area=float(areas[index] * np.prod(slice_mm)),
    )


def _outlines(labels: Labels, plane: Integers, scale: npt.NDArray[np.float64]) -> tuple[Outline, ...]:
    """Outlines of a slice (rows, columns) as x, y in pixels; ``scale`` is pixels per voxel along rows and columns."""
    found = []
    for name in labels.foreground:
        for line in find_contours(np.pad(labels.mask(name, plane), 1).astype(np.float64), 0.5):
            found.append((name, approximate_polygon((line - 0.5) * scale, 0.25)[:, ::-1]))  # -1: padding, +0.5: voxel centres
    return tuple(found)


def outline_path(points: Points) -> str:
    """SVG path commands in tenths of a pixel, relative, which are the shortest."""
    tenths = np.round(points * 10).astype(int)
    moves = "".join(f"{x:+d}{y:+d}" for x, y in np.diff(tenths, axis=0)).replace("+", " ")
    return f"M{tenths[0, 0]} {tenths[0, 1]}l{moves.lstrip()}"


def picture_url(grey: npt.NDArray[np.uint8]) -> str:
    """A grey picture as a ``data:`` URL."""
    content = io.BytesIO()
    Image.fromarray(grey).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _same_plane(examples: Sequence[ExamplePicture]) -> list[View]:
    """A view of each example, all in the plane that shows most of the references; the first plane of a 2D image."""
    every = [{view.plane: view for view in views(e)} for e in examples]
    shared = [p for p in PLANES if all(p in planes for planes in every)]
    best = max(shared, key=lambda plane: sum(planes[plane].area for planes in every))
    return [planes[best] for planes in every]


def _tile(view: View, caption: str, height: int) -> Image.Image:
    """The view with outlines and caption burnt in, drawn at twice the size for smooth lines."""
    scale = 2 * height / view.grey.shape[0]
    size = (round(view.grey.shape[1] * scale), 2 * height)
    picture = Image.fromarray(view.grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for colour, dash, outlines in ((REFERENCE, 0.0, view.reference), (PREDICTION, 12.0, view.prediction)):
        for _, points in outlines:
            for piece in _dashes(points * scale, dash):
                draw.line([(x, y) for x, y in piece], fill=colour, width=5, joint="curve")
    picture = picture.resize((size[0] // 2, height), Image.Resampling.LANCZOS)
    font = ImageFont.load_default(15)
    tile = Image.new("RGB", (max(picture.width, int(font.getlength(caption)) + 2), height + 28), "#16191d")
    tile.paste(picture, ((tile.width - picture.width) // 2, 0))
    ImageDraw.Draw(tile).text((tile.width // 2, height + 16), caption, fill="#e8eaed", font=font, anchor="mm")
    return tile


def _dashes(points: Points, dash: float) -> list[Points]:
    """The line cut into dashes of this length with gaps of two thirds of it; whole if ``dash`` is 0."""
    if not dash:
        return [points]
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    pieces = []
    for begin in np.arange(0.0, along[-1], dash * 5 / 3):
        end = min(begin + dash, along[-1])
        stops = np.concatenate([[begin], along[(along > begin) & (along < end)], [end]])
        pieces.append(np.stack([np.interp(stops, along, points[:, 0]), np.interp(stops, along, points[:, 1])], axis=1))
    return pieces


def _legend(draw: ImageDraw.ImageDraw, left: int, middle: int) -> None:
    font = ImageFont.load_default(15)
    for name, colour, dash in (("reference", REFERENCE, 0.0), ("prediction", PREDICTION, 7.0)):
        for piece in _dashes(np.array([[left, middle], [left + 30.0, middle]]), dash):
            draw.line([(x, y) for x, y in piece], fill=colour, width=3)
        draw.text((left + 38, middle), name, fill="#e8eaed", font=font, anchor="lm")
        left += 38 + int(font.getlength(name)) + 24
