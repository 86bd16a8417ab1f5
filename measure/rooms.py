"""Write the map of src/gazal into README.md and CONTRIBUTING.md, between the marks of ``rooms``: ``python measure/rooms.py``.

The order is that of the layers contract in pyproject.toml, bottom to top; what a room is for is the first paragraph of
its ``__init__``.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from pathlib import Path

from gazal.common.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "gazal"
DOORS = "The doors: the command, the whole run, and the run folder with its manifests."


def order() -> list[str]:
    """Return the modules and rooms of the layers contract, the one that imports nothing first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    return next(one["layers"] for one in contracts if one["type"] == "layers")[::-1]


def purpose(room: str) -> str:
    """Return the first paragraph of the room's docstring, without the marks of code."""
    text = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].replace("``", "`").split())


def rooms() -> list[str]:
    """Return the rooms alone, bottom to top."""
    return [name for name in order() if (SOURCE / name).is_dir()]


def tree() -> str:
    """Return the tree of src/gazal, a comment a room, as README shows it."""

    def files(folder: Path) -> list[str]:
        names = " ".join(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"))
        return textwrap.wrap(names, 100, initial_indent="    ", subsequent_indent="    ")

    lines = ["src/gazal/", *_comment(DOORS, "  "), *files(SOURCE)]
    for room in rooms():
        lines += [f"  {room}/", *_comment(purpose(room), "    "), *files(SOURCE / room)]
    return "\n".join(["```", *lines, "```"])


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def listing() -> str:
    """Return the rooms, a line each, as CONTRIBUTING shows them."""
    return "\n".join(f"1. `{room}`: {purpose(room)}" for room in rooms())


PAGES = {"README.md": tree, "CONTRIBUTING.md": listing}
BETWEEN = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- /rooms -->)", re.S)


def main() -> None:
    """Write both pages."""
    for name, block in PAGES.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        before, mark, rest = page.partition("<!-- rooms -->\n")
        _, end, after = rest.partition("<!-- /rooms -->")
        with atomic_write(ROOT / name) as handle:
            handle.write(f"{before}{mark}\n{block()}\n\n{end}{after}")


if __name__ == "__main__":
    main()
