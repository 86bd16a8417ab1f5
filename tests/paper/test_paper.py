"""Figures, tables and paper from a made-up run folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import typst
import yaml
from helpers.paper_run import build_run, scores
from helpers.paper_text import paper_text

from gazal.common.errors import GazalError
from gazal.common.paths import PAPER
from gazal.paper.claims import check_claims
from gazal.paper.compile import compile_paper, make_paper, stage_sources
from gazal.paper.evaluation_figures import above_chance, fig_deltas, fig_lengths, fig_subjects
from gazal.paper.evaluation_tables import benchmarks_table, evaluation_table, paired_table, results_table
from gazal.paper.figures import caption, fig_benchmarks, fig_stages, figure_jobs, make_figures
from gazal.paper.inputs import read_results
from gazal.paper.style import save_figure
from gazal.paper.tables import contamination_table, make_tables
from gazal.scoring.table import Table, escape_latex, escape_markdown, in_percent, p_value, percent

FIGURES = ("sft_loss", "grpo_rewards", "stages", "benchmarks", "deltas", "subjects", "lengths", "data_composition")
NEW = ("p_holm", "n", "detectable")  # of a paired test; a run scored before them still gives its paper
NEW_OF_A_SCORE = ("empty", "right_per_1k_tokens", "samples", "deduplicated", "macro_f1")
PUBLISHED = yaml.safe_load((PAPER / "published.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_run(tmp_path_factory.mktemp("runs") / "embedded")
    make_paper(folder)
    return folder


def edit(run: Path, change) -> None:
    path = run / "eval/scores.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Only scores.json of the base model: no logs, recipe, report, baselines or benchmarks."""
    (tmp_path / "eval").mkdir()
    value = scores(benchmarks=())
    value["models"] = {"base": value["models"]["base"]}
    (tmp_path / "eval/scores.json").write_text(json.dumps({"models": value["models"], "paired": [], "baselines": {}}))
    return tmp_path


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_written_and_not_blank(run: Path, name: str) -> None:
    assert (run / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    picture = matplotlib.image.imread(run / f"figures/{name}.png")[..., :3]
    assert 0.02 < (picture.min(axis=2) < 0.9).mean() < 0.6
    width = picture.shape[1] / 200
    assert abs(width - 3.35) < 0.02 or abs(width - 7.0) < 0.02
    assert len(caption(name)) > 40


@pytest.mark.slow
def test_figures_and_paper_are_the_same_bytes_twice(run: Path) -> None:
    names = ("stages", "deltas", "subjects", "lengths")
    watched = [run / "paper.pdf", *(run / f"figures/{name}.{suffix}" for name in names for suffix in ("pdf", "png"))]
    before = [path.read_bytes() for path in watched]
    for name in names:
        save_figure(figure_jobs(read_results(run))[name][1](), run / "figures", name)
    compile_paper(run)
    assert [path.read_bytes() for path in watched] == before
    assert not [p for p in run.rglob("*") if p.name.endswith(".tmp")]


def test_figures_draw_reported_and_measured_values(run: Path) -> None:
    results = read_results(run)
    texts = {t.get_text() for ax in fig_benchmarks(results).axes for t in ax.texts}
    assert {"81.6", "71.9", "87.1", "79.6", "not run"} <= texts
    assert "22.0" in texts  # ours, measured
    first, second = fig_deltas(results).axes
    points = {round(float(x), 1) for line in second.lines for x in line.get_xdata()}
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("Base → SFT", "SFT → GRPO") and {
        2.3,
        2.0,
        -0.4,
        0.2,
        11.0,
    } <= points
    assert {"0.002", "1.00", "not run"} <= {t.get_text() for t in second.texts}  # Holm's p: 6 × 0.0004, and MedMCQA
    bands = {(round(p.get_x(), 1), round(p.get_width(), 1)) for p in second.patches}
    assert bands == {(-4.6, 9.2), (-14.0, 28.0)}  # what 1,000 and 100 items could not have shown


def test_deltas_mark_only_what_holds_after_correction(run: Path, tmp_path: Path) -> None:
    other = build_run(tmp_path / "r", steps=3)

    def barely(value: dict) -> None:
        row = next(r for r in value["paired"] if (r["a"], r["b"], r["benchmark"]) == ("sft", "grpo", "test"))
        row.update(p=0.02, p_holm=0.12)

    def faces(folder: Path) -> list:
        return [
            line.get_markerfacecolor()
            for line in fig_deltas(read_results(folder)).axes[1].lines
            if line.get_marker() == "D"
        ]

    edit(other, barely)
    assert faces(run)[0] != "white" and set(faces(other)) == {"white"}
    text = paper_text(other)
    assert "GRPO beats SFT" not in text and "GRPO does not differ measurably from SFT (+11.0 points" in text


def test_each_type_is_drawn_against_its_own_chance(run: Path) -> None:
    results = read_results(run)
    results.scores["baselines"]["test"]["chance"] = {"accuracy": 0.262, "by": {"diagnosis": 0.25, "treatment": 0.3}}
    dashed = {
        tuple(line.get_xdata()): line.get_ydata()[0]
        for line in fig_stages(results).axes[0].lines
        if line.get_linestyle() == "--"
    }
    assert dashed == {(-0.5, 0.5): pytest.approx(26.2), (0.5, 1.5): 25, (2.5, 3.5): 30}


def test_subjects_are_coloured_against_chance_and_few_items_are_grey(run: Path, tmp_path: Path) -> None:
    assert [above_chance(a, 0.25) for a in (0.25, 1.0, 0.0)] == [0.0, 1.0, pytest.approx(-1 / 3)]
    other = build_run(tmp_path / "r", steps=3)

    def subjects(value: dict) -> None:
        for entry in value["models"].values():
            entry["benchmarks"]["medqa"]["by"] = {
                name: {**cell(0.5, n), "ci95": [0.4, 0.6]} for name, n in (("surgery", 19), ("dental", 20))
            }
            entry["benchmarks"]["medqa"]["by"]["dose"] = {**cell(0.5, 20), "ci95": [0.4, 0.6], "chance": 0.5}

    def cell(accuracy: float, n: int) -> dict:
        return {"n": n, "accuracy": accuracy, "unparsed": 0.0, "truncated": 0.0, "mean_tokens": 9.0}

    edit(other, subjects)
    figure = fig_subjects(read_results(other))
    grid = next(ax for ax in figure.axes if ax.get_title(loc="left") == "MedQA")
    assert [t.get_text() for t in grid.get_yticklabels()] == ["Dental (20)", "Dose (20)", "Surgery (19)"]
    dental, dose, surgery = grid.patches[:3], grid.patches[3:6], grid.patches[6:]
    assert (
        {matplotlib.colors.to_hex(p.get_facecolor()) for p in surgery}
        == {"#efefef"}
        != {matplotlib.colors.to_hex(p.get_facecolor()) for p in dental}
    )
    assert {matplotlib.colors.to_hex(p.get_facecolor()) for p in dose} == {
        "#f6f6f7"
    }  # a group's own chance, which may be another than the whole set's
    assert [t.get_fontweight() for t in grid.texts] == ["bold"] * 3 + ["normal"] * 6
    test = next(ax for ax in fig_subjects(read_results(run)).axes if ax.get_title(loc="left") == "Embedded test")
    assert [t.get_text() for t in test.get_yticklabels()] == [
        "Diagnosis (250)",
        "Uncertainty (250)",
        "Treatment (250)",
        "Prognosis (250)",
    ]


def test_many_models_and_odd_names_are_drawn(tmp_path: Path) -> None:
    run = build_run(tmp_path / "r", steps=3)

    def more(value: dict) -> None:
        for i in range(5):
            value["models"][f"a_model-{i}"] = value["models"]["base"]
        del value["models"]["grpo"]
        value["paired"] = []

    edit(run, more)
    path = run / "eval/lengths.json"
    lengths = json.loads(path.read_text())
    for models in lengths["benchmarks"].values():
        models["a_model-1"] = models["base"]
        del models["grpo"]
    path.write_text(json.dumps(lengths))
    (run / "eval/protocols.json").unlink()
    make_tables(run)
    assert "GRPO was not compared" not in paper_text(run)
    for draw in (fig_deltas, fig_subjects):
        assert draw(read_results(run)).axes
    labels = [t.get_text() for t in fig_lengths(read_results(run)).legends[0].texts]
    assert labels == ["Base", "SFT", "a_model-1", "cut at the token limit", "chance"]


def test_lengths_show_cut_completions_and_few_items_apart(run: Path) -> None:
    figure = fig_lengths(read_results(run))
    test = next(ax for ax in figure.axes if ax.get_title(loc="left") == "Embedded test")
    marks = [line for line in test.lines if line.get_marker() in "soD" and len(line.get_xdata()) == 1]
    (cut,) = [line for line in marks if line.get_markerfacecolor() == "white"]
    assert (cut.get_xdata()[0], cut.get_ydata()[0], cut.get_alpha()) == (160.0, 0.0, 0.35)
    assert len(marks) == 16 and sum(line.get_alpha() == 1 for line in marks) == 15
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Embedded test",
        "MMLU-Pro (medical)",
        "MedQA",
        "PubMedQA",
        "Embedded test: within types",
        "Right for its length",
    ]


