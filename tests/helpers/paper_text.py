"""The words of a run's paper."""

from __future__ import annotations

import json
from pathlib import Path

import typst

from gazal.paper.compile import stage_sources
from gazal.paper.inputs import read_results


def words(content: object) -> str:
    """The text of a typst content tree, as typst.query returns it."""
    if isinstance(content, list):
        return "".join(map(words, content))
    if not isinstance(content, dict):
        return ""
    if content.get("func") in ("text", "raw", "symbol"):
        return content["text"]
    return " " if content.get("func") == "space" else words([content.get(key) for key in ("children", "child", "body")])


def paper_text(run: Path) -> str:
    """All paragraphs of the paper, as typst lays them out."""
    with stage_sources(read_results(run)) as (root, inputs):
        found = typst.query(str(root / "main.typ"), "par", root=str(root), sys_inputs=inputs, ignore_system_fonts=True)
    return " ".join(" ".join(words(paragraph["body"]) for paragraph in json.loads(found)).split())
