"""What the tests of generated items share."""

from __future__ import annotations

import pytest
from helpers.knowledge_sources import read_annotations


@pytest.fixture(scope="session")
def annotated() -> dict[str, dict[str, list[int]]]:
    return read_annotations()
