"""``nnseg predict`` on folders of scans: whatever is damaged, killed or repeated, every other scan gets its label map."""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from warm import nnseg, started

from nnseg.core.errors import ScanError
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.network.build import build_unet
from nnseg.network.bundle import Member, Model, save_model
from nnseg.serving.folder import predict_scans
from nnseg.serving.messages import PredictionOrder


def _write_model(path: Path, channels: int = 1, seed: int = 0) -> Path:
    """Write an untrained network whose arithmetic is fixed."""
    network = Network(
        kind="plain", features=(2, 4), strides=((1,) * 3, (2,) * 3), kernels=((3,) * 3,) * 2, blocks=(1, 1), decoder_blocks=(1,)
    )
    plan = Plan(
        name="3d",
        dataset="noise",
        recipe="auto",
        channels=tuple(f"channel {i}" for i in range(channels)),
        patch=(8, 8, 8),
        labels=Labels(names=("background", "front", "back"), values=(0, 3, 700)),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(2.0,) * 3, normalization=(Normalization(scheme="zscore"),) * channels),
        network=network,
        training=Training(batch_size=2, precision="float32"),
        inference=Inference(mirror_axes=(0,)),
    )
    torch.manual_seed(seed)
    built = build_unet(plan.network, channels=channels, heads=3)
    weights = {n: t + 0.5 * torch.randn_like(t) for n, t in built.state_dict().items()}
    save_model(Model(members=(Member(plan=plan, fold=0, weights=weights),)), path)
    return path


def _write_scans(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    random_ = np.random.default_rng(0)
    paths = [folder / f"scan_{i:03d}.nii.gz" for i in range(count)]
    for path in paths:
        image = random_.normal(100, 20, (11, 10, 9)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.diag([1.5, 2.0, 2.0, 1.0])), path)
    return paths


