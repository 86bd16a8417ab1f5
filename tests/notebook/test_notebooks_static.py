"""The five notebooks, the reward lab and the sample browser as committed: one parameters cell, no outputs, short cells, nothing that is not there."""

import ast
import importlib.util
from pathlib import Path

import nbformat
import pytest

import gazal
from gazal.common.errors import GazalError
from gazal.common.paths import ROOT
from gazal.notebook.start import PARAMETERS, benchmarks_folder, start
from gazal.reproduce import NOTEBOOKS
from gazal.runs import STAGES

FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
LAB = FOLDER / "explore_rewards.ipynb"  # draws a recipe's rewards; makes no run
BROWSER = FOLDER / "explore_predictions.ipynb"  # reads predictions that are there


@pytest.fixture(params=PATHS, ids=lambda path: path.stem, scope="module")
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kind(notebook: nbformat.NotebookNode) -> str:
    """``lab``, ``browse``, or another: the first word of the cells' ids."""
    return notebook.cells[0].id.partition("-")[0]


def defined(module: str) -> set[str]:
    """Names at the top level of a module of this package, read without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, f"{module} does not exist"
    names: set[str] = set()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_there_is_one_notebook_for_each_stage() -> None:
    stages = [path.stem for path in PATHS if path not in (LAB, BROWSER)]
    assert stages == ["01_data", "02_sft", "03_grpo", "04_evaluation", "05_figures"] and {LAB, BROWSER} < set(PATHS)
    assert dict(zip(STAGES, stages, strict=True)) == NOTEBOOKS


def test_is_a_valid_python_notebook(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata


def test_has_one_parameters_cell_with_its_parameters(notebook: nbformat.NotebookNode) -> None:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    tree = ast.parse(cell.source)
    assert all(isinstance(node, ast.Assign) for node in tree.body)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}
    browser = {
        "EVAL": "runs/embedded",
        "BENCHMARK": "",
        "MODEL": "",
        "OUTCOME": "all",
        "REASON": "",
        "GROUP": "",
        "SHOW": 3,
    }
    expected = {"lab": {"RECIPE": "embedded", "SET": []}, "browse": browser}.get(
        kind(notebook), {"RECIPE": "embedded", "SET": [], "RUN": "", "BENCHMARKS": ""}
    )
    assert values == expected and list(values) == [name for name in (*PARAMETERS, *browser) if name in expected]
    assert cell is code(notebook)[0]


def test_next_cell_starts_the_run(notebook: nbformat.NotebookNode) -> None:
    call = {"lab": "read_parameters(globals(), ", "browse": "open_samples(globals())"}.get(
        kind(notebook), "start(globals())"
    )
    assert call in code(notebook)[1].source


def test_is_committed_stripped(notebook: nbformat.NotebookNode) -> None:
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert not {"papermill", "execution", "collapsed", "scrolled"} & set(cell.metadata)
    assert "papermill" not in notebook.metadata


def test_cells_are_short_and_compile(notebook: nbformat.NotebookNode) -> None:
    for cell in code(notebook):
        assert cell.source.strip() and len(cell.source.splitlines()) <= 20
        compile(cell.source, "cell", "exec")


def test_prose_leads_and_stands_between_the_code(notebook: nbformat.NotebookNode) -> None:
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and notebook.cells[0].source.startswith("# ")
    assert kinds.count("markdown") >= 2
    after_start = "".join(kind[0] for kind in kinds[3:])
    assert "ccc" not in after_start, "three code cells in a row"


def test_what_it_imports_from_the_package_exists(notebook: nbformat.NotebookNode) -> None:
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == gazal.__name__:
                assert {alias.name for alias in node.names} <= defined(node.module), node.module


def test_holds_no_machine_path(notebook: nbformat.NotebookNode) -> None:
    text = nbformat.writes(notebook)
    assert not [word for word in ("/home/", "/root/", "/Users/", "/tmp/", "/mnt/", "/opt/") if word in text]


@pytest.mark.parametrize(
    ("stage", "parents"),
    [
        ("data", set()),
        ("sft", {"data"}),
        ("grpo", {"data", "sft"}),
        ("eval", {"data", "sft", "grpo"}),
        ("figures", {"eval"}),
    ],
)
def test_each_notebook_writes_its_own_stage_after_its_parents(stage: str, parents: set[str]) -> None:
    tree = ast.parse(
        "\n".join(cell.source for cell in code(nbformat.read(FOLDER / f"{NOTEBOOKS[stage]}.ipynb", as_version=4)))
    )
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "stage"
    ]
    (call,) = calls
    assert call.args[0].value == stage
    assert {element.value for word in call.keywords if word.arg == "parents" for element in word.value.elts} == parents


def namespace(tmp_path: Path, **changes: object) -> dict[str, object]:
    return {
        "RECIPE": "embedded",
        "SET": [],
        "RUN": str(tmp_path / "run"),
        "BENCHMARKS": "",
        "In": [],
        "Out": {},
        "_": 1,
        "start": start,
    } | changes


def test_start_opens_the_run(tmp_path: Path) -> None:
    run = start(namespace(tmp_path, SET=["seed=5"]))
    assert run.recipe.seed == 5 and run.path == tmp_path / "run" and (run / "recipe.yaml").exists()


def test_start_takes_overrides_as_one_text_too(tmp_path: Path) -> None:
    recipe = start(namespace(tmp_path, SET="seed=5 sft.learning_rate=1e-4")).recipe
    assert (recipe.seed, recipe.sft.learning_rate) == (5, 1e-4)


@pytest.mark.parametrize("value", ["text", 1, 0.5, True, None, ["a"], {"a": 1}])
def test_start_refuses_an_unknown_parameter(tmp_path: Path, value: object) -> None:
    with pytest.raises(GazalError, match="unknown BENCHMARK .*known: RECIPE, SET, RUN, BENCHMARKS"):
        start(namespace(tmp_path, BENCHMARK=value))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", PARAMETERS)
def test_start_refuses_a_missing_parameter(tmp_path: Path, name: str) -> None:
    given = namespace(tmp_path)
    del given[name]
    with pytest.raises(GazalError, match=f"missing {name}"):
        start(given)
    assert not (tmp_path / "run").exists()


def test_start_refuses_an_unknown_recipe_or_key(tmp_path: Path) -> None:
    with pytest.raises(GazalError, match="no such recipe"):
        start(namespace(tmp_path, RECIPE="embeded"))
    with pytest.raises(GazalError, match="sft.lr: unknown key"):
        start(namespace(tmp_path, SET=["sft.lr=1"]))
    assert not (tmp_path / "run").exists()


def test_benchmarks_folder(tmp_path: Path) -> None:
    assert benchmarks_folder({"BENCHMARKS": ""}) is None
    assert benchmarks_folder({"BENCHMARKS": str(tmp_path)}) == tmp_path
    with pytest.raises(GazalError, match="no such folder"):
        benchmarks_folder({"BENCHMARKS": str(tmp_path / "none")})
