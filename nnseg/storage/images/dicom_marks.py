"""What tells a frame from others at its place: echo, phase, b value, time and the like, from classic and enhanced headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnseg.storage.images.dicom_values import item_of, number_of, numbers_of, text_of, value_of

_SIEMENS_B, _SIEMENS_DIRECTION, _GE_B, _PHILIPS_B = 0x0019100C, 0x0019100E, 0x00431039, 0x20011003

MARK_TAGS = (
    *("EchoTime", "EchoNumbers", "InversionTime", "DiffusionBValue", "DiffusionGradientOrientation", "AcquisitionNumber"),
    *("TemporalPositionIdentifier", "TriggerTime", "NominalCardiacTriggerDelayTime", "FrameReferenceTime"),
    *("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "InstanceNumber"),
    *(0x00190010, _SIEMENS_B, _SIEMENS_DIRECTION, 0x00430010, _GE_B, 0x20010010, _PHILIPS_B),
)
"""Tags of classic headers that are read for marks."""

COMPONENTS = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "MAGNITUDE": "magnitude", "PHASE": "phase"}
"""Parts of complex images, by their sign in ImageType or ComplexImageComponent."""


def classic_marks(dataset: Any, image_type: list[str]) -> dict[str, Any]:
    """The marks of a file of one frame, by name."""
    marks: dict[str, Any] = {
        "component": _component(image_type[2:]),
        "echo": _rounded(number_of(dataset, "EchoTime"), 2) or number_of(dataset, "EchoNumbers"),
        "type": tuple(image_type),
        "ti": number_of(dataset, "InversionTime"),
        "b": _b_value(dataset),
        "dir": numbers_of(dataset, "DiffusionGradientOrientation") or numbers_of(dataset, _SIEMENS_DIRECTION),
        "acq": number_of(dataset, "AcquisitionNumber"),
        "t": number_of(dataset, "TemporalPositionIdentifier"),
        "trigger": number_of(dataset, "TriggerTime") or number_of(dataset, "NominalCardiacTriggerDelayTime"),
        "time": number_of(dataset, "FrameReferenceTime"),
        "when": text_of(dataset, "AcquisitionDate") + text_of(dataset, "AcquisitionTime"),
        "made": text_of(dataset, "ContentDate") + text_of(dataset, "ContentTime"),
        "instance": number_of(dataset, "InstanceNumber"),
    }
    return {name: value for name, value in marks.items() if value not in (None, (), "")}


def _b_value(dataset: Any) -> float | None:
    """The b value in s/mm2: the standard's tag, or a maker's own (Siemens; GE, who add 10^9; Philips)."""
    plain = number_of(dataset, "DiffusionBValue")
    if plain is not None:
        return plain
    own = ((0x00190010, "SIEMENS", _SIEMENS_B), (0x00430010, "GEMS", _GE_B), (0x20010010, "PHILIPS", _PHILIPS_B))
    for creator, maker, key in own:
        if text_of(dataset, creator).upper().startswith(maker):
            value = value_of(dataset, key)
            if isinstance(value, bytes) and len(value) == 4 and not value.strip().isdigit():
                return float(np.frombuffer(value, "<f4")[0])
            number = number_of(dataset, key)
            return None if number is None else number % 1e6
    return None


def group_marks(macros: Mapping[str, Any], pointers: Sequence[str]) -> dict[str, Any]:
    """The marks of a frame of an enhanced object, by name.

    Args:
        macros: items of its functional groups.
        pointers: of its dimensions, as `dimension_of` gives them.
    """
    content, diffusion = macros["FrameContentSequence"], macros["MRDiffusionSequence"]
    kinds = [of for name, of in macros.items() if name.endswith("FrameTypeSequence") and of is not None]
    gradient = item_of(diffusion, "DiffusionGradientDirectionSequence")
    component = next((text_of(kind, "ComplexImageComponent") for kind in kinds), "")
    marks: dict[str, Any] = {
        "component": COMPONENTS.get(component, component.lower()),
        "echo": _rounded(number_of(macros["MREchoSequence"], "EffectiveEchoTime"), 2),
        "stack": text_of(content, "StackID"),
        "type": tuple(t for kind in kinds for t in text_of(kind, "FrameType").split("\\")),
        "ti": number_of(macros["MRModifierSequence"], "InversionTimes"),
        "b": number_of(diffusion, "DiffusionBValue"),
        "dir": numbers_of(gradient, "DiffusionGradientOrientation")
        or {"ISOTROPIC": "trace"}.get(text_of(diffusion, "DiffusionDirectionality")),
        "t": number_of(content, "TemporalPositionIndex"),
        "trigger": number_of(macros["CardiacSynchronizationSequence"], "NominalCardiacTriggerDelayTime"),
        "time": number_of(macros["TemporalPositionSequence"], "TemporalPositionTimeOffset"),
        "acq": number_of(content, "FrameAcquisitionNumber"),
        **{f"dim{i}": v for i, (p, v) in enumerate(zip(pointers, numbers_of(content, "DimensionIndexValues"), strict=False)) if p},
        "when": text_of(content, "FrameAcquisitionDateTime"),
        "made": text_of(content, "FrameReferenceDateTime"),
    }
    return {name: value for name, value in marks.items() if value not in (None, (), "")}


_IN_SPACE = (0x00209057, 0x00200032, 0x00200037, 0x0020930D, 0x00209301)
"""InStackPositionNumber, ImagePositionPatient, ImageOrientationPatient and those of volumes: dimensions that are places."""


def dimension_of(item: Any) -> str:
    """The pointer of a dimension by which frames are ordered; "" for those that say where a frame lies."""
    pointer = value_of(item, "DimensionIndexPointer")
    return "" if pointer is None or int(pointer) in _IN_SPACE else str(pointer)


def _component(tokens: Sequence[str]) -> str:
    """Which part of complex images an ImageType names, by its third value and those after; "" if it names none."""
    return next((COMPONENTS[token] for token in tokens if token in COMPONENTS), "")


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
