"""What is known of each kind of network without building it, compared with the network itself."""

import math

import pytest
import torch
from torch import nn

from nnseg.core.network_kinds import KINDS, count_values, count_weights
from nnseg.core.plan import Network
from nnseg.network.blocks import PooledProjection, UpConvolution
from nnseg.network.build import build_unet


def network_of(kind, dimensions, **settings):
    """Three stages of 8 features, of which the second is not pooled along the first axis."""
    ones, twos = (1,) * dimensions, (2,) * dimensions
    return Network(
        kind=kind,
        features=settings.pop("features", (8, 8, 8)),
        strides=(ones, (1, *twos[1:]), twos),
        kernels=((1, *(3,) * (dimensions - 1)), (3,) * dimensions, (3,) * dimensions),
        blocks=(1, 2, 2),
        decoder_blocks=(2, 1),
        **settings,
    )


LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear, PooledProjection, nn.AvgPool2d, nn.AvgPool3d)
KINDS_AND_AXES = [(kind, dimensions) for kind, of in KINDS.items() for dimensions in of.dimensions]


@pytest.mark.parametrize(("kind", "dimensions"), KINDS_AND_AXES)
@pytest.mark.parametrize("features", [(8, 8, 8), (4, 8, 12)])
def test_values_are_those_that_a_network_computes(kind, dimensions, features):
    plan, patch = network_of(kind, dimensions, features=features), (8,) * dimensions
    network, seen = build_unet(plan, channels=1, heads=3), []
    for module in network.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda _m, _i, out: seen.append(out.numel()))
        elif isinstance(module, UpConvolution):  # its result has the encoder's features beside its own
            module.register_forward_hook(lambda m, _i, out: seen.append(m.weight.shape[1] * math.prod(out.shape[2:])))
    network(torch.zeros(1, 1, *patch))
    assert count_values(plan, patch, heads=3) == sum(seen)


@pytest.mark.parametrize(("kind", "dimensions"), KINDS_AND_AXES)
def test_weights_are_about_those_of_a_network(kind, dimensions):
    plan = network_of(kind, dimensions, features=(32, 32, 32))
    with torch.device("meta"):
        network = build_unet(plan, channels=1, heads=3)
    weights = sum(p.numel() for name, p in network.named_parameters() if ".ups." not in name)
    assert count_weights(plan) == pytest.approx(weights, rel=0.35)
