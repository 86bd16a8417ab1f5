"""The five notebooks by papermill on a shrunken recipe (overrides in shrunken.txt), and its bad inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.check_run import check_run

from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.reproduce import _execute, reproduce

SHRUNKEN = (Path(__file__).parent / "shrunken.txt").read_text(encoding="utf-8").split()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return reproduce("embedded", SHRUNKEN, run=str(tmp_path_factory.mktemp("run") / "small"))


@pytest.mark.slow
def test_every_file_of_the_layout_is_there(run):
    assert check_run(run, min_test=0) == []


@pytest.mark.slow
def test_second_call_does_nothing_again(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}
    reproduce("embedded", SHRUNKEN, run=str(run))
    assert capsys.readouterr().out.count("done before") == 5
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}


@pytest.mark.slow
def test_scoring_again_needs_no_model_and_gives_the_same_bytes(run):
    before = (run / "eval" / "scores.json").read_bytes()
    subprocess.run([sys.executable, "-m", "gazal", "score", str(run / "eval")], check=True, capture_output=True)
    assert (run / "eval" / "scores.json").read_bytes() == before


@pytest.mark.slow
def test_executed_notebooks_hold_no_machine_paths(run):
    for notebook in (run / "notebooks").glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert not any(
            output["output_type"] == "error" for cell in json.loads(text)["cells"] for output in cell.get("outputs", [])
        )


def test_relative_names_are_relative_to_where_the_command_was_started(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.jsonl").write_text("{}", encoding="utf-8")
    code = (
        "from pathlib import Path\nassert Path('own.jsonl').is_file(), Path.cwd()\nprint(Path('own.jsonl').resolve())"
    )
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "elsewhere" / "source.ipynb"
    )
    monkeypatch.chdir(tmp_path)
    _execute(tmp_path / "elsewhere" / "source.ipynb", tmp_path / "done.ipynb", {})
    assert str(tmp_path) not in (tmp_path / "done.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
def test_run_folder_of_another_recipe_is_refused(run):
    with pytest.raises(GazalError, match="another recipe .*sft.learning_rate"):
        reproduce("embedded", [*SHRUNKEN, "sft.learning_rate=0.5"], run=str(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "--recipe", "nope"], "recipe 'nope': no such recipe"),
        (["reproduce", "--set", "sft.learning_rat=1"], "sft.learning_rat: unknown key (learning_rate is one)"),
        (["reproduce", "--set", "sft.epochs=many"], "sft.epochs"),
        (["reproduce", "--benchmarks", "/no/such/folder"], "no such folder"),
        (["synth", "--n", "4", "--type", "surgery", "--out", "x.jsonl"], "--type surgery"),
        (["score", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(gazal, monkeypatch, arguments, message, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = gazal(*arguments)
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_unwritable_run_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GazalError, match="cannot be written"):
        reproduce("embedded", SHRUNKEN, run=str(tmp_path / "file" / "run"))
