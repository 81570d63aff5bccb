"""The size of patches over a training: from small ones to the plan's, each for the same share of the steps."""

import math
from itertools import pairwise

import pytest
from plan_examples import small_plan

from nnseg.core.labels import Labels
from nnseg.core.patch_growth import DRAWN_AHEAD, FULL_SHARE, PatchGrowth
from nnseg.core.plan import Plan
from nnseg.core.schedule import Course

PLAN = small_plan(Labels(names=("background", "a"), values=(0, 1)))


def growing(patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...] = ((1, 1, 1), (1, 2, 2), (2, 2, 2))) -> Plan:
    stages = len(strides)
    network = PLAN.network.model_copy(update={"strides": strides, "features": (4,) * stages, "blocks": (1,) * stages})
    training = PLAN.training.model_copy(update={"growing": True})
    return PLAN.model_copy(update={"patch": patch, "network": network, "training": training})


def test_one_axis_at_a_time_becomes_longer_by_what_the_strides_allow():
    sizes = [size.patch for size in PatchGrowth(growing((6, 16, 12))).sizes]
    assert sizes == [(4, 8, 8), (4, 12, 8), (6, 12, 8), (6, 12, 12), (6, 16, 12)]


@pytest.mark.parametrize("patch", [(6, 16, 12), (2, 64, 64), (32, 4, 8), (2, 4, 4), (40, 56, 40)])
def test_every_size_fits_the_network_and_the_plan(patch):
    growth = PatchGrowth(growing(patch))
    for size in growth.sizes:
        assert all(n % d == 0 and n <= p for n, d, p in zip(size.patch, growth.plan.network.divisor, patch, strict=True))
    assert (growth.sizes[-1].patch, growth.sizes[-1].cost) == (patch, pytest.approx(1))
    assert all(math.prod(a.patch) < math.prod(b.patch) and a.cost < b.cost for a, b in pairwise(growth.sizes))


def test_without_growth_all_steps_have_the_plans_patch():
    growth = PatchGrowth(PLAN)
    assert {growth.size(step, Course.of(100, PLAN.training)).patch for step in range(100)} == {PLAN.patch}
    assert (growth.mean_cost(), growth.mean_cost(0.7)) == (1, 1)


def test_sizes_get_equal_shares_of_the_steps_and_the_plans_patch_the_end():
    growth, course = PatchGrowth(growing((6, 16, 12))), Course.of(1000, PLAN.training)
    steps = [growth.size(step, course).patch for step in range(1000)]
    counts = [steps.count(size.patch) for size in growth.sizes]
    assert steps == sorted(steps, key=[size.patch for size in growth.sizes].index)
    assert counts[-1] == pytest.approx(1000 * FULL_SHARE, abs=DRAWN_AHEAD + 1)
    assert counts[:-1] == pytest.approx([1000 * (1 - FULL_SHARE) / 4] * 4, abs=DRAWN_AHEAD + 1)


@pytest.mark.parametrize("step", [0, 137, 800, 999])
def test_the_mean_cost_is_that_of_the_steps_that_are_left(step):
    growth, course = PatchGrowth(growing((40, 56, 40))), Course.of(1000, PLAN.training)
    left = [growth.size(n, course).cost for n in range(step + DRAWN_AHEAD, 1000 + DRAWN_AHEAD)]
    assert growth.mean_cost(course.progress(step)) == pytest.approx(sum(left) / len(left), rel=0.01)


def test_a_batch_that_was_drawn_ahead_keeps_its_size_when_the_course_is_changed():
    growth, course = PatchGrowth(growing((40, 56, 40))), Course.of(1000, PLAN.training)
    changed = course.ending_at(600, at=500)
    assert [growth.size(n, changed) for n in range(500 + DRAWN_AHEAD)] == [growth.size(n, course) for n in range(500 + DRAWN_AHEAD)]
    assert growth.size(590, changed).cost > growth.size(590, course).cost
