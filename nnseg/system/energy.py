"""`EnergyMeter`: joules that a piece of work took, where the machine counts them.

Processors count by RAPL (Linux: Intel's and AMD's), NVIDIA's cards by NVML. Both count for whole packages and cards: what other
programs do there at the same time is in the figure, and what memory modules, fans and the power supply take is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Counter:
    """One rising count of energy.

    Args:
        count: reads it, in joules; raises OSError where that cannot be done.
        span: joules after which it begins at zero again; infinite if it never does.
        last: as it was read last.
        total: joules since it was first read.
    """

    count: Callable[[], float]
    span: float
    last: float
    total: float = 0.0

    def joules(self) -> float:
        """Joules since it was first read.

        Raises:
            OSError: it cannot be read any more.
        """
        now = self.count()
        self.total += now - self.last + (self.span if now < self.last else 0.0)
        self.last = now
        return self.total


class EnergyMeter:
    """What processors and cards have taken since this was made.

    RAPL's counters begin anew after some 65 to 262 kJ, on a busy processor every 5 to 45 minutes, and nobody can tell whether that
    happened twice: look at the meter every few minutes.

    Args:
        gpus: UUIDs of the cards, as ``nvidia-smi -L`` lists them; all if None. Cards need the package nvidia-ml-py.
        powercap: where Linux shows RAPL's counters, which often only an administrator may read.
    """

    def __init__(self, *, gpus: Sequence[str] | None = None, powercap: Path = POWERCAP) -> None:
        self._counters = _packages(powercap) + _cards(gpus)

    def joules(self) -> float | None:
        """Joules of all that can be read; None where nothing can, or something no longer."""
        with suppress(OSError):
            return sum(counter.joules() for counter in self._counters) if self._counters else None
        return None


def _packages(powercap: Path) -> list[Counter]:
    """Counters of the processors. A zone such as ``intel-rapl:0:1`` is part of its package and not counted again.

    Source: Linux's documentation, power/powercap/powercap.rst.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):  # often for administrators only
            if (zone / "name").read_text().startswith("package"):
                span = _microjoules(zone / "max_energy_range_uj")
                found.append(_counter(partial(_microjoules, zone / "energy_uj"), span))
    return found


def _microjoules(file: Path) -> float:
    return int(file.read_text()) / 1e6


def _cards(gpus: Sequence[str] | None) -> list[Counter]:
    """Counters of NVIDIA's cards (Volta and later have one); none without the driver or the package."""
    try:
        import pynvml  # noqa: PLC0415 (an optional extra)
    except ImportError:
        return []

    def count(card: Any) -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    found = []
    with suppress(pynvml.NVMLError):  # no driver, or an unknown card
        pynvml.nvmlInit()
        if gpus is None:
            cards = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        else:
            cards = [pynvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
        for card in cards:
            with suppress(OSError):  # too old to count
                found.append(_counter(partial(count, card), math.inf))
    return found


def _counter(count: Callable[[], float], span: float) -> Counter:
    return Counter(count=count, span=span, last=count())
