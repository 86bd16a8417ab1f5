"""Hold a value against a file format's type, as strictly as its JSON schema does."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter


def check(kind: Any, value: Any) -> None:
    """Raise pydantic's ValidationError for a field that is missing, of another type or not described."""
    TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
