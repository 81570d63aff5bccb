"""`Recipe`: the constants that shape a plan, read from one page of TOML that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from nnseg.core.errors import PlanError
from nnseg.core.frozen import FrozenModel
from nnseg.core.plan import Augmentation, Budget, Inference, NetworkKind, Steps, Training
from nnseg.core.validation import NotNegative, Positive, Probability, SplineOrder, parse
from nnseg.storage.files import read_toml

Count = Annotated[int, Field(ge=1)]


class Constants(FrozenModel):
    """What differs between 2D and 3D.

    Args:
        first_edge: voxels along the sides of the first patch tried, were it cubic.
        features_cap: most channels of a stage.
        reference_estimate: elements of all feature maps that the reference batch may have for one of its patches.
        reference_batch: the batch ``reference_estimate`` is for.
        patch_batch: patches are shrunk until this many are affordable.
        largest_batch: more patches a step bring little.
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
        blocks: of the encoder's stages; the last number goes for all further stages.
        decoder_blocks: likewise of the decoder's.
        aim: what a step must fit into, in words, for the plan's reasons.
        memory_gb: the estimate allowed is the reference estimate times ``memory_gb / reference_gb``.
        reference_gb: what the reference estimate takes.
        most_memory_gb: up to which the budget's memory takes the place of ``memory_gb``; 0 for never.
        fills_memory: where no memory is asked for, the budget is what the device has free.
        smallest_batch: patches a step, whatever they cost.
        dataset_share: most of the dataset's voxels that one step may see.
        smallest_edge: voxels of a stage below which no axis is pooled.
        anisotropy: an axis this many times coarser than the others is strongly anisotropic.
        mask_below: statistics are taken where scans are not zero if cropping leaves less than this share of them.
        image_order: spline order images are resampled with.
        steps_per_case: length of a training without a budget, for each case of the dataset ...
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
        """Those of 2D or of 3D plans."""
        return self.flat if dimensions == 2 else self.volume

    def within(self, budget: Budget) -> Rules:
        """The rules for the memory that a budget allows."""
        if budget.memory_gb is None or not self.most_memory_gb:
            return self
        memory_gb = min(budget.memory_gb, self.most_memory_gb)
        return self.model_copy(update={"memory_gb": memory_gb, "aim": f"a device with {memory_gb:.3g} GB"})


class CandidateNetwork(FrozenModel):
    """One of several networks that a recipe may come to.

    Args:
        name: for people.
        enough_steps: it is worth its price if a training has at least this many steps.
        planner: what it replaces of the recipe's planner section.
    """

    name: str
    enough_steps: Count = 1
    planner: dict[str, Any] = {}


class TrainingRecipe(Training):
    """Settings of a plan's training that the recipe fixes; those left out are the planner's to decide.

    Args:
        batch_size: 0 leaves it to the planner.
    """

    batch_size: Annotated[int, Field(ge=0)] = 0


class Policies(FrozenModel):
    """Settings of the augmentation that suit a modality; those left out stay the planner's to decide.

    Args:
        ct, mr, microscopy: for datasets all of whose channels are of this modality.
    """

    ct: Augmentation = Augmentation()
    mr: Augmentation = Augmentation()
    microscopy: Augmentation = Augmentation()


class Recipe(FrozenModel):
    """A preset that shapes plans.

    Args:
        name: of its file, without the suffix.
        description: who it is for, in a sentence.
        planner: constants of the planner's rules.
        training: settings of the plan's training; what is not set is decided.
        inference: settings of the plan's inference; likewise.
        modality: settings of the augmentation by modality; those under ``training.augmentation`` stand above them.
        by_modality: whether they are used.
        candidates: networks to choose from, the cheapest first; empty if the recipe comes to one only.
        on_cpu: sections that replace parts of those above when a CPU trains.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: str
    description: str = ""
    planner: Rules
    training: TrainingRecipe = TrainingRecipe()
    inference: Inference = Inference()
    modality: Policies = Policies()
    by_modality: bool = True
    candidates: tuple[CandidateNetwork, ...] = ()
    on_cpu: dict[str, Any] = {}

    def on(self, device: str) -> Recipe:
        """The recipe for one kind of device.

        Raises:
            PlanError: ``on_cpu`` names a setting that does not exist.
        """
        if device != "cpu" or not self.on_cpu:
            return self
        content = self.model_dump(exclude_unset=True, exclude={"on_cpu"})
        return parse(Recipe, _merged(content, self.on_cpu), f"recipe {self.name}, [on_cpu]")

    def of(self, candidate: CandidateNetwork) -> Recipe:
        """The recipe that comes to one of its candidates.

        Raises:
            PlanError: the candidate names a setting that does not exist.
        """
        content = self.model_dump(exclude_unset=True, exclude={"on_cpu", "candidates"})
        return parse(Recipe, _merged(content, {"planner": candidate.planner}), f"recipe {self.name}, candidate {candidate.name}")


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by the name of a shipped one ("auto", "nnunet"), or by the path of a file.

    A recipe may begin with ``based_on = "auto"`` and then needs to say only what differs.

    Raises:
        PlanError: there is no such recipe, or it names a setting that does not exist.
    """
    path = _find(str(name))
    content = _read(path)
    recipe = parse(Recipe, {**content, "name": path.stem}, f"recipe {path.name}")
    for of_device in (recipe, recipe.on("cpu")):  # so that a mistake is seen on every device
        for candidate in of_device.candidates:
            of_device.of(candidate)
    return recipe


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with nnseg, by name."""
    inside = Path(__file__).parents[1] / "plans"  # in a wheel; beside the package in a checkout
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "plans"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _find(name: str) -> Path:
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    wanted = "no such file" if path.suffix == ".toml" or len(path.parts) > 1 else "no recipe of this name"
    raise PlanError(f"recipe {name}: {wanted}; give the path of a TOML file or one of {', '.join(shipped)}")


def _read(path: Path) -> dict[str, Any]:
    content = read_toml(path)
    base = content.pop("based_on", None)
    if base is None:
        return content
    shipped = shipped_recipes()
    if base not in shipped or shipped[base].resolve() == path.resolve():
        raise PlanError(f"recipe {path.name}: based_on = {base!r} must be one of {', '.join(n for n in shipped if n != path.stem)}")
    return _merged(_read(shipped[base]), content)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``under`` with the settings of ``over`` in their place, table by table."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
