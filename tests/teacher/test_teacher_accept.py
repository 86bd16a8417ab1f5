"""Acceptance of a teacher's answers: the form, refusals against honest texts, votes, near-copies."""

from __future__ import annotations

import gzip
import itertools
import json
import random

import pytest
from helpers.items import make_item
from helpers.teacher_answers import WORDS, good_answer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gazal.answers.extract import extract
from gazal.common.endpoints import back_off, public_endpoint, public_model, retry_after, same_model
from gazal.common.paths import ROOT
from gazal.curation.text import words
from gazal.items.prompts import completion_text
from gazal.items.schema import Item, TrainingExample
from gazal.teacher.accept import Answer, Reason, Rules, accept, completion, is_refusal, judge, parse
from gazal.teacher.copies import NearCopies
from gazal.teacher.plan import Question, Task, make_requests

FOLDER = ROOT.parent / "shared" / "benchmarks"
RULES = Rules()
SEED = make_item(1)  # key B
CHOICE = Task("teacher:item-1", "diagnosis", "cardiology", "Question 1?", seed=SEED)
FREE = Task("teacher:q", "treatment", "pharmacology", "Which dose?", seed=Question(id="q", question="Which dose?"))
TOPIC = Task("teacher:topic-1", "prognosis", "pulmonology", "asthma", patient="a male patient")

HONEST = """<think>
Step 1: The patient has exertional chest pain, a heart rate of 104 and a new systolic murmur. Troponin is not reported, so infarction is not excluded.
I cannot determine the cause of the murmur from this alone.
Step 2: Differential: aortic stenosis (slow-rising pulse, syncope), hypertrophic cardiomyopathy, mitral regurgitation. Step 3 of the guideline would be echocardiography.
- against mitral regurgitation: no radiation to the axilla
Step 3: As an aid, the ejection click is absent. The most likely answer is aortic stenosis.
</think>

## Clinical Assessment

**Primary Diagnosis**
Severe symptomatic aortic stenosis.

**Reasoning**
Exertional symptoms with a slow-rising pulse and an ejection murmur fit best; the **absent** click speaks for a calcified valve.

**Immediate Management**
1. Echocardiography today.
2. Avoid nitrates and other vasodilators.
3. Refer for valve replacement.

**Follow-up**
Cardiology within one week; at once after syncope."""


def reasons(text: str, task: Task = FREE, finish: str = "stop", rules: Rules = RULES) -> list[str]:
    return [reason.value for reason in judge(text, finish, task, rules)[1]]


def test_honest_answers_pass():
    assert reasons(HONEST) == []
    assert reasons(HONEST + "\n\n**Answer:** B", CHOICE) == []
    for variant in (
        HONEST.replace("**Primary Diagnosis**\n", "**Primary Diagnosis:** "),
        HONEST.replace("**Follow-up**\n", "**Follow-up**: "),
        HONEST.replace("1. ", "1) ").replace("2. ", "2) ").replace("3. R", "3) R"),
        HONEST.replace("\n\n", "\n"),
        f"  \n{HONEST}\n",
    ):
        assert reasons(variant) == [], variant
    case = "## Case\n" + "A man of sixty has a cough. " * 6
    assert reasons(f"{case}\n\n{HONEST}", TOPIC) == []
    inside, _, after = HONEST.partition("</think>")
    assert (
        reasons(f"{inside}</think>\n\n{case}\n\n{after.strip()}", TOPIC) == []
    )  # a thinking model's block comes first
    answer = parse(f"{case}\n\n{HONEST}", TOPIC, RULES)[0]
    assert (
        answer.case == case.removeprefix("## Case\n").strip()
        and answer.reasoning.startswith("Step 1: The")
        and answer.reasoning.endswith("stenosis.")
    )
    assert answer.assessment.startswith("## Clinical Assessment") and answer.assessment.endswith("syncope.")


