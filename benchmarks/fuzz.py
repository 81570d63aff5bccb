"""Does any reader of ours fail otherwise than it says? Coverage-guided fuzzing of each, one after the other.

    pip install atheris                                 (of this script alone; wheels for Linux and Python 3.11 to 3.13)
    python benchmarks/fuzz.py FOLDER [--minutes 60] [--only NAME,NAME]

Inputs are mutated by libFuzzer, text (JSON and TOML) value by value too, kept where they reach new code of ours, nibabel, pydicom,
tifffile or Pillow, and begin with files of a run and of scans that this script makes. A finding is an exception that is no
`NnsegError`, a death of the process, more than `SECONDS` for one input of at most `BYTES`, or more than `MEGABYTES` more memory.
FOLDER/findings/ gets the first input of each, FOLDER/corpus/ those that reach new code, from which the next call goes on; a table
is printed. Run it after every change of a reader.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

SECONDS, MEGABYTES, BYTES = 10, 500, 65536
ADDRESSES = 3 * 2**30
"""Bytes of address space that a reader may take besides what the loaded libraries have."""
TESTS = Path(__file__).resolve().parents[1] / "tests"


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        file: name of the file that the input becomes, in a folder of its own.
        read: the reader, of that file.
        seeds: names of files to begin with, in the folder of examples; JSON and TOML are also mutated value by value.
        write: (input, file) writes what is read, if it is not the input itself.
    """

    file: str
    read: Callable[[Path], object]
    seeds: tuple[str, ...]
    write: Callable[[bytes, Path], object] = lambda data, path: path.write_bytes(data)

    @property
    def kind(self) -> str:
        """The suffix of the examples."""
        return Path(self.seeds[0]).suffix


def main() -> int:
    """Fuzz the readers one after the other; exit code 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="in all")
    parser.add_argument("--only", help="names of readers, with commas between")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = options.folder.absolute()
    known = _load(folder / "examples")
    names = options.only.split(",") if options.only else list(known)
    print("| reader | inputs | seconds | inputs kept for new code | findings |\n|---|---|---|---|---|")
    rows = []
    for name in names:
        rows.append(_supervise(name, known[name], folder, 60 * options.minutes / len(names), options.seed))
        print("| {} | {} | {:.0f} | {} | {} |".format(*rows[-1]), flush=True)
    print(f"| all {len(rows)} | {sum(r[1] for r in rows)} | {sum(r[2] for r in rows):.0f} | | {sum(r[4] for r in rows)} |")
    return int(any(row[4] for row in rows))


def _load(examples: Path) -> dict[str, Target]:
    """All readers, instrumented; the processes that try them are forked off this one, since loading takes long."""
    import atheris  # type: ignore[import-not-found]
    import torch  # not instrumented

    torch.set_num_threads(1)
    if not examples.exists():
        make_examples(examples)
    with atheris.instrument_imports(include=["nnseg", "nibabel", "pydicom", "tifffile", "PIL"]):
        import fuzz_targets
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    return fuzz_targets.targets(examples)


def _supervise(name: str, target: Target, folder: Path, seconds: float, seed: int) -> tuple[str, int, float, int, int]:
    """Fuzz one reader for so long, beginning again whenever its process dies; the row of the table."""
    start, inputs, deaths = time.monotonic(), 0, 0
    work = Path(tempfile.mkdtemp(prefix="fuzz", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    (work / "files" / target.file).parent.mkdir(parents=True)
    corpus, log = folder / "corpus" / name, folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for example in target.seeds:
            shutil.copy(folder / "examples" / example, corpus / example.replace("/", "_"))
    while (left := seconds - (time.monotonic() - start)) > 1 and deaths < 200:
        code = _fork(partial(_fuzz, name, target, folder, work, corpus, int(left) + 1, seed + deaths), log)
        inputs += int((work / "count").read_text() or 0) if (work / "count").exists() else 0
        if code:
            deaths += 1
            tail = log.read_bytes()[-4000:].decode(errors="replace")
            _record(folder, name, f"death-{code}-{_place_in(tail)}", (work / "input").read_bytes(), tail)
    shutil.rmtree(work, ignore_errors=True)
    found = folder / "findings" / name
    return name, inputs, time.monotonic() - start, len(list(corpus.iterdir())), len(list(found.glob("*.txt")))


def _fork(main: Callable[[], None], log: Path) -> int:
    """Run a function in a child process, whose output is appended to a file; its exit code, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            main()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _place_in(text: str) -> str:
    lines = [line for line in text.splitlines() if "nnseg/" in line and 'File "' in line]
    return "".join(c if c.isalnum() else "_" for c in lines[0].split("nnseg/")[-1])[:60] if lines else "unknown"


def _record(folder: Path, name: str, key: str, data: bytes, details: str) -> None:
    place = folder / "findings" / name
    place.mkdir(parents=True, exist_ok=True)
    short = f"{key[:90]}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
    if not (place / f"{short}.txt").exists():
        (place / f"{short}.bin").write_bytes(data)
        (place / f"{short}.txt").write_text(details)


