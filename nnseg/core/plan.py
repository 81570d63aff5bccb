"""The plan: every decision that can change a number, validated, with its reason beside it.

A plan is one configuration (2D or 3D). What cannot change a number (device, workers, folders) is never in it, so a plan moves
between machines unchanged. Spaces have two axes (y, x) in a 2D plan and three (z, y, x) in a 3D plan, in *network* axis order.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nnseg.core.errors import PlanError
from nnseg.core.geometry import Axes
from nnseg.core.labels import Labels

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
Steps = tuple[int, ...]
Counts = tuple[Annotated[int, Field(ge=1)], ...]
Model = TypeVar("Model", bound=BaseModel)


class Budget(BaseModel):
    """What a plan must fit into.

    Args:
        seconds: wall-clock for one training (one fold of one plan); None for as long as the recipe takes.
        device: what will train: "cpu", "cuda" or "mps".
        memory_gb: of the device, for training; None for the recipe's own figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Positive | None = None
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    memory_gb: Positive | None = None


class Section(BaseModel):
    """A part of the plan. ``why`` gives the reason for a field in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: dict[str, str] = {}

    @model_validator(mode="after")
    def _reasons_are_for_fields(self) -> Self:
        unknown = sorted(set(self.why) - set(type(self).model_fields))
        if unknown:
            raise ValueError(f"reasons given for {unknown}, which are not settings of this section")
        return self


class Normalization(BaseModel):
    """How one channel's intensities are scaled.

    Args:
        scheme: a name in `nnseg.preprocessing.normalize.NORMALIZERS`.
        masked: take statistics, and apply them, only where the scan is not zero.
        mean, std, low, high: of the foreground over the dataset, used by "ct"; 0.5 and 99.5 percentiles for low and high.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: str
    masked: bool = False
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 1.0


class Preprocessing(Section):
    """From a scan to the network's grid.

    Args:
        axes: network axis ``a`` is scan axis ``axes[a]``; the coarsest axis comes first.
        spacing: mm of the network's grid; two values in a 2D plan, whose slices keep their own distance.
        normalization: one per channel.
        image_order: spline order for images: 3 as nnU-Net, 1 for speed.
        separate_axis_ratio: an axis coarser than the others by more than this is resampled on its own, nearest neighbour.
    """

    axes: Axes
    spacing: tuple[Positive, ...]
    normalization: tuple[Normalization, ...]
    image_order: Literal[0, 1, 3] = 3
    separate_axis_ratio: Positive = 3.0

    @model_validator(mode="after")
    def _axes_are_a_permutation(self) -> Self:
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes must name 0, 1 and 2 once each, not {self.axes}")
        return self


class Network(Section):
    """A U-Net's topology, finest stage first. Sources: nnU-Net (Isensee 2021), and its residual presets (Isensee 2024).

    Args:
        kind: a name in `nnseg.network.unet.NETWORKS`.
        features: channels of each stage.
        strides: of each stage's first convolution, per axis; ones at stage 0.
        kernels: of each stage, per axis.
        blocks: convolutions ("plain") or residual blocks ("residual") of each encoder stage.
        decoder_blocks: convolutions of each decoder stage, one entry fewer.
    """

    kind: str
    features: Counts
    strides: tuple[Counts, ...]
    kernels: tuple[Counts, ...]
    blocks: Counts
    decoder_blocks: Counts

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        stages = len(self.features)
        lengths = {"strides": len(self.strides), "kernels": len(self.kernels), "blocks": len(self.blocks)}
        wrong = [f"{name} has {n}" for name, n in lengths.items() if n != stages]
        if len(self.decoder_blocks) != stages - 1:
            wrong.append(f"decoder_blocks has {len(self.decoder_blocks)}, expected {stages - 1}")
        if wrong:
            raise ValueError(f"features has {stages} stages but " + ", ".join(wrong))
        return self

    @property
    def divisor(self) -> Steps:
        """By what each axis of an input must be divisible."""
        total = [1] * len(self.strides[0])
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return tuple(total)


class Augmentation(Section):
    """Random changes to training patches; ``*_probability`` is per sample. Defaults are nnU-Net's (Isensee 2021, suppl. 4).

    Args:
        rotation_degrees: largest angle about each axis; in a 2D plan, and when ``in_plane``, the first value is used.
        scaling: range of the zoom factor; above 1 objects get smaller.
        in_plane: rotate and scale slices only ("dummy 2D"), for strongly anisotropic patches.
        noise: range of the standard deviation; blur: of the Gaussian's sigma in voxels; low_resolution: of the zoom.
        brightness, contrast, gamma: ranges, each half drawn with equal chance below and above 1.
        mirror_axes: axes along which patches are flipped with chance 1/2; also those used for mirroring in prediction.
    """

    rotation_probability: Probability = 0.2
    rotation_degrees: NotNegative = 30.0
    scaling_probability: Probability = 0.2
    scaling: Range = (0.7, 1.4)
    in_plane: bool = False
    noise_probability: Probability = 0.1
    noise: Range = (0.0, 0.1)
    blur_probability: Probability = 0.2
    blur: Range = (0.5, 1.0)
    brightness_probability: Probability = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_probability: Probability = 0.15
    contrast: Range = (0.75, 1.25)
    low_resolution_probability: Probability = 0.25
    low_resolution: Range = (0.5, 1.0)
    inverted_gamma_probability: Probability = 0.1
    gamma_probability: Probability = 0.3
    gamma: Range = (0.7, 1.5)
    mirror_axes: Steps = ()