def cut(old: str, new: str = "") -> str:
    assert HONEST.count(old) >= 1
    return HONEST.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (cut("</think>"), "no_think_block"),
        (cut("<think>"), "no_think_block"),
        ("Sure! " + HONEST, "no_think_block"),
        (HONEST.replace("</think>", "</think>\n<think>\nmore\n</think>"), "no_think_block"),
        (HONEST + "<|im_end|>", "no_think_block"),
        (cut("Step 2: Diff", "Step 4: Diff"), "steps"),
        (cut("Step 1: The", "Step 0: The"), "steps"),
        (cut("Step 1: The", "First, the"), "steps"),
        (cut("Step 2: Diff", "Step 1: Diff"), "steps"),
        (cut("<think>\n", "<think>\nLet me think.\n"), "steps"),
        (HONEST.replace("\nStep 2: Diff", "\nDiff").replace("\nStep 3: As", "\nAs"), "steps"),
        (cut("Step 1: The", "**Step 1:** The"), "steps"),
        (cut("</think>", "Step 4:\n</think>"), "steps"),
        (cut("## Clinical Assessment\n"), "sections"),
        (cut("## Clinical Assessment", "### Clinical Assessment"), "sections"),
        (cut("**Reasoning**"), "sections"),
        (cut("</think>\n", "</think>\n\nHere it is:\n"), "sections"),
        (cut("Severe symptomatic aortic stenosis."), "sections"),
        (cut("**Follow-up**", "**Follow-up**\n\n**Follow-up**"), "sections"),
        (cut("**Follow-up**\nCardiology within one week; at once after syncope."), "sections"),
        (cut("**Follow-up**", "**FollowUp**"), "sections"),
        (
            HONEST.replace("**Primary Diagnosis**", "**X**")
            .replace("**Reasoning**", "**Primary Diagnosis**")
            .replace("**X**", "**Reasoning**"),
            "sections",
        ),
        (HONEST.replace("1. ", "").replace("2. ", "").replace("3. ", ""), "management"),
        (cut("3. ", "4. "), "management"),
        (
            HONEST.replace(HONEST[HONEST.index("Step 1: ") + 8 : HONEST.index("</think>")], "Yes.\nStep 2: Yes.\n"),
            "too_short",
        ),
        (cut("</think>", "word " * 1500 + "\n</think>"), "too_long"),
    ],
)
def test_broken_answers_name_the_reason(text, reason):
    assert reason in reasons(text)
    assert len(reasons(text)) == 1 or reason in ("no_think_block", "sections", "management")


