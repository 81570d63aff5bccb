"""Masked autoencoding: what is masked, what the loss counts, and which weights are kept."""

import pytest
import torch
from patch_examples import plan_of
from torch import nn

from nnseg.core.errors import PlanError
from nnseg.network.build import build_network
from nnseg.training.context import TrainingContext
from nnseg.training.pretraining import MASKED, MaskedAutoencoder, masked_autoencoding, pretraining_plan, weights_of


class Zero(nn.Module):
    """Predicts zeros, and keeps what it was given."""

    def forward(self, image):
        self.given = image
        return torch.zeros_like(image)


def test_the_loss_of_zeros_is_the_mean_square_of_the_masked_voxels():
    network = MaskedAutoencoder(Zero(), block=(2, 2), seed=(0,))
    image = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1)) + 3
    masked = network.mask(image).bool().expand_as(image)
    loss = network(image).mean()
    torch.testing.assert_close(loss, image[masked].square().mean())
    assert not network.network.given[masked].any()
    assert torch.equal(network.network.given[~masked], image[~masked])


def test_the_share_of_blocks_is_masked_in_each_image_and_a_mask_depends_on_the_batch_alone():
    network, image = MaskedAutoencoder(Zero(), block=(2, 4, 4), seed=(5,)), torch.zeros(2, 1, 8, 16, 16)
    first = network.mask(image)
    blocks = first.view(2, 4, 2, 4, 4, 4, 4)
    assert torch.equal(blocks.amax((2, 4, 6)), blocks.amin((2, 4, 6)))  # each block is masked whole or not at all
    assert first.mean((1, 2, 3, 4)).tolist() == pytest.approx([round(MASKED * 64) / 64] * 2)
    assert not torch.equal(first[0], first[1])
    network(image)
    assert not torch.equal(network.mask(image), first)
    restored = MaskedAutoencoder(Zero(), block=(2, 4, 4), seed=(5,))
    restored.load_state_dict({"batches": torch.tensor(0)})
    assert torch.equal(restored.mask(image), first)


def test_weights_are_those_of_the_plans_network_without_heads():
    plan = pretraining_plan(plan_of())
    context = TrainingContext(plan=plan, fold=0, device=torch.device("cpu"), dtype=torch.float32)
    network, loss = masked_autoencoding(context)
    image = torch.randn(1, plan.input_channels, *plan.patch)
    errors = network(image)
    assert errors.shape == image.shape
    loss(errors, torch.zeros(1)).backward()
    own = {name: value.shape for name, value in build_network(plan).state_dict().items() if "heads" not in name}
    assert {name: value.shape for name, value in weights_of(network.state_dict()).items()} == own


def test_cascades_are_refused():
    plan = plan_of().model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})
    with pytest.raises(PlanError, match="pretrain that of 3d_lowres"):
        pretraining_plan(plan)
