"""`Pretrained`: a description of weights that were trained elsewhere, and the plan whose network takes them."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.plan import Network, Normalization, Plan
from nnseg.core.validation import Counts, Positive

Architecture = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnet20", "resnet32", "resnet44", "resnet56", "resnet110",
]  # fmt: skip
"""ResNets for ImageNet as in torchvision, and for CIFAR."""


class Pretrained(FrozenModel):
    """Weights that were trained elsewhere, for ``--init FILE.toml``.

    Args:
        format: version of this layout.
        weights: name of their file, beside the description: .safetensors, or .pth, .pt and .th of PyTorch.
        licence: of the weights, such as "BSD-2-Clause".
        source: where they come from.
        architecture: the network that they were trained in: "resnet18" to "resnet152" as in torchvision, "resnet20" to "resnet110"
            for CIFAR. Any other is described by a table [network].
        network: settings of the network, as in a plan.
        names: of the parameters of this network: those of nnU-Net ("nnunet"), or of nnseg.
        prefix: text before each parameter's name, such as "module.".
        channels: names of the channels that the first convolution takes, in order.
        spacing: mm of the images along the axes of a patch, or "any" if they had no common one.
        orientation: of the images: "lps", "ras" and "stored" as in a plan, or "any".
        normalization: of each channel, as in a plan.
        patch: voxels of the network's input; by default as nnseg plans it.
    """

    format: Literal[1] = 1
    weights: Annotated[str, Field(min_length=1)]
    licence: Annotated[str, Field(min_length=1)]
    source: str = ""
    architecture: Architecture | None = None
    network: Network | None = None
    names: Literal["nnseg", "nnunet"] = "nnseg"
    prefix: str = ""
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    spacing: Literal["any"] | tuple[Positive, ...]
    orientation: Literal["any", "lps", "ras", "stored"]
    normalization: tuple[Normalization, ...]
    patch: Counts | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.network is None) == (self.architecture is None):
            raise ValueError("either architecture or a table [network] is needed, not both")
        dimensions = len(self.settings.strides[0])
        for name, values in (("spacing", self.spacing), ("patch", self.patch)):
            if isinstance(values, tuple) and len(values) != dimensions:
                raise ValueError(f"{name} must have {dimensions} values, one for each axis of the network")
        if len(self.normalization) != len(self.channels):
            raise ValueError(f"normalization has {len(self.normalization)} entries, but there are {len(self.channels)} channels")
        return self

    @property
    def name(self) -> str:
        """Of the network, for people."""
        return self.architecture or f"{self.settings.kind} network"

    @property
    def settings(self) -> Network:
        """The settings of the network that takes the weights."""
        if self.network or not self.architecture:
            assert self.network
            return self.network
        kind, features, blocks = RESNETS[self.architecture]
        edge = 3 if kind == "cifar_resnet" else 7
        later = len(features) - 1
        return Network.model_validate(
            {
                "kind": kind,
                "features": features,
                "strides": ((1, 1), *((2, 2),) * later),
                "kernels": ((edge, edge), *((3, 3),) * later),
                "blocks": blocks,
                "decoder_blocks": (1,) * later,
            }
        )

    def plan_for(self, plan: Plan) -> Plan:
        """A plan for the same dataset whose network, grid and normalization are those of the weights.

        Args:
            plan: as made without the weights, for as many axes. Its patch is enlarged to what the network divides.
        """
        network, content = self.settings, plan.model_dump()
        enlarged = tuple(-(-edge // divisor) * divisor for edge, divisor in zip(plan.patch, network.divisor, strict=True))
        given = {"spacing": self.spacing, "orientation": self.orientation}
        changes = {name: value for name, value in given.items() if value != "any"}
        return Plan.model_validate(
            {
                **content,
                "dataset": self.source or self.weights,
                "previous": None,
                "channels": self.channels,
                "patch": self.patch or enlarged,
                "network": network,
                "preprocessing": {
                    **content["preprocessing"],
                    **changes,
                    "normalization": self.normalization,
                    "registration": "none",
                },
            }
        )

    def describe(self) -> str:
        """One line for people."""
        source = f" of {self.source}" if self.source else ""
        return f"weights{source} ({self.licence}): {self.name} of {', '.join(self.channels)}"


RESNETS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    **{
        f"resnet{depth}": ("resnet", (64, 64, 128, 256, 512), (1, *blocks))
        for depth, blocks in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)))
    },
    **{
        f"resnet{depth}": ("bottleneck_resnet", (64, 256, 512, 1024, 2048), (1, *blocks))
        for depth, blocks in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3)))
    },
    **{f"resnet{6 * n + 2}": ("cifar_resnet", (16, 32, 64), (n, n, n)) for n in (3, 5, 7, 9, 18)},
}
"""Kind, features and blocks of each stage by name. Source: He et al. 2016, CVPR, tables 1 and 6."""

assert set(RESNETS) == set(get_args(Architecture))
