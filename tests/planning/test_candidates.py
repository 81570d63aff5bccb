"""The choice among candidate networks, with made-up speeds."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Budget, Plan
from nnseg.core.probe import Probe, Trial, trial_key, work_key
from nnseg.planning.candidates import Candidate, affordable_steps, choose, is_worth_measuring
from nnseg.planning.planner import make_candidates, make_plans
from nnseg.planning.recipe import load_recipe

MakeFingerprint = Callable[..., Fingerprint]
SPEEDS = {"quick": 0.14, "steady": 0.27, "wide": 1.1}


def proposals(fingerprint: Fingerprint, minutes: float | None) -> tuple[Candidate, ...]:
    budget = Budget(seconds=None if minutes is None else minutes * 60)
    return make_candidates(fingerprint, budget, load_recipe("auto"), kinds=("3d",))[0]


def measured(of: tuple[Candidate, ...], *, memory_gb: float = 1.0, **changes: float | str) -> Probe:
    trials = [
        Trial(
            key=trial_key(p.plan),
            work=work_key(p.plan),
            step_seconds=SPEEDS[p.name],
            memory_gb=memory_gb,
            precision="bfloat16",
            **changes,
        )
        for p in of
    ]
    return Probe(device="cpu", threads=2, device_gb=4, ram_gb=4, trials=tuple(trials))


def chosen(fingerprint: Fingerprint, minutes: float | None) -> Plan:
    of = proposals(fingerprint, minutes)
    return choose(of, Budget(seconds=None if minutes is None else minutes * 60), measured(of))


@pytest.mark.parametrize(
    ("minutes", "batch", "features", "steps"),
    [
        (5, 2, 16, int(300 * 0.97 / 0.14)),  # steady would have 1077 steps of the 3000 it needs
        (20, 4, 16, int(1200 * 0.97 / 0.27)),
        (60, 4, 16, int(3600 * 0.97 / 0.27)),
        (600, 4, 32, int(36000 * 0.97 / 1.1)),
    ],
)
def test_longer_budgets_buy_larger_batches_and_wider_networks(
    make_fingerprint: MakeFingerprint, minutes: float, batch: int, features: int, steps: int
):
    plan = chosen(make_fingerprint((36, 50, 35)), minutes)
    assert (plan.training.batch_size, plan.network.features[0]) == (batch, features)
    assert plan.training.steps == pytest.approx(steps / PatchGrowth(plan).mean_cost(), abs=1)
    assert plan.training.precision == "bfloat16"
    assert f"{minutes} minutes" in plan.training.why["steps"]


def test_larger_candidates_that_were_not_chosen_are_named(make_fingerprint: MakeFingerprint):
    why = chosen(make_fingerprint((36, 50, 35)), 5).why["recipe"]
    assert why.startswith("quick: the largest network that gets enough steps (2078); steady needs 3000 of its own")


def test_without_a_budget_the_length_follows_the_dataset_and_the_network_the_length(make_fingerprint: MakeFingerprint):
    small, large = (chosen(make_fingerprint((36, 50, 35), count=n), None) for n in (20, 200))
    assert (small.training.steps, small.network.features[0]) == (2000, 16)
    assert (large.training.steps, large.network.features[0]) == (20_000, 32)


def test_same_fingerprint_budget_and_probe_give_the_same_plan(make_fingerprint: MakeFingerprint):
    fingerprint, budget = make_fingerprint((36, 50, 35)), Budget(seconds=1200)
    probe = measured(proposals(fingerprint, 20))
    one, other = (make_plans(fingerprint, budget, load_recipe("auto"), kinds=("3d",), probe=probe) for _ in range(2))
    assert one == other == (chosen(fingerprint, 20),)


def test_candidates_that_failed_or_need_too_much_memory_are_passed_over(make_fingerprint: MakeFingerprint):
    of = proposals(make_fingerprint((36, 50, 35)), 600)
    probe = measured(of)
    failed = probe.trials[2].model_copy(update={"failed": "was killed"})
    large = probe.trials[1].model_copy(update={"memory_gb": 5.0})
    without = probe.model_copy(update={"trials": (probe.trials[0], large, failed)})
    assert choose(of, Budget(seconds=36_000), without).training.batch_size == 2


def test_a_network_that_does_not_fit_is_refused_with_what_it_needs(make_fingerprint: MakeFingerprint):
    of = proposals(make_fingerprint((36, 50, 35)), 5)
    with pytest.raises(PlanError, match=r"smallest for 3d needs 9 GB of memory, and 4 GB may be used"):
        choose(of, Budget(seconds=300), measured(of, memory_gb=9))
    with pytest.raises(PlanError, match=r"smallest for 3d needs 1 GB of memory, and 0.5 GB may be used"):
        choose(of, Budget(seconds=300, memory_gb=0.5), measured(of))


def test_affordable_steps_include_the_pauses_between_epochs(make_fingerprint: MakeFingerprint):
    proposal = proposals(make_fingerprint((36, 50, 35)), 5)[0]
    trial = Trial(key="any", step_seconds=0.1, pause_seconds=5.0)  # epochs of 50 steps: 0.1 s more a step
    assert affordable_steps(proposal, trial, Budget(seconds=1000)) == int(970 / 0.2)


def test_after_a_failed_trial_no_larger_network_is_measured(make_fingerprint: MakeFingerprint):
    small, large, _ = proposals(make_fingerprint((36, 50, 35)), 20)
    budget = Budget(seconds=1200)
    assert not is_worth_measuring(large, small, Trial(key="any", failed="was killed"), budget)
    assert is_worth_measuring(large, small, Trial(key="any", step_seconds=0.1), budget)  # 11640 steps, and large needs 3000
    assert not is_worth_measuring(large, small, Trial(key="any", step_seconds=1.0), budget)


def test_a_training_that_sees_the_data_few_times_has_no_flips_and_small_rotations(make_fingerprint: MakeFingerprint):
    fingerprint = make_fingerprint((10, 216, 256), spacing=(10, 1.4, 1.4), count=200)
    short, long = (chosen(fingerprint, minutes) for minutes in (5, 600))
    for plan in (short, long):
        passes = plan.training.steps * plan.training.batch_size * math.prod(plan.patch) / (200 * 10 * 216 * 256)
        assert (passes < load_recipe("auto").for_device("cpu").short.passes) == (plan is short)
    assert (short.training.augmentation.mirror_axes, short.inference.mirror_axes) == ((), ())
    assert (long.training.augmentation.mirror_axes, long.inference.mirror_axes) == ((0, 1, 2), (0, 1, 2))
    assert (short.training.augmentation.rotation_degrees, long.training.augmentation.rotation_degrees) == (15, 180)
    assert "fewer than 40 times" in short.training.augmentation.why["mirror_axes"]
    probe = measured(proposals(fingerprint, 5))
    assert probe.trial_of(short)
    assert probe.trial_of(long)


def test_settings_of_the_recipe_overrule_those_of_a_short_training(make_fingerprint: MakeFingerprint, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n[training.augmentation]\nmirror_axes = [2]\n')
    budget = Budget(seconds=300)
    of = make_candidates(make_fingerprint((36, 50, 35)), budget, load_recipe(path), kinds=("3d",))[0]
    augmentation = choose(of, budget, measured(of)).training.augmentation
    assert (augmentation.mirror_axes, augmentation.why["mirror_axes"]) == ((2,), "set by the recipe")


def test_the_length_of_a_training_that_is_not_known_yet_makes_it_no_short_one(make_fingerprint: MakeFingerprint):
    plan = choose(proposals(make_fingerprint((36, 50, 35)), 5), Budget(seconds=300))
    assert plan.training.steps is None
    assert plan.training.augmentation.mirror_axes == (0, 1, 2)
