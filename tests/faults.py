"""Commands of which one call to the operating system fails: `faults.c` in a process that forks one for each command.

The rig makes a folder of tiny data in several states, runs a command in a copy of one of them, lets the k-th call that opens,
writes, syncs, renames or removes a file below that folder fail, and checks what is left.
"""

from __future__ import annotations

import ctypes
import gzip
import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from forked import exit_after
from warm import hashes

KINDS = {"killed": 1, "no space": 2, "I/O error": 3, "written short": 4}
"""What happens at a call: SIGKILL; ENOSPC, then and at all later calls that need space; EIO once; half written, then ENOSPC."""

SECONDS = 100
"""Longest time of a command; all take about one."""

RECIPE = """
based_on = "auto"
[training]
steps = 2
epoch_steps = 1
batch_size = 1
warmup_steps = 1
precision = "float32"
[on_cpu.planner]
base_features = 2
[on_cpu.training]
epoch_steps = 1
[inference]
mirror_axes = []
"""

CPU = ("--device", "cpu")
PLAN = ("--recipe", "recipe.toml", "--no-probe", "--folds", "0", "--workers", "1", *CPU)
APPENDED = ("manifest.jsonl",)
"""Files whose last line may be cut off, which readers pass over."""
AFTER_A_PAUSE = ("checkpoint_before.safetensors",)
"""Files that depend on where a training was interrupted."""
RECORDS = (
    "run.json",
    "predictions.json",
    "schedule.json",
    "history.jsonl",
    "report.html",
    "manifest.jsonl",
    "model.md",
    "model.json",
    "checkpoint.safetensors",
)
"""Files that tell what was done when, so that a repetition may change them."""
NNUNET = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@dataclass(frozen=True)
class Command:
    """A command line to be disturbed.

    Args:
        state: of the folder before it.
        arguments: relative to the folder.
        code: its exit code when nothing disturbs it.
    """

    state: str
    arguments: tuple[str, ...]
    code: int = 0


COMMANDS = {
    "check": Command("data", ("check", "balls", "--workers", "1")),
    "plan": Command("data", ("plan", "balls", "run", *PLAN)),
    "preprocess": Command("planned", ("preprocess", "run", "--workers", "1")),
    "train": Command("preprocessed", ("train", "run", "--folds", "0", *CPU)),
    "distill": Command("done", ("distill", "run", "--workers", "1", *CPU)),
    "distill again": Command("distilled", ("distill", "run", "--workers", "1", *CPU)),
    "run": Command("data", ("run", "balls", "run", *PLAN)),
    "run again": Command("done", ("run", "balls", "run", *PLAN)),
    "predict": Command("done", ("predict", "balls/imagesTr", "new", "--model", "run", *CPU)),
    "predict again": Command("done", ("predict", "balls/imagesTr", "out", "--model", "run", *CPU)),
    "evaluate": Command("done", ("evaluate", "out", "balls/labelsTr", "--out", "new/scores.json", "--workers", "1")),
    "compare": Command("done", ("compare", "run", "run/scores.json", "--out", "new.json")),
    "report": Command("done", ("report", "run", "--picture", "new.png")),
    "report of predictions": Command("done", ("report", "out", "--workers", "1")),
    "figure": Command("done", ("figure", "run", "--what", "scores")),
    "export": Command("done", ("export", "run", "new.nnseg")),
    "import": Command("done", ("import", NNUNET, "new.nnseg")),
    "card": Command("done", ("card", "run/model.nnseg")),
    "verify": Command("distilled", ("verify", "run")),
    "audit": Command("done", ("audit", "run", "--workers", "1")),
    "validate": Command("done", ("validate", "others", "new", "--model", "run", "--workers", "1", *CPU)),
    "explain": Command("done", ("explain", "run", "--cases", "1", "--method", "occlusion", *CPU)),
    "convert": Command("done", ("convert", "out", "new", "--to", "masks,stl,mgz", "--workers", "1")),
    "convert to BIDS": Command("done", ("convert", "out", "new", "--to", "bids", "--workers", "1")),
    "stress": Command("done", ("stress", "run", "--kinds", "noise", "--cases", "1", *CPU)),
    "pretrain": Command("planned", ("pretrain", "balls/imagesTr", "new", "--plan", "run", "--workers", "1", *CPU)),
    "submit": Command("done", ("submit", "balls/imagesTr", "new", "--model", "run", "--challenge", "grand-challenge", *CPU)),
    "package": Command("done", ("package", "new", "--model", "run", "--for", "docker")),
    "models push": Command("done", ("models", "push", "run/model.nnseg", "hub", "balls", "--licence", "CC0-1.0")),
    "models pull": Command("shared", ("models", "pull", "hub", "balls", "--accept-licence")),
    "export --torch": Command("done", ("export", "run", "new", "--torch")),
    "export --onnx": Command("done", ("export", "run", "new", "--onnx")),
}

