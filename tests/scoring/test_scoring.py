"""Scoring from predictions alone: what counts, what does not matter, and files that do not fit together."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.formats import check
from helpers.items import make_item
from helpers.predictions import ITEMS, KINDS, folder, rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from gazal.cli import app
from gazal.common.errors import GazalError
from gazal.items.writing import write_items_parquet
from gazal.predictions.file import SCHEMA, fingerprint, read_predictions
from gazal.predictions.folder import read_answers, save_items, save_not_run, save_training_items
from gazal.scoring.protocol_comparison import compare_protocols
from gazal.scoring.report import details_table, results_table
from gazal.scoring.schemas import Scores
from gazal.scoring.score import score_folder as unchecked


def score_folder(*args, **options) -> Scores:
    scores = unchecked(*args, **options)
    check(Scores, scores)
    return scores


def test_schema_and_counts(tmp_path):
    scores = score_folder(folder(tmp_path, base=rows("rrrwwwwwwuuu"), grpo=rows("r" * 12), sft=rows("rrrrrrwwwwww")))
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert list(scores["models"]) == ["base", "sft", "grpo"]
    base = scores["models"]["base"]["benchmarks"]["test"]
    assert (
        base["n"],
        base["samples"],
        base["accuracy"],
        base["unparsed"],
        base["truncated"],
        base["mean_tokens"],
        base["format"],
    ) == (12, 1, 0.25, 0.25, 0.25, 10, 0.75)
    assert base["ci95"] == [round(x, 6) for x in proportion_confint(3, 12, method="wilson")]
    assert base["reasons"] == {"no_answer": 3, "ok": 9}
    assert list(base["by"]) == list(KINDS)
    assert base["by"]["diagnosis"]["accuracy"] == round(2 / 6, 6)
    assert [(row["a"], row["b"]) for row in scores["paired"]] == [("base", "sft"), ("base", "grpo"), ("sft", "grpo")]
    gain = scores["paired"][1]
    assert gain["delta"] == 0.75 and gain["ci95"][0] > 0 and gain["p"] == pytest.approx(2 * 0.5**9, rel=1e-5)
    assert set(gain["by"]) == set(KINDS)
    assert scores["baselines"]["test"]["chance"] == 0.25


def test_the_same_files_give_the_same_bytes_and_a_run_folder_works(tmp_path):
    root = folder(tmp_path / "run" / "eval", base=rows("rrrwwwwwwuuu"), sft=rows("r" * 12))
    score_folder(root)
    first = (root / "scores.json").read_bytes()
    score_folder(tmp_path / "run")
    assert (root / "scores.json").read_bytes() == first


@pytest.mark.slow
@settings(max_examples=10)
@given(st.lists(st.tuples(*[st.sampled_from("rwu")] * 2), min_size=12, max_size=12), st.randoms())
def test_row_order_does_not_matter_and_intervals_hold_the_point(tmp_path_factory, outcomes, random):
    one, two = rows("".join(a for a, _ in outcomes)), rows("".join(b for _, b in outcomes))
    plain = score_folder(folder(tmp_path_factory.mktemp("plain"), base=one, sft=two))
    random.shuffle(one)
    random.shuffle(two)
    assert score_folder(folder(tmp_path_factory.mktemp("mixed"), base=one, sft=two)) == plain
    for model, column in (("base", 0), ("sft", 1)):
        score = plain["models"][model]["benchmarks"]["test"]
        assert score["accuracy"] == round(sum(o[column] == "r" for o in outcomes) / 12, 6)
        for cell in (score, *score["by"].values()):
            assert 0 <= cell["ci95"][0] <= cell["accuracy"] <= cell["ci95"][1] <= 1
            assert cell["ci95"][0] < cell["ci95"][1]
    pair = plain["paired"][0]
    assert pair["ci95"][0] <= pair["delta"] + 1e-6 and pair["delta"] - 1e-6 <= pair["ci95"][1] and 0 < pair["p"] <= 1


def test_unparsed_is_wrong(tmp_path):
    def accuracy(name: str, outcomes: str) -> float:
        return score_folder(folder(tmp_path / name, m=rows(outcomes)))["models"]["m"]["benchmarks"]["test"]["accuracy"]

    assert accuracy("wrong", "rrrrrrwwwwww") == accuracy("unread", "rrrrrruuuuuu") == 0.5


def test_several_samples_are_clustered_by_item(tmp_path):
    alike = rows("rr" * 6 + "ww" * 6, samples=2)
    mixed = rows("rw" * 12, samples=2)
    scores = score_folder(folder(tmp_path, alike=alike, mixed=mixed))
    cells = {m: scores["models"][m]["benchmarks"]["test"] for m in ("alike", "mixed")}
    assert {(c["n"], c["samples"], c["accuracy"]) for c in cells.values()} == {(12, 2, 0.5)}
    assert cells["alike"]["ci95"] == [
        round(x, 6) for x in proportion_confint(6, 12, method="wilson")
    ]  # repeats add nothing
    assert cells["mixed"]["ci95"] == [round(x, 6) for x in proportion_confint(12, 24, method="wilson")]
    assert scores["paired"][0]["delta"] == 0 and scores["paired"][0]["p"] > 0.9


def test_baselines_learn_from_the_saved_training_items(tmp_path):
    root = folder(tmp_path, base=rows("r" * 12))
    assert "option_prior" not in score_folder(root)["baselines"]["test"]
    save_training_items(root, ITEMS)
    assert score_folder(root)["baselines"]["test"]["option_prior"] == 1.0


def test_predictions_alone_are_scored_by_their_own_letters(tmp_path, capsys):
    made = [{**row, "correct": n < 4, "letter": None if n == 0 else "A"} for n, row in enumerate(rows("r" * 12))]
    score = score_folder(folder(tmp_path, beside=False, other=made))["models"]["other"]["benchmarks"]["test"]
    assert score["accuracy"] == 0.25 and score["by"] == {} and "format" not in score
    assert "scored by the stored letters" in capsys.readouterr().err


def test_not_run_is_kept_and_the_table_says_so(tmp_path):
    root = folder(tmp_path, base=rows("rrrwwwwwwuuu"), sft=rows("r" * 12))
    save_not_run(root, {"medqa": "no network", "test": "long ago"})
    scores = score_folder(root)
    assert scores["not_run"] == {"medqa": "no network"}
    table = results_table(scores)
    assert "25.0 (8.9–53.2)" in table and "| not run" in table and "medqa not run: no network" in table
    assert "test (n=12)" in table and "chance" in table
    for model in scores["models"].values():
        found = model["benchmarks"]["test"]
        assert set(found["by"]) == set(KINDS)
        for cell in (found, *found["by"].values()):
            assert cell["ci95"][0] <= cell["accuracy"] <= cell["ci95"][1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda made: made[:-1], "1 of 12 items have no prediction (the first: 'item-11')"),
        (
            lambda made: [*made[:-1], {**made[-1], "item_id": "strange"}],
            "row 12: item_id: 'strange' is not among the items of test",
        ),
    ],
)
def test_predictions_must_fit_their_items(tmp_path, spoil, message):
    root = folder(tmp_path, base=spoil(rows("r" * 12)))
    with pytest.raises(GazalError) as error:
        score_folder(root)
    assert str(error.value) == f"{root}/base/test.parquet: {message}"
    assert not (root / "scores.json").exists()


def test_folders_without_predictions_are_one_line(tmp_path):
    with pytest.raises(GazalError, match="no such folder"):
        score_folder(tmp_path / "absent")
    with pytest.raises(GazalError, match="no predictions"):
        score_folder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(GazalError, match="file: is a file, expected the folder of predictions"):
        score_folder(tmp_path / "file")


@pytest.mark.parametrize("name", ["test.parquet", "test.partial.jsonl", None])
def test_items_stay_where_predictions_of_them_are(tmp_path, name):
    """What a call left that failed before any answer does not stand in the way of the next."""
    for benchmark in ("test", "permuted/test", "[a]*"):
        save_items(tmp_path, benchmark, ITEMS)
        if name:
            (tmp_path / "m" / benchmark).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "m" / f"{benchmark}{name.removeprefix('test')}").write_text("")
            with pytest.raises(GazalError, match="holds other items"):
                save_items(tmp_path, benchmark, ITEMS[:3])
        else:
            save_items(tmp_path, benchmark, ITEMS[:3])


def test_a_single_models_folder_is_scored(tmp_path, monkeypatch):
    """``<benchmark>.parquet`` itself in the folder; items in it, or beside it as in a folder of several models."""
    several = score_folder(folder(tmp_path / "eval", base=rows("rrrwwwwwwuuu")))["models"]["base"]
    permuted(tmp_path / "eval", "base", lambda item, shown: "A")
    alone = score_folder(tmp_path / "eval" / "base")
    assert alone["models"] == {"base": several} and alone["robustness"]["base"]["test"]["orders"] == 3
    assert (tmp_path / "eval" / "base" / "scores.json").exists()
    flat = tmp_path / "flat"
    save_items(flat, "test", ITEMS)
    write_rows(flat / "test.parquet", rows("rrrwwwwwwuuu"))
    assert score_folder(flat)["models"] == {"flat": several}
    monkeypatch.chdir(flat)
    assert score_folder(".")["models"] == {"flat": several}


@pytest.mark.parametrize("ending", [".jsonl.gz", ".json", ".parquet"])
def test_items_beside_may_be_any_items_file(tmp_path, ending):
    root = folder(tmp_path, beside=False, base=rows("rrrwwwwwwuuu"))
    if ending == ".parquet":
        write_items_parquet(root / "items" / "test.parquet", ITEMS)
    else:
        (root / "items").mkdir()
        text = json.dumps([item.model_dump(exclude_none=True) for item in ITEMS])
        lines = "\n".join(json.dumps(item.model_dump(exclude_none=True)) for item in ITEMS)
        (root / "items" / f"test{ending}").write_bytes(
            text.encode() if ending == ".json" else gzip.compress(lines.encode())
        )
    scores = score_folder(root)
    assert (
        list(scores["models"]) == ["base"]
        and scores["models"]["base"]["benchmarks"]["test"]["accuracy"] == 0.25
        and "test" in scores["baselines"]
    )


def test_letters_that_are_not_what_the_completions_say_are_counted_aloud(tmp_path, capsys):
    made = [
        {**row, "letter": item.answer_idx, "correct": True}
        for row, item in zip(rows("rrrwwwwwwuuu"), ITEMS, strict=True)
    ]
    assert score_folder(folder(tmp_path / "a", base=made))["models"]["base"]["benchmarks"]["test"]["accuracy"] == 0.25
    assert (
        capsys.readouterr().err
        == "base on test: 9 of 12 stored letters or marks are not what the completions say; the completions count\n"
    )
    for name, left in (
        ("b", {"letter": None, "reason": None, "correct": None}),
        ("c", {}),
    ):  # nothing is stored, or nothing else
        made = [{**row, **left} for row in rows("rrrwwwwwwuuu")]
        (tmp_path / name / "base").mkdir(parents=True)
        pd.DataFrame(made).drop(columns=[] if left else ["letter", "reason", "correct"]).to_parquet(
            tmp_path / name / "base" / "test.parquet"
        )
        save_items(tmp_path / name, "test", ITEMS)
        assert score_folder(tmp_path / name)["models"]["base"]["benchmarks"]["test"]["accuracy"] == 0.25
        assert capsys.readouterr().err == ""


def test_prompts_that_had_no_room_are_no_long_completions(tmp_path):
    made = [
        {**row, "completion": "", "n_tokens": 0, "finish_reason": "length"} if n < 6 else row
        for n, row in enumerate(rows("rrrwwwwwwuuu"))
    ]
    scores = score_folder(folder(tmp_path, base=made, whole=rows("rrrwwwwwwrrr")))
    cells = {name: entry["benchmarks"]["test"] for name, entry in scores["models"].items()}
    assert (cells["base"]["not_asked"], cells["whole"]["not_asked"], cells["base"]["truncated"]) == (0.5, 0, 0.75)
    table = results_table(scores)
    assert "base on test: 50.0 % of prompts left no room in the model's context: not asked, and wrong." in table
    assert "base on test: 25 % of completions were cut at their token limit" in table and "whole on test:" not in table


def test_chance_of_each_group_is_that_of_its_own_items(tmp_path):
    """Two options in one type and four in the other: the mean of both is nobody's chance."""
    items = [make_item(n, reasoning_type=KINDS[n % 2]) for n in range(12)]
    items = [
        item
        if n % 2
        else item.model_copy(
            update={"options": dict(list(item.options.items())[:2]), "answer_idx": "A", "answer": None}
        )
        for n, item in enumerate(items)
    ]
    cell = score_folder(folder(tmp_path, items=items, base=rows("r" * 12, items)))["models"]["base"]["benchmarks"][
        "test"
    ]
    assert {kind: found["chance"] for kind, found in cell["by"].items()} == {"diagnosis": 0.5, "treatment": 0.25}
    assert "chance" not in score_folder(folder(tmp_path / "no", beside=False, base=rows("r" * 12)))["models"]["base"][
        "benchmarks"
    ]["test"]["by"].get("treatment", {})


