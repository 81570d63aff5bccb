"""A network that begins with another's weights: the same where all is the same, and by name where labels or channels differ."""

import pytest
import torch

from nnseg.core.errors import ModelError
from nnseg.core.labels import Labels, Region
from nnseg.core.network_kinds import KINDS
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.network.transfer import freeze, transfer_weights

LABELS = Labels(names=("background", "liver", "spleen"), values=(0, 1, 2))


def plan_of(features=(4, 6, 8), *, channels=("T1",), labels=LABELS, kind="plain", dimensions=3, kernel=3, previous=None) -> Plan:
    stages = len(features)
    ones = (1,) * dimensions
    return Plan(
        name=("3d_cascade" if previous else f"{dimensions}d"),
        dataset="phantom",
        recipe="default",
        previous=previous,
        channels=channels,
        patch=(8,) * dimensions,
        labels=labels,
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(1.0,) * dimensions, normalization=(Normalization(scheme="zscore"),) * len(channels)
        ),
        network=Network(
            kind=kind,
            features=features,
            strides=(ones, *[(2,) * dimensions] * (stages - 1)),
            kernels=((kernel,) * dimensions,) * stages,
            blocks=(2,) * stages,
            decoder_blocks=(1,) * (stages - 1),
        ),
        training=Training(batch_size=1),
        inference=Inference(),
    )


def fresh(plan: Plan, seed: int):
    torch.manual_seed(seed)
    network = build_network(plan)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or ".norm." in name:
            torch.nn.init.normal_(parameter)  # or they would be equal in all networks
    return network


def model_of(*plans: Plan) -> Model:
    return Model(members=tuple(Member(plan=p, fold=i, weights=fresh(p, 100 + i).state_dict()) for i, p in enumerate(plans)))


def image_for(plan: Plan, seed: int = 7) -> torch.Tensor:
    return torch.randn(1, plan.input_channels, *plan.patch, generator=torch.Generator().manual_seed(seed))


def logits(network, image):
    network.deep_supervision = True
    with torch.no_grad():
        return network(image)


def same(one, other) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


def adapted(plan: Plan, model: Model, **kwargs):
    network = fresh(plan, 1)
    return network, transfer_weights(network, plan, model, **kwargs)


@pytest.mark.parametrize(
    "plan", [*(plan_of(kind=k, dimensions=of.dimensions[-1]) for k, of in KINDS.items()), plan_of(dimensions=2), plan_of((4,))]
)
def test_an_equal_network_gives_the_models_logits(plan):
    model = model_of(plan)
    network, reuse = adapted(plan, model)
    assert all(
        torch.equal(a, b) for a, b in zip(logits(network, image_for(plan)), logits(fresh(plan, 100), image_for(plan)), strict=True)
    )
    assert reuse.tensors == reuse.total == len(network.state_dict())
    assert reuse.describe() == (
        f"reused {reuse.total} of {reuse.total} tensors (fold 0); heads: background, liver, spleen from the model"
    )


def test_heads_follow_their_labels_names_and_new_ones_stay_fresh():
    known, plan = plan_of(), plan_of(labels=Labels(names=("nothing", "tumour", "spleen", "liver"), values=(0, 1, 2, 3)))
    network, reuse = adapted(plan, model_of(known))
    before, untouched = fresh(known, 100), fresh(plan, 1)
    for old, new, start in zip(before.decoder.heads, network.decoder.heads, untouched.decoder.heads, strict=True):
        assert torch.equal(new.weight[[0, 2, 3]], old.weight[[0, 2, 1]])
        assert torch.equal(new.bias[[0, 2, 3]], old.bias[[0, 2, 1]])
        assert torch.equal(new.weight[1], start.weight[1])
        assert torch.equal(new.bias[1], start.bias[1])
    image = image_for(plan)
    assert torch.allclose(logits(network, image)[0][:, [0, 3, 2]], logits(before, image)[0], atol=1e-6)
    assert "heads: nothing, spleen, liver from the model, tumour new" in reuse.describe()


def test_labels_and_channels_that_only_the_model_has_are_named():
    known, plan = (
        plan_of(channels=("T1", "FLAIR")),
        plan_of(channels=("T1",), labels=Labels(names=("empty", "spleen"), values=(0, 7))),
    )
    _, reuse = adapted(plan, model_of(known))
    assert reuse.left_out == ("liver", "FLAIR")
    assert "in the model only: liver, FLAIR" in reuse.describe()
    assert adapted(known, model_of(known))[1].left_out == ()


