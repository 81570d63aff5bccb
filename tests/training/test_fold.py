"""Trainings end when asked to, go on where they were, and come to the same weights however often they are killed."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from warm import nnseg, started

from nnseg.commands.train import train as train_run
from nnseg.core.errors import NnsegError
from nnseg.core.image import PreprocessedCase
from nnseg.core.options import Options
from nnseg.core.plan import Training
from nnseg.core.schedule import Course, Schedule
from nnseg.crossval.predict import predict_with_plans
from nnseg.network.bundle import load_model_file
from nnseg.network.checkpoint import load_tensors
from nnseg.storage.cases import CaseStore
from nnseg.storage.files import read_json, write_json
from nnseg.storage.plan_folder import FoldFolder
from nnseg.storage.run import Run
from nnseg.system.stop import StopRequest
from nnseg.training.context import TrainingContext
from nnseg.training.fold import TrainingRequest, _FoldTraining

train = partial(train_run, predict=predict_with_plans)


@pytest.fixture(scope="module")
def prepared(ball_dataset, tiny_recipe, tmp_path_factory):
    """A run that is planned and preprocessed; not to be changed, copy it."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    nnseg("plan", ball_dataset, folder, "--recipe", tiny_recipe, "--no-probe", "--device", "cpu")
    nnseg("preprocess", folder)
    plan = folder / "plan.toml"  # other arithmetic may be chosen in another process, and rounds what is to be compared
    plan.write_text(plan.read_text().replace('precision = "auto"', 'precision = "float32"'))
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """A run of which the first fold is trained with 60 steps; not to be changed."""
    run = Run(Path(shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / "run")))
    train(run.path, options(steps=60))
    return run


@pytest.fixture
def run(prepared, tmp_path):
    return Run(Path(shutil.copytree(prepared, tmp_path / "run")))


def options(**changes):
    return Options(**{"folds": (0,), "device": "cpu", "workers": 1, **changes})


def fold(run) -> FoldFolder:
    return run.plans[0].fold(0)


def schedule(run) -> Schedule:
    return read_json(fold(run).schedule_file, Schedule)


def weights(run):
    return fold(run).model_file.read_bytes()


def steps_done(run):
    return fold(run).history()[-1].step


def test_steps_and_epochs_fix_the_work(run):
    train(run.path, options(steps=7))
    assert (schedule(run).ended, steps_done(run)) == (7, 7)
    shutil.rmtree(fold(run).path)
    train(run.path, options(epochs=2))
    assert (schedule(run).ended, steps_done(run)) == (8, 8)


def test_two_lengths_at_once_are_refused():
    with pytest.raises(NnsegError, match="--budget and --epochs both set the length"):
        options(budget=5.0, epochs=2)


def test_a_budget_steers_the_course_and_what_it_decides_is_on_file(run):
    train(run.path, options(budget=3.0))
    done = schedule(run)
    assert done.seconds == 3.0
    assert done.ended == done.steps == steps_done(run)
    assert fold(run).history()[-1].learning_rate < 1e-4


def test_a_finished_training_is_continued_when_more_is_asked_for(run):
    train(run.path, options())
    first = weights(run)
    train(run.path, options())
    assert weights(run) == first
    train(run.path, options(more=1.0))
    more = schedule(run)
    assert len(more.course.legs) > 1
    assert more.ended == more.steps > 12
    assert weights(run) != first
    assert [e.step for e in fold(run).history()][:3] == [4, 8, 12]


def test_a_file_ends_a_training_for_good_and_is_removed(run):
    run.stop_file.touch()  # an old one ends nothing
    train(run.path, options(steps=4))
    assert (schedule(run).ended, run.stop_file.exists()) == (4, False)
    shutil.rmtree(fold(run).path)

    def ask():
        while not fold(run).history_file.exists():
            time.sleep(0.01)
        run.stop_file.touch()

    asking = threading.Thread(target=ask)
    asking.start()
    train(run.path, options(steps=1000))
    asking.join()
    assert not run.stop_file.exists()
    assert 0 < schedule(run).ended < 1000
    load_model_file(fold(run).model_file)
    before = weights(run)
    train(run.path, options(steps=1000))
    assert weights(run) == before
    fold(run).model_file.unlink()  # lost, it is made again as it was
    train(run.path, options(steps=1000))
    assert weights(run) == before
    train(run.path, options(more=0.5))  # and goes on if that is wanted after all
    assert weights(run) != before


