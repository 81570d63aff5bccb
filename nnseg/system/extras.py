"""The optional parts of nnseg, and whether they are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Final

from nnseg.core.errors import NnsegError

EXTRAS: Final[Mapping[str, str]] = {
    "figures": "matplotlib",
    "zarr": "zarr",
    "tensorboard": "tensorboardX",
    "energy": "pynvml",
    "explain": "captum",
    "hub": "boto3",
    "meshes": "trimesh",
    "sr": "highdicom",
    "runtimes": "openvino",
    "serve": "uvicorn",
    "dicom-node": "pynetdicom",
    "cluster": "ray",
}
"""By the name of the extra, the module that it adds."""


def has_extra(name: str) -> bool:
    """True if an extra is installed; nothing is imported."""
    return importlib.util.find_spec(EXTRAS[name]) is not None


def how_to_install(name: str) -> str:
    """The command that installs an extra."""
    return f'pip install "nnseg[{name}]"'


def check_extra(name: str, what: str) -> None:
    """Raise NnsegError if the extra that something needs is not installed."""
    if not has_extra(name):
        raise NnsegError(f"{what} need an extra: {how_to_install(name)}")
