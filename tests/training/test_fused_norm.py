"""Whether a training uses the norm in Triton: only where it was faster, and as right."""

import logging

import pytest
import torch
from balls import plan_of, same_weights, world

from nnseg.core.schedule import Course
from nnseg.training import timing
from nnseg.training.learner import Learner

LONG = timing.FUSED_NORM_FROM_STEPS


@pytest.fixture
def with_triton(monkeypatch):
    """As if there were Triton, when it is decided; the learners of these tests compute without all the same."""
    monkeypatch.setattr(timing, "has_triton", lambda _: True)


def decide(monkeypatch, seconds, plan=None, steps=LONG):
    """The decision, if steps take so many seconds without and with the norm."""
    taken = iter(seconds)

    def median_step(learner, patches):
        for number in range(timing.COMPARED):
            learner.take_step(patches.batch(number))
        return next(taken)

    monkeypatch.setattr(timing, "_median_step", median_step)
    context, patches, _ = world(plan or plan_of())
    return timing.fused_norm_pays_off(context, patches, steps)


@pytest.mark.parametrize(("seconds", "used"), [((2.0, 1.5), True), ((1.5, 2.0), False)])
def test_it_is_used_where_it_is_faster(seconds, used, with_triton, monkeypatch):
    assert decide(monkeypatch, seconds) is used


def test_it_is_not_used_without_triton_nor_for_slices_nor_in_short_trainings(monkeypatch):
    assert not decide(monkeypatch, ())
    monkeypatch.setattr(timing, "has_triton", lambda _: True)
    assert not decide(monkeypatch, (), plan=plan_of(dimensions=2))
    assert not decide(monkeypatch, (), steps=LONG - 1)


def test_it_is_not_used_where_the_same_bits_are_wanted(with_triton, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not decide(monkeypatch, ())


def test_it_is_not_used_where_it_learns_otherwise(with_triton, monkeypatch, caplog):
    def wrong(context, course, *, fused_norm=False):
        learner = Learner(context, course)
        with torch.no_grad():
            for parameter in learner.network.parameters() if fused_norm else ():
                parameter.mul_(1.5)
        return learner

    monkeypatch.setattr(timing, "Learner", wrong)
    with caplog.at_level(logging.WARNING):
        assert not decide(monkeypatch, (2.0, 1.0))
    assert "other losses" in caplog.text


def test_it_is_not_used_where_it_cannot_be_compiled(with_triton, monkeypatch, caplog):
    def failing(context, course, *, fused_norm=False):
        if fused_norm:
            raise RuntimeError("no compiler\nand a long trace")
        return Learner(context, course)

    monkeypatch.setattr(timing, "Learner", failing)
    with caplog.at_level(logging.WARNING):
        assert not decide(monkeypatch, (2.0, 1.0))
    assert "(no compiler)" in caplog.text


def test_a_training_that_used_it_goes_on_without_on_a_cpu():
    context, patches, _ = world(plan_of())
    plain, fused = (Learner(context, Course.of(12, context.plan.training), fused_norm=wanted) for wanted in (False, True))
    for learner in (plain, fused):
        learner.take_step(patches.batch(0))
    assert same_weights(plain, fused)
