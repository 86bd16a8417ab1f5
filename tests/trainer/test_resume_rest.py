"""The kills of test_resume.py in the other two stages: a file of its own, so that two workers share them."""

from __future__ import annotations

import pytest
from test_resume import kill_anywhere, whole  # noqa: F401  the fixture


@pytest.mark.parametrize("stage", ["grpo", "figures"])
def test_killed_anywhere_a_stage_ends_in_the_same_bytes(whole, stage, tmp_path):  # noqa: F811
    kill_anywhere(whole, stage, tmp_path)
