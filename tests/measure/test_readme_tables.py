"""README's tables from small scored folders: their numbers are those of scores.json and faithfulness.json, and they land between their markers."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
import readme_tables as bench
from helpers.formats import check
from helpers.items import make_item
from helpers.predictions import write

from gazal.common.errors import GazalError
from gazal.items.prompts import completion_text
from gazal.knowledge.generate import synthesize
from gazal.paper.evaluation_tables import results_table
from gazal.paper.inputs import read_results
from gazal.predictions.file import fingerprint
from gazal.predictions.folder import read_answers
from gazal.scoring.faithfulness import measure_faithfulness
from gazal.scoring.schemas import Faithfulness, Scores
from gazal.scoring.score import score_folder

QUIZ = [make_item(n) for n in range(10)]
YES_NO = [make_item(n, 3).model_copy(update={"options": {"A": "yes", "B": "no", "C": "maybe"}}) for n in range(6)]


def make_run(folder: Path, seed: int, sft: int, grpo: int) -> Path:
    """Of 40 items the base gets none right, SFT ``sft`` and GRPO ``grpo``, both by true steps; of ten of MedQA each stage one more."""
    items = synthesize(40, seed, variety="plain")
    wrong = [
        item.model_copy(update={"answer_idx": next(k for k in item.options if k != item.answer_idx)}) for item in items
    ]
    write(folder / "eval", "base", "test", items, [["I cannot say."] for _ in items])
    for stage, right in (("sft", sft), ("grpo", grpo)):
        write(
            folder / "eval",
            stage,
            "test",
            items,
            [[completion_text(item, item.reasoning)] for item in [*items[:right], *wrong[right:]]],
        )
    for right, stage in enumerate(("base", "sft", "grpo"), 1):
        write(
            folder / "eval",
            stage,
            "medqa",
            QUIZ,
            [[f"**Answer:** {item.answer_idx}" if n < right else "hm"] for n, item in enumerate(QUIZ)],
        )
    answers = read_answers(folder)
    check(Scores, score_folder(folder, answers=answers))
    check(Faithfulness, measure_faithfulness(folder, answers))
    (folder / "recipe.yaml").write_text(f"name: embedded\nseed: {seed}\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """Two runs, and a model that was asked by log-likelihood on another sample and on PubMedQA's options."""
    root = tmp_path_factory.mktemp("readme")
    runs = [make_run(root / "one", 1, 20, 30), make_run(root / "two", 2, 30, 20)]
    for name, items in (("medqa", QUIZ[:8]), ("pubmedqa", YES_NO)):
        header = {
            "benchmark": fingerprint(items),
            "sampling": {"method": "loglik", "loglik_choice": "text", "loglik_norm": "sum"},
        }
        write(
            root / "other",
            "tiny",
            name,
            items,
            [[json.dumps({k: -float(k != "A") for k in item.options})] for item in items],
            header,
        )
    score_folder(root / "other")
    return [*map(str, runs)], str(root / "other")


