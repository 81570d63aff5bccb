"""A reader that ends its process as a crash of a library does: files that crash one are refused as soon as they are known."""

import os
import signal
import sys

import pytest

from nnseg.storage.datasets import read_case


def crash_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the process die that tries to read a scan whose file has this in its name; skips where processes are not forked."""
    if sys.platform != "linux":
        pytest.skip("children are forked on Linux alone, and another process has no changed reader")
    own, read = os.getpid(), read_case.read_scan

    def crash(images, **options):
        if name in str(images[0]):
            assert os.getpid() != own, "read in the process that must not crash"
            os.kill(os.getpid(), signal.SIGKILL)
        return read(images, **options)

    monkeypatch.setattr(read_case, "read_scan", crash)