def test_names_do_not_break_the_table(tmp_path):
    table = results_table(score_folder(folder(tmp_path, benchmark="t", **{"a|b": rows("r" * 12)})))
    assert "| a\\|b " in table


def test_holm_and_power_stand_in_every_row_of_paired(tmp_path):
    root = folder(tmp_path, base=rows("rrrwwwwwwuuu"), sft=rows("rrrrrrwwwwww"), grpo=rows("r" * 12))
    found = score_folder(folder(root, benchmark="other", base=rows("w" * 12), sft=rows("r" * 12)))["paired"]
    assert len(found) == 4 and {row["n"] for row in found} == {12}
    ranked = sorted(found, key=lambda row: row["p"])
    lowest = 0.0
    for row, times in zip(ranked, (4, 3, 2, 1), strict=True):
        lowest = max(lowest, min(row["p"] * times, 1))
        assert row["p_holm"] == pytest.approx(lowest, rel=1e-5) and "p_holm" not in row["by"].get("diagnosis", {})
    assert all(0 < row["detectable"] <= 1 for row in found)
    assert found[0]["by"]["treatment"]["n"] == 6
    table = results_table(json.loads((root / "scores.json").read_text()))
    assert (
        "that hold after Holm's correction for 4 tests (p ≤ 0.05): base to sft on other +100.0, base to grpo on test +75.0."
        in table
    )