def test_a_training_that_gets_no_better_is_annealed_early(run):
    plan = run.plans[0].plan_file
    plan.write_text(plan.read_text().replace("learning_rate = 0.003", "learning_rate = 1e-12"))
    train(run.path, options(steps=1000, patience=2))
    done = schedule(run)
    assert done.plateau is not None
    assert done.plateau < done.ended < 200
    assert fold(run).history()[-1].learning_rate < 1e-12


def test_the_last_two_checkpoints_and_the_best_weights_are_kept(run):
    train(run.path, options(checkpoint=0.0))
    calm, place = weights(run), fold(run)
    load_model_file(place.best_file)
    assert place.checkpoint_before_file.exists()
    before = place.checkpoint_before_file.read_bytes()
    place.checkpoint_file.write_bytes(place.checkpoint_file.read_bytes()[:-100])  # damaged: the one before is gone on from
    place.model_file.unlink()
    assert is_not_lost(run, before)
    train(run.path, options(checkpoint=0.0))
    assert weights(run) == calm


def is_not_lost(run, checkpoint):
    """Does a training that is killed before its first save leave the checkpoint that it went on from?"""
    context = TrainingContext(plan=run.plans[0].plan, fold=0, device=torch.device("cpu"), dtype=torch.float32)
    _FoldTraining(fold(run), context, schedule(run), TrainingRequest(options=options()), began=0.0)
    return not fold(run).checkpoint_file.exists() and fold(run).checkpoint_before_file.read_bytes() == checkpoint


def test_a_stalled_training_can_be_continued(run):
    plan = run.plans[0].plan_file
    plan.write_text(plan.read_text().replace("learning_rate = 0.003", "learning_rate = 1e-12"))
    train(run.path, options(steps=1000, patience=3))
    first = schedule(run)
    fold(run).schedule_file.write_text(first.model_copy(update={"seconds_per_step": 0.1}).model_dump_json())
    train(run.path, options(more=2.0))  # thought to be 20 steps: five epochs, of which the first three cannot stall it
    assert schedule(run).plateau is None or schedule(run).plateau >= first.ended + 16


def test_what_is_asked_for_too_late_is_said(run, caplog):
    train(run.path, options(steps=8, patience=30))
    caplog.clear()
    train(run.path, options(steps=8, patience=30))
    assert "has started already" not in caplog.text
    train(run.path, options(steps=9, patience=31, init=run.path))
    for words in ("the given length is ignored", "the given --patience is ignored", "the given --init is ignored"):
        assert words in caplog.text


def test_a_loss_that_is_no_number_leaves_what_was_saved(run):
    train(run.path, options(steps=8))
    saved = fold(run).checkpoint_file.read_bytes()
    unfinished = schedule(run).model_copy(update={"ended": None, "course": Course.of(40, Training(batch_size=2))})
    write_json(fold(run).schedule_file, unfinished)
    for case in (fold(run).path.parent / "cases").iterdir():  # gone bad after they were checked
        _spoil(case, np.nan)
    with pytest.raises(NnsegError, match=r"the (loss|gradient) is (nan|inf) at step \d+, on ball_\d\d from voxel"):
        train(run.path, options(checkpoint=0.0))
    assert fold(run).checkpoint_file.read_bytes() == saved


def in_float16(run):
    """The run in float16, with whole patches whose intensities stay as they are."""
    plan = run.plans[0].plan_file
    text = plan.read_text().replace('precision = "float32"', 'precision = "float16"').replace("growing = true", "growing = false")
    plan.write_text(re.sub(r"(_probability) = [\d.]+", r"\1 = 0.0", text))
    return run


BEYOND_THE_LIMIT = 1e6
"""Infinite in float16."""


def test_a_step_that_overflows_in_float16_is_repeated_in_float32_and_counted(run, caplog):
    place = fold(in_float16(run)).path.parent / "cases"
    for case in place.iterdir():
        _spoil(case, 0.0, BEYOND_THE_LIMIT)
    train(run.path, options(steps=2))
    assert caplog.text.count("the step is repeated in float32") == 2
    assert [epoch.repeated_steps for epoch in fold(run).history()] == [2]


