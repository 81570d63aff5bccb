"""Names in data choose neither where is written nor what is deleted, and what nnseg did not make is not overwritten."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from warm import hashes, nnseg

pytestmark = pytest.mark.slow

LONG = ("脳" * 30, "Ü" * 100, "b" * 200, "=1+1 <b>|`x`", "a.b", ".hidden")
"""Names that files can have."""


@contextmanager
def _nothing_changes_but(*allowed: Path, root: Path) -> Iterator[None]:
    """Every file below a root stays, and none appears, but at or below the given paths."""

    def kept() -> dict[str, str]:
        return {path: found for path, found in hashes(root).items() if not {root / path, *(root / path).parents} & set(allowed)}

    before = kept()
    yield
    assert kept() == before


def _write_dataset(source: Path, folder: Path, names: Mapping[str, int]) -> None:
    """A copy of the dataset of balls whose cases have other names, in nnU-Net's table of files."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "dataset.json").read_text())
    entries = content.pop("training")
    files = {name: {"images": [entries[i]["image"]], "label": entries[i]["label"]} for name, i in names.items()}
    (folder / "dataset.json").write_text(json.dumps(content | {"dataset": files, "name": "../../x", "labels": {"../ball": 1}}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ball_dataset: Path, tiny_recipe: Path) -> Path:
    """A dataset with legal and with hostile names, its finished run, and files of others around them; not to be changed."""
    root = tmp_path_factory.mktemp("places") / "a" / "b" / "c"
    root.mkdir(parents=True)
    top = root.parents[2]
    for folder in (root, *list(root.parents)[:3]):
        (folder / "victim.txt").write_text("of another")
    hostile = ("../victim.txt", "../../../victim", f"{top}/victim", "..\\victim", "x\x1b[2J")
    _write_dataset(ball_dataset, root / "data", {name: i % 6 for i, name in enumerate((*LONG, *hostile))})
    with _nothing_changes_but(root / "run", root=top):
        options = ("--recipe", tiny_recipe, "--device", "cpu", "--workers", 1, "--no-probe", "--folds", "0,1", "--skip-bad")
        done = nnseg("run", root / "data", root / "run", *options, check=1)  # five cases cannot be used
    assert f"{len(hostile)} failed, all others are done" in done.stderr
    assert "6 cases" in done.stderr
    return root


def test_a_run_writes_into_its_folder_whatever_its_cases_are_called(root: Path) -> None:
    run = root / "run"
    assert len(list((run / "cases").glob("*.case"))) == len(LONG)
    predicted = {path.name for path in run.glob("fold_*/predictions/*.nii.gz")}
    held_out = [name for fold in json.loads((run / "folds.json").read_text())[:2] for name in fold["held_out"]]
    assert predicted == {f"{name}.nii.gz" for name in held_out}
    assert len(json.loads((run / "scores.json").read_text())["cases"]) == len(held_out)
    assert (run / "report.html").exists()
    assert len(list((run / "shown").glob("*_uncertainty.nii.gz"))) == len(held_out)


def test_commands_write_where_they_are_told_whatever_the_scans_are_called(root: Path, tmp_path: Path) -> None:
    """Scans with long and with hostile names; a record that names files outside of its folder; then all that reads the results."""
    work = tmp_path / "x" / "y"
    scans, out = work / "scans", work / "out"
    for folder in (scans, out):
        folder.mkdir(parents=True)
    (tmp_path / "victim.txt").write_text("of another")
    (work / "victim.txt").write_text("of another")
    images = sorted((root / "data" / "imagesTr").iterdir())
    for image, name in zip(images, ("脳" * 30, "b" * 200, "c" * 230, "x\x1b[2J", "a\\..\\b", os.fsdecode(b"\xff")), strict=True):
        shutil.copy(image, scans / f"{name}.nii.gz")
    record = {"status": "done", "file": "../victim.txt", "more": {"../../victim.txt": "h", f"{tmp_path}/victim.txt": "h"}}
    (out / "predictions.json").write_text(
        json.dumps({"format": 4, "nnseg": "0", "cases": {"脳" * 30: record, "../victim": record}}, indent=1)
    )
    with _nothing_changes_but(out, root=tmp_path), _nothing_changes_but(root=root):
        done = nnseg("predict", scans, out, "--model", root / "run", "--device", "cpu", "--uncertainty", check=1)
    assert "3 of 3 scans predicted" in done.stdout
    assert done.stdout.count("not used: its name has control characters") == 1
    made = {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz") if "_uncertainty" not in path.name}
    (short,) = made - {"脳" * 30, "b" * 200}
    assert short.startswith("c" * 183 + "~")
    with _nothing_changes_but(out, root=tmp_path):
        nnseg("report", out)
    with _nothing_changes_but(root / "run" / "figures", root / "run" / "manifest.jsonl", root=root):
        nnseg("figure", root / "run", "--what", "scores")
    with _nothing_changes_but(*(work / name for name in ("m.nnseg", "m.md", "m.json", "p.png")), root=tmp_path):
        nnseg("export", root / "run", work / "m.nnseg")
        nnseg("card", work / "m.nnseg")
        nnseg("report", root / "run", "--picture", work / "p.png")


OUTPUTS = [
    (("export", "RUN", "FILE"), ".nnseg"),
    (("evaluate", "REFS", "REFS", "--tolerances", "none", "--out", "FILE"), ".json"),
    (("evaluate", "REFS", "REFS", "--tolerances", "none", "--out", "FILE"), ".csv"),
    (("evaluate", "REFS", "REFS", "--tolerances", "none", "--format", "nnunet", "--out", "FILE"), ".json"),
    (("compare", "RUN", "RUN/scores.json", "--out", "FILE"), ".json"),
    (("report", "RUN", "--picture", "FILE"), ".png"),
]


@pytest.mark.parametrize(("command", "suffix"), OUTPUTS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_file_is_overwritten_if_nnseg_made_it_or_by_force(
    root: Path, tmp_path: Path, command: tuple[str, ...], suffix: str
) -> None:
    file = tmp_path / f"result{suffix}"
    names = {"RUN": root / "run", "REFS": root / "data" / "labelsTr", "FILE": file, "RUN/scores.json": root / "run" / "scores.json"}
    arguments = [names.get(part, part) for part in command]
    shutil.copy(root / "data" / "imagesTr" / "ball_00.nii.gz", file)
    with _nothing_changes_but(root=tmp_path):
        assert "overwrite it with --force" in nnseg(*arguments, check=2).stderr
    nnseg(*arguments, "--force")
    made = file.read_bytes()
    nnseg(*arguments)
    assert suffix == ".nnseg" or file.read_bytes() == made
    if suffix == ".nnseg":
        (tmp_path / "result.md").write_text("notes of my own")
        assert "model card" in nnseg(*arguments, check=2).stderr


def test_figures_and_reports_do_not_overwrite_what_others_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.pdf").write_bytes(b"%PDF-1.4 a paper")
    assert "scores.pdf" in nnseg("figure", root / "run", "--out", tmp_path, check=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scores.pdf"]
    nnseg("figure", root / "run", "--out", tmp_path, "--force")
    nnseg("figure", root / "run", "--out", tmp_path)
    out = tmp_path / "out"
    nnseg("predict", root / "data" / "imagesTr" / "ball_00.nii.gz", out, "--model", root / "run", "--device", "cpu")
    (out / "volumes.csv").write_text("case,ml of another program\n")
    assert "volumes.csv" in nnseg("report", out, check=2).stderr
    nnseg("report", out, "--force")
    nnseg("report", out)


def test_label_maps_of_others_are_not_overwritten(root: Path, tmp_path: Path) -> None:
    out, scan = tmp_path / "out", root / "data" / "imagesTr" / "ball_00.nii.gz"
    command = ("predict", scan.parent, out, "--model", root / "run", "--device", "cpu")
    nnseg("predict", scan, *command[2:])
    shutil.copy(scan, out / "ball_01.nii.gz")  # as if corrected by hand
    with _nothing_changes_but(out / "predictions.json", root=out):
        assert "ball_01.nii.gz: is there already" in nnseg(*command, check=2).stderr
    nnseg(*command, "--force")
    assert (out / "ball_01.nii.gz").read_bytes() != scan.read_bytes()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "predictions.json").write_text('{"annotations": []}')
    assert "record of predictions" in nnseg("predict", scan, tmp_path / "foreign", *command[3:], check=2).stderr