FINISHED = (COMMANDS["run"].arguments, ("predict", "balls/imagesTr", "out", "--model", "run", *CPU))
MAKING = {
    "data": (),
    "planned": (COMMANDS["plan"].arguments,),
    "preprocessed": (COMMANDS["plan"].arguments, COMMANDS["preprocess"].arguments),
    "done": FINISHED,
    "distilled": (*FINISHED, COMMANDS["distill"].arguments),
    "shared": (*FINISHED, COMMANDS["models push"].arguments),
}
"""Commands that make each state."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended.

    Args:
        code: its exit code, negative for a signal; None if it hung and was killed.
        calls: that were counted.
        reached: True if the call that should fail was made.
    """

    code: int | None
    out: str
    err: str
    calls: int
    reached: bool

    @property
    def last_line(self) -> str:
        return (self.err.strip().splitlines() or [""])[-1]


class Host:
    """A process that has loaded all libraries and `faults.c`, and forks commands."""

    def __init__(self, scratch: Path) -> None:
        self.log = scratch / "calls"
        self._files = scratch / "out", scratch / "err"
        library = scratch / "faults.so"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, capture_output=True)
        variables = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(library)],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self, folder: Path, arguments: tuple[str, ...], *, at: int = 0, kind: int = 0, kill: tuple[float, float] | None = None
    ) -> Ended:
        """Run a command in a folder.

        Args:
            at, kind: of the call that fails.
            kill: seconds after which a process of the command is killed, and which, from 0 to 1 among those that live then.
        """
        order = {"folder": str(folder), "arguments": arguments, "at": at, "kind": kind, "kill": kill}
        order |= {"out": str(self._files[0]), "err": str(self._files[1]), "log": str(self.log)}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err = (file.read_text(errors="replace") for file in self._files)
        return Ended(**answer, out=out, err=err)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@dataclass
