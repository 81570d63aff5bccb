"""Hubs of models: ``models.json``, which lists the models of a hub, and the local folder of models that were pulled."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from nnseg.core.errors import ModelError
from nnseg.core.frozen import FrozenModel
from nnseg.core.limits import limit, raise_by
from nnseg.core.names import FileName, fault_of_name, nearest_name, printable
from nnseg.storage.hub_files import open_range, parts_of, put

INDEX = "models.json"

VARIABLE = "NNSEG_MODELS"
"""Environment variable that names the folder of pulled models."""

BUILT_IN = Path(__file__).parents[1] / "models"
"""The models that are a part of nnseg."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _plain(text: str) -> str:
    if not _PLAIN.fullmatch(text) or fault_of_name(text):
        allowed = "letters, digits, dots, hyphens and underscores, at most 100, the first a letter or a digit"
        raise ValueError(f'"{printable(text[:200])}" is no name of a model, nor a version; write {allowed}')
    return text


PlainName = Annotated[str, AfterValidator(_plain)]


class ListedModel(FrozenModel):
    """A model of a hub.

    Args:
        file: its name in the hub, without folders.
        size: bytes of the file.
        sha256: hash of the file.
        licence: its name, such as "CC-BY-4.0", or the address of its text.
        labels: names, without the background.
        channels: names, in order.
    """

    name: PlainName
    version: PlainName
    file: Annotated[FileName, Field(min_length=1)]
    size: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    licence: Annotated[str, Field(min_length=1, max_length=300)]
    labels: tuple[str, ...]
    channels: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name and version, as a command line takes them."""
        return f"{self.name}@{self.version}"


class HubIndex(FrozenModel):
    """The content of ``models.json``: the models of a hub, of those of one name the newest last."""

    format: Literal[1] = 1
    models: tuple[ListedModel, ...] = ()

    def find(self, title: str) -> ListedModel | None:
        """The newest model of a name, or with ``NAME@VERSION`` that version; None if there is none."""
        name, _, version = title.partition("@")
        return next((one for one in reversed(self.models) if one.name == name and version in ("", one.version)), None)

    def with_model(self, model: ListedModel) -> HubIndex:
        """The same with a model, in the place of one of the same name and version."""
        return HubIndex(models=(*(one for one in self.models if one.title != model.title), model))


def split_title(title: str) -> tuple[str, str]:
    """Name and version of ``NAME@VERSION``; the version is "1" if it is not given.

    Raises:
        ModelError: one of them cannot be in a file's name.
    """
    name, _, version = title.partition("@")
    try:
        return _plain(name), _plain(version or "1")
    except ValueError as error:
        raise ModelError(str(error)) from None


def read_index(hub: str, *, new: bool = False) -> HubIndex:
    """The models of a hub.

    Args:
        new: a hub without ``models.json`` has no models, and is none otherwise.

    Raises:
        ModelError: it cannot be read, is too long or is not valid.
    """
    most = limit("text_bytes")
    try:
        with open_range(hub, INDEX) as (_, source):
            raw = b"".join(parts_of(source, most))
    except FileNotFoundError:
        if new:
            return HubIndex()
        raise ModelError.at(hub, f"has no {INDEX}", "a hub of models", "check the address, or push a model into it") from None
    except OSError as error:
        raise unreachable(hub, error) from error
    if len(raw) > most or raw.count(b",") > limit("text_entries"):
        advice = f"use another hub; {raise_by('text_bytes')}"
        raise ModelError.at(
            hub, f"its {INDEX} is too long", f"at most {most:,} bytes, and {limit('text_entries'):,} entries", advice
        )
    try:
        return HubIndex.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(map(str, found["loc"]))
        raise ModelError.at(hub, f"{INDEX}, {place or 'whole'}: {found['msg']}", "a list of models", "use another hub") from None


def write_index(hub: str, index: HubIndex) -> None:
    """Write the list of a hub's models.

    Raises:
        ModelError: the hub can only be read, or cannot be reached.
        WriteError: the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / INDEX
        file.write_bytes((index.model_dump_json(indent=1) + "\n").encode())
        try:
            put(hub, INDEX, file)
        except OSError as error:
            raise unreachable(hub, error) from error


def unreachable(hub: str, error: OSError) -> ModelError:
    """The error of a hub that cannot be read or written."""
    return ModelError.at(hub, f"cannot be used: {error.strerror or error}", "a hub that answers", "check address and network")


def store_folder() -> Path:
    """The folder of pulled models: that of ``NNSEG_MODELS``, else ``nnseg/models`` in the user's data folder.

    Source: XDG Base Directory Specification, "Environment variables"; it says that relative paths are not heeded.

    Raises:
        ModelError: there is no home folder.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own)
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        return (data if data.is_absolute() else Path.home() / ".local" / "share") / "nnseg" / "models"
    except RuntimeError:
        raise ModelError(f"there is no home folder for models; name one by the environment variable {VARIABLE}") from None


def local_hubs() -> Iterator[str]:
    """The folders in which a model is looked for by its name: that of pulled models, then that of nnseg's own."""
    yield str(store_folder())
    yield str(BUILT_IN)


def local_models() -> list[ListedModel]:
    """The models that a name can mean on this machine, those that were pulled before those of nnseg.

    Raises:
        ModelError: the list of local models is damaged.
    """
    return [model for hub in local_hubs() for model in read_index(hub, new=True).models]


def nearest_model(word: str) -> str:
    """The name of the local model that a misspelt word most likely means; "" if none is near."""
    return nearest_name(word, (model.name for model in local_models())) if _PLAIN.fullmatch(word) else ""


def model_path(given: str | Path) -> Path:
    """The path of a model: as given, or where nothing is there, of the local model of that name. Nothing is downloaded.

    Args:
        given: a path, ``NAME`` or ``NAME@VERSION``.

    Raises:
        ModelError: the list of local models is damaged.

    Example:
        >>> model_path("demo")
    """
    path = Path(given)
    name, _, version = str(given).partition("@")
    if not (_PLAIN.fullmatch(name) and _PLAIN.fullmatch(version or "1")) or path.exists():
        return path
    found = ((hub, read_index(hub, new=True).find(str(given))) for hub in local_hubs())
    return next((Path(hub) / one.file for hub, one in found if one), path)
