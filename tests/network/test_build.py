"""A kind of network that is no U-Net, and the tables of names."""

import pytest
import torch
from patch_examples import plan_of
from torch import nn

from nnseg.core.validation import function_table
from nnseg.network import build
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.network.transfer import transfer_weights


class Flat(nn.Module):
    """A convolution and a head."""

    def __init__(self, plan):
        super().__init__()
        self.features = nn.Conv3d(plan.input_channels, 4, 3, padding=1)
        self.heads = nn.Conv3d(4, len(plan.labels.heads), 1)

    def forward(self, image):
        return self.heads(self.features(image).relu())


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setitem(build.NETWORKS, "plain", Flat)


def test_the_heads_of_a_network_that_is_no_unet_follow_their_labels(flat):
    plan = plan_of()
    before, network = build_network(plan), build_network(plan)
    names = ("background", "c", "new", "a")
    renamed = plan.model_copy(update={"labels": plan.labels.model_copy(update={"names": names})})
    reuse = transfer_weights(network, renamed, Model(members=(Member(plan=plan, fold=0, weights=before.state_dict()),)))
    assert torch.equal(network.heads.weight[[0, 1, 3]], before.heads.weight[[0, 3, 1]])
    assert (reuse.heads, reuse.new_heads) == (("background", "c", "a"), ("new",))


def test_a_network_of_a_single_layer_is_transferred_whole(flat):
    plan, before, network = plan_of(), nn.Conv3d(1, 4, 1), nn.Conv3d(1, 4, 1)
    transfer_weights(network, plan, Model(members=(Member(plan=plan, fold=0, weights=before.state_dict()),)))
    assert torch.equal(network.weight, before.weight)


def test_a_table_that_lacks_a_name_is_refused():
    with pytest.raises(TypeError, match="residual"):
        function_table(build.NetworkKind, {"plain": Flat})
