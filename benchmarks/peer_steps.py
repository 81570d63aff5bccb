"""Training steps of the peer, nnU-Net v2, on demand (see stepping.py): its stock trainer, network, loss, loader and augmentation.

    python benchmarks/peer_steps.py DATASET_NAME [--plans nnUNetPlans] [--configuration 3d_fullres] [--device cpu] [--threads 2]

Run in the peer's own environment by bench_training.py, with nnUNet_preprocessed and the like set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stepping import Clock, answers, serve


def main() -> None:
    """Make the trainer ready for its first step, and wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    out = answers()

    import torch  # noqa: PLC0415 (what libraries print must not be taken for an answer)
    from nnunetv2.paths import nnUNet_preprocessed  # noqa: PLC0415
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: PLC0415

    torch.set_num_threads(options.threads)
    folder = Path(str(nnUNet_preprocessed)) / options.dataset
    plans = json.loads((folder / f"{options.plans}.json").read_text()) | {"continue_training": False}
    described = json.loads((folder / "dataset.json").read_text())
    device = torch.device(options.device)
    trainer = nnUNetTrainer(plans, options.configuration, 0, described, device)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    about = {
        "batch_size": trainer.batch_size,
        "patch": list(trainer.configuration_manager.patch_size),
        "precision": "float16" if device.type == "cuda" else "float32",
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }
    serve(out, about, load=lambda: next(trainer.dataloader_train), step=trainer.train_step, clock=Clock(torch, device))


if __name__ == "__main__":
    main()