def test_empty_completions_and_right_answers_per_token(tmp_path):
    made = rows("rrrwwwwwwwww")
    made[11] |= {"completion": " \n", "n_tokens": 0}
    score = score_folder(
        folder(tmp_path, base=made, mute=[{**row, "completion": "", "n_tokens": 0} for row in rows("w" * 12)])
    )["models"]
    cell, mute = score["base"]["benchmarks"]["test"], score["mute"]["benchmarks"]["test"]
    assert cell["empty"] == round(1 / 12, 6) and cell["right_per_1k_tokens"] == round(3000 / 110, 6)
    assert (
        mute["empty"] == 1
        and mute["right_per_1k_tokens"] is None
        and cell["by"]["treatment"]["empty"] == round(1 / 6, 6)
    )


def test_repeated_items_are_left_out_of_deduplicated(tmp_path):
    again = ITEMS[0].model_copy(update={"id": "again", "question": " question 0 ?"})
    items = [*ITEMS, again]
    score = score_folder(folder(tmp_path, items, base=rows("rwwwwwwwwwww" + "r", items)))["models"]["base"][
        "benchmarks"
    ]["test"]
    wilson = [round(x, 6) for x in proportion_confint(1, 12, method="wilson")]
    assert score["accuracy"] == round(2 / 13, 6) and score["deduplicated"] == {
        "n": 12,
        "accuracy": round(1 / 12, 6),
        "ci95": wilson,
    }
    assert "test without repeated items (n = 12): base 8.3" in results_table(score_folder(tmp_path))


