"""Export of a model into a folder with which nnU-Net v2 predicts: plans, description of the dataset, a checkpoint for each fold.

nnU-Net's readers turn axes to right, anterior and superior, ours to left, posterior and superior. A network that was trained so is
written mirrored along these axes: its kernels are reversed, and those of stages that pool along such an axis are widened by zeros,
since a reversed stride begins at the other end. Its logits are the same then; in nnU-Net it takes longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnseg.core.errors import ModelError
from nnseg.core.labels import Labels
from nnseg.core.plan import Network, Plan, Steps
from nnseg.interop.nnunet.plans import NORMALIZATIONS, RESAMPLING
from nnseg.network.bundle import Member, Model
from nnseg.network.nnunet_names import nnunet_name
from nnseg.storage.files import write_aside, write_text
from nnseg.storage.overwrite import new_folder

CONFIGURATIONS = {"2d": "2d", "3d": "3d_fullres", "3d_lowres": "3d_lowres"}
"""nnU-Net's names of plans. A cascade is not written."""

PICTURES = {".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tif": "Tiff3DIO", ".tiff": "Tiff3DIO"}
"""nnU-Net's readers of files without an orientation, by suffix."""

READERS = {"stored": "SimpleITKIO", "ras": "SimpleITKIOWithReorient", "lps": "SimpleITKIOWithReorient"}
"""nnU-Net's readers of other files, by the orientation in which a network sees them."""

SCHEMES = {ours: theirs for theirs, ours in NORMALIZATIONS.items()}
CLASSES = {"plain": "unet.PlainConvUNet", "residual": "unet.ResidualEncoderUNet"}
TRAINER, PLANS = "nnUNetTrainer", "nnUNetPlans"


def write_nnunet_model(model: Model, folder: Path, *, suffix: str = ".nii.gz", name: str = "Dataset001_nnseg") -> list[Path]:
    """Write a model as nnU-Net v2 reads it; returns the folders ``nnUNetTrainer__nnUNetPlans__CONFIGURATION``, one for each plan.

    Label values become 0, 1, 2, ... in their order. Postprocessing is not part of them: nnU-Net applies it by a command of its own.

    Args:
        folder: to create.
        suffix: of the scans that will be predicted.
        name: of the dataset in nnU-Net.

    Raises:
        ModelError: nnU-Net has no equal of the model; says of what.
        RunError: the folder exists, or cannot be written.
    """
    plans = [(plan, list(members)) for plan, members in groupby(model.members, key=lambda member: member.plan)]
    for number, (plan, _) in enumerate(plans):
        _check(plan, [before.name for before, _ in plans[:number]])
    made = []
    content = _plans([plan for plan, _ in plans], suffix, name)
    with new_folder(folder):
        for plan, members in plans:
            place = folder / f"{TRAINER}__{PLANS}__{CONFIGURATIONS[plan.name]}"
            write_text(place / "plans.json", json.dumps(content, indent=1) + "\n")
            write_text(place / "dataset.json", json.dumps(_dataset(plan, suffix), indent=1) + "\n")
            for member in members:
                fold = place / f"fold_{'all' if member.fold < 0 else member.fold}"
                with write_aside(fold / "checkpoint_final.pth") as aside:
                    _save(_checkpoint(member, suffix), aside)
            made.append(place)
    return made


def _save(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint as torch does.

    Raises:
        OSError: it cannot be written.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:  # of torch, most often for a full disk
        raise OSError(f"torch ended with: {str(error).splitlines()[0]}") from error


def _check(plan: Plan, others: Sequence[str]) -> None:
    """Raise ModelError for a plan that nnU-Net has no equal of."""
    if plan.previous or plan.name not in CONFIGURATIONS:
        raise ModelError(f"the plan {plan.name} is that of a cascade, which is not written for nnU-Net; export a run of one stage")
    if plan.name in others:
        raise ModelError(f"two plans of the model are called {plan.name}; nnU-Net needs one for each configuration")
    if plan.network.kind not in CLASSES or plan.network.attention_gates:
        gates = " with attention gates" * plan.network.attention_gates
        raise ModelError(f"nnU-Net has no network of the kind {plan.network.kind}{gates}; export it without --nnunet")
    if any(scheme.scheme not in SCHEMES for scheme in plan.preprocessing.normalization):
        raise ModelError(f"nnU-Net has no equal of one of {', '.join(n.scheme for n in plan.preprocessing.normalization)}")


def _plans(plans: Sequence[Plan], suffix: str, name: str) -> dict[str, Any]:
    """The content of plans.json."""
    axes = {(plan.preprocessing.axes, plan.preprocessing.orientation) for plan in plans}
    if len(axes) > 1:
        raise ModelError(
            "the plans of the model turn scans in different ways, which nnU-Net cannot; export them one by one (--folds)"
        )
    first = plans[0].preprocessing
    return {
        "dataset_name": name,
        "plans_name": PLANS,
        "image_reader_writer": PICTURES.get(suffix, READERS[first.orientation]),
        "transpose_forward": list(first.axes),
        "transpose_backward": [first.axes.index(axis) for axis in range(3)],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(number): {"mean": one.mean, "std": one.std, "percentile_00_5": one.low, "percentile_99_5": one.high}
            for number, one in enumerate(first.normalization)
        },
        "configurations": {CONFIGURATIONS[plan.name]: _configuration(plan, suffix) for plan in plans},
    }


