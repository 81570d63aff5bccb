"""`Plan`: all decisions that can change a result, validated, each with its reason.

A plan is one configuration (2D or 3D). What cannot change a number (device, workers, folders) is never in it, so a plan moves
between machines unchanged. Spaces have two axes (y, x) in a 2D plan and three (z, y, x) in a 3D plan, in *network* axis order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError, to_jsonable_python

from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.geometry import Axes, Grid, Shape, Vector
from nnseg.core.labels import Labels, swapped_heads
from nnseg.core.limits import limit, raise_by
from nnseg.core.network_kinds import KINDS, MOST_TOKENS, count_weights, most_tokens
from nnseg.core.options import RegistrationKind
from nnseg.core.validation import (
    Count,
    Counts,
    Displacement,
    NotNegative,
    Number,
    Positive,
    PositiveRange,
    Probability,
    Range,
    Shares,
    SplineOrder,
    Thickness,
    agree,
)

Steps = tuple[int, ...]

PlanName = Literal["2d", "3d", "3d_lowres", "3d_cascade"]
"""Names of plans; nnU-Net's 2d, 3d_fullres, 3d_lowres and 3d_cascade_fullres."""

PLAN_NAMES: tuple[PlanName, ...] = get_args(PlanName)


LossName = Literal[
    "dice_ce", "iou_ce", "tversky_ce", "dice_focal", "dice_topk", "lovasz_ce",
    "dice", "iou", "tversky", "focal_tversky", "lovasz", "ce", "topk", "focal",
]  # fmt: skip
"""Losses: of overlap, of single voxels, or the sum of one of each."""