def cells(table: str) -> dict[str, list[str]]:
    """Rows by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_every_number_is_that_of_the_scores(folders):
    (one, two), other = folders
    made = dict(bench.tables([one, two], [f"Tiny one={other}"]))
    assert list(made) == ["results", "seeds", "faithfulness", "real"]
    assert made["results"] in results_table(read_results(one)).markdown() and made["results"].startswith("| Model |")
    seeds = cells(made["seeds"])
    assert seeds["1"][:4] == ["0.0", "50.0", "75.0", "+50.0 (p = 1.9e-06)"] and seeds["2"][:3] == [
        "0.0",
        "75.0",
        "50.0",
    ]  # McNemar: 2 × 0.5 ** 20
    low, high = (
        100 * end
        for end in next(
            p for p in read_results(two).scores["paired"] if (p["a"], p["b"], p["benchmark"]) == ("sft", "grpo", "test")
        )["ci95"]
    )
    assert seeds["2"][4] == f"−25.0 (−{-low:.1f} to −{-high:.1f}, p = 0.002)" and seeds["2"][5] == "0.0 / 100.0 / 100.0"
    claims, judged = (
        cells(made["faithfulness"]),
        json.loads(Path(one, "eval/faithfulness.json").read_text())["models"]["grpo"]["benchmarks"]["test"],
    )
    assert [*claims][2:] == [
        f"{stage}{kind}"
        for stage in ("SFT", "GRPO")
        for kind in ("", ", diagnosis", ", uncertainty", ", treatment", ", prognosis")
    ]
    assert "Arithmetic right" not in claims[""] and len(claims["GRPO"]) == len(claims[""]) == 7
    assert claims["GRPO"][1].startswith("100.0 [") and claims["GRPO"][6].startswith(
        f"{100 * judged['outcomes']['wrong_from_right_steps']['value']:.1f} ["
    )
    real = cells(made["real"])
    assert real["% [95 % interval]"] == ["n each", "MedQA", "PubMedQA", "no answer read, %", "macro-F1, PubMedQA"]
    assert real["Embedded GRPO"] == ["10", "30.0 [10.8, 60.3]", "–", "70 / –", "–"]  # Wilson's interval of 3 of 10
    assert real["Tiny one, log-likelihood of option texts"] == [
        "8 / 6",
        "25.0 [7.1, 59.1]",
        "33.3 [9.7, 70.0]",
        "0 / 0",
        "16.7",
    ]
    assert real["Chance"] == ["", "25.0", "–", "", ""]


def test_written_between_the_markers_and_nowhere_else(folders, tmp_path, capsys):
    (one, two), other = folders
    readme, names = tmp_path / "README.md", ("results", "seeds", "faithfulness", "real")
    before = "\n".join(f"words {name}\n\n<!-- {name} -->\n\n| old |\n\n<!-- /{name} -->\n" for name in names)
    readme.write_text(before)
    bench.main(["--runs", one, two, "--real", other, "--write", str(readme)])
    text, made = readme.read_text(), dict(bench.tables([one, two], [other]))
    assert re.sub(r"(<!-- \w+ -->\n\n).*?(\n\n<!-- /)", r"\1| old |\2", text, flags=re.DOTALL) == before
    assert [table in text for table in made.values()] == [
        True
    ] * 4 and "| tiny, log-likelihood of option texts |" in text
    bench.main(["--runs", one, two, "--real", other, "--write", str(readme)])
    assert readme.read_text() == text and not capsys.readouterr().out
    bench.main(["--runs", one, two, "--real", other])
    assert all(
        f"<!-- {name} -->\n\n{table}\n\n<!-- /{name} -->" in capsys_text
        for capsys_text in [capsys.readouterr().out]
        for name, table in made.items()
    )


def test_what_was_not_measured_is_left_out_or_named(folders, tmp_path):
    (one, _), _ = folders
    scores = json.loads(Path(one, "eval/scores.json").read_text())
    (tmp_path / "eval").mkdir()
    for entry in scores["models"].values():
        del entry["benchmarks"]["medqa"]
    (tmp_path / "eval/scores.json").write_text(json.dumps(scores))
    assert [name for name, _ in bench.tables([str(tmp_path)], [])] == ["results", "seeds"]
    del scores["models"]["sft"]
    (tmp_path / "eval/scores.json").write_text(json.dumps(scores))
    with pytest.raises(GazalError, match="expected base, sft, grpo on test and the paired tests between them"):
        list(bench.tables([str(tmp_path)], []))
    (tmp_path / "README.md").write_text("<!-- /results -->\n<!-- results -->\n")
    for arguments, message in (
        (
            ["--runs", one, "--write", str(tmp_path / "README.md")],
            r"README.md: expected <!-- results --> and, after it, <!-- /results --> once",
        ),
        (["--runs", one, "--real", f"x={tmp_path}"], r"scores.json: cannot be read \("),
        (["--runs", str(tmp_path / "none")], "scores.json: no such file; evaluate the run first"),
    ):
        with pytest.raises(SystemExit, match=message):
            bench.main(arguments)
    assert (tmp_path / "README.md").read_text() == "<!-- /results -->\n<!-- results -->\n"


def test_three_seeds_have_a_mean_with_the_interval_of_students_t(folders):
    one, two = folders[0]
    *_, mean = bench.seeds_table([read_results(run) for run in (one, two, one)]).rows  # gains of 25, -25 and 25 points
    half = 4.302653 * statistics.stdev([25, -25, 25]) / 3**0.5
    assert mean[0] == "mean" and mean[5].startswith(
        f"+8.3 (−{half - 25 / 3:.1f} to +{half + 25 / 3:.1f}, t over seeds, p = "
    )
