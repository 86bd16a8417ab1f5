"""`gazal sources`: what a recipe's training data would download, before it does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from gazal.common.errors import GazalError
from gazal.common.hub import Unreachable, hub_problem, offline
from gazal.data.hub_rows import dataset_info, instead, load_rows, local_path, not_loaded
from gazal.recipe.data import DataSection, SourceSection


def list_sources(section: DataSection, say: Callable[[str], None] = print) -> int:
    """Say for each source its rows, bytes, files and revision; return the bytes that would be downloaded.

    A source whose data cannot be described is listed too. Raises the first such error at the end, within five seconds
    without a hub.
    """
    total, problems = 0, []
    for number, source in enumerate(section.sources):
        where = f"data.sources.{number}"
        try:
            size, text = _describe(source, where)
            total += size
        except GazalError as error:
            problems.append(error)
            reason = error.reason if isinstance(error, Unreachable) else "cannot be used"
            text = f"{source.revision or 'revision of today'}, split {source.split}: {reason}"
        about = f", at most {source.limit:,}" if source.limit else ""
        say(f"{where} ({source.use}, weight {source.weight:g}{about}): {source.name}: {text}")
    if problems:
        raise problems[0]
    say(f"to download: {total:,} bytes")
    return total


def _describe(source: SourceSection, where: str) -> tuple[int, str]:
    """Return the bytes to download, and the text that says so."""
    if source.shape == "synth":
        return 0, "made here, nothing to download"
    if (path := local_path(source, where)) is not None:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        count, size = load_rows(source, where).count, sum(file.stat().st_size for file in files)
        return 0, f"local: {count:,} rows, {size:,} bytes, nothing to download"
    if offline():
        rows = load_rows(source, where)
        about = f"{rows.revision or 'revision unknown'}, split {source.split}: {rows.count:,} rows in the cache"
        return 0, f"{about}, nothing to download (HF_HUB_OFFLINE)"
    if problem := hub_problem():
        raise Unreachable(f"{where}: {source.name}", problem, local=instead(source, where))
    return _download(source, where)


def _download(source: SourceSection, where: str) -> tuple[int, str]:
    info = dataset_info(source, where)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    rows = "rows unknown until loaded"
    if source.file:
        files = {source.file}
    else:
        import datasets

        try:
            builder = datasets.load_dataset_builder(source.name, source.config, revision=info.sha)
        except Exception as error:  # as in load_rows
            raise not_loaded(source, where, error) from error
        urls = chain.from_iterable((builder.config.data_files or {}).values())
        files = {str(url).split(f"@{info.sha}/", 1)[-1] for url in urls}
        split = (builder.info.splits or {}).get(source.split)
        rows = f"{split.num_examples:,} rows" if split and split.num_examples else rows
    if absent := sorted(files - set(sizes)):
        raise GazalError(
            f"{where}: {source.name}: no file {', '.join(absent)} at {info.sha} (found: {', '.join(sorted(sizes))})"
        )
    cached = {
        file
        for file in files
        if isinstance(try_to_load_from_cache(source.name, file, revision=info.sha, repo_type="dataset"), str | Path)
    }
    size = sum(sizes[file] for file in files - cached)
    having = f", {len(cached)} of them in the cache" if cached else ""
    about = f"{info.sha}, split {source.split}: {rows}; {size:,} bytes to download"
    return size, f"{about}, {len(files)} file{'s'[: len(files) > 1]}{having}: {', '.join(sorted(files))}"
