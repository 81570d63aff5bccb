"""A signal interrupts wherever Python is, also where C code drops exceptions, and its message never disturbs a stream."""

import os
import signal
import subprocess
import sys

import pytest

from nnseg.system.stop import interrupting_signals

LOSING_PLACES = """
import ctypes, os, signal, time, weakref
from nnseg.system.stop import interrupting_signals

def send():
    signal.raise_signal(signal.SIGHUP)

class Owner:
    def __del__(self):
        send()

class Value:
    pass

def destructor():
    Owner()

def weak_callback():
    value = Value()
    reference = weakref.ref(value, lambda _: send())
    del value

def ctypes_callback():
    ctypes.CFUNCTYPE(None)(send)()

def fork_hook():
    os.register_at_fork(before=lambda: os.getpid() == parent and not received and send())
    if os.fork() == 0:
        os._exit(0)
    os.wait()

def careless_code():
    try:
        send()
    except BaseException:
        pass

def twice():
    destructor()
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        try:
            time.sleep(1)
        except BaseException:
            time.sleep(0.05)  # here, too

parent = os.getpid()
before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGALRM)
for place in (destructor, weak_callback, ctypes_callback, fork_hook, careless_code, twice):
    try:
        with interrupting_signals() as received:
            place()
            time.sleep(60)
            print(place.__name__, "lost it")
    except KeyboardInterrupt:
        assert received == [signal.SIGHUP], received
    assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGALRM)) == before
    time.sleep(0.05)  # no repetition is left that would end this process
print("done")
"""

INTERRUPTED_STREAM = """
import io, logging, signal, sys, time
from nnseg.system.stop import StopRequest

class Raw(io.FileIO):
    sent, said = False, b""

    def write(self, content):
        if not self.sent:
            self.sent = True
            signal.raise_signal(signal.SIGTERM)
        self.said += bytes(content)
        return super().write(content)

raw = Raw(2, "w", closefd=False)
sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)
logging.basicConfig(format="%(message)s")
with StopRequest() as stop:
    logging.warning("a line")
    assert stop.source == "signal"
    until = time.monotonic() + 60
    while b"second signal" not in raw.said and time.monotonic() < until:
        time.sleep(0.01)
logging.warning("the last line")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals are repeated on POSIX systems only")
def test_an_interrupt_that_is_lost_comes_again() -> None:
    done = subprocess.run([sys.executable, "-c", LOSING_PLACES], capture_output=True, text=True, check=False, timeout=200)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_signal_in_the_middle_of_writing_a_line_spoils_neither() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_STREAM], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stderr.splitlines()) == [
        "a line",
        "stopping after this step, nothing is lost; a second signal stops at once",
        "the last line",
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="needs signals of child processes")
def test_how_child_processes_end_is_told_though_the_starter_ignored_it() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with interrupting_signals():
            assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=False).returncode == 3
    finally:
        signal.signal(signal.SIGCHLD, before)
