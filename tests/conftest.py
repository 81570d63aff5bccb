"""Shared fixtures: real data where it is at hand, and a dataset of balls small enough to train on in seconds."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

TINY_RECIPE = """
based_on = "auto"
[training]
steps = 12
epoch_steps = 4
batch_size = 2
warmup_steps = 2
[on_cpu.planner]
base_features = 4
[on_cpu.training]
epoch_steps = 4
"""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real development data; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real development data (../shared/data) is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose training takes a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def ball_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small scans of a bright ball each, in Decathlon layout, labelled "ball"; not to be changed, copy it."""
    return write_balls(tmp_path_factory.mktemp("data") / "balls", cases=6)


def write_balls(folder: Path, *, cases: int) -> Path:
    """Write scans of 12 x 20 x 16 voxels with a ball of radius 4 to 5 voxels somewhere inside."""
    random = np.random.default_rng(0)
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    z, y, x = np.mgrid[:12, :20, :16]
    entries = []
    for i in range(cases):
        centre = random.uniform((5, 8, 6), (7, 12, 10))
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < random.uniform(4, 5) ** 2
        image = (100 + 80 * ball + random.normal(0, 10, ball.shape)).astype(np.float32)
        name = f"ball_{i:02d}.nii.gz"
        for sub, voxels in (("imagesTr", image), ("labelsTr", ball.astype(np.uint8))):
            volume = sitk.GetImageFromArray(voxels)
            volume.SetSpacing((1.0, 1.0, 1.5))
            sitk.WriteImage(volume, str(folder / sub / name))
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "Balls",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "ball"},
        "training": entries,
        "numTraining": cases,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are fastest on one thread; two would spend their time waiting for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command that ran in the test's process wrote its log to a terminal that is gone; the next test sees all of it again."""
    yield
    logger = logging.getLogger("nnseg")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


LONG = (
    "test_pipeline.py",
    "test_fold.py",
    "test_kill.py",
    "test_folder.py",
    "test_predict.py",
    "test_cascade.py",
    "test_ensemble.py",
    "test_pool.py",
    "test_report_in_browser.py",
    "test_probe.py",
)
"""Files that take longest; they come first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, otherwise in order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
