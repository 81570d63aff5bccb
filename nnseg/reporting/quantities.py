"""Quantities as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in words: "1 h 02 min", "3 min 20 s", "4.2 s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def energy(joules: float) -> str:
    """Joules in watt-hours: "0.35 Wh", "2.1 kWh"."""
    hours = joules / 3600
    return f"{hours / 1000:.3g} kWh" if hours >= 1000 else f"{hours:.3g} Wh"