def test_a_group_of_one_item_is_compared_with_several_samples(tmp_path):
    items = [make_item(n, reasoning_type=KINDS[n > 0]) for n in range(4)]
    scores = score_folder(
        folder(tmp_path, items, base=rows("rrww" + "rrrw" * 3, items, 4), sft=rows("rrrr" * 4, items, 4))
    )
    alone = scores["paired"][0]["by"]["diagnosis"]
    assert (alone["n"], alone["delta"], alone["p"]) == (1, 0.5, 1) and alone["ci95"][0] < 0 < alone["ci95"][1]
    assert scores["models"]["base"]["benchmarks"]["test"]["by"]["diagnosis"]["ci95"] == [
        round(x, 6) for x in proportion_confint(0.5, 1, method="wilson")
    ]


def test_macro_f1_where_all_items_have_the_same_classes(tmp_path):
    answers = [("yes", "no", "maybe"), ("no", "maybe", "yes")]  # in any order
    items = [
        make_item(n, 3).model_copy(update={"options": dict(zip("ABC", answers[n % 2], strict=True))}) for n in range(12)
    ]
    scores = score_folder(folder(tmp_path, items, base=rows("rrrrwwwwuuuu", items), good=rows("r" * 12, items)))
    cells = {m: scores["models"][m]["benchmarks"]["test"] for m in ("base", "good")}
    assert cells["good"]["macro_f1"] == {"value": 1, "ci95": cells["good"]["ci95"]}
    base, low, high = cells["base"]["macro_f1"]["value"], *cells["base"]["macro_f1"]["ci95"]
    true = [item.options[item.answer_idx] for item in items]
    found = [
        item.options["ABC"[("ABC".index(item.answer_idx) + (o == "w")) % 3]] if o != "u" else None
        for item, o in zip(items, "rrrrwwwwuuuu", strict=True)
    ]
    f1 = [
        2 * sum(t == f == c for t, f in zip(true, found)) / (true.count(c) + found.count(c))
        for c in ("yes", "no", "maybe")
    ]
    assert base == round(sum(f1) / 3, 6) and low <= base <= high
    assert "test, macro-F1 in %: base" in results_table(scores)
    assert (
        "macro_f1"
        not in score_folder(folder(tmp_path / "plain", base=rows("r" * 12)))["models"]["base"]["benchmarks"]["test"]
    )