def test_regions_are_matched_by_name_and_have_no_background():
    regions = (Region(name="spleen", values=(2,), paint=2), Region(name="both", values=(1, 2), paint=1))
    network, reuse = adapted(plan_of(labels=LABELS.model_copy(update={"regions": regions})), model_of(plan_of()))
    before = fresh(plan_of(), 100)
    assert torch.equal(network.decoder.heads[-1].weight[0], before.decoder.heads[-1].weight[2])
    assert (reuse.heads, reuse.new_heads) == (("spleen",), ("both",))


def test_names_are_matched_whatever_their_letter_case_and_that_is_said():
    known, plan = plan_of(), plan_of(channels=("t1",), labels=Labels(names=("Background", "tumour", "Spleen"), values=(0, 1, 2)))
    network, reuse = adapted(plan, model_of(known))
    assert torch.equal(network.decoder.heads[-1].weight[[0, 2]], fresh(known, 100).decoder.heads[-1].weight[[0, 2]])
    assert reuse.describe().endswith(
        "; heads: Background, Spleen from the model, tumour new; in the model only: liver; "
        "written otherwise in the model: Spleen (spleen), t1 (T1)"
    )


def test_the_member_of_a_plan_of_the_same_name_is_taken():
    flat, volume = plan_of(dimensions=2), plan_of()
    network, reuse = adapted(volume, model_of(flat, volume), fold=0)
    assert reuse.fold == 1
    assert torch.equal(network.decoder.heads[0].weight, fresh(volume, 101).decoder.heads[0].weight)


def test_labels_without_a_name_in_common_keep_their_heads_but_for_the_background():
    _, reuse = adapted(plan_of(labels=Labels(names=("background", "kidney"), values=(0, 1))), model_of(plan_of()))
    assert (reuse.heads, reuse.new_heads) == (("background",), ("kidney",))
    assert reuse.tensors == reuse.total


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_channel_more_begins_without_effect_and_learns(kind):
    known, plan = plan_of(channels=("T1", "FLAIR"), kind=kind), plan_of(channels=("FLAIR", "T2", "T1"), kind=kind)
    network, reuse = adapted(plan, model_of(known))
    image = image_for(plan)
    assert same(logits(network, image), logits(fresh(known, 100), image[:, [2, 0]]))
    assert reuse.describe().endswith("; first convolution adapted from 2 to 3 channels; new channels, whose weights start at 0: T2")
    assert reuse.tensors == reuse.total
    network(image)[0].square().sum().backward()
    gradient = next(network.parameters()).grad
    assert gradient is not None
    assert gradient[:, 1].any()


def test_a_channel_less_leaves_features_their_size():
    known, plan = plan_of(channels=("T1", "FLAIR")), plan_of(channels=("T1",))
    network, _ = adapted(plan, model_of(known))
    t1 = fresh(known, 100).encoder.stages[0][0].conv.weight[:, :1]
    assert torch.equal(network.encoder.stages[0][0].conv.weight, 2 * t1)


def test_channels_none_of_which_the_model_has_begin_as_the_mean_of_its_own():
    known, plan = plan_of(channels=("T1", "FLAIR")), plan_of(channels=("PET", "CT", "T2"))
    network, reuse = adapted(plan, model_of(known))
    one = torch.randn(1, 1, 8, 8, 8)
    assert same(logits(network, one.expand(-1, 3, -1, -1, -1)), logits(fresh(known, 100), one.expand(-1, 2, -1, -1, -1)))
    assert reuse.channels_without_effect == ()
    assert "none of the channels is the model's: PET, CT, T2 start as the mean of its own" in reuse.describe()
    assert reuse.tensors == reuse.total


def test_channels_in_another_order_give_the_same_logits():
    known, plan = plan_of(channels=("T1", "T2"), kind="residual"), plan_of(channels=("T2", "T1"), kind="residual")
    network, _ = adapted(plan, model_of(known))
    image = image_for(plan)
    assert same(logits(network, image), logits(fresh(known, 100), image.flip(1)))


def test_as_many_channels_of_wholly_other_names_are_taken_in_order():
    known, plan = plan_of(channels=("T1", "T2")), plan_of(channels=("channel 0", "channel 1"))
    network, reuse = adapted(plan, model_of(known))
    assert torch.equal(network.encoder.stages[0][0].conv.weight, fresh(known, 100).encoder.stages[0][0].conv.weight)
    assert reuse.new_channels == ()


