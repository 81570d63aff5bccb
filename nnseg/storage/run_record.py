"""``run.json``: who made a run, from what, and what each stage took."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nnseg.storage.files import write_text
from nnseg.storage.run_folder import RunFolder, read_json
from nnseg.system.machine import give_back, peak_ram

PACKAGES = ("nnseg", "torch", "numpy", "scipy", "SimpleITK", "nibabel", "scikit-image", "batchgenerators", "blosc2", "safetensors")


def read_record(run: RunFolder) -> dict[str, Any]:
    """The record so far; empty for a new run."""
    if not run.record_file.exists():
        return {}
    return read_json(run.record_file, dict[str, Any])


def update_record(run: RunFolder, **entries: Any) -> None:
    """Add or replace entries of the record."""
    record = {"versions": versions(), "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"}
    record |= read_record(run) | entries
    write_text(run.record_file, json.dumps(record, indent=1) + "\n")


@contextmanager
def timed(run: RunFolder, stage: str) -> Iterator[None]:
    """Record how many seconds a stage took, and the most RAM it held with its workers, when it last did any work.

    What earlier stages freed is handed back first, so that it is not counted as this one's.
    """
    start = time.perf_counter()
    give_back()
    with peak_ram() as peak:
        yield
    seconds = round(time.perf_counter() - start, 2)
    record = read_record(run)
    stages, peaks = dict(record.get("seconds", {})), dict(record.get("peak_gb", {}))
    if seconds >= stages.get(stage, 0.0) or stage not in stages:  # a resumed run that finds the work done keeps the real figure
        stages[stage], peaks[stage] = seconds, round(peak.gb, 3)
        update_record(run, seconds=stages, peak_gb=peaks, finished=datetime.now(UTC).isoformat(timespec="seconds"))


@cache
def versions() -> dict[str, str]:
    """Installed versions of what can change a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
