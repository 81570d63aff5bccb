"""Does nnseg plan as nnU-Net does, decision by decision, and how much sooner?

    python benchmarks/bench_planner.py WORK --peer PEER_PYTHON [--count 300] [--seed 0] [--only write|plan|compare|speed]

PEER_PYTHON is the interpreter of an environment with nnunetv2. Random fingerprints are written in both forms, nnU-Net's planners
plan them (peer_planner.py; what it has planned it does not plan again), nnseg plans them with the recipes that stand for those
planners, and every field of every configuration is compared, numbers exactly. WORK/differences.json lists what differs, and why.
Then whole processes are timed, from a fingerprint on file to plans on file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.fingerprint import CaseMeasure, Fingerprint, Intensity
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Budget, Plan
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe
from nnseg.planning.spacing import choose_resolution

HERE = Path(__file__).resolve().parent
RECIPES = {
    "nnunet": "nnUNetPlans",
    "resenc-m": "nnUNetResEncUNetMPlans",
    "resenc-l": "nnUNetResEncUNetLPlans",
    "resenc-xl": "nnUNetResEncUNetXLPlans",
}
"""Recipes, with the name of the peer's plans that each must reproduce."""
CONFIGURATIONS = {"2d": "2d", "3d": "3d_fullres", "3d_lowres": "3d_lowres", "3d_cascade": "3d_cascade_fullres"}
"""Our names of plans, and the peer's."""
SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
CHANNELS = ("CT", "CT", "CT", "MRI", "T1", "FLAIR", "PET", "zscore", "noNorm", "rescale_to_0_1", "rgb_to_0_1")
OURS = (sys.executable, "-c", "from nnseg.cli import main; main()")
"""The command nnseg."""
EDGES, SPACINGS = (8, 1500), (0.1, 10.0)
Table = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A made-up dataset.

    Args:
        shapes, cropped: (cases, 3) voxels.
        spacings: (cases, 3) mm, as nnseg's readers give them.
        peer_spacings: as the peer's readers give them: a 2D image gets 999 (times its pixels) along the missing axis.
        channels: names.
        labels: in the peer's form, values (or lists of them) by name.
    """

    shapes: Table
    cropped: Table
    spacings: Table
    peer_spacings: Table
    channels: tuple[str, ...]
    labels: dict[str, Any]


def main() -> None:
    """Run the chosen stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="interpreter with nnunetv2")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5, help="of each pair of processes; medians are reported")
    parser.add_argument("--only", choices=("write", "plan", "compare", "speed"))
    options = parser.parse_args()
    stages = {"write": write, "plan": plan, "compare": compare, "speed": speed}
    for name in [options.only] if options.only else list(stages):
        stages[name](options)


def write(options: argparse.Namespace) -> None:
    """Random fingerprints, in both forms."""
    for index in range(options.count):
        write_example(make_example(np.random.default_rng([options.seed, index])), options.work, f"Dataset{index + 1:03}_Random")


def write_example(example: Example, work: Path, name: str) -> None:
    """The example's files: our fingerprint, and what the peer reads."""
    fingerprint = as_ours(example, name)
    described, measured = as_peers(example, fingerprint)
    files = {
        f"ours/{name}.json": fingerprint.model_dump(mode="json"),
        f"raw/{name}/dataset.json": described,
        f"preprocessed/{name}/dataset_fingerprint.json": measured,
    }
    for file, content in files.items():
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        (work / file).write_text(json.dumps(content) + "\n")


def plan(options: argparse.Namespace) -> None:
    """The peer's plans."""
    subprocess.run([str(options.peer), str(HERE / "peer_planner.py"), str(options.work)], check=True)


def make_example(random: np.random.Generator) -> Example:
    """A dataset of 5 to 1000 cases from one to five scanners; every tenth is of 2D images."""
    count, flat = int(log_uniform(random, 5, 1000)), random.random() < 0.1
    scanners = [_scanner(random, wild=bool(random.random() < 0.4)) for _ in range(random.integers(1, 6))]
    shares = random.dirichlet(np.ones(len(scanners)))
    of = random.choice(len(scanners), size=count, p=shares)
    shapes = np.array([scanners[i][0] for i in of], np.float64)
    spacings = np.array([scanners[i][1] for i in of], np.float64)
    if random.random() < 0.6:  # no two cases are alike
        shapes = np.round(shapes * random.uniform(0.8, 1.2, shapes.shape)).clip(*EDGES)
    if random.random() < 0.4:
        spacings = (spacings * random.uniform(0.9, 1.1, (count, 1))).clip(*SPACINGS)
    if flat:
        shapes[:, 0] = spacings[:, 0] = 1
        spacings[:, 1:] = spacings[:, 1:] if random.random() < 0.3 else 1
    elif random.random() < 0.03:  # single slices stored as volumes
        shapes[:, int(random.integers(3))] = 1
    keep = random.uniform(0.55, 1, shapes.shape) if random.random() < 0.5 else np.ones(shapes.shape)
    peer_spacings = spacings.copy()
    if flat:
        peer_spacings[:, 0] = 999 * spacings[:, 1:].max(axis=1)
    return Example(
        shapes=shapes,
        cropped=np.ceil(shapes * keep),
        spacings=spacings,
        peer_spacings=peer_spacings,
        channels=tuple(random.choice(CHANNELS, size=random.integers(1, 5)).tolist()),
        labels=_labels(random),
    )


