"""The command line as a whole: what an interrupt and wrong usage say."""

import subprocess
import sys
import tomllib

import pytest
import typer

from gazal import cli
from gazal.common.paths import ROOT


def test_an_interrupted_command_says_that_the_same_command_continues(monkeypatch, capsys):
    app = typer.Typer()

    @app.command()
    def work() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["gazal"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130 and "gazal: interrupted; the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score"], "Missing argument 'folder'"),
        (["bogus"], "No such command 'bogus'"),
        (["evaluate", "--foo"], "--foo"),
        (["evaluate", "--limit", "many"], "'--limit'"),
    ],
)
def test_wrong_usage_is_one_line(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr("sys.argv", ["gazal", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.startswith("gazal: ") and said in err and err.count("\n") == 1


def test_without_arguments_the_help_is_shown(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gazal"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = "".join(capsys.readouterr())
    assert end.value.code == 2 and "evaluate" in said and "gazal: " not in said


def test_version_is_that_of_the_project(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gazal", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert not end.value.code and capsys.readouterr().out == f"gazal {wanted}\n"


def test_help_describes_the_project_and_not_the_callback(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gazal", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert "reproducible medical reasoning recipe" in said and "--version" in said


def test_importing_the_command_loads_nothing_heavy():
    heavy = ("torch", "transformers", "pandas", "datasets", "matplotlib")
    code = f"import sys, gazal.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
