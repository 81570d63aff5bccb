"""``nnseg models``: models of hubs are listed, pulled into the local folder, pushed and verified."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from nnseg.core.dataset import list_some
from nnseg.core.errors import ModelError, RunError, WriteError
from nnseg.storage.files import FULL, write_aside
from nnseg.storage.hub import ListedModel, local_hubs, local_models, read_index, split_title, store_folder, unreachable, write_index
from nnseg.storage.hub_files import check_writable, kind_of_hub, open_range, parts_of, put
from nnseg.storage.locks import locked
from nnseg.storage.manifest import State
from nnseg.storage.model_plans import read_model_plans
from nnseg.storage.temporary import sweep
from nnseg.system.progress import stage
from nnseg.system.regular import NO_LINK, open_regular

log = logging.getLogger(__name__)

TRIES, PAUSE_SECONDS = 4, 1.0
"""Tries in a row that give no byte of a file, and the time between two of them, after which a pull ends."""

BUSY = "another nnseg models works in {}"


def list_models(hub: str | None = None) -> list[ListedModel]:
    """The models of a hub; without one those that predict by name on this machine.

    Raises:
        ModelError: the hub cannot be read.
    """
    return local_models() if hub is None else list(read_index(hub).models)


def pull(hub: str, title: str, *, accept_licence: bool = False, sha256: str | None = None) -> Path:
    """The local file of a hub's model, downloaded if it is not there yet; a download that was cut goes on where it was.

    Several processes may pull at once: one downloads, the others wait for it.

    Args:
        hub: a folder or an address.
        title: ``NAME``, of which the newest is taken, or ``NAME@VERSION``.
        accept_licence: True once the user has read and accepted its licence.
        sha256: the hash that the file must have, as its maker has told it.

    Raises:
        ModelError: there is no such model, its licence is not accepted, its content is not what was listed or is no model, or there
            is another one of that name; or the hub cannot be reached.
        WriteError: the disk is full.
    """
    model = _find(hub, title)
    if sha256 and model.sha256 != sha256.lower():
        raise ModelError.at(hub, f"{model.title} has the SHA-256 {model.sha256}", sha256, "ask its maker which is right")
    if not accept_licence:
        advice = "read it, and repeat the command with --accept-licence if you accept it"
        raise ModelError.at(hub, f"{model.title} has the licence {model.licence}", "that you accept it", advice)
    if hub.startswith("http://") and not sha256:
        log.warning("%s is not encrypted: others on the way may change what is pulled; --sha256 pins it", hub)
    store = store_folder()
    local = model.model_copy(update={"file": f"{model.title}.nnseg"})
    file = store / local.file
    with locked(store, busy=BUSY, wait=True):
        sweep(store, inside=False)
        known = read_index(str(store), new=True)
        if _is_there(file, known.find(model.title), model):
            return file
        _download(hub, model, file)
        write_index(str(store), known.with_model(local))
    return file


def push(file: Path, hub: str, title: str, *, licence: str) -> ListedModel:
    """A model, written into a hub and then listed there; what is listed with another content is not replaced.

    Args:
        file: of the model, made by ``nnseg export`` or ``import``.
        title: ``NAME``, which is version 1, or ``NAME@VERSION``.
        licence: its name, or the address of its text.

    Raises:
        ModelError: the file is no model, the hub has another one of that name and version, or the hub cannot be written.
        WriteError: the folder cannot be written to.
    """
    check_writable(hub)
    name, version = split_title(title)
    labels, channels = _described(file)
    try:
        model = ListedModel(
            name=name, version=version, file=f"{name}@{version}.nnseg", size=file.stat().st_size, sha256=_sha256(file),
            licence=licence.strip(), labels=labels, channels=channels,
        )  # fmt: skip
    except ValidationError:
        raise ModelError("the licence is empty or longer than 300 letters; write its name, or the address of its text") from None
    with _alone(hub):
        index, found = read_index(hub, new=True), _content_of(hub, model)
        before, same = index.find(model.title), (model.size, model.sha256)
        other = before.sha256 != model.sha256 if before else found not in (None, same)
        if other:
            advice = f"push it as another version, {name}@VERSION"
            raise ModelError.at(hub, f"has another {model.title} already", "the same file, or none", advice)
        if found != same:
            _put(hub, model, file)
        if before != model:
            write_index(hub, index.with_model(model))
    return model


def verify_models(hub: str | None = None) -> Iterator[tuple[str, State]]:
    """Every model of a hub, without one every local one, and whether it has the content that is listed; reads all of them.

    Raises:
        ModelError: the hub cannot be read.
    """
    for place in (hub,) if hub is not None else local_hubs():
        for model in read_index(place, new=hub is None).models:
            state: State = "intact"
            if (found := _content_of(place, model)) != (model.size, model.sha256):
                state = "damaged" if found else "missing"
            yield f"{model.title} in {place}", state


def _find(hub: str, title: str) -> ListedModel:
    index = read_index(hub)
    if model := index.find(title):
        return model
    known = list_some([one.title for one in index.models], 10) or "models"
    raise ModelError.at(hub, f"has no model {title}", known, "nnseg models list HUB lists them")


def _is_there(file: Path, known: ListedModel | None, wanted: ListedModel) -> bool:
    """True if a model was pulled before; ModelError if another one has its file."""
    if known is None or not file.is_file() or _sha256(file) != known.sha256:  # the last where it is damaged
        return False
    if known.sha256 != wanted.sha256:
        found = f"is another model, with the SHA-256 {known.sha256}"
        raise ModelError.at(file, found, wanted.sha256, "delete it to take the other one")
    return True


@contextmanager
def _alone(hub: str) -> Iterator[None]:
    """A context in which no other process pushes into a folder; servers have no lock."""
    if kind_of_hub(hub):
        yield
        return
    with locked(Path(hub), busy=BUSY, wait=True):
        sweep(Path(hub), inside=False)
        yield


def _put(hub: str, model: ListedModel, file: Path) -> None:
    try:
        put(hub, model.file, file)
    except OSError as error:
        raise unreachable(hub, error) from error


def _content_of(hub: str, model: ListedModel) -> tuple[int, str] | None:
    """Size and SHA-256 of a model's file, of which not more than listed is read; None if it is not there."""
    size, state = 0, hashlib.sha256()
    try:
        with open_range(hub, model.file) as (_, source):
            for part in parts_of(source, model.size):
                size += len(part)
                state.update(part)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreachable(hub, error) from error
    return size, state.hexdigest()


