"""`Frame` and `DicomFile`: what headers of DICOM files say, whatever their kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One plane of pixels.

    Args:
        index: of the frame in its file, from 0.
        corner: of the plane in the frame (row, column), of a mosaic's tile.
        size: rows, columns.
        colours: samples of a pixel.
        position: ImagePositionPatient in mm; () if it is not known.
        orientation: ImageOrientationPatient, six cosines; () if it is not known.
        spacing: mm between rows and between columns; () if it is not known.
        depth: SpacingBetweenSlices or SliceThickness in mm; None if neither is said.
        slope, intercept: of the stored values.
        rescale_type: the unit that they lead to, by RescaleType or DoseUnits; "" if it is not said.
        marks: what tells frames at one place apart: echo, b value, time, ...
    """

    path: Path
    index: int = 0
    corner: tuple[int, int] = (0, 0)
    size: tuple[int, int]
    colours: int = 1
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    depth: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    rescale_type: str = ""
    marks: dict[str, Any] = field(default_factory=dict)

    @property
    def is_rescaled(self) -> bool:
        """True if slope and intercept change the stored values, or their unit is said."""
        return bool(self.rescale_type) or (self.slope, self.intercept) != (1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """What the header of a file says.

    Args:
        uid: its SeriesInstanceUID.
        kind: its SOP class UID.
        stack: of which stack of frames the file is a part: the file itself for files of many frames that are not continued.
        is_localiser: a planning view, not part of a volume.
        in_time: the frames follow in time, not in space.
    """

    path: Path
    uid: str
    number: str
    description: str
    modality: str
    kind: str
    stack: str
    is_localiser: bool
    in_time: bool
    frames: tuple[Frame, ...]
