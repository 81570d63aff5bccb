"""Audits of a run: planted marks, scans under two names, and what is printed and written."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.commands.audit import audit
from nnseg.core.audit import Audit
from nnseg.core.dataset import Fold
from nnseg.core.errors import RunError
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.planning.measure_folder import measure_folder
from nnseg.planning.run_folds import decide_folds
from nnseg.storage.run import Run

CASES = 20
NAMES = [f"ball_{i:02}" for i in range(CASES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of balls of two sizes, and a run with scores of all cases, of which nothing but records is there; to be copied."""
    folder = tmp_path_factory.mktemp("audited")
    random, (z, y, x) = np.random.default_rng(0), np.mgrid[:12, :24, :24]
    for part in ("imagesTr", "labelsTr"):
        (folder / "data" / part).mkdir(parents=True)
    for i, name in enumerate(NAMES):
        ball = (z - 6) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 < (4 + i % 2) ** 2
        image = (100 + 80 * ball + random.normal(0, 10, ball.shape)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / "data" / "imagesTr" / f"{name}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(ball.astype(np.uint8)), str(folder / "data" / "labelsTr" / f"{name}.nii.gz"))
    content = {"name": "Balls", "labels": {"0": "background", "1": "ball"}, "modality": {"0": "MRI"}}
    content |= {"training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in NAMES]}
    (folder / "data" / "dataset.json").write_text(json.dumps(content))
    return folder / "data"


@pytest.fixture
def run(made, tmp_path) -> Run:
    data = tmp_path / "data"
    shutil.copytree(made, data)
    return Run(tmp_path / "run")


def record(run: Run) -> Run:
    """The run's records of the dataset as it is now, with folds and scores."""
    run.path.mkdir()
    run.dataset, run.fingerprint = measure_folder(run.path.parent / "data")
    run.update_record()
    run.folds = {k: Fold(training=tuple(n for n in NAMES if n not in part), held_out=part) for k, part in enumerate(halves())}
    random = np.random.default_rng(5)
    labels = Labels(names=("background", "ball"), values=(0, 1))
    tp = random.integers(50, 90, CASES)
    cases = [case_score(n, {"ball": Counts(tp=int(t), fp=9, fn=9, tn=900)}) for n, t in zip(NAMES, tp, strict=True)]
    run.scores = summarize(cases, labels)
    return run


def halves() -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(NAMES[: CASES // 2]), tuple(NAMES[CASES // 2 :])


def change(run: Run, name: str, how) -> None:
    path = run.path.parent / "data" / "imagesTr" / f"{name}.nii.gz"
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    sitk.WriteImage(sitk.GetImageFromArray(how(image)), str(path))


def with_mark(image: np.ndarray) -> np.ndarray:
    image[:, 1:4, 1:4] = 400
    return image


def test_a_clean_dataset_has_no_findings(run):
    found = audit(record(run))
    assert (found.cases, found.scored, found.findings, found.same_scans, found.groups) == (CASES, CASES, (), (), {})
    assert {one.outcome for one in found.associations} == {"Dice"}  # nothing that is tested against volumes differs
    assert run.audit == found
    assert not run.audit_groups_file.exists()


def test_of_a_run_without_scores_only_labels_are_tested(run):
    for i, name in enumerate(NAMES):
        if i % 2:
            change(run, name, with_mark)
    record(run).scores = None
    found = audit(run)
    assert (found.scored, found.subgroups) == (0, ())
    assert {one.outcome for one in found.associations} == {"volume of ball"}
    assert {finding.code for finding in found.findings} == {"NS-A003"}


def test_a_mark_on_the_scans_of_large_labels_is_found(run):
    for i, name in enumerate(NAMES):
        if i % 2:
            change(run, name, with_mark)
    found = audit(record(run))
    assert [finding.code for finding in found.findings] == ["NS-A003"] * len(found.findings)
    p = {(one.predictor, one.outcome): one.p_adjusted for one in found.associations}
    assert p["mark in a corner", "volume of ball"] < 0.01
    assert p["mark in the corner front right", "volume of ball"] < 0.01
    assert p["mark in a corner", "Dice"] > 0.05
    assert any("goes with the mark in a corner" in finding.message for finding in found.findings)


def test_scores_that_depend_on_a_given_property_are_found_with_its_subgroups(run, tmp_path):
    dice = {case.name: case.mean_dice for case in record(run).scores.cases}
    middle = float(np.median(list(dice.values())))
    table = tmp_path / "sites.csv"
    table.write_text("case,site\n" + "".join(f"{n},{'AB'[value > middle]}\n" for n, value in dice.items()))
    found = audit(run, groups=str(table))
    assert [finding.code for finding in found.findings] == ["NS-A002"]
    assert "the Dice depends on the site" in found.findings[0].message
    of_site = {one.value: one for one in found.subgroups if one.predictor == "site"}
    assert (of_site["A"].n, of_site["B"].n) == (10, 10)
    assert of_site["A"].dice < middle < of_site["B"].dice
    assert of_site["A"].interval[0] < of_site["A"].dice < of_site["A"].interval[1]


def test_a_mirrored_copy_under_another_name_is_found_and_kept_in_one_fold(run):
    shown = {}
    change(run, NAMES[1], lambda image: shown.setdefault("image", image))
    change(run, NAMES[15], lambda image: shown["image"][:, :, ::-1] * 2 + 5)
    found = audit(record(run))
    same = found.same_scans[0]
    assert (same.cases, same.how, same.divided) == ((NAMES[1], NAMES[15]), "mirrored along x", True)
    assert "a fold trains on one of them and holds out the other" in found.findings[0].message
    groups = run.audit_groups_file
    folds = decide_folds(Run(run.path.parent / "new"), run.dataset, run.fingerprint, group_by=str(groups))
    assert all((NAMES[1] in fold.held_out) == (NAMES[15] in fold.held_out) for fold in folds)


def test_two_scans_of_one_patient_are_no_finding(run, tmp_path):
    shown = {}
    change(run, NAMES[1], lambda image: shown.setdefault("image", image))
    change(run, NAMES[15], lambda image: shown["image"][:, :, ::-1])
    record(run)
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\n" + "".join(f"{n},{'p1' if i in (1, 15) else n}\n" for i, n in enumerate(NAMES)))
    run.update_record(folds={"group_by": str(table)})
    assert audit(run).same_scans == ()


def test_the_command_prints_what_it_found_and_how_to_go_on(run):
    shown = {}
    change(run, NAMES[1], lambda image: shown.setdefault("image", image))
    change(run, NAMES[15], lambda image: shown["image"].copy())
    record(run)
    done = CliRunner().invoke(app, ["audit", str(run.path)])
    assert done.exit_code == 1, done.output
    for text in (f"cases {NAMES[1]}, {NAMES[15]} show the same scan", "NS-A001", "--group-by", "audit_groups.csv", "p (corrected)"):
        assert text in " ".join(done.output.split())
    printed = CliRunner().invoke(app, ["audit", str(run.path), "--json", "-q"])
    assert Audit.model_validate(json.loads(printed.stdout)["result"]["audit"]) == run.audit


def test_a_run_whose_scans_are_gone_is_refused_and_one_lost_scan_is_named(run):
    record(run)
    (run.path.parent / "data" / "imagesTr" / f"{NAMES[0]}.nii.gz").unlink()
    found = audit(run)
    assert list(found.unread) == [NAMES[0]]
    assert found.cases == CASES - 1
    shutil.rmtree(run.path.parent / "data")
    with pytest.raises(RunError, match="none of the scans"):
        audit(run)
    with pytest.raises(RunError, match="no run with a dataset"):
        audit(Run(run.path / "none"))
