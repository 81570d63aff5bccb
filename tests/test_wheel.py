"""What is published: an archive of sources and a wheel, which works in a new environment far from the checkout."""

import csv
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
CONSTRAINTS = HOME / "constraints.txt"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=2500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def hashes(wheel: Path) -> dict[str, str]:
    """The hash of each file of a wheel, by its own list."""
    with zipfile.ZipFile(wheel) as opened:
        record = next(name for name in opened.namelist() if name.endswith(".dist-info/RECORD"))
        return {path: digest for path, digest, _ in csv.reader(opened.read(record).decode().splitlines())}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the tool that builds."""
    folder = tmp_path_factory.mktemp("new") / "environment"
    venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, "hatchling", cwd=folder)
    return python


@pytest.fixture(scope="module")
def built(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The archive of sources and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    run(environment, "-m", "hatchling", "build", "-d", folder, cwd=HOME)
    (sources,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sources, wheel


def test_the_wheel_holds_every_file_of_the_package_and_the_recipes(built: tuple[Path, Path]) -> None:
    files = {p.relative_to(HOME).as_posix() for p in (HOME / "nnseg").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    files |= {f"nnseg/plans/{p.name}" for p in (HOME / "plans").iterdir()}
    held = set(hashes(built[1]))
    assert files <= held
    assert {p.partition("/")[0] for p in held - files} == {f"{built[1].name.rpartition('-py3')[0]}.dist-info"}
    assert any(p.endswith("licenses/LICENSE") for p in held)


def test_the_sources_build_the_same_wheel(environment: Path, built: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert (source / "constraints.txt").read_bytes() == CONSTRAINTS.read_bytes()
    assert (source / "tests" / "conftest.py").is_file()
    run(environment, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=source)
    assert hashes(tmp_path / "dist" / built[1].name) == hashes(built[1])


def test_the_demonstration_runs_from_the_wheel_in_a_new_environment(
    environment: Path, built: tuple[Path, Path], tmp_path: Path
) -> None:
    run(environment, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, built[1], cwd=tmp_path)
    nnseg = environment.with_name("nnseg")
    where = run(environment, "-c", "import nnseg; print(nnseg.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parents[1])
    said = run(nnseg, "demo", "--steps", 10, cwd=tmp_path)
    assert "Dice" in said
    (report,) = tmp_path.rglob("report.html")
    assert str(report.parent.name) in said