@pytest.mark.parametrize(
    ("text", "finish", "task", "expected"),
    [
        (HONEST, "length", FREE, ["truncated"]),
        (HONEST, "content_filter", FREE, ["finish_reason"]),
        (HONEST, "refusal", FREE, ["refusal"]),
        (HONEST, "None", FREE, ["finish_reason"]),
        (HONEST, "stop", CHOICE, ["answer_line", "no_answer"]),
        (HONEST + "\n\n**Answer:** C", "stop", CHOICE, ["wrong_answer"]),
        (HONEST + "\n\n**Answer:** E", "stop", CHOICE, ["no_answer"]),
        (HONEST + "\n\nThe answer is B.", "stop", CHOICE, ["answer_line"]),
        (HONEST + "\n\n**Answer:** B\nor C", "stop", CHOICE, ["answer_line", "no_answer"]),
        (HONEST, "stop", TOPIC, ["case"]),
        ("## Case\nShort.\n\n" + HONEST, "stop", TOPIC, ["case"]),
        ("## Case\n" + "A man of sixty. " * 10 + "\n\n" + HONEST, "stop", FREE, ["no_think_block"]),
    ],
)
def test_finish_answer_and_case(text, finish, task, expected):
    assert reasons(text, task, finish) == expected


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I am sorry, I cannot provide medical advice.",
    "I’m really sorry, but I’m unable to assist with this request.",
    "Sorry, I can't assist with that.",
    "I cannot provide medical advice. Please see a doctor.",
    "I can't provide a diagnosis.",
    "I can not help with this.",
    "I'm unable to provide specific medical guidance.",
    "I am not able to answer this question.",
    "Unfortunately, I cannot comply with this request.",
    "As an AI language model, I do not diagnose.",
    "As a large language model I have limits.",
    "I'm just an AI and cannot examine patients.",
    "I must respectfully decline to provide clinical advice.",
    "I apologize, but I am unable to fulfill your request.",
    "My apologies, but I cannot generate this content.",
    "I won't be able to help.",
    "We are not able to offer an answer.",
    "I must decline to answer this.",
    "This request violates our policy.",
    "## Clinical Assessment\n\n**Primary Diagnosis**\nI'm sorry, but I can't provide a diagnosis.",
    "<think>\nI cannot assist with medical questions.",
    "I am not qualified to give medical advice.",
    "I won’t answer questions of this kind.",
    "I'm not able to discuss this.",
]
NO_REFUSALS = [
    "I cannot determine the cause from these findings; the differential is wide.",
    "I cannot exclude pulmonary embolism.",
    "I can't rule out sepsis here, so I would treat.",
    "I cannot give a definitive diagnosis, but aortic stenosis is most likely.",
    "I cannot recommend thrombolysis, because the patient bled last week.",
    "I could not find a contraindication.",
    "Unable to walk since yesterday, the patient has cord compression.",
    "Sorry state of the valve aside, the ventricle is normal.",
    "As an aid to diagnosis, the ECG shows ST elevation.",
    "I am sorry to hear of the loss; I would screen for depression first.",
    "The patient says: I'm sorry, I can't help crying.",
    "We cannot wait for cultures.",
    "AI (aortic insufficiency) is most likely.",
    "As an apical scan showed, there is a nodule.",
    "I will not start heparin before the scan.",
    "We decline surgery at this stage.",
    "I am unable to feel the spleen.",
    "I cannot complete the CURB-65 score without urea.",
    "I would not offer surgery.",
    "I can't make a diagnosis without the biopsy; the next step is the biopsy.",
    "I cannot make a firm diagnosis yet.",
    "I cannot answer with certainty.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_honest_doubt_is_no_refusal(text):
    assert not is_refusal(text) and not is_refusal(f"**Primary Diagnosis**\n{text}")


def test_a_refusal_counts_at_the_head_alone():
    for refusal in REFUSALS[:10]:
        assert "refusal" in reasons(refusal) and "refusal" in reasons(
            HONEST.partition("</think>")[0] + "</think>\n\n" + refusal
        )
        assert reasons(HONEST.replace("I cannot determine the cause", refusal + " I cannot")) == []
        assert reasons(HONEST.replace("fit best; ", f"fit best. {refusal} ")) == []


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared/benchmarks")
def test_no_exam_text_or_model_answer_is_a_refusal():
    texts = []
    for path in sorted(FOLDER.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            for value in itertools.chain.from_iterable(json.loads(line).values() for line in handle):
                texts += [
                    text
                    for text in (
                        [value]
                        if isinstance(value, str)
                        else value.values()
                        if isinstance(value, dict)
                        else value
                        if isinstance(value, list)
                        else []
                    )
                    if isinstance(text, str)
                ]
    assert len(texts) > 50_000 and [text for text in texts if is_refusal(text)] == []


def test_stored_responses():
    def response(**message: str | None) -> dict:
        return {"choices": [{"finish_reason": "stop", "message": message}]}

    assert completion(response(content=" x ")) == ("x", "stop")
    assert completion(response(content="x", reasoning_content="Step 1: y\n")) == (
        "<think>\nStep 1: y\n</think>\n\nx",
        "stop",
    )
    assert completion(response(content="x", reasoning="y")) == (
        "<think>\ny\n</think>\n\nx",
        "stop",
    )  # vLLM's newer name
    assert completion(response(content="<think>\na\n</think>\nx", reasoning_content="y")) == (
        "<think>\na\n</think>\nx",
        "stop",
    )
    assert completion(response(content=None, refusal="I cannot.")) == ("I cannot.", "refusal") and completion(
        response(content=None)
    ) == ("", "stop")
    assert completion({"choices": [{"message": {"content": "x"}}]}) == ("x", "None")


PARTS = [
    "<think>",
    "</think>",
    "\n",
    "Step 1: ",
    "Step 2: ",
    "## Case\n",
    "## Clinical Assessment\n",
    "**Primary Diagnosis**\n",
    "**Reasoning**\n",
    "**Immediate Management**\n",
    "1. x\n",
    "**Follow-up**\n",
    "**Answer:** B",
    "word " * 45,
    "\ud800",
]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=30).map("".join),
    st.sampled_from([CHOICE, FREE, TOPIC]),
)
@example(
    "\n".join(["<think>", "Step 1: " + "w " * 30, "Step 2: " + "w " * 30, "</think>", "## Clinical Assessment"]), FREE
)
def test_any_text_is_judged_and_what_passes_is_whole(text, task):
    answer, found = judge(text, "stop", task, RULES)
    assert isinstance(answer, Answer) and set(found) <= set(Reason)
    if not found:
        text.encode()
        assert (
            answer.reasoning.startswith("Step 1: ")
            and answer.assessment.startswith("## Clinical Assessment")
            and all(f"**{name}" in answer.assessment for name in ("Primary", "Reasoning", "Immediate", "Follow"))
        )


