"""``nnseg serve``: models loaded once, which predict what clients send over HTTP, and what DICOM nodes send."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import uvicorn

from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.serving.messages import PredictionOrder
from nnseg.serving.pool import FREE_RAM_SHARE, WorkerPool
from nnseg.serving.server import Access, make_app
from nnseg.serving.server_jobs import Jobs, ServedModel
from nnseg.serving.server_protocol import Protocol
from nnseg.system.machine import free_ram_gb

if TYPE_CHECKING:
    from nnseg.serving.server_dicom import DicomNode

TOKEN = "NNSEG_TOKEN"  # noqa: S105 (the name of a variable)

GRACE_SECONDS = 3
"""Time that running requests have when the server is asked to end."""


class Served(FrozenModel):
    """What ``nnseg serve`` does, and for whom.

    Args:
        models: run folders or exported files, each a model of its own.
        host, port: to listen at; port 0 for any free one.
        token: that clients must send; "" for none.
        folders: below which clients may name files.
        sockets: folders /input and /output of cases of grand-challenge.org.
        most: scans without an answer at a time.
        dicom_port: to listen at for DICOM series; None for not at all.
        dicom_title: of that node.
        send: HOST:PORT:TITLE of the node that their label maps are sent to.
        devices: as for `WorkerPool`.
        memory_gb: RAM that all models may use; by default most of what is free.
    """

    models: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    folders: tuple[Path, ...] = ()
    sockets: tuple[Path, Path] | None = None
    most: int = 16
    dicom_port: int | None = None
    dicom_title: str = "NNSEG"
    send: str = ""
    devices: tuple[str, ...] = ()
    memory_gb: float | None = None


def read_token(file: Path | None) -> str:
    """The token in a file, or without one in the variable NNSEG_TOKEN; "" if there is none.

    Raises:
        RunError: the file cannot be read, or the token cannot be sent in a header.
    """
    try:
        token = os.environ.get(TOKEN, "") if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise RunError(f"{file}: cannot be read ({error}); write the token into it, one line of text") from error
    if (file and not token) or not (token.isascii() and token.isprintable()) or " " in token:
        raise RunError(f"{file or TOKEN}: holds no token; write letters and digits, such as openssl rand -hex 32 prints")
    return token


def serve(served: Served, order: PredictionOrder, told: Callable[[str], None]) -> None:
    """Serve models until a signal ends it.

    Args:
        order: how all models predict; their paths and folders are set here.
        told: called with the addresses, once all models are loaded.

    Raises:
        RunError: a token is missing, the address is taken, or two models have the same name.
        NnsegError: a model cannot be loaded.
    """
    if not served.token and not _is_loopback(served.host):
        raise RunError(f"other machines can reach {served.host}: clients must send a token; give --token-file FILE or set {TOKEN}")
    make_node = _dicom_node(served)
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(served.host, served.port))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="nnseg-serve-", ignore_cleanup_errors=True)))
        models = _load(served, order, folder, stack)
        jobs = stack.enter_context(Jobs(models, folder / "uploads", most=served.most))
        app = make_app(jobs, Access(token=served.token, folders=served.folders, sockets=served.sockets))
        if make_node:
            node = stack.enter_context(make_node(jobs))
            told(f"DICOM node {served.dicom_title} at {served.host}:{node.port}")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            http=Protocol,
            ws="none",
        )
        host, port = listening.getsockname()[:2]
        told(f"serving at http://[{host}]:{port}" if ":" in host else f"serving at http://{host}:{port}")
        uvicorn.Server(config).run(sockets=[listening])


def _dicom_node(served: Served) -> Callable[[Jobs], DicomNode] | None:
    """What makes the DICOM node, if there shall be one; NnsegError for settings that are none of a node."""
    if served.dicom_port is None:
        return None
    from nnseg.serving.server_dicom import DicomNode, check_title, parse_destination  # noqa: PLC0415 (an extra)

    title, destination = check_title(served.dicom_title), parse_destination(served.send)
    return partial(DicomNode, host=served.host, port=served.dicom_port, title=title, destination=destination)


def _load(served: Served, order: PredictionOrder, folder: Path, stack: ExitStack) -> dict[str, ServedModel]:
    """The models by the names of their files or folders; their processes load at the same time."""
    memory_gb = FREE_RAM_SHARE * free_ram_gb() if served.memory_gb is None else served.memory_gb
    pools: dict[str, WorkerPool] = {}
    for path in served.models:
        name = path.resolve().name.removesuffix(".nnseg")
        if name in pools:
            raise RunError(f'two models are called "{name}"; rename one, since clients choose models by their names')
        (out := folder / f"model_{len(pools)}").mkdir()
        own = order.model_copy(update={"models": (path,), "out": out})
        pools[name] = WorkerPool(own, devices=served.devices, memory_gb=memory_gb / len(served.models))
        stack.callback(pools[name].end)
    return {name: ServedModel(name, pool) for name, pool in pools.items()}


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; RunError if the address is taken, or is none of this machine."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise RunError(f"{host}:{port} cannot be listened at ({error.strerror}); choose another --port or --host") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
