"""A predictor without a network: voxels brighter than 0 get label 1. Names of scans make it fail, hang or die."""

import os
import signal
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from forked import Forked

from nnseg.core.dataset import Case
from nnseg.core.errors import ModelError
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.inference.interruption import check_between_tiles
from nnseg.inference.prediction import Prediction
from nnseg.serving import worker
from nnseg.serving.messages import PredictionOrder, PredictionTask


class StandInModel:
    labels = Labels(names=("background", "bright"), values=(0, 1))
    channels = ("MRI",)
    population = None
    cutoffs = None

    def key(self) -> str:
        return "stand-in"


class StandIn:
    """Needs as many GB as a scan has slices."""

    model = StandInModel()

    def __init__(self, out: Path | None = None) -> None:
        self.out = out

    def prepare(self, scan):
        return scan

    def infer(self, scan, *, probabilities=False, uncertainty=False, scratch=None):
        name = scan.source.files[0].name
        if self.out:
            (self.out.parent / f"seen_{os.getpid()}_{name}").touch()
        if "broken" in name:
            raise ValueError("no prediction of this")
        if "deadly" in name or ("fragile" in name and self._first(name)):
            os.kill(os.getpid(), signal.SIGKILL)
        while "tiles" in name:
            check_between_tiles()
            time.sleep(0.02)
        if "stuck" in name or ("slow" in name and self._first(name)):
            time.sleep(1000)
        time.sleep(0.02)
        label_map = LabelMap(labels=(scan.image[0] > 0).astype(np.uint8), grid=scan.grid)
        return Prediction(label_map=label_map, seconds={"network": 0.02, "restore": 0.0})

    def memory_gb(self, grid, *, probabilities=False, uncertainty=False):
        return float(grid.shape[0])

    def _first(self, name: str) -> bool:
        try:
            (self.out.parent / f"met_{name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def start(threads: int) -> Forked:
    """A worker process that predicts with a stand-in; a model called "missing" cannot be loaded."""
    return Forked(lambda: worker.serve(_load))


def main() -> None:
    """Predict with a stand-in, in a process of its own that `nnseg.system.process.launch` started."""
    worker.serve(_load)


def _load(order: PredictionOrder) -> tuple[StandIn, str]:
    if order.models[0].name == "missing":
        raise ModelError("there is no model missing")
    if order.models[0].name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if order.models[0].name == "stuck":
        time.sleep(1000)
    return StandIn(order.out), order.device


def write_scan(path: Path, slices: int = 2) -> Path:
    """Write a small scan with something bright in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(slices).normal(size=(6, 5, slices)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def task(folder: Path, name: str, slices: int = 2) -> PredictionTask:
    """A task for a new scan."""
    return PredictionTask(case=Case(name=name, images=(write_scan(folder / f"{name}.nii.gz", slices),)))