def _configuration(plan: Plan, suffix: str) -> dict[str, Any]:
    settings = plan.preprocessing
    ratio = int(whole) if (whole := settings.separate_axis_ratio).is_integer() else whole
    resampling = {"order_z": 0, "force_separate_z": None, "separate_z_anisotropy_threshold": ratio}
    return {
        "data_identifier": f"{PLANS}_{CONFIGURATIONS[plan.name]}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.training.batch_size,
        "patch_size": list(plan.patch),
        "spacing": list(settings.spacing),
        "normalization_schemes": [SCHEMES[one.scheme] for one in settings.normalization],
        "use_mask_for_norm": [one.masked for one in settings.normalization],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": settings.image_order, **resampling},
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": _architecture(plan, suffix),
        "batch_dice": plan.training.batch_dice,
    }


def _architecture(plan: Plan, suffix: str) -> dict[str, Any]:
    network, dimensions = plan.network, len(plan.patch)
    blocks = "n_conv_per_stage" if network.kind == "plain" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.{CLASSES[network.kind]}",
        "arch_kwargs": {
            "n_stages": len(network.features),
            "features_per_stage": list(network.features),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [list(kernel) for kernel in _kernels(network, _reversed_axes(plan, suffix))],
            "strides": [list(stride) for stride in network.strides],
            blocks: list(network.blocks),
            "n_conv_per_stage_decoder": list(network.decoder_blocks),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _dataset(plan: Plan, suffix: str) -> dict[str, Any]:
    """The content of dataset.json."""
    labels = plan.labels
    described: dict[str, Any] = {
        "channel_names": {str(number): channel for number, channel in enumerate(plan.channels)},
        "labels": {"background": 0, **_named(labels)},
        "numTraining": 0,
        "file_ending": suffix,
    }
    if labels.regions:
        described["regions_class_order"] = [labels.values.index(region.paint) for region in labels.regions]
    return described


def _named(labels: Labels) -> dict[str, Any]:
    """What each output of the network is, by name: a label's index, or those of a region."""
    if labels.regions:
        return {region.name: [labels.values.index(value) for value in region.values] for region in labels.regions}
    return {name: index for index, name in enumerate(labels.names) if index}


def _checkpoint(member: Member, suffix: str) -> dict[str, Any]:
    plan = member.plan
    return {
        "network_weights": dict(_with_copies(_weights(member, suffix))),
        "init_args": {"configuration": CONFIGURATIONS[plan.name], "fold": member.fold},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": plan.inference.mirror_axes or None,
    }


def _weights(member: Member, suffix: str) -> dict[str, Tensor]:
    """The weights by nnU-Net's names, mirrored where its reader turns scans the other way."""
    plan = member.plan
    turned = _reversed_axes(plan, suffix)
    kernels = _kernels(plan.network, turned)
    return {
        nnunet_name(name): _mirrored(name, tensor.float(), plan.network, kernels, turned) for name, tensor in member.weights.items()
    }


def _with_copies(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights under all names that nnU-Net's modules have for them; the file holds each once."""
    for name, tensor in weights.items():
        names = [name]
        for number, part in enumerate((".conv.", ".norm.")):
            names += [name.replace(part, f".all_modules.{number}.")] if part in name else []
        for one in names:
            yield one, tensor
            if one.startswith("encoder."):
                yield f"decoder.{one}", tensor


def _reversed_axes(plan: Plan, suffix: str) -> tuple[int, ...]:
    """The network's axes that nnU-Net's reader turns the other way: those from side to side and from front to back."""
    if plan.preprocessing.orientation != "lps" or suffix in PICTURES:
        return ()
    first = 3 - len(plan.patch)  # slices of 2D networks lie across the first axis
    return tuple(axis - first for axis in range(first, 3) if plan.preprocessing.axes[axis] != 0)


def _kernels(network: Network, turned: Sequence[int]) -> list[Steps]:
    """The edges of each stage's kernels, widened where the stage pools along an axis that is turned."""
    return [
        tuple(edge + 2 * (stride - 1) * (axis in turned) for axis, (edge, stride) in enumerate(zip(kernel, strides, strict=True)))
        for kernel, strides in zip(network.kernels, network.strides, strict=True)
    ]


def _mirrored(name: str, tensor: Tensor, network: Network, kernels: Sequence[Steps], turned: Sequence[int]) -> Tensor:
    """A weight reversed along the network's axes that are turned."""
    if not turned or tensor.ndim < 3:
        return tensor
    result = tensor.flip([2 + axis for axis in turned])
    if found := _convolution(name, network):
        stage, stride = found
        for axis in turned:
            result = _widened(result, 2 + axis, kernels[stage][axis], shift=stride[axis] - 1)
    return result


def _convolution(name: str, network: Network) -> tuple[int, Steps] | None:
    """The stage and the stride of the convolution that has a weight; None for transposed ones and those of edge 1."""
    ones = (1,) * len(network.strides[0])
    if name == "encoder.stem.conv.weight":
        return 0, ones
    if not (found := re.fullmatch(r"(encoder|decoder)\.stages\.(\d+)\.(\d+)\.(first\.|second\.|)conv\.weight", name)):
        return None
    part, number, block, of = found[1], int(found[2]), int(found[3]), found[4]
    if part == "decoder":
        return len(network.features) - 2 - number, ones
    return number, network.strides[number] if block == 0 and of != "second." else ones


def _widened(kernel: Tensor, axis: int, edge: int, *, shift: int) -> Tensor:
    """A kernel with zeros around, to another edge along an axis; its middle is moved towards the end."""
    space = edge - kernel.shape[axis]
    if not space:
        return kernel
    shape = list(kernel.shape)
    shape[axis] = edge
    result = kernel.new_zeros(shape)
    result.narrow(axis, space // 2 + shift, kernel.shape[axis]).copy_(kernel)
    return result
