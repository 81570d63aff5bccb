"""The step: the same in parts, smaller when memory runs out, and never mistaken for a good one."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import learner_of, plan_of, same_weights, world
from torch import nn

from nnseg.core.errors import NnsegError, RunError
from nnseg.core.schedule import Course
from nnseg.network.checkpoint import load_tensors, save_tensors
from nnseg.training.context import Ranks, TrainingContext
from nnseg.training.learner import Learner, _check_split, fresh_network
from nnseg.training.loop import take_steps
from nnseg.training.validation import Validation


def steps_of(plan, count=4, **given):
    context, patches, _ = world(plan)
    learner = Learner(context, Course.of(12, plan.training), **given)
    losses = [float(learner.take_step(patches.batch(n))) for n in range(count)]
    return learner, losses


def close(one, other):
    return all(torch.allclose(a, b, atol=2e-4) for a, b in zip(one.weights().values(), other.weights().values(), strict=True))


@pytest.mark.parametrize(("batch_size", "parts"), [(4, 2), (4, 4), (5, 2)])
def test_a_batch_taken_in_parts_gives_the_same_step(batch_size, parts):
    whole, losses = steps_of(plan_of(batch_size=batch_size, optimizer="sgd", averaging=0.0))
    split, others = steps_of(plan_of(batch_size=batch_size, optimizer="sgd", averaging=0.0, accumulation=parts))
    assert others == pytest.approx(losses, abs=1e-4)
    assert close(whole, split)


class Cramped(nn.Module):
    """A network on a device whose memory takes so many patches at once."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room, self.seen = network, room, []

    def forward(self, image):
        self.seen.append(len(image))
        if len(image) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(image)


def test_a_step_that_runs_out_of_memory_is_taken_in_smaller_parts(caplog):
    plan = plan_of(batch_size=5, optimizer="sgd", averaging=0.0, deep_supervision=False)
    context, _, _ = world(plan)
    roomy, losses = steps_of(plan)
    network = Cramped(fresh_network(context), room=2)
    with caplog.at_level(logging.WARNING):
        cramped, others = steps_of(plan, network=network)
    assert others == pytest.approx(losses, abs=1e-4)
    assert close(roomy, cramped)
    assert network.seen == [5, 1, 2, 2] + 3 * [1, 2, 2]  # tried whole once, then in parts for good
    assert "split into 3 parts" in caplog.text


def test_a_patch_that_does_not_fit_alone_is_refused():
    plan = plan_of(deep_supervision=False)
    with pytest.raises(RunError, match="too little memory for one patch"):
        steps_of(plan, network=Cramped(fresh_network(world(plan)[0]), room=0))


def test_dropout_depends_on_seed_fold_and_step_alone(tmp_path):
    plan = plan_of()
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"dropout": 0.5})})
    first, losses = steps_of(plan)
    torch.manual_seed(99)
    assert steps_of(plan)[1] == losses
    assert steps_of(plan_of())[1] != losses
    context, patches, _ = world(plan)
    second = learner_of(context)
    save_tensors(tmp_path / "checkpoint", *first.snapshot())
    second.restore(*load_tensors(tmp_path / "checkpoint"))
    before = torch.get_rng_state()
    assert float(first.take_step(patches.batch(4))) == float(second.take_step(patches.batch(4)))
    assert torch.equal(torch.get_rng_state(), before)  # other programs' random numbers stay as they are
    assert same_weights(first, second)


