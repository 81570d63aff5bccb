"""Fewer threads while other programs take cores, where that is faster; what others take is measured."""

import multiprocessing
import time

import pytest

from nnseg.core.processors import usable_cores
from nnseg.system import contention
from nnseg.system.contention import FittingThreads, OtherPrograms, idle_seconds


class Machine:
    """Eight cores, of which other programs take some; a step waits for its slowest thread."""

    def __init__(self, monkeypatch, threads=8):
        monkeypatch.setattr(contention, "usable_cores", lambda: 8)
        self.now, self.taken, self.used = 0.0, 0, []
        self.fitting = FittingThreads(threads, self.used.append, lambda: self.taken, lambda: self.now)

    def seconds_of_step(self, threads):
        shared = threads > 8 - self.taken
        return 8 / threads * (2 if shared else 1)

    def work(self, seconds):
        end = self.now + seconds
        for _ in self.fitting.timed(self._steps(end), counted=lambda _: True):
            pass

    def _steps(self, end):
        while self.now < end:
            self.now += self.seconds_of_step(self.fitting.threads)
            yield None


def test_an_idle_machine_keeps_all_threads(monkeypatch):
    machine = Machine(monkeypatch)
    machine.work(200)
    assert machine.used == []


def test_threads_leave_the_cores_that_others_take_and_come_back_when_these_end(monkeypatch):
    machine = Machine(monkeypatch)
    machine.taken = 2
    machine.work(100)
    assert machine.fitting.threads == 6
    machine.taken = 0
    machine.work(100)
    assert machine.fitting.threads == 8


def test_a_number_of_threads_that_is_slower_is_not_kept_and_tried_ever_less_often(monkeypatch):
    machine = Machine(monkeypatch)
    machine.taken = 6  # 2 threads alone take 4 s a step, 8 that share cores 2 s
    machine.work(600)
    assert machine.fitting.threads == 8
    tried = machine.used.count(2)
    assert 1 <= tried <= 6
    machine.work(600)
    assert machine.used.count(2) - tried <= 2


def test_threads_never_exceed_those_of_the_beginning(monkeypatch):
    machine = Machine(monkeypatch, threads=4)
    machine.taken = 1
    machine.work(100)
    assert machine.used == []


def test_steps_with_other_work_are_not_timed(monkeypatch):
    machine = Machine(monkeypatch)
    machine.taken = 2
    for _ in machine.fitting.timed(machine._steps(100), counted=lambda _: False):
        pass
    assert machine.used == []


def test_work_beside_others_is_judged_by_its_computing():
    assert idle_seconds(2.0, 0.36, threads=2, others=0.1) == 2.0
    assert idle_seconds(2.0, 0.36, threads=2, others=1.0) == pytest.approx(0.2)
    assert idle_seconds(0.19, 0.36, threads=2, others=1.0) == 0.19


def _compute(until):
    while time.monotonic() < until:
        pass


def test_cores_that_another_program_takes_are_seen_and_our_own_are_not():
    others, start, own = OtherPrograms(), time.monotonic(), time.process_time()
    _compute(start + 0.5)
    own = (time.process_time() - own) / (time.monotonic() - start)
    assert others.cores() <= usable_cores() - own + 0.2
    program = multiprocessing.get_context("spawn").Process(target=_compute, args=(time.monotonic() + 4,))
    program.start()
    try:
        time.sleep(2.0)  # Python's start
        others.cores()
        time.sleep(1.0)
        assert others.cores() > 0.3  # it shares its core with whatever else runs on this machine
    finally:
        program.join()


@pytest.mark.parametrize(("taken", "early", "warnings"), [(6, True, 1), (0, True, 0), (6, False, 0)])
def test_a_busy_machine_is_warned_of_once_if_threads_wait_actively(monkeypatch, caplog, taken, early, warnings):
    monkeypatch.setattr(contention, "waits_actively", lambda: early)
    machine = Machine(monkeypatch)
    machine.taken = taken
    machine.work(200)
    assert [record.levelname for record in caplog.records if "import nnseg before torch" in record.message] == [
        "WARNING"
    ] * warnings
