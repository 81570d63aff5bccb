"""2.5D networks: slices of a scan with their neighbours as channels, in training, validation and prediction."""

import numpy as np
import pytest
import torch
from patch_examples import CPU, STILL, WILD, case_of, plan_of
from torch import nn

from nnseg.core.errors import ModelError, PlanError
from nnseg.core.plan import Plan
from nnseg.core.validation import parse
from nnseg.inference.attribution import Attributor
from nnseg.inference.networks import MemberNetwork, group_networks, window_of
from nnseg.inference.sliding_window import sliding_window
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.network.inputs import read_slices
from nnseg.network.transfer import transfer_weights
from nnseg.training.patches import Patches


def plan_25d(patch=(8, 8), **settings):
    plan = plan_of(patch, **settings)
    return plan.model_copy(update={"network": plan.network.model_copy(update={"kind": "2.5d"})})


def test_slices_have_their_neighbours_as_channels_and_the_outermost_are_repeated():
    image = torch.arange(8.0).view(2, 4, 1, 1)  # slices 0 to 3 of one channel, 4 to 7 of another
    found = read_slices(image, (slice(0, 4), slice(0, 1), slice(0, 1)), 3)
    assert found[:, :, 0, 0].T.tolist() == [[0, 0, 1, 4, 4, 5], [0, 1, 2, 4, 5, 6], [1, 2, 3, 5, 6, 7], [2, 3, 3, 6, 7, 7]]
    assert read_slices(image.numpy(), (slice(3, 4), slice(0, 1), slice(0, 1)), 3)[:, 0, 0, 0].tolist() == [2, 3, 3, 6, 7, 7]


@pytest.mark.parametrize("augmentation", [STILL, STILL | {"rotation_probability": 1.0}])
def test_patches_have_the_slices_above_and_below(augmentation):
    case = case_of(shape=(20, 18, 16), channels=2)
    case.image[:] = np.arange(20.0)[:, None, None] * np.array([1, 100])[:, None, None, None]  # a slice's number
    batch = Patches([case], plan_25d(channels=2, augmentation=augmentation, batch_size=8), fold=0, device=CPU).batch(0)
    assert batch.image.shape == (8, 6, 8, 8)
    below, middle, above, *others = batch.image[:, :, 4, 4].T
    inside = (middle > 0.5) & (middle < 18.5)
    assert inside.sum() > 3
    assert torch.allclose(middle - below, torch.ones(8)[:1].expand(8) * inside + (middle - below) * ~inside)
    assert torch.allclose((above - middle)[inside], torch.ones(int(inside.sum())))
    assert torch.allclose(torch.stack(others), 100 * torch.stack([below, middle, above]))


def test_slices_of_a_channel_are_augmented_alike():
    case = case_of(channels=2)
    case.image[:] = np.random.default_rng(0).normal(size=case.image.shape[2:])
    wild = WILD | {"rotation_probability": 0.0}
    image = Patches([case], plan_25d(channels=2, augmentation=wild, batch_size=4), fold=0, device=CPU).batch(0).image
    assert torch.equal(image[:, [0, 3]], image[:, [1, 4]])
    assert torch.equal(image[:, [0, 3]], image[:, [2, 5]])
    assert not torch.equal(image[:, 0], image[:, 3])


class Steepness(nn.Module):
    """Logits that are the difference of the slices above and below."""

    def forward(self, tiles):
        return torch.stack([tiles[:, 2] - tiles[:, 0]] * 4, 1)


def test_the_sliding_window_shows_neighbouring_slices():
    plan = plan_25d()
    network = MemberNetwork(Member(plan=plan, fold=0, weights={}), Steepness(), CPU)
    heights = torch.tensor([0.0, 1, 4, 9, 16])
    image = heights.view(1, 5, 1, 1) + torch.rand(1, 1, 12, 8)
    window = window_of(network.member, CPU, classic=True)
    logits = torch.cat([*sliding_window([network], image, window)], 1)
    expected = torch.tensor([1.0, 4, 8, 12, 7]).view(1, 5, 1, 1)
    assert torch.allclose(logits, expected.expand(4, 5, 12, 8), atol=1e-5)


def test_first_weights_follow_their_channels_with_all_slices():
    before, plan = plan_25d(channels=2), plan_25d(channels=2)
    plan = plan.model_copy(update={"channels": plan.channels[::-1]})
    given, network = build_network(before), build_network(plan)
    transfer_weights(network, plan, Model(members=(Member(plan=before, fold=0, weights=given.state_dict()),)))
    old, new = (next(iter(of.parameters())) for of in (given, network))
    assert torch.equal(new, old[:, [3, 4, 5, 0, 1, 2]])


def test_a_25d_network_is_for_2d_plans_and_is_not_explained():
    content = plan_of().model_dump(mode="json")
    content["network"]["kind"] = "2.5d"
    with pytest.raises(PlanError, match=r'network.kind = "2.5d" needs 2D patches; plan with --plans 2d'):
        parse(Plan, content, "plan")
    plan = plan_25d()
    network = MemberNetwork.of(Member(plan=plan, fold=0, weights=build_network(plan).state_dict()), CPU)
    groups = group_networks([network], [window_of(network.member, CPU)])
    with pytest.raises(ModelError, match="neighbouring slices as channels"):
        Attributor.of(plan.labels, groups, "occlusion")


def test_labels_of_one_slice_are_not_what_intensities_of_three_are_drawn_from():
    content = plan_25d().model_dump(mode="json")
    content["training"]["augmentation"]["synthesis_probability"] = 0.5
    with pytest.raises(PlanError, match="synthesis_probability must be 0 for a network that sees neighbouring slices"):
        parse(Plan, content, "plan")


def test_attention_over_too_many_voxels_is_refused():
    content = plan_of((128, 128, 128)).model_dump(mode="json")
    content["network"] |= {
        "kind": "transformer", "features": [8, 8, 8], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3,
        "blocks": [1, 1, 1], "decoder_blocks": [1, 1],
    }  # fmt: skip
    with pytest.raises(PlanError, match="262144 voxels of a patch attend to one another, the most is 4096; choose another kind"):
        parse(Plan, content, "plan")
