"""The sliding window of a run's predictions: chosen by work and held-out cases, and kept in the model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from warm import fold_options, nnseg

from nnseg.commands.export import read_card
from nnseg.core.decisions import WindowCandidate
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Plan
from nnseg.crossval.window import affordable_cases, choose_window, choose_windows
from nnseg.network.bundle import load_model_file
from nnseg.network.load import load_model
from nnseg.planning.windows import list_candidates
from nnseg.storage.images.read import read_label_map
from nnseg.storage.predictions import read_predictions
from nnseg.storage.run import Run


def candidates(
    *dice: float | None, shares: tuple[float, ...] = (0.01, 0.02, 0.16), values: float = 10_000.0
) -> list[WindowCandidate]:
    """Three candidates with the mean Dice given, or without; ``values`` of a share of 1."""
    axes = ((), (), (0, 1, 2))
    return [
        WindowCandidate(
            step=step,
            mirror_axes=of,
            values=share * values,
            share=share,
            dice=value,
            gain=None if value is None else value - dice[0],
            seconds=share * 100,
        )
        for step, of, share, value in zip((0.75, 0.5, 0.5), axes, shares, dice, strict=True)
    ]


@pytest.mark.parametrize(
    ("dice", "shares", "chosen"),
    [
        ((0.9, 0.9005, 0.9008), (0.01, 0.02, 0.16), (0.75, 0)),  # nothing gains .001
        ((0.9, 0.9005, 0.91), (0.01, 0.02, 0.16), (0.5, 3)),
        ((0.9, 0.902, 0.9025), (0.01, 0.02, 0.16), (0.5, 0)),  # the copies do not gain .001 over the tiles
        ((0.9, 0.89, 0.88), (0.01, 0.02, 0.16), (0.75, 0)),
        ((0.9, 0.902, 0.95), (0.02, 0.04, 0.32), (0.5, 3)),  # the copies gain much, for less work than the training
        ((0.9, 0.902, 0.911), (0.02, 0.04, 0.32), (0.5, 0)),  # not that much
        ((0.9, 0.902, 0.95), (0.08, 0.16, 1.28), (0.5, 0)),  # they gain much, and take too long
        ((0.9, 0.92, 0.95), (0.3, 0.6, 4.8), (0.5, 0)),
        ((0.9, 0.92, 0.95), (0.6, 1.2, 9.6), (0.75, 0)),  # all take too long
        ((None, None, None), (0.01, 0.02, 0.16), (0.5, 3)),  # not measured: the best that the work allows
        ((None, None, None), (0.02, 0.04, 0.32), (0.5, 0)),
    ],
)
def test_the_cheapest_window_is_chosen_unless_another_gains_and_is_affordable(
    dice: tuple[float | None, ...], shares: tuple[float, ...], chosen: tuple[float, int]
):
    found = choose_window(candidates(*dice, shares=shares), cases=0 if dice[0] is None else 12)
    assert (found.step, len(found.mirror_axes)) == chosen


def test_the_reason_says_what_more_would_bring_and_cost():
    reason = choose_window(candidates(0.9, 0.902, 0.95, shares=(0.08, 0.16, 1.28)), cases=12).reason
    assert reason == (
        "step 0.5 without mirroring; step 0.5 in 8 mirrored copies would take 1.3 times the work of the training for the held-out "
        "cases; on 12 held-out cases step 0.5 in 8 mirrored copies gains +0.0500 Dice over step 0.75 without mirroring, for 16 "
        "times the time"
    )


def test_little_work_is_affordable_after_the_shortest_training():
    little = candidates(None, None, None, shares=(0.5, 1.0, 8.0), values=3.0)
    assert choose_window(little, cases=0).mirror_axes == (0, 1, 2)  # 24 billion values
    assert affordable_cases(little, 40) == 12
    assert affordable_cases(candidates(None, None, None, shares=(0.5, 1.0, 8.0), values=15.0), 40) == 4  # 142 for 40, 14 for 4


def test_cases_are_measured_as_far_as_a_tenth_of_the_trainings_work_allows():
    assert affordable_cases(candidates(None, None, None), 40) == 12
    assert affordable_cases(candidates(None, None, None, shares=(0.05, 0.1, 0.35)), 40) == 8  # 0.5 for 40, 0.1 for 8
    assert affordable_cases(candidates(None, None, None, shares=(0.1, 0.2, 0.8)), 40) == 0  # 3 are too few


@pytest.fixture(scope="module")
def run(ball_run: Path) -> Run:
    return Run(ball_run)


def test_work_is_counted_in_tiles_and_copies(run: Run):
    plan, cases = Plan.model_validate(run.plans[0].plan), Fingerprint.model_validate(run.fingerprint).cases
    patches = 2 * plan.training.batch_size * 3.0 * PatchGrowth(plan).mean_cost()  # of two steps
    whole = [case for case in cases if all(n <= p for n, p in zip(case.cropped_shape, plan.patch, strict=True))][:1]
    found = list_candidates(plan, cases, [case.name for case in whole], steps=2)
    assert [(one.step, len(one.mirror_axes)) for one in found] == [(0.5, 0), (0.5, 3)]
    assert [one.share for one in found] == pytest.approx([1 / patches, 8 / patches])


def test_a_run_predicts_as_it_chose_and_so_does_its_model(ball_run: Path, ball_dataset: Path, tiny_recipe: Path, tmp_path: Path):
    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    (choice,) = run.windows.values()
    assert choice.mirror_axes == (0, 1, 2)  # small networks and scans: affordable, though the training was short
    limited = choice.model_copy(update={"mirror_axes": (), "reason": "step 0.5 without mirroring", "key": choice.key})
    run.windows = {"3d": limited}
    assert choose_windows(run, {0: run.folds[0]}) == {"3d": limited}  # decided already, for these networks and cases
    nnseg("run", ball_dataset, run.path, *fold_options(tiny_recipe))
    for model in (load_model(run.path), load_model_file(run.model_file)):
        assert {(m.plan.inference.step, m.plan.inference.mirror_axes) for m in model.members} == {(0.5, ())}
    assert run.plans[0].plan.inference.mirror_axes == (0, 1, 2)
    assert limited.reason in read_card(run.model_file)

    predictions = run.plans[0].fold(0).predictions
    name, record = next(iter(read_predictions(predictions).items()))
    scan = ball_dataset / "imagesTr" / f"{name}.nii.gz"
    nnseg("predict", scan, tmp_path / "out", "--model", run.model_file, "--device", "cpu", "--no-postprocessing")
    again = read_label_map(tmp_path / "out" / f"{name}.nii.gz").labels
    assert np.array_equal(again, read_label_map(predictions / record.file).labels)