class Rig:
    """States of a folder, and the commands in it.

    Args:
        scratch: for everything; best in memory.
    """

    scratch: Path
    host: Host = field(init=False)
    _references: dict[str, Reference] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.host = Host(self.scratch)
        self.work = self.scratch / "work"

    def state(self, name: str) -> Path:
        """The folder of a state, which is not to be changed."""
        folder = self.scratch / "states" / name
        if not folder.exists():
            if name == "data":
                _write_data(folder)
            else:
                self.begin("data")
                for arguments in MAKING[name]:
                    ended = self.host.run(self.work, arguments)
                    assert ended.code == 0, ended.err
                shutil.copytree(self.work, folder, symlinks=True)
        return folder

    def begin(self, state: str) -> None:
        """Put the work folder into a state."""
        template = self.state(state)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(template, self.work, symlinks=True)

    def reference(self, name: str) -> Reference:
        """What an undisturbed command leaves."""
        if name not in self._references:
            results, command = [], COMMANDS[name]
            for _ in range(2):
                self.begin(command.state)
                start = time.monotonic()
                ended = self.host.run(self.work, command.arguments)
                seconds = time.monotonic() - start
                assert ended.code == command.code, ended.err
                results.append(hashes(self.work))
                time.sleep(1.1 - time.time() % 1)  # else times of the second look like those of the first
            steady = {p for p, digest in results[0].items() if digest == results[1].get(p) and Path(p).name not in RECORDS}
            assert set(results[0]) == set(results[1])
            calls = _read_calls(self.host.log, self.work)
            self._references[name] = Reference(
                before=hashes(self.state(command.state)), after=results[0], steady=frozenset(steady), calls=calls,
                seconds=seconds,
            )  # fmt: skip
        return self._references[name]

    def disturb(self, name: str, kind: str, at: int) -> tuple[Ended, list[str]]:
        """Let the k-th call of a command fail; how it ended, and what is wrong with that."""
        command = COMMANDS[name]
        reference = self.reference(name)
        self.begin(command.state)
        ended = self.host.run(self.work, command.arguments, at=at, kind=KINDS[kind])
        return ended, [
            *self._wrong_ending(name, ended, kind),
            *self._wrong_files(reference),
            *self._wrong_repeat(name, reference, ended),
        ]

    def kill(self, name: str, chance: random.Random) -> tuple[Ended, list[str]]:
        """Kill a process of a command at a random moment; how it ended, and what is wrong with that."""
        reference = self.reference(name)
        self.begin(COMMANDS[name].state)
        kill = chance.uniform(0, reference.seconds), chance.random()
        ended = self.host.run(self.work, COMMANDS[name].arguments, kill=kill)
        return ended, [
            *self._wrong_ending(name, ended, "killed"),
            *self._wrong_files(reference),
            *self._wrong_repeat(name, reference, ended),
        ]

    def damage(self, path: str, how: str, name: str, chance: random.Random) -> str:
        """Damage a file before a command reads it; what became of it, with a question mark where that is a fault of ours."""
        reference = self.reference(name)
        self.begin(COMMANDS[name].state)
        file = self.work / path
        DAMAGE[how](file, chance)
        ended = self.host.run(self.work, COMMANDS[name].arguments)
        if file.is_symlink():
            file.unlink()
        if ended.code is None or "Traceback" in ended.err:
            return "hung ?" if ended.code is None else f"traceback ? {ended.last_line[:200]}"
        if ended.code != COMMANDS[name].code:
            known = file.name in ended.err + ended.out or file.name.split(".")[0] in ended.err + ended.out
            return "refused" if known else f"refused without its name ? {ended.last_line[:200]}"
        found = hashes(self.work)
        other = sorted(p for p in reference.steady if found.get(p) != reference.after[p] and p != path)
        return "no other result" if not other else f"accepted ? changes {', '.join(other)[:200]}"

    def _wrong_ending(self, name: str, ended: Ended, kind: str) -> Iterator[str]:
        if ended.code is None:
            yield "hung"
        if "Traceback" in ended.err:
            yield f"traceback: {ended.last_line}"
        if kind == "killed" or not ended.reached or ended.code == COMMANDS[name].code:
            return
        cause = "Input/output error" if kind == "I/O error" else "No space left on device"
        said = " ".join(f"{ended.last_line} {ended.out}".split())  # check prints its findings, in lines that fit the terminal
        if not any(word in said for word in (cause, cause.lower(), "[Errno")):
            yield f"the last line does not name the cause: {ended.last_line[:300]}"

    def _wrong_files(self, reference: Reference) -> Iterator[str]:
        found = hashes(self.work)
        for path, digest in found.items():
            if digest not in (reference.before.get(path), reference.after.get(path)) and (why := incomplete(self.work / path)):
                yield f"{path} is incomplete: {why}"
        for path, digest in reference.before.items():
            kept = path in found if Path(path).name in RECORDS else found.get(path) == digest
            if reference.after.get(path) == digest and not kept and not self._failed(path):
                yield f"{path} was lost"

    def _failed(self, path: str) -> bool:
        """True for the label map of a scan that could not be read now: a record of a failure has no files."""
        records = json.loads((self.work / "out" / "predictions.json").read_bytes())["cases"] if path.startswith("out/") else {}
        return records.get(Path(path).name.split(".")[0], {}).get("status") == "failed"

    def _wrong_repeat(self, name: str, reference: Reference, ended: Ended) -> Iterator[str]:
        if ended.code != COMMANDS[name].code:  # what ended well must be right without a repetition
            again = self.host.run(self.work, COMMANDS[name].arguments)
            if again.code != COMMANDS[name].code:
                yield f"the same command failed then: {again.last_line[:300]}"
                return
        found = hashes(self.work)
        if missing := {path for path in set(reference.after) - set(found) if Path(path).name not in AFTER_A_PAUSE}:
            yield f"{min(missing)} is missing in the end"
        if more := {path for path in set(found) - set(reference.after) if Path(path).name not in AFTER_A_PAUSE}:
            yield f"{min(more)} is left over"
        if other := {path for path in reference.steady & set(found) if found[path] != reference.after[path]}:
            yield f"{min(other)} has another content in the end"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call to the operating system.

    Args:
        what: it does.
        path: of its file.
        place: lines of nnseg that have led to it, the innermost first; none if Python does not tell.
    """

    what: str
    path: str
    place: tuple[str, ...]

    @property
    def group(self) -> tuple[object, ...]:
        """The same for calls from one place in the code for files whose names differ in numbers; without a place for one file."""
        return self.what, self.place, NUMBERS.sub("#", self.path) if self.place else self.path


NUMBERS = re.compile(r"[\da-f]{8}|\d+")
FRAME = re.compile(r'  File "(.*/nnseg/.*)", line (\d+) in .*')


def _read_calls(log: Path, folder: Path) -> tuple[Call, ...]:
    """The calls that `faults.c` has noted."""
    calls, places = list[Call](), list[list[str]]()
    for line in log.read_text(errors="replace").splitlines():
        if frame := FRAME.fullmatch(line):
            places[-1].append(":".join(frame.groups()))
        elif not line.startswith(("  ", "Stack ")):
            what, path = line.split(" ", 1)
            calls.append(Call(what=what, path=str(Path(path).relative_to(folder)) if path.startswith("/") else path, place=()))
            places.append([])
    return tuple(replace(call, place=tuple(place)) for call, place in zip(calls, places, strict=True))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an undisturbed command does.

    Args:
        before, after: hashes of all files by path.
        steady: those that are the same each time, since no time is in them.
        calls: that were made.
        seconds: that it takes.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    steady: frozenset[str]
    calls: tuple[Call, ...]
    seconds: float

    def of(self, kind: str) -> list[Call]:
        """The calls of which one can fail in this way."""
        return [call for call in self.calls if kind == "I/O error" or call.what != "read"]

    def count(self, kind: str) -> int:
        """Number of calls of which one can fail in this way."""
        return len(self.of(kind))

    def places(self, kind: str) -> list[int]:
        """Numbers of the first and the last of these calls from each place in the code for each kind of file."""
        calls = self.of(kind)
        first = {call.group: number for number, call in reversed([*enumerate(calls, 1)])}
        last = {call.group: number for number, call in enumerate(calls, 1)}
        return sorted({*first.values(), *last.values()})


def incomplete(path: Path) -> str:
    """Why a file under its final name is not complete; "" if it is, or if its name says that it is temporary."""
    if _is_temporary(path.name) or path.name in APPENDED or path.suffix == ".part":
        return ""
    data = path.read_bytes()
    try:
        CHECKS.get(path.suffix, lambda path, data: None)(path, data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if data or path.name in MAY_BE_EMPTY else "empty"


def _is_temporary(path: str) -> bool:
    from nnseg.storage.temporary import TEMPORARY

    return TEMPORARY.fullmatch(Path(path).name) is not None


def _flip(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def _zero(file: Path, chance: random.Random) -> None:
    data = file.read_bytes()
    at = chance.randrange(len(data))
    file.write_bytes(data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :])


def _truncate(file: Path, chance: random.Random) -> None:
    os.truncate(file, chance.randrange(file.stat().st_size))


def _hide(file: Path, _: random.Random) -> None:
    file.unlink()
    file.symlink_to("/proc/self/mem")


DAMAGE = {"flip": _flip, "truncate": _truncate, "zero": _zero, "unreadable": _hide}
"""Of a file: a bit flipped, the end cut off, 512 bytes zeroed, at a random place; or it opens, but reading gives an I/O error."""


def _check_html(path: Path, data: bytes) -> None:
    assert data.rstrip().endswith(b"</html>")


def _check_tensors(path: Path, data: bytes) -> None:
    from safetensors.torch import load

    from nnseg.network.checkpoint import load_tensors

    load(data) if path.name == "weights.safetensors" else load_tensors(path)


def _check_zip(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


MAY_BE_EMPTY = ("STOP",)
CHECKS = {
    ".json": lambda path, data: json.loads(data),
    ".jsonl": lambda path, data: [json.loads(line) for line in data.splitlines()],
    ".toml": lambda path, data: tomllib.loads(data.decode()),
    ".html": _check_html,
    ".gz": lambda path, data: gzip.decompress(data),
    ".nnseg": _check_tensors,
    ".safetensors": _check_tensors,
    ".case": _check_zip,
    ".png": lambda path, data: data.index(b"IEND"),
    ".pdf": lambda path, data: data.index(b"%%EOF"),
}


@contextmanager
def rig() -> Iterator[Rig]:
    """A rig in a folder in memory where there is one."""
    with tempfile.TemporaryDirectory(prefix="faults", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        made = Rig(Path(folder).resolve())
        try:
            yield made
        finally:
            made.host.close()


def _write_data(folder: Path) -> None:
    """Three scans with their label maps, two of another dataset, a recipe, and a model of nnU-Net."""
    from ball_dataset import write_balls
    from interop.nnunet.trained import plans_of, write_trained

    write_balls(folder / "balls", cases=3)
    write_balls(folder / "others", cases=2, seed=1)
    (folder / "recipe.toml").write_text(RECIPE)
    write_trained(folder, plans_of())


LOADED = ("report", "figure", "audit", "validate", "explain", "convert", "stress", "pretrain", "submit", "package")
"""Commands whose modules are loaded before they are forked."""


def _serve(library: str) -> None:
    """Fork a command for each order on stdin; answer on stdout how it ended."""
    import torch
    import warm

    torch.set_num_threads(1)
    _write_often()
    for name in ("nnseg.commands.plan", "nnseg.commands.preprocess"):
        importlib.import_module(name)
    left = [*warm.PRELOADED, *(f"nnseg.commands.{name}" for name in LOADED), "matplotlib.backends.backend_pdf"]
    shim = ctypes.CDLL(library)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        while left and order["arguments"][0] not in ("plan", "preprocess"):  # others need what takes seconds to load
            with suppress(ImportError):
                importlib.import_module(left.pop())
        Path(order["log"]).unlink(missing_ok=True)
        log = b"" if order["kind"] else order["log"].encode()
        shim.faults_arm(order["folder"].encode(), ctypes.c_long(order["at"]), order["kind"], log)
        child = os.fork()
        if child == 0:
            _work(order)
        code = _wait(child, order["kill"])
        print(
            json.dumps({"code": code, "calls": shim.faults_calls(), "reached": bool(shim.faults_reached())}),
            file=answers,
            flush=True,
        )
        shim.faults_arm(b"", ctypes.c_long(0), 0, b"")


def _write_often() -> None:
    """Let commands write as often during their work as those that take hours."""
    from nnseg.storage import predictions
    from nnseg.training import fold, progress

    predictions.WRITE_INTERVAL = predictions.WRITE_RATIO = 0
    fold.FIRST_SAVE = progress.REFRESH = 0


def _work(order: dict) -> None:
    import torch
    import warm

    from nnseg.storage.hub import VARIABLE

    def run() -> None:
        os.setsid()
        os.chdir(order["folder"])
        os.environ[VARIABLE] = str(Path(order["folder"], "models"))
        for number, path in ((1, order["out"]), (2, order["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        warm.run_here(order["arguments"], torch.float32)

    exit_after(run)


def _wait(child: int, kill: tuple[float, float] | None) -> int | None:
    """The exit code of a child; without one if it hung, and was killed."""
    handle = os.pidfd_open(child)
    if kill and not select.select([handle], [], [], kill[0])[0]:
        living = _family(child)
        with suppress(ProcessLookupError):
            os.kill(living[int(kill[1] * len(living))], signal.SIGKILL)
    ended = bool(select.select([handle], [], [], SECONDS)[0])
    if not ended:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    return code if ended else None


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    children = [int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()]
    return [pid, *(p for child in children for p in _family(child))]


if __name__ == "__main__":
    _serve(sys.argv[1])
