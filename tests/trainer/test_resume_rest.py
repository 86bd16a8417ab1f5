"""The kills of test_resume.py in the other two stages: a file of its own, so that two workers share them."""

from __future__ import annotations

import pytest
from helpers.resume import kill_anywhere


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["grpo", "figures"])
def test_killed_anywhere_a_stage_ends_in_the_same_bytes(whole, stage, tmp_path):
    kill_anywhere(whole, stage, tmp_path)
