"""nnU-Net's plans.json and dataset.json as a plan: network, normalization, patch, labels and regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nnseg.core.errors import ModelError
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Plan, PlanName
from nnseg.core.validation import Count, Counts, Positive, shown
from nnseg.interop.nnunet.json import checked, known_name, read_object, section
from nnseg.interop.nnunet.network import network


def labels(dataset: Mapping[str, Any], where: str) -> Labels:
    """The labels in dataset.json: numbered from 0, with regions in the order in which they are written into the label map.

    Raises:
        ModelError: they are not valid in nnU-Net.
    """
    given = dataset.get("labels")
    if not isinstance(given, dict):
        raise ModelError(f'{where}: "labels" is {shown(given)}, it must be {{"background": 0, name: value, ...}}')
    named = {str(name): tuple(v) if isinstance(v, list) else (v,) for name, v in given.items() if name != "ignore"}
    values = sorted({v for of in named.values() for v in of if type(v) is int})
    if values != list(range(len(values))) or any(type(v) is not int for of in named.values() for v in of):
        raise ModelError(f'{where}: "labels" must have values 0, 1, 2, ... without gaps, as nnU-Net needs them; not {shown(given)}')
    names = {of[0]: name for name, of in named.items() if len(of) == 1}
    areas = {name: of for name, of in named.items() if set(of) != {0}}
    try:
        return Labels(
            names=tuple(names.get(v, f"label {v}") for v in values),
            values=tuple(values),
            ignore=given.get("ignore"),
            regions=_regions(dataset, areas, where) if any(len(of) > 1 for of in areas.values()) else (),
        )
    except ValidationError as error:
        raise ModelError(f'{where}: "labels" cannot be used: {error.errors()[0]["msg"]}') from error


def _regions(dataset: Mapping[str, Any], areas: Mapping[str, tuple[int, ...]], where: str) -> tuple[Region, ...]:
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(areas):
        raise ModelError(f'{where}: "regions_class_order" is {shown(order)}, it needs one value for each of {", ".join(areas)}')
    return tuple(Region(name=name, values=of, paint=paint) for (name, of), paint in zip(areas.items(), order, strict=True))


NORMALIZATIONS = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}

ORIENTATIONS = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "Tiff3DIO": "stored",
    "NaturalImage2DIO": "stored",
    "SimpleITKIOWithReorient": "ras",
    "NibabelIOWithReorient": "ras",
}
"""Orientation of scans, by nnU-Net's readers; those that reorient make axes point to right, anterior and superior."""

RESAMPLING = "resample_data_or_seg_to_shape"


class _Entries(BaseModel):
    model_config = ConfigDict(frozen=True)


class GlobalPlans(_Entries):
    """The entries of plans.json for all configurations that are imported."""

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]


