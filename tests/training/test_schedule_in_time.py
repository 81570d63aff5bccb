"""Trainings end when their time is over, and sooner when they get no better."""

import math
from itertools import pairwise

import pytest
from plan_examples import small_plan

from nnseg.core.labels import Labels
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Training
from nnseg.core.schedule import Course, Epoch, learning_rate
from nnseg.training.schedule import TimeLimit, has_stalled, shortened, smoothed_dice

PLAN = small_plan(Labels(names=("background", "a"), values=(0, 1)))
TRAINING = Training(batch_size=2, schedule="cosine", learning_rate=0.1)


class Clockwork:
    """What a timelimit asks of a learner, with a clock that a test sets."""

    def __init__(self, steps):
        self.course, self.step, self.seconds = Course.of(steps, TRAINING), 0, 0.0


def ended_at(planned_steps, budget, seconds_of_step, measured=0.0, *, plan=PLAN):
    learner = Clockwork(planned_steps)
    limit = TimeLimit(budget, learner, PatchGrowth(plan), measured)
    rates, ends = [], []
    while learner.step < learner.course.steps:
        rates.append(learning_rate(learner.step, learner.course, TRAINING))
        learner.seconds += seconds_of_step(learner.step)
        learner.step += 1
        learner.course = limit.course(learner)
        ends.append(learner.course.steps)
    return learner, rates, ends


@pytest.mark.parametrize(
    "seconds_of_step",
    [
        lambda step: 0.1,
        lambda step: 0.3,  # the machine is three times slower than thought
        lambda step: 0.03,
        lambda step: 0.1 if step < 300 else 0.25,  # something else begins to run
        lambda step: 0.25 if step < 300 else 0.1,
        lambda step: 0.1 if step % 50 else 2.0,  # pauses between epochs
    ],
)
def test_a_training_ends_in_time_with_its_rate_at_zero(seconds_of_step):
    learner, rates, _ = ended_at(1000, 100.0, seconds_of_step)
    assert learner.seconds == pytest.approx(100, rel=0.03)
    assert rates[-1] < 0.002 * rates[0]
    assert max(a - b for a, b in pairwise(rates)) < 0.1 * rates[0]


@pytest.mark.parametrize("measured", [0.1, 0.3, 0.9])
def test_other_programs_that_come_and_go_neither_raise_the_rate_nor_make_its_end_swing(measured):
    learner, rates, ends = ended_at(int(970 / measured), 1000.0, lambda step: 0.1 if step // 200 % 2 else 0.31, measured)
    falling = rates[learner.course.warmup :]
    assert all(after <= before for before, after in pairwise(falling))
    assert learner.seconds == pytest.approx(1000, rel=0.03)
    later = ends[len(ends) // 4 :]
    assert max(later) < 1.35 * min(later)


@pytest.mark.parametrize("fixed", [0.1, 0.2, 0.5])
def test_a_training_whose_patches_grow_ends_in_time_(fixed):
    growing = PLAN.model_copy(update={"patch": (64, 64, 64), "training": PLAN.training.model_copy(update={"growing": True})})
    growth, course = PatchGrowth(growing), Course.of(2000, TRAINING)
    voxels = [math.prod(growth.size(step, course).patch) / 64**3 for step in range(2000)]

    def seconds(step: int) -> float:
        return 0.1 * (fixed + (1 - fixed) * voxels[min(step, 1999)])

    budget = sum(seconds(step) for step in range(2000))
    learner, rates, ends = ended_at(2000, budget, seconds, 0.1, plan=growing)
    assert learner.seconds == pytest.approx(budget, rel=0.03)
    assert rates[-1] < 0.002 * rates[0]
    assert max(ends) < 1.6 * min(ends)


def test_a_course_that_fits_is_left_alone():
    learner, *_ = ended_at(992, 100.0, lambda step: 0.1)
    assert len(learner.course.legs) == 1


def test_steps_as_long_as_the_budget_end_after_it():
    learner, *_ = ended_at(5, 10.0, lambda step: 30.0)
    assert learner.step == 2


def epochs_with(*dice):
    common = {"steps": 1000, "loss": 1.0, "learning_rate": 0.1, "seconds": 1.0, "total_seconds": 1.0}
    return [Epoch(number=n, step=10 * n, dice={"a": d}, **common) for n, d in enumerate(dice, 1)]


def test_estimates_are_smoothed_and_gaps_left_out():
    assert smoothed_dice(epochs_with(0.5, None, 0.6)) == pytest.approx([0.5, 0.51])


def test_a_training_has_stalled_when_its_best_estimate_is_old():
    rising, falling = epochs_with(0.5, 0.6, 0.7, 0.8), epochs_with(0.5, 0.8, 0.1, 0.1, 0.1)
    assert not has_stalled(rising, 3)
    assert has_stalled(falling, 3)
    assert not has_stalled(falling, 4)
    assert not has_stalled(epochs_with(None, None, None), 1)


def test_a_stalled_training_is_shortened_to_a_quarter_of_its_steps_but_never_prolonged():
    course = Course.of(1000, TRAINING)
    assert shortened(course, 400).steps == 500
    assert shortened(course, 900).steps == 1000
