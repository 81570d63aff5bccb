"""Folders such as nnU-Net's trainings leave, made by hand: its JSON, and weights of ours under its names."""

import copy
import json
from pathlib import Path

import torch

from nnseg.interop.nnunet.plans import NnunetPlans
from nnseg.network.build import build_network
from nnseg.network.nnunet_names import nnunet_name

RULES = {"is_seg": False, "order_z": 0, "force_separate_z": None}
FULL = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [8, 16, 12],
    "median_image_size_in_voxels": [9.0, 18.0, 14.0],
    "spacing": [3.0, 0.5, 0.75],
    "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
    "use_mask_for_norm": [True, True],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {**RULES, "order": 3},
    "resampling_fn_seg_kwargs": {**RULES, "is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {**RULES, "order": 1},
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [2, 4, 6],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 1, 2],
            "n_conv_per_stage_decoder": [2, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
    "batch_dice": True,
}
PLANS = {
    "dataset_name": "Dataset007_Pancreas",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [2, 0, 1],
    "transpose_backward": [1, 2, 0],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "configurations": {
        "3d_fullres": FULL,
        "3d_lowres": {**FULL, "spacing": [3.0, 1.0, 1.5], "batch_dice": False, "next_stage": "3d_cascade_fullres"},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
    "foreground_intensity_properties_per_channel": {
        c: {"max": 900.0, "mean": 80.5, "median": 80.0, "min": -900.0, "percentile_00_5": -96.0, "percentile_99_5": 215.0,
            "std": 67.25}
        for c in "01"
    },
}  # fmt: skip
DATASET = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": {"background": 0, "organ": 1, "tumour": 2}, "file_ending": ".nii.gz"}


def plans_of(*, plans=None, dataset=None, **changes) -> NnunetPlans:
    """The plans above, with settings of 3d_fullres changed; a dotted key goes into what is nested."""
    made = copy.deepcopy(PLANS) | (plans or {})
    for key, value in changes.items():
        *path, last = key.split("__")
        place = made["configurations"]["3d_fullres"]
        for part in path:
            place = place[part]
        place[last] = value
    return NnunetPlans(folder=Path("model"), plans=made, dataset=dataset or DATASET)


def state_of(plans: NnunetPlans, configuration: str, seed: int) -> dict[str, torch.Tensor]:
    """Random weights by nnU-Net's names, with a copy such as it stores."""
    plan = plans.plan(configuration, ())
    torch.manual_seed(seed)
    ours = build_network(plan).state_dict()
    state = {nnunet_name(name): tensor for name, tensor in ours.items()}
    first = "encoder.stages.0.0.convs.0.conv.weight"
    copies = {first.replace(".conv.", ".all_modules.0."), f"decoder.{first}"}
    return state | (dict.fromkeys(copies, state[first]) if first in state else {})


def write_trained(folder: Path, plans: NnunetPlans, *, folds=(0,), configuration="3d_fullres", axes=(0, 1, 2), **entries) -> Path:
    """A folder of a trained configuration; entries replace those of its checkpoints."""
    place = folder / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    place.mkdir(parents=True)
    for name, content in (("plans", plans.plans), ("dataset", plans.dataset)):
        (place / f"{name}.json").write_text(json.dumps(content))
    for fold in folds:
        content = {
            "network_weights": state_of(plans, configuration, seed=fold if isinstance(fold, int) else 9),
            "init_args": {"configuration": configuration, "fold": fold, "device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainer_5epochs",
            "inference_allowed_mirroring_axes": axes,
        }
        (place / f"fold_{fold}").mkdir()
        torch.save(content | entries, place / f"fold_{fold}" / "checkpoint_final.pth")
    return place
