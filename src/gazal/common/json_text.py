"""Read JSON text in which no object has a key twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


class RepeatedKey(ValueError):
    """An object of a JSON text has a key twice; which of the two values counts, nobody can say."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict. Raise RepeatedKey if a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise RepeatedKey(f"key {name[:40]!r} is there twice in one object")
    return found


def load_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raise RepeatedKey for a key that is there twice, else ValueError or RecursionError as ``json`` does.
    """
    return json.loads(text, object_pairs_hook=unique_keys)
