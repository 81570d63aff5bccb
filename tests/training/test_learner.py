"""The step: the same in parts, smaller when memory runs out, and never mistaken for a good one."""

import logging
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
