"""Small rows of every shape that training data comes in; used where a stand-in for a corpus is needed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]
FINDINGS = (
    "chest pain",
    "a swollen knee",
    "sudden weakness",
    "a long fever",
    "blurred vision",
    "night sweats",
    "a dry cough",
    "pale stools",
    "a skin rash",
    "dark urine",
)
DRUGS = (
    "aspirin",
    "heparin",
    "warfarin",
    "digoxin",
    "codeine",
    "insulin",
    "atropine",
    "lithium",
    "quinine",
    "morphine",
    "ampicillin",
    "furosemide",
)


def question(i: int) -> str:
    """A different question for each number, in words of its own."""
    a, b, c = FINDINGS[i % 10], FINDINGS[(i // 10 + i + 3) % 10], FINDINGS[(3 * i + i // 10 + 7) % 10]
    return f"A {20 + i % 60}-year-old teacher number {i} came with {a} after {c}, and the nurse of ward {i % 7} wrote down {b}; which drug helps in visit {i}?"


def drugs(i: int) -> list[str]:
    return [DRUGS[(i + step * (1 + i % 3)) % 12] for step in range(4)]


def lettered(i: int) -> str:
    return "\n".join(f"{letter}. {drug}" for letter, drug in zip("ABCD", drugs(i), strict=True))


def structured_medical(n: int) -> Rows:
    return [
        {
            "case": f"Case: {question(i)}",
            "reasoning": f"Step 1: {FINDINGS[i % 10]} speaks for it.\nStep 2: so {drugs(i)[0]} is given.",
            "answer": f"## Clinical Assessment\n\n**Primary Diagnosis**\nDisease {i}\n\n**Reasoning**\nIt was {FINDINGS[i % 10]}.\n\n**Immediate Management**\n1. Give {drugs(i)[0]}.\n\n**Follow-up**\nIn {i + 1} days.",
        }
        for i in range(n)
    ]


def medreason(n: int, first: int = 1000) -> Rows:
    return [
        {
            "dataset_name": "medmcqa",
            "id_in_dataset": i,
            "question": question(i),
            "options": "Answer Choices:\n" + lettered(i),
            "reasoning": f"Finding reasoning paths:\n1. {FINDINGS[i % 10]} -> {drugs(i)[i % 4]}.",
            "answer": f"{drugs(i)[i % 4].capitalize()}. Explanation: it acts at once.",
        }
        for i in range(first, first + n)
    ]


def medical_grpo(n: int, first: int = 2000) -> Rows:
    return [{"question": f"{question(i)}\n{lettered(i)}", "answer": "ABCD"[i % 4]} for i in range(first, first + n)]


def ultramedical(n: int, first: int = 3000) -> Rows:
    return [
        {
            "id": f"TextBookQA,{i}",
            "type": "mc",
            "score": 8,
            "answer": f"{'ABCD'[i % 4]}. {drugs(i)[i % 4]}",
            "conversations": [
                {"from": "human", "value": f"{question(i)}\n\n{lettered(i)}"},
                {"from": "gpt", "value": f"It was {FINDINGS[i % 10]}, so the answer is {'ABCD'[i % 4]}."},
            ],
        }
        for i in range(first, first + n)
    ]


def medqa(n: int) -> Rows:
    return [
        {
            "question": question(i),
            "answer": drugs(i)[1],
            "options": dict(zip("ABCD", drugs(i), strict=True)),
            "meta_info": "step1",
            "answer_idx": "B",
        }
        for i in range(n)
    ]


def medqa_listed(n: int, first: int = 0) -> Rows:
    """MedQA's five options as bigbio's source configuration lists them."""
    return [
        {
            "meta_info": "step1",
            "question": question(i),
            "answer_idx": "B",
            "answer": drugs(i)[1],
            "options": [
                {"key": letter, "value": text}
                for letter, text in zip("ABCDE", [*drugs(i), "none of these"], strict=True)
            ],
        }
        for i in range(first, first + n)
    ]


def medmcqa(n: int, base: int = 0) -> Rows:
    return [
        {
            "id": f"row-{i}",
            "question": question(i),
            **dict(zip(("opa", "opb", "opc", "opd"), drugs(i), strict=True)),
            "cop": i % 4 + base,
            "choice_type": "single",
            "exp": f"Because of {FINDINGS[i % 10]}.",
            "subject_name": "Pharmacology",
            "topic_name": None,
        }
        for i in range(n)
    ]


def pubmedqa(n: int, first: int = 100) -> Rows:
    return [
        {
            "pubid": i,
            "question": question(i),
            "context": {"contexts": ["BACKGROUND one.", "RESULTS two."], "labels": ["BACKGROUND", "RESULTS"]},
            "long_answer": f"It helps in visit {i}.",
            "final_decision": ("yes", "no", "maybe")[i % 3],
        }
        for i in range(first, first + n)
    ]


def mmlu_pro(n: int) -> Rows:
    return [
        {
            "question_id": i,
            "question": question(i),
            "options": drugs(i)[: 3 + i % 2],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "",
            "category": ("health", "law")[i % 2],
            "src": "ori",
        }
        for i in range(n)
    ]


def mmlu(n: int) -> Rows:
    return [{"question": question(i), "subject": "anatomy", "choices": drugs(i), "answer": 1} for i in range(n)]


def items(n: int) -> Rows:
    rows = [
        {
            "id": f"own-{i}",
            "question": question(i),
            "options": dict(zip("ABCD", drugs(i)[: 2 + i % 3], strict=False)),
            "answer_idx": "B",
            "reasoning": "Step 1: so.",
        }
        for i in range(n - 1)
    ]
    return [*rows, {"id": "own-text", "question": "Why is that?", "reasoning": "Step 1: so.", "response": "It is so."}]


SAMPLES = {
    f.__name__: f
    for f in (
        structured_medical,
        medreason,
        medical_grpo,
        ultramedical,
        medqa,
        medmcqa,
        pubmedqa,
        mmlu_pro,
        mmlu,
        items,
    )
}


def write_rows(path: Path, rows: Rows) -> Path:
    """Write ``rows`` as the name's ending says: .parquet, .json or .jsonl, the last two also with .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        texts = [
            {**row, "options": json.dumps(row["options"])} if {"id", "options"} <= set(row) else row for row in rows
        ]  # items: a JSON text
        pq.write_table(pa.table({name: [row.get(name) for row in texts] for name in names}), path)
        return path
    text = json.dumps(rows) if ".json" in path.suffixes else "".join(json.dumps(row) + "\n" for row in rows)
    with (
        gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else open(path, "w", encoding="utf-8") as handle
    ):
        handle.write(text)
    return path
