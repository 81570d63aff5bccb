"""Files of a hub of models: a folder, an HTTP server, a repository in the layout of Hugging Face, or a bucket of S3.

All errors are OSErrors: FileNotFoundError for a file that a hub does not have.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Protocol
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from nnseg.core.errors import ModelError
from nnseg.storage.files import write_aside
from nnseg.system.extras import check_extra
from nnseg.system.regular import open_regular

TIMEOUT = 60.0
"""Seconds to wait for a server's next bytes."""

CHUNK = 2**16
"""Bytes that are read at a time, at most so many of which are lost with a connection."""


class Source(Protocol):
    """What is opened for reading."""

    def read(self, most: int, /) -> bytes:
        """The next bytes, at most so many; none at the end."""


Opened = AbstractContextManager[tuple[int, Source]]
"""A file, and the byte at which what is read of it begins."""


def open_range(hub: str, name: str, start: int = 0) -> Opened:
    """A file of a hub, opened at a byte; at 0 where its server knows no ranges.

    Raises:
        ModelError: there are no hubs of this kind.
    """
    return OPEN[kind_of_hub(hub)](hub, name, start)


def put(hub: str, name: str, file: Path) -> None:
    """Write a file into a hub: readers see all of it, or what was there before.

    Raises:
        ModelError: a hub of this kind can only be read.
    """
    check_writable(hub)
    PUT[kind_of_hub(hub)](hub, name, file)


def check_writable(hub: str) -> None:
    """Raise ModelError for a hub of a kind that can only be read."""
    if kind_of_hub(hub) not in PUT:
        advice = "push into a folder, and copy that to the server"
        raise ModelError.at(hub, "can only be read", "a folder or s3://BUCKET/PREFIX", advice)


def kind_of_hub(hub: str) -> str:
    """The kind of a hub, a key of `OPEN`.

    Raises:
        ModelError: there is none of this kind.
    """
    scheme, found, _ = hub.partition("://")
    if found and (not scheme or scheme not in OPEN):
        raise ModelError(f"{hub}: {scheme}:// is no hub; give a folder, https://, hf://OWNER/NAME or s3://BUCKET/PREFIX")
    return scheme if found else ""


def parts_of(source: Source, most: int) -> Iterator[bytes]:
    """What is read of a file in parts: at most so many bytes, and one more where there are more."""
    left = most + 1
    while left > 0 and (part := source.read(min(CHUNK, left))):
        left -= len(part)
        yield part


@contextmanager
def _open_file(hub: str, name: str, start: int) -> Iterator[tuple[int, Source]]:
    with open_regular(Path(hub) / name) as file:
        file.seek(start)
        yield start, file


def _put_file(hub: str, name: str, file: Path) -> None:
    with write_aside(Path(hub) / name) as aside:
        shutil.copyfile(file, aside)


class _SafeRedirects(request.HTTPRedirectHandler):
    """Follows redirects to https, and to the server that was asked."""

    def redirect_request(self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request of the place that a server redirects to."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and (new.scheme, new.netloc) != (old.scheme, old.netloc):
            raise HTTPError(newurl, code, f"a redirect from {req.full_url}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


HANDLERS = (
    request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler,
    request.UnknownHandler, _SafeRedirects,
)  # fmt: skip
"""Of requests: HTTP and HTTPS alone, without urllib's own handlers of file:, ftp: and data:."""


@contextmanager
def _open_http(hub: str, name: str, start: int) -> Iterator[tuple[int, Source]]:
    url = f"{hub.rstrip('/')}/{quote(name)}"
    headers = {"User-Agent": "nnseg"} | ({"Range": f"bytes={start}-"} if start else {})
    opener = request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    try:
        with opener.open(request.Request(url, headers=headers), timeout=TIMEOUT) as answer:  # noqa: S310 (only HANDLERS)
            yield start if answer.status == 206 else 0, answer
    except HTTPError as error:
        error.close()
        number = errno.ENOENT if error.code in (404, 410) else errno.EIO
        raise OSError(number, f"the server answers {error.code} {error.reason}", error.url) from error
    except (URLError, HTTPException, ValueError) as error:  # the last of addresses that are none
        raise OSError(errno.EIO, str(getattr(error, "reason", error)), url) from error


HF_SERVER = "https://huggingface.co"
"""What ``hf://`` stands for, unless ``HF_ENDPOINT`` names a mirror of it. Source: huggingface_hub, "Environment variables"."""


def _open_hf(hub: str, name: str, start: int) -> Opened:
    """As HTTP, from OWNER/NAME, of the revision behind an @ or "main". Source: Hugging Face Hub, "Downloading files"."""
    repository, _, revision = hub.removeprefix("hf://").strip("/").partition("@")
    if repository.count("/") != 1:
        raise ModelError(f"{hub} is no repository of Hugging Face; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    server = os.environ.get("HF_ENDPOINT", HF_SERVER).rstrip("/")
    return _open_http(f"{server}/{quote(repository)}/resolve/{quote(revision or 'main', safe='')}", name, start)


@contextmanager
def _s3(hub: str, name: str) -> Iterator[tuple[Any, str, str]]:
    """A client of S3, and the bucket and the key of a file; the server is that of boto3's settings.

    Without credentials requests are not signed, as public buckets want it.
    """
    check_extra("hub", "files in S3")
    import boto3.exceptions  # noqa: PLC0415 (an optional extra)
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    bucket, _, prefix = hub.removeprefix("s3://").partition("/")
    key = f"{prefix.strip('/')}/{name}".lstrip("/")
    session = boto3.session.Session()
    unsigned = {} if session.get_credentials() else {"signature_version": UNSIGNED}
    try:
        yield session.client("s3", config=Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, **unsigned)), bucket, key
    except ClientError as error:
        missing = error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404")
        raise OSError(errno.ENOENT if missing else errno.EIO, str(error), f"{hub}: {name}") from error
    except (BotoCoreError, boto3.exceptions.Boto3Error) as error:
        raise OSError(errno.EIO, str(error), f"{hub}: {name}") from error


@contextmanager
def _open_s3(hub: str, name: str, start: int) -> Iterator[tuple[int, Source]]:
    with _s3(hub, name) as (client, bucket, key):
        ranged = {"Range": f"bytes={start}-"} if start else {}
        with closing(client.get_object(Bucket=bucket, Key=key, **ranged)["Body"]) as body:
            yield start, body


def _put_s3(hub: str, name: str, file: Path) -> None:
    with _s3(hub, name) as (client, bucket, key):
        client.upload_file(str(file), bucket, key)


OPEN: Final[dict[str, Callable[[str, str, int], Opened]]] = {
    "": _open_file,
    "http": _open_http,
    "https": _open_http,
    "hf": _open_hf,
    "s3": _open_s3,
}
"""How a file is opened, by the scheme of the hub's URL; "" is a folder."""

PUT: Final[dict[str, Callable[[str, str, Path], None]]] = {"": _put_file, "s3": _put_s3}
"""How a file is written, for hubs that can be."""
