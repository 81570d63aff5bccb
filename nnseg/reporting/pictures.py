"""Pictures of cases: grey slices with outlines, as SVG for pages and side by side as PNG.

The reference is solid and the prediction dashed. In pages, as in the viewer, each of several labels has one colour. A single label
is sky blue in the reference and orange in the prediction, as are all labels in figures for print.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nnseg.core.colours import hex_colour_of
from nnseg.core.geometry import PLANES
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.slices import Outline, Points, View, find_views

REFERENCE = "#56b4e9"
PREDICTION = "#e69f00"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A slice with outlines.

    Args:
        title: plane and slice; empty for a 2D image.
        svg: the drawing.
        aspect: its width over its height.
    """

    title: str
    svg: Markup
    aspect: float


@dataclass(frozen=True, kw_only=True)
class CasePictures:
    """A case with the pictures of its slices.

    Args:
        caption: why it is shown, and its score.
    """

    name: str
    caption: str
    pictures: Sequence[Picture]


def draw_case(case: CaseImages) -> CasePictures:
    """Pictures of the slices that `find_views` chooses.

    Outlines are of reference and prediction, or of the prediction in a colour for each label if there is no reference.
    """
    pictures = []
    for view in find_views(case):
        if case.reference is None:
            names = ", ".join(dict.fromkeys(name for name, _ in view.prediction)) or "nothing"
            description = f"{case.name}{f', {view.title}' if view.title else ''}: outlines of {names}"
            svg = draw_view(view, description, label_colours(case.labels))
        else:
            description = f"{case.caption}. {case.name} {view.title}: outlines of the reference (solid) and the prediction (dashed)"
            svg = draw_view(view, description, label_colours(case.labels), sides=True)
        pictures.append(Picture(title=view.title, svg=svg, aspect=round(view.aspect, 4)))
    return CasePictures(name=case.name, caption=case.caption, pictures=pictures)


def label_colours(labels: Labels) -> dict[str, str]:
    """The colour of each label or region."""
    return {name: hex_colour_of(number) for number, name in enumerate(labels.foreground)}


def draw_view(view: View, description: str, colours: Mapping[str, str], *, sides: bool = False) -> Markup:
    """An inline SVG of a slice; outlines have their label as tooltip.

    Args:
        view: the slice.
        description: text for screen readers.
        colours: of the labels.
        sides: draw reference and prediction, in the page's styles; of a single label in its two colours. Else the prediction alone.
    """
    height, width = view.grey.shape
    svg = Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": description, "class": "picture"})
    SubElement(svg, "image", {"href": _data_url(view.grey), "width": str(width), "height": str(height)})
    if not sides:
        _add_outlines(svg, view.prediction, colours)
    for kind, outlines in (("reference", view.reference), ("prediction", view.prediction)) if sides else ():
        _add_outlines(SubElement(svg, "g", {"class": kind}), outlines, colours if len(colours) > 1 else {}, suffix=f", {kind}")
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 (made of elements, which escape)


def _add_outlines(parent: Element, outlines: Sequence[Outline], colours: Mapping[str, str], suffix: str = "") -> None:
    for label in dict.fromkeys(name for name, _ in outlines):
        path = {"d": "".join(_path(points) for name, points in outlines if name == label)}
        stroke = {"stroke": colours[label]} if colours else {}
        style = {"vector-effect": "non-scaling-stroke", "transform": "scale(.1)"}
        SubElement(SubElement(parent, "path", path | stroke | style), "title").text = label + suffix


def _path(points: Points) -> str:
    """SVG path commands in tenths of a pixel, relative, which are the shortest."""
    tenths = np.round(points * 10).astype(int)
    moves = "".join(f"{x:+d}{y:+d}" for x, y in np.diff(tenths, axis=0)).replace("+", " ")
    return f"M{tenths[0, 0]} {tenths[0, 1]}l{moves.lstrip()}"


def _data_url(grey: npt.NDArray[np.uint8]) -> str:
    """A grey picture as a ``data:`` URL."""
    content = io.BytesIO()
    Image.fromarray(grey).save(content, "PNG", compress_level=6)  # 9 takes eight times as long for a twentieth less
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def montage_png(cases: Sequence[CaseImages], *, height: int = 320) -> bytes:
    """One PNG with the cases side by side in the plane that shows most, captions below: for a README or a slide.

    Args:
        cases: at least one; best, median and worst, say.
        height: of each picture, in pixels.
    """
    shown = _same_plane(cases)
    tiles = [_tile(view, case.caption, height) for case, view in zip(cases, shown, strict=True)]
    gap, legend = 14, 34
    width = sum(t.width for t in tiles) + gap * (len(tiles) + 1)
    sheet = Image.new("RGB", (width, tiles[0].height + 2 * gap + legend), "#16191d")
    left = gap
    for tile in tiles:
        sheet.paste(tile, (left, gap))
        left += tile.width + gap
    _legend(ImageDraw.Draw(sheet), gap, tiles[0].height + gap + legend // 2)
    return png_bytes(sheet)


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a PNG file that names nnseg as its maker."""
    content, made_by = io.BytesIO(), PngInfo()
    made_by.add_text("Software", "nnseg")
    picture.save(content, "PNG", optimize=True, pnginfo=made_by)
    return content.getvalue()


def _same_plane(cases: Sequence[CaseImages]) -> list[View]:
    """A view of each case, all in the plane that shows most of the references; the first plane of a 2D image."""
    every = [{view.plane: view for view in find_views(case)} for case in cases]
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
