"""What is known of the scans of a dataset that were not held out."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from plan_examples import small_plan

from nnseg.core.errors import ScanError
from nnseg.core.fingerprint import CaseMeasure
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels
from nnseg.crossval import scan_facts
from nnseg.crossval.scan_facts import measure_stored_case, measure_stored_cases
from nnseg.inference.predict import Predictor
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore

LABELS = Labels(names=("background", "a"), values=(0, 3))
PLAN = small_plan(LABELS)
PLAN = PLAN.model_copy(update={"preprocessing": PLAN.preprocessing.model_copy(update={"axes": (1, 0, 2)})})


def scan_of(seed):
    random, grid = np.random.default_rng(seed), Grid(shape=(12, 16, 10), spacing=(2.0, 1.0, 1.5))
    image = np.cumsum(random.normal(50, 20, (1, *grid.shape)), axis=2).astype(np.float32)
    return Scan(image=image, grid=grid, source=Source(files=(Path("scan.nii.gz"),), grid=grid))


def stored(folder, name, seed=0):
    """A case in a store, and its measurements in a fingerprint."""
    scan = scan_of(seed)
    label_map = LabelMap(labels=np.where(scan.image[0] > 400, 3, 0).astype(np.int16), grid=scan.grid)
    CaseStore(folder).write(preprocess(scan, label_map, PLAN, name=name), "key")
    low, high = np.percentile(scan.image, [1, 99]).tolist()
    return CaseMeasure(
        name=name, key=name, shape=scan.grid.shape, spacing=scan.grid.spacing, cropped_shape=scan.grid.shape, voxels={},
        typical=((low, high, 0.0),),
    )  # fmt: skip


def test_a_preprocessed_case_has_the_properties_that_a_prediction_finds(tmp_path):
    measure = stored(tmp_path, "a")
    model = Model(members=(Member(plan=PLAN, weights=build_network(PLAN).state_dict(), fold=0),))
    predictor = Predictor(model, device="cpu")
    predicted = predictor.infer(predictor.prepare(scan_of(0)), uncertainty=True).confidence.facts
    found = measure_stored_case(CaseStore(tmp_path).read("a"), measure)
    assert found.spreads == pytest.approx(predicted.spreads)
    assert found.model_copy(update={"spreads": ()}) == predicted.model_copy(update={"spreads": ()})


def test_cases_that_are_known_damaged_or_missing_are_left_out(tmp_path):
    measures = [stored(tmp_path, name, seed) for seed, name in enumerate(("held out", "damaged", "whole"))]
    missing = measures[0].model_copy(update={"name": "missing"})
    old = measures[2].model_copy(update={"name": "of an earlier version", "typical": ()})
    (path,) = tmp_path.glob("damaged*")
    path.write_bytes(path.read_bytes()[:200])
    folder = SimpleNamespace(plan=PLAN, cases=tmp_path)
    run = SimpleNamespace(plans=[folder], fingerprint_of_folds=SimpleNamespace(cases=(*measures, missing, old)))
    assert list(measure_stored_cases(run, {"held out"})) == ["whole"]
    path.unlink()
    path.symlink_to("x" * 300)  # which no disk can look up
    with pytest.raises(ScanError, match="File name too long"):
        measure_stored_cases(run)


def test_of_many_cases_some_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_facts, "MOST_CASES", 2)
    measures = [stored(tmp_path, f"case {i}", i) for i in range(5)]
    run = SimpleNamespace(
        plans=[SimpleNamespace(plan=PLAN, cases=tmp_path)], fingerprint_of_folds=SimpleNamespace(cases=tuple(measures))
    )
    assert list(measure_stored_cases(run)) == ["case 0", "case 3"]