def _fuzz(name: str, target: Target, folder: Path, work: Path, corpus: Path, seconds: int, seed: int) -> None:
    """Fuzz one reader in this process, which ends with the time, or dies of a finding."""
    import atheris

    _limit_memory()
    arguments = ["fuzz", str(corpus), f"-max_total_time={seconds}", f"-max_len={BYTES}", f"-seed={seed}"]
    arguments += ["-timeout=60", "-rss_limit_mb=0", "-verbosity=0", f"-artifact_prefix={work}/"]
    mutate = {"custom_mutator": _mutator(target.kind)} if target.kind in (".json", ".toml") else {}
    atheris.Setup(arguments, _tester(name, target, folder, work), **mutate)
    atheris.Fuzz()


def _tester(name: str, target: Target, folder: Path, work: Path) -> Callable[[bytes], None]:
    from nnseg.core.errors import NnsegError

    count = 0
    peak = _peak_mb()
    place = work / "files"

    def test(data: bytes) -> None:
        nonlocal count, peak
        (work / "input").write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            target.write(data, place / target.file)
            target.read(place / target.file)
        except NnsegError as error:
            if "\n" in str(error) or len(str(error)) > 5000:
                _record(folder, name, f"message-{_last_frame(error)}", data, repr(str(error)[:6000]))
        except (Exception, SystemExit) as error:
            _record(folder, name, f"{type(error).__name__}-{_last_frame(error)}", data, traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        if _peak_mb() > peak + MEGABYTES:
            _record(folder, name, f"memory-{count}", data, f"{_peak_mb() - peak:.0f} MB more")
            peak = _peak_mb()
        count += 1
        if count % 50 == 0:
            (work / "count").write_text(str(count))
            gc.collect()

    return test


def _last_frame(error: BaseException) -> str:
    """The innermost place in our code that the error passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/nnseg/" in f.filename and "benchmarks" not in f.filename]
    return f"{Path(frames[-1].filename).stem}-{frames[-1].name}-{frames[-1].lineno}" if frames else "elsewhere"


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESSES, taken + ADDRESSES))


# Values that readers are least likely to expect.
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e-300, 1e300, 1e9, float("nan"), float("inf"),
    "", " ", "..", "../../x", "/dev/zero", "a" * 300, "\x00", "\x1b[31m", "\ud800", "\u202e", "1", "nan", "=1+1", "background",
    [], {}, [[]], [0], [0, 0, 0], [1e-9] * 3, {"": ""}, {"0": 0}, [None], ["a", "a"], [[[[[[[[[]]]]]]]]],
)  # fmt: skip


def _mutator(kind: str) -> Callable[[bytes, int, int], bytes]:
    """Change a value of JSON or TOML, or where that is none, bytes."""
    import atheris

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        try:
            content = json.loads(data) if kind == ".json" else tomllib.loads(data.decode())
            if chance.random() < 0.1:
                raise ValueError
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                content = _changed(content, chance)
            text = (
                json.dumps(content) if kind == ".json" else "".join(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in content.items())
            )
            return text.encode()[:max_size]
        except Exception:  # of the mutation, not of a reader
            return bytes(atheris.Mutate(data, max_size))

    return mutate


def _toml(value: Any) -> str:
    """A value as inline TOML, whose strings are written as JSON's are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def _changed(content: Any, chance: random.Random) -> Any:
    """The content with one value replaced, removed, doubled, moved or renamed."""
    places = list(_places(content))
    if not places:
        return chance.choice(ODD)
    holder, key = chance.choice(places)
    value, act = holder[key], chance.randrange(6)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, list):
        holder.insert(key, value)
    elif act == 2 and isinstance(holder, dict):
        holder[chance.choice(("", "..", "a/b", key.upper(), f"{key} ", "1", "-1"))] = value
    elif act == 3:
        other, place = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))
    elif act == 4 and isinstance(value, int | float):
        holder[key] = value * chance.choice((-1, 0, 0.5, 2, 1000)) + chance.choice((0, 1, -1))
    else:
        holder[key] = chance.choice(ODD)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


def make_examples(folder: Path) -> None:
    """Write a small file of each kind: a run on a few balls, and scans in all formats."""
    sys.path.insert(0, str(TESTS))
    from conftest import TINY_RECIPE, write_balls

    folder.mkdir(parents=True)
    balls = write_balls(folder / "balls", cases=4)
    (folder / "recipe.toml").write_text(TINY_RECIPE)
    options = ("--recipe", "recipe.toml", "--no-probe", "--device", "cpu", "--folds", "0", "--workers", "1")
    for command in (
        ("run", balls, "run", *options),
        ("predict", balls / "imagesTr", "out", "--model", "run/model.nnseg", "--device", "cpu"),
        ("report", "out"),
        ("evaluate", "out", balls / "labelsTr", "--format", "nnunet", "--out", "summary.json"),
    ):
        subprocess.run([sys.executable, "-m", "nnseg", *map(str, command)], cwd=folder, check=True, capture_output=True)
    from fuzz_targets import write_examples

    write_examples(folder)


def zip_member(path: Path, name: str) -> bytes:
    """A member of a zip."""
    with zipfile.ZipFile(path) as file:
        return file.read(name)


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    sys.exit(main())
