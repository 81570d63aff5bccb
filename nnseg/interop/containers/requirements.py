"""The packages that nnseg needs, with the versions that are installed here, and the files of nnseg itself."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

PACKAGE = "nnseg"
HOME = Path(__file__).parents[2]
"""The folder of the package."""

BROUGHT_BY_TORCH = re.compile(r"nvidia-|triton$|pytorch-triton")
"""Names of packages that torch for CUDA demands in versions of its own, and torch for CPUs does not need."""


def pinned_requirements(package: str = PACKAGE) -> tuple[str, ...]:
    """Lines of a requirements file: every package that one needs, directly or not, with its installed version.

    Optional packages, those for other systems, and the parts of CUDA that come with torch are left out.

    Example:
        ``"numpy==2.3.4" in pinned_requirements()``
    """
    found, waiting = dict[str, str](), [package]
    while waiting:
        for line in distribution(waiting.pop()).requires or ():
            wanted, _, marker = line.partition(";")
            match = re.match(r"[\w.-]+", wanted)
            name = re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""
            if not name or "extra" in marker or name in found or BROUGHT_BY_TORCH.match(name):
                continue
            try:
                found[name] = version(name).partition("+")[0]
            except PackageNotFoundError:  # of another system
                continue
            waiting.append(name)
    return tuple(f"{name}=={found[name]}" for name in sorted(found))


def copy_package(folder: Path) -> None:
    """Copy nnseg, with what tells its version, into a folder of Python's path."""
    shutil.copytree(HOME, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / f"{PACKAGE}-{version(PACKAGE)}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(distribution(PACKAGE).read_text("METADATA") or "", encoding="utf-8")
