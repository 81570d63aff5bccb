"""The command line in processes forked off one that has loaded torch already, which takes most of a short command's time."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from forked import Forked

from nnseg.network import device
from nnseg.storage.files import file_hash

PRELOADED = [
    "nnseg.cli",
    "nnseg.pipeline",
    "nnseg.serving.worker",
    "nnseg.serving.folder",
    "nnseg.commands.probe_worker",
    "nnseg.commands.train_worker",
    "torch._dynamo",
    "torch.distributed.run",
    "frozen",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)
"""A process that it starts has loaded all these; the last is a module of the tests."""


def started(
    *arguments: object, out: Path | None = None, ranks: int = 1, inside: Callable[[], None] | None = None
) -> multiprocessing.process.BaseProcess:
    """A process that runs ``nnseg`` with the given arguments, with its output in files ``out`` and ``out``.err.

    Args:
        ranks: if more than one, the process is torchrun's, and starts so many that run ``nnseg``.
        inside: called in the process first; a function at the top of a module.
    """
    main = _torchrun if ranks > 1 else _main
    process = CONTEXT.Process(target=main, args=([str(a) for a in arguments], out, _faster_dtype(), ranks, inside))
    process.start()
    return process


def nnseg(
    *arguments: object, check: int | None = 0, ranks: int = 1, inside: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``nnseg`` to its end.

    Args:
        check: the expected exit code; None for any.
        ranks, inside: as in `started`.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        process = started(*arguments, out=out, ranks=ranks, inside=inside)
        process.join(200)
        said = out.read_text(), out.with_suffix(".err").read_text()
        if process.is_alive():
            process.kill()
            raise TimeoutError(said[1])
    code = process.exitcode
    assert code is not None
    assert check is None or code == check, "".join(said)
    return subprocess.CompletedProcess(list(arguments), code, *said)


def fold_options(recipe: Path) -> tuple[object, ...]:
    """Options of ``nnseg run`` for a short training of one fold."""
    return ("--recipe", recipe, "--no-probe", "--folds", 0, "--device", "cpu", "--workers", 1)


def hashes(folder: Path) -> dict[str, str]:
    """The hash of each file by its path in the folder; locks are left out."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): file_hash(p) for p in files}


@cache
def _faster_dtype() -> torch.dtype:
    """What CPUs compute in where a plan's precision is "auto": timed once for all processes, since that takes a second."""
    return device.autocast_dtype(torch.device("cpu"), "auto")


def _main(arguments: list[str], out: Path | None, dtype: torch.dtype, _: int, inside: Callable[[], None] | None) -> None:
    _write_output_to(out)
    if inside:
        inside()
    run_here(arguments, dtype)


def run_here(arguments: list[str], dtype: torch.dtype) -> None:
    """Run ``nnseg`` in this process, and fork those that it starts."""
    torch.set_num_threads(1)  # several tests run at a time
    device._faster_dtype = lambda _: dtype
    _fork_workers()
    _run_nnseg(arguments)


def _torchrun(arguments: list[str], out: Path | None, dtype: torch.dtype, ranks: int, _: None) -> None:
    """What ``torchrun --standalone`` does, but that its processes are forked off this one."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    device._faster_dtype = lambda _: dtype
    os.environ["OMP_NUM_THREADS"] = "1"
    _write_output_to(out)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", start_method="fork", monitor_interval=0.1, max_restarts=0,
    )  # fmt: skip
    elastic_launch(config, _main_of_rank)(arguments)


def _main_of_rank(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    try:
        _run_nnseg(arguments)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from None


def _write_output_to(out: Path | None) -> None:
    for stream, path in ((1, out), (2, out and out.with_suffix(".err"))):
        os.dup2(os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT), stream)


def _fork_workers() -> None:
    """Let the processes that ``nnseg`` starts be forked, too."""
    from nnseg.commands import probe, probe_worker, train_parallel
    from nnseg.serving import pool

    def launch(module: str, **_: object) -> Forked:
        return Forked(importlib.import_module(module).main)

    pool.launch = probe.launch = train_parallel.launch = launch
    probe_worker.TILES_SECONDS = 0.1


def _run_nnseg(arguments: list[str]) -> None:
    from nnseg.cli import main

    sys.argv = ["nnseg", *arguments]
    main()
