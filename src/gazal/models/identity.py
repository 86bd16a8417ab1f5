"""What a model calls itself in prediction files, found without loading its weights."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from gazal.common.errors import GazalError
from gazal.common.files import file_safe, sha256
from gazal.common.paths import EMBEDDED
from gazal.models.folders import require_model

WEIGHTS = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)  # of a folder, all that its answers depend on


def fast_dtype() -> str:
    """``bfloat16`` where the device computes in it (most GPUs since 2020, CPUs with AMX or AVX512-BF16), else ``float32``."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def folder_name(spec: str) -> str:
    """What the folder of a model's predictions is called: a server's model by its name, any other by its folder's or hub id's last part."""
    return file_safe(spec.partition("#")[2] if spec.startswith("openai:") else spec)


def server_of(spec: str) -> tuple[str, str]:
    """URL and model of ``openai:URL#name``. Raises GazalError for anything else."""
    url, _, model = spec.removeprefix("openai:").partition("#")
    if not re.match(r"https?://", url) or not model:
        raise GazalError(f"model {spec}: expected openai:URL#name, such as openai:http://localhost:8000/v1#my-model")
    return url, model


def identity_of(spec: str | Path, dtype: str | None, revision: str | None = None, engine: str = "transformers") -> str:
    """What an engine of ``spec`` calls itself in prediction files, without loading its weights: of a folder a hash of its files,
    of a hub id the commit at which ``revision`` stands. Raises as :func:`load_engine` does."""
    text = str(spec)
    if text.startswith("openai:"):
        server_of(text)
        return "openai:" + hashlib.sha256(text.removeprefix("openai:").encode()).hexdigest()
    path, by = str(EMBEDDED) if text == "embedded" else text, "" if engine == "transformers" else f":{engine}"
    if not Path(path).is_dir():
        from gazal.models.loading import load_config  # brings torch

        return f"hub:{path}@{load_config(path, revision)._commit_hash or revision}:{dtype}{by}"
    require_model(path)
    files = sorted({file for pattern in WEIGHTS for file in Path(path).glob(pattern)})
    digest = hashlib.sha256("\n".join(f"{file.name} {sha256(file)}" for file in files).encode()).hexdigest()
    return f"files:{digest}:{dtype}{by}"
