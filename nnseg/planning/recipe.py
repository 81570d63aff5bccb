"""`Recipe`: settings and constants that shape a plan, read from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from nnseg.core.frozen import FrozenModel
from nnseg.core.plan import Augmentation, Budget, Inference, NetworkKind, Steps, Training
from nnseg.core.validation import NotNegative, Positive, Probability, SplineOrder, parse
from nnseg.storage.presets import find_preset, merged, read_preset

Count = Annotated[int, Field(ge=1)]


class Constants(FrozenModel):
    """Constants that differ between 2D and 3D.

    Args:
        first_edge: voxels a side of the first patch tried, if it is cubic.
        features_cap: maximum number of channels of a stage.
        reference_estimate: largest number of elements of all feature maps for one patch of the reference batch.
        reference_batch: the batch size for ``reference_estimate``.
        patch_batch: patches are shrunk until this many are affordable.
        largest_batch: maximum number of patches a step.
    """

    first_edge: Count
    features_cap: Count
    reference_estimate: Positive
    reference_batch: Count
    patch_batch: Count
    largest_batch: Count


class Rules(FrozenModel):
    """The planner's constants.

    Args:
        network: a name in `nnseg.network.build.NETWORKS`.
        base_features: channels of the finest stage, doubled at each further one.
        blocks: of the encoder's stages; the last number is used for all further stages.
        decoder_blocks: likewise of the decoder.
        dropout: of the plans' networks (``network.dropout``).
        attention_gates: whether they have these (``network.attention_gates``).
        aim: what a step must fit into, as text for the plan's reasons.
        memory_gb: the largest estimate is the reference estimate times ``memory_gb / reference_gb``.
        reference_gb: memory that the reference estimate takes.
        most_memory_gb: the budget's memory, up to this much, replaces ``memory_gb``; 0 if it never does.
        fills_memory: without --memory the budget is the free memory of the device.
        smallest_batch: minimum number of patches a step, whatever they cost.
        dataset_share: largest share of the dataset's voxels in one step.
        smallest_edge: fewest voxels that pooling may leave along an axis.
        anisotropy: an axis this many times coarser than the others is strongly anisotropic.
        mask_below: normalization uses non-zero voxels only if cropping leaves less than this share of the scans.
        image_order: spline order of resampling images.
        steps_per_case: length of a training without a time budget, for each case of the dataset ...
        fewest_steps: ... but not shorter than this ...
        most_steps: ... nor longer than this.
        flat: constants of 2D plans, ``[planner.2d]``.
        volume: constants of 3D plans, ``[planner.3d]``.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    network: NetworkKind
    base_features: Count
    blocks: Annotated[Steps, Field(min_length=1)]
    decoder_blocks: Annotated[Steps, Field(min_length=1)]
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    attention_gates: bool = False
    aim: str
    memory_gb: Positive
    reference_gb: Positive
    most_memory_gb: NotNegative = 0.0
    fills_memory: bool = False
    smallest_batch: Count
    dataset_share: Probability
    smallest_edge: Annotated[int, Field(ge=2)]
    anisotropy: Positive
    mask_below: Probability
    image_order: SplineOrder
    steps_per_case: Count
    fewest_steps: Count
    most_steps: Count
    flat: Constants = Field(alias="2d")
    volume: Constants = Field(alias="3d")

    def constants(self, dimensions: int) -> Constants:
        """The constants of 2D or of 3D plans."""
        return self.flat if dimensions == 2 else self.volume

    def for_budget(self, budget: Budget) -> Rules:
        """The rules for the memory that a budget allows."""
        if budget.memory_gb is None or not self.most_memory_gb:
            return self
        memory_gb = min(budget.memory_gb, self.most_memory_gb)
        return self.model_copy(update={"memory_gb": memory_gb, "aim": f"a device with {memory_gb:.3g} GB"})


class CandidateNetwork(FrozenModel):
    """One of several networks to choose from.

    Args:
        name: shown in the plan's reasons.
        enough_steps: fewest training steps with which it is preferred to smaller networks.
        planner: settings that replace those of the recipe's planner section.
    """

    name: str
    enough_steps: Count = 1
    planner: dict[str, Any] = {}