NetworkKind = Literal[
    "plain", "residual", "separable", "atrous", "transformer", "2.5d", "resnet", "bottleneck_resnet", "cifar_resnet"
]
OptimizerName = Literal["sgd", "adamw", "muon"]
NormalizationScheme = Literal["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]
"""Names that a plan may hold; the function of each stands in `NETWORKS`, `OPTIMIZERS` and `NORMALIZERS`."""


class Budget(FrozenModel):
    """The limits of a plan.

    Args:
        seconds: wall-clock of one training (one fold of one plan); None for the steps of the recipe.
        steps: of one training, if given instead of a time.
        device: of the training: "cpu", "cuda" or "mps".
        memory_gb: of the device, for training; None for the recipe's value.
    """

    seconds: Positive | None = None
    steps: Count | None = None
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    memory_gb: Positive | None = None


class Section(FrozenModel):
    """A part of the plan.

    Args:
        why: the reason for a setting, in words.
    """

    why: dict[str, str] = {}

    @field_validator("why")
    @classmethod
    def _reasons_are_for_settings(cls, why: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(why) - set(cls.model_fields) | set(why) & {"why"})
        if unknown:
            raise PydanticCustomError("unknown_reasons", "reasons for {names}, which are not settings", {"names": unknown})
        return why


class Normalization(FrozenModel):
    """Normalization of the intensities of one channel.

    Args:
        scheme: "zscore" by the channel's own mean and spread; "ct" by the dataset's; "rescale_to_0_1" from its least to its
            greatest value; "rgb_to_0_1" 8-bit values divided by 255; "none" without change.
        masked: take statistics, and apply them, only where the scan is not zero.
        mean, std: of the foreground over the dataset, used by "ct".
        low, high: 0.5 and 99.5 percentiles of the foreground over the dataset, to which "ct" clips.
    """

    scheme: NormalizationScheme
    masked: bool = False
    mean: Number = 0.0
    std: NotNegative = 1.0
    low: Number = 0.0
    high: Number = 1.0

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must not lie above high = {self.high}")
        return self


class Preprocessing(Section):
    """Preprocessing, from a scan to the network's grid.

    Args:
        axes: network axis ``a`` is scan axis ``axes[a]``; the coarsest axis comes first.
        spacing: mm of the network's grid; two values in a 2D plan, whose slices keep their own distance.
        normalization: one per channel.
        image_order: spline order for images: 3 as nnU-Net, 1 for speed.
        separate_axis_ratio: an axis coarser than the others by more than this is resampled on its own, nearest neighbour.
        orientation: of scans: axes point to left, posterior and superior ("lps"), to right, anterior and superior ("ras"), or as
            they are stored ("stored"), as for some networks imported from nnU-Net.
        border: width of the border of objects that the network learns (``labels.borders``), in voxels of the finest axis; small
            objects have a narrower one.
        registration: of channels onto the first one, in training and prediction: "none", "rigid" or "affine".
    """

    axes: Axes
    spacing: tuple[Positive, ...]
    normalization: tuple[Normalization, ...]
    image_order: SplineOrder = 3
    separate_axis_ratio: Positive = 3.0
    orientation: Literal["lps", "ras", "stored"] = "lps"
    border: NotNegative = 0.0
    registration: RegistrationKind = "none"

    @field_validator("axes")
    @classmethod
    def _axes_are_a_permutation(cls, axes: Axes) -> Axes:
        if sorted(axes) != [0, 1, 2]:
            raise ValueError("0, 1 and 2 must be there once each")
        return axes


class Network(Section):
    """A U-Net's kind and topology, finest stage first. Sources: nnU-Net (Isensee 2021), and its residual presets (Isensee 2024).

    Args:
        kind: "plain" convolutions; "residual" blocks in the encoder; "separable" ones in encoder and decoder; "atrous" with dilated
            convolutions in the coarsest stage; "transformer" blocks in the two coarsest stages of the encoder; or "2.5d", plain and
            in 2D, with the slices above and below as further input. See docs/concepts/networks.md.
            Or a ResNet as encoder of a 2D network: "resnet", "bottleneck_resnet" or "cifar_resnet".
        features: channels of each stage.
        strides: of each stage's first convolution, per axis; ones at the first stage.
        kernels: edges of each stage's kernels, per axis, odd.
        blocks: of each encoder stage.
        decoder_blocks: of each decoder stage, one entry fewer.
        dropout: chance of each channel to be dropped after a stage of encoder or decoder, but the finest; predictions can then be
            averaged over draws. 0 for none.
        attention_gates: the decoder's input from each stage of the encoder is weighted voxel by voxel.
    """

    kind: NetworkKind
    features: Annotated[Counts, Field(min_length=1, max_length=16)]
    strides: tuple[Counts, ...]
    kernels: tuple[Counts, ...]
    blocks: Counts
    decoder_blocks: Counts
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    attention_gates: bool = False

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        agree(list(self._lengths()) or [*self._shapes(), *self._excess()])
        return self

    def _lengths(self) -> Iterator[str]:
        for name in ("blocks", "decoder_blocks"):
            if (most := max(getattr(self, name), default=0)) > limit("blocks"):
                yield f"network.{name} has {most} in one stage, the most is {limit('blocks')}; {raise_by('blocks')}"
        stages = len(self.features)
        for name, needed in {"strides": stages, "kernels": stages, "blocks": stages, "decoder_blocks": stages - 1}.items():
            found = len(getattr(self, name))
            if found != needed:
                yield f"network.{name} has {found} entries, but {needed} are needed for the {stages} stages of network.features"

    def _shapes(self) -> Iterator[str]:
        if any(s != 1 for s in self.strides[0]):
            yield f"network.strides.0 = {list(self.strides[0])} must be ones, since the first stage keeps full resolution"
        for i, kernel in enumerate(self.kernels):
            if any(edge % 2 == 0 for edge in kernel):
                yield f"network.kernels.{i} = {list(kernel)} must be odd, so that a kernel has a middle"

    def _excess(self) -> Iterator[str]:
        if self.weights > limit("weights"):
            product = "network.features x network.features x network.kernels x network.blocks"
            yield f"{product} is {self.weights:.2g} weights, the most is {limit('weights'):.2g}; make one of them smaller"

    @property
    def weights(self) -> int:
        """Approximate number of weights of the convolutions."""
        return count_weights(self)

    @property
    def is_unet(self) -> bool:
        """True if the network is a U-Net, which the report draws; any other is only named."""
        return self.kind in KINDS

    @property
    def slices(self) -> int:
        """The number of a scan's slices that a 2D network sees at once, as channels."""
        return KINDS[self.kind].slices if self.is_unet else 1

    @property
    def divisor(self) -> Steps:
        """Factor by which the network reduces each axis; inputs must be divisible by it."""
        total = [1] * len(self.strides[0])
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return tuple(total)


class Extra(FrozenModel):
    """A transform of batchgenerators, see `nnseg.training.augmentation.batchgenerators`.

    Args:
        name: of its class.
        settings: of its constructor, by name.
    """

    name: str
    settings: dict[str, Any] = {}


class Augmentation(Section):
    """Random changes to training patches; ``*_probability`` is per sample. Defaults are nnU-Net's (Isensee 2021, suppl. 4).

    Args:
        rotation_probability, scaling_probability, noise_probability, blur_probability: per patch.
        brightness_probability, contrast_probability, low_resolution_probability: per patch.
        stain_probability: per patch.
        channel_dropout_probability: per patch and channel, that the network sees zeros in its place; one channel at least stays.
        gamma_probability, inverted_gamma_probability: per patch; inverted is of the negative image.
        rotation_degrees: largest angle about each axis.
        scaling: range of the zoom factor; above 1 objects get smaller.
        in_plane: rotate and scale slices only ("dummy 2D"), for strongly anisotropic patches.
        noise: range of the noise's standard deviation; the image's own is about 1.
        blur: range of the Gaussian's sigma in voxels.
        low_resolution: range of the zoom factor of simulated low resolution; 1 is no change.
        brightness, contrast, gamma: range of the factor or exponent, with equal chance below and above 1.
        stain: range of the factor of each channel's optical density, with equal chance below and above 1; for RGB.
        mirror_axes: axes along which patches are flipped with probability 1/2; also those used for mirroring in prediction.
        swapped_labels: pairs of label indices, left and right, that are swapped when a patch is flipped along ``swap_axis``.
        swap_axis: the patch's axis from one side of the body to the other; absent where no labels are swapped.
        quarter_turn_probability: per patch, of a rotation by 90, 180 or 270 degrees without interpolation.
        quarter_turn_axes: two or three axes of these rotations; the patch has the same length along them.
        elastic_probability: per patch, of an elastic deformation.
        elastic: range of the largest displacement, as a share of the patch's length along each axis.
        motion_probability, ghosting_probability, slice_thickness_probability: per patch.
        bias_field_probability, rician_noise_probability: per patch.
        motion: range of the largest shift in voxels by motion of the patient during the scan.
        ghosting: range of the share of the signal in ghosts.
        slice_thickness: range of the thickness of slices (along axis 0), in voxels; not in 2D, nor ``in_plane``.
        bias_field: range of the standard deviation of the logarithm of a smooth field that multiplies intensities.
        rician_noise: range of the standard deviation of the real and the imaginary part of the noise.
        synthesis_probability: per patch, that its intensities are drawn anew for each label, so that no contrast is learned.
        extra: transforms of batchgenerators by name, before all changes of intensity, on the CPU.
    """

    rotation_probability: Probability = 0.2
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    scaling_probability: Probability = 0.2
    scaling: PositiveRange = (0.7, 1.4)
    in_plane: bool = False
    noise_probability: Probability = 0.1
    noise: Range = (0.0, 0.1)
    blur_probability: Probability = 0.2
    blur: Range = (0.5, 1.0)
    brightness_probability: Probability = 0.15
    brightness: PositiveRange = (0.75, 1.25)
    contrast_probability: Probability = 0.15
    contrast: PositiveRange = (0.75, 1.25)
    low_resolution_probability: Probability = 0.25
    low_resolution: PositiveRange = (0.5, 1.0)
    inverted_gamma_probability: Probability = 0.1
    gamma_probability: Probability = 0.3
    gamma: PositiveRange = (0.7, 1.5)
    mirror_axes: Steps = ()
    swapped_labels: tuple[tuple[Count, Count], ...] = ()
    swap_axis: Annotated[int, Field(ge=0, le=2)] | None = None
    quarter_turn_probability: Probability = 0.0
    quarter_turn_axes: Steps = ()
    elastic_probability: Probability = 0.0
    elastic: Displacement = (0.01, 0.05)
    motion_probability: Probability = 0.0
    motion: Range = (1.0, 3.0)
    ghosting_probability: Probability = 0.0
    ghosting: Shares = (0.2, 0.8)
    slice_thickness_probability: Probability = 0.0
    slice_thickness: Thickness = (1.2, 2.5)
    bias_field_probability: Probability = 0.0
    bias_field: Range = (0.05, 0.3)
    rician_noise_probability: Probability = 0.0
    rician_noise: Range = (0.0, 0.1)
    stain_probability: Probability = 0.0
    stain: PositiveRange = (0.7, 1.4)
    channel_dropout_probability: Probability = 0.0
    synthesis_probability: Probability = 0.0
    extra: tuple[Extra, ...] = ()


class Training(Section):
    """The training of a network.

    Args:
        batch_size: patches per step.
        accumulation: parts in which a batch is computed one after another, to save memory.
        steps: of the whole schedule; absent if a time budget determines it from the speed measured at the start of training.
        seconds: wall-clock of the training. ``steps`` is then an estimate, and the schedule is stretched or shortened during
            training to end in time; absent where the number of steps is fixed.
        epoch_steps: steps between two lines of the history.
        patience: epochs without a better estimate of Dice after which the rate is reduced to zero; absent for never.
        loss: that is minimized, see `nnseg.training.losses`.
        class_weights: of each head (labels with the background, or regions) in the loss; empty for equal weights.
        label_smoothing: share of the target probability in cross-entropies that is spread over all labels.
        distillation: share of the loss that compares with probabilities of networks that were not trained on the case, see
            ``nnseg distill``; the rest compares with its label map.
        batch_dice: compute the Dice (or IoU) loss over a batch as one volume instead of the mean over its patches.
        deep_supervision: also apply the loss to the outputs of coarser stages.
        optimizer: "sgd" with Nesterov's momentum, "adamw", or "muon", which is AdamW for all but convolutions.
        learning_rate: the highest of the schedule.
        weight_decay: of all weights.
        momentum: of "sgd".
        schedule: "cosine" or "poly" (power 0.9); both end at zero.
        warmup_steps: steps over which the rate rises linearly.
        clip_norm: largest global gradient norm.
        averaging: decay per step of the exponential moving average of weights, which is the result; 0 for none.
        foreground_share: share of patches centred on a labelled voxel.
        empty_share: share of patches from cases without a labelled voxel; absent for as many as chance gives.
        growing: begin with small patches, which grow to the plan's patch in the course of the training.
        precision: of the arithmetic; "auto" is bfloat16 where the device is faster with it.
        seed: of every random draw.
    """

    batch_size: Count
    accumulation: Count = 1
    steps: Count | None = None
    seconds: Positive | None = None
    epoch_steps: Count = 250
    patience: Count | None = None
    loss: LossName = "dice_ce"
    class_weights: tuple[NotNegative, ...] = ()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distillation: Probability = 0.0
    batch_dice: bool = False
    deep_supervision: bool = True
    optimizer: OptimizerName = "sgd"
    learning_rate: Positive = 0.01
    weight_decay: NotNegative = 3e-5
    momentum: Probability = 0.99
    schedule: Literal["poly", "cosine"] = "poly"
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    clip_norm: Positive = 12.0
    averaging: Probability = 0.0
    foreground_share: Probability = 0.33
    empty_share: Probability | None = None
    growing: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    seed: Annotated[int, Field(ge=-4_294_967_295, le=4_294_967_295)] = 0
    augmentation: Augmentation = Augmentation()


class Inference(Section):
    """The prediction of a scan.

    Args:
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: axes mirrored in all combinations, whose predictions are averaged; empty for none.
        cheapest: after training, take fewer tiles and mirrored copies where held-out cases show that these do as well, or where
            predicting all of them would take long beside the training.
    """

    step: Annotated[float, Field(gt=0, le=1)] = 0.5
    mirror_axes: Steps = ()
    cheapest: bool = False


class Plan(Section):
    """One configuration of one dataset: what is fixed before training starts.

    Args:
        format: version of this layout; plans of another version are refused.
        name: "2d", "3d", "3d_lowres" (3D on a coarser grid) or "3d_cascade" (3D, with the segmentation of "3d_lowres" as input).
        dataset: name.
        recipe: name of the preset.
        previous: the plan whose segmentation is a further input of the network; only in a cascade.
        channels: names, in order.
        labels: names and values.
        patch: voxels of the network's input, in network axis order.
    """

    format: Literal[1] = 1
    name: PlanName
    dataset: str
    recipe: str
    previous: PlanName | None = None
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    patch: Annotated[Counts, Field(min_length=2, max_length=3)]
    labels: Labels
    preprocessing: Preprocessing
    network: Network
    training: Training
    inference: Inference

    @field_validator("format", mode="before")
    @classmethod
    def _format_is_ours(cls, version: Any) -> Any:
        if type(version) is not int or version != 1:
            raise ValueError("this nnseg reads plans of format 1; have the plan made anew, or use the nnseg that wrote it")
        return version

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        turns = [*self._mirrors(), *self._sides(), *self._quarter_turns()]
        agree(list(self._lengths()) or [*self._divisions(), *turns, *self._shares(), *self._excess()])
        return self

    def _lengths(self) -> Iterator[str]:
        axes, channels, normalizations = len(self.patch), len(self.channels), len(self.preprocessing.normalization)
        if channels > limit("channels"):
            yield f"channels has {channels} entries, the most is {limit('channels')}; {raise_by('channels')}"
        if (longest := max(map(len, self.channels), default=0)) > limit("name_letters"):
            yield f"channels has a name of {longest} letters, the most is {limit('name_letters')}; {raise_by('name_letters')}"
        if len(self.preprocessing.spacing) != axes:
            yield f"preprocessing.spacing = {list(self.preprocessing.spacing)} must have {axes} values, one for each axis of patch"
        for name, stages in (("strides", self.network.strides), ("kernels", self.network.kernels)):
            wrong = [f"network.{name}.{i}" for i, values in enumerate(stages) if len(values) != axes]
            if wrong:
                yield f"{', '.join(wrong)} must have {axes} values, one for each axis of patch"
        if normalizations != channels:
            yield f"preprocessing.normalization has {normalizations} entries, but {channels} are needed, one for each of channels"
        if self.network.is_unet and axes not in (possible := KINDS[self.network.kind].dimensions):
            yield f'network.kind = "{self.network.kind}" needs {possible[0]}D patches; plan with --plans {possible[0]}d'
        weights, heads = len(self.training.class_weights), len(self.labels.heads)
        if weights and weights != heads:
            yield f"training.class_weights has {weights} entries, but {heads} are needed ({', '.join(self.labels.heads)}), or none"

    def _divisions(self) -> Iterator[str]:
        for axis, (edge, divisor) in enumerate(zip(self.patch, self.network.divisor, strict=True)):
            if edge % divisor:
                below = edge // divisor * divisor
                choice = f"{below} or {below + divisor}" if below else str(divisor)
                why = "the product of network.strides along it"
                yield f"patch.{axis} = {edge} must be divisible by {divisor}, {why}; choose {choice}"

    def _mirrors(self) -> Iterator[str]:
        known = list(range(self.dimensions))
        for name, section in (("training.augmentation", self.training.augmentation), ("inference", self.inference)):
            axes = list(section.mirror_axes)
            if len(set(axes)) != len(axes) or not set(axes) <= set(known):
                yield f"{name}.mirror_axes = {axes} must be some of {known}, each at most once"

    def _shares(self) -> Iterator[str]:
        training = self.training
        if training.accumulation > training.batch_size:
            yield f"training.accumulation = {training.accumulation} must not be above training.batch_size = {training.batch_size}"
        if training.foreground_share + (training.empty_share or 0) > 1:
            yield "training.foreground_share and training.empty_share must not be above 1 together"
        if training.class_weights and not sum(training.class_weights):
            yield "training.class_weights must not all be zero"
        if training.augmentation.synthesis_probability and self.network.slices > 1:
            yield "training.augmentation.synthesis_probability must be 0 for a network that sees neighbouring slices"
        if training.distillation and self.previous:
            yield f"training.distillation = {training.distillation} must be 0 in a cascade"

    def _sides(self) -> Iterator[str]:
        augmentation, labels = self.training.augmentation, self.labels
        pairs, axis, name = augmentation.swapped_labels, augmentation.swap_axis, "training.augmentation.swapped_labels"
        named = [i for pair in pairs for i in pair]
        if bool(pairs) != (axis is not None):
            yield f"{name} and training.augmentation.swap_axis are needed together, or neither"
        elif axis is not None and axis >= self.dimensions:
            yield f"training.augmentation.swap_axis = {axis} must be one of {list(range(self.dimensions))}"
        if len(set(named)) != len(named) or not all(i < len(labels.values) for i in named):
            yield f"{name} = {[list(p) for p in pairs]} must be pairs of 1 to {len(labels.values) - 1}, each at most once"
        elif swapped_heads(labels, pairs) is None:
            yield f"{name} needs for each of labels.regions another that covers the swapped labels"

    def _quarter_turns(self) -> Iterator[str]:
        augmentation = self.training.augmentation
        axes, name = augmentation.quarter_turn_axes, "training.augmentation.quarter_turn_axes"
        if augmentation.quarter_turn_probability and len(axes) < 2:
            yield f"{name} = {list(axes)} must be two axes at least, if training.augmentation.quarter_turn_probability is not 0"
        if len(set(axes)) != len(axes) or not set(axes) <= set(range(self.dimensions)):
            yield f"{name} = {list(axes)} must be some of {list(range(self.dimensions))}, each at most once"
        elif len({self.patch[a] for a in axes}) > 1:
            yield f"{name} = {list(axes)} must be axes along which patch = {list(self.patch)} has the same length"

    def _excess(self) -> Iterator[str]:
        if (tokens := most_tokens(self.network, self.patch)) > MOST_TOKENS:
            found = f"{tokens} voxels of a patch attend to one another, the most is {MOST_TOKENS}"
            yield f'network.kind = "{self.network.kind}": {found}; choose another kind, a smaller patch or more stages'
        values = self.training.batch_size * math.prod(self.patch) * self.network.features[0]
        if values > limit("feature_values"):
            product = "patch x training.batch_size x network.features.0"
            excess = f"{values:.2g} values in one feature map, the most is {limit('feature_values'):.2g}"
            yield f"{product} is {excess}; make one of them smaller"

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch)

    @property
    def input_channels(self) -> int:
        """Input channels of the network: the scan's slices and, in a cascade, one for each label of the previous segmentation."""
        return len(self.channels) * self.network.slices + (len(self.labels.values) - 1 if self.previous else 0)

    @property
    def stored_channels(self) -> int:
        """Channels of a preprocessed case: the scan's and, in a cascade, one with label indices of the previous segmentation."""
        return len(self.channels) + bool(self.previous)

    def grid(self, shape: Shape, spacing: Vector) -> Grid:
        """The network's grid of a cropped scan, in network axis order; in a 2D plan slices keep their number and distance.

        Args:
            shape: voxels of the cropped scan (z, y, x).
            spacing: mm of the scan (z, y, x).
        """
        axes, target = self.preprocessing.axes, self.preprocessing.spacing
        depth, height, width = (spacing[a] for a in axes)
        z, y, x = (shape[a] for a in axes)
        wanted = (depth, *target) if self.dimensions == 2 else target
        return Grid(shape=(z, y, x), spacing=(depth, height, width)).resampled((wanted[0], wanted[1], wanted[2]))

    def key(self, *sections: str) -> str:
        """A digest of the named sections (all if none), without reasons; plans with equal keys give equal results."""
        return digest(_without_reasons(self.model_dump(mode="json", include=set(sections) or None)))


