"""Are the results of two commits the same? For changes that must move no number.

    git worktree add ../before 4a6d639
    python benchmarks/same_results.py ../before . --data ../shared/data --work WORK

Both trees run the same commands on the embedded demonstration (8 phantoms, 2D and 3D plans), 10 cases of the MSD Hippocampus and
6 slices of ISBI 2012's EM stack, 50 steps a fold in bfloat16, candidates not probed. Compared are fingerprint, folds, plan,
preprocessed cases, weights, history, label maps, scores, postprocessing, trust, choice, the numbers in the report's tables and
charts, and what its viewer shows. Times, energy, paths, versions, memory and wording are left out. Then the second tree goes on
with what the first one left: a finished run, which it must leave as it is; a training killed half-way, which must end with the same
weights; and a model file, which must give the same label maps. Prints one line a comparison; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import load as load_nifti
from PIL import Image

STEPS = 50
PHANTOMS = """
import sys
from pathlib import Path
try:
    from nnseg.demo.dataset import write_phantoms
except ImportError:
    from nnseg.phantom import write_phantoms
write_phantoms(Path(sys.argv[1]), cases=8)
"""
VOLATILE = {
    *(
        "seconds",
        "total_seconds",
        "stage_seconds",
        "cpu_seconds",
        "joules",
        "peak_gb",
        "stages",
        "took",
        "time",
        "date",
        "finished",
    ),
    *("nnseg", "versions", "version", "made_by", "machine", "command", "folder", "written", "about", "key_of_files", "sha256"),
    *("reason", "why", "message", "made", "spent"),
}
"""Keys of JSON files that hold times, memory, versions, places or words."""

UNCOMPARED_FILES = {"run.json", "probe.json", "STOP", "checkpoint_before.safetensors", "shown.json"}
"""The last two depend on the clock: when a checkpoint is due, and for how many cases there is time for uncertainty maps."""

UNCOMPARED_SECTIONS = ("cost", "provenance")


def main() -> int:
    """Compare two trees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with Task04_Hippocampus and ISBI2012_EM")
    parser.add_argument("--work", type=Path, required=True, help="scratch; what the first tree made there is used again")
    options = parser.parse_args()
    work, before, after = options.work.resolve(), options.before.resolve(), options.after.resolve()
    datasets = make_datasets(work / "data", options.data.resolve(), before)
    differences = 0
    for name, (folder, arguments) in datasets.items():
        old, new = work / "before" / name, work / "after" / name
        if not (old / "report.html").exists():
            make_run(before, folder, old, arguments)
        shutil.rmtree(new, ignore_errors=True)
        make_run(after, folder, new, arguments)
        differences += compare(name, facts_of(old), facts_of(new))
    differences += continue_old(work, before, after, datasets)
    print(f"{differences} differences" if differences else "no difference")
    return bool(differences)


def make_datasets(place: Path, data: Path, tree: Path) -> dict[str, tuple[Path, list[str]]]:
    """Small datasets, and the options to run them with."""
    phantoms, hippocampus, em = place / "demo", place / "hippocampus", place / "em"
    if not phantoms.exists():
        place.mkdir(parents=True)
        python(tree, "-c", PHANTOMS, str(phantoms))
        pick(data / "Task04_Hippocampus", ("imagesTr", "labelsTr"), hippocampus, 10)
        pick(data / "ISBI2012_EM", ("images", "labels"), em, 6)
    return {
        "demo": (phantoms, ["--plans", "2d,3d", "--folds", "0,1"]),
        "hippocampus": (hippocampus, ["--folds", "0,1"]),
        "em": (em, ["--folds", "0"]),
    }


def pick(source: Path, folders: tuple[str, str], target: Path, count: int) -> None:
    """Copy the first cases of a dataset, as a pair of folders."""
    for folder, name in zip(folders, ("images", "labels"), strict=True):
        (target / name).mkdir(parents=True)
        for file in sorted(f for f in (source / folder).iterdir() if not f.name.startswith("."))[:count]:
            shutil.copy(file, target / name / file.name)


