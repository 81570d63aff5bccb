"""Every shell and Python block of the documentation runs, page by page and in order, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ball_dataset import write_balls
from dicom_series import write_series
from doc_blocks import PAGES, ROOT, SHELL, STEPS, blocks, name_of

LANGUAGES = (*SHELL, "setup", "python")
WITH_CODE = [page for page in PAGES if any(b.language in LANGUAGES and not b.skip for b in blocks(page))]

SHOWN = [
    ("README.md", "Task04_Hippocampus"),
    ("docs/tutorials/hippocampus.md", "Task04_Hippocampus"),
    ("docs/tutorials/microscopy.md", "ISBI2012_EM"),
]
"""Pages with the output of `nnseg check`, and the dataset that it is of."""

SECONDS = 1800
"""Of a page, on a busy machine."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS)]


@pytest.fixture(scope="module")
def placeholders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the placeholders of pages stand for."""
    folder = tmp_path_factory.mktemp("placeholders")
    write_balls(folder / "DATASET", cases=5)
    shutil.copytree(folder / "DATASET/imagesTr", folder / "SCANS")
    shutil.copytree(folder / "DATASET/labelsTr", folder / "REFERENCES")
    shutil.copy(folder / "SCANS/ball_00.nii.gz", folder / "scan.nii.gz")
    write_series(folder / "SERIES_FOLDER")
    script = f"""
    nnseg run DATASET RUN --steps {STEPS} --folds 0 --quiet --no-probe
    cp RUN/model.nnseg model.nnseg
    nnseg predict SCANS PREDICTIONS --model model.nnseg --quiet
    """
    run_script(script, folder, "placeholders")
    return folder


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_blocks_of_a_page_run(page: Path, placeholders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(placeholders, folder := tmp_path / "page")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.skip or block.language not in LANGUAGES:
            continue
        if block.language == "python":
            exec(compile("\n" * block.line + block.run_as, str(page), "exec"), names)
        else:
            run_script(block.run_as, folder, f"{page}:{block.line}")


@pytest.mark.parametrize(("page", "dataset"), SHOWN)
def test_pages_show_what_check_prints(page: str, dataset: str, shared_data: Path) -> None:
    command = [sys.executable, "-m", "nnseg", "check", dataset]
    printed = subprocess.run(command, cwd=shared_data, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in (ROOT / page).read_text()


def run_script(script: str, folder: Path, place: str) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{place}\n{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