def _download(hub: str, model: ListedModel, file: Path) -> None:
    """Write a hub's file under its final name once it is whole, has the listed hash and is a model.

    Until then it is a hidden file that is named by its hash, so that nothing else goes on with it.
    """
    part = file.with_name(f".{model.sha256}.part")
    free, have = shutil.disk_usage(part.parent).free, part.stat().st_size if part.is_file() else 0
    if model.size > free + have:
        raise WriteError(
            f"cannot write {file}: it has {model.size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free; free some space"
        )
    os.close(os.open(part, os.O_CREAT | os.O_WRONLY | NO_LINK, 0o666))
    _complete(hub, model, part)
    try:
        if part.stat().st_size != model.size or (found := _sha256(part)) != model.sha256:
            wrong = "it is longer than listed" if part.stat().st_size != model.size else f"its SHA-256 is {found}"
            raise ModelError.at(
                hub, f"{model.file} has another content: {wrong}", model.sha256, "repeat the command, or use another hub"
            )
        _described(part)
        with write_aside(file) as aside:
            part.replace(aside)
    finally:
        part.unlink(missing_ok=True)


def _complete(hub: str, model: ListedModel, part: Path) -> None:
    """Read what is missing of a file; ModelError once several tries in a row have given nothing."""
    tries, fault = TRIES, OSError(errno.EIO, "it sends no more of the file")
    with stage(f"pulling {model.title}, {model.size / 1e6:.1f} MB", total=float(model.size)) as shown:
        while (have := part.stat().st_size) < model.size and tries:
            if tries < TRIES:
                time.sleep(PAUSE_SECONDS)
            shown.left.done = float(have)
            try:
                for written in _append(hub, model, part, have):
                    shown.left.done = float(written)
            except FileNotFoundError as error:
                raise ModelError.at(hub, f"has no {model.file}", "the file that it lists", "tell who keeps the hub") from error
            except OSError as error:
                if error.errno in FULL:
                    raise WriteError(f"cannot write {part}: {error.strerror}; free some space, and repeat the command") from error
                fault = error
            tries = TRIES if part.stat().st_size > have else tries - 1
    if not tries:
        raise ModelError.at(
            hub, f"{have:,} of {model.size:,} bytes of {model.title} came: {fault.strerror or fault}", "all",
            "repeat the command: it goes on there",
        ) from fault  # fmt: skip


def _append(hub: str, model: ListedModel, part: Path, have: int) -> Iterator[int]:
    """Read a file from a byte on and append it, or the whole where a server begins anew; gives the bytes that are there then."""
    with (
        open_range(hub, model.file, have) as (start, source),
        open(os.open(part, os.O_RDWR | NO_LINK), "r+b") as file,  # noqa: PTH123
    ):
        file.truncate(start)
        file.seek(start)
        for data in parts_of(source, model.size - start):
            file.write(data)
            yield file.tell()


def _described(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels and channels of a model file; ModelError if it is none."""
    if file.is_dir():
        raise ModelError.at(file, "is a folder", "a file made by nnseg export", "nnseg export RUN FILE writes it")
    plan = read_model_plans(file)[0]
    return plan.labels.whole.foreground, plan.channels


def _sha256(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or error}; check its permissions and the disk") from error