def test_a_snapshot_keeps_the_parts(tmp_path):
    plan = plan_of(accumulation=2)
    first, _ = steps_of(plan)
    first.parts = 1
    context, patches, _ = world(plan)
    second = learner_of(context)
    save_tensors(tmp_path / "checkpoint", *first.snapshot())
    second.restore(*load_tensors(tmp_path / "checkpoint"))
    assert second.parts == 1
    first.take_step(patches.batch(4))
    second.take_step(patches.batch(4))
    assert same_weights(first, second)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_network_in_another_layout_continues_from_its_checkpoint(tmp_path, optimizer):
    plan = plan_of(optimizer=optimizer)
    context, patches, _ = world(plan)
    networks = [fresh_network(context).to(memory_format=torch.channels_last_3d) for _ in range(2)]
    first, second = (Learner(context, Course.of(12, plan.training), network=network) for network in networks)
    for number in range(2):
        first.take_step(patches.batch(number))
    save_tensors(tmp_path / "checkpoint", *first.snapshot())
    second.restore(*load_tensors(tmp_path / "checkpoint"))
    first.take_step(patches.batch(2))
    second.take_step(patches.batch(2))
    assert same_weights(first, second)


def test_a_loss_that_is_no_number_is_found_before_anything_is_saved():
    plan = plan_of()
    with pytest.raises(NnsegError, match=r"the loss is nan at step 0, on ball \d.*; ball \d"):
        steps_of(plan, loss=lambda logits, labels: logits.sum() * float("nan"))[0].losses()


def test_a_gradient_that_is_no_number_is_found_though_its_loss_is_one():
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    learner, losses = steps_of(plan_of(), count=1, loss=lambda logits, labels: Steep.apply(logits).square().mean())
    assert np.isfinite(losses[0])
    with pytest.raises(NnsegError, match=r"the gradient is (nan|inf) at step 0, on ball"):
        learner.check()


class Steep(nn.Module):
    """A network whose gradient, at the highest level, is infinite in bfloat16 and finite in float32."""

    HIGHEST = 3.4e38
    """Rounded to infinity in bfloat16."""

    def __init__(self):
        super().__init__()
        self.convolution, self.level = nn.Conv3d(1, 3, 1, bias=False), 1e30
        nn.init.zeros_(self.convolution.weight)

    def forward(self, image):
        return self.convolution(image * 1e-30) * self.level


def steep_learner():
    """A learner in bfloat16 with a `Steep` network, and its patches."""
    context, patches, _ = world(plan_of(averaging=0.0))
    context = replace(context, dtype=torch.bfloat16)
    learner = Learner(context, Course.of(12, context.plan.training), network=Steep(), loss=lambda logits, labels: logits.sum())
    return learner, patches


def take_steep_steps(learner, patches, highest, count):
    """Take steps, of which those with the numbers ``highest`` are on the highest level."""
    for number in range(learner.step, count):
        learner.network.level = Steep.HIGHEST if number in highest else 1e30
        learner.take_step(patches.batch(number))


def test_a_step_whose_gradient_is_infinite_in_bfloat16_is_computed_again_in_float32(caplog):
    (first, patches), (second, _) = steep_learner(), steep_learner()
    take_steep_steps(first, patches, {1}, 2)
    take_steep_steps(second, patches, {1}, 1)
    second.context = replace(second.context, dtype=torch.float32)
    take_steep_steps(second, patches, {1}, 2)
    first.check()
    assert same_weights(first, second)
    assert (first.repeated_steps, second.repeated_steps) == ([1], [])
    assert re.search(r"the gradient is (inf|nan) in bfloat16 at step 1, on ball \d.*; the step is repeated in float32", caplog.text)


def test_three_steps_in_a_row_that_are_not_finite_end_a_training_with_the_cause(tmp_path):
    learner, patches = steep_learner()
    take_steep_steps(learner, patches, {1, 2, 4, 5}, 6)
    assert learner.repeated_steps == [1, 2, 4, 5]
    save_tensors(tmp_path / "checkpoint", *learner.snapshot())
    resumed, _ = steep_learner()
    resumed.restore(*load_tensors(tmp_path / "checkpoint"))
    what = r"the gradient is (inf|nan) in bfloat16 at step 6, on ball \d.* the steps from 4 on were not finite either: intensities"
    with pytest.raises(
        NnsegError, match=what + r".*or lower training.learning_rate, or set training.precision to float32; the last"
    ):
        take_steep_steps(resumed, patches, {6}, 7)
    resumed.check()
    assert same_weights(resumed, learner)


