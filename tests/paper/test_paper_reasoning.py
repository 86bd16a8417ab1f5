"""Reasoning quality in the paper: figure, table and sentences, from real scoring of written completions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.image
import pytest
from helpers.paper_text import paper_text
from helpers.planted_errors import ERRORS, numbered
from helpers.predictions import write

from gazal.common.errors import GazalError
from gazal.items.prompts import completion_text
from gazal.items.schema import Item
from gazal.knowledge.generate import synthesize
from gazal.paper.figures import caption
from gazal.paper.inputs import read_results
from gazal.paper.reasoning import faithfulness_table, fig_faithfulness, judged, structure_table
from gazal.paper.style import save_figure
from gazal.predictions.folder import read_answers
from gazal.scoring.faithfulness import measure_faithfulness
from gazal.scoring.score import score_folder


def planted(item: Item, name: str) -> str:
    """A completion with one error, or without where it cannot be planted."""
    lines = re.sub(r"^Step \d+: ", "", item.reasoning, flags=re.M).splitlines()
    found = ERRORS[name][0](item, lines) or (lines, item.answer_idx)
    return completion_text(item.model_copy(update={"answer_idx": found[1]}), numbered(found[0]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base writes answers alone; SFT errs in every second trace; GRPO writes true steps and, on prognosis, the wrong letter."""
    run, items = tmp_path_factory.mktemp("runs") / "embedded", synthesize(160, 5, variety="plain")
    write(run / "eval", "base", "test", items, [["**Answer:** A"] for _ in items])
    errors = ("wrong_total_or_gain", "inside_for_outside", "wrong_running_sum", "wrong_points")
    write(
        run / "eval",
        "sft",
        "test",
        items,
        [[planted(item, errors[n % 4] if n % 8 < 4 else "wrong_letter")] for n, item in enumerate(items)],
    )
    write(
        run / "eval",
        "grpo",
        "test",
        items,
        [
            [
                planted(item, "wrong_letter")
                if item.reasoning_type == "prognosis"
                else completion_text(item, item.reasoning)
            ]
            for item in items
        ],
    )
    score(run)
    return run


def score(run: Path) -> None:
    answers = read_answers(run)
    score_folder(run, answers=answers)
    measure_faithfulness(run, answers)
    save_figure(fig_faithfulness(read_results(run)), run / "figures", "faithfulness")


def test_the_figure_draws_each_stage_by_type(run: Path) -> None:
    results = read_results(run)
    figure = fig_faithfulness(results)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Diagnosis", "Uncertainty", "Treatment", "Prognosis"]
    cells = judged(results)[1]
    for ax, kind in zip(figure.axes, ("diagnosis", "uncertainty", "treatment", "prognosis"), strict=True):
        drawn = {
            (round(float(x), 6), round(float(y), 6))
            for line in ax.lines
            if len(line.get_xdata()) == 1
            for x, y in [(line.get_xdata()[0], line.get_ydata()[0])]
        }
        wanted = {
            (round(100 * c["by"][kind]["faultless"]["value"], 6), round(100 * c["by"][kind]["accuracy"]["value"], 6))
            for c in cells.values()
        }
        assert wanted <= drawn
    assert (100.0, 0.0) in {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[3].lines
        if len(line.get_xdata()) == 1
    }
    picture = matplotlib.image.imread(run / "figures/faithfulness.png")[..., :3]
    assert abs(picture.shape[1] / 200 - 7) < 0.02 and 0.02 < (picture.min(axis=2) < 0.9).mean() < 0.6
    assert len(caption("faithfulness")) > 40


def test_the_table_holds_the_numbers(run: Path) -> None:
    table = faithfulness_table(read_results(run))
    rows = {(row[0], row[1]): row for row in table.rows}
    assert set(rows) == {
        ("Base", "All items"),
        *((m, t) for m in ("SFT", "GRPO") for t in ("All items", "Diagnosis", "Uncertainty", "Treatment", "Prognosis")),
    }
    base, prognosis = rows["Base", "All items"], rows["GRPO", "Prognosis"]
    assert (
        base[3] == "0"
        and base[5] == base[7] == "–"
        and prognosis[4].startswith("0.0 [")
        and prognosis[5].startswith("100.0 [")
        and prognosis[-1].startswith("100.0 [")
    )
    assert "| GRPO | Prognosis | 40 |" in table.markdown() and r"\toprule" in table.latex()
    assert all(len(row) == len(table.header) for row in table.rows)


