import torch
from torch import nn

from nnseg.core.plan import Network
from nnseg.network.blocks import AttentionGate
from nnseg.network.build import build_unet
from nnseg.network.transformer import Attention, TransformerBlock


def network(kind="plain", **settings):
    stages = {"strides": ((1, 1), (2, 2), (2, 2)), "kernels": ((3, 3),) * 3, "blocks": (1, 1, 1), "decoder_blocks": (1, 1)}
    return Network(kind=kind, features=(4, 8, 8), **stages, **settings)


def test_an_untrained_block_adds_positions_only():
    block, x = TransformerBlock(8, (3, 3, 3)), torch.randn(2, 8, 4, 2, 6)
    assert torch.allclose(block(x), x + block.position(x), atol=1e-6)


def test_attention_is_the_formula_for_each_head():
    torch.manual_seed(0)
    attention, tokens = Attention(64), torch.randn(2, 5, 64)
    query, key, value = (part.view(2, 5, 2, 32).transpose(1, 2) for part in attention.values(tokens).chunk(3, 2))
    shares = torch.softmax(query @ key.mT / 32**0.5, -1)
    expected = attention.projection((shares @ value).transpose(1, 2).reshape(2, 5, 64))
    assert torch.allclose(attention(tokens), expected, atol=1e-5)


def test_a_voxel_depends_on_all_others_of_the_patch():
    torch.manual_seed(0)
    model = build_unet(network("transformer"), channels=1, heads=2)
    for part in model.modules():
        if isinstance(part, TransformerBlock):
            nn.init.normal_(part.attention.projection.weight)
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    model(image)[0, 0, 0, 0].backward()
    assert (image.grad != 0).all()


def test_a_gate_multiplies_each_voxel_by_a_number_from_0_to_1():
    gate = AttentionGate((6, 4), (2, 1))
    finer, coarser = torch.rand(2, 4, 8, 5) + 1, torch.randn(2, 6, 4, 5)
    weights = gate(finer, coarser) / finer
    assert torch.allclose(weights, weights[:, :1].expand_as(weights))  # the same for all channels
    assert weights.min() > 0
    assert weights.max() < 1
    nn.init.constant_(gate.weight.bias, 100)
    assert torch.allclose(gate(finer, coarser), finer)


def test_a_network_without_gates_has_no_weights_of_theirs():
    with_gates, without = (set(build_unet(network(attention_gates=on), channels=1, heads=2).state_dict()) for on in (True, False))
    assert {name.split(".")[1] for name in with_gates - without} == {"gates"}
    assert without < with_gates
