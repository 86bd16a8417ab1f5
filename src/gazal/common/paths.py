"""Where this project's own files lie: everything that is found from the place of the code."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = PACKAGE.parent.parent  # the clone: notebooks, recipes, paper, runs
RECIPES = ROOT / "recipes"
PAPER = ROOT / "paper"
RED_TEAM_CASES = ROOT / "tests" / "red_team" / "cases.jsonl"
EMBEDDED = PACKAGE / "assets" / "embedded_base"
DATASET_CARD = PACKAGE / "assets" / "dataset_card.md"
PLAN_DEVICES = PACKAGE / "assets" / "plan" / "devices.yaml"
PLAN_MODELS = PACKAGE / "assets" / "plan" / "models.yaml"
