"""Answers in the form that `gazal teach` asks for, made from the words of its prompts."""

from __future__ import annotations

import hashlib
import random
from typing import Any

WORDS = (
    "fever cough oedema rash dyspnoea anaemia troponin lactate sodium potassium creatinine murmur crackles wheeze jaundice ascites tremor goitre syncope "
    "palpitations haematuria proteinuria headache photophobia neutrophils platelets bilirubin albumin glucose ketones ferritin calcium pressure pulse "
    "saturation abdomen chest liver spleen kidney thyroid lung heart joint skin nerve retina bone marrow biopsy culture smear echo radiograph scan"
).split()


def good_answer(question: str, letter: str = "", case: bool = False, steps: int = 4) -> str:
    """An answer in the card's form whose words depend on the question, so that no two are alike."""
    rng = random.Random(hashlib.sha256(question.encode()).digest())

    def prose(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."

    return "\n".join(
        [
            *(["## Case", prose(60), ""] if case else []),
            "<think>",
            *(f"Step {step}: {prose(20)}" for step in range(1, steps + 1)),
            "</think>",
            "",
            "## Clinical Assessment",
            "",
            "**Primary Diagnosis**",
            prose(8),
            "",
            "**Reasoning**",
            prose(30),
            "",
            "**Immediate Management**",
            f"1. {prose(6)}",
            f"2. {prose(6)}",
            "",
            "**Follow-up**",
            prose(8),
            *(["", f"**Answer:** {letter}"] if letter else []),
        ]
    )


def question_of(body: dict[str, Any]) -> str:
    """The seed's or topic's text in a prompt."""
    text = body["messages"][-1]["content"]
    return text.split("Topic:\n" if "\nTopic:\n" in text else "Question:\n")[1].split("\n\nAnswer in this form")[
        0
    ] + str(body["seed"])
