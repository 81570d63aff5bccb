"""The viewer of the report: slices and volumes of a few cases, drawn by niivue, which is embedded in the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from nnseg.core.colours import OKABE_ITO
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.formatting import template_environment
from nnseg.reporting.payload import PackedCase, affine_of, pack_all

MOST_BYTES = 8_000_000
"""Limit for all volumes of a page, as base64."""

IGNORED = "#8a8f98"
NO_PICTURE = Markup()


def viewer_html(
    cases: Sequence[CaseImages] | Sequence[PackedCase], *, most_bytes: int = MOST_BYTES, still: Markup = NO_PICTURE
) -> Markup:
    """The viewer as a block of a page, with its styles, scripts and volumes; empty without cases.

    The page's Content-Security-Policy must allow `script_sources`, inline styles, and images from ``data:``.

    Args:
        cases: of one dataset, so with the same labels; packed cases are not packed again.
        most_bytes: limit for the volumes of the others, as base64.
        still: a picture of the first case, shown until the viewer is started.
    """
    if not cases:
        return Markup()
    given = [case for case in cases if isinstance(case, CaseImages)]
    packed = [case for case in cases if isinstance(case, PackedCase)] or pack_all(given, most_bytes=room(most_bytes))
    blocks = {_id(i, name): base64.b64encode(content).decode() for i, p in enumerate(packed) for name, content in p.volumes.items()}
    about = {"labels": _legend(packed[0].labels), "cases": [_about(i, p) for i, p in enumerate(packed)]}
    html = _template().render(
        about=about,
        still=still,
        blocks=blocks,
        has_reference=any("reference" in p.volumes for p in packed),
        has_uncertainty=any("uncertainty" in p.volumes for p in packed),
        script=Markup(_text("viewer.js")),  # noqa: S704 (our own file)
        niivue=_niivue_packed(),
        licence=_text("vendor/niivue.LICENSE.txt"),
    )
    return Markup(html)  # noqa: S704 (the template has escaped it)


def room(most_bytes: int = MOST_BYTES) -> int:
    """Bytes that fit into so many characters of base64."""
    return most_bytes * 3 // 4


@cache
def script_sources() -> tuple[str, ...]:
    """Hashes of the viewer's two scripts, for ``script-src``."""
    return tuple(script_hash(_text(name)) for name in ("viewer.js", "vendor/niivue.umd.js"))


def script_hash(text: str) -> str:
    """The source expression that allows an inline script of just this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _about(number: int, packed: PackedCase) -> dict[str, Any]:
    """Data of a case for the script; all positions are (x, y, z)."""
    scans = [name for name in packed.volumes if name.startswith("scan")]
    return {
        "name": packed.name,
        "caption": packed.caption,
        "notes": packed.notes,
        "shape": packed.grid.shape[::-1],
        "first": packed.box.start[::-1],
        "factor": packed.factor[::-1],
        "affine": affine_of(packed.grid)[:3].tolist(),
        "flat": packed.grid.is_2d,
        "colour": packed.colour,
        "scans": [{"name": packed.channels[i], "id": _id(number, scan)} for i, scan in enumerate(scans)],
        "maps": {name: _id(number, name) for name in packed.volumes if name not in scans},
        "start": packed.start,
        "jumps": dict(packed.jumps),
        "jumpsTo": packed.jumps_to,
    }


def _legend(labels: Labels) -> list[dict[str, str]]:
    """Name and colours of each label but the background, by index from 1.

    Reference and prediction of a label have one colour, and two styles of outline; a single label has a colour for each.
    """
    colours = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(labels.names) - 1)]
    other = [OKABE_ITO[1]] if len(colours) == 1 else colours
    legend = [{"name": name, "prediction": p, "reference": r} for name, p, r in zip(labels.names[1:], colours, other, strict=True)]
    return legend + ([{"name": "ignored", "prediction": IGNORED, "reference": IGNORED}] if labels.ignore is not None else [])


def _id(number: int, name: str) -> str:
    return f"viewer-{number}-{name.replace(' ', '-')}"


@cache
def _template() -> Template:
    return template_environment("nnseg.reporting").get_template("viewer.html.j2")


@cache
def _niivue_packed() -> str:
    return base64.b64encode(gzip.compress(_text("vendor/niivue.umd.js").encode(), 9, mtime=0)).decode()


@cache
def _text(name: str) -> str:
    return resources.files("nnseg.reporting").joinpath(name).read_bytes().decode()
