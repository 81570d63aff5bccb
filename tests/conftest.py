"""Shared fixtures: real data where it is at hand, and a dataset of balls small enough to train on in seconds.

What is large is imported by those that need it: the process that only distributes tests loads this file, too.
"""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# nohup and shells ignore some signals of what they start in the background, and so would all processes that tests start.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# As nnseg sets them, before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

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
[on_cpu.short]
passes = 0
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
    from ball_dataset import write_balls

    return write_balls(tmp_path_factory.mktemp("data") / "balls", cases=6)


@pytest.fixture(scope="session")
def ball_run(tmp_path_factory: pytest.TempPathFactory, ball_dataset: Path, tiny_recipe: Path) -> Path:
    """A finished run of one fold of the balls, with the options of `fold_options`; not to be changed, copy it."""
    from warm import fold_options, nnseg

    run = tmp_path_factory.mktemp("run") / "run"
    nnseg("run", ball_dataset, run, *fold_options(tiny_recipe))
    return run


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are fastest on one thread; two would spend their time waiting for each other."""
    import torch

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


gc.disable()  # what is collected stays to the end: to look through it again and again takes a third of the time


def pytest_collection_finish() -> None:
    """Leave out of each later search for garbage what the collection has made."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, otherwise in order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