def test_a_run_scored_before_has_its_paper(tmp_path: Path) -> None:
    run = build_run(tmp_path / "embedded", steps=3)

    def older(value: dict) -> None:
        for row in value["paired"]:
            for name in NEW:
                del row[name]
        for entry in value["models"].values():
            for score in entry["benchmarks"].values():
                for name in NEW_OF_A_SCORE:
                    score.pop(name, None)

    edit(run, older)
    assert fig_lengths(read_results(run)).axes  # lengths may be newer than the scores
    (run / "eval/lengths.json").unlink()
    assert not figure_jobs(read_results(run))["lengths"][0] and fig_deltas(read_results(run)).axes
    text = paper_text(run)
    assert "GRPO beats SFT (+11.0 points" in text and "Holm" not in text and "power" not in text and "rho" not in text
    paired = paired_table(read_results(run))
    assert (
        paired.header == ["Benchmark", "Models", "Difference", "95 % interval", "p"]
        and "not corrected" in paired.notes[0]
    )
    assert {row[7] for row in evaluation_table(read_results(run)).rows} == {"–"}


def test_lengths_of_other_predictions_are_one_line(tmp_path: Path) -> None:
    run = build_run(tmp_path / "r", steps=3)
    edit(run, lambda value: value["models"]["sft"]["benchmarks"]["medqa"].update(samples=2))
    with pytest.raises(
        GazalError,
        match=re.escape(
            "lengths.json: benchmarks.medqa.sft: is not of the predictions in scores.json; write it again with gazal score"
        ),
    ):
        make_figures(run)


