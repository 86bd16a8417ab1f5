"""Write the JSON schemas of a run's result files to docs/schemas: ``python measure/schemas.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gazal.common.files import write_json
from gazal.curation.schemas import CurationFile
from gazal.data.schemas import DataReport
from gazal.runs import Manifest
from gazal.scoring.schemas import Faithfulness, Scores
from gazal.trainer.schemas import GrpoStep, SftStep

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"
FORMATS = {
    "curation_report": CurationFile,
    "data_report": DataReport,
    "faithfulness": Faithfulness,
    "grpo_metrics": GrpoStep,
    "manifest": Manifest,
    "scores": Scores,
    "sft_metrics": SftStep,
}


def schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of one of :data:`FORMATS`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(FORMATS[name]).json_schema()}


if __name__ == "__main__":
    for name in FORMATS:
        write_json(FOLDER / f"{name}.json", schema(name))