@settings(max_examples=100)
@given(st.integers(2, 9), st.integers(0, 10**6), st.sampled_from("ABCD"), st.data())
def test_good_answers_pass_and_lose_no_line(steps, number, letter, data):
    task = Task("t", "diagnosis", "cardiology", "q", seed=make_item("ABCD".index(letter)))
    text = good_answer(str(number), letter, steps=steps)
    assert reasons(text, task) == []
    kept = [line for line in text.split("\n") if line]
    gone = data.draw(st.integers(0, len(kept) - 1))
    without = "\n".join(kept[:gone] + kept[gone + 1 :])
    assert (reasons(without, task) == []) == (
        (kept[gone].startswith(f"Step {steps}: ") and steps > 2) or kept[gone].startswith("2. ")
    )


def verdicts(
    answers: dict[str, list[str | None]], items: list[Item], samples: int, rules: Rules = RULES
) -> dict[str, list[str]]:
    """Task id to 'ok' or the reasons, by sample, for texts by item id (None: not answered)."""
    tasks = [Task(f"teacher:{item.id}", "diagnosis", "cardiology", item.question, seed=item) for item in items]
    found: dict[str, list[str]] = {}
    stored = {(f"teacher:{name}", sample): text for name, texts in answers.items() for sample, text in enumerate(texts)}

    def read(request):
        text = stored.get((request.task, request.sample))
        return text and {"response": {"choices": [{"finish_reason": "stop", "message": {"content": text}}]}}

    for verdict in accept(tasks, lambda task: make_requests(task, "m", samples, 100, 0.7, 0), read, rules, "m"):
        found.setdefault(verdict.task.id.removeprefix("teacher:"), []).append(
            "ok" if verdict.example else ",".join(verdict.reasons)
        )
        if verdict.example:
            item = type(verdict.example).model_validate(
                json.loads(json.dumps(verdict.example.model_dump(exclude_none=True)))
            )
            assert (
                item == verdict.example
                and item.source == "teacher: m"
                and completion_text(item, item.reasoning).startswith("<think>\nStep 1: ")
            )
            assert (
                isinstance(item, TrainingExample)
                or extract(completion_text(item, item.reasoning), item.options).letter == item.answer_idx
            )
    return found


@settings(max_examples=60)
@given(st.integers(1, 5), st.data())
def test_the_first_sample_of_a_majority_is_taken(samples, data):
    given_ = data.draw(st.lists(st.sampled_from(["B", "C", "D", "?", None]), min_size=samples, max_size=samples))
    texts = [
        letter and good_answer(f"{number}", "" if letter == "?" else letter) for number, letter in enumerate(given_)
    ]
    found = verdicts({"item-1": texts}, [SEED], samples).get("item-1", [])
    answered = [letter for letter in given_ if letter]
    won = 2 * given_.count("B") > samples
    wanted = []
    for place, letter in enumerate(answered):
        right = ("ok" if "B" not in answered[:place] else "surplus") if won else "no_majority"
        wanted.append({"B": right, "?": "answer_line,no_answer"}.get(letter, "wrong_answer"))
    assert found == wanted


def test_copies_of_seeds_and_of_examples():
    items = [make_item(n, question=f"{' '.join(random.Random(n).choices(WORDS, k=40))}?") for n in range(8)]
    texts = {item.id: [good_answer(item.id, item.answer_idx)] for item in items}
    copy = good_answer("item-0", items[4].answer_idx)
    texts["item-4"] = [copy]  # another seed's answer word for word
    edited = copy.replace("**Answer:** A", "**Answer:** B").split(" ")
    for place in range(20, len(edited), 14):
        edited[place] = "renal" if not edited[place].startswith("*") else edited[place]
    texts["item-5"] = [" ".join(edited)]  # lightly edited
    inside = "\n".join(f"Step {n + 1}: {items[6].question}" for n in range(2))
    texts["item-6"] = [
        good_answer("six", items[6].answer_idx).replace(
            good_answer("six").split("</think>")[0].removeprefix("<think>\n"), inside + "\n"
        )
    ]  # its own question as reasoning
    items[7] = items[7].model_copy(
        update={"question": items[3].question + " ", "options": items[3].options, "answer_idx": items[3].answer_idx}
    )
    found = verdicts(texts | {"item-7": [good_answer("seven", items[7].answer_idx)]}, items, 1)
    assert [found[f"item-{n}"] for n in range(8)] == [["ok"]] * 4 + [["near_copy_of_example"]] * 2 + [
        ["near_copy_of_seed"]
    ] + [["near_copy_of_example"]]
    assert verdicts(
        {"item-0": texts["item-0"]},
        [items[0].model_copy(update={"reasoning": good_answer("item-0").split("\n", 1)[1].partition("\n</think>")[0]})],
        1,
    ) == {"item-0": ["near_copy_of_seed"]}


