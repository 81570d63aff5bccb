"""`LIMITS`: how much one file may announce, hold or ask for. The readers ask here before they allocate.

Real data stay far below; a file above is damaged, or made to take the memory or time of a machine. The environment variable
``NNSEG_LIMITS`` changes limits for one command and its child processes: ``NNSEG_LIMITS="labels=30000 plane_pixels=4e8"``.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nnseg.core.errors import NnsegError

VARIABLE: Final = "NNSEG_LIMITS"

LIMITS: Final[dict[str, int]] = {
    "memory_percent": 80,
    "plane_pixels": 89_478_485,
    "whole_pixels": 2**26,
    "image_values": 2**48,
    "packed_dicom_bytes": 256_000_000,
    "nested_sequences": 64,
    "dicom_elements": 1_000_000,
    "frames": 200_000,
    "pages": 20_000,
    "data_files": 100_000,
    "header_lines": 20_000,
    "jpeg_scans": 200,
    "chunks": 1_000_000,
    "text_bytes": 64_000_000,
    "text_entries": 4_000_000,
    "plan_bytes": 4_000_000,
    "plan_entries": 60_000,
    "run_bytes": 256_000_000,
    "run_entries": 5_000_000,
    "manifest_lines": 500_000,
    "key_parts": 64,
    "labels": 10_000,
    "name_letters": 1_000,
    "regions": 500,
    "comparisons": 1_000,
    "groupings": 1_000,
    "channels": 1_000,
    "folds": 1_000,
    "epochs": 100_000,
    "blocks": 256,
    "weights": 2**32,
    "feature_values": 2**36,
    "members": 256,
    "model_header_bytes": 16_000_000,
    "model_header_entries": 1_000_000,
    "model_tensors": 20_000,
    "checkpoint_program_bytes": 4_000_000,
    "checkpoint_steps": 200_000,
    "case_text_bytes": 4_000_000,
    "upload_bytes": 4_000_000_000,
    "folder_visits": 8,
    "folder_depth": 100,
}
"""By name; docs/limits.md explains each.

``plane_pixels`` is Pillow's own MAX_IMAGE_PIXELS: a quarter of a gigabyte of 24-bit colours.
"""

PILLOW_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP")
"""What a picture may be, whatever its suffix: Pillow knows others, of which some start programs (EPS starts Ghostscript)."""


def limit(name: str) -> int:
    """A limit of `LIMITS`, or what ``NNSEG_LIMITS`` says instead."""
    return _limits(os.environ.get(VARIABLE, ""))[name]


def raise_by(name: str) -> str:
    """The words of a message that say how a limit is changed."""
    return f"{VARIABLE}={name}=NUMBER raises the limit"


def check_limit(
    name: str, count: int, place: str | Path, found: str, kind: type[NnsegError], advice: str = "correct it", code: str = ""
) -> None:
    """Raise an error of a kind for more than a limit allows.

    Args:
        place: file or folder that asks for it.
        found: what it has, with {:,} for the count.
        code: of the finding, see `nnseg.core.codes`.
    """
    if count > limit(name):
        raise kind.at(place, found.format(count), f"at most {limit(name):,}", f"{advice}; {raise_by(name)}", code)


def wrong_entries() -> str:
    """The entries of ``NNSEG_LIMITS`` that are none and are not heeded; "" if all are."""
    return ", ".join(entry for entry in os.environ.get(VARIABLE, "").split() if not _parsed(entry))


@cache
def _limits(text: str) -> dict[str, int]:
    return LIMITS | dict(filter(None, map(_parsed, text.split())))


def _parsed(entry: str) -> tuple[str, int] | None:
    match = re.fullmatch(r"(\w+)=(\d{1,18})(?:e(\d{1,2}))?", entry)
    if match is None or match[1] not in LIMITS:
        return None
    number = int(match[2]) * 10 ** int(match[3] or 0)
    return (match[1], number) if 0 < number < 2**62 else None  # the system counts bytes up to 2**63
