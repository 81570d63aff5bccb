"""A model written for nnU-Net predicts, read again, what it predicted before."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from trained import plans_of

from nnseg.core.errors import ModelError, RunError, WriteError
from nnseg.core.labels import Labels, Region
from nnseg.inference.predict import Predictor
from nnseg.interop.nnunet.checkpoint import open_checkpoint
from nnseg.interop.nnunet.model import read_nnunet_model
from nnseg.interop.nnunet.write_model import write_nnunet_model
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.storage.images.read import read_scan


def plan_of(orientation="lps", kind="plain", dimensions=3, **preprocessing):
    """A small plan that turns scans so, with pooling along all axes."""
    plan = plans_of().plan("3d_fullres", (1,))
    network = plan.network.model_copy(update={"kind": kind})
    settings = plan.preprocessing.model_copy(update={"orientation": orientation, **preprocessing})
    plan = plan.model_copy(update={"network": network, "preprocessing": settings})
    if dimensions == 3:
        return plan
    flat = {name: tuple(edge[1:] for edge in getattr(network, name)) for name in ("strides", "kernels")}
    return plan.model_copy(
        update={
            "name": "2d",
            "patch": plan.patch[1:],
            "network": network.model_copy(update=flat),
            "preprocessing": settings.model_copy(update={"spacing": settings.spacing[1:]}),
            "inference": plan.inference.model_copy(update={"mirror_axes": ()}),
        }
    )


def model_of(plan, folds=(0,)):
    members = []
    for fold in folds:
        torch.manual_seed(fold)
        network = build_network(plan)
        for parameter in network.parameters():
            if parameter.ndim == 1:  # norms begin with ones or zeros, biases with zeros
                torch.nn.init.normal_(parameter, mean=1 if parameter.mean() else 0.3, std=0.3)
        members.append(Member(plan=plan, fold=fold, weights=network.state_dict()))
    return Model(members=tuple(members))


@pytest.fixture
def scan(tmp_path):
    """A scan of one tile, stored as most NIfTI files are (to right, anterior, superior), different at each end of each axis."""
    files = []
    for channel in range(2):
        voxels = np.random.default_rng(channel).normal(size=(16, 12, 8)) + np.linspace(0, 3, 8) + np.linspace(0, 2, 12)[:, None]
        image = sitk.GetImageFromArray(voxels.astype(np.float32))
        image.SetSpacing((3.0, 0.75, 0.5))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        files.append(tmp_path / f"scan_{channel:04d}.nii.gz")
        sitk.WriteImage(image, files[-1])
    return read_scan(files)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("orientation", ["lps", "ras", "stored"])
def test_a_written_model_predicts_as_before(orientation, kind, dimensions, scan, tmp_path):
    model = model_of(plan_of(orientation, kind, dimensions))
    [folder] = write_nnunet_model(model, tmp_path / "out")
    again = read_nnunet_model(folder)
    assert again.members[0].plan.preprocessing.orientation == {"lps": "ras"}.get(orientation, orientation)
    before, after = (Predictor(one, device="cpu", classic=True)(scan).label_map.labels for one in (model, again))
    assert len(np.unique(before)) > 1
    assert (before == after).mean() >= 0.9999


def test_each_fold_has_a_checkpoint_that_holds_a_weight_once(tmp_path):
    model = model_of(plan_of("ras"), folds=(0, 2))
    [folder] = write_nnunet_model(model, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "fold_0", "fold_2", "plans.json"]
    file = folder / "fold_2" / "checkpoint_final.pth"
    weights = sum(tensor.numel() * 4 for tensor in model.members[1].weights.values())
    assert weights < file.stat().st_size < weights * 1.3 + 200_000
    with open_checkpoint(file) as checkpoint:
        state = checkpoint.content["network_weights"]
        first = "encoder.stages.0.0.convs.0.conv.weight"
        copies = (first, first.replace(".conv.", ".all_modules.0."), f"decoder.{first}")
        expected = model.members[1].weights["encoder.stages.0.0.conv.weight"]
        assert all(torch.equal(checkpoint.read(state[name]), expected) for name in copies)
        assert checkpoint.content["inference_allowed_mirroring_axes"] == (1,)


def test_values_of_labels_become_their_numbers(tmp_path):
    plan = plan_of()
    regions = (Region(name="whole", values=(2, 7), paint=2), Region(name="core", values=(7,), paint=7))
    labels = Labels(names=("background", "organ", "tumour"), values=(0, 2, 7), regions=regions)
    [folder] = write_nnunet_model(model_of(plan.model_copy(update={"labels": labels})), tmp_path / "out", suffix=".mha")
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "whole": [1, 2], "core": [2]}
    assert content["regions_class_order"] == [1, 2]
    assert content["file_ending"] == ".mha"


def test_pictures_are_not_turned(tmp_path):
    model = model_of(plan_of(dimensions=2))
    [folder] = write_nnunet_model(model, tmp_path / "out", suffix=".png")
    content = json.loads((folder / "plans.json").read_text())
    assert content["image_reader_writer"] == "NaturalImage2DIO"
    again = read_nnunet_model(folder)
    assert all(torch.equal(tensor, again.members[0].weights[name]) for name, tensor in model.members[0].weights.items())


def test_what_nnunet_cannot_have_is_refused_by_name(tmp_path):
    cascade = plan_of().model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})
    member = model_of(plan_of()).members[0]
    with pytest.raises(ModelError, match="cascade"):
        write_nnunet_model(Model(members=(replace(member, plan=cascade),)), tmp_path / "out")
    for changes, words in (({"kind": "separable"}, "separable"), ({"attention_gates": True}, "plain with attention gates")):
        plan = member.plan.model_copy(update={"network": member.plan.network.model_copy(update=changes)})
        with pytest.raises(ModelError, match=f"no network of the kind {words}; export it without --nnunet"):
            write_nnunet_model(Model(members=(replace(member, plan=plan),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="is there already"):
        write_nnunet_model(model_of(plan_of()), tmp_path / "there")


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of files")
def test_a_file_that_cannot_be_written_leaves_no_folder(tmp_path):
    import resource

    model, before = model_of(plan_of()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the checkpoint is larger
    try:
        with pytest.raises(WriteError, match=r"cannot write .*checkpoint_final.pth: "):
            write_nnunet_model(model, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(RunError, match="is there already"):
        write_nnunet_model(model, tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