def _scanner(random: np.random.Generator, *, wild: bool) -> tuple[Table, Table]:
    """Typical shape and spacing: equal in the plane of slices that may be thick, or anything if wild."""
    if wild:
        return np.round(log_uniform(random, *EDGES, 3)), log_uniform(random, *SPACINGS, 3)
    edge, mm = np.round(log_uniform(random, 32, 1024)), log_uniform(random, 0.2, 2)
    slices, thickness = np.round(log_uniform(random, 8, 600)), min(10.0, mm * log_uniform(random, 1, 8))
    if random.random() < 0.5:
        mm, thickness = max(round(mm, 1), 0.1), max(round(thickness * 2) / 2, 0.5)
    axis = int(random.choice(3, p=(0.7, 0.1, 0.2)))
    shape, spacing = np.full(3, edge), np.full(3, mm)
    shape[axis], spacing[axis] = slices, thickness
    return shape, spacing


def _labels(random: np.random.Generator) -> dict[str, Any]:
    """1 to 60 labels, sometimes regions of them, sometimes an ignore label."""
    count = int(log_uniform(random, 1, 61))
    labels: dict[str, Any] = {"background": 0} | {f"label {i}": i for i in range(1, count + 1)}
    if count > 2 and random.random() < 0.15:
        labels = {"background": 0, "whole": list(range(1, count + 1)), "part": list(range(2, count + 1)), "core": [count]}
    if random.random() < 0.15:
        labels["ignore"] = count + 1
    return labels


def log_uniform(random: np.random.Generator, low: float, high: float, size: int | None = None) -> Any:
    """Numbers whose logarithm is uniform."""
    return np.exp(random.uniform(np.log(low), np.log(high), size))


def as_ours(example: Example, name: str) -> Fingerprint:
    """The example as nnseg would have measured it."""
    labels = _our_labels(example.labels)
    voxels = dict.fromkeys(labels.names, 100)
    rows = zip(example.shapes, example.cropped, example.spacings, strict=True)
    cases = [
        CaseMeasure(
            name=f"case{i:04}", key=str(i), shape=_ints(n), cropped_shape=_ints(c), spacing=tuple(mm.tolist()), voxels=voxels
        )
        for i, (n, c, mm) in enumerate(rows)
    ]
    ends = {"min": -1000.0, "max": 3000.0, "percentile_00_5": -150.0, "percentile_99_5": 250.0}
    intensities = [Intensity(mean=80.0 + i, median=85.0, std=40.0, **ends) for i in range(len(example.channels))]
    return Fingerprint(
        dataset=name, layout="made up", channels=example.channels, labels=labels, cases=tuple(cases), intensities=tuple(intensities)
    )  # fmt: skip


def _our_labels(named: dict[str, Any]) -> Labels:
    values = sorted(
        {v for name, given in named.items() if name != "ignore" for v in (given if isinstance(given, list) else [given])}
    )
    regions = [Region(name=n, values=tuple(v), paint=v[0]) for n, v in named.items() if isinstance(v, list)]
    names = ("background", *(f"label {v}" for v in values[1:]))
    return Labels(names=names, values=tuple(values), ignore=named.get("ignore"), regions=tuple(regions))


def _ints(values: Table) -> Any:
    return tuple(int(v) for v in values)


def as_peers(example: Example, fingerprint: Fingerprint) -> tuple[dict[str, Any], dict[str, Any]]:
    """dataset.json and dataset_fingerprint.json."""
    cases = {c.name: {"images": [f"{c.name}_0000.nii.gz"], "label": f"{c.name}.nii.gz"} for c in fingerprint.cases}
    described = {
        "channel_names": {str(i): name for i, name in enumerate(example.channels)},
        "labels": example.labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",  # or the planner would open an image
        "dataset": cases,
    }
    intensities = {str(i): of.model_dump(mode="json") for i, of in enumerate(fingerprint.intensities)}
    measured = {
        "spacings": example.peer_spacings.tolist(),
        "shapes_after_crop": example.cropped.astype(int).tolist(),
        "foreground_intensity_properties_per_channel": intensities,
        "median_relative_size_after_cropping": fingerprint.relative_size_after_cropping,
    }
    return described, measured


