"""Names of channels and labels of two datasets, matched whatever their letter case."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def match_names(names: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """The place of each name among known ones: that of the same name, or of the only one that differs in case and separators.

    Example:
        ``match_names(["Left kidney", "tumour"], ["liver", "left_kidney"]) == (1, None)``
    """
    plain = [_plain(name) for name in known]
    single = {name for name, count in Counter(plain).items() if count == 1}
    exact = set(names) & set(known)

    def find(name: str) -> int | None:
        if name in exact:
            return known.index(name)
        place = plain.index(_plain(name)) if _plain(name) in single else None
        return None if place is None or known[place] in exact else place

    found = [find(name) for name in names]
    return tuple(place if found.count(place) == 1 or name in exact else None for name, place in zip(names, found, strict=True))


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))
