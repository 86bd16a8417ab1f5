"""The schemas in docs/schemas are those of the types, and a field that is written and not described is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.formats import check
from helpers.paper_run import build_run
from pydantic import ValidationError
from schemas import FOLDER, FORMATS, schema


def test_docs_are_those_of_the_types():
    assert sorted(FORMATS) == sorted(path.stem for path in FOLDER.glob("*.json"))
    stale = [name for name in FORMATS if json.loads((FOLDER / f"{name}.json").read_text()) != schema(name)]
    assert not stale, "run make schemas"


def test_the_made_up_run_has_the_formats_of_a_real_one(tmp_path: Path):
    run = build_run(tmp_path / "run")
    for name, path in (("scores", "eval/scores.json"), ("data_report", "data/report.json")):
        check(FORMATS[name], json.loads((run / path).read_text()))


def test_a_field_that_is_not_described_is_found_however_deep(tmp_path: Path):
    scores = json.loads((build_run(tmp_path / "run") / "eval/scores.json").read_text())
    scores["models"]["sft"]["benchmarks"]["test"]["by"]["diagnosis"]["median"] = 1
    with pytest.raises(ValidationError, match="by.diagnosis.median\n  Extra inputs are not permitted"):
        check(FORMATS["scores"], scores)
