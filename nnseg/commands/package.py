"""``nnseg package``: a folder from which a container is built that predicts with a model."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from nnseg.commands.export import export
from nnseg.core.dataset import list_some
from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.options import Platform
from nnseg.interop.containers.requirements import copy_package, pinned_requirements
from nnseg.network.bundle import Model, save_model
from nnseg.network.load import load_model
from nnseg.reporting.formatting import template_environment
from nnseg.serving.sockets import RESULT
from nnseg.storage.files import write_json, write_text
from nnseg.storage.overwrite import check_made_folder
from nnseg.storage.run import Run

RECORD = "container.json"
APP = "app"
"""The folder of nnseg and the model, which becomes /opt/app."""

TITLES: dict[Platform, str] = {
    "grand-challenge": "A model for grand-challenge.org, by the invoke API or once a case",
    "flare": "A model for FLARE",
    "docker": "A model that predicts folders of scans, for Docker",
    "apptainer": "A model that predicts folders of scans, for Apptainer",
}
TEMPLATES: dict[Platform, dict[str, str]] = {
    "grand-challenge": {"Dockerfile": "Dockerfile.j2"},
    "flare": {"Dockerfile": "Dockerfile.j2", "predict.sh": "predict.sh.j2"},
    "docker": {"Dockerfile": "Dockerfile.j2"},
    "apptainer": {"nnseg.def": "apptainer.def.j2"},
}
"""Files of each platform, the recipe of the image first, with their templates."""

SLUG = re.compile(r"\w[\w.-]*")
"""The slug of a socket."""


class Container(FrozenModel):
    """What a folder for a container was made from.

    Args:
        nnseg: version.
        platform: that runs the container.
        model: its path.
        key: of the model.
        inputs: slugs of the sockets of its channels, in their order; () to tell them by their names.
        output: path of the socket of the label map.
        prepare: steps before preprocessing.
    """

    nnseg: str
    platform: Platform
    model: Path
    key: str
    inputs: tuple[str, ...] = ()
    output: str = ""
    prepare: tuple[str, ...] = ()


def write_container(
    model: Path,
    platform: Platform,
    folder: Path,
    *,
    folds: tuple[int, ...] | None = None,
    inputs: Sequence[str] = (),
    output: str = "",
    prepare: Sequence[str] = (),
    force: bool = False,
) -> Container:
    """Write a folder from which a container is built.

    Args:
        model: run folder or exported file.
        platform: that runs the container.
        folder: new, or made by this function, whose files are replaced.
        folds: of a run; None for all.
        inputs: on grand-challenge.org the sockets of the channels, in their order; by default they are told by their names.
        output: there the path of the socket of the label map, such as ``images/lesions``.
        prepare: steps before preprocessing of each scan.
        force: also overwrite files that nnseg did not make.

    Raises:
        ModelError: there is no model, or a fold is not trained.
        RunError: the folder has files that nnseg did not make, or cannot be written; or sockets are not those of the model.
    """
    loaded = load_model(model, folds=folds)
    _check_sockets(platform, loaded.channels, inputs, output)
    _clear(folder, force=force)
    record = Container(
        nnseg=version("nnseg"),
        platform=platform,
        model=model.absolute(),
        key=loaded.key(),
        inputs=tuple(inputs),
        output=output or (RESULT if platform == "grand-challenge" else ""),
        prepare=tuple(prepare),
    )
    write_json(folder / RECORD, record)  # first: if it is killed, it is known whose the files are
    copy_package(folder / APP)
    if model.is_dir():
        export(Run(model), folder / APP / "model.nnseg", folds=folds)
    else:
        save_model(loaded, folder / APP / "model.nnseg")
    write_text(folder / "requirements.txt", "\n".join(pinned_requirements()) + "\n")
    for name, text in _texts(record, loaded).items():
        write_text(folder / name, text)
    return record


def _check_sockets(platform: Platform, channels: Sequence[str], inputs: Sequence[str], output: str) -> None:
    if (inputs or output) and platform != "grand-challenge":
        raise RunError(f"--inputs and --output name sockets of grand-challenge, which {platform} does not have; leave them out")
    if inputs and len(inputs) != len(channels):
        found = f"--inputs names {len(inputs)} sockets, and the model has the channels {list_some(channels, 10)}"
        raise RunError(f"{found}; name one for each, in this order")
    for name in (*inputs, *filter(None, output.split("/"))):
        if not SLUG.fullmatch(name):
            raise RunError(f'"{name}" is no name of a socket; write letters, digits and hyphens')


def _clear(folder: Path, *, force: bool) -> None:
    """Remove what an earlier command wrote, or raise RunError for files of others."""
    check_made_folder(folder, RECORD, "record of a container", "package", force=force)
    shutil.rmtree(folder / APP, ignore_errors=True)
    for name in {"README.md", "requirements.txt"} | {name for files in TEMPLATES.values() for name in files}:
        (folder / name).unlink(missing_ok=True)


def _texts(record: Container, model: Model) -> dict[str, str]:
    """The texts of the folder by name."""
    files, environment = TEMPLATES[record.platform], template_environment("nnseg.interop.containers", escape=lambda value: value)
    found = "by names like those of the channels" if len(model.channels) > 1 else "the only image"
    values = {
        "title": TITLES[record.platform],
        "platform": record.platform,
        "image": re.sub(r"[^a-z0-9]+", "-", record.model.stem.lower()).strip("-") or "model",
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "entry_point": json.dumps(_entry_point(record)),
        "version": record.nnseg,
        "model": f"`{record.model.name}`",
        "channels": list_some([f"`{name}`" for name in model.channels], 20),
        "labels": list_some([f"`{name}`" for name in model.labels.foreground], 40),
        "recipe": next(iter(files)),
        "sockets": list_some([f"`{slug}`" for slug in record.inputs], 20) or found,
        "result": record.output,
        "options": " ".join(_steps(record)),
    }
    written = {**files, "README.md": "README.md.j2"}
    return {name: environment.get_template(template).render(values).strip() + "\n" for name, template in written.items()}


def _entry_point(record: Container) -> list[str]:
    if record.platform != "grand-challenge":
        return ["python", "-m", "nnseg", "predict", "--model", "/opt/app/model.nnseg", *_steps(record)]
    inputs = [f"--inputs={','.join(record.inputs)}"] if record.inputs else []
    return ["python", "-m", "nnseg.serving.grand_challenge", *inputs, f"--output={record.output}", *_steps(record)]


def _steps(record: Container) -> list[str]:
    return [f"--prepare={','.join(record.prepare)}"] if record.prepare else []
