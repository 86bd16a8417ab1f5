"""The command line as a whole: what an interrupt says."""

import pytest
import typer

from gazal import cli


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
