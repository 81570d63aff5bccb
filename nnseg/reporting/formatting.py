"""Numbers, quantities and intervals as text, and the environment of templates, whose `FILTERS` are these functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnseg.core.dataset import counted
from nnseg.core.decisions import ensemble_name

MISSING: Final = "–"  # noqa: RUF001 (a dash in a table is an en dash)


def number(value: float) -> str:
    """A round number, in thousands or millions where it has many digits: "0.25", "1,500", "200k", "1.5M"."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):,.4g}{unit}"
    return f"{round(value, 9):,.10g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as "1 h 02 min", "3 min 20 s", "4.2 s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short_duration(seconds: float) -> str:
    """Seconds as "35 ms" or "1.2 s"; from one second on as by `duration`."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else duration(seconds)


def energy(joules: float) -> str:
    """Joules in watt-hours: "0.35 Wh", "2.1 kWh"."""
    hours = joules / 3600
    return f"{hours / 1000:.3g} kWh" if hours >= 1000 else f"{hours:.3g} Wh"


def short(value: float) -> str:
    """A number to three digits, whole where it has as many before the point: "0.0123", "4.56", "1,235"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number to so many decimals; a dash where there is none."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed_decimals(value: float | None, digits: int = 3) -> str:
    """A difference to so many decimals with its sign; a dash where there is none."""
    return MISSING if value is None else f"{value:+.{digits}f}"


def interval(ends: tuple[float, float] | None, form: str = ".3f") -> str:
    """An interval as "0.812 to 0.845"; empty where there is none."""
    return f"{ends[0]:{form}} to {ends[1]:{form}}" if ends else ""


def signed(value: float) -> str:
    """A difference to three digits with its sign: "+0.0312", "-4.5"."""
    return f"{round(value, 6):+.3g}"


def gain(value: float, ends: tuple[float, float] | None = None) -> str:
    """A difference of Dice, with its interval if that is known: "+0.0123 (+0.0050 to +0.0200)"."""
    return f"{value:+.4f}" + (f" ({interval(ends, '+.4f')})" if ends else "")


def by(values: Sequence[float]) -> str:
    """Lengths along axes: "40 × 56 × 40"."""
    return " × ".join(f"{v:.4g}" for v in values)  # noqa: RUF001 (times)


def capitalized(sentence: str) -> str:
    """A sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


Filters = Mapping[str, Callable[..., Any]]

FILTERS: Final[Filters] = {
    function.__name__: function
    for function in (
        duration,
        short_duration,
        energy,
        short,
        decimals,
        signed_decimals,
        interval,
        signed,
        gain,
        counted,
        ensemble_name,
        capitalized,
    )
}


def template_environment(
    package: str, folder: str = "", *, escape: Callable[[Any], Any] | None = None, filters: Filters | None = None
) -> Environment:
    """The environment of a package's templates: names without a value are errors, and lines of statements leave no lines.

    Args:
        package: such as "nnseg.reporting".
        folder: of the templates, in the package.
        escape: is applied to each value; by default all are escaped for HTML.
        filters: by name, besides `FILTERS`.
    """
    loader = PackageLoader(package, folder)
    environment = Environment(loader=loader, finalize=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    environment.autoescape = escape is None
    environment.filters.update({**FILTERS, **(filters or {})})
    return environment