def _without_reasons(content: Any) -> Any:
    """Content without reasons, and without settings of `LATER` that have their default."""
    if isinstance(content, dict):
        kept = {k: v for k, v in content.items() if k != "why" and not (k in LATER and v == LATER[k])}
        return {k: _without_reasons(v) for k, v in kept.items()}
    return [_without_reasons(v) for v in content] if isinstance(content, list) else content


# A setting that is added to a plan belongs in here, or keys of older plans change; a test with their keys fails without.
_ADDED = (
    "orientation", "previous", "accumulation", "seconds", "patience", "class_weights", "label_smoothing", "distillation",
    "growing", "empty_share", "stain_probability", "stain", "border", "dropout", "registration", "channel_dropout_probability",
    "synthesis_probability",
    "swapped_labels", "swap_axis", "quarter_turn_probability", "quarter_turn_axes", "elastic_probability", "elastic",
    "motion_probability", "motion", "ghosting_probability", "ghosting", "slice_thickness_probability", "slice_thickness",
    "bias_field_probability", "bias_field", "rician_noise_probability", "rician_noise", "extra",
    "cheapest", "attention_gates",
)  # fmt: skip
_FIELDS = (
    Plan.model_fields | Preprocessing.model_fields | Network.model_fields
    | Training.model_fields | Augmentation.model_fields | Inference.model_fields
)  # fmt: skip

LATER: dict[str, Any] = {name: to_jsonable_python(_FIELDS[name].default) for name in _ADDED}
"""Settings that older plans do not have, with their defaults, which leave such a plan as it was: keys do not change for them."""