def test_paper_has_pages_and_states_what_it_is(run: Path) -> None:
    pdf = (run / "paper.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    pages = re.search(rb"/Type\s*/Pages\s*/Count (\d+)", pdf)
    assert pages and 2 <= int(pages[1]) <= 7
    assert set(figure_jobs(read_results(run))) >= set(FIGURES)


def test_paper_says_beats_only_where_the_test_does(run: Path, tmp_path: Path) -> None:
    text = paper_text(run)
    assert "GRPO beats SFT (+11.0 points" in text and "not affiliated" in text and "knows the facts" in text
    assert "better on diagnosis (+19.0" in text and "not measurably different on treatment (+7.0" in text
    assert "Not a medical device" in text and "2025-01-16" in text and "no folder given" in text
    assert (
        "after Holm" in text
        and "1,000 items of the embedded test a true difference of 4.6 points" in text
        and "with 100 items, of 14.0 points" in text
    )
    assert (
        "Longer completions of GRPO are more often right" in text
        and "they are not measurably more or less often right" in text
        and "comes from the mix" in text
    )
    assert (
        "Per 1,000 tokens GRPO gives 8.1 right answers." in text
        and "No answer is read in 1.3 % of the completions of GRPO" in text
    )
    other = build_run(tmp_path / "embedded")

    def no_gain(value: dict) -> None:
        row = next(r for r in value["paired"] if (r["a"], r["b"], r["benchmark"]) == ("sft", "grpo", "test"))
        row.update(p=0.2, p_holm=0.9)

    edit(other, no_gain)
    text = paper_text(other)
    assert "GRPO beats SFT" not in text and "GRPO does not differ measurably from SFT" in text


def test_paper_from_scores_alone(bare: Path) -> None:
    (bare / "figures").mkdir()
    for name in ("sft_loss", "lengths"):
        (bare / f"figures/{name}.png").write_bytes(b"of an older run")
    lines: list[str] = []
    written = make_paper(bare, lines.append)
    assert bare / "paper.pdf" in written and (bare / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert not (bare / "figures/sft_loss.png").exists() and not (bare / "figures/lengths.png").exists()
    assert {
        f"figures/{name}: left out, this run has no data for it" for name in ("sft_loss", "lengths", "data_composition")
    } <= set(lines)
    table = benchmarks_table(read_results(bare))
    assert len(table.notes) == 4 and all("no predictions in this run" in note for note in table.notes)


def test_results_table_holds_the_numbers(run: Path) -> None:
    text = (run / "tables/results.md").read_text()
    assert "| GRPO | 71.5 [68.7, 74.3] | 61.0 [55.0, 67.0] |" in text
    assert "| Shortcut: matched findings | 47.2 | 42.7 |" in text
    tex = (run / "tables/results.tex").read_text()
    assert r"\toprule" in tex and r"95 \% intervals" in tex and "71.5 [68.7, 74.3]" in tex
    assert results_table(read_results(run)).rules == frozenset({2})


def test_other_tables(run: Path) -> None:
    paired = (run / "tables/paired.md").read_text()
    assert "| Embedded test | SFT → GRPO | 1,000 | +11.0 | [+8.0, +14.0] | &lt; 0.001 | 0.002 | 4.6 |" in paired
    assert "| Embedded test, diagnosis | SFT → GRPO | 250 | +19.0 | [+13.0, +25.0] | 0.001 | – | – |" in paired
    evaluation = (run / "tables/evaluation.md").read_text()
    assert (
        "| Embedded test | GRPO | 1,000 | 1 | 71.5 [68.7, 74.3] | 1.3 | 0.8 | 0.1 | 88 | 8.09 |" in evaluation
        and "Orders" not in evaluation
        and "Maj@k" not in evaluation
    )
    benchmarks = (run / "tables/benchmarks.md").read_text()
    assert "MedMCQA was not run: no folder given and the hub cannot be reached." in benchmarks
    assert "Gazal-R1 (final) (reported) | 32B | 81.6 | 71.9 | 87.1 | 79.6 |" in benchmarks
    assert (
        "| … without repeated items | – | 20.0 [13.0, 29.0], n = 95 | – | – | – |" in benchmarks
        and "| … macro-F1 | – | – | – | – | 19.0 [10.0, 27.0] |" in benchmarks
    )
    assert "| Test | 250 | 250 | 250 | 250 | 1,000 | A: 25.0 |" in (run / "tables/data.md").read_text()
    for path in (run / "tables").glob("*.tex"):
        rows = [line for line in path.read_text().splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in rows}) == 1
    assert len(list((run / "tables").iterdir())) == 18


def test_evaluation_table_has_samples_and_orders_where_a_run_has_them(tmp_path: Path) -> None:
    run = build_run(tmp_path / "r", steps=3)

    def asked_more(value: dict) -> None:
        score = value["models"]["sft"]["benchmarks"]["medqa"]
        score["at_k"] = {
            kind: {str(k): {"accuracy": 0.2 + 0.05 * k, "ci95": [0.1, 0.9]} for k in (1, 2, 10)}
            for kind in ("maj", "pass")
        }
        value["robustness"] = {
            "grpo": {
                "medqa": {
                    "orders": 4,
                    "n": 100,
                    "accuracy": {"mean": 0.23, "lowest": 0.21, "highest": 0.251, "ci95": [0.2, 0.3]},
                    "same_answer": 0.4,
                    "letter_bias": {"A": 0.05, "B": -0.12, "C": 0.07},
                }
            }
        }

    edit(run, asked_more)
    table = evaluation_table(read_results(run))
    rows = {(row[0], row[1]): dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert rows["MedQA", "SFT"]["Pass@k"] == "70.0 [10.0, 90.0], k = 10" and rows["MedQA", "Base"]["Pass@k"] == "–"
    grpo = rows["MedQA", "GRPO"]
    assert (grpo["Orders"], grpo["Over orders"], grpo["Same answer"], grpo["Letter bias"]) == (
        "4",
        "21.0–25.1",
        "40.0",
        "B −12.0",
    )
    assert rows["MedQA", "SFT"]["Letter bias"] == "–" and len(table.notes) == 3
    assert "B −12.0" in str(stage_table(run))


def stage_table(run: Path) -> list:
    """The cells of the paper's table of details, as typst lays them out."""
    with stage_sources(read_results(run)) as (root, inputs):
        return json.loads(
            typst.query(
                str(root / "main.typ"), "<tab:evaluation>", root=str(root), sys_inputs=inputs, ignore_system_fonts=True
            )
        )


def test_tables_of_protocols(run: Path) -> None:
    protocols = (run / "tables/protocols.md").read_text()
    assert "| Benchmark | Model | Ours | First or last | Last letter | MMLU-Pro | Default A | Span |" in protocols
    assert "| Embedded test | GRPO | 71.5 | 75.5 | 72.6 | 73.6 | 70.3 | 5.2 |" in protocols
    assert protocols.count("| Base |") == protocols.count("| GRPO |") == 4 and "averaged over 20 seeds" in protocols
    for row in read_results(run).protocol_rows:  # a reader's subtraction agrees
        assert (
            row.span == pytest.approx(max(row.accuracy.values()) - min(row.accuracy.values()), abs=1e-9)
            and round(row.span, 3) == row.span
        )
    readings = (run / "tables/readings.md").read_text()
    assert (
        "1,900 honest, well-formed completions" in readings and "180 red-team completions without an answer" in readings
    )
    assert "| First or last | 100.0 | 100.0 | 80.0 | 35.0 | copied_options (100) |" in readings
    assert "| Ours | 100.0 | 100.0 | 0.0 | 0.0 | – |" in readings


def test_paper_says_how_many_points_are_protocol(run: Path, tmp_path: Path) -> None:
    text = paper_text(run)
    assert "Over 12 pairs of model and benchmark the median span is 5.2 points and the largest 9.0: Base on " in text
    assert "On 1,900 honest, well-formed completions of this run all five agree." in text
    assert (
        "ours reads no answer in 180; the others give 50 to 80 % of these a letter, and First or last counts 35 % as right"
        in text
    )
    other = build_run(tmp_path / "embedded", steps=3)
    path = other / "eval/protocols.json"
    value = json.loads(path.read_text())
    value["honest"]["agreement"]["default_a"] = 0.9
    value["red_team"] = {}
    path.write_text(json.dumps(value))
    text = paper_text(other)
    assert "but for Default A (90.0 %)" in text and "all five agree" not in text and "adversarial" not in text
    make_tables(other)
    assert "| First or last | 100.0 | 100.0 | – | – | – |" in (other / "tables/readings.md").read_text()


def test_contamination_table_sets_clean_beside_full(run: Path) -> None:
    table = contamination_table(read_results(run))
    rows = {row[0]: row for row in table.rows if row[0]}
    assert rows["MMLU-Pro (medical)"][1:9] == ["1,535", "2,900", "0", "0", "0", "1", "1", "1,533"]
    assert (
        rows["MedQA"][3:6] == ["3", "2", "0"]
        and rows["PubMedQA"][3:6] == ["–", "–", "1"]
        and rows["PubMedQA"][8] == "499"
    )
    assert rows["MedQA"][-1] == "21.0 [14.0, 30.0], n = 97" and rows["Embedded test"][-1] == "–"


def test_paper_has_a_section_on_contamination_only_with_its_file(run: Path, tmp_path: Path) -> None:
    said = paper_text(run)
    assert "3,612 candidate documents were curated and 3,600 kept" in said and "5 matched a test item" in said
    assert "MMLU-Pro (medical) holds 1 exact pair inside itself" in said and "1 item of PubMedQA still matched" in said
    build_run(tmp_path / "run")
    (tmp_path / "run/eval/contamination.json").unlink()
    assert "candidate documents" not in paper_text(tmp_path / "run")


def test_an_older_run_has_no_protocols(tmp_path: Path) -> None:
    run = build_run(tmp_path / "embedded", steps=3)
    make_tables(run)
    assert (run / "tables/protocols.tex").exists() and (run / "tables/readings.md").exists()
    (run / "eval/protocols.json").unlink()
    lines: list[str] = []
    make_tables(run, lines.append)
    assert [line for line in lines if "protocols" in line] == [
        "tables/protocols, tables/readings: left out, this run has no eval/protocols.json (gazal score writes it)"
    ]
    assert not [path for path in (run / "tables").iterdir() if path.stem in ("protocols", "readings")]
    assert "protocol" not in paper_text(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda cells: cells.pop("mmlu_pro"),
            "benchmarks.test.sft: expected ours, best_of_first_and_last, last_letter, mmlu_pro, default_a; write it again",
        ),
        (
            lambda cells: cells.update(ours=0.5),
            "benchmarks.test.sft.ours: is not the accuracy in scores.json; write it again with gazal score",
        ),
    ],
)
def test_protocols_of_other_predictions_are_one_line(tmp_path: Path, change, message: str) -> None:
    run = build_run(tmp_path / "r", steps=3)
    path = run / "eval/protocols.json"
    value = json.loads(path.read_text())
    change(value["benchmarks"]["test"]["sft"])
    path.write_text(json.dumps(value))
    with pytest.raises(GazalError, match=re.escape(message)):
        make_tables(run)


