"""Attribution maps of networks whose gradients are known, and of networks with random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nnseg.core.errors import ModelError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.inference.attribution import Attributor, Target
from nnseg.inference.networks import MemberNetwork, group_networks, window_of
from nnseg.network.build import build_network
from nnseg.network.bundle import Member

CPU = torch.device("cpu")
LABELS = Labels(names=("background", "front"), values=(0, 3))
REGIONS = Labels(names=("background", "rim", "core"), values=(0, 1, 2), regions=(Region(name="whole", values=(1, 2), paint=1),))


def plan_of(dimensions=3, *, labels=LABELS, spacing=1.0, channels=1, axes=(0, 1, 2), patch=(8, 12, 8)) -> Plan:
    return Plan(
        name=f"{dimensions}d",
        dataset="phantom",
        recipe="default",
        channels=tuple(f"c{n}" for n in range(channels)),
        patch=patch[-dimensions:],
        labels=labels,
        preprocessing=Preprocessing(
            axes=axes, spacing=(spacing,) * dimensions, normalization=(Normalization(scheme="none"),) * channels
        ),
        network=Network(
            kind="plain",
            features=(4, 8),
            strides=((1,) * dimensions, (2,) * dimensions),
            kernels=((3,) * dimensions,) * 2,
            blocks=(1, 1),
            decoder_blocks=(1,),
        ),
        training=Training(batch_size=2, precision="float32"),
        inference=Inference(mirror_axes=tuple(range(dimensions))),
    )


class Weighted(nn.Module):
    """Logits whose log-odds at each voxel are a weighted sum of the channels there; those of the background are 0.

    The head of the label and that of its border, if there is one, have the same logits.
    """

    def __init__(self, *weights: float, heads: int = 2) -> None:
        super().__init__()
        self.weights, self.heads = weights, heads

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        odds = sum(w * image[:, [c]] for c, w in enumerate(self.weights))
        return torch.cat([odds] if self.heads == 1 else [torch.zeros_like(odds), *[odds] * (self.heads - 1)], 1)


def attributor_of(network: nn.Module, plan: Plan, method: str, copies: int = 4) -> Attributor:
    member = Member(plan=plan, fold=0, weights={})
    groups = group_networks([MemberNetwork(member, network, CPU)], [window_of(member, CPU)])
    return Attributor.of(plan.labels.whole, groups, method, copies=copies)


def example(shape=(14, 19, 23), *, channels=1, spacing=(1.0, 1.0, 1.0), value=3) -> tuple[Scan, LabelMap]:
    """A scan of noise, and a label map with one box."""
    image = np.random.default_rng(0).normal(5, 2, (channels, *shape)).astype(np.float32)
    grid = Grid(shape=shape, spacing=spacing, origin=(7.0, -3.0, 11.0))
    labels = np.zeros(shape, np.int16)
    labels[4:9, 5:11, 12:20] = value
    scan = Scan(image=image, grid=grid, source=Source(files=(Path("brain.nii.gz"),), grid=grid))
    return scan, LabelMap(labels=labels, grid=grid)


@pytest.fixture
def _captum() -> None:
    pytest.importorskip("captum", reason="the extra explain is not installed")


@pytest.mark.usefixtures("_captum")
@pytest.mark.parametrize(("dimensions", "axes"), [(3, (0, 1, 2)), (3, (2, 0, 1)), (2, (0, 1, 2)), (2, (1, 0, 2))])
def test_the_gradient_of_a_pointwise_network_is_its_weight_at_the_label(dimensions, axes):
    scan, label_map = example()
    attributor = attributor_of(Weighted(-3.0), plan_of(dimensions, axes=axes), "smoothgrad")
    found = attributor.attribute(attributor.prepare(scan, label_map), Target(head=1), 0).values
    inside = label_map.labels == 3
    np.testing.assert_allclose(found[inside], 3 / inside.sum(), rtol=1e-4)
    assert not found[~inside].any()


@pytest.mark.usefixtures("_captum")
def test_channels_are_summed_and_regions_have_log_odds_of_their_own():
    scan, label_map = example(channels=2, value=2)
    attributor = attributor_of(Weighted(-3.0, 1.0, heads=1), plan_of(labels=REGIONS, channels=2), "smoothgrad")
    found = attributor.attribute(attributor.prepare(scan, label_map), Target(head=0), 0).values
    inside = label_map.labels == 2
    np.testing.assert_allclose(found[inside], 4 / inside.sum(), rtol=1e-4)
    assert not found[~inside].any()


@pytest.mark.usefixtures("_captum")
def test_the_borders_of_objects_are_explained_with_their_label():
    scan, label_map = example()
    labels = LABELS.with_borders(LABELS.names[1:2])
    attributor = attributor_of(Weighted(-3.0, heads=len(labels.names)), plan_of(labels=labels), "smoothgrad")
    prepared = attributor.prepare(scan, label_map)
    assert all(labels.names.index(border) in case.labels for case in prepared.cases.values() for border in labels.borders)
    found = attributor.attribute(prepared, Target(head=1), 0).values
    inside = label_map.labels == 3
    np.testing.assert_allclose(found[inside], 3 / inside.sum(), rtol=1e-4)
    assert not found[~inside].any()


@pytest.mark.usefixtures("_captum")
def test_a_map_comes_back_from_a_coarser_grid_with_its_sum():
    scan, label_map = example((20, 24, 28))
    attributor = attributor_of(Weighted(1.0), plan_of(spacing=2.0), "smoothgrad")
    found = attributor.attribute(attributor.prepare(scan, label_map), Target(head=1), 0).values
    assert found.shape == scan.grid.shape
    assert found.sum() == pytest.approx(1, rel=0.02)
    assert found[label_map.labels == 3].sum() > 0.7


@pytest.mark.usefixtures("_captum")
def test_a_scan_smaller_than_a_tile_is_explained_and_equal_networks_as_one():
    scan, _ = example((5, 3, 4))
    label_map = LabelMap(labels=np.where(scan.image[0] > 5, 3, 0), grid=scan.grid)
    attributor = attributor_of(Weighted(2.0), plan_of(), "smoothgrad")
    twice = replace(attributor, groups=(replace(attributor.groups[0], networks=attributor.groups[0].networks * 2),))
    one, two = (a.attribute(a.prepare(scan, label_map), Target(head=1), 0).values for a in (attributor, twice))
    np.testing.assert_allclose(one[label_map.labels == 3], 2 / (label_map.labels == 3).sum(), rtol=1e-4)
    np.testing.assert_allclose(one, two, rtol=1e-5)


def small_example(shape=(6, 6, 6)) -> tuple[Scan, LabelMap]:
    """A scan with a label of 36 voxels."""
    scan, label_map = example(shape)
    label_map.labels[:], label_map.labels[2:5, 1:4, 2:6] = 0, 3
    return scan, label_map


def test_occlusion_shows_by_how_much_the_log_odds_fall():
    scan, label_map = small_example()
    attributor = attributor_of(Weighted(2.0), plan_of(patch=(6, 6, 6)), "occlusion")  # one tile, whose boxes are single voxels
    found = attributor.attribute(attributor.prepare(scan, label_map), Target(head=1), 0).values
    expected = np.where(label_map.labels == 3, 2 * (scan.image[0] - scan.image[0].mean()) / 36, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_occluded_boxes_of_overlapping_tiles_add_up():
    scan, label_map = small_example((8, 16, 8))
    attributor = attributor_of(Weighted(1.0), plan_of(patch=(6, 12, 6)), "occlusion")
    found = attributor.attribute(attributor.prepare(scan, label_map), Target(head=1), 0).values
    box = (slice(3, 4), slice(2, 4), slice(3, 4))  # of 1 x 2 x 1 voxels, as all
    drop = np.where(label_map.labels == 3, scan.image[0] - scan.image[0].mean(), 0)[box].sum() / 36
    np.testing.assert_allclose(found[box], drop / 2, atol=1e-6)


def test_what_is_elsewhere_are_as_many_other_voxels_the_same_each_time():
    scan, label_map = small_example()
    attributor = attributor_of(Weighted(1.0), plan_of(patch=(6, 6, 6)), "occlusion")
    labelled = attributor.prepare(scan, label_map)
    found, again, other = (attributor.attribute(labelled, Target(head=1, elsewhere=True), seed).values for seed in (1, 1, 2))
    assert np.count_nonzero(found) == 36
    assert not found[label_map.labels == 3].any()
    assert np.array_equal(found, again)
    assert not np.array_equal(found, other)


def member_of(plan: Plan) -> Member:
    torch.manual_seed(7)
    return Member(plan=plan, fold=0, weights={n: t + 0.1 for n, t in build_network(plan).state_dict().items()})


@pytest.mark.usefixtures("_captum")
def test_the_map_of_a_u_net_without_noise_is_its_gradient_and_other_random_numbers_stay_as_they_are():
    from nnseg.inference.smoothgrad import smoothgrad

    network = MemberNetwork.of(member_of(plan_of()), CPU)
    window, tile = window_of(network.member, CPU), torch.randn(1, 8, 12, 8)

    def objective(tiles):
        return network(tiles, window)[:, 1].flatten(1).sum(1)

    before = torch.get_rng_state()
    found = smoothgrad(objective, tile, copies=3, batch=2, deviation=1e-6, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    leaf = tile[None].clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    torch.testing.assert_close(found, expected[0], rtol=1e-3, atol=1e-4)
    noisy, again, other = (smoothgrad(objective, tile, copies=3, batch=2, deviation=0.5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(noisy, again)
    assert not torch.allclose(noisy, other)


def test_random_weights_begin_with_the_last_layers():
    network = MemberNetwork.of(member_of(plan_of()), CPU)
    trained = network.member.weights

    def changed(share):
        random = network.randomized(share, 0).member.weights
        return {name for name in trained if not torch.equal(random[name], trained[name])}

    assert changed(0) == set()
    assert changed(1) == set(trained)
    half = changed(0.5)
    assert {name for name in trained if ".heads." in name} <= half
    assert not any(name.startswith("encoder.stages.0") for name in half)
    again = network.randomized(1, 0).member.weights
    assert all(torch.equal(weight, network.randomized(1, 0).member.weights[name]) for name, weight in again.items())


@pytest.mark.usefixtures("_captum")
@pytest.mark.parametrize("method", ["smoothgrad", "occlusion"])
def test_of_a_cascade_the_scan_is_explained_with_the_previous_label_map_as_it_is(method):
    scan, label_map = example()
    plan = plan_of().model_copy(update={"name": "3d_cascade", "previous": "3d"})
    alone = attributor_of(Weighted(-3.0), plan_of(), method)
    cascade = attributor_of(Weighted(-3.0, 50.0), plan, method)  # the second channel is 1 where the label was predicted before
    expected = alone.attribute(alone.prepare(scan, label_map), Target(head=1), 0).values
    found = cascade.attribute(cascade.prepare(scan, label_map, previous=label_map), Target(head=1), 0).values
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(ModelError, match="needs the label map of 3d"):
        cascade.prepare(scan, label_map)


def test_the_reach_of_a_voxel_is_the_share_of_the_label_that_its_tiles_hold():
    scan, label_map = small_example((6, 16, 6))  # tiles of 12 rows from row 0 and from row 4; the label is in rows 1 to 3
    attributor = attributor_of(Weighted(1.0), plan_of(patch=(6, 12, 6)), "occlusion")
    found = attributor.attribute(attributor.prepare(scan, label_map), Target(head=1), 0)
    np.testing.assert_allclose(found.reach[:, :12], 1, rtol=1e-5)
    assert not found.reach[:, 12:].any()
    label_map.labels[:, 4:8] = 3  # rows of both tiles
    both = attributor.attribute(attributor.prepare(scan, label_map), Target(head=1), 0).reach
    np.testing.assert_allclose(both[:, 4:12], 1, rtol=1e-5)
    assert 0 < both[0, 15, 0] < both[0, 0, 0] < 1
    np.testing.assert_allclose(both[0, 0, 0] + both[0, 15, 0], 1, rtol=1e-5)
