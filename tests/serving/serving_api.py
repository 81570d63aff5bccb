"""A server with a stand-in of a model, on a free port of the loopback, and the rules that its description follows."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from standin import start

from nnseg.serving.messages import PredictionOrder
from nnseg.serving.pool import WorkerPool
from nnseg.serving.server_jobs import Jobs, ServedModel


@contextmanager
def served(folder: Path, *names: str, most: int = 16, **access: Any) -> Iterator[tuple[str, Jobs]]:
    """The address of a server of stand-ins with these names, by default "bright", and its jobs."""
    import uvicorn

    from nnseg.serving.server import Access, make_app
    from nnseg.serving.server_protocol import Protocol

    with ExitStack() as stack:
        models = {}
        for name in names or ("bright",):
            (out := folder / f"out_{name}").mkdir()
            order = PredictionOrder(models=(Path(name),), out=out, device="cpu")
            pool = WorkerPool(order, start=start, memory_gb=100.0)
            stack.callback(pool.end)
            models[name] = ServedModel(name, pool)
        jobs = stack.enter_context(Jobs(models, folder / "uploads", most=most))
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        app = make_app(jobs, Access(**access))
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1, http=Protocol)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", jobs
        finally:
            server.should_exit = True
            thread.join(30)


def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for a condition; it must come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
