"""Section: cases to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.reporting.content import ReportContent
from nnseg.reporting.contours import CaseViews, picture_svg


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One slice of a case.

    Args:
        title: plane and slice; empty for a 2D image.
        svg: the drawing.
        aspect: width over height.
    """

    title: str
    svg: str
    aspect: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A case with its pictures.

    Args:
        anchor: where links to it lead.
    """

    name: str
    caption: str
    anchor: str
    pictures: Sequence[Picture]


def cases(content: ReportContent) -> list[Shown] | None:
    """The cases to look at as still pictures; None if there are none, nor any for the viewer."""
    shown = [_shown(e, number) for number, e in enumerate(content.examples)]
    return shown if shown or content.viewed else None


def _shown(example: CaseViews, number: int) -> Shown:
    pictures = []
    for view in example.views:
        seen = f"{example.caption}. {example.name} {view.title}: outlines of the reference (solid) and the prediction (dashed)"
        height, width = view.grey.shape
        pictures.append(Picture(title=view.title, svg=picture_svg(view, seen), aspect=round(width / height, 4)))
    return Shown(name=example.name, caption=example.caption, anchor=f"case-{number}", pictures=pictures)
