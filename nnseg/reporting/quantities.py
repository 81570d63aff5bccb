"""Quantities as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Seconds in words: "1 h 02 min", "3 min 20 s", "4.2 s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(seconds: float) -> str:
    """A short time in words: "35 ms", "1.2 s"; longer ones as `duration` says them."""
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
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001 (a dash in a table is an en dash)


def by(values: Sequence[float]) -> str:
    """Lengths along axes: "40 × 56 × 40"."""
    return " × ".join(f"{v:.4g}" for v in values)  # noqa: RUF001 (times)
