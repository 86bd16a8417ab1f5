"""What the types of file formats share. Each room has its own in ``schemas.py``; `make schemas` writes docs/schemas.

The types are dictionaries, as the files are JSON: writing costs nothing more. pydantic's ``TypeAdapter`` checks a file.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2, description="Lower and upper end, at 95 %")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="sha256, hexadecimal")]


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Format(TypedDict):
    """Root of a file. To pydantic a field that is not described is an error, here and in all types inside it."""
