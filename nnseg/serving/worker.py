"""Predicting for another process: its orders come in on stdin, what happens goes out on stdout, a line of JSON each.

No queues of `multiprocessing`, no shared memory, no pickle: it works in daemons, in small containers and on read-only disks. The
process ends, whatever it is at, as soon as its stdin is closed, so that it never outlives the one that it works for.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from pydantic import BaseModel

from nnseg.core.errors import NnsegError
from nnseg.inference.predict import Predictor
from nnseg.network.device import resolve_device
from nnseg.network.load import load_model, merge
from nnseg.serving.messages import Alive, PredictionOrder, PredictionTask, Ready, Refused
from nnseg.serving.outputs import OutputTarget
from nnseg.serving.pipeline import CasePredictor, PredictionPipeline
from nnseg.system.machine import held_gb

BEAT = 1.0
"""Seconds between two signs of life."""

DIES_WITH_PARENT = 1
"""Source: Linux, sys/prctl.h, PR_SET_PDEATHSIG."""

STACKS = getattr(signal, "SIGUSR1", None)
"""The signal upon which a process says on stderr where each of its threads is; None on Windows."""


def serve(load: Callable[[PredictionOrder], tuple[CasePredictor, str]]) -> None:
    """Do what stdin asks for, until it is closed.

    Args:
        load: makes ready what predicts, and says on which device.
    """
    parent = os.getppid()
    if STACKS is not None:
        faulthandler.register(STACKS, file=sys.stderr, all_threads=True)
    _die_early(parent)
    outgoing = _MessageWriter()
    order = PredictionOrder.model_validate_json(sys.stdin.buffer.readline())
    logging.basicConfig(level=logging.DEBUG if order.verbose else logging.INFO, format="%(message)s")
    tasks: SimpleQueue[PredictionTask] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True, name="listener").start()
    threading.Thread(target=outgoing.beat, daemon=True, name="heart").start()
    try:
        predictor, device = load(order)
        line = _line(order, predictor, device, outgoing)
    except NnsegError as error:
        outgoing.say(Refused(reason=str(error)))
        return
    line.run(_coming(tasks))


def _line(order: PredictionOrder, predictor: CasePredictor, device: str, outgoing: _MessageWriter) -> PredictionPipeline:
    """The line for an order, after its readiness was told."""
    model = predictor.model
    ready = Ready(
        model=model.key(),
        channels=len(model.channels),
        device=device,
        base_gb=round(held_gb(), 3),
        labels=model.labels,
        population=model.population,
    )
    target = OutputTarget.of(order, ready.model)
    room_gb, most_gb = (gb - ready.base_gb for gb in (order.room_gb, order.most_gb))
    line = PredictionPipeline(predictor, target, outgoing.say, room_gb=room_gb, most_gb=most_gb, keep=device == "cpu")
    outgoing.say(ready)
    return line


class _MessageWriter:
    """The way out, for all threads. What libraries print to stdout goes to stderr from now on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def say(self, message: BaseModel) -> None:
        with self._lock, suppress(BrokenPipeError):  # then the listener is about to end this process
            self._stream.write(message.model_dump_json().encode() + b"\n")

    def beat(self) -> None:
        while True:
            self.say(Alive(cpu_seconds=time.process_time()))
            time.sleep(BEAT)


def _listen(stream: IO[bytes], tasks: SimpleQueue[PredictionTask]) -> None:
    for line in stream:
        tasks.put(PredictionTask.model_validate_json(line))
    os._exit(0)  # nobody is left who would want an answer; other threads may be in the midst of anything


def _coming(tasks: SimpleQueue[PredictionTask]) -> Iterator[PredictionTask]:
    while True:
        yield tasks.get()


def _die_early(parent: int) -> None:
    """Make sure not to outlive the parent even if stopped, and to be the one that goes where memory runs out (on Linux)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def main() -> None:
    """Serve whoever started this process."""
    serve(load_predictor)


def load_predictor(order: PredictionOrder) -> tuple[CasePredictor, str]:
    """The predictor for an order, with the device that was found.

    Raises:
        ModelError: a model, or a fold of one, cannot be loaded, or they do not go together.
        RunError: there is no such device.
    """
    device = resolve_device(order.device)
    model = merge([load_model(path, folds=order.folds) for path in order.models])
    if not order.postprocessing:
        model = replace(model, postprocessing=())
    return Predictor(model, device=device, step=order.step, mirror=order.mirror, classic=order.classic), str(device)