def test_the_table_of_structure_holds_each_part_by_type_and_what_was_not_read(run: Path, tmp_path: Path) -> None:
    table = structure_table(read_results(run))
    rows = {tuple(row[:3]): row[3:] for row in table.rows}
    types = ("All items", "Diagnosis", "Uncertainty", "Treatment", "Prognosis")
    assert list(rows) == [("Embedded test", model, kind) for model in ("Base", "SFT", "GRPO") for kind in types]
    assert rows["Embedded test", "GRPO", "Prognosis"] == ["40", *["100.0 [91.2, 100.0]"] * 4, "–", "0.0 [0.0, 9.2]"]
    assert (
        rows["Embedded test", "Base", "All items"][1:4] == ["0.0 [0.0, 2.3]"] * 3
        and rows["Embedded test", "Base", "All items"][-1] == "0.0 [0.0, 2.3]"
    )
    prose = [
        [
            "<think>\nThis drug is given at a lower dose when the kidneys fail.\n</think>\n\n## Clinical Assessment\n**Answer:** A"
        ]
    ] * 8
    items = synthesize(8, 3, variety="plain")
    plain = [item.model_copy(update={"source": "MedQA", "reasoning_type": None}) for item in items]
    write(tmp_path / "eval", "m", "test", items, prose)
    write(tmp_path / "eval", "m", "mine", plain, prose)
    score_folder(tmp_path)
    measure_faithfulness(tmp_path)
    found = {tuple(row[:3]): row[3:] for row in structure_table(read_results(tmp_path)).rows}
    assert found["Embedded test", "m", "All items"] == [
        "8",
        "100.0 [67.6, 100.0]",
        "0.0 [0.0, 32.4]",
        *["100.0 [67.6, 100.0]"] * 2,
        "–",
        "100.0 [67.6, 100.0]",
    ]
    assert found["mine", "m", "All items"] == [
        "8",
        "100.0 [67.6, 100.0]",
        "0.0 [0.0, 32.4]",
        *["100.0 [67.6, 100.0]"] * 2,
        "0.0 [0.0, 32.4]",
        "–",
    ]
    claims = faithfulness_table(read_results(tmp_path))
    assert claims.rows[0][3] == "0" and claims.rows[0][5] == "–" and "prose makes no claim" in claims.notes[0]


def test_the_paper_says_where_answers_and_reasons_part(run: Path) -> None:
    text = paper_text(run)
    report = json.loads((run / "eval/faithfulness.json").read_text())
    grpo = report["models"]["grpo"]["benchmarks"]["test"]
    assert (
        f"{100 * grpo['outcomes']['wrong_from_right_steps']['value']:.1f} %" in text
        and grpo["outcomes"]["wrong_from_right_steps"]["value"] == 0.25
    )
    assert "25.0 % (18.9 to 32.2) of its completions go wrong from right steps" in text and "prognosis 100.0 %" in text
    assert "Base makes no claim that can be read, so nothing of its reasoning can be judged" in text
    assert (
        "On prognosis the steps are without a false claim more often than the answer is right, beyond both intervals"
        in text
    )
    assert (
        "it is the other way round" not in text
        and "On the other types the two do not part beyond their intervals" in text
    )
    assert (
        "the completions of GRPO have a closed think block in 100.0 %, steps numbered from 1 without a gap in 100.0 %, the assessment's heading in 100.0 %"
        in text
    )
    change = re.search(
        r"From SFT to GRPO the share changes, beyond the 95 % interval of the paired difference, of true claims \(\+([\d.]+) points",
        text,
    )
    pair = next(row for row in report["paired"] if (row["a"], row["b"]) == ("sft", "grpo"))
    assert change and float(change[1]) == pytest.approx(100 * pair["all"]["precision"]["delta"], abs=0.06)


def edited(run: Path, folder: Path, change) -> str:
    """The paper's text where the file says something else."""
    (folder / "eval").mkdir(parents=True)
    for name in ("scores.json", "faithfulness.json"):
        value = json.loads((run / "eval" / name).read_text())
        if name == "faithfulness.json":
            change(value)
        (folder / "eval" / name).write_text(json.dumps(value))
    return paper_text(folder)


def test_the_sentences_stay_true_for_other_runs(run: Path, tmp_path: Path) -> None:
    def unchanged(report: dict) -> None:
        for row in report["paired"]:
            for found in (row["all"], *row["by"].values()):
                for difference in found.values():
                    difference["ci95"] = [difference["delta"] - 1, difference["delta"] + 1]

    text = edited(run, tmp_path / "a", unchanged)
    assert (
        "From SFT to GRPO no change beyond the interval is seen in the share of true claims" in text
        and "the share changes" not in text
    )
    assert "not measurably different on diagnosis" in text and "is up on" not in text

    def silent(report: dict) -> None:
        for entry in report["models"].values():
            entry["benchmarks"]["test"] = report["models"]["base"]["benchmarks"]["test"] | {
                "accuracy": entry["benchmarks"]["test"]["accuracy"]
            }

    text = edited(run, tmp_path / "b", silent)
    assert (
        "Base, SFT and GRPO make no claim that can be read, so nothing of their reasoning can be judged" in text
        and "go wrong from right steps" not in text
    )

    def alone(report: dict) -> None:
        report["models"] = {"grpo": report["models"]["grpo"]}
        report["paired"] = []

    text = edited(run, tmp_path / "c", alone)
    assert (
        "by GRPO) the source bears out" in text and "From SFT" not in text and "no claim that can be read" not in text
    )


def test_without_the_file_there_is_no_section_and_one_of_other_predictions_is_one_line(
    run: Path, tmp_path: Path
) -> None:
    assert judged(read_results(run))[0] == "test"
    assert "Accuracy does not say whether the reasons are any good" not in edited(
        run, tmp_path / "a", lambda report: report.clear()
    )
    with pytest.raises(
        GazalError,
        match=r"faithfulness.json: models.sft.benchmarks.test.accuracy: is not that in scores.json; write it again with gazal score",
    ):
        edited(
            run,
            tmp_path / "b",
            lambda report: report["models"]["sft"]["benchmarks"]["test"]["accuracy"].update(value=0.123),
        )
