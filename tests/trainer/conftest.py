"""What the tests of killed runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.resume import Whole, whole_run


@pytest.fixture(scope="session")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole_run(tiny_model, tmp_path_factory.mktemp("resume")) as found:
        yield found