def compare(options: argparse.Namespace) -> None:
    """Ours beside the peer's: a table, and every difference with its cause."""
    recipes = {name: load_recipe(name) for name in RECIPES}
    counts: Counter[tuple[str, str, str]] = Counter()
    differences, seconds = [], []
    for file in sorted((options.work / "ours").glob("*.json")):
        fingerprint, folder = Fingerprint.model_validate_json(file.read_text()), options.work / "preprocessed" / file.stem
        if not (folder / "outcome.json").exists():
            continue
        outcome = json.loads((folder / "outcome.json").read_text())
        for recipe, peers_name in RECIPES.items():
            start = time.process_time()
            ours = {p.name: p for p in make_plans(fingerprint, Budget(device="cuda"), recipes[recipe], kinds=("all",))}
            seconds.append(time.process_time() - start)
            failed = outcome[recipe]["failed"]
            theirs = {} if failed else json.loads((folder / f"{peers_name}.json").read_text())
            for kind in CONFIGURATIONS:
                mine, yours = our_fields(ours.get(kind), fingerprint), {} if failed else peer_fields(theirs, kind)
                wrong = {} if failed else {k: (mine.get(k), yours.get(k)) for k in mine | yours if mine.get(k) != yours.get(k)}
                verdict = "failed" if failed else "different" if wrong else "equal" if mine else "absent"
                counts[recipe, kind, verdict] += 1
                if failed or wrong:
                    cause = f"the peer fails: {failed}" if failed else cause_of(ours.get(kind), theirs, kind, fingerprint)
                    differences.append({"dataset": file.stem, "recipe": recipe, "plan": kind, "cause": cause, "fields": wrong})
    (options.work / "differences.json").write_text(json.dumps(differences, indent=1) + "\n")
    _print(counts, differences, seconds)


