"""Pictures of a label map on its scan, each label outlined in a colour of its own, where there is no reference."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup

from nnseg.core.image import Integers, Scan
from nnseg.core.labels import Labels
from nnseg.reporting.contours import ExamplePicture, View, outline_path, picture_url, views
from nnseg.reporting.viewer import OKABE_ITO


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A slice, ready for a page.

    Args:
        title: plane and slice.
        svg: the drawing.
        aspect: its width over its height.
    """

    title: str
    svg: Markup
    aspect: float


def colour_of(labels: Labels, name: str) -> str:
    """The colour that a label or region is drawn in."""
    return OKABE_ITO[labels.foreground.index(name) % len(OKABE_ITO)]


def pictures(scan: Scan, label_map: Integers, labels: Labels, *, name: str) -> tuple[Picture, ...]:
    """The slices that show most of a label map.

    Args:
        scan: its first channel is drawn.
        label_map: (Z, Y, X) on the scan's grid, stored values.
        labels: what the values mean.
        name: of the case, for those who cannot see it.
    """
    nothing = np.full_like(label_map, labels.values[0])
    example = ExamplePicture(
        name=name,
        caption="",
        image=scan.image[0],
        spacing=scan.grid.spacing,
        reference=nothing,
        prediction=label_map,
        labels=labels,
    )
    return tuple(
        Picture(title=view.title, svg=_svg(view, labels, name), aspect=round(view.grey.shape[1] / view.grey.shape[0], 4))
        for view in views(example)
    )


def _svg(view: View, labels: Labels, name: str) -> Markup:
    height, width = view.grey.shape
    shown = list(dict.fromkeys(label for label, _ in view.prediction))
    words = f"{name}{f', {view.title}' if view.title else ''}: outlines of {', '.join(shown) or 'nothing'}"
    svg = Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": words, "class": "picture"})
    SubElement(svg, "image", {"href": picture_url(view.grey), "width": str(width), "height": str(height)})
    for label in shown:
        lines = "".join(outline_path(points) for of, points in view.prediction if of == label)
        style = {"stroke": colour_of(labels, label), "vector-effect": "non-scaling-stroke", "transform": "scale(.1)"}
        SubElement(SubElement(svg, "path", {"d": lines, **style}), "title").text = label
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 (made of elements, which escape)
