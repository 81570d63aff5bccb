"""Devices by name, and the precision that the trial chooses."""

import time

import pytest
import torch

from nnseg.core.errors import RunError
from nnseg.network import device as room
from nnseg.network.device import autocast_dtype, resolve_device, time_calls

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forget_trials():
    room._faster_dtype.cache_clear()
    yield
    room._faster_dtype.cache_clear()


def test_cpu_is_always_there():
    assert resolve_device("cpu") == CPU


def test_auto_prefers_the_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize("text", ["cuda:7", "tpu", "", "cuda:x", "cpu:"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(text, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RunError, match=r"cpu.*cuda:0"):
        resolve_device(text)


@pytest.mark.parametrize(("text", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_a_precision_that_the_plan_names_is_taken(text, dtype):
    assert autocast_dtype(CPU, text) == dtype


@pytest.mark.parametrize(("short", "dtype"), [(0.5, torch.bfloat16), (2.0, torch.float32), (float("inf"), torch.float32)])
def test_auto_takes_bfloat16_only_where_it_is_faster(short, dtype, monkeypatch):
    monkeypatch.setattr(room, "_trial_seconds", lambda device, kind: short if kind == torch.bfloat16 else 1.0)
    assert autocast_dtype(CPU, "auto") == dtype


def test_the_trial_is_made_once_a_process(monkeypatch):
    asked = []
    monkeypatch.setattr(room, "_trial_seconds", lambda device, kind: asked.append(kind) or 1.0)
    assert autocast_dtype(CPU, "auto") == autocast_dtype(CPU, "auto")
    assert asked == [torch.float32, torch.bfloat16] * room.ROUNDS


def test_the_trial_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    assert 0 < room._trial_seconds(CPU, torch.float32, repeats=1) < 60
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("answer", ["not numbers", "not implemented"])
def test_a_type_that_does_not_work_is_infinitely_slow(answer, monkeypatch):
    def convolve(self, image):
        if answer == "not implemented":
            raise RuntimeError(answer)
        return image * float("nan")

    monkeypatch.setattr(torch.nn.Conv3d, "forward", convolve)
    assert room._trial_seconds(CPU, torch.bfloat16) == float("inf")


def test_a_pass_that_gives_no_numbers_is_not_counted(monkeypatch):
    convolve, calls = torch.nn.Conv3d.forward, []

    def convolve_with_gap(self, image):
        calls.append(1)
        return convolve(self, image) * (float("nan") if len(calls) == 3 else 1)  # the first pass after the warm-up

    monkeypatch.setattr(torch.nn.Conv3d, "forward", convolve_with_gap)
    assert 0 < room._trial_seconds(CPU, torch.float32) < 60


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_takes_float16(supported, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert autocast_dtype(torch.device("cuda"), "auto") == dtype


def test_calls_are_timed_until_the_seconds_are_used_up():
    def slow():
        calls.append(1)
        time.sleep(0.02)

    for limits, count in [({}, 1), ({"least": 3, "most": 3}, 3), ({"least": 2, "most": 9, "seconds": 0.0}, 2)]:
        calls = []
        assert all(seconds >= 0.02 for seconds in time_calls(slow, **limits))
        assert len(calls) == count
    assert len(time_calls(slow, least=2, most=9, longest=0.01)) == 1
