"""Steps on demand: trainings that stand still until they are asked for some steps, so that several can be timed in turn.

A training runs in a process of its own and calls `serve`; `Stepper` starts, asks, stops and continues it. Stopped (SIGSTOP) are all
processes of the training, its loaders too, so that what is asked to wait takes no time from what is measured, and goes on from the
very state it was stopped in. Needs psutil. Knows neither nnseg nor nnU-Net.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from measure import MEGABYTE, memory_of

GLANCE = 0.5
"""Seconds between two looks at memory."""


def answers() -> Any:
    """Where answers go: standard output as it was; what libraries print goes to the log from then on."""
    file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return file


class Clock:
    """How long a CUDA device computed, by its own events around each step; of other devices nothing is known.

    Gaps within a step, where the processor does not keep up, count as busy, so that the share is the most it can be.

    Args:
        torch: the module, from either side's environment.
        device: that steps are taken on.
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._cuda = torch, device.type == "cuda"
        self._events: list[tuple[Any, Any]] = []

    def timed(self, step: Callable[[Any], object], batch: Any) -> None:
        """Take a step."""
        if not self._cuda:
            step(batch)
            return
        first, last = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        step(batch)
        last.record()
        self._events.append((first, last))

    def wait(self) -> float | None:
        """Wait for the device; returns the seconds it was busy with steps since it was last waited for."""
        if not self._cuda:
            return None
        self._torch.cuda.synchronize()
        busy = sum(first.elapsed_time(last) for first, last in self._events) / 1e3
        self._events.clear()
        return float(busy)


def serve(out: Any, about: dict[str, Any], *, load: Callable[[], Any], step: Callable[[Any], object], clock: Clock) -> None:
    """Take as many steps as each line of standard input asks for, and answer with what they took.

    Args:
        out: from `answers`.
        about: the training, told when it is ready.
        load, step: a batch, and a step with it.
        clock: of the device.
    """
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        clock.wait()
        waiting, start = 0.0, time.perf_counter()
        for _ in range(int(line)):
            before = time.perf_counter()
            batch = load()
            waiting += time.perf_counter() - before
            clock.timed(step, batch)
        busy = clock.wait()
        wall = time.perf_counter() - start
        print(json.dumps({"wall_s": wall, "waiting_s": waiting, "busy_s": busy}), file=out, flush=True)


class Stepper:
    """A training in other processes, standing still unless it is asked for steps.

    Args:
        command: that ends in `serve`.
        log: for what it prints.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, start_new_session=True
        )
        self.about = self._answer()
        self._signal(signal.SIGSTOP)

    def take(self, steps: int) -> dict[str, float]:
        """What so many steps took, a patch at a time: wall-clock, of it waiting for data, and processor time of all processes."""
        self._signal(signal.SIGCONT)
        before = self._processor_seconds()
        found = self._ask(steps)
        spent = self._processor_seconds() - before
        self._signal(signal.SIGSTOP)
        patches = steps * self.about["batch_size"]
        busy = {} if found["busy_s"] is None else {"busy_share": found["busy_s"] / found["wall_s"]}
        return {
            "s_per_patch": found["wall_s"] / patches,
            "waiting_s_per_patch": found["waiting_s"] / patches,
            "cpu_s_per_patch": spent / patches,
            **busy,
        }

    def peak_mb(self, steps: int) -> float:
        """The most memory that the processes held together (PSS) while they took so many steps."""
        self._signal(signal.SIGCONT)
        self._send(steps)
        most = 0
        while not select.select([self._process.stdout], [], [], GLANCE)[0]:
            most = max(most, memory_of(self._process.pid)[1])
        self._answer()
        self._signal(signal.SIGSTOP)
        return round(most / MEGABYTE, 1)

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _ask(self, steps: int) -> dict[str, Any]:
        self._send(steps)
        return self._answer()

    def _send(self, steps: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a training ended too early; see {self._log}")
        return dict(json.loads(line))

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def _processor_seconds(self) -> float:
        root = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))