def test_the_previous_answer_of_a_cascade_begins_without_effect():
    plan = plan_of(previous="3d_lowres")
    network, _ = adapted(plan, model_of(plan_of()))
    image = image_for(plan)
    assert same(logits(network, image), logits(fresh(plan_of(), 100), image[:, :1]))


def test_a_cascade_begun_with_a_cascade_keeps_the_inputs_of_labels_by_name():
    known, other = plan_of(previous="3d_lowres"), Labels(names=("background", "tumour", "spleen"), values=(0, 1, 2))
    network, _ = adapted(plan_of(previous="3d_lowres", labels=other), model_of(known))
    old, new = fresh(known, 100).encoder.stages[0][0].conv.weight, network.encoder.stages[0][0].conv.weight
    assert torch.equal(new[:, [0, 2]], old[:, [0, 2]])
    assert not new[:, 1].any()


@pytest.mark.parametrize("features", [(4, 6), (4, 6, 8, 8)])
def test_of_another_depth_the_encoders_stages_in_common_are_reused(features):
    plan, known = plan_of(features), plan_of()
    network, reuse = adapted(plan, model_of(known))
    now, before, start = network.state_dict(), fresh(known, 100).state_dict(), fresh(plan, 1).state_dict()
    common = {f"encoder.stages.{s}." for s in range(min(3, len(features)))}
    for name, tensor in now.items():
        expected = before if any(name.startswith(c) for c in common) else start
        assert torch.equal(tensor, expected[name])
    assert reuse.tensors == sum(name[:17] in common for name in now) < reuse.total
    assert f"on, because network.features is [4, 6, 8] in the model and {list(features)} in the plan" in reuse.describe()
    assert reuse.heads == ()


def test_nothing_is_reused_after_a_stage_that_does_not_fit():
    network, reuse = adapted(plan_of((4, 7, 8)), model_of(plan_of()))
    assert reuse.tensors == 8  # two blocks of weight and bias, of a convolution and of a norm
    reason = "network.features is [4, 6, 8] in the model and [4, 7, 8] in the plan"
    assert reuse.describe().endswith(f"; new from encoder.stages.1 on, because {reason}")
    untouched = fresh(plan_of((4, 7, 8)), 1).state_dict()
    assert all(torch.equal(t, untouched[n]) for n, t in network.state_dict().items() if not n.startswith("encoder.stages.0"))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (plan_of(dimensions=2), "the model takes 3D patches, the plan 2d 2D ones"),
        (plan_of(kind="residual"), "plan 3d: network.kind is plain in the model and residual in the plan; plan with --init MODEL"),
        (plan_of(kernel=5), r"network\.kernels is \[\[3, 3, 3\], .* in the model and \[\[5, 5, 5\], .* in the plan"),
        (plan_of((5, 6, 8)), r"network\.features is \[4, 6, 8\] in the model and \[5, 6, 8\] in the plan"),
    ],
)
def test_a_model_of_which_nothing_fits_is_refused_with_the_reason(plan, reason):
    network = fresh(plan, 1)
    with pytest.raises(ModelError, match=reason):
        transfer_weights(network, plan, model_of(plan_of()))
    assert all(torch.equal(t, fresh(plan, 1).state_dict()[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize(("fold", "taken"), [(None, 0), (1, 1), (4, 0)])
def test_the_member_of_the_same_fold_is_taken_or_else_the_first(fold, taken):
    network, reuse = adapted(plan_of(), model_of(plan_of(), plan_of(), plan_of()), fold=fold)
    assert reuse.fold == taken
    assert torch.equal(network.decoder.heads[0].weight, fresh(plan_of(), 100 + taken).decoder.heads[0].weight)


def test_a_frozen_encoder_gets_no_gradient_and_the_rest_does():
    network = fresh(plan_of(), 1)
    freeze(network, "encoder")
    network(image_for(plan_of())).sum().backward()
    assert all(p.grad is None for p in network.encoder.parameters())
    assert all(p.grad is not None for p in network.decoder.stages.parameters())


def test_a_network_without_an_encoder_cannot_be_frozen():
    with pytest.raises(ModelError, match="no encoder"):
        freeze(torch.nn.Conv3d(1, 1, 1), "encoder")
