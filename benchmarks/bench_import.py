"""Do imported nnU-Net models answer as nnU-Net does? The share of equal voxels, for each kind of model that peer_zoo.py trained.

    python benchmarks/bench_import.py WORK [--kinds NAME ...] [--out results.json]

WORK is peer_zoo.py's. Every model is imported to a file, loaded again, and predicts the scans that ``nnUNetv2_predict`` did: as
nnU-Net does it (classic), and by default. Dice of all foreground against the references says whether a model has learned anything.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from nnseg.inference.predict import Predictor
from nnseg.interop.nnunet.model import read_nnunet_model
from nnseg.network.bundle import load_model_file, save_model
from nnseg.storage.images.read import read_label_map, read_scan


def main() -> None:
    """Import, predict and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kinds", nargs="*", help="names; all that were trained if none")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    zoo = json.loads((options.work / "zoo.json").read_text())
    results: dict[str, Any] = {}
    print(f"{'kind':20}{'voxels':>10}{'object':>9}{'classic':>11}{'default':>11}  Dice: nnU-Net  classic  default      s")
    for name in options.kinds or zoo:
        found = results[name] = compare(zoo[name], options.work / "imported" / f"{name}.nnseg")
        equal, dice = found["equal"], found["dice"]
        print(
            f"{name:20}{found['voxels']:>10}{found['object']:>9}{equal['classic']:>11.6f}{equal['default']:>11.6f}"
            f"{dice['nnunet']:>14.4f}{dice['classic']:>9.4f}{dice['default']:>9.4f}{found['seconds']:>7.1f}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def compare(kind: dict[str, Any], file: Path) -> dict[str, Any]:
    """Shares of equal voxels and Dice over all scans of a kind."""
    start = time.time()
    file.parent.mkdir(exist_ok=True)
    save_model(read_nnunet_model(Path(kind["model"])), file)
    model = load_model_file(file)
    scans, suffix = Path(kind["scans"]), kind["suffix"]
    answers: dict[str, list[np.ndarray]] = {"nnunet": [], "reference": [], "classic": [], "default": []}
    ways = {
        name: Predictor(model, device="cpu", mirror=kind["mirror"], classic=name == "classic") for name in ("classic", "default")
    }
    for reference in sorted(Path(kind["references"]).glob(f"*{suffix}")):
        case = reference.name.removesuffix(suffix)
        scan = read_scan(sorted(scans.glob(f"{case}_[0-9][0-9][0-9][0-9]{suffix}")))
        for name, place in (("nnunet", Path(kind["predictions"])), ("reference", reference.parent)):
            answers[name].append(read_label_map(place / reference.name, like=scan.source).labels.ravel())
        for name, predictor in ways.items():
            answers[name].append(predictor(scan).label_map.labels.ravel())
    joined = {name: np.concatenate(parts) for name, parts in answers.items()}
    known = joined["reference"] <= max(model.labels.values)  # all but what is ignored
    return {
        "voxels": int(known.size),
        "object": int((joined["nnunet"] > 0).sum()),
        "equal": {name: float((joined[name] == joined["nnunet"]).mean()) for name in ways},
        "dice": {n: dice(joined[n][known], joined["reference"][known]) for n in joined if n != "reference"},
        "seconds": time.time() - start,
    }


def dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean over the labels of the reference."""
    values = np.unique(reference[reference > 0])
    return float(
        np.mean(
            [2 * ((predicted == v) & (reference == v)).sum() / ((predicted == v).sum() + (reference == v).sum()) for v in values]
        )
    )


if __name__ == "__main__":
    main()