def _print(counts: Counter[tuple[str, str, str]], differences: list[dict[str, Any]], seconds: list[float]) -> None:
    print("| recipe | plan | equal | neither has it | different | peer fails |\n|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for kind in CONFIGURATIONS:
            cells = [str(counts[recipe, kind, verdict]) for verdict in ("equal", "absent", "different", "failed")]
            print(f"| {recipe} | {kind} | {' | '.join(cells)} |")
    causes = Counter(d["cause"] for d in differences)
    print("\nDifferences:" if causes else "\nNo differences.", *(f"- {n} x {cause}" for cause, n in causes.most_common()), sep="\n")
    print(f"\nAll plans of a recipe: {1000 * median(seconds):.1f} ms in the median, {1000 * max(seconds):.0f} ms at most (CPU)")


def our_fields(plan: Plan | None, fingerprint: Fingerprint) -> dict[str, Any]:
    """What a plan of ours decides, in the peer's words; nothing without a plan."""
    if plan is None:
        return {}
    of, dimensions = plan.preprocessing, plan.dimensions
    resolution = choose_resolution(fingerprint.spacings, fingerprint.cropped_shapes, anisotropy=of.separate_axis_ratio)
    return {
        "spacing": list(of.spacing),
        "transpose": list(of.axes),
        "median shape": None if plan.name == "3d_lowres" else list(resolution.shape)[-dimensions:],
        "patch": list(plan.patch),
        "network": plan.network.kind,
        "features": list(plan.network.features),
        "strides": [list(s) for s in plan.network.strides],
        "kernels": [list(k) for k in plan.network.kernels],
        "blocks": list(plan.network.blocks),
        "decoder blocks": list(plan.network.decoder_blocks),
        "batch size": plan.training.batch_size,
        "batch dice": plan.training.batch_dice,
        "normalization": [SCHEMES[n.scheme] for n in of.normalization],
        "masked": [n.masked for n in of.normalization],
        "ct": [[n.mean, n.std, n.low, n.high] for n in of.normalization if n.scheme == "ct"],
        "image order": of.image_order,
        "separate axis ratio": of.separate_axis_ratio,
        "previous": plan.previous,
    }


def peer_fields(plans: dict[str, Any], kind: str) -> dict[str, Any]:
    """What the peer decides, likewise."""
    of = plans["configurations"].get(CONFIGURATIONS[kind])
    if of is None:
        return {}
    if "inherits_from" in of:
        of = plans["configurations"][of["inherits_from"]] | of
    network, resampling = of["architecture"]["arch_kwargs"], of["resampling_fn_data_kwargs"]
    known = plans["foreground_intensity_properties_per_channel"].values()
    names = ("mean", "std", "percentile_00_5", "percentile_99_5")
    usual = of["resampling_fn_data"] == "resample_data_or_seg_to_shape" and resampling["force_separate_z"] is None
    return {
        "spacing": of["spacing"],
        "transpose": plans["transpose_forward"],
        "median shape": None if kind == "3d_lowres" else of["median_image_size_in_voxels"],
        "patch": of["patch_size"],
        "network": "residual" if "ResidualEncoderUNet" in of["architecture"]["network_class_name"] else "plain",
        "features": network["features_per_stage"],
        "strides": network["strides"],
        "kernels": network["kernel_sizes"],
        "blocks": network.get("n_conv_per_stage") or network["n_blocks_per_stage"],
        "decoder blocks": network["n_conv_per_stage_decoder"],
        "batch size": of["batch_size"],
        "batch dice": of["batch_dice"],
        "normalization": of["normalization_schemes"],
        "masked": of["use_mask_for_norm"],
        "ct": [[k[n] for n in names] for k, s in zip(known, of["normalization_schemes"], strict=True) if s == SCHEMES["ct"]],
        "image order": resampling["order"],
        "separate axis ratio": 3.0 if usual and resampling["order_z"] == 0 else None,  # ANISO_THRESHOLD of the function named
        "previous": of.get("previous_stage"),
    }


def cause_of(plan: Plan | None, plans: dict[str, Any], kind: str, fingerprint: Fingerprint) -> str:
    """Why they differ, where it is one of the deviations we intend."""
    if all(case.shape[0] == 1 for case in fingerprint.cases) and plans["configurations"].keys() > {"2d"}:
        return "2D images of several pixel sizes: the peer makes volumes of them (their missing axis is 999 pixels coarse)"
    if (np.median(fingerprint.cropped_shapes, axis=0) == 1).any():
        return "volumes of a single slice: ours puts that axis first, the peer the coarsest one"
    if any(len((peer_fields(plans, k) or {"strides": "--"})["strides"]) == 1 for k in (kind, "3d")):
        return "the peer's network has a single stage and cannot be trained; ours pools once"
    return "UNEXPLAINED"


def speed(options: argparse.Namespace) -> None:
    """Whole processes from a fingerprint on file to plans on file, in turn; ratios pair by pair, medians."""
    work = options.work / "speed"
    settings = {f"nnUNet_{of}": str(work / of) for of in ("raw", "preprocessed", "results")}
    print("| fingerprint | nnseg: wall, CPU s | nnU-Net: wall, CPU s | ratio of wall | of CPU |\n|---|---|---|---|---|")
    for number, (name, example) in enumerate(_usual().items(), start=1):
        write_example(example, work, dataset := f"Dataset{number:03}_{name}")
        recipe = ["--recipe", "nnunet", "--plans", "all", "--device", "cuda"]
        plan_ours = [*OURS, "plan", str(work / "ours" / f"{dataset}.json"), str(work / "run" / name)]
        plan_peers = [str(options.peer.parent / "nnUNetv2_plan_experiment"), "-d", str(number)]
        pairs = []
        for _ in range(options.repeats):
            shutil.rmtree(work / "run", ignore_errors=True)
            (work / "preprocessed" / dataset / "nnUNetPlans.json").unlink(missing_ok=True)
            pairs.append((_timed([*plan_ours, *recipe, "--no-probe"], {}), _timed(plan_peers, settings)))
        ours, peers = ([f"{median(p[side][i] for p in pairs):.2f}" for i in (0, 1)] for side in (0, 1))
        ratios = [f"{median(p[1][i] / p[0][i] for p in pairs):.1f}" for i in (0, 1)]
        print(f"| {name} | {', '.join(ours)} | {', '.join(peers)} | {' | '.join(ratios)} |", flush=True)


def _usual() -> dict[str, Example]:
    """Small alike volumes as of Hippocampus, and large CT as of Liver."""
    random = np.random.default_rng(0)
    small = np.round(random.uniform((31, 40, 24), (43, 60, 47), (200, 3)))
    large = np.stack([np.round(random.uniform(75, 900, 20)), np.full(20, 512), np.full(20, 512)], axis=1)
    thickness, mm = random.uniform(0.7, 2.0, 20).round(2), random.uniform(0.6, 1.0, 20).round(3)
    labels = {"background": 0, "first": 1, "second": 2}
    spacings = {"Hippocampus": np.ones((200, 3)), "CT": np.stack([thickness, mm, mm], axis=1)}
    shapes, channels = {"Hippocampus": small, "CT": large}, {"Hippocampus": "MRI", "CT": "CT"}
    return {
        name: Example(
            shapes=shapes[name], cropped=shapes[name], spacings=mm, peer_spacings=mm, channels=(channels[name],), labels=labels
        )
        for name, mm in spacings.items()
    }  # fmt: skip


def _timed(command: list[str], settings: dict[str, str]) -> tuple[float, float]:
    """Seconds of wall-clock and of the processor."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
