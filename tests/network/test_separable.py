import torch
from torch import nn

from nnseg.network.blocks import ConvNorm, ResidualBlock
from nnseg.network.separable import SeparableBlock


def test_each_channel_is_convolved_alone_and_voxels_are_mixed_after():
    block = SeparableBlock((3, 5), (3, 3), stride=(1, 1))
    kernels = [module.weight.shape for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == [(3, 1, 3, 3), (5, 3, 1, 1), (5, 3, 1, 1)]  # the last of the shortcut
    image = torch.zeros(1, 3, 5, 5)
    image[0, 1, 2, 2] = 1
    assert block.first.conv(image).sub(block.first.conv(image * 0)).abs().amax((2, 3))[0].gt(0).tolist() == [False, True, False]


def test_a_block_has_several_times_fewer_weights_than_a_residual_one():
    separable, full = (
        sum(p.numel() for p in kind((64, 64), (3,) * 3, stride=(1,) * 3).parameters()) for kind in (SeparableBlock, ResidualBlock)
    )
    assert separable * 30 < full


def test_an_untrained_block_returns_its_shortcut():
    image = torch.randn(1, 4, 6, 6, 6)
    block = SeparableBlock((4, 4), (3,) * 3, stride=(1,) * 3)
    assert torch.allclose(block(image), nn.functional.leaky_relu(image, 0.01))


def test_a_dilated_convolution_sees_voxels_at_its_distance():
    convolution = ConvNorm((1, 1), (3, 3), stride=(1, 1), dilation=2).conv
    nn.init.ones_(convolution.weight)
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1
    seen = (convolution(image) - convolution(image * 0))[0, 0].abs() > 0.5
    assert seen.nonzero().tolist() == [[y, x] for y in (1, 3, 5) for x in (1, 3, 5)]
