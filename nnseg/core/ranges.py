"""What numbers in plans and recipes may be. No infinities, nothing that is not a number, no sizes without end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


def _whole_number(value: Any) -> Any:
    if type(value) is not int:  # Python takes True for 1
        raise PydanticCustomError("not_a_number", "must be a whole number")
    return value


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Displaced = Annotated[float, Field(ge=0, le=0.1)]  # of control points a fourth apart: more, and patches fold
Thick = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Shares = Annotated[tuple[Probability, Probability], AfterValidator(_ascending)]
Displacement = Annotated[tuple[Displaced, Displaced], AfterValidator(_ascending)]
Thickness = Annotated[tuple[Thick, Thick], AfterValidator(_ascending)]
SplineOrder = Annotated[Literal[0, 1, 3], BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Counts = tuple[Annotated[int, Field(ge=1, le=65_536)], ...]

MOST_VALUES = 2**36
"""Of the finest feature map of a batch; far beyond real plans, so that a file from elsewhere cannot ask for terabytes."""

MOST_WEIGHTS = 2**32
"""Of a network's convolutions, for the same reason."""


def agree(problems: Iterable[str]) -> None:
    """Nothing, if settings go together.

    Args:
        problems: each naming its settings by their whole paths; `nnseg.core.parse.parse` repeats them as they are.
    """
    listed = list(problems)
    if listed:
        raise PydanticCustomError("disagreement", "{text}", {"text": "; ".join(listed), "problems": listed})