class Training(Section):
    """How weights are learned.

    Args:
        batch_size: patches a step.
        steps: of the whole schedule; absent when a time budget decides, from speed measured as training starts.
        epoch_steps: steps between two lines of the history.
        loss: a name in `nnseg.training.losses.LOSSES`.
        batch_dice: take the Dice (or IoU) of a batch as one volume instead of the mean over its patches.
        deep_supervision: also score the coarser stages' answers.
        optimizer: a name in `nnseg.training.optimizer.OPTIMIZERS`.
        schedule: "cosine" or "poly" (power 0.9); both end at zero.
        warmup_steps: over which the rate rises linearly.
        clip_norm: largest global gradient norm.
        averaging: decay of the exponential moving average of weights a step, 0 for none; the average is the result.
        foreground_share: share of patches centred on a labelled voxel.
        precision: of the arithmetic; "auto" takes bfloat16 where the device is faster with it.
        seed: of every random draw.
    """

    batch_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)] | None = None
    epoch_steps: Annotated[int, Field(ge=1)] = 250
    loss: str = "dice_ce"
    batch_dice: bool = False
    deep_supervision: bool = True
    optimizer: str = "sgd"
    learning_rate: Positive = 0.01
    weight_decay: NotNegative = 3e-5
    momentum: Probability = 0.99
    schedule: Literal["poly", "cosine"] = "poly"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: Positive = 12.0
    averaging: Probability = 0.0
    foreground_share: Probability = 0.33
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: int = 0
    augmentation: Augmentation = Augmentation()


class Inference(Section):
    """How a scan is predicted.

    Args:
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: axes mirrored in all combinations, the answers averaged; empty for none.
    """

    step: Annotated[float, Field(gt=0, le=1)] = 0.5
    mirror_axes: Steps = ()


class Plan(Section):
    """One configuration of one dataset: what is fixed before training starts.

    Args:
        format: version of this layout; a plan of another one is refused, not guessed at.
        name: "2d", "3d", "3d_lowres" (3D on a coarser grid) or "3d_cascade" (3D, shown the answer of "3d_lowres").
        dataset: its name.
        recipe: which preset shaped the plan.
        previous: the plan whose answer the network is shown beside the scan; absent but in a cascade.
        channels: names, in order.
        labels: what label values mean.
        patch: voxels the network sees at once, in network axis order.
    """

    format: Literal[1] = 1
    name: str
    dataset: str
    recipe: str
    previous: str | None = None
    channels: tuple[str, ...]
    patch: Counts
    labels: Labels
    preprocessing: Preprocessing
    network: Network
    training: Training
    inference: Inference

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        dimensions = len(self.patch)
        if dimensions not in (2, 3):
            raise ValueError(f"patch must have 2 or 3 axes, not {dimensions}")
        if len(self.preprocessing.spacing) != dimensions:
            raise ValueError(f"patch has {dimensions} axes but preprocessing.spacing has {len(self.preprocessing.spacing)}")
        if len(self.preprocessing.normalization) != len(self.channels):
            raise ValueError(f"{len(self.channels)} channels but {len(self.preprocessing.normalization)} normalizations")
        if any(len(s) != dimensions for s in (*self.network.strides, *self.network.kernels)):
            raise ValueError(f"network.strides and network.kernels need {dimensions} values for each stage")
        remainder = [p % d for p, d in zip(self.patch, self.network.divisor, strict=True)]
        if any(remainder):
            raise ValueError(f"patch {self.patch} must be divisible by {self.network.divisor}, the product of network.strides")
        axes = (*self.training.augmentation.mirror_axes, *self.inference.mirror_axes)
        if any(a not in range(dimensions) for a in axes):
            raise ValueError(f"mirror_axes must lie in 0..{dimensions - 1}")
        return self

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch)

    def key(self, *sections: str) -> str:
        """A digest of the named sections (all if none), without reasons: equal keys, equal numbers."""
        return digest(_without_reasons(self.model_dump(mode="json", include=set(sections) or None)))


def digest(content: Any) -> str:
    """A short content hash of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def parse(model: type[Model], content: Any, where: str) -> Model:
    """Validate untrusted content (from TOML or JSON) as a model.

    Raises:
        PlanError: naming every offending setting by its dotted path, with the nearest valid one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_in_words(model, dict(e)) for e in error.errors())
        raise PlanError(f"{where}: {problems}") from None


def _in_words(model: type[BaseModel], error: dict[str, Any]) -> str:
    path = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _settings(model), n=1, cutoff=0.5)
        return f"{path} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
    if error["type"] == "missing":
        return f"{path} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path} = {error['input']!r}: {message}" if path else message


def _settings(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _settings(field.annotation)
    return names


def _without_reasons(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _without_reasons(v) for k, v in content.items() if k != "why"}
    if isinstance(content, list):
        return [_without_reasons(v) for v in content]
    return content
