"""`make_app`: the server of ``nnseg serve``, a documented API over HTTP for many clients; it needs the extra "serve".

Its operations are described in ``server_api.json``, which it shows at /openapi.json. The containers of grand-challenge.org have a
server of their own (`nnseg.serving.grand_challenge`), which needs no further package; this one answers the same requests.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nnseg.core.errors import NnsegError, ScanError
from nnseg.serving.server_jobs import FullError, Job, Jobs, UnknownError
from nnseg.serving.server_metrics import metrics_text
from nnseg.serving.server_uploads import NotAllowedError, TooLargeError, allowed_path, check_suffix, images_of, receive
from nnseg.serving.sockets import find_images, result_file
from nnseg.storage.images.write import check_label_suffix

STALLED_SECONDS = 60.0
"""Time without a byte after which an upload is given up."""

LEAST_RATE = 1000
"""Bytes per second of an upload, from that time on."""

LONGEST_WAIT = 30.0
"""Seconds for which a request for a job may wait for its end."""

RETRY_SECONDS = 5
"""What a client is told to wait before it asks again, if there are too many scans."""

MOST_DRAINED = 16_000_000
"""Bytes of a refused upload that are read all the same: a client that is cut off while it sends may not see the answer."""

MOST_PATHS_BYTES = 100_000
"""Of a request that names paths."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine. Without a token only they are answered, so that a web page under another name cannot ask a browser to."""

_LOCAL_PAGE = re.compile(rb"https?://(?:%s)(?::\d+)?" % b"|".join(re.escape(name.encode()) for name in LOOPBACK))

STATUS: dict[type[NnsegError], int] = {FullError: 503, TooLargeError: 413, NotAllowedError: 403, UnknownError: 404}
"""Of errors; that of others is 422."""

_RETRY = {"Retry-After": str(RETRY_SECONDS)}

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Access:
    """What clients may do.

    Args:
        token: that they must send; "" for none.
        folders: below which they may name files.
        sockets: folders /input and /output of cases of grand-challenge.org; None if it is not answered.
    """

    token: str = ""
    folders: tuple[Path, ...] = ()
    sockets: tuple[Path, Path] | None = None


def make_app(jobs: Jobs, access: Access) -> Starlette:
    """The application that answers requests, for a server of ASGI such as uvicorn.

    Args:
        jobs: of its models, which predict.
        access: what clients may do.
    """
    server = _Server(jobs, access)
    routes: dict[tuple[str, str], Endpoint] = {
        ("GET", "/health"): server.health,
        ("GET", "/models"): server.list_models,
        ("GET", "/metrics"): server.metrics,
        ("GET", "/openapi.json"): server.describe,
        ("POST", "/predict"): server.predict,
        ("GET", "/jobs/{id}"): server.job,
        ("GET", "/jobs/{id}/label-map"): server.label_map,
        ("DELETE", "/jobs/{id}"): server.cancel,
        ("POST", "/invoke"): server.invoke,
    }
    if access.token:
        guards = [Middleware(_TokenGuard, token=access.token)]
    else:
        guards = [Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK, www_redirect=False), Middleware(_OriginGuard)]
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for (method, path), endpoint in routes.items()],
        middleware=guards,
        exception_handlers={NnsegError: _refuse, ClientDisconnect: _nobody, OSError: _no_room, HTTPException: _not_found},
    )


def api_description() -> dict[str, Any]:
    """The description of the API, in the form of OpenAPI 3.1."""
    described: dict[str, Any] = json.loads((files("nnseg.serving") / "server_api.json").read_text(encoding="utf-8"))
    described["info"]["version"] = version("nnseg")
    return described