def test_a_surplus_sample_stands_in_for_a_copy():
    items = [make_item(0), make_item(4)]  # both have key A
    one, two = good_answer("one", "A"), good_answer("two", "A")
    assert verdicts({"item-0": [one, None], "item-4": [one, two]}, items, 1) == {
        "item-0": ["ok"],
        "item-4": ["near_copy_of_example"],
    }
    assert verdicts({"item-0": [one, one], "item-4": [one, two]}, items, 2) == {
        "item-0": ["ok", "surplus"],
        "item-4": ["near_copy_of_example", "ok"],
    }


@settings(max_examples=80)
@given(
    st.lists(st.lists(st.sampled_from(WORDS[:12]), min_size=1, max_size=25), min_size=2, max_size=8),
    st.sampled_from([0.5, 0.7, 0.9]),
)
def test_near_copies_agree_with_exact_jaccard(texts, threshold):
    copies = NearCopies(3, threshold)

    def shingles(text: list[str]) -> set[tuple[str, ...]]:
        return {tuple(text[at : at + 3]) for at in range(max(1, len(text) - 2))}

    for place, text in enumerate(texts):
        best = max(
            (len(shingles(text) & shingles(other)) / len(shingles(text) | shingles(other)) for other in texts[:place]),
            default=0.0,
        )
        found = copies.find(" ".join(text))
        assert found is None or best >= threshold  # never a false one
        assert found == "x" or best < max(threshold, 0.7)  # from 0.7 the bands miss one in 30 million
        copies.add("x", " ".join(text))


def test_near_copies_time_is_linear_and_words_are_folded():
    copies = NearCopies(3, 0.5)
    copies.add("x", "The  PATIENT has dyspnœa, and a naïve ﬁnding: 5mg")
    assert copies.find("the patient has dyspnœa and a naive finding 5 mg") == "x" and words("5mg") == ["5", "mg"]
    assert copies.find("") is None


def test_names_and_waits():
    assert (
        same_model("gpt-5", "gpt-5-2026-01-01")
        and same_model("Qwen/Qwen3-32B", "qwen3-32b")
        and same_model("/tmp/tiny", "/tmp/tiny@main")
        and same_model("qwen3:32b", "qwen3")
    )
    assert not same_model("gpt-5", "llama-3") and not same_model("my-model", "other") and not same_model("m", "")
    assert (
        public_model("/srv/x/tiny/") == "tiny"
        and public_model("C:\\x\\tiny") == "tiny"
        and public_model("Qwen/Qwen3-32B") == "Qwen/Qwen3-32B"
        and public_model("~/m") == "m"
    )
    assert (
        public_endpoint("https://u:p@host.org:8443/v1/x?k=1") == "https://host.org:8443"
        and public_endpoint("http://[::1]:80/v1") == "http://[::1]:80"
        and public_endpoint("http://h/v1") == "http://h"
    )
    assert (
        retry_after({"retry-after": "2.5"}, 0) == 2.5
        and retry_after({"retry-after-ms": "250"}, 0) == 0.25
        and retry_after({}, 0) is None
        and retry_after({"retry-after": "soon"}, 0) is None
    )
    assert (
        retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40) == 60
        and retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 400) == 0
    )


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.01, 5))
def test_back_off_doubles_to_its_limit(tries, draw, first):
    wait = back_off(tries, first, most=60, draw=lambda: draw)
    whole = min(60, first * 2.0 ** min(tries - 1, 30))
    assert whole / 2 <= wait <= whole


def test_every_rule_names_its_source():
    assert all(
        field.description.rpartition("source: ")[2].startswith(("paper", "card", "chosen, because"))
        for field in Rules.model_fields.values()
    )
