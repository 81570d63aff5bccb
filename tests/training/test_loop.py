"""Training: steps that lower the loss, exactly the same each time, and after any interruption."""

import numpy as np
import pytest
from balls import CPU, ball, epochs_of, learner_of, plan_of, same_weights, trained, world

from nnseg.core.errors import NnsegError
from nnseg.core.labels import Region
from nnseg.network.checkpoint import load_tensors, save_tensors
from nnseg.training.loop import take_steps
from nnseg.training.losses import LOSSES
from nnseg.training.patches import Patches
from nnseg.training.timing import steps_fitting
from nnseg.training.validation import Validation


def test_five_seeded_steps_give_these_losses():
    _, epochs = trained(plan_of(epoch_steps=1), steps=5)
    assert [e.loss for e in epochs] == pytest.approx(GOLDEN, abs=2e-4)


def test_training_learns_the_ball():
    _, epochs = trained(plan_of(epoch_steps=40, learning_rate=1e-2), steps=160)
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert set(epochs[-1].dice) == {"shell", "core"}
    assert min(epochs[-1].dice.values()) > 0.7
    assert [e.step for e in epochs] == [40, 80, 120, 160]


def test_the_same_plan_gives_the_same_weights_bit_for_bit():
    assert same_weights(trained(plan_of())[0], trained(plan_of())[0])
    assert not same_weights(trained(plan_of())[0], trained(plan_of(seed=1))[0])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_restored_learner_goes_on_as_if_it_had_never_stopped(tmp_path, optimizer):
    plan = plan_of(optimizer=optimizer)
    calm, calm_epochs = trained(plan)
    context, patches, validation = world(plan)
    first = learner_of(context)
    for _ in take_steps(first, patches, validation):
        if first.step == 6:
            break
    save_tensors(tmp_path / "checkpoint", *first.snapshot())
    second = learner_of(context)
    second.restore(*load_tensors(tmp_path / "checkpoint"))
    epochs = epochs_of(take_steps(second, patches, validation))
    assert same_weights(second, calm)
    assert [(e.number, e.step) for e in epochs] == [(e.number, e.step) for e in calm_epochs[1:]]
    assert epochs[-1].loss == calm_epochs[-1].loss


def test_a_loss_that_is_no_number_names_the_cases():
    context, _, validation = world(plan_of())
    broken = ball("broken case", 0)
    broken.image[:] = np.nan
    with pytest.raises(NnsegError, match=r"at step 0, on .*broken case"):
        list(take_steps(learner_of(context), Patches([broken], context.plan, fold=0, device=CPU), validation))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss):
    _, epochs = trained(plan_of(loss=loss), steps=8)
    assert all(np.isfinite(e.loss) for e in epochs)


def test_2d_plans_and_regions_train():
    regions = (Region(name="ball", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    _, epochs = trained(plan_of(dimensions=2, regions=regions, epoch_steps=40), steps=160)
    assert set(epochs[-1].dice) == {"ball", "core"}
    assert min(epochs[-1].dice.values()) > 0.7


def test_a_case_with_nobody_held_out_trains_without_an_estimate():
    context, patches, _ = world(plan_of())
    epochs = epochs_of(take_steps(learner_of(context), patches, Validation([], context)))
    assert all(e.dice == {} and e.mean_dice is None for e in epochs)


def test_more_time_gives_more_steps():
    context, patches, validation = world(plan_of())
    few, seconds = steps_fitting(1.0, patches, validation, context)
    many, _ = steps_fitting(20.0, patches, validation, context)
    assert 1 <= few < many
    assert 0 < seconds < 1


GOLDEN = [2.029364, 1.935525, 1.886423, 1.760537, 1.669138]
"""A refactor may not move these."""
