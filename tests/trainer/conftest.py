"""What the tests of killed runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.resume import Whole


@pytest.fixture(scope="session")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """The run that nobody interrupts."""
    from helpers.resume import whole_run  # not above: the GPU check runs this room without the paper's packages

    with whole_run(tiny_model, tmp_path_factory.mktemp("resume")) as found:
        yield found
