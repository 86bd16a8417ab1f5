"""Quality filters: each reason, what must not be removed, and rates on real texts and on the generator's own."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazal.answers.extract import extract
from gazal.common.paths import ROOT
from gazal.curation.command import token_counter
from gazal.curation.quality import REASONS, Finding, QualityFilter, cut_short, key_of, sentence_ended, wrong_language
from gazal.curation.scan import clean_row
from gazal.items.reading import read_rows
from gazal.knowledge.generate import synthesize
from gazal.recipe.data import CurationSection
from gazal.recipe.load import load_recipe
from gazal.training.sft import sft_dataset

FOLDER = ROOT.parent / "shared" / "benchmarks"
real = pytest.mark.skipif(not FOLDER.is_dir(), reason="no real benchmarks here")
OPTIONS = {"A": "aspirin", "B": "heparin", "C": "warfarin", "D": "none of these"}
TRACE = "Step 1: The patient has a deep vein thrombosis. Step 2: He needs an anticoagulant that acts at once."
CHOICE = {
    "id": "c",
    "question": "Which of these drugs acts at once in a man with a new thrombosis?",
    "options": OPTIONS,
    "answer_idx": "B",
    "reasoning": TRACE,
}
FREE = {
    "id": "f",
    "question": "What does a man with a new thrombosis need?",
    "reasoning": TRACE,
    "response": "## Clinical Assessment\n**Primary Diagnosis** Deep vein thrombosis.\n**Immediate Management**\n1. Heparin",
}


def findings(rows: list[dict[str, Any]], count_tokens=None, max_tokens=None, **fields: Any) -> list[Finding]:
    quality = QualityFilter(CurationSection(**fields), count_tokens, max_tokens)
    for row in rows:
        quality.check(row)
    return quality.finish()


def reason(row: dict[str, Any], **changes: Any) -> tuple[str, str] | None:
    found = findings([{**row, **changes}])
    return (found[0].reason, found[0].field) if found else None


@pytest.mark.parametrize(
    ("row", "changes", "expected"),
    [
        (CHOICE, {"question": " \n"}, ("empty", "question")),
        (CHOICE, {"reasoning": ""}, ("empty", "reasoning")),
        (FREE, {"response": "\t"}, ("empty", "response")),
        (CHOICE, {"options": {**OPTIONS, "C": " "}}, ("empty", "options")),
        (CHOICE, {"options": {"A": "aspirin"}, "answer_idx": "A"}, ("empty", "options")),
        (CHOICE, {"options": {}}, ("empty", "options")),
        (CHOICE, {"answer_idx": "E"}, ("no_answer", "answer_idx")),
        (CHOICE, {"answer_idx": ""}, ("no_answer", "answer_idx")),
        (CHOICE, {"answer_idx": None}, ("no_answer", "answer_idx")),
        (CHOICE, {"answer_idx": None, "answer": "clopidogrel"}, ("no_answer", "answer_idx")),
        (FREE, {"response": None}, ("no_answer", "response")),
        (
            FREE,
            {"response": "## Clinical Assessment\n**Primary Diagnosis**\n**Reasoning:**\n"},
            ("no_answer", "response"),
        ),
        (FREE, {"response": "N/A"}, ("no_answer", "response")),
        (FREE, {"response": "---\n***"}, ("no_answer", "response")),
        (FREE, {"response": "<think>He has pain. Heparin is needed.</think>\n"}, ("no_answer", "response")),
        (FREE, {"response": "I'm sorry, but I can't provide medical advice."}, ("no_answer", "response")),
        (FREE, {"response": "As an AI language model, I have no opinion."}, ("no_answer", "response")),
        (CHOICE, {"reasoning": TRACE + " Therefore he should be treated with the"}, ("truncated", "reasoning")),
        (CHOICE, {"reasoning": TRACE + " Heparin, warfarin,"}, ("truncated", "reasoning")),
        (FREE, {"response": "Heparin. <think>But then"}, ("truncated", "response")),
        (FREE, {"response": "Give this:\n```\nheparin 5000 units"}, ("truncated", "response")),
        (FREE, {"response": "Deep vein thrombosis.\n**Immediate Manag"}, ("truncated", "response")),
        (
            CHOICE,
            {
                "reasoning": TRACE
                + " The leg is warm. It is swollen. The other leg is well. There is no fever. The man then noticed some pai"
            },
            ("truncated", "reasoning"),
        ),
        (
            CHOICE,
            {"question": "一名男性患者因新发深静脉血栓就诊，应首选下列哪种药物？"},
            ("wrong_language", "question"),
        ),
        (
            FREE,
            {"reasoning": TRACE + " " + "病人需要立即抗凝治疗，首选肝素，同时监测血小板计数。" * 20},
            ("wrong_language", "reasoning"),
        ),
        (CHOICE, {"options": {"A": "阿司匹林", "B": "肝素", "C": "华法林"}}, ("wrong_language", "options")),
        (CHOICE, {"reasoning": TRACE + "\nStep 3: the answer is C."}, ("unsupported", "reasoning")),
        (
            CHOICE,
            {"reasoning": TRACE + "\n**Answer:** C. warfarin\n\nConfidence is high."},
            ("unsupported", "reasoning"),
        ),
        (CHOICE, {"response": "The correct option is A."}, ("unsupported", "response")),
    ],
)
def test_each_reason(row: dict[str, Any], changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert reason(row) is None and reason(row, **changes) == expected


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        (CHOICE, {"reasoning": None}),
        ({"id": "q", "question": "Which drug acts at once?"}, {}),
        (CHOICE, {"answer_idx": None, "answer": "B"}),
        (CHOICE, {"answer_idx": None, "answer": "(B)"}),
        (CHOICE, {"answer_idx": None, "answer": "Heparin. Explanation: it acts at once"}),
        (
            CHOICE,
            {
                "reasoning": "Step 1: A. aspirin: total: 3\nStep 2: B. heparin: total: 5\nStep 3: highest total: 5; answer: B"
            },
        ),
        (CHOICE, {"reasoning": TRACE + "\nWarfarin takes days, so C is wrong, and nothing here says which is right."}),
        (CHOICE, {"reasoning": TRACE + "\nThe answer is C. No, wait: the answer is B."}),
        (
            CHOICE,
            {
                "question": "What blocks β1 receptors at 5 µg/ml, or 37 ℃, in Sjögren's and Ménière's disease?",
                "options": {"A": "α", "B": "β"},
            },
        ),
        (
            CHOICE,
            {"question": "Нe сomрlаinѕ оf раin in his legs and asks which drug acts at once."},
        ),  # Cyrillic look-alikes, as in MedQA's test set
        (
            CHOICE,
            {
                "question": "Inversion: tibialis anterior, tibialis posterior, extensor hallucis longus, flexor digitorum longus, flexor hallucis longus"
            },
        ),
        (FREE, {"response": "Heparin"}),
        (FREE, {"response": "**Heparin**"}),
        (FREE, {"response": "None of the drugs is needed."}),
        (FREE, {"response": "IV"}),
        (FREE, {"response": "Na"}),
        (FREE, {"response": "None"}),
        (FREE, {"response": "I can't help but think of heparin."}),
        (FREE, {"response": "He has an infection with influenza a"}),
        (FREE, {"response": "1. **Heparin** at once\n2. **Warfarin** later\n- Follow up in two weeks"}),
        (FREE, {"response": "```\nheparin\n```\nThat is all"}),
        (FREE, {"response": "p < 0.05** for heparin"}),
        (FREE, {"reasoning": "<think>" + TRACE + "</think>"}),
    ],
)
def test_what_stays(row: dict[str, Any], changes: dict[str, Any]) -> None:
    assert reason(row, **changes) is None


@pytest.mark.parametrize(
    "text",
    [
        "Ein 45-jähriger Mann stellt sich mit seit drei Tagen bestehenden Schmerzen im linken Bein vor. Welche Behandlung ist am besten geeignet?",
        "Un homme de 45 ans consulte pour une douleur de la jambe gauche évoluant depuis trois jours. Quel est le traitement le plus approprié ?",
        "Un hombre de 45 años acude por dolor en la pierna izquierda desde hace tres días. ¿Cuál es el tratamiento más adecuado?",
        "Um homem de 45 anos apresenta dor na perna esquerda há três dias. Qual é o tratamento mais adequado para este paciente?",
        "Un uomo di 45 anni si presenta con dolore alla gamba sinistra da tre giorni. Qual è il trattamento più appropriato?",
        "Een man van 45 jaar komt met sinds drie dagen bestaande pijn in het linkerbeen. Welke behandeling is het meest geschikt?",
        "45 yaşında erkek hasta üç gündür sol bacağında ağrı ile başvuruyor. En uygun tedavi aşağıdakilerden hangisidir?",
        "Seorang pria berusia 45 tahun datang dengan nyeri pada tungkai kiri sejak tiga hari. Manakah pengobatan yang paling tepat?",
        "Мужчина 45 лет обратился с жалобами на боль в левой ноге в течение трёх дней. Какое лечение наиболее подходит?",
        "يعاني رجل يبلغ من العمر 45 عاما من ألم في الساق اليسرى منذ ثلاثة أيام. ما هو العلاج الأنسب؟",
    ],
)
def test_other_languages_are_found_and_may_be_asked_for(text: str) -> None:
    assert reason(CHOICE, question=text) == ("wrong_language", "question")
    assert wrong_language({"question": text}, CurationSection(language=None)) is None
    assert reason(FREE, reasoning=TRACE * 10 + text * 4) == ("wrong_language", "reasoning")
    if text.startswith("Ein "):
        assert wrong_language({"question": text}, CurationSection(language="de")) is None
        assert wrong_language(CHOICE, CurationSection(language="de"))


def test_a_habit_of_the_file_tells_cuts_that_a_text_alone_does_not() -> None:
    whole = [{**FREE, "id": str(i), "response": f"The patient in case {i} needs heparin at once."} for i in range(30)]
    cut = {**FREE, "id": "cut", "response": "The patient in case thirty needs hepari"}
    assert findings([cut]) == []
    assert [(f.row, f.id, f.reason, f.field) for f in findings([*whole[:20], cut, *whole[20:]])] == [
        (20, "cut", "truncated", "response")
    ]
    sloppy = QualityFilter(CurationSection())
    for row in whole[:20] + [{**cut, "id": f"cut {i}"} for i in range(10)]:
        sloppy.check(row)
    assert sloppy.finish() == [] and sloppy.no_habit() == [
        "truncated response: 10 of 30 end without a sentence's end, too many to tell a cut"
    ]
    assert len(findings([*whole[:20], *({**cut, "id": f"cut {i}"} for i in range(10))], sentence_end_share=0.6)) == 10


def test_length_in_tokens_of_prompt_and_completion() -> None:
    asked: list[str] = []

    def words(texts: list[str]) -> list[int]:
        asked.extend(texts)
        return [len(text.split()) for text in texts]

    long = {**FREE, "id": "long", "reasoning": "It hurts. " * 1000}
    found = findings([CHOICE, long, FREE], words, 1000)
    completion = f"<think> {long['reasoning']} </think> {FREE['response']}"
    assert [f[2:] for f in found] == [
        ("context_length", "tokens", f"{len(FREE['question'].split()) + len(completion.split())} tokens")
    ] and found[0].row == 1
    assert len(asked) == 2 and asked[0] == FREE["question"]  # rows of fewer bytes than the limit are not counted at all
    assert findings([long], words, None) == [] and findings([long], None, 10) == []
    many = [{**long, "id": str(i)} for i in range(600)]
    assert [f.row for f in findings(many, words, 1000)] == list(range(600))


def test_lengths_are_those_of_sft() -> None:
    """Exactly what SFT would set aside as too long is removed: same template, same system prompt."""
    recipe = load_recipe("embedded", ["sft.max_length=150"])
    count, limit, why = token_counter(recipe)
    assert count and limit and not why
    from gazal.models.loading import base_path, load_tokenizer

    items = list(synthesize(120, 3))
    rows = sft_dataset(items, recipe.model.system)
    lengths = [
        len(ids)
        for ids in load_tokenizer(base_path(recipe.model)).apply_chat_template(
            [r["prompt"] + r["completion"] for r in rows], tokenize=True, return_dict=True
        )["input_ids"]
    ]
    found = findings([item.model_dump(exclude_none=True) for item in items], count, limit)
    assert [f.row for f in found] == [i for i, n in enumerate(lengths) if n > 150] and found and len(found) < len(items)


@pytest.mark.parametrize("variety", ["plain", "rich"])
@pytest.mark.parametrize("trace", ["reasoning", "reasoning_brief"])
def test_nothing_of_the_generator_is_removed_and_every_wrong_key_is(trace: str, variety: str) -> None:
    rows = [item.model_dump(exclude_none=True) for item in synthesize(600, 7, variety=variety)]
    rows = [{**row, "reasoning": row[trace]} for row in rows]
    assert findings(rows) == []
    wrong = [
        {**row, "answer_idx": next(letter for letter in row["options"] if letter != row["answer_idx"])} for row in rows
    ]
    assert [(f.row, f.reason) for f in findings(wrong)] == [(n, "unsupported") for n in range(600)]


def texts(name: str, *fields: str) -> list[str]:
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    return [
        row[field].strip() for row in rows for field in fields if isinstance(row.get(field), str) and row[field].strip()
    ]


@real
def test_no_english_test_item_is_foreign() -> None:
    """7,491 test items and 3,231 training ones; the one removed is Chinese."""
    section, found, n = CurationSection(), [], 0
    for path in sorted(FOLDER.glob("*.jsonl.gz")):
        for number, row in read_rows(path):
            n += 1
            if wrong_language(clean_row(path, number, row), section):
                found.append((path.name, number))
    assert n > 10_000 and len(found) == 1 and found[0][0] == "huatuo_o1_demo198.jsonl.gz"


@real
def test_rates_on_real_traces() -> None:
    """False alarms on whole texts, and how many texts cut somewhere are found."""
    traces = texts("huatuo_o1_demo198", "complex_cot", "response")
    assert (
        len(traces) == 396
        and sum(map(cut_short, traces)) == 0
        and all(sentence_ended(text) is not False for text in traces)
    )
    explanations = texts("medmcqa_validation", "explanation")
    assert sum(map(cut_short, explanations)) / len(explanations) < 0.008  # scraped; some of these are cut
    abstracts = texts("pubmedqa_test500", "long_answer") + texts("pubmedqa_train500", "long_answer")
    assert sum(map(cut_short, abstracts)) == 0
    rng = random.Random(1)
    traces = texts("huatuo_o1_demo198", "complex_cot")
    cuts = [text[: rng.randrange(len(text) // 3, len(text) - 5)].rstrip() for text in traces for _ in range(3)]
    rows = [
        {"id": str(i), "question": "Why does it hurt?", "reasoning": text, "response": "Heparin."}
        for i, text in enumerate(cuts[:60] + traces + traces * 3)
    ]
    found = {f.row for f in findings(rows) if f.reason == "truncated"}
    assert sum(map(cut_short, cuts)) / len(cuts) > 0.5  # from the text alone
    assert (
        len(found) >= 0.85 * 60 and max(found) < 60
    )  # with the habit of the file; what remains ends with a sentence's end


@real
def test_support_on_real_explanations() -> None:
    """Where an explanation's last line names an option, it is the key but for a few."""
    with gzip.open(FOLDER / "medmcqa_validation.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = [{**row, "reasoning": row["explanation"]} for row in map(json.loads, handle) if row["explanation"]]
    assert sum(f.reason == "unsupported" for f in findings(rows)) <= 0.002 * len(rows)


WORDS = st.text("abcdefgh ,.\n*`<>/thinkAnswer:BC#-é病", max_size=80)


@settings(max_examples=150)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.just("x"), "question": WORDS},
            optional={
                "reasoning": st.none() | WORDS,
                "response": st.none() | WORDS,
                "answer": st.none() | WORDS,
                "answer_idx": st.none() | st.sampled_from("ABCZ"),
                "options": st.none() | st.dictionaries(st.sampled_from("ABCD12"), WORDS, max_size=4),
                "context": st.lists(WORDS, max_size=2),
            },
        ),
        max_size=5,
    )
)
def test_any_row_has_one_known_reason_or_none(rows: list[dict[str, Any]]) -> None:
    found = findings(rows, lambda asked: [len(text) for text in asked], 120)
    assert found == findings(rows, lambda asked: [len(text) for text in asked], 120)
    assert [f.row for f in found] == sorted({f.row for f in found}) and all(
        f.reason in REASONS and f.row < len(rows) for f in found
    )
    for row in (row for n, row in enumerate(rows) if n not in {f.row for f in found}):
        assert row["question"].strip() and (not row.get("options") or key_of(row))


@settings(max_examples=100)
@given(
    st.sampled_from("ABCD"),
    st.sampled_from("ABCD"),
    st.sampled_from(
        ["Step 9: total: 3; answer: {}", "The answer is {}.", "**Answer:** {}", "So the correct option is ({})."]
    ),
)
def test_support_is_what_the_extractor_reads(key: str, stated: str, form: str) -> None:
    trace = TRACE + "\n" + form.format(stated)
    assert extract(trace, OPTIONS).letter == stated
    assert reason(CHOICE, answer_idx=key, reasoning=trace) == (None if key == stated else ("unsupported", "reasoning"))