def test_three_overflows_in_a_row_end_a_training_and_leave_what_was_saved(run):
    train(in_float16(run).path, options(steps=8))
    unfinished = schedule(run).model_copy(update={"ended": None, "course": Course.of(40, Training(batch_size=2))})
    write_json(fold(run).schedule_file, unfinished)
    for case in (fold(run).path.parent / "cases").iterdir():
        _spoil(case, 0.0, BEYOND_THE_LIMIT)
    with pytest.raises(NnsegError, match=r"in float16 at step 10, on ball_\d\d.* the steps from 8 on were not finite either"):
        train(run.path, options(checkpoint=0.0))
    tensors, about = load_tensors(fold(run).checkpoint_file)
    assert (about["step"], about["repeated_steps"]) == (10, [8, 9])
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def _spoil(path, value, highest=None):
    """Fill a preprocessed case's image with a value, and its middle voxel with another, its key as it was."""
    store = CaseStore(path.parent)
    case, key = store.read(path.stem), json.loads(zipfile.ZipFile(path).read("case.json"))["key"]
    image = np.full(case.image.shape, value, np.float32)
    if highest is not None:
        image[(slice(None), *(n // 2 for n in image.shape[1:]))] = highest
    corrupted = PreprocessedCase(name=path.stem, image=image, labels=np.asarray(case.labels, np.int16), placement=case.placement)
    store.write(corrupted, key)


def _written(path):
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.parametrize(("kills", "steps"), [(2, 80), pytest.param(20, 500, marks=pytest.mark.slow)])
def test_a_training_that_was_killed_comes_to_the_weights_of_an_undisturbed_one(prepared, tmp_path, kills, steps):
    calm, rough = (Run(Path(shutil.copytree(prepared, tmp_path / name))) for name in ("calm", "rough"))
    command = ("--fold", 0, "--device", "cpu", "--steps", steps)
    moments = random.Random(0)
    nnseg("train", calm.path, *command)
    for number in range(kills):
        before = _written(fold(rough).checkpoint_file)
        child = started("train", rough.path, *command, "--checkpoint", "0.001s")
        while number % 4 and child.is_alive() and _written(fold(rough).checkpoint_file) == before:
            time.sleep(0.001)  # one in four is killed before it trains, the others on the way
        child.join(moments.uniform(0.0, 0.1))
        assert child.is_alive(), "the training was over before it was killed often enough; give it more steps"
        child.kill()
        child.join()
    assert _written(fold(rough).checkpoint_file) or _written(fold(rough).checkpoint_before_file)  # it did get somewhere
    nnseg("train", rough.path, *command)
    assert weights(rough) == weights(calm)
    assert [(e.step, e.loss) for e in fold(rough).history()][-1] == [(e.step, e.loss) for e in fold(calm).history()][-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_training_between_two_steps_and_the_same_command_goes_on(run, undisturbed, tmp_path, number, code):
    child = started("train", run.path, "--fold", 0, "--device", "cpu", "--steps", 60, out=tmp_path / "said")
    while not fold(run).history_file.exists():  # the first epoch is over
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid, number)
    child.join(60)
    said = (tmp_path / "said.err").read_text()
    assert child.exitcode == code, said
    assert "stopped at step" in said
    assert schedule(run).ended is None
    load_model_file(fold(run).model_file)
    train(run.path, options(steps=60))
    assert weights(run) == weights(undisturbed)


def losses(run):
    return [e.loss for e in fold(run).history()]


def _of_two_processes(run):
    return ("train", run.path, "--fold", 0, "--device", "cpu", "--steps", 60)


def with_adamw(run):
    """The run with an optimizer that leaves differences in the last digits small; Muon rounds to bfloat16."""
    text = run.plans[0].plan_file.read_text()
    assert 'optimizer = "muon"' in text
    run.plans[0].plan_file.write_text(text.replace('optimizer = "muon"', 'optimizer = "adamw"'))
    return run


def test_two_processes_learn_as_one_does_and_a_dead_one_ends_the_job(prepared, tmp_path):
    one, two, rough = (with_adamw(Run(Path(shutil.copytree(prepared, tmp_path / name)))) for name in ("one", "two", "rough"))
    train(one.path, options(steps=60))
    nnseg(*_of_two_processes(two), ranks=2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert schedule(two).ended == 60

    job = started(*_of_two_processes(rough), "--checkpoint", "0.001s", ranks=2, out=tmp_path / "said")
    while not fold(rough).history_file.exists():
        assert job.is_alive()
        time.sleep(0.01)
    ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    job.join(100)
    assert job.exitcode not in (0, None)
    said = (tmp_path / "said.err").read_text()
    assert "first observed failure" in said  # of the killed process, or of the other one, which has lost its connection
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(int(rank), 0)
            pytest.fail(f"process {rank} outlived its job")
    nnseg(*_of_two_processes(rough), ranks=2)
    assert weights(rough) == weights(two)


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(prepared, tmp_path):
    one, two = (with_adamw(Run(Path(shutil.copytree(prepared, tmp_path / name)))) for name in ("one", "two"))
    train(one.path, options(steps=60))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nnseg"]
    command = [*torchrun, *map(str, _of_two_processes(two))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_folds_side_by_side_come_to_the_weights_they_have_one_after_the_other(run, tmp_path):
    calm = Run(Path(shutil.copytree(run.path, tmp_path / "calm")))
    train(calm.path, options(folds=(0, 1)))
    nnseg("train", run.path, "--folds", "0,1", "--device", "cpu", "--devices", "cpu,cpu")
    for number in (0, 1):
        one, other = (r.plans[0].fold(number).model_file.read_bytes() for r in (run, calm))
        assert one == other


def test_a_fold_that_fails_beside_another_is_named_and_costs_it_nothing(run):
    plan = run.plans[0]
    (plan.path / "fold_1").write_text("in the way")
    done = nnseg("train", run.path, "--folds", "0,1", "--device", "cpu", "--devices", "cpu,cpu", check=2)
    assert "3d fold 1 failed" in done.stderr
    load_model_file(plan.fold(0).model_file)


@pytest.mark.slow
def test_folds_are_trained_in_processes_of_their_own(run):
    train(run.path, options(folds=(0, 1), devices=("cpu", "cpu")))
    for number in (0, 1):
        load_model_file(run.plans[0].fold(number).model_file)


def test_a_training_begins_with_a_trained_model_and_leaves_what_is_frozen(run, tmp_path, caplog):
    train(run.path, options(steps=40))
    first = load_model_file(fold(run).model_file)
    other = Run(Path(shutil.copytree(run.path, tmp_path / "other", ignore=shutil.ignore_patterns("fold_0"))))
    with caplog.at_level("INFO"):
        train(other.path, options(steps=4, init=run.path, freeze="encoder"))
    assert "heads: background, ball from the model" in caplog.text
    begun, went = first.members[0].weights, load_model_file(fold(other).model_file).members[0].weights
    same = {name for name in begun if begun[name].equal(went[name])}
    assert {name for name in begun if name.startswith("encoder")} <= same < set(begun)
    assert fold(other).history()[0].loss < fold(run).history()[0].loss - 0.2
    assert schedule(other).origin.freeze == "encoder"


def test_fresh_weights_are_never_frozen(run, tmp_path):
    train(run.path, options(steps=4))
    other = Run(Path(shutil.copytree(run.path, tmp_path / "other", ignore=shutil.ignore_patterns("fold_0"))))
    plan = other.plans[0]
    features = plan.plan.network.features
    wider = plan.plan_file.read_text().replace(f"features = {list(features)}", f"features = {[*features[:-1], 2 * features[-1]]}")
    plan.plan_file.write_text(wider)
    with pytest.raises(NnsegError, match="--freeze encoder would freeze random weights"):
        train(other.path, options(steps=4, init=run.path, freeze="encoder"))


def test_a_worker_whose_parent_is_gone_takes_that_for_a_signal():
    assert StopRequest(parent=os.getppid()).source == ""
    assert StopRequest(parent=os.getpid()).source == "signal"  # not the one that started this process


def test_events_for_tensorboard_are_written(run):
    pytest.importorskip("tensorboardX")
    train(run.path, options(tensorboard=True))
    assert list((fold(run).path / "tensorboard").glob("events*"))
