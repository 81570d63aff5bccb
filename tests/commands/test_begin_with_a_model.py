"""A run that begins with a model of scans of another spacing and size."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnseg.commands.measure import measure_dataset
from nnseg.commands.plan import plan
from nnseg.core.errors import ModelError
from nnseg.core.options import Options
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model, save_model
from nnseg.network.transfer import transfer_weights
from nnseg.storage.model_plans import read_model_plans
from nnseg.storage.run import Run


def _write(folder: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Path:
    rng = np.random.default_rng(0)
    for i in range(3):
        labels = np.zeros(shape, np.uint8)
        labels[tuple(slice(n // 4, n // 2) for n in shape)] = 1
        for place, voxels in (("images", (labels * 50 + rng.normal(100, 9, shape)).astype(np.float32)), ("labels", labels)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(voxels)
            image.SetSpacing(spacing[::-1])
            sitk.WriteImage(image, folder / place / f"case_{i}.nii.gz")
    return folder


def _plan(dataset: Path, run: Path, options: Options) -> Run:
    made = Run(run)
    measure_dataset(made, dataset, 1)
    plan(made, options)
    return made


@pytest.fixture
def options(tiny_recipe: Path) -> Options:
    return Options(recipe=str(tiny_recipe), probe=False, device="cpu", workers=1)


def test_every_weight_of_a_model_fits_a_plan_for_other_data(
    tmp_path: Path, options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    first = _plan(_write(tmp_path / "iso", (24, 24, 24), (1.0, 1.0, 1.0)), tmp_path / "first", options).plans[0].plan
    network = build_network(first)
    file = tmp_path / "model.nnseg"
    save_model(Model(members=(Member(plan=first, fold=0, weights=network.state_dict()),)), file)
    assert read_model_plans(file) == (first,) == read_model_plans(tmp_path / "first")
    thick = _write(tmp_path / "thick", (6, 60, 60), (4.0, 0.5, 0.5))
    alone = _plan(thick, tmp_path / "alone", options).plans[0].plan
    with caplog.at_level(logging.INFO):
        second = _plan(thick, tmp_path / "second", replace(options, init=file))
    assert alone.patch != first.patch == second.plans[0].plan.patch
    assert "labels matched by name: foreground; new: none; channels matched: image" in caplog.text
    torch.manual_seed(1)
    transfer = transfer_weights(
        build_network(second.plans[0].plan),
        second.plans[0].plan,
        Model(members=(Member(plan=first, fold=0, weights=network.state_dict()),)),
    )
    assert transfer.tensors == transfer.total
    before = second.plans[0].plan_file.stat().st_mtime_ns
    plan(second, replace(options, init=file))
    assert second.plans[0].plan_file.stat().st_mtime_ns == before


def test_a_model_that_is_missing_or_damaged_is_named_before_anything_is_planned(tmp_path: Path, options: Options) -> None:
    data = _write(tmp_path / "data", (12, 12, 12), (1.0, 1.0, 1.0))
    with pytest.raises(ModelError, match="there is no model"):
        _plan(data, tmp_path / "run", replace(options, init=tmp_path / "nowhere.nnseg"))
    (tmp_path / "text.nnseg").write_bytes(b"no model at all, but text")
    with pytest.raises(ModelError, match="is damaged or not a file of nnseg"):
        _plan(data, tmp_path / "run", replace(options, init=tmp_path / "text.nnseg"))
