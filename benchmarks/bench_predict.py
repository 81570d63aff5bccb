"""How long does a folder of scans take, beside nnU-Net with the same network: whole processes, memory, and are the labels the same?

    PYTHONPATH=. python benchmarks/bench_predict.py SCANS WORK --peer PEER_PYTHON --model MODEL_FOLDER [--repeats 3]

SCANS is a folder in nnU-Net's layout, MODEL_FOLDER one of nnU-Net's trained configurations (fold 0 of it). It is imported once;
then both tools predict the folder in turn, mirroring on: nnU-Net with one process each to read and to write (there are two cores),
nnseg as it comes, and once each in classic and fast mode. WORK/predict.json has the numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import median

import numpy as np
from measure import measure

from nnseg.storage.images.read import read_label_map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / "model.nnseg"
    imported = measure([sys.executable, "-m", "nnseg", "import", str(options.model), str(model), "--folds", "0"])
    print("import:", json.dumps(imported), flush=True)
    rows = []
    for repeat in range(options.repeats):
        row = {"nnseg": ours(options, model, "nnseg"), "nnU-Net": theirs(options)}
        if not repeat:
            row["nnseg --classic"] = ours(options, model, "classic", "--classic")
            row["nnseg --fast"] = ours(options, model, "fast", "--fast")
        rows.append(row)
        print(json.dumps(row), flush=True)
    ratios = {
        key: round(median(row["nnU-Net"][key] / row["nnseg"][key] for row in rows), 2)
        for key in ("wall_s", "cpu_s", "peak_tree_pss_mb", "peak_tree_rss_mb")
    }
    labels = {name: agreement(options.work / name, options.work / "theirs") for name in ("nnseg", "classic", "fast")}
    result = {"rows": rows, "median ratios": ratios, "against nnU-Net's labels": labels, "stages": stages(options.work / "nnseg")}
    (options.work / "predict.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("median ratios", "against nnU-Net's labels", "stages")}, indent=1))


def ours(options: argparse.Namespace, model: Path, name: str, *more: str) -> dict[str, float]:
    out = options.work / name
    shutil.rmtree(out, ignore_errors=True)
    command = ["-m", "nnseg", "predict", str(options.scans), str(out), "--model", str(model), "--device", "cpu", *more]
    return checked(measure([sys.executable, *command], options.work / f"{name}.log"))


def theirs(options: argparse.Namespace) -> dict[str, float]:
    out = options.work / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    tool = str(Path(options.peer).with_name("nnUNetv2_predict_from_modelfolder"))
    command = [tool, "-i", str(options.scans), "-o", str(out), "-m", str(options.model), "-f", "0", "-device", "cpu"]
    return checked(measure([*command, "-npp", "1", "-nps", "1"], options.work / "theirs.log"))


def checked(found: dict[str, float]) -> dict[str, float]:
    if found["exit_code"]:
        raise SystemExit(f"a command failed: {found}; see the logs")
    return found


def agreement(mine: Path, other: Path) -> dict[str, float]:
    """Share of equal voxels, and Dice of each label, over all scans of two folders."""
    equal = voxels = 0
    counts: dict[int, list[int]] = {}
    for file in sorted(other.glob("*.nii.gz")):
        a, b = read_label_map(mine / file.name).labels, read_label_map(file).labels
        equal, voxels = equal + int((a == b).sum()), voxels + a.size
        for label in np.union1d(np.unique(a), np.unique(b)).tolist():
            both, of_a, of_b = counts.setdefault(int(label), [0, 0, 0])
            counts[int(label)] = [
                both + int(((a == label) & (b == label)).sum()),
                of_a + int((a == label).sum()),
                of_b + int((b == label).sum()),
            ]
    dice = {f"dice {label}": round(2 * both / (a + b), 5) for label, (both, a, b) in counts.items() if label}
    return {"equal": round(equal / voxels, 6), **dice}


def stages(out: Path) -> dict[str, float]:
    """Seconds of each stage, summed over the scans."""
    cases = json.loads((out / "predictions.json").read_text())["cases"]
    total: dict[str, float] = {}
    for case in cases.values():
        for stage, seconds in case["seconds"].items():
            total[stage] = round(total.get(stage, 0.0) + seconds, 2)
    return total


if __name__ == "__main__":
    main()