def test_a_step_that_is_not_finite_in_float32_either_leaves_the_weights():
    learner, patches = steep_learner()
    take_steep_steps(learner, patches, set(), 2)
    before = {name: tensor.clone() for name, tensor in learner.weights().items()}
    broken = replace(patches.batch(2), image=torch.full((2, 1, 16, 16, 16), float("nan")))
    with pytest.raises(NnsegError, match=r"the loss is nan at step 2, in float32 too, on ball \d"):
        learner.take_step(broken)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.weights().items())


def test_epochs_count_the_steps_that_were_computed_again():
    learner, patches = steep_learner()
    learner.network.level, epochs = Steep.HIGHEST, []
    for epoch in take_steps(learner, patches, Validation([], learner.context)):
        learner.network.level = Steep.HIGHEST if learner.step in {2, 5, 6} else 1e30
        epochs += [epoch] if epoch else []
    assert [epoch.repeated_steps for epoch in epochs] == [2, 2, 0]


def test_weights_that_are_no_numbers_are_not_worth_keeping():
    learner, _ = steps_of(plan_of(averaging=0.0))
    with torch.no_grad():
        next(learner.network.parameters())[0] = float("nan")
    learner.losses()
    with pytest.raises(NnsegError, match="weights are no longer finite"):
        learner.check()


def test_parts_weigh_what_they_hold_of_the_batch_over_all_ranks():
    learner, _ = steps_of(plan_of(batch_size=5), count=0)
    learner.context = replace(learner.context, ranks=Ranks(rank=1, size=2))  # 3 patches here, 2 there
    assert learner._shares(2) == [2 / 5, 3 / 5]
    assert learner._shares(1) == [1]


def test_a_batch_is_divided_among_processes_only_if_each_gets_a_patch():
    context = replace(world(plan_of(batch_size=2))[0], ranks=Ranks(rank=0, size=3))
    with pytest.raises(RunError, match="2 patches cannot be divided among 3 processes"):
        _check_split(context)


def test_heads_without_a_loss_are_not_trained():
    heads = learner_of(world(plan_of(deep_supervision=False))[0]).network.decoder.heads
    assert [head.weight.requires_grad for head in heads] == [False] * (len(heads) - 1) + [True]


def test_a_loss_and_a_network_of_ones_own_are_learned_with():
    class Voxelwise(nn.Conv3d):
        """One weight for each label, shared by all voxels."""

    torch.manual_seed(0)
    network, asked = Voxelwise(1, 3, 1), []

    def squared(logits, labels):
        asked.append((logits.dtype, tuple(logits.shape), labels.dtype, tuple(labels.shape)))
        return (logits[:, 1] - labels).square().mean()

    learner, losses = steps_of(plan_of(learning_rate=0.1), count=8, network=network, loss=squared)
    assert learner.network is network
    assert losses[-1] < 0.7 * losses[0]
    assert asked[0] == (torch.float32, (2, 3, 16, 16, 16), torch.int64, (2, 16, 16, 16))


def test_frozen_weights_stay():
    plan = plan_of()
    context, patches, _ = world(plan)
    network = fresh_network(context)
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(False)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    learner = Learner(context, Course.of(12, plan.training), network=network)
    learner.take_step(patches.batch(0))
    moved = {name for name, t in learner.weights().items() if not torch.equal(t, before[name])}
    assert moved
    assert all(name.startswith("decoder") for name in moved)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_learns_as_a_cpu_does(dtype):
    plan = plan_of()
    device = torch.device("cuda")
    context = TrainingContext(plan=plan, fold=0, device=device, dtype=dtype)
    learner, other = Learner(context, Course.of(12, plan.training)), learner_of(world(plan)[0])
    patches = world(plan)[1]
    for n in range(4):
        batch = patches.batch(n)
        one = float(learner.take_step(type(batch)(image=batch.image.to(device), labels=batch.labels.to(device), names=batch.names)))
        assert one == pytest.approx(float(other.take_step(batch)), rel=0.05)
