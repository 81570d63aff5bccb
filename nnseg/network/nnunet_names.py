"""nnU-Net's names of the parameters of U-Nets."""

from __future__ import annotations

import re


def nnunet_name(name: str) -> str:
    """nnU-Net's name of one of our networks' parameters.

    Example:
        >>> nnunet_name("decoder.ups.0.weight")
        'decoder.transpconvs.0.weight'
    """
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


_NAMES = (
    (r"^encoder\.stem\.", "encoder.stem.convs.0."),
    (r"^encoder\.stages\.(\d+)\.(\d+)\.(conv|norm)\.", r"encoder.stages.\1.0.convs.\2.\3."),
    (r"^encoder\.stages\.(\d+)\.(\d+)\.(first|second|skip)\.", r"encoder.stages.\1.blocks.\2.\3."),
    (r"\.first\.", ".conv1."),
    (r"\.second\.", ".conv2."),
    (r"^decoder\.stages\.(\d+)\.", r"decoder.stages.\1.convs."),
    (r"^decoder\.ups\.", "decoder.transpconvs."),
    (r"^decoder\.heads\.", "decoder.seg_layers."),
)
