"""Plain knowledge-derived items against their sources, read again here from the files and calculators themselves (rich ones: test_generate_rich.py)."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
from helpers.knowledge_sources import RATES, by_option, calculator, gain, level, rate, renal, steps, words
from scipy.stats import chisquare

from gazal.common.errors import GazalError
from gazal.data.sources import BUCKETS, synthetic_lines
from gazal.data.splits import split_report
from gazal.items.schema import Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.generate import draw, synthesize
from gazal.knowledge.hpo import _ancestors, _read_files, load_phenotypes
from gazal.knowledge.parts import information_gain
from gazal.knowledge.renal import load_drugs
from gazal.knowledge.scores import load_scores, totals
from gazal.recipe.data import DataSection

N = 2400


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return synthesize(N, seed=11, variety="plain")


@pytest.fixture(scope="module")
def by_type(items: list[Item]) -> dict[str, list[Item]]:
    return {kind: [item for item in items if item.reasoning_type == kind] for kind in REASONING_TYPES}


def synthetic_splits(section: DataSection, seed: int) -> dict[str, list[Item]]:
    return {
        split: [
            Item.model_validate_json(line) for line in synthetic_lines(section, split, getattr(section, split), seed)
        ]
        for split in BUCKETS
    }


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Item]]:
    return synthetic_splits(DataSection(sft=400, grpo=400, dev=200, test=600, variety="plain"), 1)


def asked_pairs(by_type: dict) -> set[tuple[str, str]]:
    """Every (disease, finding) whose level some item depends on."""
    pairs = {(d, f) for item in by_type["diagnosis"] for d in item.options.values() for f in findings_of(item)}
    return pairs | {(d, f) for item in by_type["uncertainty"] for d in pair_of(item) for f in item.options.values()}


def findings_of(item: Item) -> list[str]:
    return re.match(r"Findings: (.+)\.\n", item.question)[1].split("; ")


def pair_of(item: Item) -> list[str]:
    return re.match(r"Two diagnoses are equally likely: (.+)\.\n", item.question)[1].split("; ")


def patient_of(item: Item) -> tuple[str, str, int]:
    """Drug, metric and clearance."""
    metric, value, drug = re.match(
        r"Patient: \d+-year-old (?:woman|man), (CrCl|eGFR): (\d+) mL/min\S*\.\nDrug: (.+)\.\n", item.question
    ).groups()
    return drug, metric, int(value)


def present_of(item: Item) -> tuple[str, tuple[str, ...]]:
    title, present = re.match(r"(.+?)\. Present: (.+)\. Absent: all others\.\n", item.question).groups()
    return title, tuple(present.split("; "))


def subject_matter(item: Item) -> tuple:
    """What an item asks, without letters, wording or bystanders such as the patient's age."""
    return {
        "diagnosis": lambda: ("diagnosis", frozenset(findings_of(item))),
        "uncertainty": lambda: ("uncertainty", frozenset(pair_of(item)), frozenset(item.options.values())),
        "treatment": lambda: ("treatment", *patient_of(item)),
        "prognosis": lambda: ("prognosis", present_of(item)[0], frozenset(present_of(item)[1])),
    }[item.reasoning_type]()


# --- what holds for every item


