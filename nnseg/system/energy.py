"""`EnergyMeter`: the energy in joules that a piece of work took, where the machine measures it.

Processors count it by RAPL (Intel and AMD on Linux), NVIDIA's cards by NVML. Both count for whole processors and cards, other
programs' work included, and leave out memory modules, fans and the power supply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


class Counter:
    """A rising counter of energy.

    Args:
        read: the counter's reading in joules; raises OSError if it cannot be read.
        span: joules after which it begins at zero again; infinite if it never does.
    """

    def __init__(self, read: Callable[[], float], span: float = math.inf) -> None:
        self._read, self._span = read, span
        self._last, self._total = read(), 0.0

    def joules(self) -> float:
        """Joules since this object was made.

        Raises:
            OSError: it cannot be read any more.
        """
        now = self._read()
        self._total += now - self._last + (self._span if now < self._last else 0.0)
        self._last = now
        return self._total


class EnergyMeter:
    """The energy that processors and cards have taken since this object was made.

    RAPL's counters begin again at zero after some 65 to 262 kJ, on a busy processor every 5 to 45 minutes. Read the meter every few
    minutes: if it happened twice since the last reading, the energy would be too low.

    Args:
        gpus: UUIDs of the cards, as ``nvidia-smi -L`` lists them; all if None. Cards need the package nvidia-ml-py.
        powercap: folder of RAPL's counters, which often only an administrator may read.
    """

    def __init__(self, *, gpus: Sequence[str] | None = None, powercap: Path = POWERCAP) -> None:
        self._counters = [*_processors(powercap), *_cards(gpus)]

    def joules(self) -> float | None:
        """Joules of all counters; None if there are none, or one can no longer be read."""
        with suppress(OSError):
            return sum(counter.joules() for counter in self._counters) if self._counters else None
        return None


def _processors(powercap: Path) -> Iterator[Counter]:
    """A counter for each processor package. A zone such as ``intel-rapl:0:1`` is part of its package and not counted again.

    Source: Linux's documentation, power/powercap/powercap.rst.
    """
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):  # often for administrators only
            if (zone / "name").read_text().startswith("package"):
                yield Counter(partial(_read_joules, zone / "energy_uj"), _read_joules(zone / "max_energy_range_uj"))


def _read_joules(file: Path) -> float:
    return int(file.read_text()) / 1e6


def _cards(gpus: Sequence[str] | None) -> list[Counter]:
    """A counter for each of NVIDIA's cards (Volta and later have one); none without the driver or the package."""
    try:
        import pynvml  # noqa: PLC0415 (an optional extra)
    except ImportError:
        return []

    def read(card: Any) -> float:
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
                found.append(Counter(partial(read, card)))
    return found