def test_accuracy_at_k(tmp_path):
    three = rows("rrw" * 4 + "rwu" * 4 + "uuu" * 4, samples=3)
    score = score_folder(folder(tmp_path, base=three))["models"]["base"]["benchmarks"]["test"]
    assert list(score["at_k"]["maj"]) == list(score["at_k"]["pass"]) == ["1", "2", "3"]
    assert (
        score["at_k"]["maj"]["1"]
        == score["at_k"]["pass"]["1"]
        == {"accuracy": score["accuracy"], "ci95": score["ci95"]}
    )
    assert score["at_k"]["maj"]["3"]["accuracy"] == 0.5  # two of three right: 1; one right, one wrong, one unread: half
    assert score["at_k"]["pass"]["3"]["accuracy"] == round(8 / 12, 6)
    assert score["at_k"]["pass"]["3"]["ci95"] == [round(x, 6) for x in proportion_confint(8, 12, method="wilson")]
    assert "maj@k" in details_table(score_folder(tmp_path))
    alone = score_folder(
        folder(
            tmp_path / "alone",
            beside=False,
            base=[{**row, "letter": "ABC"[n % 3], "correct": n % 3 == 0} for n, row in enumerate(three)],
        )
    )
    assert alone["models"]["base"]["benchmarks"]["test"]["at_k"]["maj"]["3"]["accuracy"] == round(
        1 / 3, 6
    )  # three letters tie


def permuted(root: Path, model: str, chooses, orders: int = 2) -> list:
    """Predictions of ITEMS in further orders, with the items beside: ``chooses(item, options)`` gives the letter shown, or None."""
    items, made = [], []
    for turn in range(1, orders + 1):
        for at, item in enumerate(ITEMS):
            order = list("ABCD"[(at + turn) % 4 :] + "ABCD"[: (at + turn) % 4])
            shown = {letter: item.options[original] for letter, original in zip("ABCD", order, strict=True)}
            turned = item.model_copy(
                update={
                    "id": f"{item.id}#{turn}",
                    "options": shown,
                    "answer_idx": "ABCD"[order.index(item.answer_idx)],
                    "order": order,
                }
            )
            items.append(turned)
            letter = chooses(item, shown)
            text = f"<think>\nx\n</think>\n\n**Answer:** {letter}. {shown[letter]}" if letter else "Unclear."
            rest = {"n_tokens": 9, "finish_reason": "stop", "letter": None, "reason": "ok", "correct": False}
            made.append({"item_id": turned.id, "sample": 0, "completion": text, **rest})
    save_items(root, "permuted/test", items)
    write_rows(root / model / "permuted" / "test.parquet", made)
    return items


