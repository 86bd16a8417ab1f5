"""The hub: its absence is no hang and says what to do; its presence, on a small server of the same calls, is a real load."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hub_server import SHA, hub_server
from helpers.shapes_samples import medical_grpo, medreason
from huggingface_hub import constants

from gazal.common.errors import GazalError
from gazal.common.hub import Unreachable, hub_problem, is_hub_id, within
from gazal.data.benchmarks import load_benchmarks, official_pubmedqa
from gazal.data.hub_rows import load_rows
from gazal.engines.load import load_engine
from gazal.models.loading import load_model, load_tokenizer
from gazal.recipe.data import SourceSection

CORPUS = SourceSection(name="TachyHealth/medical_grpo", use="grpo", shape="medical_grpo")
ADVICE = ("HF_ENDPOINT=URL", "HF_HOME=FOLDER HF_HUB_OFFLINE=1")


@pytest.fixture(autouse=True)
def forget_the_probe() -> Iterator[None]:
    hub_problem.cache_clear()
    yield
    hub_problem.cache_clear()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(params=["silent", "unresolved", "refused"])
def no_hub(request: pytest.FixtureRequest, online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes the connection and says nothing; a resolver that never answers; a port where nobody listens."""
    release = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        if request.param == "refused":
            server.close()
        if request.param == "unresolved":
            monkeypatch.setattr(httpx, "head", lambda *arguments, **options: release.wait(20))
        yield
    release.set()


def ways() -> dict[str, object]:
    return {
        "corpus": lambda: load_rows(CORPUS, "data.sources.0"),
        "pinned": lambda: load_rows(CORPUS.model_copy(update={"revision": SHA}), "data.sources.0"),
        "model": lambda: load_model("Qwen/Qwen3-32B"),
        "tokenizer": lambda: load_tokenizer("Qwen/Qwen3-32B"),
        "engine": lambda: load_engine("Qwen/Qwen3-32B"),
    }


def test_without_a_hub_everything_says_what_to_do_and_the_wait_comes_once(no_hub):
    for name, load in ways().items():
        with pytest.raises(Unreachable, match="the Hugging Face hub cannot be reached") as caught:
            load()
        assert all(word in str(caught.value) for word in ADVICE) and "\n" not in str(caught.value), name
    found, not_run = load_benchmarks(["medqa", "mmlu_pro_medical", "pubmedqa"])
    assert not found and all(
        "cannot be reached" in reason and "no benchmarks folder" in reason and "HF_HOME" not in reason
        for reason in not_run.values()
    )
    with pytest.raises(Unreachable, match="official list"):
        official_pubmedqa()


@pytest.mark.parametrize("name", ways())
def test_offline_the_cache_alone_is_read_and_at_once(name):
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set and it is not in the local cache") as caught:
        ways()[name]()
    assert all(word in str(caught.value) for word in ADVICE)


def test_the_advice_names_the_columns():
    with pytest.raises(
        Unreachable, match=r"data.sources.0.name=PATH to a .parquet, .json or .jsonl with columns question, answer"
    ):
        load_rows(CORPUS, "data.sources.0")


def test_a_hub_that_answers_with_an_error(online, monkeypatch):
    monkeypatch.setattr(httpx, "head", lambda *arguments, **options: httpx.Response(503))
    assert hub_problem() == "the Hugging Face hub answers with error 503"


def test_within_gives_the_value_the_error_or_up():
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        within(5, lambda: {}["x"])
    release = Event()
    with pytest.raises(TimeoutError, match="no answer in 0 s"):
        within(0.05, lambda: release.wait(20))
    release.set()


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("owner/name", True),
        ("owner", False),
        ("a/b/c", False),
        ("/etc/x", False),
        ("../x", False),
        ("a b/c", False),
        ("o-w.n_er/n.a-m_e", True),
    ],
)
def test_what_looks_like_a_hub_id(name, is_one):
    assert is_hub_id(name) is is_one


def test_a_folder_here_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_hub_id("owner/name")


@pytest.mark.parametrize("load", [load_model, load_tokenizer, load_engine])
def test_a_model_that_is_neither_folder_nor_hub_id(load):
    with pytest.raises(GazalError, match="model no/such/folder: no such folder, and no hub id"):
        load("no/such/folder")


