"""What does a GPU give? Checks first, then measurements, in one command of at most 8 minutes; one table for RESULTS.md.

    python benchmarks/gpu.py build/gpu --prepare DATASET      (anywhere: puts cases, plans and packages into build/gpu)
    python benchmarks/gpu.py build/gpu                        (where the GPU is)
    python benchmarks/gpu.py build/gpu --device cpu --small   (small sizes, to try the command itself)

The folder is to lie in the checkout, where git ignores it, and travels with it. Where the GPU is, no network, no reader of images
and no installed nnseg are needed, only Python, torch, NumPy, SciPy, scikit-image, pandas, psutil and safetensors. Packages that are
missing there are taken from the wheels in the folder, which are for Python 3.12 on Linux, x86-64.

Rows are computed by a process beside this one, each within a time of its own, and printed as soon as they are known. A row that
fails, takes too long or ends the process is a row with its reason; the next one begins in a new process. FOLDER/gpu.json has all
numbers, FOLDER/gpu.log what was printed meanwhile. Exit code 1 if a row has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

ROWS = {
    "3D convolutions, output and gradients": 30.0,
    "3D convolution of 2^31 values": 30.0,
    "network in bfloat16, gradients": 20.0,
    "network channels-last, gradients": 20.0,
    "norm in Triton, gradients": 20.0,
    "network in a captured graph, gradients": 20.0,
    "training repeated, deterministic": 30.0,
    "too little memory": 30.0,
    "network compiled, gradients": 60.0,
    "two processes on one device": 60.0,
    "peak of matrix products": 15.0,
    "Hippocampus, nnU-Net's plan": 15.0,
    "Hippocampus, plan of auto": 15.0,
    "128 x 128 x 128, batch 2": 15.0,
    "128 x 128 x 128, batch 2, channels-last": 15.0,
    "128 x 128 x 128, batch 2, channels-last, norm in Triton": 15.0,
    "192 x 192 x 192, batch 2, ResEnc-L": 30.0,
    "prediction of a CT": 30.0,
    "training on Hippocampus": 330.0,
}
"""Seconds that each row may take, in the order of computation; the training takes what is left."""

START = 120.0
"""Seconds after which a process that is not ready is given up."""

MOST_STARTS = 3
"""Processes that end before they are ready, after which no further one is started."""

LEAST = 5.0
"""Seconds that must be left for a row to be begun."""

Row = dict[str, Any]
"""``outcome`` ("passed", "measured", "failed" or "not here"), ``text``, ``numbers`` and ``seconds``."""


def main() -> int:
    """Prepare the folder, or compute the rows."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.prepare:
        from gpu_prepare import prepare  # noqa: PLC0415 (needs nnseg with all that it needs, which is not there where the GPU is)

        prepare(options.prepare, options.folder, wheels=not options.no_wheels)
        return 0
    until = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as packages:
        carried = unpack_missing(options.folder / "wheels", Path(packages))
        paths = [str(HERE.parent), packages, os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used; "deterministic" needs it
        print(f"packages taken from wheels: {', '.join(carried) or 'none'}\n", flush=True)
        rows, about = compute(options, until)
    print("\n" + "\n".join(table(rows, about)))
    return int(any(row["outcome"] == "failed" for row in rows.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", type=Path, metavar="DATASET", help="Hippocampus, in any layout that nnseg reads")
    parser.add_argument("--no-wheels", action="store_true", help="prepare without packages")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the processor; its own choice if absent")
    parser.add_argument("--small", action="store_true", help="small sizes and few steps")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all rows together")
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--out", type=Path, help="in place of FOLDER/gpu.json")
    return parser.parse_args()


def unpack_missing(wheels: Path, into: Path) -> list[str]:
    """Unpack the wheels of packages that are not installed, or in an older version; returns their names."""
    unpacked = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        if _installed(name) < _numbers(version):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(into)
            unpacked.append(name)
    return unpacked


def _installed(name: str) -> tuple[int, ...]:
    """The version of a package; empty, which is less than any, if it is not installed."""
    try:
        return _numbers(metadata.version(name))
    except metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version))


def compute(options: argparse.Namespace, until: float) -> tuple[dict[str, Row], Row]:
    """All rows, printed one by one and kept in a file; and what is known of the machine.

    Args:
        options: of the command.
        until: time, of `time.monotonic`, at which all must be done.
    """
    out = options.out or options.folder / "gpu.json"
    log = out.with_suffix(".log")
    log.write_text("")
    rows: dict[str, Row] = {}
    about: Row = {}
    worker, starts = None, 0
    try:
        for name in [name for name in ROWS if options.only in name]:
            began = time.monotonic()
            if until - began < LEAST:
                found = failed("no time was left")
            elif starts == MOST_STARTS:
                found = failed(f"not tried: {about['text']}")
            else:
                worker = worker or Worker(arguments(options), log)
                about = worker.about(min(START, until - began))
                starts = 0 if about["outcome"] != "failed" else starts + 1
                left = min(ROWS[name], until - time.monotonic())
                found = worker.ask(name, left) if about["outcome"] != "failed" else about
                if found["outcome"] == "failed":
                    worker = worker.end()
            rows[name] = {**found, "seconds": round(time.monotonic() - began, 1)}
            print(line(name, rows[name]), flush=True)
            out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    finally:
        if worker:
            worker.end()
    return rows, about


def arguments(options: Any) -> list[str]:
    """Of gpu_rows.py, for the same folder, device and sizes."""
    small = ["--small"] if options.small else []
    return [str(options.folder), "--device", str(options.device), "--threads", str(options.threads), *small]


def failed(reason: str) -> Row:
    """A row that was not computed."""
    return {"outcome": "failed", "text": reason, "numbers": {}}


class Worker:
    """A process that computes rows, one after another. After a row that failed it is of no more use.

    Args:
        of: arguments of gpu_rows.py.
        log: to which what it prints is added.
        nested: it is started by another one, and ended with it.
    """

    def __init__(self, of: Sequence[str], log: Path, *, nested: bool = False) -> None:
        command = [sys.executable, str(HERE / "gpu_rows.py"), *of]
        with log.open("a") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=not nested
            )
        self._nested = nested
        self._about: Row | None = None

    def about(self, seconds: float) -> Row:
        """What it says when it is ready: the machine, and the versions of packages."""
        self._about = self._about or self._answer(seconds)
        return self._about

    def ask(self, name: str, seconds: float) -> Row:
        """A row, or within the seconds given none and why."""
        self.begin(name, seconds)
        return self._answer(seconds)

    def begin(self, name: str, seconds: float) -> None:
        """Let a row be computed, to be waited for by `finish`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # why it has ended is told by what is read
            self._process.stdin.write(json.dumps({"name": name, "seconds": seconds}) + "\n")
            self._process.stdin.flush()

    def finish(self, seconds: float) -> Row:
        """The row that was begun, or why there is none."""
        return self._answer(seconds)

    def end(self) -> None:
        """End the process, and those that it has started."""
        with suppress(ProcessLookupError):
            if self._nested:
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):  # what was not read by it
            self._process.communicate()

    def _answer(self, seconds: float) -> Row:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return failed(f"not done after {seconds:.0f} s")
        text = self._process.stdout.readline()
        if text:
            return dict(json.loads(text))
        code = self._process.wait()
        return failed(
            f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with code {code}"
        )


def table(rows: Mapping[str, Row], about: Row) -> Iterator[str]:
    """The lines of a section of RESULTS.md."""
    numbers = about.get("numbers", {})
    words = ", ".join(
        str(numbers[name]) for name in ("device", "torch", "cuda", "cudnn", "python", "processor") if numbers.get(name)
    )
    yield f"## What a GPU gives ({time.strftime('%Y-%m-%d')}; {words})"
    yield ""
    yield f"    python benchmarks/gpu.py {' '.join(sys.argv[1:])}"
    yield ""
    yield f"Commit {numbers.get('commit', 'not known')}."
    yield ""
    yield "| | | seconds |"
    yield "|---|---|---|"
    for name, row in rows.items():
        yield line(name, row)


def line(name: str, row: Row) -> str:
    """A line of the table."""
    outcome = "" if row["outcome"] == "measured" else f"{row['outcome']}: "
    return f"| {name} | {outcome}{row['text'].replace('|', '/')} | {row['seconds']:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
