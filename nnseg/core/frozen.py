"""The base of all models that are read from files or written to them, and the digest of what they hold."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from nnseg.core.short_repr import short_repr


class FrozenModel(BaseModel):
    """An immutable model that refuses unknown keys, and shows itself on at most a screen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr__(self) -> str:
        return short_repr(self)

    def __str__(self) -> str:
        return short_repr(self)


def digest(content: Any) -> str:
    """BLAKE2b hash (32 hexadecimal digits) of anything that JSON can hold; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