def test_paired_is_read_in_both_directions(run: Path) -> None:
    results = read_results(run)
    there, back = results.change("sft", "grpo", "test"), results.change("grpo", "sft", "test")
    assert (
        there and back and there.delta == pytest.approx(0.11) and back.delta == -there.delta and back.low == -there.high
    )
    assert results.change("base", "grpo", "medqa") is None
    assert (
        (there.n, there.detectable, there.p_holm)
        == (1000, 0.046, pytest.approx(0.0024))
        == (back.n, back.detectable, back.p_holm)
    )
    assert len(paired_table(results).rows) == 3 * 5 + 3


def test_latex_and_markdown_escapes() -> None:
    assert (
        escape_latex(r"a_b & 5 % of $x {y} ~^ \z")
        == r"a\_b \& 5 \% of \$x \{y\} \textasciitilde{}\textasciicircum{} \textbackslash{}z"
    )
    assert escape_latex("−1 ≥ 2 × <3") == r"$-$1 $\geq$ 2 $\times$ \textless{}3"
    assert escape_markdown("a|b <c> *d*\ne") == r"a\|b &lt;c> \*d\* e"
    table = Table("t", "50 % & more", ["a_b", "n"], [["[x]", "1"]])
    assert r"\caption{50 \% \& more}" in table.latex() and "{}[x] & 1" in table.latex()
    assert [percent(x) for x in (0.0625, 0.40249, 0.0, 1.0, None)] == ["6.3", "40.2", "0.0", "100.0", "–"]
    assert [p_value(p) for p in (0.0, 0.0123, 0.5, 1.0)] == ["< 0.001", "0.012", "0.50", "1.00"]


