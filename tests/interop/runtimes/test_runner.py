"""The program of exported models gives the labels of nnseg, whatever the plan."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from serving.small_models import model_of
from warm import nnseg

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.errors import ModelError
from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Normalization
from nnseg.demo.dataset import write_phantoms
from nnseg.inference.predict import Predictor
from nnseg.interop.runtimes import run
from nnseg.interop.runtimes.write import describe_model
from nnseg.network.bundle import Model
from nnseg.preprocessing.preprocess import plan_orientation
from nnseg.system.extras import has_extra

REGIONS = Labels(
    names=("background", "left", "both", "right"),
    values=(0, 4, 5, 6),
    regions=(Region(name="one", values=(4, 5), paint=4), Region(name="other", values=(5, 6), paint=6)),
)
SMALLER = PostprocessingStep(action="smaller", labels=(3,), mm3=60.0)
STEPS = (
    SMALLER,
    PostprocessingStep(action="holes", labels=(3, 700), fill=700),
    PostprocessingStep(action="largest", labels=(700,)),
)
MASKED = Normalization(scheme="rescale_to_0_1", masked=True)
CT = Normalization(scheme="ct", mean=5.0, std=2.0, low=1.0, high=9.0)


def changed(model: Model, *, preprocessing=None, augmentation=None, mirror_axes=(0,), **parts) -> Model:
    """A model with other settings in its plan, or other parts."""

    def of(member):
        plan = member.plan
        training = plan.training.model_copy(
            update={"augmentation": plan.training.augmentation.model_copy(update=augmentation or {})}
        )
        update = {
            "preprocessing": plan.preprocessing.model_copy(update=preprocessing or {}),
            "training": training,
            "inference": plan.inference.model_copy(update={"mirror_axes": mirror_axes}),
        }
        return replace(member, plan=plan.model_copy(update=update))

    return replace(model, members=tuple(map(of, model.members)), **parts)


def ensemble() -> Model:
    one, two = model_of(), changed(model_of(), preprocessing={"spacing": (3.0, 1.0, 2.0)})
    (member,) = two.members
    return replace(one, members=(*one.members, *one.members, replace(member, weight=2.0)))


MODELS = {
    "linear": lambda: changed(model_of(), preprocessing={"image_order": 1}),
    "spline": lambda: changed(model_of(), preprocessing={"image_order": 3, "normalization": (CT,)}, mirror_axes=()),
    "thick slices": lambda: changed(model_of(), preprocessing={"image_order": 3, "spacing": (9.0, 1.4, 1.4)}),
    "axes": lambda: changed(model_of(), preprocessing={"axes": (2, 0, 1), "orientation": "ras"}, mirror_axes=(0, 1, 2)),
    "stored": lambda: changed(model_of(), preprocessing={"orientation": "stored"}, mirror_axes=()),
    "slices": lambda: changed(model_of(dimensions=2), mirror_axes=(0, 1)),
    "masked": lambda: changed(
        model_of(channels=("T1", "T2")), preprocessing={"normalization": (MASKED, Normalization(scheme="none"))}
    ),
    "sides": lambda: changed(
        model_of(), augmentation={"swapped_labels": ((1, 2),), "swap_axis": 2, "mirror_axes": (0, 1, 2)}, mirror_axes=(1, 2)
    ),
    "regions": lambda: model_of(labels=REGIONS),
    "postprocessed": lambda: changed(model_of(), postprocessing=STEPS),
    "ensemble": ensemble,
}


def scan_of(channels: int, shape=(11, 17, 13)) -> Scan:
    """A scan of smooth noise with an empty margin, stored to inferior, posterior and right."""
    noise = np.random.default_rng(0).normal(0, 3, (channels, *shape))
    image = (5 + noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)).astype(np.float32)
    image[:, :2], image[..., -3:] = 0, 0
    grid = Grid(shape=shape, spacing=(1.5, 2.0, 1.2))
    stored = Grid(shape=shape, spacing=(1.5, 2.0, 1.2), direction=((0, 0, -1), (0, 1, 0), (-1, 0, 0)))
    return Scan(image=image, grid=grid, source=Source(files=(Path("brain.nii.gz"),), grid=stored))


@pytest.mark.parametrize("name", MODELS)
def test_the_program_gives_the_labels_of_nnseg(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    predictor = Predictor(MODELS[name](), device="cpu")
    scan = scan_of(len(predictor.model.channels))
    networks = iter([one.network for group in predictor.groups for one in group.networks])

    def open_network(*_):
        network = next(networks)
        return lambda tiles: network(torch.from_numpy(tiles)).numpy()

    monkeypatch.setattr(run, "open_network", open_network)
    (tmp_path / "model.json").write_text(json.dumps(describe_model(predictor, "onnx")))
    stored = name == "stored"
    turn = plan_orientation(scan, predictor.groups[0].plan) if stored else None
    image, grid = (turn.apply(scan.image), scan.grid.reoriented(turn)) if turn else (scan.image, scan.grid)
    labels = run.predict(tmp_path, image, grid.spacing)
    wanted = predictor(scan).label_map.labels
    wanted = turn.apply(wanted) if turn else wanted
    assert labels.dtype == wanted.dtype
    assert (labels == wanted).mean() > 0.9995  # a voxel whose labels are equally probable
    assert len(np.unique(wanted)) > 1


def test_what_the_program_cannot_do_is_refused():
    model = model_of(labels=Labels(names=("background", "cell"), values=(0, 1)).with_borders(["cell"]))
    with pytest.raises(ModelError, match="the model needs borders of objects, which an exported model does not have"):
        describe_model(Predictor(model, device="cpu"), "onnx")


needs_runtimes = pytest.mark.skipif(not has_extra("runtimes"), reason='needs the extra "runtimes"')


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans of the demonstration."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", cases=4) / "imagesTr"


@needs_runtimes
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_an_exported_model_predicts_without_nnseg(runtime: str, phantoms: Path, tmp_path: Path):
    folder = tmp_path / "exported"
    said = nnseg("export", "demo", folder, f"--{runtime}", "--check", phantoms)
    assert "of 4 scans have the labels of nnseg" in said.stdout
    report = json.loads((folder / "check.json").read_text())
    assert report["least"] <= min(scan["agreement"] for scan in report["scans"])
    assert len((folder / "run.py").read_text().splitlines()) < 200
    nnseg("predict", phantoms, tmp_path / "ours", "--model", "demo", "--device", "cpu")
    files = [phantoms / f"phantom_001_{channel:04}.nii.gz" for channel in range(2)]
    program = f"import runpy, sys; sys.modules['nnseg'] = None; runpy.run_path({str(folder / 'run.py')!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-I", "-c", program, *files, tmp_path / "theirs.nii.gz"], check=True, cwd=tmp_path)
    ours, theirs = nib.load(tmp_path / "ours" / "phantom_001.nii.gz"), nib.load(tmp_path / "theirs.nii.gz")
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
    assert (np.asarray(theirs.dataobj) == np.asarray(ours.dataobj)).mean() > 0.999