def _hashes(out: Path) -> dict[str, str]:
    """Of all that was written, the record apart, which holds times."""
    files = [p for p in out.rglob("*") if p.is_file() and p.name not in ("predictions.json", ".lock", ".begun")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _record(out: Path) -> dict[str, dict]:
    return json.loads((out / "predictions.json").read_text())["cases"]


def _children(pid: int) -> list[int]:
    return [int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return _write_model(tmp_path_factory.mktemp("model") / "tiny.nnseg")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scans"
    _write_scans(folder, 9)
    return folder


@pytest.fixture(scope="module")
def calm(model, scans, tmp_path_factory) -> Path:
    """The label maps of an undisturbed run."""
    out = tmp_path_factory.mktemp("calm") / "out"
    nnseg("predict", scans, out, "--model", model, "--device", "cpu")
    return out


def _damage(paths: list[Path]) -> dict[str, str]:
    """Damage seven scans in seven ways; returns what must be said of each."""
    cut, empty, text, flat, four, gap, other = paths
    cut.write_bytes(cut.read_bytes()[:600])
    empty.write_bytes(b"")
    text.write_text("this is not a scan")
    raw = bytearray(gzip.decompress(flat.read_bytes()))
    raw[76:92] = struct.pack("<4f", 1, 0, 2, 2)  # pixdim
    raw[252:256] = struct.pack("<2h", 0, 0)  # neither qform nor sform
    flat.write_bytes(gzip.compress(bytes(raw)))
    nib.save(nib.Nifti1Image(np.ones((11, 10, 9, 3), np.float32), np.eye(4)), four)
    raw = bytearray(gzip.decompress(gap.read_bytes()))
    gap.write_bytes(gzip.compress(bytes(raw[:-400])))
    data = bytearray(other.read_bytes())
    data[-8] ^= 0xFF  # the checksum
    other.write_bytes(bytes(data))
    return {p.name.removesuffix(".nii.gz"): p.name for p in paths}


def test_a_hundred_scans_with_seven_kinds_of_damage(model, tmp_path):
    paths = _write_scans(tmp_path / "scans", 100)
    damaged = _damage(paths[3:100:14])
    done = nnseg("predict", tmp_path / "scans", tmp_path / "out", "--model", model, "--device", "cpu", check=1)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 93
    record = _record(tmp_path / "out")
    failed = {name: case["reason"] for name, case in record.items() if case["status"] == "failed"}
    assert set(failed) == set(damaged)
    assert len(set(failed.values())) == 7
    for name, reason in failed.items():
        assert damaged[name] in reason
        assert name in done.stderr
        assert "\n" not in reason
    assert "93 of 100 scans predicted" in done.stdout
    assert "s a scan (" in done.stdout


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_many_times_it_comes_to_the_same_bytes(model, scans, calm, tmp_path, kills):
    out = tmp_path / "out"
    command = ("predict", scans, out, "--model", model, "--device", "cpu")
    start = time.monotonic()
    nnseg(*command)
    duration = time.monotonic() - start
    shutil.rmtree(out)
    moments, killed, kills_of_a_child = random.Random(0), 0, 0
    while killed < kills or not kills_of_a_child:
        process = started(*command)
        process.join(moments.uniform(0.3, 0.9) * duration)
        victims = _children(process.pid) if process.is_alive() and killed % 3 == 1 else []
        for child in victims:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        kills_of_a_child += len(victims)
        killed += process.is_alive()
        if not victims:
            process.kill()
        process.join(60)
        if process.exitcode == 0:  # it came to its end, perhaps after a kill of its child: the next begins anew
            assert _hashes(out) == _hashes(calm)
            shutil.rmtree(out)
    nnseg(*command)
    assert _hashes(out) == _hashes(calm)
    assert {case["status"] for case in _record(out).values()} == {"done"}


def test_no_process_outlives_the_command(model, scans, tmp_path):
    process = started("predict", scans, tmp_path / "out", "--model", model, "--device", "cpu")
    until = time.monotonic() + 20
    while not (children := _children(process.pid)) and time.monotonic() < until:
        time.sleep(0.01)
    assert children
    process.kill()
    process.join()
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_end_it_ends_and_what_is_done_stays(model, scans, calm, tmp_path, number, code):
    out = tmp_path / "out"
    process = started("predict", scans, out, "--model", model, "--device", "cpu")
    until = time.monotonic() + 20
    while len(list(out.glob("scan_*"))) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == code
    found = _hashes(out)
    assert 2 <= len(found) < 9
    assert found.items() <= _hashes(calm).items()
    assert set(found) >= {case["file"] for case in _record(out).values()}
    nnseg("predict", scans, out, "--model", model, "--device", "cpu")
    assert _hashes(out) == _hashes(calm)


def test_two_processes_on_one_device_give_the_same(model, scans, calm, tmp_path):
    nnseg("predict", scans, tmp_path / "out", "--model", model, "--devices", "cpu,cpu")
    assert _hashes(tmp_path / "out") == _hashes(calm)


def test_the_same_command_again_does_only_what_is_missing(model, scans, calm, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    first, second, third, *_ = sorted(out.glob("*.nii.gz"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-3])
    before = third.stat().st_mtime_ns
    done = nnseg("predict", scans, out, "--model", model, "--device", "cpu")
    assert "9 of 9 scans predicted; 7 of them by an earlier command" in done.stdout
    assert _hashes(out) == _hashes(calm)
    assert third.stat().st_mtime_ns == before


def test_another_model_or_option_does_all_again(model, scans, calm, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    nnseg("predict", scans, out, "--model", model, "--device", "cpu", "--fast")
    assert _record(out)["scan_000"]["key"] != _record(calm)["scan_000"]["key"]
    other = _write_model(tmp_path / "other.nnseg", seed=1)
    nnseg("predict", scans, out, "--model", model, "--model", other, "--device", "cpu")
    assert _hashes(out).keys() == _hashes(calm).keys()
    assert _hashes(out) != _hashes(calm)


def test_probabilities_lie_beside_the_label_map(model, scans, calm, tmp_path):
    one = scans / "scan_000.nii.gz"
    nnseg("predict", one, tmp_path / "out", "--model", model, "--device", "cpu", "--probabilities", "--format", "nrrd")
    with np.load(tmp_path / "out" / "scan_000.npz") as file:
        probabilities, heads = file["probabilities"], file["heads"]
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (3, 9, 10, 11))
    assert heads.tolist() == ["background", "front", "back"]
    label_map = np.asarray(nib.load(calm / "scan_000.nii.gz").dataobj)  # (x, y, z), x and y to the right and front
    turned = label_map.T[:, ::-1, ::-1]
    assert np.mean(np.array([0, 3, 700])[probabilities.argmax(0)] == turned) > 0.999
    assert set(_record(tmp_path / "out")["scan_000"]["more"]) == {"scan_000.npz"}
    assert (tmp_path / "out" / "scan_000.nrrd").exists()


def test_what_cannot_be_done_at_all_ends_with_2_and_says_why(model, scans, tmp_path):
    out = tmp_path / "out"
    broken = tmp_path / "broken.nnseg"
    broken.write_bytes(model.read_bytes()[:2000])
    two = _write_model(tmp_path / "two.nnseg", channels=2)
    for arguments, words in [
        ((scans, out, "--model", model, "--model", tmp_path / "absent.nnseg"), "there is no model"),
        ((scans, out, "--model", model, "--model", broken), "broken.nnseg"),
        ((scans, out, "--model", model, "--model", two), "have different channels"),
        ((tmp_path / "nowhere", out, "--model", model), "no such file or folder"),
        ((scans, scans, "--model", model), "where the scans are"),
        ((scans, out, "--model", model, "--device", "cuda:77"), "cuda:77"),
    ]:
        assert words in nnseg("predict", *arguments, check=2).stderr
        assert not out.exists()


def test_missing_channels_are_told_once_with_how_files_are_named(scans, tmp_path):
    model = _write_model(tmp_path / "two.nnseg", channels=2)
    done = nnseg("predict", scans, tmp_path / "out", "--model", model, "--device", "cpu", check=2)
    told = (
        "has 1 channel in 1 file; expected 2 channels (channel 0, channel 1), in this order; name the files "
        "CASE_0000.nii.gz (channel 0) and CASE_0001.nii.gz (channel 1), or give words of their names with --channels [NS-S024]"
    )
    assert told in done.stderr
    assert done.stderr.count("expected 2 channels") == 1
    assert f"{len([*scans.iterdir()])} failed, none is done:" in done.stderr


def test_too_little_memory_is_said_with_the_numbers(model, scans, tmp_path):
    done = nnseg("predict", scans, tmp_path / "out", "--model", model, "--device", "cpu", "--memory", 0.1, check=2)
    assert "11 x 10" in done.stderr or "9 x 10 x 11 voxels needs" in done.stderr
    assert "GB of RAM, and 0.00 GB may be used" in done.stderr
    assert "0 of 9 scans" in done.stdout


def test_two_commands_into_one_folder_do_not_mix(model, scans, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert "another nnseg is writing" in nnseg("predict", scans, tmp_path / "out", "--model", model, check=2).stderr


def test_how_sure_it_is_lies_beside_the_label_map(model, scans, tmp_path):
    one = scans / "scan_000.nii.gz"
    nnseg("predict", one, tmp_path / "out", "--model", model, "--device", "cpu", "--uncertainty")
    found = nib.load(tmp_path / "out" / "scan_000_uncertainty.nii.gz")
    values = np.asarray(found.dataobj)
    assert (values.dtype, values.shape) == (np.float32, (11, 10, 9))
    assert 0 <= values.min() < values.max() <= 1
    np.testing.assert_array_equal(found.affine, nib.load(one).affine)
    case = _record(tmp_path / "out")["scan_000"]
    assert 0 <= case["confidence"]["quality"] <= 1
    assert set(case["more"]) == {"scan_000_uncertainty.nii.gz"}


def test_what_is_not_predicted_is_said_and_recorded(tmp_path):
    model = _write_model(tmp_path / "two.nnseg", channels=2)
    _write_scans(tmp_path / "scans" / "made", 2)
    made = sorted((tmp_path / "scans" / "made").iterdir())
    for suffix in ("t1n.nii.gz", "t2f.nii.gz", "seg.nii.gz"):
        for i in (1, 2):
            shutil.copy(made[0], tmp_path / "scans" / f"p{i}_{suffix}")
    shutil.rmtree(tmp_path / "scans" / "made")
    (tmp_path / "scans" / "slide.svs").touch()
    command = ("predict", tmp_path / "scans", tmp_path / "out", "--model", model, "--device", "cpu", "--channels", "t2f,t1n")
    done = nnseg(*command, check=1)
    assert "2 of 2 scans predicted" in done.stdout
    assert "channels t2f, t1n from names with t2f, t1n" in done.stdout
    assert "not used: a label map by its name or folder (2 files)" in done.stdout
    assert "(slide.svs)" in done.stdout
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert sorted(Path(one["path"]).name for one in record["unused"]) == ["p1_seg.nii.gz", "p2_seg.nii.gz", "slide.svs"]
    assert [Path(image).name for image in record["cases"]["p1"]["images"]] == ["p1_t2f.nii.gz", "p1_t1n.nii.gz"]


def test_a_format_that_is_not_written_is_refused_before_a_model_is_waited_for(tmp_path):
    workers = SimpleNamespace(order=PredictionOrder(models=(), out=tmp_path / "out", suffix=".jpg"))
    with pytest.raises(ScanError, match=r'not written as ".jpg"'):
        predict_scans(tmp_path / "scans", workers)


def test_scans_that_lack_a_channel_fail_or_are_predicted_with_zeros_in_its_place(scans, tmp_path):
    model, folder, out = _write_model(tmp_path / "two.nnseg", channels=2), tmp_path / "scans", tmp_path / "out"
    first, second, zeros = *sorted(scans.iterdir())[:2], tmp_path / "zeros.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((11, 10, 9), np.float32), np.diag([1.5, 2.0, 2.0, 1.0])), zeros)
    folder.mkdir()
    names = {"whole": (first, second), "lone": (first, None), "late": (None, second), "lone_zero": (first, zeros)}
    for name, files in names.items():
        for number, file in enumerate(files):
            if file:
                shutil.copy(file, folder / f"{name}_{number:04d}.nii.gz")
    arguments = ("predict", folder, out, "--model", model, "--device", "cpu")

    assert "predict without it by --on-missing-channel use [NS-S024]" in nnseg(*arguments, check=1).stderr
    before = _record(out)
    assert "; add a file of channel 1, or predict" in before["lone"]["reason"]
    assert "; add a file of channel 0, or predict" in before["late"]["reason"]
    assert {name for name, record in before.items() if record["status"] == "done"} == {"whole", "lone_zero"}

    said = nnseg(*arguments, "--on-missing-channel", "use").stdout
    assert "4 of 4 scans predicted; 2 of them by an earlier command" in said
    records, hashes = _record(out), _hashes(out)
    assert all(records[name] == before[name] for name in ("whole", "lone_zero"))
    assert hashes["lone.nii.gz"] == hashes["lone_zero.nii.gz"] != hashes["whole.nii.gz"]
    (finding,) = [one for one in records["late"]["findings"] if "NS-S038" in one]
    assert finding.startswith("there is no file of the channel channel 0, which the networks were never trained without; ")

    nnseg(*arguments, check=1)  # what was predicted without a channel is not kept
    assert _record(out)["lone"]["status"] == "failed"