def test_counts_types_and_ids(items: list[Item]) -> None:
    assert Counter(item.reasoning_type for item in items) == dict.fromkeys(REASONING_TYPES, N // 4)
    assert len({item.id for item in items}) == N
    assert [item.reasoning_type for item in synthesize(6, 0, variety="plain")] == [
        "diagnosis",
        "uncertainty",
        "treatment",
        "prognosis",
        "diagnosis",
        "uncertainty",
    ]


def test_same_seed_same_items_other_seed_others() -> None:
    first, again, other = synthesize(40, 3), synthesize(40, 3), synthesize(40, 4)
    assert [item.model_dump() for item in first] == [item.model_dump() for item in again]
    assert not {item.id for item in first} & {item.id for item in other} - {
        item.id for item in first if item.reasoning_type == "treatment"
    }


def test_one_type_alone_gives_the_same_items_as_among_all() -> None:
    assert synthesize(10, 3, ("prognosis",)) == [
        item for item in synthesize(40, 3) if item.reasoning_type == "prognosis"
    ]


def test_options_are_distinct_and_the_answer_is_the_keys_text(items: list[Item]) -> None:
    for item in items:
        assert len({text.casefold().strip() for text in item.options.values()}) == len(item.options)
        assert item.answer == item.options[item.answer_idx]
        assert item.reasoning_type == "treatment" or len(item.options) == 4


def test_every_trace_ends_with_the_answer_and_names_no_other(items: list[Item]) -> None:
    for item in items:
        for trace in (item.reasoning, item.reasoning_brief):
            assert re.findall(r"answer: (\w+)", trace) == [item.answer_idx] and trace.endswith(
                f"; answer: {item.answer_idx}"
            )
            assert "<" not in trace and "think" not in trace


def test_source_is_named(items: list[Item]) -> None:
    assert all(re.fullmatch(r"HPO \d{4}-\d\d-\d\d|open-medicine, doi:10\.\S+", item.source) for item in items)


# --- keys and traces, recomputed from the sources


def test_diagnosis_key_and_traces_are_true(by_type: dict, annotated: dict) -> None:
    for item in by_type["diagnosis"]:
        findings = findings_of(item)
        assert len(set(findings)) == 4
        levels = {letter: [level(annotated, name, f) for f in findings] for letter, name in item.options.items()}
        assert min(min(row) for row in levels.values()) >= 0, "a very rare or excluded finding is asked about"
        sums = {letter: sum(row) for letter, row in levels.items()}
        assert [letter for letter in sums if sums[letter] == max(sums.values())] == [item.answer_idx]
        *lines, last = steps(item.reasoning)
        assert by_option(item, lines) == {
            letter: f"{item.options[letter]}: "
            + "".join(f"{f}: {v}; " for f, v in zip(findings, row, strict=True))
            + f"total: {sum(row)}"
            for letter, row in levels.items()
        }
        *lines, brief_last = steps(item.reasoning_brief)
        assert by_option(item, lines) == {
            letter: f"{item.options[letter]}: total: {total}" for letter, total in sums.items()
        }
        assert last == brief_last == f"highest total: {max(sums.values())}; answer: {item.answer_idx}"
        assert item.matches == {letter: sum(v > 0 for v in row) for letter, row in levels.items()}


def test_uncertainty_key_and_traces_are_true(by_type: dict, annotated: dict) -> None:
    for item in by_type["uncertainty"]:
        first, second = pair_of(item)
        levels = {
            letter: (level(annotated, first, f), level(annotated, second, f)) for letter, f in item.options.items()
        }
        assert all(min(pair) >= 0 and max(pair) > 0 for pair in levels.values())
        gains = {letter: gain(*pair) for letter, pair in levels.items()}
        best, runner_up = sorted(gains.values(), reverse=True)[:2]
        assert gains[item.answer_idx] == best and best - runner_up > 0.04
        *lines, last = steps(item.reasoning)
        assert by_option(item, lines) == {
            letter: f"{item.options[letter]}: {first}: {a}; {second}: {b}; gain: {round(100 * gain(a, b))}"
            for letter, (a, b) in levels.items()
        }
        *lines, brief_last = steps(item.reasoning_brief)
        assert by_option(item, lines) == {
            letter: f"{item.options[letter]}: gain: {round(100 * g)}" for letter, g in gains.items()
        }
        assert last == brief_last == f"highest gain: {round(100 * best)}; answer: {item.answer_idx}"


@pytest.mark.parametrize(("a", "b"), list(itertools.product(RATES, RATES)))
def test_information_gain_is_mutual_information(a: int, b: int) -> None:
    assert information_gain(a, b) == information_gain(b, a) == round(100 * gain(a, b)) and (
        information_gain(a, b) == 0
    ) == (a == b)


def test_every_tier_is_the_calculators_at_every_whole_clearance() -> None:
    for drug in load_drugs():
        for value in range(131):
            (tier,) = [tier for tier in drug.tiers if tier.contains(value)]
            if value in (tier.low, tier.high, 130) or value % 17 == 0:
                assert tier.dose == renal(drug.name, drug.metric, value), (drug.name, value)


def test_treatment_key_and_traces_are_true(by_type: dict) -> None:
    tiers = {drug.name: {tier.dose: tier for tier in drug.tiers} for drug in load_drugs()}
    for item in by_type["treatment"]:
        drug, metric, value = patient_of(item)
        assert item.answer == renal(drug, metric, value)
        assert set(item.options.values()) == set(tiers[drug]), "an option is of another drug, or a tier is missing"
        *lines, last = steps(item.reasoning)
        inside = []
        for letter, line in by_option(item, lines).items():
            low, high, said, verdict = re.fullmatch(
                r"range: (\d+) (?:to (\d+)|and above); (\d+): (inside|outside)", line
            ).groups()
            tier = tiers[drug][item.options[letter]]
            assert int(said) == value and (int(low), high and int(high)) == (tier.low, tier.high)
            assert (verdict == "inside") == (int(low) <= value <= (int(high) if high else 1000))
            inside += [letter] if verdict == "inside" else []
        right = tiers[drug][item.answer]
        assert inside == [item.answer_idx] and last == f"inside: {right.range}; answer: {item.answer_idx}"
        assert steps(item.reasoning_brief) == [f"range: {right.range}", last]


def test_prognosis_key_and_traces_are_true(by_type: dict) -> None:
    for item in by_type["prognosis"]:
        title, present = present_of(item)
        assert 2 <= len(present) == len(set(present)) <= 5
        score = calculator(title)
        result = score(present)
        assert [letter for letter, text in item.options.items() if text.split(" points")[0] == f"{result.value:g}"] == [
            item.answer_idx
        ]
        label = item.answer.partition(", ")[2]
        assert label and all(word in result.interpretation.lower() for word in label.lower().split())
        *lines, last = steps(item.reasoning)
        running = 0.0
        for name, line in zip(present, lines, strict=True):
            points = score([name]).value
            running += points
            assert line == f"{name}: {points:g}; sum: {running:g}"
        assert running == result.value and last == f"total: {result.value:g}; answer: {item.answer_idx}"
        assert steps(item.reasoning_brief) == [f"criteria: {len(present)}", last]


def test_risk_label_depends_on_the_total_alone() -> None:
    rng = np.random.default_rng(0)
    for score in load_scores():
        labels = totals(score)
        for _ in range(60):
            chosen = rng.choice(len(score.criteria), int(rng.integers(0, len(score.criteria) + 1)), replace=False)
            total, label = score.evaluate(frozenset(score.criteria[int(i)].field for i in chosen))
            assert labels[total] == label, (score.name, total)


def test_prognosis_options_are_neighbouring_totals_of_the_same_score(by_type: dict) -> None:
    tables = {
        score.name: {
            f"{total:g} points" + (f", {label}" if label else ""): n
            for n, (total, label) in enumerate(totals(score).items())
        }
        for score in load_scores()
    }
    for item in by_type["prognosis"]:
        places = sorted(tables[present_of(item)[0]][text] for text in item.options.values())
        assert places == list(range(places[0], places[0] + 4))
        assert sum("Age" in name and name.startswith("Age") for name in present_of(item)[1]) <= 1


# --- traps


def test_options_come_from_one_database_and_hold_no_subtype_of_another(by_type: dict, annotated: dict) -> None:
    groups = [list(item.options.values()) for item in by_type["diagnosis"]] + [
        pair_of(item) for item in by_type["uncertainty"]
    ]
    for names in groups:
        assert all(name in annotated for name in names)
        for a, b in itertools.combinations(names, 2):
            assert not words(a) <= words(b) and not words(b) <= words(a), (a, b)


def test_no_reported_finding_shares_a_word_with_its_disease(by_type: dict, annotated: dict) -> None:
    pairs = asked_pairs(by_type)
    assert len(pairs) > 5000
    assert not [(d, f) for d, f in pairs if words(d) & words(f) and level(annotated, d, f) > 0]


def test_no_finding_shares_a_word_with_any_disease_of_its_item(by_type: dict) -> None:
    def stems(name: str) -> set[str]:
        return {word.removesuffix("s") for word in words(name)}

    assert not [(d, f) for d, f in asked_pairs(by_type) if stems(d) & stems(f)]
    assert not [item.id for item in by_type["uncertainty"] if item.answer.casefold() in item.question.casefold()]


def test_no_pair_is_asked_whose_rows_contradict_each_other(by_type: dict, annotated: dict) -> None:
    assert not [(d, f) for d, f in asked_pairs(by_type) if len(set(annotated[d].get(f, [0]))) > 1]


def test_no_finding_is_rated_below_a_reported_subterm_of_it(by_type: dict, annotated: dict) -> None:
    """A disease with focal seizures has seizures: a broad finding whose subterm HPO reports is never asked as "not reported"."""
    parents = _read_files()[1]
    pool = load_phenotypes()
    wrong = []
    for disease, finding in asked_pairs(by_type):
        level = int(pool.levels[pool.diseases.index(disease), pool.findings.index(finding)])
        wrong += [
            (disease, finding, term)
            for term, rows in annotated[disease].items()
            if len(set(rows)) == 1 and rows[0] > level and finding in _ancestors(term, parents)
        ]
    assert not wrong


def test_treatment_asks_whole_clearances_only(by_type: dict) -> None:
    assert all(0 <= patient_of(item)[2] <= 130 for item in by_type["treatment"])
    assert all(
        isinstance(bound, int)
        for drug in load_drugs()
        for tier in drug.tiers
        for bound in (tier.low, tier.high)
        if bound is not None
    )
    assert len({patient_of(item)[0] for item in by_type["treatment"]}) == len(load_drugs()) >= 20


def test_every_dose_tier_is_equally_often_the_key(by_type: dict) -> None:
    counts = Counter(len(item.options) for item in by_type["treatment"])
    hits = Counter(
        (
            len(item.options),
            next(
                n
                for n, t in enumerate(next(d for d in load_drugs() if d.name == patient_of(item)[0]).tiers)
                if t.dose == item.answer
            ),
        )
        for item in by_type["treatment"]
    )
    for (size, _), seen in hits.items():
        assert abs(seen / counts[size] - 1 / size) < 4.5 * (1 / size / counts[size]) ** 0.5


# --- shortcuts


def chance(items: list[Item]) -> float:
    return float(np.mean([1 / len(item.options) for item in items]))


@pytest.mark.parametrize("kind", ["diagnosis", "uncertainty"])
def test_the_most_annotated_option_is_near_chance(by_type: dict, kind: str) -> None:
    items = by_type[kind]
    assert abs(rate(items, [item.popularity for item in items]) - chance(items)) <= 0.01


def test_popularity_counts_reported_findings(by_type: dict) -> None:
    pool = load_phenotypes(150, 0)
    counts = dict(zip(pool.diseases, pool.annotation_counts().tolist(), strict=True))
    assert all(
        item.popularity == {letter: counts[name] for letter, name in item.options.items()}
        for item in by_type["diagnosis"]
    )


def test_the_longest_option_is_near_chance(items: list[Item], by_type: dict) -> None:
    for group in (items, *by_type.values()):
        assert (
            abs(rate(group, [{k: len(v) for k, v in item.options.items()} for item in group]) - chance(group)) <= 0.01
        )


def test_a_prior_over_diseases_learnt_on_one_half_is_near_chance_on_the_other(by_type: dict) -> None:
    items = by_type["diagnosis"]
    learn, check = items[::2], items[1::2]
    asked, right = (
        Counter(name for item in learn for name in item.options.values()),
        Counter(item.answer for item in learn),
    )
    prior = {name: (right[name] + 1) / (asked[name] + 4) for name in asked}
    assert abs(rate(check, [{k: prior.get(v, 0.25) for k, v in item.options.items()} for item in check]) - 0.25) <= 0.10


def test_letters_are_balanced(by_type: dict) -> None:
    for kind, items in by_type.items():
        for size in {len(item.options) for item in items}:
            counts = Counter(item.answer_idx for item in items if len(item.options) == size)
            assert set(counts) == set("ABCDEFGHIJ"[:size]), kind
            assert chisquare(list(counts.values())).pvalue > 1e-3, (kind, counts)


def test_the_right_total_is_the_lowest_to_the_highest_option_equally_often(by_type: dict) -> None:
    ranks = Counter(
        sorted(item.options.values(), key=lambda t: float(t.split(" ")[0])).index(item.answer)
        for item in by_type["prognosis"]
    )
    assert max(ranks.values()) / sum(ranks.values()) < 0.27 and len(ranks) == 4


def test_counting_matched_findings_does_not_solve_diagnosis(by_type: dict) -> None:
    """A strong shortcut by nature, published beside every score; it has to leave a model room."""
    items = by_type["diagnosis"]
    assert 0.3 < rate(items, [item.matches for item in items]) < 0.85


# --- splits and pools


def test_splits_share_no_question_and_no_subject_matter(splits: dict[str, list[Item]]) -> None:
    questions = {
        name: {(item.question, frozenset(item.options.values())) for item in items} for name, items in splits.items()
    }
    matters = {name: {subject_matter(item) for item in items} for name, items in splits.items()}
    ids = {name: {item.id for item in items} for name, items in splits.items()}
    for a, b in itertools.combinations(splits, 2):
        assert not questions[a] & questions[b] and not matters[a] & matters[b] and not ids[a] & ids[b], (a, b)


def test_split_sizes_and_types(splits: dict[str, list[Item]]) -> None:
    assert {name: len(items) for name, items in splits.items()} == {"test": 600, "dev": 200, "grpo": 400, "sft": 400}
    for items in splits.values():
        assert set(Counter(item.reasoning_type for item in items).values()) == {len(items) // 4}


def test_buckets_are_disjoint_and_leave_the_base_its_own(splits: dict[str, list[Item]]) -> None:
    used = [bucket for buckets in BUCKETS.values() for bucket in buckets]
    assert len(used) == len(set(used)) and max(used) < 65
    assert all(item.bucket in BUCKETS[name] for name, items in splits.items() for item in items)


def test_the_bucket_follows_from_what_is_asked(items: list[Item], splits: dict[str, list[Item]]) -> None:
    seen: dict[tuple, int] = {}
    for item in [*items, *itertools.chain(*splits.values())]:
        assert seen.setdefault(subject_matter(item), item.bucket) == item.bucket
    assert (
        chisquare(
            np.bincount([item.bucket // 10 for item in items if item.reasoning_type == "diagnosis"], minlength=10)
        ).pvalue
        > 1e-4
    )


def test_splits_follow_the_seed() -> None:
    section = DataSection(sft=8, grpo=8, dev=8, test=8, variety="plain")
    first, again, other = (synthetic_splits(section, seed) for seed in (1, 1, 2))
    assert first == again and {i.id for i in first["test"]} != {i.id for i in other["test"]}


def test_sft_examples_keep_one_of_the_two_traces(splits: dict[str, list[Item]]) -> None:
    kept = Counter(item.depth for item in splits["sft"])
    assert 0.4 < kept["brief"] / len(splits["sft"]) < 0.6 and set(kept) == {"brief", "full"}
    for item in splits["sft"]:
        assert (item.reasoning == item.reasoning_brief) == (item.depth == "brief")
    whole = synthetic_splits(DataSection(sft=8, grpo=4, dev=4, test=4, brief_share=0.0), 1)
    assert {item.depth for item in whole["sft"]} == {"full"}


def test_report_counts_and_finds_nothing_shared(splits: dict[str, list[Item]]) -> None:
    section = DataSection(sft=400, grpo=400, dev=200, test=600, variety="plain")
    summary = split_report(splits, section)
    assert summary["shared_questions"] == 0 and summary["counts"]["test"] == dict.fromkeys(sorted(REASONING_TYPES), 150)
    assert sum(summary["letters"]["test"].values()) == 600 and json.dumps(summary)
    mixed = splits | {"dev": [*splits["dev"], splits["test"][0]]}
    assert split_report(mixed, section)["shared_questions"] == 1


def test_pool_is_as_large_as_asked_and_too_large_is_one_line() -> None:
    pool = load_phenotypes(40, 0)
    assert len(pool.diseases) == len(set(pool.diseases)) == 40 and pool.levels.shape == (40, len(pool.findings))
    assert ((pool.levels != 0).sum(0) >= 3).all() and pool.conflict.diagonal().all()
    assert all(not pool.conflict[row, other] for row, near in enumerate(pool.neighbours) for other in near)
    with pytest.raises(GazalError, match="data.n_diseases: 100000 asked for"):
        load_phenotypes(100_000, 0)


def test_a_smaller_pool_makes_items_of_that_pool_only() -> None:
    pool = load_phenotypes(40, 0)
    for item in draw("diagnosis", 20, seed=2, n_diseases=40, variety="plain"):
        assert set(item.options.values()) <= set(pool.diseases) and set(findings_of(item)) <= set(pool.findings)