def test_robustness_to_the_order_of_options(tmp_path):
    always = [
        {**row, "completion": f"**Answer:** A. {item.options['A']}"}
        for row, item in zip(rows("r" * 12), ITEMS, strict=True)
    ]
    root = folder(tmp_path, steady=rows("r" * 12), first=always)
    permuted(
        root,
        "steady",
        lambda item, shown: next(k for k, text in shown.items() if text == item.options[item.answer_idx]),
    )
    permuted(root, "first", lambda item, shown: "A")
    found = score_folder(root)["robustness"]
    steady, first = found["steady"]["test"], found["first"]["test"]
    assert (steady["orders"], steady["n"], steady["same_answer"]) == (3, 12, 1) and set(
        steady["letter_bias"].values()
    ) == {0}
    assert (steady["accuracy"]["lowest"], steady["accuracy"]["mean"], steady["accuracy"]["highest"]) == (1, 1, 1)
    assert first["same_answer"] == 0 and first["same_answer_ci95"][1] < 0.3
    shares = {
        letter: sum(item.answer_idx == letter for item in [*ITEMS, *permuted(root, "first", lambda item, shown: "A")])
        / 36
        for letter in "ABCD"
    }
    assert first["letter_bias"] == {letter: round((letter == "A") - share, 6) for letter, share in shares.items()}
    for letter, (low, high) in first["letter_bias_ci95"].items():
        assert low <= first["letter_bias"][letter] <= high
    assert first["accuracy"]["lowest"] <= first["accuracy"]["mean"] <= first["accuracy"]["highest"]
    assert first["accuracy"]["mean"] == pytest.approx(shares["A"], abs=1e-6)
    assert "first on test in 3 orders of the options: accuracy" in results_table(score_folder(root))
    assert "permuted" not in score_folder(root)["models"]


def test_unread_answers_are_never_the_same_and_have_no_letter(tmp_path):
    root = folder(tmp_path, base=rows("u" * 12))
    permuted(root, "base", lambda item, shown: None)
    found = score_folder(root)["robustness"]["base"]["test"]
    assert found["same_answer"] == 0 and found["letter_bias"] == found["letter_bias_ci95"] == {}


def test_permuted_items_must_say_their_order(tmp_path, capsys):
    root = folder(tmp_path, base=rows("r" * 12))
    items = permuted(root, "base", lambda item, shown: "A")
    save_items(root, "permuted/test", [item.model_copy(update={"order": list("AABC")}) for item in items], replace=True)
    with pytest.raises(GazalError, match=r"items/permuted/test.jsonl: row 1: order: expected the original letters"):
        score_folder(root)
    (root / "items" / "permuted" / "test.jsonl").unlink()
    assert score_folder(root)["robustness"] == {}
    assert "its permuted orders are not scored" in capsys.readouterr().err


def test_log_likelihoods_are_read_and_no_protocol_rereads_them(tmp_path):
    root = folder(tmp_path, chat=rows("r" * 12))
    logliks = [
        "",
        *(json.dumps({k: -float(k != item.answer_idx) for k in "ABCD"}) for item in ITEMS[1:]),
    ]  # the first did not fit
    likely = [{**row, "completion": text, "n_tokens": 0} for row, text in zip(rows("w" * 12), logliks, strict=True)]
    header = {
        "benchmark": fingerprint(ITEMS),
        "sampling": {"method": "loglik", "loglik_norm": "sum", "max_new_tokens": 8},
    }
    write_rows(root / "likely" / "test.parquet", likely, header)
    scores = score_folder(root)
    score = scores["models"]["likely"]["benchmarks"]["test"]
    assert (
        score["accuracy"] == round(11 / 12, 6) and "format" not in score and score["reasons"] == {"empty": 1, "ok": 11}
    )
    assert (
        score["sampling"]["method"] == "loglik" and scores["models"]["chat"]["benchmarks"]["test"]["sampling"] is None
    )
    assert set(compare_protocols(root)["benchmarks"]["test"]["likely"].values()) == {score["accuracy"]}
    assert scores["paired"][0]["n"] == 12 and "–" in details_table(scores)
    write_rows(root / "likely" / "test.parquet", [{**row, "completion": "C"} for row in likely], header)
    with pytest.raises(
        GazalError, match=r"likely/test.parquet: item 'item-0': completion 'C': not the log-likelihoods"
    ):
        score_folder(root)


