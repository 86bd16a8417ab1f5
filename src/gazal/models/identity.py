"""Names and identities of models in prediction files, found without loading weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gazal.common.endpoints import public_spec, usable_url
from gazal.common.errors import GazalError
from gazal.common.files import file_safe, sha256
from gazal.common.paths import EMBEDDED
from gazal.models.folders import require_model

WEIGHTS = (  # all files of a folder that a model's answers depend on
    "*.safetensors config.json generation_config.json chat_template.jinja tokenizer.json tokenizer_config.json "
    "tokenizer.model vocab.json vocab.txt merges.txt added_tokens.json special_tokens_map.json"
).split()


def fast_dtype() -> str:
    """Return ``bfloat16`` if the device computes in it, else ``float32``.

    Most GPUs since 2020 do, and CPUs with AMX or AVX512-BF16.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def folder_name(spec: str) -> str:
    """Return the name of the folder of a model's predictions.

    It is the name of a server's model, or the last part of a folder or hub id.
    """
    return file_safe(spec.partition("#")[2] if spec.startswith("openai:") else spec)


def server_of(spec: str) -> tuple[str, str]:
    """Return URL and model of ``openai:URL#name``. Raise GazalError for anything else."""
    url, _, model = spec.removeprefix("openai:").partition("#")
    if not usable_url(url) or not model:
        expected = "expected openai:URL#name, such as openai:http://localhost:8000/v1#my-model"
        raise GazalError(f"model {public_spec(spec)}: {expected}")
    return url, model


def identity_of(spec: str | Path, dtype: str | None, revision: str | None = None, engine: str = "transformers") -> str:
    """Return the identity of an engine of ``spec`` in prediction files, without loading its weights.

    Of a folder it is a hash of the files, of a hub id the commit at which ``revision`` stands. Raise as
    :func:`load_engine` does.
    """
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