class NnunetConfiguration(_Entries):
    """The imported entries of one of plans.json's "configurations", with those it inherits."""

    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: Count
    patch_size: Counts
    spacing: tuple[Positive, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    batch_dice: bool = False
    previous_stage: str | None = None
    resampling_fn_data: str = RESAMPLING
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg: str = RESAMPLING
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities: str = RESAMPLING
    resampling_fn_probabilities_kwargs: dict[str, Any]


class ChannelIntensities(_Entries):
    """The foreground intensities of a channel in plans.json."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True)
class NnunetPlans:
    """The contents of plans.json and dataset.json of a folder with a trained model."""

    folder: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]

    @property
    def general(self) -> GlobalPlans:
        """The entries for all configurations.

        Raises:
            ModelError: as for `plan`.
        """
        return checked(GlobalPlans, self.plans, f"{self.folder / 'plans.json'}")

    def previous(self, configuration: str) -> str | None:
        """The configuration of a cascade's previous stage; None for other configurations.

        Raises:
            ModelError: there is no such configuration.
        """
        name: str | None = self._resolved(configuration).get("previous_stage")
        if name is not None:
            self._resolved(name)
        return name

    def plan(self, configuration: str, mirror_axes: tuple[int, ...]) -> Plan:
        """A configuration as a plan.

        Args:
            configuration: its name in plans.json.
            mirror_axes: for test-time mirroring, from the checkpoint.

        Raises:
            ModelError: something is missing, invalid or not supported; names it.
        """
        where = f"{self.folder / 'plans.json'}, configuration {configuration}"
        content, general = self._resolved(configuration), self.general
        found = checked(NnunetConfiguration, content, where)
        known_name(where, "label_manager", general.label_manager, ("LabelManager",))
        known_name(where, "preprocessor_name", found.preprocessor_name, ("DefaultPreprocessor",))
        channels = self._channels()
        content_of_plan = {
            "name": self._name(configuration),
            "dataset": general.dataset_name,
            "recipe": general.plans_name,
            "previous": self._name(found.previous_stage) if found.previous_stage else None,
            "channels": channels,
            "patch": found.patch_size,
            "labels": labels(self.dataset, f"{self.folder / 'dataset.json'}").model_dump(mode="json"),
            "preprocessing": {
                "axes": general.transpose_forward,
                "spacing": found.spacing,
                "normalization": self._normalization(where, found, len(channels)),
                "image_order": _image_order(where, found),
                "orientation": known_name(where, "image_reader_writer", general.image_reader_writer, ORIENTATIONS),
            },
            "network": network(content, len(found.patch_size), where),
            "training": {
                "batch_size": found.batch_size,
                "batch_dice": found.batch_dice,
                "augmentation": {"mirror_axes": mirror_axes},
            },
            "inference": {"mirror_axes": mirror_axes},
        }
        return checked(Plan, content_of_plan, where)

    def _resolved(self, configuration: str) -> dict[str, Any]:
        """The entries of a configuration with those it inherits."""
        known = self.general.configurations
        chain: list[str] = []
        name: Any = configuration
        while name is not None:
            if not isinstance(name, str) or name not in known or name in chain:
                raise ModelError(
                    f"{self.folder / 'plans.json'} has no configuration {shown(name)}, or one that inherits from itself; it has "
                    + ", ".join(known)
                )
            chain.append(name)
            name = known[name].get("inherits_from")
        return {key: value for ancestor in reversed(chain) for key, value in known[ancestor].items()}

    def _name(self, configuration: str) -> PlanName:
        content = self._resolved(configuration)
        if content.get("previous_stage") is not None:
            return "3d_cascade"
        patch = content.get("patch_size")
        if isinstance(patch, list) and len(patch) == 2:
            return "2d"
        return "3d_lowres" if configuration == "3d_lowres" or content.get("next_stage") else "3d"

    def _channels(self) -> list[str]:
        named = self.dataset.get("channel_names", self.dataset.get("modality"))
        if not isinstance(named, dict) or {str(k) for k in named} != {str(i) for i in range(len(named))}:
            raise ModelError(f'{self.folder / "dataset.json"}: "channel_names" is {shown(named)}, it must be {{"0": name, ...}}')
        return [str(named[str(i)]) for i in range(len(named))]

    def _normalization(self, where: str, found: NnunetConfiguration, channels: int) -> list[dict[str, Any]]:
        if not len(found.normalization_schemes) == len(found.use_mask_for_norm) == channels:
            raise ModelError(
                f"{where}: normalization_schemes and use_mask_for_norm need {channels} entries each, one for each channel"
            )
        result = []
        for i, (name, masked) in enumerate(zip(found.normalization_schemes, found.use_mask_for_norm, strict=True)):
            scheme = known_name(where, "normalization_schemes", name, NORMALIZATIONS)
            settings: dict[str, Any] = {"scheme": scheme, "masked": masked and scheme == "zscore"}  # the others ignore the mask
            result.append(settings | self._intensities(where, i) if scheme == "ct" else settings)
        return result

    def _intensities(self, where: str, channel: int) -> dict[str, float]:
        name = "foreground_intensity_properties_per_channel"
        old = name.replace("per_channel", "by_modality")
        all_channels = section(self.plans, name if name in self.plans else old, where)
        there = f"{where}, foreground intensities of channel {channel}"
        found = checked(ChannelIntensities, section(all_channels, str(channel), where), there)
        return {"mean": found.mean, "std": found.std, "low": found.percentile_00_5, "high": found.percentile_99_5}


def read_plans(folder: Path) -> NnunetPlans:
    """The plans.json and dataset.json of a folder.

    Raises:
        ModelError: one is missing, or has no JSON object.
    """
    return NnunetPlans(folder=folder, plans=read_object(folder / "plans.json"), dataset=read_object(folder / "dataset.json"))


def _image_order(where: str, found: NnunetConfiguration) -> int:
    """The spline order for images; all other resampling options must be nnU-Net's defaults."""
    for part, order in (("data", (0, 1, 3)), ("seg", (1,)), ("probabilities", (1,))):
        name, settings = getattr(found, f"resampling_fn_{part}"), getattr(found, f"resampling_fn_{part}_kwargs")
        known_name(where, f"resampling_fn_{part}", name, (RESAMPLING,))
        rules = {
            "order": (3, order),
            "order_z": (0, (0,)),
            "force_separate_z": (False, (None,)),
            "separate_z_anisotropy_threshold": (3, (3,)),
            "is_seg": (False, (part == "seg",)),
        }
        for rule, (default, allowed) in rules.items():
            known_name(where, f"resampling_fn_{part}_kwargs.{rule}", settings.get(rule, default), allowed)
        unknown = sorted(set(settings) - set(rules))
        if unknown:
            raise ModelError(f"{where}: resampling_fn_{part}_kwargs has {unknown[0]}, which nnseg does not support")
    order_of_images: int = found.resampling_fn_data_kwargs.get("order", 3)
    return order_of_images
