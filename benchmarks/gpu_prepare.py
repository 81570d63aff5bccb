"""What gpu.py needs where there is neither a network nor a reader of images: preprocessed cases, plans, and packages as wheels."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from gpu_setting import PREPARED

from nnseg.core.dataset import Fold
from nnseg.storage.files import read_json, write_json
from nnseg.storage.run import Run

MOST_BYTES = 54 * 2**20
"""Of the folder: what travels may be limited to 64 MiB, of which the checkout itself takes seven."""

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"

PACKAGES = (
    "annotated-types", "batchgenerators", "blosc2", "msgpack", "ndindex", "numexpr", "pydantic", "pydantic-core", "tomlkit",
    "typing-extensions", "typing-inspection",
)  # fmt: skip
"""What the rows import, and an environment with torch, NumPy, SciPy and scikit-image may lack."""

PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def prepare(dataset: Path, folder: Path, *, wheels: bool = True) -> None:
    """Fill the folder from a dataset; what was there is replaced.

    Args:
        dataset: in any layout that nnseg reads.
        folder: of the checkout, which git ignores.
        wheels: also fetch packages, with pip.
    """
    for name in ("cases", "wheels"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if wheels:
        fetch_wheels(folder / "wheels")
    with tempfile.TemporaryDirectory() as work:
        for recipe in PREPARED:
            _plan(dataset, Path(work) / recipe, recipe)
            [plan] = Run(Path(work) / recipe).plans
            (folder / f"{recipe}.json").write_text(plan.plan.model_dump_json(indent=1))
        run = Path(work) / "auto"
        _nnseg("preprocess", run)
        [plan] = Run(run).plans
        shutil.copytree(plan.cases, folder / "cases")
        fold = read_json(run / "folds.json", tuple[Fold, ...])[0]
    write_json(folder / "folds.json", (_that_fit(fold, folder),))
    print(f"{folder}: {_bytes(folder) / 2**20:.1f} MiB, {len(list((folder / 'cases').iterdir()))} cases")
    if subprocess.run(["git", "check-ignore", "-q", str(folder.resolve())], cwd=folder, check=False).returncode:
        print(f"{folder} is not in a checkout, or git does not ignore it: see that it is not committed, and that it travels")


def fetch_wheels(into: Path) -> None:
    """Wheels of `PACKAGES` in the versions that were tested, for Python 3.12 on Linux, x86-64.

    Raises:
        CalledProcessError: pip has failed; it has said why.
    """
    pip = [sys.executable, "-m", "pip"]
    common = ["-q", "--no-deps", "-c", str(CONSTRAINTS)]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    target += [text for platform in PLATFORMS for text in ("--platform", f"{platform}_x86_64")]
    packaged = [name for name in PACKAGES if name not in BUILT_HERE]
    subprocess.run([*pip, "download", *common, *target, "-d", str(into), *packaged], check=True)
    subprocess.run([*pip, "wheel", *common, "-w", str(into), *BUILT_HERE], check=True)


BUILT_HERE = ("batchgenerators",)
"""Packages of Python alone of which there are no wheels: they are the same on every machine."""


def _plan(dataset: Path, run: Path, recipe: str) -> None:
    """A 3D plan: of auto for five minutes on CUDA, though there may be none here to try it on, or as nnU-Net makes it."""
    budget = ["--budget", "5m", "--device", "cuda", "--memory", "24"] if recipe == "auto" else []
    _nnseg("plan", dataset, run, "--recipe", recipe, "--plans", "3d", "--folds", "0", "--no-probe", *budget)


def _nnseg(*given: object) -> None:
    done = subprocess.run([sys.executable, "-m", "nnseg", *map(str, given), "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nnseg {given[0]} failed: {done.stderr.strip()}")


def _that_fit(fold: Fold, folder: Path) -> Fold:
    """The fold without the last training cases, which are removed until the folder is small enough."""
    kept = list(fold.training)
    files = {path.name.removesuffix(".case"): path for path in (folder / "cases").glob("*.case")}
    while _bytes(folder) > MOST_BYTES:
        files[kept.pop()].unlink()
    return replace(fold, training=tuple(kept))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
