"""Read and write files, and never leave half of one behind."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from gazal.common.errors import GazalError
from gazal.common.json_text import RepeatedKey, load_json


def sync(path: str | Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk (``fsync``), as far as the system can.

    What is renamed after that is whole even after a power loss.
    """
    with suppress(OSError):  # some network file systems sync none
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` and rename it into place only if the block succeeds."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise GazalError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # if it could not be made there is nothing to remove
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new temporary neighbour of the folder ``path``, and put it in its place only if the block succeeds."""
    path = Path(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for inside in temporary.rglob("*"):
            sync(inside)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise GazalError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Remove what dead processes left half written under ``folder``."""
    for path in folder.rglob(".*.tmp"):
        process = re.search(r"\.(\d+)\.tmp$", path.name)
        if process and not psutil.pid_exists(int(process[1])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON with a final newline, whole or not at all."""
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=1, ensure_ascii=False)
        handle.write("\n")


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file, gzipped if it ends in ``.gz``; skip a byte order mark.

    Raise GazalError, naming the file, and the row of bytes that are not UTF-8; an error while it is read is one too.
    """
    try:
        unpack = gzip.open if path.suffix == ".gz" else open
        with unpack(path, "rt", encoding="utf-8-sig") as handle:
            yield handle
    except FileNotFoundError as error:
        raise GazalError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise GazalError(f"{path}: cannot be read ({_not_utf8(path)})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise GazalError(f"{path}: cannot be read ({error})") from error


def not_json(error: ValueError | RecursionError) -> str:
    """Say in one line why :func:`load_json` refused a text."""
    if isinstance(error, RepeatedKey):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at column {error.colno})"
    return f"not JSON that can be read ({error})"  # 5,000 digits, a thousand brackets, no UTF-8


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that ``text`` holds. Raise GazalError, naming its place ``where``, for anything else."""
    try:
        value = load_json(text)
    except (ValueError, RecursionError) as error:
        raise GazalError(f"{where}: {not_json(error)}") from error
    if not isinstance(value, dict):
        raise GazalError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(row, object)`` from JSON lines (``*.gz`` is gzipped); rows count from 1.

    Raise GazalError, naming file and row, for a missing file, a cut line or a line that is no object.
    """
    path = Path(path)
    with open_text(path) as handle:
        for row, line in enumerate(handle, 1):
            if line.strip():
                yield row, parse_object(line, f"{path}: row {row}")


def _not_utf8(path: Path) -> str:
    """Return row and byte at which a text file stops being UTF-8."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
        for row, line in enumerate(handle, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"row {row}: byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8"
    return "not UTF-8"


def sha256(path: str | Path) -> str:
    """Return the hex digest of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_safe(name: str) -> str:
    """Return a folder's or hub id's name as one path component; of a run's ``…/sft/merged`` the stage."""
    parts = [part for part in re.split(r"[/\\]", str(name)) if part not in ("", ".", "..")]
    last = parts[-2] if len(parts) > 1 and parts[-1] == "merged" else parts[-1] if parts else "model"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "model"