def test_claims_hold_as_reported_and_fail_where_they_should() -> None:
    verdicts = check_claims(PUBLISHED)
    assert all(v.holds for v in verdicts if v.claimed) and len([v for v in verdicts if v.claimed]) == 9
    assert {v.benchmark for v in verdicts if not v.claimed and not v.holds} == {"MedMCQA"}
    changed = yaml.safe_load((PAPER / "published.yaml").read_text(encoding="utf-8"))
    changed["models"]["qwen-3-32b"]["medqa"] = 87.1  # a tie is no highest
    changed["models"]["gazal-r1"]["pubmedqa"] = 79.5
    failing = {(v.text, v.benchmark) for v in check_claims(changed) if v.claimed and not v.holds}
    assert failing == {
        ("Gazal-R1 is the highest of the eight models", "MedQA"),
        ("GRPO adds 2.0 points over SFT", "PubMedQA"),
    }
    changed["claims"][0]["model"] = "nobody"
    with pytest.raises(GazalError, match="no 'nobody' in the table"):
        check_claims(changed)


def test_reported_values_are_those_of_the_card() -> None:
    rows = {k: [m[b] for b in PUBLISHED["benchmarks"]] for k, m in PUBLISHED["models"].items()}
    assert (
        len(rows) == 8
        and rows["gazal-r1"] == [81.6, 71.9, 87.1, 79.6]
        and rows["qwen-3-32b"] == [78.4, 71.6, 84.4, 76.7]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["models"].clear(), "models: no scored model"),
        (lambda v: v["models"]["sft"]["benchmarks"]["test"].pop("ci95"), "models.sft.benchmarks.test.ci95: missing"),
        (lambda v: v["models"]["sft"]["benchmarks"]["test"].update(accuracy=60.5), "60.5 is not between 0 and 1"),
        (lambda v: v["paired"][0].update(delta=-0.3), "delta is not accuracy of b minus accuracy of a"),
    ],
)
def test_bad_scores_are_one_line(tmp_path: Path, change, message: str) -> None:
    run = build_run(tmp_path / "r", steps=3)
    edit(run, change)
    with pytest.raises(GazalError, match=re.escape(message)) as caught:
        make_tables(run)
    assert "scores.json" in str(caught.value) and "\n" not in str(caught.value) and not (run / "tables").exists()


