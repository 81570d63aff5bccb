"""A client of ``nnseg serve`` in one file, with numpy and httpx alone: it does not need nnseg, torch or an image library.

from nnseg_client import Client

client = Client("http://127.0.0.1:8000", token="...")
answer = client.predict(voxels, spacing=(3.0, 0.7, 0.7))     # (Z, Y, X)
answer.label_map, answer.labels, answer.volumes_ml
"""

from __future__ import annotations

import contextlib
import io
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

__all__ = ["Answer", "Cancelled", "Client", "Model", "ServerError"]

TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "<i2", "MET_USHORT": "<u2", "MET_INT": "<i4", "MET_UINT": "<u4",
         "MET_LONG_LONG": "<i8", "MET_ULONG_LONG": "<u8", "MET_FLOAT": "<f4", "MET_DOUBLE": "<f8"}  # fmt: skip
"""NumPy's types by MetaImage's names. Source: itk.org, MetaIO documentation."""

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

POLL_SECONDS = 1.0
"""Time after which it is asked again whether the user has cancelled."""


class ServerError(Exception):
    """The server cannot answer; the message says why.

    Args:
        status: of HTTP; 0 if there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Cancelled(Exception):  # noqa: N818 (no error)
    """The user has cancelled the prediction."""


@dataclass(frozen=True)
class Model:
    """A model of the server.

    Args:
        channels: that its scans have, in order.
        labels: values by name, the background's first.
    """

    name: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """The prediction of one scan.

    Args:
        label_map: integers, on the grid of the scan.
        labels: values by name.
        volumes_ml: of labels and regions; of 2D images and scans without spacing they mean nothing.
        objects: number of each label's objects, where the model tells them apart.
        findings: irregularities of the scan, in one line each.
        confidence: of a server with --uncertainty, as it sends it.
    """

    label_map: npt.NDArray[np.integer[Any]]
    labels: Mapping[str, int]
    volumes_ml: Mapping[str, float]
    objects: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    confidence: Mapping[str, Any] | None = None


class Client:
    """A connection to a server; a context, at whose end it is closed.

    Args:
        url: of the server.
        token: that it asks for.
        busy_seconds: time for which a scan is offered again to a server that has too many.
    """

    def __init__(self, url: str, token: str = "", *, busy_seconds: float = 600.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(60.0))
        self._busy_seconds = busy_seconds

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def models(self) -> list[Model]:
        """The models of the server, of which the first is the default."""
        listed = self._ask("GET", "/models").json()["models"]
        return [Model(one["name"], tuple(one["channels"]), one["labels"]) for one in listed]

    def predict(
        self,
        voxels: npt.ArrayLike | Sequence[npt.ArrayLike],
        spacing: Sequence[float],
        *,
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        direction: npt.ArrayLike = IDENTITY,
        model: str = "",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """The prediction of a model for a scan.

        Args:
            voxels: (Z, Y, X), or (Y, X) for 2D images; of several channels a list, in the order of the model's.
            spacing: mm along the axes of the array.
            origin: position of the first voxel in mm, (x, y, z) in LPS.
            direction: its columns are the directions of x, y and z in LPS, as SimpleITK has them.
            model: its name; by default the first of the server.
            cancelled: asked each second; True withdraws the scan.

        Raises:
            ServerError: the scan cannot be predicted, or the server does not answer.
            Cancelled: by the caller.
        """
        known = {one.name: one for one in self.models()}
        chosen = known.get(model or next(iter(known)))
        if chosen is None:
            raise ServerError(f"there is no model {model}; there are {', '.join(known)}")
        channels = [np.asarray(one) for one in (voxels if isinstance(voxels, list | tuple) else [voxels])]
        files = [to_mha(one, spacing, origin, np.asarray(direction)) for one in channels]
        suffix, body = (".mha", files[0]) if len(files) == 1 else (".zip", _zipped(files))
        place = self._offer(body, {"model": chosen.name, "suffix": suffix, "format": ".mha", "wait": "no"}, cancelled)
        try:
            about = self._ask("GET", place).json()
            while about["state"] not in ("done", "failed"):
                if cancelled():
                    raise Cancelled
                about = self._ask("GET", place, params={"seconds": POLL_SECONDS}).json()
            if about["state"] == "failed":
                raise ServerError(about["error"], 422)
            label_map = from_mha(self._ask("GET", f"{place}/label-map").content)
        finally:
            self._forget(place)
        return Answer(
            label_map=label_map.reshape(channels[0].shape),
            labels=chosen.labels,
            volumes_ml=about["volumes_ml"],
            objects=about.get("objects", {}),
            findings=tuple(about["findings"]),
            confidence=about["confidence"],
        )

    def _offer(self, body: bytes, query: Mapping[str, str], cancelled: Callable[[], bool]) -> str:
        """The path of the job of a scan, which is offered again while the server has too many."""
        end = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._ask("POST", "/predict", params=query, content=body).headers["location"]
            except ServerError as error:
                if error.status != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > end:
                    raise
            if cancelled():
                raise Cancelled
            time.sleep(POLL_SECONDS)

    def _forget(self, place: str) -> None:
        """Cancel a job, or remove its answer; the server does so by itself after a while."""
        with contextlib.suppress(httpx.HTTPError):
            self._http.delete(place)

    def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise ServerError(f"{self._http.base_url} does not answer: {error}") from error
        if answer.is_error:
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            raise ServerError(answer.json()["error"] if is_json else f"status {answer.status_code}", answer.status_code)
        return answer


def to_mha(voxels: npt.NDArray[Any], spacing: Sequence[float], origin: Sequence[float], direction: npt.NDArray[Any]) -> bytes:
    """An array (Z, Y, X) or (Y, X) as a MetaImage; other numbers than MetaImage has become float32."""
    axes = voxels.ndim
    if axes not in (2, 3) or len(spacing) != axes:
        raise ValueError(f"voxels are (Z, Y, X) or (Y, X) with a spacing for each axis, not {voxels.shape} with {tuple(spacing)}")
    plain = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    kind = next((name for name, form in TYPES.items() if np.dtype(form) == plain.dtype), "MET_FLOAT")
    data = zlib.compress(np.ascontiguousarray(plain, TYPES[kind]).tobytes(), 1)
    lines = {
        "ObjectType": "Image",
        "NDims": axes,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": True,
        "CompressedDataSize": len(data),
        "TransformMatrix": _numbers(np.asarray(direction, float)[:axes, :axes].T.ravel()),  # a column after the other
        "Offset": _numbers(origin[:axes]),
        "ElementSpacing": _numbers(spacing[::-1]),
        "DimSize": " ".join(map(str, voxels.shape[::-1])),
        "ElementType": kind,
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + data


def from_mha(content: bytes) -> npt.NDArray[Any]:
    """The array (Z, Y, X) or (Y, X) of a MetaImage whose voxels follow its header."""
    head, _, data = content.partition(b"ElementDataFile = LOCAL\n")
    lines = dict(line.split(" = ", 1) for line in head.decode().splitlines())
    if lines.get("CompressedData") == "True":
        data = zlib.decompress(data)
    shape = tuple(int(size) for size in reversed(lines["DimSize"].split()))
    form = np.dtype(TYPES[lines["ElementType"]])
    if lines.get("BinaryDataByteOrderMSB") == "True":
        form = form.newbyteorder(">")
    return np.frombuffer(data, form).reshape(shape)


def _numbers(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)


def _zipped(files: Sequence[bytes]) -> bytes:
    """Files of channels, in order, as an archive."""
    with zipfile.ZipFile(written := io.BytesIO(), "w") as archive:
        for number, content in enumerate(files):
            archive.writestr(f"scan_{number:04d}.mha", content)
    return written.getvalue()