def python(tree: Path, *arguments: str, check: bool = True) -> int:
    """Run Python with the package of a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=tree.parent, capture_output=True, text=True, check=False
    )
    if check and done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(arguments)} in {tree}:\n{done.stdout}{done.stderr}")
    return done.returncode


def make_run(tree: Path, dataset: Path, run: Path, arguments: list[str]) -> None:
    """Plan, fix the precision (else chosen by timing), run, and predict the training scans with the model file."""
    asked = [*arguments, "--steps", str(STEPS), "--no-probe", "--seed", "0"]
    python(tree, "-m", "nnseg", "plan", str(dataset), str(run), *asked)
    fix_precision(run)
    python(tree, "-m", "nnseg", "run", str(dataset), str(run), *asked)
    predict(tree, dataset, run, run / "predicted")


def fix_precision(run: Path) -> None:
    """Edit every plan of a run."""
    for file in run.rglob("plan.toml"):
        file.write_text(file.read_text().replace('precision = "auto"', 'precision = "bfloat16"'))


def predict(tree: Path, dataset: Path, run: Path, out: Path) -> None:
    """Label maps of a dataset's scans by the run's model file."""
    scans = next(dataset / name for name in ("images", "imagesTr") if (dataset / name).exists())
    python(tree, "-m", "nnseg", "predict", str(scans), str(out), "--model", str(run / "model.nnseg"), "--uncertainty")


def facts_of(run: Path) -> dict[str, Any]:
    """All that must not change, by name."""
    files = [f for f in sorted(run.rglob("*")) if f.is_file() and not f.name.startswith(".") and f.name not in UNCOMPARED_FILES]
    return {str(file.relative_to(run)): fact for file in files if (fact := fact_of(file)) is not None}


def fact_of(file: Path) -> Any:
    """What must not change of a file; None for kinds that are not compared."""
    if file.name == "history.jsonl":
        return [stable(json.loads(line)) for line in file.read_text().splitlines()]
    if file.name == "plan.schema.json":
        return sorted(schema_keys(json.loads(file.read_text())))
    if file.name.endswith((".nii.gz", ".nii", ".png", ".tif")):
        return digest(voxels(file))
    kinds = {
        ".toml": lambda: without_reasons(tomllib.loads(file.read_text())),
        ".json": lambda: stable(json.loads(file.read_text())),
        ".nnseg": lambda: digest(tensor_bytes(file)),
        ".safetensors": lambda: digest(tensor_bytes(file)),
        ".html": lambda: report_numbers(file.read_text()),
    }
    if file.suffix in kinds:
        return kinds[file.suffix]()
    return digest(file.read_bytes()) if "cases" in file.parts else None


def stable(content: Any) -> Any:
    """JSON content without what may differ between two runs of one commit."""
    if isinstance(content, dict):
        return {k: stable(v) for k, v in content.items() if k not in VOLATILE and not k.endswith(("seconds", "_gb"))}
    if isinstance(content, list):
        return [stable(item) for item in content]
    return re.sub(r".*/(before|after)/[a-z]+/", "", content) if isinstance(content, str) else content


def without_reasons(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's settings; reasons are words."""
    return {k: without_reasons(v) if isinstance(v, dict) else v for k, v in plan.items() if k != "why"}


def schema_keys(schema: Any, path: str = "") -> Iterator[str]:
    """Every key of a JSON schema with its plain value, descriptions left out."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key != "description":
                yield from schema_keys(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from schema_keys(value, path)
    else:
        yield f"{path}={schema}"


def tensor_bytes(file: Path) -> bytes:
    """The tensors of a safetensors file; the header also holds times and versions."""
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def voxels(file: Path) -> bytes:
    """An image's voxels, with shape and type."""
    array = np.asarray(load_nifti(file).dataobj) if ".nii" in file.name else np.asarray(Image.open(file))
    return f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes()


def digest(content: bytes) -> str:
    """A short hash."""
    return hashlib.sha256(content).hexdigest()[:16]


class ReportNumbers(HTMLParser):
    """Numbers of a report: table cells but times and memory, coordinates of drawings, hashes of what its viewer is given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self._section, self._cell, self._script = "head", False, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "section":
            self._section = named.get("aria-labelledby") or self._section
        self._cell = self._cell or tag in ("td", "dd")
        self._script = (named.get("id") or "") if tag == "script" else self._script
        for key in ("d", "points", "cx", "cy", "x1", "y1", "x2", "y2", "height", "width"):
            if self._section != "plan" and tag in ("path", "polyline", "circle", "line", "rect", "polygon") and named.get(key):
                self._keep(digest(str(named[key]).encode()))

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "dd")
        self._script = "" if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script.startswith("viewer-"):
            self.found.setdefault(self._script, []).append(digest(data.encode()))
        elif self._cell and not re.search(r"\d\s?(s|min|h|ms|GB|MB|kJ|Wh)\b", data):
            for number in re.findall(r"-?\d+(?:\.\d+)?", data):
                self._keep(number)

    def _keep(self, text: str) -> None:
        if self._section not in UNCOMPARED_SECTIONS:
            self.found.setdefault(self._section, []).append(text)


def report_numbers(page: str) -> dict[str, list[str]]:
    """A report's numbers, by section."""
    parser = ReportNumbers()
    parser.feed(page)
    return parser.found


