"""The whole product, end to end, through its own command line."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from warm import nnseg

from nnseg import load


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ball_dataset: Path, tiny_recipe: Path) -> tuple[Path, Path]:
    """A dataset and its finished run with all folds."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = nnseg("run", ball_dataset, run, "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1)
    (run.parent / "terminal.txt").write_text(done.stderr + done.stdout)
    return ball_dataset, run


@pytest.fixture(scope="module")
def of_two_folds(tmp_path_factory: pytest.TempPathFactory, ball_dataset: Path, tiny_recipe: Path) -> Path:
    """A run with two folds, without a probe; not to be changed."""
    run = tmp_path_factory.mktemp("folds") / "run"
    options = ("--no-probe", "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1, "--folds", "0,1")
    nnseg("run", ball_dataset, run, *options)
    return run


@pytest.fixture
def copied(ball_dataset: Path, of_two_folds: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the dataset and of the run with two folds, to be changed."""
    shutil.copytree(ball_dataset, tmp_path / "balls")
    shutil.copytree(of_two_folds, tmp_path / "run")
    return tmp_path / "balls", tmp_path / "run"


@pytest.fixture
def probed(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run that has nothing but a probe."""
    (tmp_path / "run").mkdir()
    for name in ("run.json", "probe.json"):
        shutil.copy(finished[1] / name, tmp_path / "run")
    return tmp_path / "run"


def test_run_leaves_a_folder_that_a_person_can_read(finished: tuple[Path, Path]) -> None:
    _, run = finished
    for name in ("plan.toml", "fingerprint.json", "folds.json", "scores.json", "report.html", "run.json"):
        assert (run / name).stat().st_size > 100, name
    for fold in range(5):
        lines = (run / f"fold_{fold}" / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [4, 8, 12]
        losses = [json.loads(line)["losses"] for line in lines]
        assert [len(of_epoch) for of_epoch in losses] == [4, 4, 4]
        assert json.loads(lines[0])["loss"] == pytest.approx(sum(losses[0]) / 4, rel=1e-4)
    scores = json.loads((run / "scores.json").read_text())
    assert len(scores["cases"]) == 6
    assert set(scores["averages"]) == {"per_mask", "per_image", "pooled"}


def test_the_same_run_again_changes_no_file(finished: tuple[Path, Path], tiny_recipe: Path) -> None:
    dataset, run = finished
    kept = [
        p
        for p in run.rglob("*")
        if (p.is_file() and (p.suffix in {".safetensors", ".toml", ".gz"} or p.name == "history.jsonl")) or "cases" in p.parts
    ]
    before = {p: p.stat().st_mtime_ns for p in kept}
    nnseg("run", dataset, run, "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_the_verdict_and_the_next_command_are_the_same_on_the_terminal_in_the_report_and_on_the_card(
    finished: tuple[Path, Path],
) -> None:
    _, run = finished
    terminal = (run.parent / "terminal.txt").read_text()
    assert "12 steps of training are few; a useful model needs about 250: --steps 250" in terminal  # before it starts
    words, steps = " ".join(terminal.split()), "12 steps of training are few;"
    shown = re.search(r"verdict: (.+?) next: (.+?): (nnseg train \S+ --more \w+)$", words)
    assert shown and steps in shown[1]
    page, card = (unescape((run / name).read_text()) for name in ("report.html", "model.md"))
    box = re.search(r'<div class="box verdict.*?</div>', page, re.DOTALL)
    assert box
    assert " ".join(re.sub("<.*?>", " ", box[0]).split()) == f"{shown[1]} {shown[2]}: {shown[3].replace(str(run), run.name)}"
    assert f"{shown[2]}: `{shown[3].replace(str(run), 'RUN')}`" in card
    assert shown[1] == card.split("\n")[2].replace("*", "")


def test_terminal_report_and_card_give_the_same_numbers(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = finished
    terminal = (run.parent / "terminal.txt").read_text()
    page, card = (unescape((run / name).read_text()) for name in ("report.html", "model.md"))
    plain = " ".join(re.sub("<.*?>", " ", re.sub("<(style|script).*?</\\1>", "", page, flags=re.DOTALL)).split())
    monkeypatch.setenv("COLUMNS", "200")
    scores = nnseg("evaluate", run).stdout
    rows = dict(re.findall(r"^ ?([A-Z].*?)  +(\S.*?) *$", scores.split("bootstrap interval)")[1], re.MULTILINE))
    dice = rows["Dice"].split("  ")[0].replace("(", "(95 % interval ")
    assert f"mean Dice {dice}" in " ".join(terminal.split())
    assert len(rows) == 10
    for name, row in rows.items():  # terminal: "0.522 (0.1 to 0.9)"; card: "0.522 [0.1, 0.9]"; report: "0.522 0.1 to 0.9"
        cells = [cell.strip() for cell in re.split("  +", row)]
        in_card = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        expected = [re.sub(r" \((\S+) to (\S+)\)", r" [\1, \2]", cell).replace("-", "\N{EN DASH}", cell == "-") for cell in cells]
        assert in_card == f"| {name} | {' | '.join(expected)} |"
        per_mask, per_image, pooled = (
            cell.replace("(", "").replace(")", "").replace("-", "\N{EN DASH}", cell == "-") for cell in cells
        )
        assert f"{per_image} {per_mask} {pooled}" in plain, name
    trained = re.findall(r"fold \d: trained, (\d+) steps", terminal)
    assert trained == ["12"] * 5
    assert "is trained" not in card + plain
    assert "was trained for 12 steps (planned: 12 steps)" in card
    assert "was trained for 12 steps (planned: 12 steps)" in plain
    assert "scores of 6 cases" in terminal
    assert "Cross-validation: 6 cases" in card
    assert "On 6 held-out cases" in plain


def test_predict_writes_each_label_map_on_its_scans_grid(finished: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, run = finished
    exported = tmp_path / "model.nnseg"
    nnseg("export", run, exported)
    nnseg("predict", dataset / "imagesTr", tmp_path / "from_run", "--model", run, "--device", "cpu")
    nnseg("predict", dataset / "imagesTr", tmp_path / "from_file", "--model", exported, "--device", "cpu")
    for scan in sorted((dataset / "imagesTr").iterdir()):
        here, there = nib.load(tmp_path / "from_run" / scan.name), nib.load(tmp_path / "from_file" / scan.name)
        np.testing.assert_array_equal(np.asarray(here.dataobj), np.asarray(there.dataobj))
        np.testing.assert_array_equal(here.affine, nib.load(scan).affine)
        assert here.shape == nib.load(scan).shape


def test_a_bad_scan_costs_no_other_and_is_named(finished: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, run = finished
    scans = tmp_path / "scans"
    shutil.copytree(dataset / "imagesTr", scans)
    (scans / "ball_01.nii.gz").write_bytes((scans / "ball_01.nii.gz").read_bytes()[:500])
    done = nnseg("predict", scans, tmp_path / "out", "--model", run, "--folds", 0, "--device", "cpu", check=1)
    assert "ball_01" in done.stderr
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 5
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]["ball_01"]["status"] == "failed"


def test_predicting_again_redoes_only_what_is_missing_or_damaged(finished: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, run = finished
    command = ("predict", dataset / "imagesTr", tmp_path / "out", "--model", run, "--folds", 0, "--device", "cpu")
    nnseg(*command)
    first, second, third = sorted((tmp_path / "out").glob("*.nii.gz"))[:3]
    whole, untouched = second.read_bytes(), third.stat().st_mtime_ns
    first.unlink()
    second.write_bytes(whole[:50])
    nnseg(*command)
    assert first.exists()
    assert second.read_bytes() == whole
    assert third.stat().st_mtime_ns == untouched


def test_evaluate_prints_the_scores_of_the_run(finished: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, run = finished
    together = tmp_path / "predictions"
    together.mkdir()
    for label_map in run.glob("fold_*/predictions/*.nii.gz"):
        shutil.copy(label_map, together)
    done = nnseg("evaluate", together, dataset / "labelsTr", "--out", tmp_path / "scores.json", "--run", run)
    ours, runs = json.loads((tmp_path / "scores.json").read_text()), json.loads((run / "scores.json").read_text())
    assert ours["averages"]["pooled"]["dice"]["mean"] == pytest.approx(runs["averages"]["pooled"]["dice"]["mean"])
    assert "pooled" in done.stdout
    assert "ball Dice" in done.stdout


def test_a_bad_case_costs_the_run_no_other(finished: tuple[Path, Path], tiny_recipe: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "balls"
    shutil.copytree(finished[0], dataset)
    (dataset / "labelsTr" / "ball_03.nii.gz").unlink()
    (dataset / "imagesTr" / "ball_04.nii.gz").write_bytes(b"")
    command = ("run", dataset, tmp_path / "run", "--no-probe", "--recipe", tiny_recipe, "--folds", 0, "--device", "cpu")
    refused = nnseg(*command, check=2).stderr.splitlines()[-1]
    assert "2 of 6 cases cannot be used (cases ball_03, ball_04), and 5% may be left out; case ball_0" in refused
    assert "--skip-bad" in refused
    assert not list((tmp_path / "run").rglob("*.case"))
    done = nnseg(*command, "--skip-bad", check=1)
    assert "without 2 cases of the dataset that cannot be used: ball_03, ball_04" in (tmp_path / "run" / "model.md").read_text()
    assert "ball_03" in done.stderr
    assert "ball_04" in done.stderr
    names = {n for f in json.loads((tmp_path / "run" / "folds.json").read_text()) for n in (*f["training"], *f["held_out"])}
    assert names == {"ball_00", "ball_01", "ball_02", "ball_05"}


def test_a_changed_label_map_redoes_only_what_depends_on_it(copied: tuple[Path, Path], tiny_recipe: Path) -> None:
    dataset, run = copied
    command = ("run", dataset, run, "--no-probe", "--recipe", tiny_recipe, "--folds", 0, "--device", "cpu", "--workers", 1)
    cases = {p: p.stat().st_mtime_ns for p in (run / "cases").rglob("*") if p.is_file()}
    shutil.copy(dataset / "labelsTr" / "ball_00.nii.gz", dataset / "labelsTr" / "ball_01.nii.gz")
    nnseg(*command)
    changed = {p.relative_to(run / "cases").as_posix() for p, time in cases.items() if p.stat().st_mtime_ns != time}
    assert changed
    assert all("ball_01" in name for name in changed)
    assert len(list(run.glob("replaced_*_fold_0"))) == 1


def test_2d_and_3d_plans_are_ensembled(finished: tuple[Path, Path], tiny_recipe: Path, tmp_path: Path) -> None:
    dataset, _ = finished
    run = tmp_path / "run"
    nnseg("run", dataset, run, "--no-probe", "--recipe", tiny_recipe, "--plans", "2d,3d", "--folds", 0, "--device", "cpu")
    for place in (run / "2d", run / "3d", run / "ensembles" / "2d+3d"):
        assert len(list((place / "fold_0" / "predictions").glob("*.nii.gz"))) == 2
    for place in (run, run / "2d", run / "3d"):
        assert (place / "scores.json").exists()
    assert json.loads((run / "choice.json").read_text())["cases"] == 2
    assert "# Model card: Balls" in nnseg("card", run / "model.nnseg").stdout
    nnseg("predict", dataset / "imagesTr" / "ball_00.nii.gz", tmp_path / "out", "--model", run, "--device", "cpu")
    assert (tmp_path / "out" / "ball_00.nii.gz").exists()


def test_steps_that_fit_the_budget_are_in_the_plan_and_begun_with(ball_dataset: Path, tiny_recipe: Path, probed: Path) -> None:
    run = probed
    command = ("run", ball_dataset, run, "--recipe", tiny_recipe, "--folds", 0, "--device", "cpu", "--budget", "2s")
    nnseg(*command)
    plan, probe = (run / "plan.toml").read_bytes(), (run / "probe.json").read_bytes()
    steps = tomllib.loads(plan.decode())["training"]["steps"]
    assert steps > 0
    assert json.loads((run / "fold_0" / "schedule.json").read_text())["course"]["legs"][0]["end"] == steps
    nnseg(*command)
    assert ((run / "plan.toml").read_bytes(), (run / "probe.json").read_bytes()) == (plan, probe)


def test_a_plan_can_be_made_from_a_fingerprint_alone(finished: tuple[Path, Path], tiny_recipe: Path, tmp_path: Path) -> None:
    _, run = finished
    done = nnseg("plan", run / "fingerprint.json", tmp_path / "again", "--recipe", tiny_recipe, "--device", "cpu", "--no-probe")
    assert "times are unknown without a probe" in done.stdout
    one, other = (tomllib.loads((folder / "plan.toml").read_text()) for folder in (run, tmp_path / "again"))
    assert (one["patch"], one["network"], one["preprocessing"]) == (other["patch"], other["network"], other["preprocessing"])


def test_what_cannot_be_trained_is_refused_before_it_starts(finished: tuple[Path, Path], tiny_recipe: Path, tmp_path: Path) -> None:
    dataset, run = finished[0], tmp_path / "run"
    shutil.copytree(finished[1], run)
    command = ("run", dataset, run, "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1)
    assert "GB of memory, and 0.1 GB may be used" in nnseg(*command, "--memory", 0.1, check=2).stderr
    text = (run / "plan.toml").read_text()
    (run / "plan.toml").write_text(re.sub(r"^batch_size = \d+", "batch_size = 1000000", text, flags=re.MULTILINE))
    assert "GB of RAM to train" in nnseg(*command, check=2).stderr
    assert not list(run.glob("replaced_*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "nowhere", "RUN"), "nowhere"),
        (("train", "nowhere"), "nnseg plan"),
        (("predict", "nowhere", "OUT", "--model", "nothing.nnseg"), "nothing.nnseg"),
        (("run", "DATA", "RUN", "--budget", "soon"), "soon"),
        (("run", "DATA", "RUN", "--recipe", "nonet"), "nnunet"),
        (("run", "DATA", "RUN", "--folds", "9"), "folds 0 to 4"),
        (("run", "DATA", "/proc/nnseg/run"), "/proc/nnseg/run"),
    ],
)
def test_what_the_user_must_mend_is_one_line_and_exit_code_2(
    finished: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    names = {"DATA": str(finished[0]), "RUN": str(tmp_path / "run"), "OUT": str(tmp_path / "out")}
    done = nnseg(*(names.get(a, a) for a in arguments), check=2)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nnseg: ")
    assert words in last
    assert "Traceback" not in done.stderr


def test_a_second_process_is_refused_while_one_works_in_the_run(finished: tuple[Path, Path]) -> None:
    from nnseg.storage.run import Run

    with Run(finished[1]).locked():
        done = nnseg("train", finished[1], check=2)
    assert "another nnseg" in done.stderr


def test_plan_loads_no_torch(finished: tuple[Path, Path], probed: Path, tiny_recipe: Path) -> None:
    program = (
        "import sys; from nnseg import cli; sys.argv = ['nnseg', 'plan', *sys.argv[1:]]\n"
        "try: cli.main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules"
    )
    before = (probed / "probe.json").read_bytes()
    command = [sys.executable, "-c", program, finished[0], probed, "--recipe", tiny_recipe, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "why" in (probed / "plan.toml").read_text()
    assert (probed / "probe.json").read_bytes() == before


def test_the_dataset_and_references_are_never_written_to(finished: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = tmp_path / "balls"
    shutil.copytree(finished[0], dataset)
    before = {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
    assert "lies in the dataset" in nnseg("run", dataset, dataset, check=2).stderr
    assert "lies in the dataset" in nnseg("run", dataset, dataset / "run", check=2).stderr
    predict = ("predict", dataset / "imagesTr", dataset / "labelsTr", "--model", finished[1])
    assert "did not make" in nnseg(*predict, check=2).stderr
    assert {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()} == before


def test_only_folds_that_are_up_to_date_are_scored(copied: tuple[Path, Path], tiny_recipe: Path) -> None:
    dataset, run = copied
    assert len(json.loads((run / "scores.json").read_text())["cases"]) == 3
    shutil.copy(dataset / "labelsTr" / "ball_00.nii.gz", dataset / "labelsTr" / "ball_01.nii.gz")
    nnseg("run", dataset, run, "--no-probe", "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1, "--folds", 0)
    held_out = json.loads((run / "folds.json").read_text())[0]["held_out"]
    assert [case["name"] for case in json.loads((run / "scores.json").read_text())["cases"]] == held_out


def test_plan_edit_run_follows_the_edit_and_keeps_it(finished: tuple[Path, Path], tiny_recipe: Path, tmp_path: Path) -> None:
    run, options = tmp_path / "run", ("--no-probe", "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1)
    nnseg("plan", finished[0], run, *options)
    edited = (run / "plan.toml").read_text().replace("steps = 12", "steps = 8", 1)
    (run / "plan.toml").write_text(edited)
    nnseg("run", finished[0], run, *options, "--folds", 0)
    assert (run / "plan.toml").read_text() == edited
    assert len((run / "fold_0" / "history.jsonl").read_text().splitlines()) == 2
    refused = nnseg("run", finished[0], run, "--no-probe", *options[3:], "--recipe", "nnunet", "--folds", 0, check=2)
    assert "edited by hand" in refused.stderr
    (run / "plan.toml").write_text(edited.replace("steps = 8", "steps = 9", 1))
    assert "a plan that differs" in nnseg("export", run, tmp_path / "model.nnseg", check=2).stderr


def test_work_set_aside_is_taken_back_when_it_fits_again(copied: tuple[Path, Path], tiny_recipe: Path) -> None:
    dataset, run = copied
    command = ("--no-probe", "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1, "--folds", 0)
    first = (run / "fold_0" / "model.nnseg").read_bytes()
    nnseg("run", dataset, run, *command, "--seed", 5)
    assert (run / "fold_0" / "model.nnseg").read_bytes() != first
    nnseg("run", dataset, run, *command)
    assert (run / "fold_0" / "model.nnseg").read_bytes() == first


def test_damaged_files_of_ours_are_made_again(copied: tuple[Path, Path], tiny_recipe: Path) -> None:
    dataset, run = copied
    command = ("--no-probe", "--recipe", tiny_recipe, "--device", "cpu", "--workers", 1, "--folds", 0)
    model, history = run / "fold_0" / "model.nnseg", run / "fold_0" / "history.jsonl"
    whole = model.read_bytes()
    model.write_bytes(whole[:1000])
    history.write_bytes(history.read_bytes()[:30])
    (run / "scores.json").write_text("{")
    nnseg("run", dataset, run, *command)
    assert model.read_bytes() == whole
    assert json.loads((run / "scores.json").read_text())["cases"]


def test_folds_that_leak_are_refused(finished: tuple[Path, Path], tiny_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    nnseg("plan", finished[0], run, "--no-probe", "--recipe", tiny_recipe)
    folds = json.loads((run / "folds.json").read_text())
    folds[0]["training"].append(folds[0]["held_out"][0])
    (run / "folds.json").write_text(json.dumps(folds))
    assert folds[0]["held_out"][0] in nnseg("run", finished[0], run, "--no-probe", "--recipe", tiny_recipe, check=2).stderr


def test_a_scan_is_predicted_from_python_as_the_readme_says(finished: tuple[Path, Path], tmp_path: Path) -> None:
    found = load(str(finished[1]), device="cpu").predict(str(finished[0] / "imagesTr" / "ball_00.nii.gz"))
    found.save(str(tmp_path / "label_map.nii.gz"))
    nnseg("predict", finished[0] / "imagesTr" / "ball_00.nii.gz", tmp_path / "out", "--model", finished[1], "--device", "cpu")
    ours, theirs = (nib.load(p) for p in (tmp_path / "label_map.nii.gz", tmp_path / "out" / "ball_00.nii.gz"))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
