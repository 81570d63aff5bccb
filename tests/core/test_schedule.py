"""Courses: the rate rises once, falls to zero, and changes its pace without a jump."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.plan import Training
from nnseg.core.schedule import Course, learning_rate


def training(**changes):
    return Training(**({"batch_size": 2, "learning_rate": 0.1} | changes))


def rate(step, steps, of):
    return learning_rate(step, Course.of(steps, of), of)


def test_poly_by_hand():
    assert rate(0, 1000, training()) == 0.1
    assert rate(500, 1000, training()) == pytest.approx(0.1 * 0.5**0.9)


def test_cosine_by_hand():
    cosine = training(schedule="cosine")
    assert [rate(s, 300, cosine) for s in (0, 100, 150)] == pytest.approx([0.1, 0.075, 0.05])


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 19, 1000])
def test_the_rate_rises_once_falls_once_and_ends_at_zero(schedule, steps):
    rates = [rate(s, steps, training(schedule=schedule, warmup_steps=50)) for s in range(steps + 1)]
    top = rates.index(max(rates))
    assert rates[-1] == 0.0
    assert min(rates[:-1]) > 0
    assert max(rates) == 0.1
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert top == min(50, steps // 10)


def test_warmup_is_linear():
    rates = [rate(s, 100, training(warmup_steps=4)) for s in range(5)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


def test_a_course_brought_to_its_end_sooner_goes_on_where_it_was():
    course = Course.of(100, training()).ending_at(60, at=20)
    assert course.steps == 60
    assert [course.progress(s) for s in (0, 10, 20, 40, 60, 99)] == pytest.approx([0, 0.1, 0.2, 0.6, 1, 1])


def test_a_course_never_ends_before_its_next_step():
    assert Course.of(100, training()).ending_at(3, at=20).steps == 21


def test_a_training_continued_goes_back_to_half_its_rate_and_to_zero_again():
    cosine = training(schedule="cosine")
    course = Course.of(100, cosine).continued(50, at=100)
    assert [learning_rate(s, course, cosine) for s in (99, 100, 150)] == pytest.approx([0.0000247, 0.05, 0], abs=1e-6)


def test_a_training_left_early_goes_on_with_the_rate_it_had():
    course = Course.of(100, training()).continued(75, at=25)
    assert [course.progress(s) for s in (24, 25, 100)] == pytest.approx([0.24, 0.25, 1])


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 500)), max_size=5), st.integers(2, 600), st.integers(0, 50))
def test_no_change_of_course_makes_the_rate_jump_or_rise(changes, steps, warmup):
    of = training(schedule="cosine", warmup_steps=warmup)
    course, now = Course.of(steps, of), 0
    for further, end in changes:
        now += further
        if now >= course.steps:
            break
        before = learning_rate(now, course, of)
        course = course.ending_at(end, at=now)
        assert learning_rate(now, course, of) == pytest.approx(before)
    rates = [learning_rate(s, course, of) for s in range(course.warmup, course.steps + 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
