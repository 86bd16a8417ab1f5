"""The run folder: manifests at success only, stale stages, another recipe's folder."""

import importlib.metadata
import json
import re
import subprocess
from pathlib import Path

import pytest
from helpers.formats import check

from gazal import runs
from gazal.common.errors import GazalError
from gazal.common.files import sha256
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import Recipe
from gazal.runs import STAGES, Manifest, RunFolder, code_version, relative, run_path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", Recipe())


def make(run: RunFolder, stage: str, *parents: str, content: str = "x") -> dict:
    with run.stage(stage, parents=parents) as folder:
        (folder / "out.txt").write_text(content)
    return json.loads((run / stage / "manifest.json").read_text())


def test_manifest_says_what_made_what(run: RunFolder) -> None:
    data = make(run, "data", content="abc")
    assert data["outputs"] == {"out.txt": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert data["inputs"] == {"recipe.yaml": sha256(run / "recipe.yaml")} and data["parents"] == {}
    assert (data["stage"], data["recipe"], data["seed"]) == ("data", "embedded", 1)
    assert data["packages"]["torch"] == importlib.metadata.version("torch") and "open-medicine" in data["packages"]
    assert data["peak_memory_mib"] > 10
    sft = make(run, "sft", "data")
    assert sft["parents"] == {"data": sha256(run / "data" / "manifest.json")} and run.done("sft")
    for manifest in (data, sft):
        check(Manifest, manifest)


def test_outputs_in_folders_are_listed_and_hidden_ones_are_not(run: RunFolder) -> None:
    with run.stage("sft") as folder:
        (folder / "merged").mkdir()
        (folder / "merged" / "config.json").write_text("{}")
        (folder / ".hidden").write_text("x")
    manifest = json.loads((run / "sft" / "manifest.json").read_text())
    assert list(manifest["outputs"]) == ["merged/config.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_manifest_when_a_stage_fails(run: RunFolder, error: type[BaseException]) -> None:
    with pytest.raises(error), run.stage("data") as folder:
        (folder / "half.txt").write_text("x")
        raise error
    assert not run.done("data") and not (run / "data" / "manifest.json").exists()
    make(run, "data")
    assert run.done("data")


def test_a_stage_that_fails_the_second_time_is_no_longer_done(run: RunFolder) -> None:
    make(run, "data")
    with pytest.raises(RuntimeError), run.stage("data"):
        assert not run.done("data")
        raise RuntimeError
    assert not run.done("data")


def test_a_stage_is_not_done_after_its_parent_changed(run: RunFolder) -> None:
    make(run, "data")
    make(run, "sft", "data")
    make(run, "grpo", "data", "sft")
    make(run, "data", content="other")
    assert run.done("data") and not run.done("sft") and not run.done("grpo")
    make(run, "sft", "data")
    assert run.done("sft") and not run.done("grpo")
    (run / "data" / "manifest.json").unlink()
    assert not run.done("sft")


def test_a_stage_refuses_to_start_without_its_parents(run: RunFolder) -> None:
    with pytest.raises(GazalError, match="stage sft needs stage data"), run.stage("sft", parents=["data"]):
        pytest.fail("the stage has begun")
    assert not (run / "sft").exists()
    make(run, "data")
    make(run, "sft", "data")
    make(run, "data", content="other")
    with pytest.raises(GazalError, match="needs stage sft"), run.stage("grpo", parents=["sft"]):
        pytest.fail("the stage has begun")


def test_the_same_recipe_opens_the_folder_again(run: RunFolder) -> None:
    make(run, "data")
    before = (run / "recipe.yaml").read_bytes()
    assert RunFolder(run.path, Recipe()).done("data") and (run / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["seed=7"], "seed"),
        (["grpo.adapter.rank=4"], "grpo.adapter.rank"),
        (["evaluation.benchmarks=[medqa]"], "evaluation.benchmarks"),
    ],
)
def test_another_recipes_folder_names_the_key_and_touches_nothing(
    tmp_path: Path, overrides: list[str], key: str
) -> None:
    path = tmp_path / "run"
    RunFolder(path, load_recipe("embedded"))
    before = (path / "recipe.yaml").read_bytes()
    with pytest.raises(GazalError, match="another recipe") as caught:
        RunFolder(path, load_recipe("embedded", overrides))
    assert f"({key}:" in str(caught.value) and str(path) in str(caught.value)
    assert [p.name for p in path.iterdir()] == ["recipe.yaml"] and (path / "recipe.yaml").read_bytes() == before


def test_the_saved_recipe_is_resolved_and_loads_again(tmp_path: Path) -> None:
    recipe = load_recipe("embedded", ["sft.learning_rate=1e-5", "seed=3"])
    RunFolder(tmp_path, recipe)
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


# A file in the way stops everybody, root too.
@pytest.mark.parametrize("place", ["file", "file/run", "file/deep/run"])
def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GazalError, match="cannot be written"):
        RunFolder(tmp_path / place, Recipe())
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "in the way"


def test_stage_folder_that_cannot_be_written_is_one_line(run: RunFolder) -> None:
    (run / "data").write_text("in the way")
    with pytest.raises(GazalError, match="cannot be written"), run.stage("data"):
        pytest.fail("the stage has begun")


def test_code_version_here_is_a_commit_or_unknown() -> None:
    assert re.fullmatch(r"unknown|[0-9a-f]{12}(\+changes)?", code_version())


def test_code_version_tells_commit_from_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version() == "unknown"
    git("init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")[:12]
    assert code_version() == commit
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "result").write_text("no code")
    assert code_version() == commit
    (tmp_path / "src" / "b.py").write_text("new\n")
    assert code_version() == commit + "+changes"


def test_run_path_is_the_recipes_name_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_path(Recipe(name="mine")) == runs.ROOT / "runs" / "mine"
    assert run_path(Recipe(), str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "runs" / "x") == "runs/x"
    assert STAGES == ("data", "sft", "grpo", "eval", "figures")