def test_answers_are_read_once(tmp_path, monkeypatch):
    root = folder(tmp_path, base=rows("rrrwwwwwwuuu"))
    read = read_answers(root)
    (root / "base" / "test.parquet").unlink()
    assert score_folder(root, answers=read)["models"]["base"]["benchmarks"]["test"]["accuracy"] == 0.25
    assert compare_protocols(root, read)["benchmarks"]["test"]["base"]["ours"] == 0.25


def test_the_table_says_what_it_takes_to_read_it(tmp_path):
    root = folder(tmp_path, base=rows("rrrwwwwwwuuu"), sft=rows("rrrrrrwwwwww"))
    write_rows(
        root / "cut" / "test.parquet",
        rows("rrruuuuuuuuu"),
        {"benchmark": fingerprint(ITEMS), "sampling": {"max_new_tokens": 160}},
    )
    table = results_table(score_folder(root))
    assert (
        "True difference between two models on the same items that so many items show with 80 % power, in points: "
        in table
    )
    assert "cut on test: 75 % of completions were cut at 160 tokens; raise evaluation.max_new_tokens." in table
    assert "base on test: 25 % of completions were cut at their token limit" in table
    assert (
        "test: completions in which no answer is read, which count as wrong: 25 % of base, most often no_answer; 75 % of cut, most often no_answer."
        in table
    )
    assert "sft on test" not in table
    alone = results_table(score_folder(folder(tmp_path / "alone", base=rows("r" * 12))))
    assert (
        "True accuracy above chance that so many items show with 80 % power, in points: 41 on test (n = 12)." in alone
    )
    few = results_table(
        score_folder(folder(tmp_path / "few", ITEMS[:3], a=rows("rrr", ITEMS[:3]), b=rows("www", ITEMS[:3])))
    )
    assert "in points: none on test (n = 3)." in few


def test_outside_predictions_of_other_types(tmp_path, capsys):
    made = rows("rrrwwwwwwuuu")
    frame = (
        pd.DataFrame(made)
        .astype({"sample": "int8", "n_tokens": "float32", "finish_reason": "category"})
        .assign(group="theirs", place=0, key="B", extra=[[1]] * 12)
    )
    frame["correct"] = [1, 1, 0] * 4
    frame["letter"] = ["a", "b ", ""] * 4
    for name in ("beside", "alone"):
        (tmp_path / name / "m").mkdir(parents=True)
        frame.to_parquet(tmp_path / name / "m" / "test.parquet")
    save_items(tmp_path / "beside", "test", ITEMS)
    assert score_folder(tmp_path / "beside")["models"] == score_folder(folder(tmp_path / "ours", m=made))["models"]
    alone = score_folder(tmp_path / "alone")["models"]["m"]["benchmarks"]["test"]
    assert (alone["accuracy"], alone["unparsed"], alone["deduplicated"], alone["by"]) == (
        round(8 / 12, 6),
        round(4 / 12, 6),
        None,
        {},
    )
    numbers = frame.assign(item_id=range(12))
    (tmp_path / "numbers" / "m").mkdir(parents=True)
    numbers.to_parquet(tmp_path / "numbers" / "m" / "test.parquet")
    save_items(tmp_path / "numbers", "test", [item.model_copy(update={"id": str(n)}) for n, item in enumerate(ITEMS)])
    assert score_folder(tmp_path / "numbers")["models"]["m"]["benchmarks"]["test"]["accuracy"] == 0.25


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("n_tokens", ["many"] * 12, "n_tokens: expected int64, found"),
        ("correct", [0.5] * 12, "correct: expected bool, found double"),
        ("completion", [["x"]] * 12, "completion: expected string, found list"),
        ("sample", [0.5] * 12, "sample: expected int64, found double"),
        ("completion", [None] * 12, "row 1: completion: null"),
        ("correct", [True, None] * 6, "row 2: correct: null, and no items/test.jsonl beside says what is right"),
        ("correct", None, "row 1: correct: null, and no items"),
        ("n_tokens", [3] * 11 + [-1], "row 12: n_tokens: -1 is no count"),
        ("sample", None, "no column sample"),
    ],
)
def test_columns_of_the_wrong_type_are_one_line(tmp_path, column, values, message):
    frame = pd.DataFrame(rows("r" * 12))
    (tmp_path / "m").mkdir()
    (frame.drop(columns=column) if values is None else frame.assign(**{column: values})).to_parquet(
        tmp_path / "m" / "test.parquet"
    )
    with pytest.raises(GazalError) as error:
        score_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/m/test.parquet: {message}") and "\n" not in str(error.value)


