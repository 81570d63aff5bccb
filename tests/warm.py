"""The command line in processes forked off one that has loaded torch already, which takes most of a short command's time."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from forked import Forked

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["nnseg.cli", "nnseg.pipeline", "nnseg.serving.worker", "nnseg.serving.folder", "torch._dynamo"])


def started(*arguments: object, out: Path | None = None) -> multiprocessing.process.BaseProcess:
    """A process that runs ``nnseg`` with the given arguments, with its output in files ``out`` and ``out``.err."""
    process = _CONTEXT.Process(target=_main, args=([str(a) for a in arguments], out))
    process.start()
    return process


def nnseg(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``nnseg`` to its end.

    Args:
        check: the expected exit code; None for any.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        process = started(*arguments, out=out)
        process.join(200)
        said = out.read_text(), out.with_suffix(".err").read_text()
        if process.is_alive():
            process.kill()
            raise TimeoutError(said[1])
    code = process.exitcode
    assert code is not None
    assert check is None or code == check, "".join(said)
    return subprocess.CompletedProcess(list(arguments), code, *said)


def _main(arguments: list[str], out: Path | None) -> None:
    import torch

    from nnseg.cli import main
    from nnseg.serving import pool, worker

    pool.start_process = lambda threads: Forked(worker.main)
    torch.set_num_threads(1)  # several tests run at a time
    for stream, path in ((1, out), (2, out and out.with_suffix(".err"))):
        os.dup2(os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["nnseg", *arguments]
    main()
