"""What README and CONTRIBUTING say of the tree is so: files, names in them, rooms and their order."""

import re

import pytest
import rooms

from gazal.common.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:src|tests|measure|paper|docs|recipes|notebooks)/[\w./-]+)`", PAGE)))
ROWS = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([^|]+) \|$", PAGE, re.M)


def test_contributing_names_files_that_exist() -> None:
    assert len(PATHS) > 30 and not [path for path in PATHS if not (ROOT / path).exists()]


def test_contributing_says_which_file_to_open() -> None:
    assert len(ROWS) >= 20
    for path, names in ROWS:
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([^`]+)`", names):
            defined = rf"^\s*(?:def|class) {name}\b|^\s*{name}\b\s*[:=]"
            assert re.search(defined, text, re.M), f"{path} defines no {name}"


def test_contributing_names_what_stands_in_the_files_of_its_steps() -> None:
    steps = re.findall(r"^\d\. .*(?:\n   .*)*", PAGE.partition("## How to add")[2], re.M)
    assert len(steps) > 15
    for step in steps:
        text = "".join(
            (ROOT / path).read_text(encoding="utf-8") for path in PATHS if path in step and (ROOT / path).is_file()
        )
        names = re.findall(r"`([A-Za-z_]\w+)(?:\(\))?`", step)
        assert not text or not [name for name in names if not re.search(rf"\b{name}\b", text)], step


def test_contributing_names_targets_of_make() -> None:
    targets = set(re.findall(r"^([.a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {name for name in re.findall(r"`make ([.a-z-]+)`", PAGE) if not name.endswith("-")} <= targets


@pytest.mark.parametrize("page", rooms.PAGES)
def test_the_map_of_the_rooms_is_todays(page: str) -> None:
    (shown,) = rooms.BETWEEN.findall((ROOT / page).read_text(encoding="utf-8"))
    assert shown.strip() == rooms.PAGES[page](), "run: python measure/rooms.py"


def test_every_folder_with_code_is_a_room_of_the_contract() -> None:
    folders = {path.parent.name for path in (ROOT / "src" / "gazal").glob("*/*.py")}
    assert folders == set(rooms.rooms())
