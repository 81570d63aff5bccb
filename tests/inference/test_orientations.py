"""However a scan is stored, its segmentation lies in the same place in the world."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch

from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.inference.predict import Predictor
from nnseg.network.build import build_unet
from nnseg.network.bundle import Member, Model
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import write_label_map

CPU = torch.device("cpu")
UPRIGHT = np.diag([1.5, 2.0, 1.25, 1.0])
OBLIQUE = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 1, 9], [0, 0, 0, 1]]) @ UPRIGHT


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Of an untrained network far from a start that favours no label; without mirroring, so that turns would show."""
    plan = Plan(
        name="3d",
        dataset="phantom",
        recipe="default",
        channels=("MRI",),
        patch=(8, 8, 8),
        labels=Labels(names=("background", "front", "back"), values=(0, 3, 700)),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(2.0, 2.0, 2.0), normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain",
            features=(4, 8),
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3),) * 2,
            blocks=(1, 1),
            decoder_blocks=(1,),
        ),
        training=Training(batch_size=2, precision="float32"),
        inference=Inference(mirror_axes=()),
    )
    torch.manual_seed(0)
    network = build_unet(plan.network, channels=1, heads=3)
    weights = {n: t + 0.5 * torch.randn_like(t) for n, t in network.state_dict().items()}
    return Predictor(Model(members=(Member(plan=plan, fold=0, weights=weights),)), device=CPU)


@pytest.mark.parametrize("affine", [UPRIGHT, OBLIQUE], ids=["upright", "oblique"])
def test_all_48_orientations_of_a_scan_give_one_segmentation_in_the_world(tmp_path, predictor, affine):
    voxels = np.random.default_rng(0).normal(5, 2, (13, 11, 9)).astype(np.float32)
    world, wanted = nib.Nifti1Image(voxels, affine), None
    for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        turn = np.stack([axes, flips], axis=1)
        nib.save(world.as_reoriented(turn), tmp_path / "turned.nii")
        scan = read_scan(tmp_path / "turned.nii")
        write_label_map(predictor(scan).label_map, tmp_path / "out.nii", like=scan.source)
        found = np.asarray(nib.load(tmp_path / "out.nii").dataobj)
        wanted = found if wanted is None else wanted
        # the first turn is none, so that `wanted` lies as `voxels` do
        assert np.array_equal(found, nib.orientations.apply_orientation(wanted, turn))
    assert sorted(np.unique(wanted)) == [0, 3, 700]
