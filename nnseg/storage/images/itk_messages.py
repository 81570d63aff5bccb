"""ITK's errors and warnings, for messages of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk


@contextmanager
def no_itk_warnings() -> Iterator[None]:
    """Switch off ITK's printed warnings; what matters is checked and raised."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def itk_message(error: RuntimeError) -> str:
    """The reason in an ITK error: its last line, without addresses of memory."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\(0x[0-9a-f]+\)", "", lines[-1].split("ERROR: ")[-1]) if lines else "unknown error"
