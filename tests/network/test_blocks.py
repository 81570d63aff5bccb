import pytest
import torch
from torch import nn

from nnseg.network.blocks import (
    NO_ACTIVATION,
    ConvNorm,
    InstanceNorm,
    ResidualBlock,
    UpConvolution,
    channels_last_on_cpu,
    initialize,
)


def drawn(module: nn.Module) -> nn.Module:
    """The module with every parameter, also scales and offsets, away from its starting value."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def test_instance_norm_of_four_voxels_by_hand():
    norm = InstanceNorm(1, slope=0.5)
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.bias.fill_(1.0)
        y = norm(torch.tensor([[[[1.0, 1.0], [3.0, 3.0]]]]))  # mean 2, variance 1: -1 and 1 -> -1 and 3 -> activation
    assert torch.allclose(y, torch.tensor([[[[-0.5, -0.5], [3.0, 3.0]]]]), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (3, 5, 4, 6, 7), (1, 2, 1, 1, 3)])
@pytest.mark.parametrize("slope", [0.01, NO_ACTIVATION])
def test_instance_norm_and_its_gradients_equal_torchs(shape, slope):
    ours = drawn(InstanceNorm(shape[1], slope=slope)).double()
    theirs = (nn.InstanceNorm2d if len(shape) == 4 else nn.InstanceNorm3d)(shape[1], affine=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, dtype=torch.float64).add(3).requires_grad_()
    seen = torch.randn(shape, dtype=torch.float64)
    answers = [ours(x), nn.functional.leaky_relu(theirs(x), slope)]
    gradients = [torch.autograd.grad(y, [x, *m.parameters()], seen) for y, m in zip(answers, (ours, theirs), strict=True)]
    assert torch.allclose(answers[0], answers[1], atol=1e-10)
    for mine, other in zip(*gradients, strict=True):
        assert torch.allclose(mine, other, atol=1e-10)


def test_instance_norm_gradients_equal_finite_differences():
    norm = drawn(InstanceNorm(2, slope=0.1)).double()
    x = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, x), (x, *norm.parameters())
    )


def test_instance_norm_survives_a_large_mean():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 20, 20, 20) + 1000
    expected = nn.functional.instance_norm(x.double())
    assert (InstanceNorm(4, slope=NO_ACTIVATION)(x) - expected).abs().max() < 0.01


def test_a_channel_of_one_voxel_becomes_the_offset_and_trains():
    norm = drawn(InstanceNorm(3, slope=NO_ACTIVATION))
    x = torch.randn(2, 3, 1, 1, 1, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert torch.allclose(y, norm.bias.view(1, 3, 1, 1, 1).expand(2, 3, 1, 1, 1), atol=1e-4)
    assert x.grad.abs().max() < 1e-4
    assert torch.equal(norm.bias.grad, torch.full((3,), 2.0))


def test_instance_norm_in_bfloat16_takes_statistics_in_float32():
    torch.manual_seed(0)
    x = (torch.randn(2, 4, 16, 16, 16) + 2).bfloat16()
    norm = InstanceNorm(4, slope=0.01)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - norm(x.float())).abs().max() < 0.02  # one rounding of a value up to 4


@pytest.mark.parametrize("stride", [(2, 2), (1, 2, 2), (2, 2, 2)])
def test_the_step_up_and_its_gradients_equal_transposed_convolution_and_concatenation(stride):
    up = drawn(UpConvolution((4, 3), stride)).double()
    theirs = (nn.ConvTranspose2d if len(stride) == 2 else nn.ConvTranspose3d)(4, 3, stride, stride).double()
    theirs.load_state_dict(up.state_dict())
    coarse = torch.randn(2, 4, *([3] * len(stride)), dtype=torch.float64, requires_grad=True)
    fine = torch.randn(2, 3, *(3 * s for s in stride), dtype=torch.float64, requires_grad=True)
    seen = torch.randn(2, 6, *fine.shape[2:], dtype=torch.float64)
    mine = up(coarse, fine)
    expected = torch.cat((theirs(coarse), fine), 1)
    assert torch.allclose(mine, expected, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(mine, [coarse, fine, *up.parameters()], seen),
        torch.autograd.grad(expected, [coarse, fine, *theirs.parameters()], seen),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-12)


def test_an_untrained_residual_block_passes_its_shortcut_on():
    block = ResidualBlock((4, 4), (3, 3), stride=(1, 1)).apply(initialize)
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_a_strided_residual_block_pools_and_projects_its_shortcut():
    block = ResidualBlock((2, 4), (1, 3, 3), stride=(1, 2, 2)).apply(initialize)
    assert [name for name, _ in block.skip.named_parameters()] == ["1.conv.weight", "1.norm.weight", "1.norm.bias"]
    x = torch.randn(1, 2, 3, 8, 8)
    pooled = nn.functional.avg_pool3d(x, (1, 2, 2))
    expected = nn.functional.leaky_relu(nn.functional.instance_norm(nn.functional.conv3d(pooled, block.skip[1].conv.weight)), 0.01)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_initial_weights_have_the_spread_of_kaiming():
    torch.manual_seed(0)
    conv = ConvNorm((32, 64), (3, 3, 3), stride=(1, 1, 1)).apply(initialize).conv
    assert conv.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (32 * 27)) ** 0.5, rel=0.02)
    assert not conv.bias.any()


@pytest.mark.parametrize("channels", [1, 2])
def test_on_the_cpu_activations_lie_channels_last(channels):
    x = channels_last_on_cpu(torch.randn(2, channels, 4, 6, 8))
    y = ConvNorm((channels, 4), (3, 3, 3), stride=(2, 2, 2))(x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert not y.is_contiguous()


@pytest.mark.parametrize(("slices", "kernel"), [(1, 3), (2, 3), (3, 3), (2, 5), (4, 5)])
def test_gradients_in_bfloat16_are_right_where_an_image_has_fewer_slices_than_a_kernel(slices, kernel):
    block = ConvNorm((16, 16), (kernel, 3, 3), stride=(1, 1, 1))
    x, towards = torch.randn(2, 16, slices, 8, 8), torch.randn(2, 16, slices, 8, 8)

    def gradient(*, bfloat16: bool) -> torch.Tensor:
        block.zero_grad()
        unused = [torch.full((10**5,), 3e38) for _ in range(5)]
        del unused  # memory that is freed, and given out again, with large numbers in it
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y = block.conv(channels_last_on_cpu(x))
        y.backward(towards.to(y.dtype))
        return block.conv.weight.grad.clone()

    exact = gradient(bfloat16=False)
    for _ in range(5):
        assert torch.linalg.vector_norm(gradient(bfloat16=True) - exact) < 0.02 * torch.linalg.vector_norm(exact)
