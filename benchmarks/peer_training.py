"""Train the peer, nnU-Net v2, on one fold on the CPU within a given time, its schedule annealed, and validate the held-out cases.

    python benchmarks/peer_training.py DATASET_NAME --minutes 20 --out report.json       (in the peer's own environment)

nnU-Net only knows fixed numbers of epochs. Here its stock trainer is timed for a few iterations, its weights are set back, and the
number of epochs is chosen so that the polynomial schedule ends in time. Nothing else differs from stock: plan, loss, augmentation,
float32 on a CPU. The class keeps the stock name so that ``nnUNetv2_predict`` finds the result.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

START = time.time()
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_def_n_proc", "2")
os.environ.setdefault("nnUNet_compile", "f")

import torch  # noqa: E402
from nnunetv2.paths import nnUNet_preprocessed  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as Stock  # noqa: E402

ITERATIONS, VALIDATION_ITERATIONS = 10, 1
WARM_UP, TIMED = 2, 8
EPOCH_OVERHEAD = 1.0


class nnUNetTrainer(Stock):  # noqa: N801
    """The stock trainer with a number of epochs that fits into a time."""

    deadline = math.inf

    def on_train_start(self) -> None:
        """Time a few iterations, forget them, and fix the schedule."""
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = ITERATIONS, VALIDATION_ITERATIONS
        super().on_train_start()
        state = copy.deepcopy(self.network.state_dict())
        self.network.train()
        for _ in range(WARM_UP):
            self.train_step(next(self.dataloader_train))
        start = time.time()
        for _ in range(TIMED):
            self.train_step(next(self.dataloader_train))
        self.iteration_seconds = (time.time() - start) / TIMED
        self.network.load_state_dict(state)
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        epoch = self.iteration_seconds * (ITERATIONS + VALIDATION_ITERATIONS) + EPOCH_OVERHEAD
        self.num_epochs = max(1, int((self.deadline - time.time()) / epoch))
        self.lr_scheduler.max_steps = self.num_epochs

    def run_training(self) -> None:
        """The stock loop, reading the number of epochs after `on_train_start` has fixed it."""
        self.on_train_start()
        for _ in range(self.num_epochs):
            self.on_epoch_start()
            self.on_train_epoch_start()
            self.on_train_epoch_end([self.train_step(next(self.dataloader_train)) for _ in range(ITERATIONS)])
            with torch.no_grad():
                self.on_validation_epoch_start()
                self.on_validation_epoch_end(
                    [self.validation_step(next(self.dataloader_val)) for _ in range(VALIDATION_ITERATIONS)]
                )
            self.on_epoch_end()
        self.on_train_end()


def main() -> None:
    """Train fold 0 of 3d_fullres and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(str(nnUNet_preprocessed)) / options.dataset
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    described = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, described, torch.device("cpu"))
    trainer.deadline = START + 60 * options.minutes
    trainer.run_training()
    trained = time.time()
    trainer.perform_actual_validation(False)
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    report = {
        "training_s": round(trained - START, 1),
        "validation_s": round(time.time() - trained, 1),
        "seconds_per_iteration": round(trainer.iteration_seconds, 3),
        "iterations": trainer.num_epochs * ITERATIONS,
        "batch_size": trainer.batch_size,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "dice": {label: round(scores["Dice"], 4) for label, scores in summary["mean"].items()},
        "mean_dice": round(summary["foreground_mean"]["Dice"], 4),
        "cases": len(summary["metric_per_case"]),
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
