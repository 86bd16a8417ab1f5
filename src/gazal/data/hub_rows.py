"""Rows of a dataset: from the Hugging Face hub at a pinned commit, or from local files of the same shape."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import DatasetInfo

from gazal.common.errors import GazalError
from gazal.common.files import read_jsonl
from gazal.common.hub import Unreachable, first_line, is_hub_id, offline, offline_note, require_hub, within
from gazal.common.json_text import RepeatedKey
from gazal.data.shapes import SHAPES
from gazal.items.reading import ENDINGS, read_rows
from gazal.recipe.data import SourceSection

JSON_ENDINGS = tuple(ending for ending in ENDINGS if ending != ".parquet")
FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".gz": "json"}
INFO_SECONDS = 10.0
BATCH = 512
Row = dict[str, Any]


class Rows(NamedTuple):
    """The rows of one source, read from disk only when they are needed.

    ``count`` rows of ``revision`` (a hub commit; None for local files). ``read(numbers)`` yields (number, row) of these
    0-based numbers, or of all rows; ``numbered()`` yields all of them with numbers from 1.
    """

    count: int
    revision: str | None
    read: Callable[[np.ndarray | None], Iterator[tuple[int, Row]]]

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """Yield all rows with their numbers, from 1."""
        return ((number + 1, row) for number, row in self.read(None))


def local_path(source: SourceSection, key: str) -> Path | None:
    """Return the local file or folder that ``source.name`` is, None for a hub id.

    Raises GazalError, naming ``key``, if it is neither.
    """
    path = Path(source.name).expanduser()
    if path.exists():
        return path
    if path.suffix in FORMATS or not is_hub_id(source.name):
        raise GazalError(f"{key}: {source.name}: no such file or folder, and no hub id (owner/name)")
    return None


def load_rows(source: SourceSection, key: str) -> Rows:
    """Return the rows of ``source``: a ``.parquet``, ``.json`` or ``.jsonl`` file (``.gz`` too), a folder, or a hub id.

    ``revision`` and ``config`` apply to hub datasets, ``file`` and ``split`` to folders too. A single file is read
    whole. ``key`` is what errors name (``data.sources.0``). With HF_HUB_OFFLINE=1 only the cache is read. Raises
    GazalError for a missing or broken file, for columns that differ, and within five seconds when the hub cannot be
    reached.
    """
    path = local_path(source, key)
    if path is not None and source.shape == "items":
        return _item_rows(path, source, key)
    if path is not None:
        _check_keys(path / source.file if path.is_dir() and source.file else path)
    dataset, revision = (_from_files(path, source, key), None) if path is not None else _from_hub(source, key)
    shape = SHAPES[source.shape]
    missing = [column for column in shape.columns if column not in dataset.column_names]
    if missing:
        raise GazalError(
            f"{key}: {source.name}: no column {', '.join(missing)} "
            f"(found: {', '.join(dataset.column_names)}; expected: {', '.join(shape.columns)})"
        )
    if source.shape != "items":
        used = [column for column in (*shape.columns, *shape.optional) if column in dataset.column_names]
        dataset = dataset.select_columns(used)

    def read(numbers: np.ndarray | None) -> Iterator[tuple[int, Row]]:
        chosen = (dataset if numbers is None else dataset.select(numbers)).with_format("arrow")
        names = range(len(dataset)) if numbers is None else numbers.tolist()
        for start in range(0, len(names), BATCH):
            yield from zip(names[start : start + BATCH], chosen[start : start + BATCH].to_pylist(), strict=True)

    return Rows(len(dataset), revision, read)


def _check_keys(path: Path) -> None:
    """Raise GazalError, naming file and row, for a JSON object with a key twice: ``datasets`` may take the last one."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.name.endswith(JSON_ENDINGS):
            try:
                deque(read_rows(file), maxlen=0)
            except GazalError as error:  # what else is wrong with it, datasets finds, or does not mind
                if isinstance(error.__cause__, RepeatedKey):
                    raise


