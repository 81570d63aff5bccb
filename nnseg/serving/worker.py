"""A process that predicts. It reads an order and tasks from stdin and writes messages to stdout, each a line of JSON.

It ends at once when its stdin is closed, so that it never outlives its parent.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Set
from dataclasses import asdict, replace
from queue import SimpleQueue

from nnseg.core.errors import NnsegError
from nnseg.inference.predict import Predictor
from nnseg.network.device import resolve_device
from nnseg.network.load import load_model, merge, with_thresholds
from nnseg.serving.messages import Alive, PredictionOrder, PredictionTask, Ready, Refused
from nnseg.serving.outputs import OutputTarget
from nnseg.serving.pipeline import CasePredictor, PredictionPipeline
from nnseg.system.log_format import log_lines
from nnseg.system.machine import ProcessUsage, free_ram_gb, held_gb, process_usage
from nnseg.system.process import ParentConnection

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two `Alive` messages."""


def main() -> None:
    """Predict for the parent process."""
    serve(load_predictor)


def serve(load: Callable[[PredictionOrder], tuple[CasePredictor, str]]) -> None:
    """Predict the tasks that the parent sends, until it closes stdin.

    Args:
        load: makes the predictor, and returns it with the device it computes on.
    """
    parent = ParentConnection()
    order = parent.receive(PredictionOrder)
    log_lines(logging.DEBUG if order.verbose else logging.INFO)
    tasks: SimpleQueue[PredictionTask] = SimpleQueue()
    withdrawn = set[str]()
    threading.Thread(target=_receive_tasks, args=(parent, tasks, withdrawn), daemon=True, name="receiver").start()
    threading.Thread(target=_send_heartbeats, args=(parent,), daemon=True, name="heartbeat").start()
    try:
        predictor, device = load(order)
        pipeline = _start_pipeline(order, predictor, device, parent, withdrawn)
    except NnsegError as error:
        parent.send(Refused(reason=error.coded))
        return
    pipeline.run(iter(tasks.get, None))


def _start_pipeline(
    order: PredictionOrder, predictor: CasePredictor, device: str, parent: ParentConnection, withdrawn: Set[str]
) -> PredictionPipeline:
    """The pipeline for an order, after the parent was sent `Ready`."""
    model = predictor.model
    ready = Ready(
        model=model.key(),
        channels=len(model.channels),
        channel_names=model.channels,
        device=device,
        base_gb=round(held_gb(), 3),
        labels=model.labels,
        population=model.population,
    )
    target = OutputTarget.of(order, ready.model)
    own_gb = order.ram_share * (free_ram_gb() + ready.base_gb)
    memory_gb, exclusive_gb = ((own_gb or gb) - ready.base_gb for gb in (order.memory_gb, order.exclusive_gb))
    pipeline = PredictionPipeline(
        predictor,
        target,
        parent.send,
        memory_gb=memory_gb,
        exclusive_gb=exclusive_gb,
        keep_freed=device == "cpu",
        withdrawn=withdrawn,
    )
    parent.send(ready)
    return pipeline


def _receive_tasks(parent: ParentConnection, tasks: SimpleQueue[PredictionTask], withdrawn: set[str]) -> None:
    for task in parent.receive_all(PredictionTask):
        if task.withdrawn:
            withdrawn.add(task.case.name)
        else:
            tasks.put(task)
    os._exit(0)  # without cleaning up: other threads may be anywhere


def _send_heartbeats(parent: ParentConnection) -> None:
    while True:
        usage = process_usage(os.getpid()) or ProcessUsage(cpu_seconds=time.process_time())
        parent.send(Alive(**asdict(usage)))
        time.sleep(HEARTBEAT_INTERVAL)


def load_predictor(order: PredictionOrder) -> tuple[CasePredictor, str]:
    """The predictor for an order, with the device that was found.

    Raises:
        ModelError: a model, or a fold of one, cannot be loaded, or they do not go together, or have no label of a threshold.
        RunError: there is no such device, or it is none of the runtime's.
        NnsegError: the extra for the runtime is not installed.
    """
    device = resolve_device(order.device)
    model = merge([load_model(path, folds=order.folds) for path in order.models])
    if not order.postprocessing:
        model = replace(model, postprocessing=(), cutoffs=None)  # which were chosen on other label maps
    model = with_thresholds(model, order.thresholds)
    predictor = Predictor(
        model,
        device=device,
        step=order.step,
        mirror=order.mirror,
        classic=order.classic,
        dropout=order.dropout,
        runtime=order.runtime,
    )
    return predictor, str(device)
