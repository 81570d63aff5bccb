"""Tests of what a plan is predicted to cost, against numbers by hand and against the code that does the work."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnseg.core.dataset import Fold
from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.geometry import Grid, tile_starts
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.probe import CaseCost, Probe, Trial, handling_key, trial_key, work_key
from nnseg.inference.tiles import Window
from nnseg.planning.cost_model import (
    count_held_bytes,
    count_stored_bytes,
    count_tiles,
    estimate_pool_seconds,
    shape_on_grid,
)
from nnseg.planning.describe import describe_preflight
from nnseg.planning.measure import measure_case
from nnseg.planning.preflight import (
    BASE_GB,
    RUN_GB,
    WORKER_GB,
    FreeResources,
    add_first_stages,
    check_fits,
    preflight,
)
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore

LABELS = Labels(names=("background", "liver", "tumour"), values=(0, 1, 2))


def make_plan(dimensions: int = 3, **changes: Any) -> Plan:
    """A plan of two stages, patches of 8 voxels a side, on a grid of 2 mm."""
    ones, twos, threes = ((n,) * dimensions for n in (1, 2, 3))
    content: dict[str, Any] = {
        "name": f"{dimensions}d",
        "dataset": "Example",
        "recipe": "auto",
        "channels": ("MRI",),
        "patch": (8,) * dimensions,
        "labels": LABELS,
        "preprocessing": Preprocessing(
            axes=(0, 1, 2), spacing=(2.0,) * dimensions, normalization=(Normalization(scheme="zscore"),), image_order=1
        ),
        "network": Network(
            kind="plain", features=(4, 8), strides=(ones, twos), kernels=(threes, threes), blocks=(2, 2), decoder_blocks=(2,)
        ),
        "training": Training(batch_size=2, steps=1000, epoch_steps=50),
        "inference": Inference(mirror_axes=tuple(range(dimensions))),
    }
    return Plan(**{**content, **changes})


def make_case(name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> CaseMeasure:
    voxels = {"background": math.prod(shape) - 30, "liver": 20, "tumour": 10}
    return CaseMeasure(name=name, key=name, shape=shape, spacing=spacing, cropped_shape=shape, voxels=voxels)


@pytest.fixture
def fingerprint(make_fingerprint: Any) -> Fingerprint:
    """Three small cases and one eight times as large: a million voxels."""
    cases = (*(make_case(f"small{i}", (50, 50, 50)) for i in range(3)), make_case("large", (100, 100, 100)))
    return make_fingerprint((1, 1, 1), labels=3, cases=cases, channels=("MRI",))


def make_probe(plan: Plan) -> Probe:
    trial = Trial(
        key=trial_key(plan),
        work=work_key(plan),
        precision="bfloat16",
        step_seconds=0.1,
        pause_seconds=0.5,
        tile_seconds=0.01,
        memory_gb=2.0,
        tile_gb=0.1,
        checkpoint_bytes=4e6,
        model_bytes=1e6,
    )
    handling = CaseCost(
        key=handling_key(plan), seconds=2.0, packed=0.5, memory_gb=0.4, predict_seconds=3.0, predict_gb=0.8, label_bytes=1e4
    )
    return Probe(device="cpu", threads=2, device_gb=8, ram_gb=8, base_gb=0.5, trials=(trial,), handling=(handling,))


FOLD = Fold(training=("small0", "small1", "large"), held_out=("small2",))


def test_costs_follow_from_what_was_measured(fingerprint: Fingerprint) -> None:
    plan = make_plan()
    found = preflight(plan, fingerprint, make_probe(plan), folds=[FOLD], workers=1)
    assert found.measured
    # 1.375 million voxels, 2 s each; a case on the network's grid has 5 bytes a voxel, half of them on disk
    assert found.preprocess.seconds == pytest.approx(2.75)
    assert found.preprocess.ram_gb == pytest.approx(0.5 + RUN_GB + WORKER_GB + 0.4)
    assert found.preprocess.disk_gb == pytest.approx(1.375e6 * 5 / 2 / 1e9)
    # 1000 steps and 20 pauses; all cases are small enough to be held, each with the positions of 30 labelled voxels
    assert found.train.seconds == pytest.approx(1000 * 0.1 + 20 * 0.5)
    assert found.train.ram_gb == pytest.approx(2.0 + RUN_GB + (1.375e6 * 5 + 4 * 30 * 12) / 1e9)
    assert found.train.disk_gb == pytest.approx(2 * 0.005)  # the checkpoint before, and the best weights, are kept too
    # the largest: 3 s, and 24 x 24 x 24 tiles of 8 voxels with a step of 4, in 8 mirrored copies of 0.01 s
    assert found.predict_largest.seconds == pytest.approx(3.0 + 24**3 * 8 * 0.01)
    assert found.predict_largest.ram_gb == pytest.approx(0.5 + 0.8 + 0.1)
    assert found.held_out.seconds == pytest.approx(3.0 / 8 + 12**3 * 8 * 0.01)
    assert found.total.seconds == pytest.approx(2.75 + 110 + 3.0 / 8 + 12**3 * 8 * 0.01)
    assert found.total.ram_gb == found.train.ram_gb


@pytest.mark.parametrize("steps", [None, 1000])
def test_a_budget_is_the_time_of_a_training_whatever_its_steps(fingerprint: Fingerprint, steps: int | None) -> None:
    plan = make_plan(training=Training(batch_size=2, steps=steps, seconds=1200))
    assert preflight(plan, fingerprint, make_probe(plan), folds=[FOLD]).train.seconds == 1200


def test_a_trial_holds_for_any_steps_seed_and_for_the_precision_it_found(fingerprint: Fingerprint) -> None:
    probe = make_probe(make_plan(training=Training(batch_size=2)))
    for changes, known in [
        ({"steps": 77, "seed": 5, "precision": "bfloat16"}, True),
        ({"learning_rate": 0.5}, True),
        ({"precision": "float32"}, False),
        ({"batch_size": 3}, False),
    ]:
        plan = make_plan(training=Training(**{"batch_size": 2, **changes}))
        assert (probe.trial_of(plan) is not None) == known, changes


def test_folds_of_an_ensemble_multiply_the_networks_and_not_the_rest(fingerprint: Fingerprint) -> None:
    plan = make_plan()
    one, five = (preflight(plan, fingerprint, make_probe(plan), folds=[FOLD] * n).predict.seconds for n in (1, 5))
    assert one is not None and five is not None
    assert five - one == pytest.approx(4 * 12**3 * 8 * 0.01)


def test_without_a_probe_sizes_are_estimated_and_times_unknown(fingerprint: Fingerprint) -> None:
    found = preflight(make_plan(), fingerprint, None, folds=[FOLD])
    assert not found.measured
    assert found.total.seconds is found.train.seconds is found.preprocess.seconds is found.predict.seconds is None
    assert BASE_GB < found.train.ram_gb < 2
    assert BASE_GB < found.predict_largest.ram_gb < 2
    assert 0 < found.preprocess.disk_gb <= 1.375e6 * 5 / 1e9


def test_a_failed_trial_counts_as_none(fingerprint: Fingerprint) -> None:
    plan = make_plan()
    probe = make_probe(plan)
    failed = probe.model_copy(update={"trials": (probe.trials[0].model_copy(update={"failed": "killed"}),)})
    assert not preflight(plan, fingerprint, failed, folds=[FOLD]).measured


@pytest.mark.parametrize(
    ("seconds", "workers", "total"),
    [([10.0] * 4, 1, 40.0), ([10.0] * 4, 2, 20.0), ([30.0, 10.0, 10.0, 10.0], 2, 30.0), ([1.0, 19.0, 19.0, 1.0], 2, 20.0)],
)
def test_each_item_goes_to_the_first_free_worker(seconds: list[float], workers: int, total: float) -> None:
    assert estimate_pool_seconds(seconds, workers) == pytest.approx(total)


def test_each_worker_may_hold_one_of_the_largest_cases(fingerprint: Fingerprint) -> None:
    plan = make_plan()
    probe = make_probe(plan)
    slow = probe.model_copy(update={"handling": (probe.handling[0].model_copy(update={"seconds": 100.0}),)})
    found = preflight(plan, fingerprint, slow, folds=[FOLD], workers=2)
    assert found.preprocess.ram_gb == pytest.approx(0.5 + RUN_GB + 2 * WORKER_GB + 0.4 * (1 + 1 / 8))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 20)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    axes=st.permutations([0, 1, 2]),
    dimensions=st.sampled_from([2, 3]),
)
def test_sizes_are_those_that_preprocessing_gives(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], axes: list[int], dimensions: int
) -> None:
    plan = make_plan(dimensions)
    chosen = plan.preprocessing.model_copy(update={"axes": tuple(axes)})
    plan = plan.model_copy(update={"preprocessing": chosen})
    grid = Grid(shape=shape, spacing=spacing)
    image = np.random.default_rng(0).normal(5, 1, (1, *shape)).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    labels[1] = 1
    scan, label_map = Scan(image=image, grid=grid, source=Source(files=(), grid=grid)), LabelMap(labels=labels, grid=grid)
    case = measure_case(scan, label_map, labels=LABELS, name="a").case
    done = preprocess(scan, label_map, plan, name="a")
    assert done.labels is not None
    assert shape_on_grid(case, plan) == done.labels.shape
    assert count_stored_bytes(case, plan) == done.image.nbytes + done.labels.astype(np.int8).nbytes


def test_held_bytes_are_those_of_a_stored_case(tmp_path: Any) -> None:
    grid, plan = Grid(shape=(30, 30, 30), spacing=(2.0, 2.0, 2.0)), make_plan()
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[:, :20, :20], labels[:5, 20:25, 20:25] = 1, 2  # 12000 voxels, of which 10000 are kept, and 125
    image = np.random.default_rng(0).normal(5, 1, (1, 30, 30, 30)).astype(np.float32)
    scan, label_map = Scan(image=image, grid=grid, source=Source(files=(), grid=grid)), LabelMap(labels=labels, grid=grid)
    case = measure_case(scan, label_map, labels=LABELS, name="a").case
    store = CaseStore(tmp_path)
    store.write(preprocess(scan, label_map, plan, name="a"), "key")
    stored = store.read("a")
    held = stored.image.nbytes + stored.labels.nbytes + sum(rows.nbytes for rows in stored.locations.values())
    assert count_held_bytes(case, plan) == held == 27000 * 5 + 10125 * 12


def test_a_cascades_case_has_one_more_channel() -> None:
    case, plan = make_case("a", (10, 10, 10)), make_plan()
    cascade = plan.model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})
    assert (count_stored_bytes(case, plan), count_stored_bytes(case, cascade)) == (5000, 9000)
    assert handling_key(cascade) != handling_key(plan)
    assert work_key(cascade) != work_key(plan)


def test_the_cost_of_a_cascade_includes_its_first_stage(fingerprint: Fingerprint) -> None:
    lowres = make_plan(name="3d_lowres")
    cascade = make_plan(name="3d_cascade", previous="3d_lowres", inference=Inference())
    probe = make_probe(lowres)
    more = make_probe(cascade)
    probe = probe.model_copy(update={"trials": probe.trials + more.trials, "handling": probe.handling + more.handling})
    plans = [lowres, cascade]
    alone = [preflight(plan, fingerprint, probe, folds=[FOLD], workers=1) for plan in plans]
    first, second = add_first_stages(alone, plans)
    assert first == alone[0]
    assert second.predict_largest.seconds == pytest.approx(2 * 3.0 + 24**3 * (8 + 1) * 0.01)  # the cascade does not mirror
    assert second.held_out.seconds == pytest.approx(2 * 3.0 / 8 + 12**3 * (8 + 1) * 0.01)
    assert second.held_out.disk_gb == alone[1].held_out.disk_gb
    assert second.predict.ram_gb == max(found.predict.ram_gb for found in alone)
    assert second.train == alone[1].train


def test_a_large_case_is_left_on_disk() -> None:
    assert count_held_bytes(make_case("large", (300, 300, 300)), make_plan()) == 30 * 12


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3), step=st.sampled_from([0.3, 0.5, 1.0]), mirrored=st.integers(0, 2),
    dimensions=st.sampled_from([2, 3]),
)  # fmt: skip
def test_tiles_are_those_of_the_sliding_window(shape: tuple[int, int, int], step: float, mirrored: int, dimensions: int) -> None:
    plan = make_plan(dimensions, inference=Inference(step=step, mirror_axes=tuple(range(mirrored))))
    spacing = (2.0, 2.0, 2.0)
    window = Window(patch=plan.patch, heads=3, step=step, mirror_axes=plan.inference.mirror_axes)
    steps = (1.0,) * (3 - dimensions) + (step,) * dimensions
    starts = [tile_starts(max(n, t), t, s) for n, t, s in zip(shape, window.tile, steps, strict=True)]
    assert count_tiles(make_case("a", shape, spacing), plan) == math.prod(map(len, starts)) * len(window.flips)


def test_a_run_that_fits_raises_no_error(fingerprint: Fingerprint) -> None:
    found = preflight(make_plan(), fingerprint, make_probe(make_plan()), folds=[FOLD])
    check_fits([found], FreeResources(ram_gb=2.1, device_gb=0, disk_gb=0.02))


@pytest.mark.parametrize(
    ("room", "words"),
    [
        ({"ram_gb": 1.5}, ["2.05 GB of RAM to train", "1.5 GB are free", "--memory 1.4"]),
        ({"disk_gb": 0.001}, ["disk", "0.001 GB are free", "another disk"]),
    ],
)
def test_a_run_that_cannot_fit_is_refused(fingerprint: Fingerprint, room: dict[str, float], words: list[str]) -> None:
    found = preflight(make_plan(), fingerprint, make_probe(make_plan()), folds=[FOLD])
    with pytest.raises(PlanError) as refused:
        check_fits([found], FreeResources(**{"ram_gb": 8.0, "device_gb": 0.0, "disk_gb": 1.0, **room}))
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_too_many_workers_are_refused_with_a_number_that_fits(fingerprint: Fingerprint) -> None:
    found = preflight(make_plan(), fingerprint, make_probe(make_plan()), folds=[FOLD], workers=8)
    large = found.model_copy(update={"preprocess": found.preprocess.model_copy(update={"ram_gb": 5.0})})
    with pytest.raises(PlanError, match="--workers 4"):  # 0.45 GB and 0.56 GB a worker
        check_fits([large], FreeResources(ram_gb=3.0, device_gb=0, disk_gb=1))


def test_a_device_too_small_is_refused(fingerprint: Fingerprint) -> None:
    found = preflight(make_plan(), fingerprint, make_probe(make_plan()), folds=[FOLD])
    on_gpu = found.model_copy(update={"train": found.train.model_copy(update={"device_gb": 12.0})})
    with pytest.raises(PlanError, match=r"12 GB of the device's memory and 8 GB are free.*--memory 7.2"):
        check_fits([on_gpu], FreeResources(ram_gb=8, device_gb=8, disk_gb=1))


def test_the_table_says_where_its_numbers_come_from(fingerprint: Fingerprint) -> None:
    plan = make_plan(training=Training(batch_size=2, seconds=1200))
    text = describe_preflight([preflight(plan, fingerprint, make_probe(plan), folds=[FOLD])])
    assert "measured on this machine" in text
    assert "20 min" in text
    assert "2.05 GB" in text
    assert "estimated" in describe_preflight([preflight(plan, fingerprint, None, folds=[FOLD])])


def test_an_estimate_refuses_only_what_certainly_does_not_fit(fingerprint: Fingerprint) -> None:
    found = preflight(make_plan(), fingerprint, None, folds=[FOLD])
    check_fits([found], FreeResources(ram_gb=0.8 * found.total.ram_gb, device_gb=0, disk_gb=1))
    with pytest.raises(PlanError, match="RAM"):
        check_fits([found], FreeResources(ram_gb=0.6 * found.total.ram_gb, device_gb=0, disk_gb=1))