def _from_files(path: Path, source: SourceSection, key: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    if path.is_dir() and source.file:
        path = path / source.file
    try:
        if path.is_dir():
            config = source.config if (path / "README.md").exists() else None
            return datasets.load_dataset(str(path), config, split=source.split)
        if path.suffix in FORMATS:
            return datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train")
    except (DatasetsError, OSError, ValueError, KeyError, RuntimeError) as error:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            list(read_jsonl(path))  # names the broken row
        raise GazalError(f"{key}: {source.name}: cannot be read ({first_line(error.__cause__ or error)})") from error
    raise GazalError(f"{key}: {source.name}: expected a .parquet, .json or .jsonl file")


def _from_hub(source: SourceSection, key: str) -> tuple[Any, str]:
    require_hub(f"{key}: {source.name}", instead(source, key))
    if offline():
        try:
            snapshot = cached_snapshot(source)
            return _from_files(snapshot, source, key), snapshot.name
        except (GazalError, FileNotFoundError) as error:
            raise not_loaded(source, key, error) from error
    pinned = re.fullmatch("[0-9a-f]{40}", source.revision or "")
    revision = pinned[0] if pinned else str(dataset_info(source, key).sha)
    try:
        if source.file:
            path = hf_hub_download(source.name, source.file, repo_type="dataset", revision=revision)
            return _from_files(Path(path), source, key), revision
        import datasets  # takes three seconds: nobody should wait for it to hear that there is no hub

        return datasets.load_dataset(source.name, source.config, split=source.split, revision=revision), revision
    except GazalError:
        raise
    except Exception as error:  # datasets, huggingface_hub, httpx, fsspec and pyarrow raise errors of many kinds
        raise not_loaded(source, key, error) from error


def cached_snapshot(source: SourceSection) -> Path:
    """Return the folder of the hub's cache that holds ``source`` at its revision.

    Without a revision it is the one at main, or the one that was used last. Raises FileNotFoundError.
    """
    repo = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source.name, repo_type="dataset")
    named = repo / "refs" / (source.revision or "main")
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else source.revision
    if commit and (repo / "snapshots" / commit).is_dir():
        return repo / "snapshots" / commit
    found = [] if source.revision else sorted(repo.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"{commit or 'no revision'} is not in HF_HOME")
    return found[-1]


def dataset_info(source: SourceSection, key: str) -> DatasetInfo:
    """Return the hub's entry for ``source``: commit, card and the size of each file.

    Raises GazalError, saying what to do, if the hub does not give it.
    """
    reasons = {
        GatedRepoError: "its terms must be accepted on the hub first",
        RevisionNotFoundError: f"has no revision {source.revision}",
        RepositoryNotFoundError: "no such dataset there, or it is private",
    }
    try:
        get = partial(HfApi().dataset_info, source.name, revision=source.revision, files_metadata=True)
        return within(INFO_SECONDS, lambda: get(timeout=INFO_SECONDS))
    except (httpx.HTTPError, OSError, ValueError) as error:
        reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), first_line(error))
        why = f"the hub does not give it ({type(error).__name__})"
        raise Unreachable(f"{key}: {source.name}", why, reason, instead(source, key)) from error


def not_loaded(source: SourceSection, key: str, error: Exception) -> Unreachable:
    """Return the error to raise for a dataset of the hub that could not be loaded."""
    why = f"cannot be loaded from the hub ({type(error).__name__}{offline_note()})"
    return Unreachable(f"{key}: {source.name}", why, first_line(error), instead(source, key))


def instead(source: SourceSection, key: str) -> str:
    """Return a sentence on how to do without the hub."""
    columns = ", ".join(SHAPES[source.shape].columns)
    return f"local files: {key}.name=PATH to a .parquet, .json or .jsonl with columns {columns}"


def _item_rows(path: Path, source: SourceSection, key: str) -> Rows:
    """Return the rows of item files, read one by one.

    Items differ in their columns and in the number of options, which tables of ``datasets`` cannot hold.
    """
    files = [path]
    if path.is_dir():
        found = [path / source.file] if source.file else sorted(p for p in path.iterdir() if p.name.endswith(ENDINGS))
        files = [p for p in found if source.split in p.name] or found
    if not files:
        raise GazalError(f"{key}: {source.name}: no .parquet, .json or .jsonl file in that folder")

    def read(numbers: np.ndarray | None) -> Iterator[tuple[int, Row]]:
        wanted = None if numbers is None else set(numbers.tolist())
        rows = (row for file in files for _, row in read_rows(file))
        return ((number, row) for number, row in enumerate(rows) if wanted is None or number in wanted)

    return Rows(sum(1 for _ in read(None)), None, read)
