"""`SubmittedCase`: a case of which a file of a submission is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SubmittedCase:
    """A case that was predicted.

    Args:
        name: of the case.
        images: of its scan, as `nnseg.core.dataset.Case` has them.
        label_map: the file.
        probabilities: the file; None if they are not asked for.
        spacing: of a scan whose files have none, mm along the stored axes (z, y, x).
    """

    name: str
    images: tuple[Path, ...]
    label_map: Path
    probabilities: Path | None = None
    spacing: tuple[float, float, float] | None = None