class _TokenGuard:
    """Answers 401 to requests without the token, but for /health, which orchestrators ask."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "http" and scope["path"] != "/health" and not hmac.compare_digest(given, self._expected):
            answer = JSONResponse({"error": "send the header Authorization: Bearer TOKEN"}, 401, {"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _OriginGuard:
    """Answers 403 to web pages of other machines: a browser sends what they post, though it does not show them the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = dict(scope.get("headers", ())).get(b"origin")
        if origin is not None and not _LOCAL_PAGE.fullmatch(origin):
            await JSONResponse({"error": "pages of other machines are not answered"}, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Server:
    """The operations of ``server_api.json``."""

    def __init__(self, jobs: Jobs, access: Access) -> None:
        self._jobs, self._access = jobs, access
        self._invoking = asyncio.Lock()

    async def health(self, request: Request) -> Response:
        alive = all(model.is_alive for model in self._jobs.models.values())
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def list_models(self, request: Request) -> Response:
        found = [
            {"name": name, "key": model.ready.model, "channels": model.ready.channel_names, "labels": model.ready.labels.by_name}
            for name, model in self._jobs.models.items()
        ]
        return JSONResponse({"models": found})

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(metrics_text(self._jobs), media_type="text/plain; version=0.0.4")

    async def describe(self, request: Request) -> Response:
        return JSONResponse(api_description())

    async def predict(self, request: Request) -> Response:
        try:
            answer, wait = _choice(request, "answer", "label-map", "json"), _choice(request, "wait", "yes", "no")
            suffix = check_suffix(request.query_params.get("suffix", ".nii.gz"))
            check_label_suffix(form := request.query_params.get("format", ".nii.gz"))
            job = self._jobs.admit(request.query_params.get("model", ""), form)
        except NnsegError:
            await _drain(request)
            raise
        try:
            self._jobs.start(job, await self._images(request, job, suffix))
            if wait == "no":
                return JSONResponse(await _about(job), 202, {"Location": f"/jobs/{job.id}"})
            await _answered(request, job)
            made = _label_map(job) if answer == "label-map" or job.failure else JSONResponse(await _about(job))
        except BaseException:  # also if the client has gone, or the server ends
            self._jobs.drop(job)
            raise
        made.background = BackgroundTask(self._jobs.drop, job)  # when the file was sent
        return made

    async def job(self, request: Request) -> Response:
        job = self._find(request)
        with suppress(ValueError):
            seconds = float(request.query_params.get("seconds", ""))
            if seconds > 0:  # "nan" is not
                await asyncio.wait([asyncio.wrap_future(job.answer)], timeout=min(seconds, LONGEST_WAIT))
        return JSONResponse(await _about(job))

    async def label_map(self, request: Request) -> Response:
        job = self._find(request)
        if not job.answer.done():
            return JSONResponse({"error": "the scan is not predicted yet"}, 409)
        return _label_map(job)

    async def cancel(self, request: Request) -> Response:
        self._jobs.drop(self._find(request))
        return Response(status_code=204)

    async def invoke(self, request: Request) -> Response:
        if self._access.sockets is None:
            raise UnknownError("this server answers no cases of grand-challenge.org; start it with --input and --output")
        source, target = self._access.sockets
        async with self._invoking:  # they share the folders
            job = self._jobs.admit("", ".mha")
            try:
                self._jobs.start(job, await run_in_threadpool(find_images, source, job.model.ready.channel_names))
                await _answered(request, job)
                await run_in_threadpool(shutil.copyfile, _done(job), result_file(target))
            finally:
                self._jobs.drop(job)
        return Response(status_code=201)

    def _find(self, request: Request) -> Job:
        return self._jobs.find(request.path_params["id"])

    async def _images(self, request: Request, job: Job, suffix: str) -> Sequence[Path]:
        """The images that a request uploads or names."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            named = await _named_paths(request)
            return await run_in_threadpool(lambda: [allowed_path(path, self._access.folders) for path in named])
        upload = await receive(_parts(request), job.folder, suffix)
        return await run_in_threadpool(images_of, upload, job.model.ready.channel_names)


def _choice(request: Request, name: str, *known: str) -> str:
    """The value of a parameter of the query, by default the first."""
    if (value := request.query_params.get(name, known[0])) not in known:
        raise ScanError(f"{name} is {' or '.join(known)}, not {value}")
    return value


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """The parts of a body, until no more come; ScanError if they do not come in time."""
    stream, start, count = request.stream(), time.monotonic(), 0
    try:
        while True:
            async with asyncio.timeout(STALLED_SECONDS):
                part = await anext(stream, None)
            if part is None:
                return
            count += len(part)
            if time.monotonic() - start > STALLED_SECONDS + count / LEAST_RATE:
                raise TimeoutError
            yield part
    except TimeoutError as error:
        raise ScanError(f"the upload stands still, or has under {LEAST_RATE} bytes per second; send it again") from error


async def _drain(request: Request) -> None:
    """Read a body that is not used."""
    count = 0
    async for part in _parts(request):
        count += len(part)
        if count > MOST_DRAINED:
            break


async def _named_paths(request: Request) -> list[str]:
    """The paths that a request names: {"scan": PATH}, or a list of one for each channel."""
    body = b""
    async for part in _parts(request):
        body += part
        if len(body) > MOST_PATHS_BYTES:
            raise TooLargeError(f"a request with paths may have {MOST_PATHS_BYTES:,} bytes")
    with suppress(ValueError, RecursionError, AttributeError):
        given = json.loads(body).get("scan")
        paths = given if isinstance(given, list) else [given]
        if paths and all(isinstance(path, str) and path for path in paths):
            return paths
    raise ScanError('the body must be {"scan": PATH}, or {"scan": [PATH, ...]} with a path for each channel')


async def _answered(request: Request, job: Job) -> None:
    """Wait for a job; ClientDisconnect if the client goes away before it is done."""
    answer, gone = asyncio.wrap_future(job.answer), asyncio.ensure_future(_disconnected(request))
    both: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _about(job: Job) -> dict[str, Any]:
    """What is known of a job, for JSON."""
    about: dict[str, Any] = {"id": job.id, "model": job.model.name, "state": job.state}
    if job.state == "failed":
        return about | {"error": job.failure}
    if job.state == "done":
        record = job.answer.result().model_dump(mode="json", include={"findings", "seconds", "confidence", "objects"})
        about |= record | {"volumes_ml": await run_in_threadpool(lambda: job.volumes_ml)}
    return about


def _done(job: Job) -> Path:
    """The label map of an answered job; ScanError if its prediction failed."""
    if job.answer.cancelled():
        raise UnknownError("the job was cancelled")
    if job.label_map is None:
        raise ScanError(job.failure)
    return job.label_map


def _label_map(job: Job) -> FileResponse:
    return FileResponse(_done(job), media_type="application/octet-stream", filename=f"label_map{job.suffix}")


async def _refuse(request: Request, error: Exception) -> Response:
    """The answer for an error that a client, or who runs the server, can correct."""
    assert isinstance(error, NnsegError)
    status = STATUS.get(type(error), 422)
    return JSONResponse({"error": error.coded}, status, _RETRY if status == 503 else None)


async def _no_room(request: Request, error: Exception) -> Response:
    """The answer where the server's disk fails."""
    assert isinstance(error, OSError)
    log.error("a request cannot be answered: %s", error)
    return JSONResponse({"error": f"the server cannot store it ({error.strerror}); try again later"}, 503, _RETRY)


async def _not_found(request: Request, error: Exception) -> Response:
    """The answer where there is no such path, or not by this method."""
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path} is no request of this server; GET /openapi.json lists all"
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _nobody(request: Request, error: Exception) -> Response:
    """The answer for a client that has gone away."""
    return Response(status_code=499)