def test_completions_that_are_not_utf8_are_one_line(tmp_path):
    table = pa.Table.from_pylist(rows("r" * 12), SCHEMA)
    bad = pa.Array.from_buffers(pa.string(), 12, pa.array([b"\xff"] * 12).buffers())
    (tmp_path / "m").mkdir()
    pq.write_table(table.set_column(2, "completion", bad), tmp_path / "m" / "test.parquet")
    with pytest.raises(
        GazalError, match="m/test.parquet: not a predictions file .Column 2: In chunk 0: Invalid: Invalid UTF8 sequence"
    ):
        score_folder(tmp_path)


def test_models_of_different_items_are_scored_and_not_compared(tmp_path, capsys):
    scores = score_folder(
        folder(tmp_path, beside=False, a=rows("r" * 12), b=rows("r" * 6, ITEMS[:6]), c=rows("r" * 12))
    )
    assert [scores["models"][m]["benchmarks"]["test"]["n"] for m in "abc"] == [12, 6, 12]
    assert [(row["a"], row["b"]) for row in scores["paired"]] == [("a", "c")]
    assert "test: a and b answered different items: not compared" in capsys.readouterr().err


@settings(max_examples=5)
@given(st.text("rwu", min_size=24, max_size=24))
def test_nothing_that_is_not_finite_is_written(tmp_path_factory, outcomes):
    root = folder(
        tmp_path_factory.mktemp("finite"),
        a=rows(outcomes, samples=2),
        b=[{**row, "n_tokens": 0} for row in rows(outcomes[::-1], samples=2)],
    )
    score_folder(root)
    json.loads((root / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in scores.json"))


def test_scores_of_older_code_are_still_shown(tmp_path):
    scores = score_folder(folder(tmp_path, base=rows("rrrwwwwwwuuu"), sft=rows("r" * 12)))
    for entry in scores["models"].values():
        for name in ("empty", "right_per_1k_tokens", "deduplicated", "detectable", "sampling"):
            del entry["benchmarks"]["test"][name]
    scores["paired"] = [
        {key: row[key] for key in ("a", "b", "benchmark", "delta", "ci95", "p")} for row in scores["paired"]
    ]
    del scores["robustness"]
    assert "25.0 (8.9–53.2)" in results_table(scores) and "25.0 (8.9–53.2)" in details_table(scores)


def test_the_command_prints_both_tables_and_reads_once(tmp_path, monkeypatch):
    calls, read = [], read_predictions
    monkeypatch.setattr("gazal.predictions.folder.read_predictions", lambda path: calls.append(path) or read(path))
    result = CliRunner().invoke(app, ["score", str(folder(tmp_path, base=rows("rrrwwwwwwuuu")))])
    assert result.exit_code == 0 and len(calls) == 1
    assert "best shortcut" in result.output and "right per 1,000 tokens" in result.output
    assert (tmp_path / "scores.json").exists() and (tmp_path / "protocols.json").exists()
