"""Labels as nnU-Net understands its dataset.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nnseg.core.errors import ModelError
from nnseg.core.labels import Labels, Region
from nnseg.core.parse import shown


def labels(dataset: Mapping[str, Any], where: str) -> Labels:
    """Labels as nnU-Net understands dataset.json: numbered from 0, regions in the order in which they are painted.

    Raises:
        ModelError: nnU-Net itself could not have trained with them.
    """
    given = dataset.get("labels")
    if not isinstance(given, dict):
        raise ModelError(f'{where}: "labels" is {shown(given)}, it must be {{"background": 0, name: value, ...}}')
    named = {str(name): tuple(v) if isinstance(v, list) else (v,) for name, v in given.items() if name != "ignore"}
    values = sorted({v for of in named.values() for v in of if type(v) is int})
    if values != list(range(len(values))) or any(type(v) is not int for of in named.values() for v in of):
        raise ModelError(f'{where}: "labels" must have values 0, 1, 2, ... without gaps, as nnU-Net asks for; not {shown(given)}')
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
