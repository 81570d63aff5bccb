"""What other programs take of the processor's cores, and numbers of threads that suit what they leave."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median
from typing import TypeVar

import psutil

from nnseg.core.processors import usable_cores, waits_actively

log = logging.getLogger(__name__)

NOTICED = 0.25
"""Cores that other programs take on average, from which a machine counts as busy."""

EFFICIENCY = 0.9
"""Share of the time of a step in which all threads compute, on idle cores (measured on two: .90)."""

INTERVAL = 5.0
"""Seconds between two looks at what other programs take."""

TIMED = 4
"""Steps whose median counts, for each number of threads."""

GAIN = 0.95
"""Another number of threads is kept if a step takes less than this share of its time before."""

LONGEST_PAUSE = 600.0
"""Seconds until a number of threads that was slower is tried again; the first pause is `INTERVAL`, each next twice the last."""

LOADED_EARLY = (
    "other programs use this machine, and torch was loaded before nnseg: its threads keep their cores while they wait, which can "
    "take ten times as long; import nnseg before torch, or set OMP_WAIT_POLICY=passive"
)

Result = TypeVar("Result")


class OtherPrograms:
    """The cores that all other programs take of those that this process may use, between two calls."""

    def __init__(self) -> None:
        self._before = self._times()

    def cores(self) -> float:
        """Mean number of cores since the last call, or since this object was made; 0 where the system does not tell."""
        now = self._times()
        (then, busy_before, own_before), (later, busy, own) = self._before, now
        self._before = now
        return max(0.0, (busy - busy_before - (own - own_before)) / max(later - then, 1e-3))

    def _times(self) -> tuple[float, float, float]:
        """Seconds now, and seconds of computing of all programs on our cores, and of this process and its children."""
        allowed = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
        cores = psutil.cpu_times(percpu=True)
        used = [cores[number] for number in allowed if number < len(cores)] if allowed else cores
        busy = sum(sum(core) - core.idle - _more(core, "iowait", "guest", "guest_nice") for core in used)
        own = os.times()
        return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system


def _more(core: object, *names: str) -> float:
    """Seconds of states that not all systems have: waiting, and what is counted twice."""
    return sum(getattr(core, name, 0.0) for name in names)


def idle_seconds(seconds: float, cpu_seconds: float, *, threads: int, others: float) -> float:
    """What work would take if no other program ran, from what it took.

    Args:
        seconds: of wall-clock.
        cpu_seconds: of all its threads, which wait without computing.
        others: cores that other programs took meanwhile.
    """
    return seconds if others < NOTICED else min(seconds, cpu_seconds / threads / EFFICIENCY)


class FittingThreads:
    """The number of threads of some work with many equal steps: fewer while other programs take cores, if that is faster.

    A number is tried when it follows from what the others take, and kept if steps then take less time.

    Args:
        most: threads on an idle machine.
        use: sets a number of threads.
        others: returns the cores that other programs took since it was last called.
        clock: seconds.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], None],
        others: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = self.threads = most
        self._use, self._others, self._clock = use, others or OtherPrograms().cores, clock
        self._times: deque[float] = deque(maxlen=TIMED)
        self._warming = 0
        self._before: tuple[int, float] | None = None
        self._look_at = clock() + INTERVAL
        self._pause = INTERVAL
        self._taken = 0.0
        self._warned = False

    def timed(self, steps: Iterator[Result], *, counted: Callable[[Result], bool]) -> Iterator[Result]:
        """The results of the steps, each timed, and the number of threads changed between them.

        Args:
            counted: False for steps that contain other work too.
        """
        start = self._clock()
        for result in steps:
            if counted(result):
                self.step(self._clock() - start)
            yield result
            start = self._clock()

    def step(self, seconds: float) -> None:
        """Take note of a step, and change the number of threads if it is time to."""
        if self._warming:
            self._warming -= 1
            return
        self._times.append(seconds)
        if len(self._times) < TIMED:
            return
        if self._before:
            self._decide(self._before)
        elif self._clock() >= self._look_at:
            self._look()

    def _look(self) -> None:
        self._look_at = self._clock() + self._pause
        self._taken = self._others()
        if self._taken >= NOTICED and waits_actively() and not self._warned:
            self._warned = True
            log.warning(LOADED_EARLY)
        wanted = min(self.most, max(1, round(usable_cores() - self._taken)))
        if wanted != self.threads:
            self._before = self.threads, median(self._times)
            self._change(wanted)

    def _decide(self, before: tuple[int, float]) -> None:
        (threads, seconds), now = before, median(self._times)
        self._before = None
        if now < GAIN * seconds:
            self._pause = INTERVAL
            log.info(
                "other programs take %.1f of %d cores: threads go from %d to %d, and a step takes %.3g s instead of %.3g",
                self._taken, usable_cores(), threads, self.threads, now, seconds,
            )  # fmt: skip
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._change(threads)
        self._look_at = self._clock() + self._pause
        self._others()  # from here on

    def _change(self, threads: int) -> None:
        self.threads = threads
        self._use(threads)
        self._times.clear()
        self._warming = 1