class TrainingRecipe(Training):
    """Settings of a plan's training that the recipe fixes; the planner decides the others.

    Args:
        batch_size: 0 leaves it to the planner.
    """

    batch_size: Annotated[int, Field(ge=0)] = 0


class Policies(FrozenModel):
    """Settings of the augmentation by modality; the planner decides the others.

    Args:
        ct, mr, microscopy: for datasets with channels of this modality only.
    """

    ct: Augmentation = Augmentation()
    mr: Augmentation = Augmentation()
    microscopy: Augmentation = Augmentation()


class ShortTraining(FrozenModel):
    """A training that sees the data so few times that it does not learn them by heart.

    Args:
        passes: fewer than so many times, on average, is each voxel of the dataset part of a patch; 0 for no such training.
        augmentation: settings that replace those of other trainings; those under ``training.augmentation`` take precedence.
    """

    passes: NotNegative = 0.0
    augmentation: Augmentation = Augmentation()


class Recipe(FrozenModel):
    """A preset that shapes plans.

    Args:
        name: of its file, without the suffix.
        description: its purpose, in a sentence.
        planner: constants of the planner's rules.
        training: settings of the plan's training; the planner decides the others.
        inference: settings of the plan's inference; likewise.
        modality: settings of the augmentation by modality; those under ``training.augmentation`` take precedence.
        by_modality: use the settings by modality.
        short: what is different in a short training.
        candidates: networks to choose from, smallest first; empty if there is no choice.
        on_cpu: sections that replace parts of those above for training on a CPU.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: str
    description: str = ""
    planner: Rules
    training: TrainingRecipe = TrainingRecipe()
    inference: Inference = Inference()
    modality: Policies = Policies()
    by_modality: bool = True
    short: ShortTraining = ShortTraining()
    candidates: tuple[CandidateNetwork, ...] = ()
    on_cpu: dict[str, Any] = {}

    def for_device(self, device: str) -> Recipe:
        """The recipe for a kind of device.

        Raises:
            PlanError: ``on_cpu`` names a setting that does not exist.
        """
        if device != "cpu" or not self.on_cpu:
            return self
        content = self.model_dump(exclude_unset=True, exclude={"on_cpu"})
        return parse(Recipe, merged(content, self.on_cpu), f"recipe {self.name}, [on_cpu]")

    def with_whole_patches(self) -> Recipe:
        """The recipe for a network that is trained already, which small patches set back (benchmarks/RESULTS.md)."""
        reason = "whole patches from the first step: the network has learned from such"
        content = self.model_dump(exclude_unset=True, exclude={"on_cpu"})
        return parse(Recipe, merged(content, {"training": {"growing": False, "why": {"growing": reason}}}), f"recipe {self.name}")

    def with_candidate(self, candidate: CandidateNetwork) -> Recipe:
        """The recipe with one of its candidate networks.

        Raises:
            PlanError: the candidate names a setting that does not exist.
        """
        content = self.model_dump(exclude_unset=True, exclude={"on_cpu", "candidates"})
        return parse(Recipe, merged(content, {"planner": candidate.planner}), f"recipe {self.name}, candidate {candidate.name}")


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a name ("auto", "nnunet", ...) or a file.

    A file that begins with ``based_on = "auto"`` needs only the settings that differ from those of that recipe.

    Raises:
        PlanError: there is no such recipe, or it names a setting that does not exist.
    """
    shipped = shipped_recipes()
    path = find_preset(str(name), shipped, "recipe")
    content = read_preset(path, shipped, "recipe")
    recipe = parse(Recipe, {**content, "name": path.stem}, f"recipe {path.name}")
    for of_device in (recipe, recipe.for_device("cpu")):  # to find mistakes whatever the device
        for candidate in of_device.candidates:
            of_device.with_candidate(candidate)
    return recipe


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that come with nnseg, by name."""
    inside = Path(__file__).parents[1] / "plans"  # in a wheel; beside the package in a checkout
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "plans"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
