"""``nnseg report PREDICTIONS``: from scans by way of a stand-in for a network to volumes, page and sheets."""

import csv
import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series
from standin import StandIn, write_scan
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.commands.verify import verify
from nnseg.core.dataset import Case
from nnseg.core.errors import DatasetError, RunError
from nnseg.core.labels import Labels
from nnseg.core.population import Person, make_population
from nnseg.core.trust import Agreement, Confidence, DiceErrors
from nnseg.crossval.predict import PredictionJob, predict_cases
from nnseg.storage.files import read_json, write_json
from nnseg.storage.images.read import read_label_map
from nnseg.storage.predictions import RECORD, Predictions, read_record
from nnseg.volumetry.population import read_population
from nnseg.volumetry.predicted import MeasureOptions
from nnseg.volumetry.report import report_predictions
from nnseg.volumetry.volumes import Volumetry

REPORT_FILES = ("volumes.csv", "volumes.json", "volumes_wide.csv", "report.html")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three scans of 6 x 5 x slices voxels of 2 mm3, and a broken one, predicted."""
    monkeypatch.setattr("nnseg.volumetry.report.MOST_OTHERS", 1)  # one picture is enough
    cases = [Case(name=n, images=(write_scan(tmp_path / "scans" / f"{n}.nii.gz", i),)) for i, n in enumerate(("=a", "b", "c"), 2)]
    broken = tmp_path / "scans" / "broken.nii.gz"
    broken.write_bytes(b"no image")
    predict_cases(PredictionJob(cases=(*cases, Case(name="broken", images=(broken,))), out=tmp_path / "out", key="k"), StandIn())
    return tmp_path / "out"


class Brighter(StandIn):
    """Labels the voxels brighter than 59, so that some slices of `write_series` have none."""

    def infer(self, scan, **options):
        return super().infer(replace(scan, image=scan.image - 59.5), **options)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bright_ml(folder, name):
    voxels = nib.load(folder / f"{name}.nii.gz").get_fdata()
    return float((voxels == 1).sum() * 2.0 / 1000)


def test_every_scan_gets_its_volume_and_a_sheet_and_a_failed_one_its_reason(folder):
    found = report_predictions(folder)
    by_name = {case.name: case for case in found.cases}
    assert list(by_name) == ["=a", "b", "broken", "c"]
    for name in ("=a", "b", "c"):
        assert by_name[name].labels["bright"].ml == pytest.approx(bright_ml(folder, name), abs=1e-12)
    assert "is not a NIfTI file" in by_name["broken"].failed
    assert [r["case"] for r in rows(folder / "volumes.csv")] == ["'=a", "b", "broken", "c"]
    assert [r["bright"] for r in rows(folder / "volumes_wide.csv")] == [
        f"{by_name[n].labels['bright'].ml:.12g}" for n in ("=a", "b", "c")
    ]
    assert read_json(folder / "volumes.json", Volumetry) == found
    assert sorted(p.name for p in (folder / "sheets").iterdir()) == ["=a.html", "b.html", "c.html"]
    assert "<svg" in (folder / "sheets" / "b.html").read_text()


def test_a_tilted_scan_has_the_volume_of_its_sheared_voxels_and_a_picture(folder):
    image = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    scan = folder.parent / "scans" / "tilted.nii.gz"
    nib.save(nib.Nifti1Image(image, np.array([[1, 0, 0, 0], [0, 1, 0.6, 0], [0, 0, 0.8, 0], [0, 0, 0, 1.0]])), scan)
    predict_cases(PredictionJob(cases=(Case(name="tilted", images=(scan,)),), out=folder, key="k"), StandIn())
    (case,) = (case for case in report_predictions(folder).cases if case.name == "tilted")
    voxels = int((nib.load(folder / "tilted.nii.gz").get_fdata() == 1).sum())
    assert (case.failed, case.labels["bright"].ml) == ("", pytest.approx(voxels * 0.8 / 1000, rel=1e-6))
    assert "<svg" in (folder / "sheets" / "tilted.html").read_text()
    assert "No picture" not in (folder / "sheets" / "tilted.html").read_text()


def test_dicom_seg_alone_has_the_volumes_of_the_label_map_beside_it(tmp_path):
    write_series(tmp_path / "scans" / "s", slices=6)
    case = Case(name="s", images=(tmp_path / "scans" / "s",))
    predict_cases(PredictionJob(cases=(case,), out=tmp_path / "out", key="k"), Brighter())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [RECORD, "s.dcm", "s.nii.gz"]
    (beside,) = report_predictions(tmp_path / "out").cases
    record = read_json(tmp_path / "out" / RECORD, Predictions)
    alone = record.cases["s"].model_copy(update={"file": "s.dcm", "more": {}})
    (tmp_path / "out" / RECORD).write_text(record.model_copy(update={"cases": {"s": alone}}).model_dump_json())
    (tmp_path / "out" / "s.nii.gz").unlink()
    (found,) = report_predictions(tmp_path / "out").cases
    assert (found.failed, found.labels["bright"].ml) == ("", pytest.approx(84 * 0.7 * 0.5 * 3 / 1000))
    assert beside.labels["bright"].ml == pytest.approx(found.labels["bright"].ml, rel=1e-6)
    assert "<svg" in (tmp_path / "out" / "sheets" / "s.html").read_text()


def test_pictures_without_a_size_say_that_their_volumes_are_pixels(tmp_path):
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(48, dtype=np.uint8).reshape(6, 8)), str(tmp_path / "scans" / "p.png"))
    case = Case(name="p", images=(tmp_path / "scans" / "p.png",))
    predict_cases(PredictionJob(cases=(case,), out=tmp_path / "out", key="k"), StandIn())
    (found,) = report_predictions(tmp_path / "out").cases
    assert (found.labels["bright"].ml, "its file gives no voxel size: what stands for ml is 1000 pixels" in found.notes) == (
        0.047,
        True,
    )
    (row,) = rows(tmp_path / "out" / "volumes.csv")
    assert ("ml" in row, row["1000 pixels"]) == (False, "0.047")
    page, sheet = ((tmp_path / "out" / name).read_text() for name in ("report.html", "sheets/p.html"))
    assert ("median, 1000 pixels" in page, "Volume, 1000 pixels" in sheet) == (True, True)
    assert not re.search(r"\bml\b", re.sub(r"<script.*?</script>|what stands for ml", "", page + sheet, flags=re.DOTALL))
    (person,) = read_population(tmp_path / "out" / "volumes.csv", read_record(tmp_path / "out")[1]).people
    assert person.volumes == {"bright": 0.047}


def test_two_processes_give_the_same_volumes_as_one(folder):
    assert report_predictions(folder, workers=2, sheets=False) == report_predictions(folder, workers=1, sheets=False)


def test_missing_scans_have_volumes_but_no_pictures(folder):
    before = report_predictions(folder, sheets=False)
    shutil.rmtree(folder.parent / "scans")
    assert report_predictions(folder).cases == before.cases
    assert "No picture" in (folder / "sheets" / "b.html").read_text()
    assert "Still pictures" not in (folder / "report.html").read_text()


def test_only_the_case_of_a_missing_label_map_fails(folder):
    (folder / "b.nii.gz").unlink()
    found = {case.name: case.failed for case in report_predictions(folder, sheets=False).cases}
    assert "b.nii.gz" in found["b"]
    assert found["c"] == ""


def test_a_label_map_that_was_corrected_by_hand_is_measured_as_it_is_now(folder):
    image = nib.load(folder / "b.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), folder / "b.nii.gz")
    (case,) = (c for c in report_predictions(folder, sheets=False).cases if c.name == "b")
    assert case.labels["bright"].ml == pytest.approx(6 * 5 * 3 * 2 / 1000)


def test_the_mean_expected_dice_has_the_interval_of_held_out_errors(folder):
    record = read_json(folder / RECORD, Predictions)
    agreement = Agreement(labels={"bright": 0.9}, foreground=0.9, voxels={"bright": 9.0})
    errors = DiceErrors(cases=40, patients=40, mean=0.0, spread=0.0)
    known = Confidence(quality=0.8, expected_dice={"bright": 0.8}, flagged=False, unlike=(), agreement=agreement, errors=errors)
    cases = {name: one.model_copy(update={"confidence": known}) for name, one in record.cases.items()}
    write_json(folder / RECORD, record.model_copy(update={"cases": cases}))
    result = CliRunner().invoke(app, ["report", str(folder), "--no-sheets"])
    assert "mean expected Dice 0.800, 90 % from 0.800 to 0.800" in result.output
    assert "0.800 to 0.800" in (folder / "report.html").read_text("utf-8")
    assert read_json(folder / "volumes.json", Volumetry).expected.scans == 3


def test_sheets_can_be_left_out(folder):
    report_predictions(folder, sheets=False)
    assert not (folder / "sheets").exists()
    assert "sheets/" not in (folder / "report.html").read_text()


def test_patients_are_compared_with_those_of_their_age_and_sex(folder, tmp_path):
    lines = [f"p{i},{20 + i % 60},{'FM'[i % 2]},{0.001 * i:g}" for i in range(240)]
    (tmp_path / "others.csv").write_text("\n".join(["case,age,sex,bright", *lines]))
    (tmp_path / "patients.csv").write_text("case,age,sex\n'=a,50,F\nb,50,\nc,,\nbroken,,\n")
    others = read_population(tmp_path / "others.csv", read_record(folder)[1])
    found = report_predictions(folder, population=others, covariates=tmp_path / "patients.csv", sheets=False)
    among = {c.name: c.labels["bright"].percentile.among for c in found.cases if not c.failed}
    assert among == {"=a": "women of 50 ± 5 years", "b": "people of 50 ± 5 years", "c": "all 240"}
    assert found.population == "240 people in others.csv"
    assert [r["age"] for r in rows(folder / "volumes.csv") if r["case"] == "b"] == ["50.0"]


def test_changes_between_visits_are_in_table_page_and_sheet(folder, tmp_path):
    table = tmp_path / "visits.csv"
    table.write_text("case,patient,date\n'=a,=p,2023-01-01\nb,=p,2024-01-01\nc,q,2024-01-01\nbroken,q,2023-01-01\n")
    found = report_predictions(folder, visits=table)
    (change,) = found.changes
    percent = 100 * (bright_ml(folder, "b") / bright_ml(folder, "=a") - 1)
    assert (change.patient, change.label, change.percent) == ("=p", "bright", pytest.approx(percent))
    (row,) = rows(folder / "changes.csv")
    assert (row["patient"], row["case_before"], row["date_after"]) == ("'=p", "'=a", "2024-01-01")
    assert float(row["change_percent"]) == pytest.approx(percent, abs=0.005)
    assert "Changes between visits" in (folder / "report.html").read_text()
    assert "Change since 2023-01-01" in (folder / "sheets" / "b.html").read_text()
    assert "Change since" not in (folder / "sheets" / "c.html").read_text()  # the visit before failed
    assert {file.state for file in verify(folder)} == {"intact"}
    done = CliRunner().invoke(app, ["report", str(folder), "--visits", str(table), "--no-sheets", "--workers", "1"])
    assert f"changes: {folder / 'changes.csv'}, 1 between visits, of unknown uncertainty (see predict --uncertainty)" in done.stdout


@pytest.mark.parametrize("by_label", [False, True])
def test_volumes_are_corrected_for_head_size_before_they_are_compared(folder, tmp_path, by_label):
    heads = [0.02 + 0.001 * i for i in range(40)]  # where the label itself is the head: of the size of these scans
    lines = [f"p{i},{'' if by_label else 1200 + 15 * i},{heads[i]:g}" for i in range(40)]
    (tmp_path / "others.csv").write_text("\n".join(["case,eTIV (ml),bright", *lines]))
    (tmp_path / "patients.csv").write_text("case,icv\n'=a,1000\nb,1500\nc,\nbroken,\n")
    options = ["--population", str(tmp_path / "others.csv"), "--correct-head", "ratio", "--workers", "1"]
    options += ["--head", "bright"] if by_label else ["--covariates", str(tmp_path / "patients.csv")]
    done = CliRunner().invoke(app, ["report", str(folder), *options])
    assert done.exit_code == 0, done.output
    found = {case.name: case for case in read_json(folder / "volumes.json", Volumetry).cases}
    mean = np.mean(heads) if by_label else 1200 + 15 * 19.5
    own = {"=a": bright_ml(folder, "=a"), "b": bright_ml(folder, "b")} if by_label else {"=a": 1000, "b": 1500}
    for name, head in own.items():
        volume = found[name].labels["bright"]
        assert (found[name].patient.head_ml, volume.corrected) == (pytest.approx(head), pytest.approx(volume.ml * mean / head))
        assert volume.percentile is not None
    assert {r["case"]: r["head_ml"] for r in rows(folder / "volumes.csv")}["b"] == str(found["b"].patient.head_ml)
    sheet = (folder / "sheets" / "b.html").read_text()
    assert ("Corrected for head size" in sheet, "volumes corrected (ratio) to heads of" in sheet) == (True, True)
    if not by_label:
        assert (found["c"].labels["bright"].percentile, found["c"].labels["bright"].corrected) == (None, None)
        assert any("its head size is not known" in note for note in found["c"].notes)
        again = read_population(folder / "volumes_wide.csv", read_record(folder)[1])
        assert [person.head_ml for person in again.people] == [1000, 1500, None]
        assert read_population(folder / "volumes.json", read_record(folder)[1]).people == again.people


def test_smooth_centiles_are_given_within_the_ages_seen_only(folder, tmp_path):
    lines = [f"p{i},{20 + i % 60},{'FM'[i // 2 % 2]},{0.001 * (i % 97):g}" for i in range(240)]
    (tmp_path / "others.csv").write_text("\n".join(["case,age,sex,bright", *lines]))
    (tmp_path / "patients.csv").write_text("case,age,sex\n'=a,50,F\nb,80,F\nc,,\nbroken,,\n")
    options = ["--population", str(tmp_path / "others.csv"), "--covariates", str(tmp_path / "patients.csv")]
    done = CliRunner().invoke(app, ["report", str(folder), *options, "--smooth", "--workers", "1"])
    assert done.exit_code == 0, done.output
    found = {case.name: case for case in read_json(folder / "volumes.json", Volumetry).cases}
    assert found["=a"].labels["bright"].percentile.among == "all 120 women of 20 to 77 years, smoothed"
    assert [found[name].labels["bright"].percentile for name in ("b", "c")] == [None, None]
    sheet, page = ((folder / name).read_text() for name in ("sheets/b.html", "report.html"))
    assert "no centiles: the age of 80 is beyond those of the population, 20 to 77" in sheet
    assert ("240 people in others.csv, smooth centiles by age" in page, "percentile</button>" in page) == (True, True)


def test_head_sizes_in_mm3_are_refused(folder, tmp_path):
    (tmp_path / "patients.csv").write_text("case,etiv\n'=a,1500000\nb,1\nc,1\nbroken,1\n")
    with pytest.raises(DatasetError, match='column "etiv": 1500000 cannot be; a number between 0 and 5000 is expected'):
        report_predictions(folder, covariates=tmp_path / "patients.csv")


def test_a_correction_without_a_population_is_refused(folder):
    with pytest.raises(DatasetError, match="there is no population to correct volumes or draw centiles by"):
        report_predictions(folder, asked=MeasureOptions(correction="ratio"))


def put_label_map(folder, name: str, *boxes: tuple[slice, slice, slice]) -> None:
    """Correct a label map by hand: label 1 in boxes (x, y, z)."""
    image = nib.load(folder / f"{name}.nii.gz")
    voxels = np.zeros(image.shape, np.uint8)
    for box in boxes:
        voxels[box] = 1
    nib.save(nib.Nifti1Image(voxels, image.affine), folder / f"{name}.nii.gz")


def test_lesions_and_what_became_of_them_are_in_tables_page_and_sheet(folder, tmp_path):
    small, large, other = np.s_[0:1, 0:1, 0:1], np.s_[2:5, 2:4, 0:2], np.s_[0:1, 3:5, 0:1]
    put_label_map(folder, "b", small, large)
    put_label_map(folder, "c", np.s_[2:5, 2:5, 0:2], other)
    table = tmp_path / "visits.csv"
    table.write_text("case,patient,date\nb,'=p,2023-01-01\nc,'=p,2024-01-01\n")
    options = ["--lesions", "bright", "--visits", str(table), "--workers", "1"]
    done = CliRunner().invoke(app, ["report", str(folder), *options])
    assert done.exit_code == 0, done.output
    found = {case.name: case for case in read_json(folder / "volumes.json", Volumetry).cases}
    listed = [(r["case"], r["label"], r["lesion"], float(r["ml"])) for r in rows(folder / "lesions.csv") if r["case"] != "'=a"]
    assert listed == [
        ("b", "bright", "1", 0.024),
        ("b", "bright", "2", 0.002),
        ("c", "bright", "1", 0.036),
        ("c", "bright", "2", 0.004),
    ]
    became = [
        [r[k] for k in ("patient", "change", "lesions_before", "lesions_after", "change_percent")]
        for r in rows(folder / "lesion_changes.csv")
    ]
    assert sorted(became) == [
        ["'=p", "grown", "1", "1", "50.0"],
        ["'=p", "new", "", "2", ""],
        ["'=p", "vanished", "2", "", "-100.0"],
    ]
    assert (found["b"].lesion_changes, found["c"].lesion_changes.since) == (None, "b")
    assert (
        f"lesions: {folder / 'lesions.csv'}, {sum(len(case.lesions) for case in found.values())} objects of bright" in done.stdout
    )
    page, sheet, first = ((folder / name).read_text() for name in ("report.html", "sheets/c.html", "sheets/b.html"))
    assert ("what became of it" in page, "Since 2023-01-01" in sheet, "vanished" in sheet) == (True,) * 3
    assert ("Lesion</th>" in first, "Since" in first) == (True, False)
    assert {file.state for file in verify(folder) if file.path.name not in ("b.nii.gz", "c.nii.gz")} == {"intact"}
    aligned = CliRunner().invoke(app, ["report", str(folder), *options, "--align", "--no-sheets"])
    assert aligned.exit_code == 0
    (later,) = (case for case in read_json(folder / "volumes.json", Volumetry).cases if case.name == "c")
    assert any(note.startswith("not aligned with b, lesions are matched where the headers place them") for note in later.notes)
    wrong = CliRunner().invoke(app, ["report", str(folder), "--lesions", "brigth"])
    assert "give bright" in str(wrong.exception)


def test_no_label_map_is_read_once_more_for_the_next_visit(folder, tmp_path, monkeypatch):
    table, read = tmp_path / "visits.csv", list[str]()
    table.write_text("case,patient,date\nb,p,2023-01-01\nc,p,2024-01-01\n=a,p,2025-01-01\nbroken,q,2023-01-01\n")
    monkeypatch.setattr(
        "nnseg.volumetry.predicted.read_label_map", lambda file, **how: read.append(file.name) or read_label_map(file, **how)
    )
    report_predictions(folder)
    once = sorted(read)
    read.clear()
    assert len(report_predictions(folder, visits=table).changes) == 3  # b to c, c to =a, b to =a
    assert sorted(read) == once
    assert "Change since 2024-01-01" in (folder / "sheets" / "=a.html").read_text()


def test_the_default_population_is_that_of_the_model_kept_with_the_predictions(folder):
    others = make_population([Person(volumes={"bright": 0.01 * i}) for i in range(30)], "training set of d")
    record = read_json(folder / RECORD, Predictions).model_copy(update={"population": others})
    (folder / RECORD).write_text(record.model_dump_json())
    found = report_predictions(folder, sheets=False)
    assert found.population == "training set of d"
    assert all(c.labels["bright"].percentile.n == 30 for c in found.cases if not c.failed)


def test_volumes_of_people_of_no_age_are_no_population(tmp_path):
    labels = Labels(names=("background", "a"), values=(0, 1))
    case = {"name": "a", "patient": {"age": 200}, "labels": {"a": {"ml": 1}}}
    (tmp_path / "volumes.json").write_text(json.dumps({"names": ["a"], "cases": [case]}))
    with pytest.raises(RunError, match=r"volumes.json is damaged"):
        read_population(tmp_path / "volumes.json", labels)


def test_volumes_that_were_reported_are_a_population_for_others(folder):
    labels = read_record(folder)[1]
    with pytest.raises(DatasetError, match="holds predictions without volumes; run nnseg report"):
        read_population(folder, labels)
    report_predictions(folder, sheets=False)
    by_folder, by_file = (read_population(p, labels) for p in (folder, folder / "volumes.json"))
    assert by_folder == by_file
    assert by_folder.source == "3 scans in out"
    assert [p.volumes for p in read_population(folder / "volumes.csv", labels).people] == [p.volumes for p in by_folder.people]


def test_a_path_without_a_population_is_refused(folder, tmp_path):
    labels = read_record(folder)[1]
    for path, reason in (
        (tmp_path / "nothing", "there is no population"),
        (tmp_path / "scans", "has no volumes of its training set"),
    ):
        with pytest.raises(DatasetError, match=reason):
            read_population(path, labels)


def test_the_population_of_a_model_is_read(monkeypatch, folder, tmp_path):
    others = make_population([Person(volumes={"bright": 0.01 * i}) for i in range(30)], "training set of d")
    (tmp_path / "m.nnseg").touch()
    monkeypatch.setattr("nnseg.volumetry.population.load_model_file", lambda path: type("M", (), {"population": others}))
    assert read_population(tmp_path / "m.nnseg", read_record(folder)[1]) == others


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds neither a run nor predictions"):
        report_predictions(tmp_path)


@pytest.mark.parametrize("change", [{"format": 3}, {"labels": None}, {"cases": {"a": 1}}])
def test_a_record_of_another_version_is_refused(folder, change):
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | change))
    with pytest.raises(RunError, match="of another version of nnseg; run the same nnseg predict again"):
        report_predictions(folder)


def test_the_command_distinguishes_a_folder_of_predictions_from_a_run(folder, tmp_path):
    done = CliRunner().invoke(app, ["report", str(folder), "--no-sheets", "--workers", "1"])
    assert done.exit_code == 0
    assert "3 scans measured, 0 flagged, 1 failed" in done.stdout
    assert f"report: {folder / 'report.html'}" in done.stdout
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert "dataset.json is missing" in str(refused.exception)


def test_the_command_fails_if_a_label_map_cannot_be_read_any_more(folder):
    (folder / "b.nii.gz").write_bytes(b"damaged since")
    done = CliRunner().invoke(app, ["report", str(folder), "--no-sheets", "--workers", "1"])
    assert done.exit_code == 1
    assert "2 scans measured, 0 flagged, 2 failed" in done.stdout
    assert "1 failed, all others are done:\n  case b: " in done.stderr


def test_the_files_of_a_report_are_verified_with_the_predictions(folder):
    report_predictions(folder, sheets=False)
    assert {file.path.name: file.state for file in verify(folder)}.items() >= dict.fromkeys(REPORT_FILES, "intact").items()
    (folder / "volumes.csv").write_text("case\n")
    (folder / "report.html").unlink()
    (folder / "mine.csv").touch()
    states = {file.path.name: file.state for file in verify(folder)}
    assert [states[name] for name in (*REPORT_FILES, "mine.csv")] == ["damaged", "intact", "intact", "missing", "foreign"]
    for number in range(25):
        (folder / f"mine_{number}.csv").touch()
    said = CliRunner().invoke(app, ["verify", str(folder)]).stdout.splitlines()
    assert sum(line.startswith("foreign  /") for line in said) == 20 and "foreign  and 6 more" in said
    assert said[-1] == "1 damaged, 26 foreign, 6 intact, 1 missing"