PARQUET = io.BytesIO()
pq.write_table(pa.Table.from_pylist(medical_grpo(20)), PARQUET)
CARD = b"---\ndataset_info:\n  features:\n  - name: question\n    dtype: string\n  - name: answer\n    dtype: string\n  splits:\n  - name: train\n    num_bytes: 9\n    num_examples: 20\n  download_size: 9\n  dataset_size: 9\n---\n# Card\n"
LINES = "".join(json.dumps(row) + "\n" for row in medreason(12)).encode()
SETS = {
    "Org/grpo": {"README.md": CARD, "data/train-00000-of-00001.parquet": PARQUET.getvalue()},
    "Org/reason": {"README.md": b"# Card\n", "ours_quality_33000.jsonl": LINES, "other.csv": b"a,b\n1,2\n"},
}
LOAD = """
import json
from gazal.data.hub_rows import load_rows
from gazal.recipe.load import load_recipe
from gazal.data.listing import list_sources
data = load_recipe("recipe.yaml").data
for source in data.sources:
    rows = load_rows(source, "k")
    print(json.dumps([rows.count, rows.revision, next(rows.read(None))[1]["question"]]))
list_sources(data)
"""
RECIPE = """
data:
  sources:
    - {name: Org/grpo, use: grpo, shape: medical_grpo}
    - {name: Org/reason, use: sft, shape: medreason, file: ours_quality_33000.jsonl}
"""


def run(folder: Path, endpoint: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    given = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"} | environment
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=given, cwd=folder, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_recipe_says_what_it_downloads_then_loads_it_then_does_without_the_hub(tmp_path):
    with hub_server(SETS) as (endpoint, asked):
        listed = run(tmp_path, endpoint, "-m", "gazal", "sources", "--recipe", "recipe.yaml")
        assert listed.returncode == 0, listed.stderr
        size = len(PARQUET.getvalue())
        assert listed.stdout.splitlines() == [
            f"data.sources.0 (grpo, weight 1): Org/grpo: {SHA}, split train: 20 rows; {size:,} bytes to download, 1 file: data/train-00000-of-00001.parquet",
            f"data.sources.1 (sft, weight 1): Org/reason: {SHA}, split train: rows unknown until loaded; {len(LINES):,} bytes to download, 1 file: ours_quality_33000.jsonl",
            f"to download: {size + len(LINES):,} bytes",
        ]
        assert not [line for line in asked if line.endswith((".parquet", ".jsonl", ".csv"))]  # it only says so
        loaded = run(tmp_path, endpoint, "-c", LOAD)
        assert loaded.returncode == 0, loaded.stderr
        assert not [line for line in asked if line.endswith(".csv")]
    lines = loaded.stdout.splitlines()
    assert lines[-1] == "to download: 0 bytes" and "1 file, 1 of them in the cache" in lines[-2]
    assert [json.loads(line) for line in lines[:2]] == [
        [20, SHA, medical_grpo(1)[0]["question"]],
        [12, SHA, medreason(1)[0]["question"]],
    ]
    offline = run(tmp_path, "http://127.0.0.1:9", "-c", LOAD, HF_HUB_OFFLINE="1")
    assert offline.stdout.splitlines()[:2] == lines[:2] and "20 rows in the cache" in offline.stdout, offline.stderr


def test_what_the_hub_does_not_have_is_listed_and_named(tmp_path, online, monkeypatch):
    with hub_server(SETS) as (endpoint, _):
        listed = run(
            tmp_path,
            endpoint,
            "-m",
            "gazal",
            "sources",
            "--recipe",
            "recipe.yaml",
            "--set",
            "data.sources.0.name=Org/none",
            "--set",
            "data.sources.1.revision=v9",
        )
    assert listed.returncode == 1 and [line.split(":")[0] for line in listed.stdout.splitlines()] == [
        "data.sources.0 (grpo, weight 1)",
        "data.sources.1 (sft, weight 1)",
    ]
    assert (
        "gazal: data.sources.0: Org/none: " in listed.stderr
        and "no such dataset there, or it is private" in listed.stderr
        and "Traceback" not in listed.stderr
    )
    assert "RevisionNotFoundError" in listed.stdout


def test_the_command_without_a_hub(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        listed = run(
            tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "-m", "gazal", "sources", "--recipe", "recipe.yaml"
        )
    assert listed.returncode == 1 and len(listed.stdout.splitlines()) == 2 and "cannot be reached" in listed.stdout
    assert listed.stderr.startswith("gazal: data.sources.0: Org/grpo: the Hugging Face hub cannot be reached") and all(
        word in listed.stderr for word in ADVICE
    )
