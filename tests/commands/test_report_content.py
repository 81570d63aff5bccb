"""The content of the report of a run with held-out cases, from its files alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_report import PLAN, _epochs

from nnseg.commands.report import gather_report_content
from nnseg.core.dataset import Fold
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.image import LabelMap
from nnseg.core.reliability import BINS, RELIABILITY_TEMPERATURES, Reliability
from nnseg.core.scan_ranges import ScanFacts
from nnseg.core.trust import Agreement, Trust
from nnseg.crossval.score import score
from nnseg.evaluation.groups import grouped
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import file_hash, write_json
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import write_label_map
from nnseg.storage.plan_folder import write_plan
from nnseg.storage.predictions import RECORD, Predictions, ScanRecord
from nnseg.storage.run import Run


def written(place: Path, name: str, share: float) -> ScanRecord:
    """A prediction whose votes agree by this share."""
    flat = np.zeros((len(RELIABILITY_TEMPERATURES), BINS, 3))
    flat[:, -1] = (1.0, 0.05, 0.9)
    agreement = Agreement(labels={"ball": share}, foreground=share, voxels={"ball": 100.0})
    facts = ScanFacts(spacing=(1, 1, 1), size_mm=(9, 9, 9), intensities=((-2, -1, 0, 1, 2),))
    confidence = Trust().confidence(agreement, facts)
    reliability = Reliability.of(flat, np.full(len(RELIABILITY_TEMPERATURES), 0.01))
    return ScanRecord(
        status="done",
        file=place.name,
        hash=file_hash(place),
        key=name,
        seconds={"read": 0.5, "network": 1.0},
        peak_gb=0.5,
        confidence=confidence.model_copy(update={"reliability": reliability}),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ball_dataset: Path) -> Run:
    """A run of one fold whose predictions are the references, one voxel aside in every second case."""
    run = Run(tmp_path_factory.mktemp("content") / "run")
    dataset = read_dataset(ball_dataset, workers=1)
    names = tuple(case.name for case in dataset.cases)
    labels = dataset.labels
    measures = tuple(
        CaseMeasure(name=n, key=n, shape=(9, 9, 9), spacing=(1.0, 1.0, 1.0), cropped_shape=(9, 9, 9), voxels={}) for n in names
    )
    run.dataset = dataset
    found = Fingerprint(dataset="balls", layout="", channels=dataset.channels, labels=labels, cases=measures, intensities=())
    run.fingerprint = found
    write_json(run.path / "folds.json", (Fold(training=(), held_out=names),))
    write_plan(run.path / "plan.toml", PLAN.model_copy(update={"labels": labels, "channels": dataset.channels}))
    run.update_record(seconds={"plan": 1.0}, peak_gb={"plan": 0.25}, command="nnseg run balls run")
    run.fold(0).write_history(_epochs(2, steps=500))
    predicted = {}
    for number, case in enumerate(dataset.cases):
        reference, scan = read_label_map(case.labels), read_scan(case.images)
        moved = LabelMap(labels=np.roll(reference.labels, number % 2, axis=2), grid=reference.grid)
        place = run.fold(0).predictions / f"{case.name}.nii.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_label_map(moved, place, like=scan.source)
        predicted[case.name] = written(place, case.name, 0.9 - 0.01 * number)
    write_json(run.fold(0).predictions / RECORD, Predictions(cases=predicted))
    score(run, {0: Fold(training=(), held_out=names)})
    run.trust = Trust(cases=len(names), temperature=1.5, error=0.05, threshold=0.1)
    return run


def test_a_report_has_scores_expected_quality_calibration_and_costs(run):
    content = gather_report_content(run, live=True)
    names = {case.name for case in content.scores.cases}
    assert len(names) > 3
    assert {one.name for one in content.expected_quality} == names
    assert content.calibration.n == len(names)
    assert content.calibration.after.temperature == 1.5
    assert {one.name: sum(one.seconds.values()) for one in content.predicted} == dict.fromkeys(names, 1.5)
    assert content.stages["plan"].peak_gb == 0.25
    assert content.provenance["This run"]["command"] == "nnseg run balls run"
    assert list(content.histories) == ["3d fold 0"]
    assert not content.missing


def test_cases_are_shown_in_the_viewer_and_as_still_pictures(run):
    content = gather_report_content(run, device="cpu")
    assert [case.name for case in content.examples] == [case.name for case in content.viewed][: len(content.examples)]
    assert [case.caption.split(",")[0] for case in content.examples][:3] == ["best", "median", "worst"]


def test_a_live_report_reads_no_scans(run, monkeypatch):
    monkeypatch.setattr("nnseg.commands.report.pack_viewer_cases", lambda *_, **__: pytest.fail("scans are large"))
    assert gather_report_content(run, live=True).viewed == ()


def test_files_of_other_versions_are_left_out_and_named(run, tmp_path):
    """Such as scores that a version wrote which knew only Dice and IoU."""
    other = Run(tmp_path / "old")
    other.path.mkdir()
    for name in ("dataset.json", "fingerprint.json", "folds.json", "run.json", "plan.toml"):
        (other.path / name).write_bytes((run.path / name).read_bytes())
    (other.path / "scores.json").write_text(json.dumps({"labels": ["organ"], "cases": []}))
    content = gather_report_content(other, device="cpu")
    assert content.scores is None
    assert content.missing == ["scores.json is damaged, or of another version of nnseg; nnseg run makes it anew"]


def test_groups_are_in_the_report_where_they_were_scored(run):
    scores = gather_report_content(run, live=True).scores
    sites = {case.name: "ab"[i % 2] for i, case in enumerate(scores.cases)}
    write_json(run.path / "groups.json", grouped(scores, {"site": sites}))
    try:
        assert {group.value for group in gather_report_content(run, live=True).groups.groups} == {"a", "b"}
    finally:
        (run.path / "groups.json").unlink()


def test_the_licence_of_the_dataset_is_in_the_provenance(run):
    before = (run.path / "dataset.json").read_text()
    (run.path / "dataset.json").write_text(json.dumps(json.loads(before) | {"about": {"licence": "CC-BY 4.0"}}))
    try:
        assert gather_report_content(run, live=True).provenance["Data"]["licence"] == "CC-BY 4.0"
    finally:
        (run.path / "dataset.json").write_text(before)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        gather_report_content(Run(tmp_path))


@pytest.mark.parametrize(("suffix", "spacing", "expected"), [(".png", 1.0, True), (".png", 0.5, False), (".nii.gz", 1.0, False)])
def test_pictures_without_a_pixel_size_have_a_note_on_pixels(run, tmp_path, suffix, spacing, expected):
    copy = Run(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    dataset, fingerprint = (json.loads(file.read_text()) for file in (copy.path / "dataset.json", copy.path / "fingerprint.json"))
    for case in fingerprint["cases"]:
        case["spacing"] = [spacing] * 3
    (copy.path / "dataset.json").write_text(json.dumps(dataset | {"suffix": suffix}))
    (copy.path / "fingerprint.json").write_text(json.dumps(fingerprint))
    assert any("1 mm stands for one pixel" in f.message for f in gather_report_content(copy, live=True).findings) is expected
