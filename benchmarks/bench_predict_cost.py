"""What does a prediction cost, in seconds and memory, as the scan, the number of labels or the number of networks grows?

    PYTHONPATH=. python benchmarks/bench_predict_cost.py benchmarks/figures/predict_cost.svg

Untrained small networks on noise, each point in a process of its own: a scan of 1 mm, a plan of 2 mm, tiles of 32 x 64 x 64, no
mirroring. Seconds of the networks and of the way back, and the peak memory above the idle process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from drawing import write_figure

from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.inference.predict import Predictor
from nnseg.network.build import build_unet
from nnseg.network.bundle import Member, Model
from nnseg.system.machine import GIGABYTE, held_gb, peak_ram

BASE = {"edge": 256, "labels": 3, "members": 1}
GROWN = {"edge": (160, 224, 288, 352, 400), "labels": (2, 50, 100, 150, 200), "members": (1, 2, 3, 4, 5)}


def one(edge: int, labels: int, members: int) -> dict[str, float]:
    """Seconds by stage, and GB, of one prediction."""
    threes, twos = (3, 3, 3), (2, 2, 2)
    network = Network(
        kind="plain",
        features=(16, 32, 64),
        strides=((1, 1, 1), twos, twos),
        kernels=(threes,) * 3,
        blocks=(1, 1, 1),
        decoder_blocks=(1, 1),
    )
    plan = Plan(
        name="3d",
        dataset="noise",
        recipe="none",
        channels=("CT",),
        patch=(32, 64, 64),
        labels=Labels(names=tuple(f"label {i}" for i in range(labels)), values=tuple(range(labels))),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(2.0, 2.0, 2.0), normalization=(Normalization(scheme="none"),), image_order=1
        ),
        network=network,
        training=Training(batch_size=2, precision="bfloat16"),
        inference=Inference(),
    )
    made = []
    for seed in range(members):
        torch.manual_seed(seed)
        made.append(Member(plan=plan, fold=seed, weights=build_unet(network, channels=1, heads=labels).state_dict()))
    predictor = Predictor(Model(members=tuple(made)), device="cpu")
    grid = Grid(shape=(edge, edge, edge))
    small = np.random.default_rng(0).normal(size=(1, edge // 16, edge // 16, edge // 16)).astype(np.float32)
    scan = Scan(
        image=small.repeat(16, 1).repeat(16, 2).repeat(16, 3), grid=grid, source=Source(files=(Path("noise.nii"),), grid=grid)
    )
    prepared = predictor.prepare(scan)
    idle = held_gb()
    with peak_ram(every=0.005, children=False) as peak:
        seconds = predictor.infer(prepared).seconds
    said = predictor.memory_gb(grid) - 4 * edge**3 / GIGABYTE  # the scan itself is held before
    return {**{k: round(v, 3) for k, v in seconds.items()}, "gb": round(peak.gb - idle, 3), "estimated_gb": round(said, 3)}


def main() -> None:
    if sys.argv[1] == "--one":
        print(json.dumps(one(*map(int, sys.argv[2:]))))
        return
    rows: dict[str, list[dict[str, float]]] = {}
    for what, values in GROWN.items():
        for value in values:
            arguments = [str(v) for v in (BASE | {what: value}).values()]
            answer = subprocess.run([sys.executable, __file__, "--one", *arguments], check=True, capture_output=True, text=True)
            rows.setdefault(what, []).append({what: value, **json.loads(answer.stdout.splitlines()[-1])})
            print(json.dumps(rows[what][-1]), flush=True)
    charts = []
    names = {"edge": "million voxels of the scan", "labels": "labels", "members": "networks"}
    for what, label in names.items():
        x = [row[what] ** 3 / 1e6 if what == "edge" else row[what] for row in rows[what]]
        charts.append(
            (
                f"Cost and {label}",
                label,
                "seconds, or tenths of a GB",
                {
                    "networks, seconds": [(a, row["network"]) for a, row in zip(x, rows[what], strict=True)],
                    "way back, seconds": [(a, row["restore"]) for a, row in zip(x, rows[what], strict=True)],
                    "peak memory, tenths of a GB": [(a, 10 * row["gb"]) for a, row in zip(x, rows[what], strict=True)],
                },
            )
        )
    write_figure(Path(sys.argv[1]), charts)


if __name__ == "__main__":
    main()
