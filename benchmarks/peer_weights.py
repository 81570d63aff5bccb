"""A trained nnU-Net folder with other weights in it; run with the peer's Python.

    PEER_PYTHON benchmarks/peer_weights.py WEIGHTS.npz LIKE_CHECKPOINT.pth MODEL_FOLDER CONFIGURATION

So that a benchmark of prediction needs no training in nnU-Net, which takes hours on a CPU: the network is built by nnU-Net from the
folder's plans.json, and every one of its weights must be in WEIGHTS, under its own name and of its shape. LIKE_CHECKPOINT is any
real one of nnU-Net; MODEL_FOLDER has plans.json and dataset.json, and gets fold_0/checkpoint_final.pth.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main() -> None:
    weights_file, like, folder, name = sys.argv[1:]
    place = Path(folder)
    plans, dataset = (json.loads((place / file).read_text()) for file in ("plans.json", "dataset.json"))
    manager = PlansManager(plans)
    configuration, labels = manager.get_configuration(name), manager.get_label_manager(dataset)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(dataset["channel_names"]),
        labels.num_segmentation_heads,
        deep_supervision=True,
    )
    weights = {key: torch.from_numpy(value) for key, value in np.load(weights_file).items()}
    found = network.load_state_dict(weights, strict=False)
    copies = [key for key in found.missing_keys if "all_modules" not in key and not key.startswith("decoder.encoder.")]
    if copies or found.unexpected_keys:
        raise SystemExit(f"weights do not fit: missing {copies[:3]}, unexpected {found.unexpected_keys[:3]}")
    for key, value in network.state_dict().items():  # the same tensors under other names
        plain = key.replace("decoder.encoder.", "encoder.")
        if plain in weights and not torch.equal(value, weights[plain]):
            raise SystemExit(f"{key} is another tensor than {plain}")
    checkpoint = torch.load(like, map_location="cpu", weights_only=False)
    checkpoint["network_weights"] = network.state_dict()
    checkpoint["init_args"] |= {"plans": plans, "dataset_json": dataset, "configuration": name, "fold": 0}
    checkpoint["inference_allowed_mirroring_axes"] = tuple(range(len(configuration.patch_size)))
    checkpoint["optimizer_state"] = None
    (place / "fold_0").mkdir(exist_ok=True)
    torch.save(checkpoint, place / "fold_0" / "checkpoint_final.pth")


if __name__ == "__main__":
    main()
