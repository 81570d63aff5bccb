"""nnU-Net's networks as settings of ours, for the kinds that have an exact equivalent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnseg.core.errors import ModelError
from nnseg.core.validation import shown
from nnseg.interop.nnunet.json import known_name, section

NETWORKS = {
    "dynamic_network_architectures.architectures.unet.PlainConvUNet": "plain",
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet": "residual",
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": "residual",
    "PlainConvUNet": "plain",
    "ResidualEncoderUNet": "residual",
}
"""Our kind of each supported network; short names are those of plans before version 2.3."""


def network(configuration: Mapping[str, Any], dimensions: int, where: str) -> dict[str, Any]:
    """The settings of our `nnseg.core.plan.Network` for a configuration's network.

    Raises:
        ModelError: it is of another kind, or has parts that are not supported; names the first.
    """
    architecture = section(configuration, "architecture", where) or _old_architecture(configuration, where)
    name, settings = architecture.get("network_class_name"), dict(section(architecture, "arch_kwargs", where))
    kind = known_name(where, "network_class_name", name, NETWORKS)
    _check_parts(where, settings, dimensions)
    stages = settings.pop("n_stages", None)
    wanted = {
        "features": "features_per_stage",
        "strides": "strides",
        "kernels": "kernel_sizes",
        "blocks": "n_conv_per_stage" if kind == "plain" else "n_blocks_per_stage",
        "decoder_blocks": "n_conv_per_stage_decoder",
    }
    missing = sorted(set(wanted.values()) - set(settings))
    if missing or type(stages) is not int or not 1 <= stages <= 16:
        raise ModelError(f"{where}: arch_kwargs lacks {missing[0] if missing else 'a sensible n_stages'}")
    values = {ours: settings.pop(theirs) for ours, theirs in wanted.items()}
    left = sorted(key for key, value in settings.items() if value not in (None, False))
    if left:
        raise ModelError(f"{where}: the network has {left[0]} = {shown(settings[left[0]])}, which nnseg does not support")
    spread = {name: _spread(value, stages - (name == "decoder_blocks")) for name, value in values.items()}
    edges = {name: [_spread(edge, dimensions) for edge in spread[name]] for name in ("strides", "kernels")}
    return {"kind": kind, **spread, **edges}


def _spread(value: Any, count: int) -> list[Any]:
    """A list as it is; a single value as a list of that many."""
    return value if isinstance(value, list) else [value] * count


def _check_parts(where: str, settings: dict[str, Any], dimensions: int) -> None:
    """Remove and check the settings that are fixed in our networks; remove those that do not change predictions."""
    norm, activation = (section(settings, name, where) for name in ("norm_op_kwargs", "nonlin_kwargs"))
    for name in ("norm_op_kwargs", "nonlin_kwargs", "dropout_op", "dropout_op_kwargs", "deep_supervision"):
        settings.pop(name, None)
    layers = {
        "conv_op": (None, (f"torch.nn.modules.conv.Conv{dimensions}d", f"torch.nn.Conv{dimensions}d")),
        "norm_op": (None, (f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d", f"torch.nn.InstanceNorm{dimensions}d")),
        "nonlin": (None, ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU")),
        "conv_bias": (False, (True,)),
    }
    for name, (default, allowed) in layers.items():
        known_name(where, f"arch_kwargs.{name}", settings.pop(name, default), allowed)
    for option, default_option, only in (("eps", 1e-5, 1e-5), ("affine", False, True), ("track_running_stats", False, False)):
        known_name(where, f"arch_kwargs.norm_op_kwargs.{option}", norm.get(option, default_option), (only,))
    known_name(where, "arch_kwargs.nonlin_kwargs.negative_slope", activation.get("negative_slope", 0.01), (0.01,))


def _old_architecture(configuration: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The architecture in plans before version 2.3."""
    try:
        name, dimensions = configuration["UNet_class_name"], len(configuration["patch_size"])
        base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
        stages = len(configuration["n_conv_per_stage_encoder"])
        settings = {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**i, most) for i in range(min(stages, 16))],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": configuration["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
        }
    except (KeyError, TypeError) as error:
        raise ModelError(f"{where}: it has neither an architecture nor the entries of old plans ({error})") from error
    return {"network_class_name": name, "arch_kwargs": settings}
