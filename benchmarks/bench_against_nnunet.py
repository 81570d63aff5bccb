"""How do nnseg and nnU-Net compare on one dataset and one machine: preparing, training fold 0, predicting, memory, Dice?

    python benchmarks/bench_against_nnunet.py DATASET WORK --peer PEER_PYTHON [--minutes 20] [--only prepare|train|predict]

DATASET is in Decathlon layout. PEER_PYTHON is the interpreter of an environment with nnunetv2 (on a machine whose torch has no
torchvision, install it with ``--no-deps`` and its imports by name) and psutil. Everything is run as whole processes, one after the
other, each measured by measure.py; WORK/results.json has the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from statistics import median

from measure import measure

from nnseg.interop.nnunet.dataset import write_raw_dataset
from nnseg.storage.datasets.read import read_dataset

HERE = Path(__file__).resolve().parent
NAME = "Dataset004_Peer"


def main() -> None:
    """Run the chosen stages of both tools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="interpreter with nnunetv2")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="of the preparing stage; the median is reported")
    parser.add_argument("--only", choices=("prepare", "train", "predict"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results_file = options.work / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    stages = {"prepare": prepare, "train": train, "predict": predict}
    for name in [options.only] if options.only else list(stages):
        results[name] = stages[name](options)
        results_file.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps({name: results[name]}, indent=1))


def prepare(options: argparse.Namespace) -> dict[str, object]:
    """Fingerprint, plan and preprocess from nothing, both tools in turn; the peer as it comes, and told to use two processes."""
    work, ours, peers, tuned = options.work, [], [], []
    if not (work / "raw" / NAME).exists():
        write_raw_dataset(read_dataset(options.dataset), work / "raw" / NAME)
    for _ in range(options.repeats):
        shutil.rmtree(work / "ours", ignore_errors=True)
        shutil.rmtree(work / "preprocessed", ignore_errors=True)
        budget = ["--budget", f"{options.minutes}m", "--folds", "0"]
        planned = measure([sys.executable, "-m", "nnseg", "plan", str(options.dataset), str(work / "ours"), *budget])
        done = measure([sys.executable, "-m", "nnseg", "preprocess", str(work / "ours")])
        ours.append({k: round(max(planned[k], done[k]) if "peak" in k else planned[k] + done[k], 2) for k in planned})
        peers.append(run_peer(options, "nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres"))
        tuned.append(
            run_peer(options, "nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres", "-np", "2", "-npfp", "2", "--clean")
        )
    ratios = {
        name: round(median(p["wall_s"] / o["wall_s"] for o, p in zip(ours, theirs, strict=True)), 2)
        for name, theirs in (("median_ratio", peers), ("median_ratio_two_processes", tuned))
    }
    return {"nnseg": ours, "nnunet": peers, "nnunet_two_processes": tuned, **ratios}


def train(options: argparse.Namespace) -> dict[str, object]:
    """Fold 0 within the same time; nnseg's figures include planning, preprocessing, held-out prediction, scores and report."""
    work = options.work
    shutil.rmtree(work / "ours", ignore_errors=True)
    command = ["run", str(options.dataset), str(work / "ours"), "--folds", "0", "--budget", f"{options.minutes}m"]
    ours = measure([sys.executable, "-m", "nnseg", *command], work / "nnseg_train.log")
    scores = json.loads((work / "ours" / "scores.json").read_text())["averages"]["per_mask"]["dice"]
    seconds = json.loads((work / "ours" / "run.json").read_text())["seconds"]
    report = work / "peer_report.json"
    script = [str(HERE / "peer_training.py"), NAME, "--minutes", str(options.minutes), "--out", str(report)]
    peers = measure([*peer_environment(work), str(options.peer), *script], work / "peer_train.log")
    return {"nnseg": {**ours, "dice": scores, "seconds": seconds}, "nnunet": {**peers, **json.loads(report.read_text())}}


def predict(options: argparse.Namespace) -> dict[str, object]:
    """The held-out scans of fold 0 from their files, with mirroring, whole processes."""
    work, scans = options.work, options.work / "scans"
    shutil.rmtree(scans, ignore_errors=True)
    for name in ("ours_predicted", "peer_predicted"):
        shutil.rmtree(work / name, ignore_errors=True)
    scans.mkdir()
    names = json.loads((work / "ours" / "folds.json").read_text())[0]["held_out"]
    for name in names:
        (scans / f"{name}_0000.nii.gz").symlink_to((options.dataset / "imagesTr" / f"{name}.nii.gz").resolve())
    command = ["predict", str(scans), str(work / "ours_predicted"), "--model", str(work / "ours")]
    ours = measure([sys.executable, "-m", "nnseg", *command])
    model = ["-d", "4", "-c", "3d_fullres", "-f", "0", "-chk", "checkpoint_final.pth", "-device", "cpu", "-npp", "1", "-nps", "1"]
    peers = run_peer(options, "nnUNetv2_predict", "-i", str(scans), "-o", str(work / "peer_predicted"), *model)
    return {"scans": len(names), "nnseg": ours, "nnunet": peers, "ratio": round(peers["wall_s"] / ours["wall_s"], 2)}


def run_peer(options: argparse.Namespace, verb: str, *arguments: str) -> dict[str, float]:
    """What one of the peer's own commands took."""
    command = [*peer_environment(options.work), str(options.peer.parent / verb), *arguments]
    found = measure(command, options.work / f"{verb}.log")
    if found["exit_code"]:
        raise SystemExit(f"{verb} failed, see {options.work / (verb + '.log')}")
    return found


def peer_environment(work: Path, *, loaders: int = 1, compiled: bool = False) -> list[str]:
    """The beginning of a command line of the peer: folders, how many processes augment, whether to use torch.compile."""
    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    for folder in folders.values():
        (work / folder).mkdir(exist_ok=True)
    return [
        "env",
        *(f"{name}={(work / folder).resolve()}" for name, folder in folders.items()),
        f"nnUNet_compile={'t' if compiled else 'f'}",
        f"nnUNet_n_proc_DA={loaders}",
        "nnUNet_def_n_proc=2",
        f"PATH={os.environ['PATH']}",
    ]


if __name__ == "__main__":
    main()
