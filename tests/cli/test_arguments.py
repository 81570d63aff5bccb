"""Paths of the wrong kind, words of nnU-Net and files that are not written are refused before any work, with what to type."""

import os
import shutil

import numpy as np
import pytest
from ball_dataset import write_balls
from interop.nnunet.trained import plans_of, write_trained

from nnseg.cli.nnunet_words import translated
from nnseg.cli.options import check_empty
from nnseg.core.errors import NnsegError, RunError
from nnseg.storage.files import write_json, write_text
from nnseg.storage.path_kinds import EXPECTED, MISTAKES, SUFFIXES, check_path, check_suffix, kind_of
from nnseg.storage.run import Run


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """One thing of each kind."""
    place = tmp_path_factory.mktemp("things")
    write_balls(place / "dataset", cases=1)
    write_trained(place, plans_of())
    (place / "nnUNetTrainer__nnUNetPlans__3d_fullres").rename(place / "nnU-Net")
    (place / "empty").mkdir()
    (place / "folder").mkdir()
    shutil.copy(next((place / "dataset/imagesTr").iterdir()), place / "folder/scan.nii.gz")
    with Run(place / "begun").locked():
        shutil.copy(place / "dataset/dataset.json", place / "begun")
    run = Run(place / "run")
    run.path.mkdir()
    run.update_record(command="nnseg run")
    (run.path / "fold_0").mkdir()
    write_text(run.path / "fold_0/schedule.json", "{}")
    (place / "predictions").mkdir()
    write_json(place / "predictions/predictions.json", {"format": 4, "nnseg": "0", "cases": {}})
    write_json(place / "scores.json", {"labels": [], "metrics": [], "cases": [], "averages": {}})
    write_json(place / "summary.json", {"foreground_mean": {}, "mean": {}, "metric_per_case": []})
    (place / "damaged.nnseg").write_bytes(b"no model")
    np.save(place / "scan.npy", np.zeros(3))
    (place / "checkpoint_final.pth").write_bytes(b"PK")
    return place


KINDS = {
    "none": "nothing",
    "dataset": "a dataset",
    "nnU-Net": "a model of nnU-Net",
    "empty": "an empty folder",
    "folder": "a folder",
    "run": "a run of nnseg",
    "run/fold_0": "a part of a run",
    "predictions": "a folder of predictions",
    "scores.json": "a file of scores",
    "summary.json": "a file of scores",
    "damaged.nnseg": "a model of nnseg",
    "scan.npy": "a file",
    "checkpoint_final.pth": "a checkpoint of PyTorch",
}


def test_each_kind_of_thing_is_known_by_its_files(things):
    assert {name: kind_of(things / name) for name in KINDS} == KINDS


def test_a_run_that_ended_before_its_first_record_is_no_dataset(things):
    assert kind_of(things / "begun") == "a run of nnseg"


@pytest.mark.parametrize("role", EXPECTED)
def test_a_path_with_bytes_that_are_no_text_is_refused(tmp_path, role):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    for path in (folder, folder / "run"):
        with pytest.raises(EXPECTED[role][0], match=r"udcff.* has bytes in its path that are no text; expected a path in UTF-8"):
            check_path(path, role)
    with pytest.raises(RunError, match="no text"):
        check_suffix(folder / "scores.json", "scores")


@pytest.mark.parametrize("role", EXPECTED)
@pytest.mark.parametrize("name", KINDS)
def test_a_path_of_the_wrong_kind_is_refused_with_what_to_do(things, role, name):
    path = things / name
    advice = MISTAKES[role].get(KINDS[name])
    if advice is None:
        assert check_path(path, role) == KINDS[name]
        return
    error, expected = EXPECTED[role]
    with pytest.raises(error) as refused:
        check_path(path, role)
    assert str(refused.value).startswith(f"{path}: ")
    assert str(refused.value).endswith(f"expected {expected}; {advice}")


@pytest.mark.parametrize(
    ("role", "fitting"),
    [
        ("dataset", {"dataset", "folder"}),
        ("new run", {"none", "empty", "run", "folder"}),
        ("run", {"run"}),
        ("scans", {"dataset", "folder", "scan.npy"}),
        ("model", {"run", "damaged.nnseg"}),
        ("output folder", {"none", "empty", "folder", "predictions"}),
        ("predictions", {"dataset", "folder", "predictions", "run/fold_0"}),
        ("references", {"dataset", "folder", "predictions"}),
        ("scores", {"run", "run/fold_0", "scores.json", "summary.json", "folder", "nnU-Net", "scan.npy"}),
        ("report", {"run", "predictions"}),
    ],
)
def test_what_may_fit_is_left_to_the_command(things, role, fitting):
    assert {name for name in KINDS if KINDS[name] not in MISTAKES[role]} == fitting


@pytest.mark.parametrize("kind", SUFFIXES)
def test_files_are_written_only_under_the_suffixes_of_their_format(tmp_path, kind):
    for suffix in SUFFIXES[kind]:
        check_suffix(tmp_path / f"a{suffix.upper()}", kind)
    with pytest.raises(NnsegError, match=rf"cannot be written as \.onnx.* write a{SUFFIXES[kind][0]}"):
        check_suffix(tmp_path / "a.onnx", kind)
    with pytest.raises(
        NnsegError, match=rf"as a file without suffix; expected {' or '.join(SUFFIXES[kind])}; write a{SUFFIXES[kind][0]}"
    ):
        check_suffix(tmp_path / "a", kind)


@pytest.mark.parametrize(
    ("words", "named"), [(["check", ""], "an argument is empty"), (["predict", "a", "b", "--model", ""], "an argument of --model")]
)
def test_an_empty_word_is_not_the_current_folder(words, named):
    with pytest.raises(NnsegError, match=named):
        check_empty(words)
    check_empty(["evaluate", "a", "b", "--tolerances", ""])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train RUN -f 0", "train RUN --folds 0"),
        ("train RUN -device cuda", "train RUN --device cuda"),
        ("predict A B --model M --disable_tta", "predict A B --model M --no-mirror"),
        ("predict A B --model M --save_probabilities -step_size 0.5", "predict A B --model M --probabilities --step 0.5"),
        ("run D R -c 3d_fullres", "run D R --plans 3d_fullres"),
        ("train RUN --folds all", "train RUN --folds all"),
        ("evaluate P R -o s.json", "evaluate P R --out s.json"),
        ("", ""),
        ("--help", "--help"),
    ],
)
def test_words_of_nnunet_that_mean_the_same_are_taken(typed, meant):
    assert translated(typed.split()) == meant.split()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("train RUN -f all", "trains one network on all cases"),
        ("train 4 3d_fullres 0", "nnseg train RUN --folds 0"),
        ("predict -i A -o B", "nnseg predict SCANS OUT --model MODEL"),
        ("predict A B -d 4", "datasets have no numbers"),
        ("predict A B --model M -chk checkpoint_best.pth", "RUN/fold_0/best.nnseg"),
        ("train RUN --npz", "chooses among plans"),
        ("plan_and_preprocess -d 4", "nnseg run DATASET RUN"),
        ("nnUNetv2_find_best_configuration 4", "--plans all"),
        ("nnUNetv2_train 4 3d_fullres 0", "nnseg train RUN --folds 0"),
    ],
)
def test_words_of_nnunet_that_mean_something_else_are_answered(typed, answer):
    with pytest.raises(NnsegError) as refused:
        translated(typed.split())
    assert answer in str(refused.value)