def test_missing_or_cut_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(GazalError, match="scores.json: no such file; evaluate the run first"):
        make_figures(tmp_path)
    run = build_run(tmp_path / "r", steps=3)
    (run / "grpo/metrics.jsonl").write_text('{"step": 1, "rew')
    with pytest.raises(GazalError, match="metrics.jsonl: row 1: not JSON"):
        make_figures(run)


def test_paper_needs_no_model_library() -> None:
    code = "import sys, gazal.paper.compile; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'trl', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_percent_rounds_halves_away_from_zero_as_the_paper_does():
    assert (in_percent(0.0625), in_percent(0.0025), in_percent(-0.0025), in_percent(0.0)) == (6.3, 0.3, -0.3, 0.0)
    for n in (80, 160, 200, 800, 1000):  # 100 * 0.2875 is a little less than 28.75
        assert [in_percent(round(k / n, 6)) for k in range(n + 1)] == [
            (2000 * k + n) // (2 * n) / 10 for k in range(n + 1)
        ]


def test_the_paper_rounds_as_the_tables_do(tmp_path: Path) -> None:
    other = build_run(tmp_path / "r", steps=3)

    def halves(value: dict) -> None:
        value["models"]["grpo"]["benchmarks"]["medqa"]["ci95"] = [0.2015, 0.2875]

    edit(other, halves)
    assert "interval 20.2 to 28.8)" in paper_text(other)
