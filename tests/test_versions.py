"""One source of versions: pyproject.toml, requirements.lock, environment.yml and the installed packages agree."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from gazal.common.paths import ROOT

STACK = {
    "jupyterlab",
    "papermill",
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "accelerate",
    "unsloth",
    "seaborn",
}
# Installed without its MCP server, which the calculators do not need.
NOT_INSTALLED = {("open-medicine", "mcp")}


def pins(lines: list[str]) -> dict[str, str]:
    """Name -> version of requirement lines, each of which has to be one exact pin without a local version."""
    found: dict[str, str] = {}
    for line in lines:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), f"{line!r} is not one exact public pin"
        assert requirement.url is None and name not in found, f"{line!r} has an address or stands twice"
        found[name] = str(requirement.specifier)[2:]
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, dict[str, str]]:
    """Pins of pyproject.toml by section: "core" and each extra."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"core": pins(table["dependencies"])} | {k: pins(v) for k, v in table["optional-dependencies"].items()}


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


@pytest.fixture(scope="module")
def installed(lock: dict[str, str]) -> dict[str, metadata.Distribution]:
    """Installed distributions that the lock names; those of another platform are left out."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    here = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(r.name): metadata.distribution(r.name)
        for r in here
        if r.marker is None or r.marker.evaluate()
    }


def test_lock_holds_every_pin_of_pyproject(project: dict, lock: dict) -> None:
    wanted = project["core"] | project["test"] | project["lint"]
    assert {name: lock.get(name) for name in wanted} == wanted
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert pins(build)["setuptools"] == lock["setuptools"]


def test_gpu_only_packages_stay_out_of_the_lock(project: dict, lock: dict) -> None:
    assert not set(project["gpu"]) & set(lock)
    assert not [name for name in lock if name.startswith("nvidia-")]


def test_environment_names_the_stack_with_the_same_versions(project: dict) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (section,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "python=3.11" in conda
    assert section[-1] == "-e .[gpu,test,lint]"
    named = pins(section[:-1])
    assert set(named) >= STACK
    assert named == {name: (project["core"] | project["gpu"])[name] for name in named}


def test_lock_is_what_is_installed(lock: dict, installed: dict) -> None:
    assert {name: Version(d.version).public for name, d in installed.items()} == {
        name: lock[name] for name in installed
    }


def test_installed_packages_satisfy_each_other(installed: dict) -> None:
    problems = []
    for name, distribution in installed.items():
        for requirement in map(Requirement, distribution.requires or []):
            needed = canonicalize_name(requirement.name)
            if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or (
                name,
                needed,
            ) in NOT_INSTALLED:
                continue
            try:
                version = metadata.version(needed)
            except metadata.PackageNotFoundError:
                version = None
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                problems.append(f"{name} needs {requirement}, installed is {version}")
    assert not problems