def compare(name: str, old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print how far two runs agree; returns the number of differences."""
    unpaired = {key for key in old.keys() ^ new.keys() if not key.startswith("shown/")}  # as many as there was time for
    wrong = [f"{key} is {'missing' if key in old else 'new'}" for key in sorted(unpaired)]
    for key in sorted(old.keys() & new.keys()):
        before, after = (with_maps_of_both(a, b) for a, b in ((old[key], new[key]), (new[key], old[key])))
        if before != after:
            wrong.append(f"{key}: {first_difference(before, after)}")
    kinds: dict[str, int] = {}
    for key in old:
        kinds[Path(key).suffix] = kinds.get(Path(key).suffix, 0) + 1
    print(f"{name}: {len(old)} files ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}), {len(wrong)} differ")
    for line in wrong[:20]:
        print(f"  {line}")
    return len(wrong)


def with_maps_of_both(fact: Any, other: Any) -> Any:
    """A report's numbers without the uncertainty maps that the other report had no time for."""
    if not isinstance(fact, dict) or not isinstance(other, dict):
        return fact
    return {key: value for key, value in fact.items() if key in other or not key.endswith("-uncertainty")}


def first_difference(old: Any, new: Any, path: str = "") -> str:
    """Where two contents differ first."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys(), key=str):
            if old.get(key, ...) != new.get(key, ...):
                return first_difference(old.get(key, "missing"), new.get(key, "missing"), f"{path}.{key}")
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                return first_difference(a, b, f"{path}[{i}]")
    return f"{path}: {str(old)[:150]} / {str(new)[:150]}"


def continue_old(work: Path, before: Path, after: Path, datasets: dict[str, tuple[Path, list[str]]]) -> int:
    """Let the second tree go on with what the first one made; returns the number of differences."""
    wrong = 0
    for name, (folder, arguments) in datasets.items():
        old, copied = work / "before" / name, work / "continued" / name
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(old, copied)
        trained = {f: f.stat().st_mtime_ns for f in copied.rglob("fold_*/model.nnseg")}
        python(
            after, "-m", "nnseg", "run", str(folder), str(copied), *arguments, "--steps", str(STEPS), "--no-probe", "--seed", "0"
        )
        touched = [f.name for f, at in trained.items() if f.stat().st_mtime_ns != at]
        shutil.rmtree(copied / "predicted")
        predict(after, folder, old, copied / "predicted")
        wrong += bool(touched) + compare(f"{name}, a run of the first tree continued", facts_of(old), facts_of(copied))
        if touched:
            print(f"  trained anew: {touched}")
    return wrong + resume_killed(work, before, after, datasets["hippocampus"][0])


def resume_killed(work: Path, before: Path, after: Path, dataset: Path) -> int:
    """A training of the first tree, killed after a checkpoint, ends under either tree with the same weights."""
    killed, steps = work / "before" / "killed", ["--folds", "0", "--steps", "250", "--checkpoint", "1s"]
    if not killed.exists():
        python(before, "-m", "nnseg", "plan", str(dataset), str(killed), *steps[:4], "--no-probe", "--seed", "0")
        fix_precision(killed)
        log = subprocess.DEVNULL
        command = [sys.executable, "-m", "nnseg", "train", str(killed), *steps]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(before)}, cwd=before.parent, stdout=log, stderr=log)
        while not (killed / "fold_0" / "checkpoint.safetensors").exists():
            time.sleep(0.05)
            if process.poll() is not None:
                raise SystemExit("the training to be killed ended too early")
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (killed / "fold_0" / "model.nnseg").exists():
            raise SystemExit("the training to be killed was finished before it was")
    ends = []
    for tree, name in ((before, "by_before"), (after, "by_after")):
        copied = work / "continued" / name
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(killed, copied)
        python(tree, "-m", "nnseg", "train", str(copied), *steps)
        ends.append(facts_of(copied))
    return compare("a training of the first tree, killed and resumed by each", *ends)


if __name__ == "__main__":
    sys.exit(main())
