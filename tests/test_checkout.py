"""What a checkout must stand: a user's own settings of git and of pip."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gazal.common.paths import ROOT

PIP = {
    "PIP_USER": "1",
    "PIP_TARGET": "/elsewhere",
    "PIP_PREFIX": "/elsewhere",
    "PIP_ROOT": "/elsewhere",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_CONSTRAINT": "/elsewhere/pins.txt",
    "PIP_INDEX_URL": "https://mirror.example/simple",
}


def said(*command: str, **environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("by_argument", [False, True])
def test_the_installs_of_make_do_not_see_where_a_users_own_go(tmp_path: Path, by_argument: bool) -> None:
    (tmp_path / "show.mk").write_text("show-pip:\n\t@env | sort | sed -n '/^PIP_/p'\n", encoding="utf-8")
    given = [f"{name}={value}" for name, value in PIP.items() if by_argument]
    make = ("make", "-s", "-f", "Makefile", "-f", str(tmp_path / "show.mk"), "show-pip")
    found = said(*make, *given, **({} if by_argument else PIP))
    assert found == [f"PIP_INDEX_URL={PIP['PIP_INDEX_URL']}", "PIP_USER=0"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_text_has_lf_also_where_git_would_write_crlf(tmp_path: Path) -> None:
    here = [line.split(maxsplit=2) for line in said("git", "ls-files", "--eol")]
    assert len(here) > 300 and not [line for line in here if "crlf" in line[0] or "mixed" in line[0]]
    said("git", "-c", "core.autocrlf=true", "clone", "-q", str(ROOT), str(tmp_path / "clone"))
    there = said("git", "-C", str(tmp_path / "clone"), "-c", "core.autocrlf=true", "ls-files", "--eol")
    assert len(there) > 300 and not [line for line in there if "w/crlf" in line or "w/mixed" in line]
