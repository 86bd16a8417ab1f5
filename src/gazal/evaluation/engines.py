"""What answers prompts: a transformers model, or a server that speaks OpenAI's chat protocol.

Both are asked the same messages and give the same replies; prediction files do not tell them apart.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import jinja2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.errors import GazalError
from gazal.files import sha256
from gazal.generation import generate_batches
from gazal.models import EMBEDDED, load_model, load_tokenizer
from gazal.recipe_evaluation import EvaluationSection

Messages = list[dict[str, str]]
WEIGHTS = ("*.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Reply(NamedTuple):
    """``text`` without special tokens; ``n_tokens`` with the EOS; ``finish_reason`` ``stop`` or ``length``."""

    index: int
    text: str
    n_tokens: int
    finish_reason: str


class Engine(Protocol):
    """``name`` is file-safe; ``identity`` changes whenever the model's answers could."""

    name: str
    identity: str

    def opens_think(self, messages: Messages) -> bool | None:
        """Whether the rendered prompt ends inside ``<think>``; None where the engine cannot see it."""

    def complete(self, prompts: list[Messages], settings: EvaluationSection, seed: int, done: Collection[int]) -> Iterator[list[Reply]]:
        """Replies in batches, without the prompt indices in ``done`` (whole batches of an earlier call)."""


def file_safe(name: str) -> str:
    """A folder's or hub id's name as one path component; of a run's ``…/sft/merged`` the stage."""
    parts = [part for part in re.split(r"[/\\]", str(name)) if part not in ("", ".", "..")]
    last = parts[-2] if len(parts) > 1 and parts[-1] == "merged" else parts[-1] if parts else "model"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "model"


class TransformersEngine:
    """A causal language model in this process, on the device where it lies.

    ``identity`` defaults to a hash of the parameters; :func:`load_engine` gives one of the files.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "model", identity: str | None = None) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, file_safe(name)
        self.identity = identity or _parameter_hash(model)

    def render(self, messages: Messages) -> str:
        """The prompt text, up to and with the assistant's opening."""
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise GazalError(f"model {self.name}: its chat template refuses the prompt ({error}); try model.system=''") from error

    def opens_think(self, messages: Messages) -> bool | None:
        return self.render(messages).rstrip().endswith("<think>")

    def complete(self, prompts: list[Messages], settings: EvaluationSection, seed: int, done: Collection[int]) -> Iterator[list[Reply]]:
        ids = self.tokenizer([self.render(messages) for messages in prompts], add_special_tokens=False)["input_ids"]
        for batch in generate_batches(
            self.model, self.tokenizer, ids, max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
            top_p=settings.top_p, top_k=settings.top_k, seed=seed, batch_tokens=settings.batch_tokens, done=done,
        ):
            texts = self.tokenizer.batch_decode([one.ids for one in batch], skip_special_tokens=True)
            yield [Reply(one.index, text, len(one.ids), one.finish_reason) for one, text in zip(batch, texts, strict=True)]


class OpenAIEngine:
    """A chat-completions server; its key is read from ``OPENAI_API_KEY``. The client retries by itself."""

    def __init__(self, url: str, model: str, workers: int = 8, timeout: float = 300.0, retries: int = 4) -> None:
        try:
            import openai
        except ImportError as error:
            raise GazalError("openai: models need the openai package (pip install openai)") from error
        self._openai, self.model, self.workers = openai, model, workers
        self.client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=timeout, max_retries=retries)
        self.name = file_safe(model)
        self.identity = "openai:" + hashlib.sha256(f"{url}#{model}".encode()).hexdigest()

    def opens_think(self, messages: Messages) -> bool | None:
        return None

    def complete(self, prompts: list[Messages], settings: EvaluationSection, seed: int, done: Collection[int]) -> Iterator[list[Reply]]:
        wanted = [i for i in range(len(prompts)) if i not in set(done)]
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(wanted), 4 * self.workers):
                chunk = wanted[start : start + 4 * self.workers]
                yield list(pool.map(lambda i: self._ask(i, prompts[i], settings, seed + i % settings.samples), chunk))

    def _ask(self, index: int, messages: Messages, settings: EvaluationSection, seed: int) -> Reply:
        try:
            answer = self.client.chat.completions.create(
                model=self.model, messages=messages, max_tokens=settings.max_new_tokens, temperature=settings.temperature,
                top_p=settings.top_p, seed=seed, extra_body={"top_k": settings.top_k} if settings.top_k else None,
            )
            choice, used = answer.choices[0], answer.usage.completion_tokens
            text = choice.message.content or ""
        except self._openai.OpenAIError as error:
            hint = "; it takes no top_k: set evaluation.top_k=0" if settings.top_k and "top_k" in f"{error} {getattr(error, 'body', '')}" else ""
            raise GazalError(f"model {self.name}: the server failed ({type(error).__name__}: {str(error)[:160]}){hint}") from error
        except (AttributeError, IndexError, TypeError) as error:
            raise GazalError(f"model {self.name}: the server's answer is no chat completion") from error
        thought = getattr(choice.message, "reasoning_content", None)  # servers that cut the think block out of the text
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text}" if thought else text
        return Reply(index, text, used, "length" if choice.finish_reason == "length" else "stop")


def fast_dtype() -> str:
    """``bfloat16`` where the device computes in it (most GPUs since 2020, CPUs with AMX or AVX512-BF16), else ``float32``."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"


def load_engine(spec: str | Path, dtype: str | None = None, revision: str | None = None) -> Engine:
    """The engine of ``spec``: a folder, a hub id, ``embedded``, or ``openai:URL#name``; ``dtype`` None is :func:`fast_dtype`.

    Raises GazalError for a folder that is no model and for a hub that cannot be reached.
    """
    text = str(spec)
    if text.startswith("openai:"):
        url, _, model = text.removeprefix("openai:").partition("#")
        if not re.match(r"https?://", url) or not model:
            raise GazalError(f"model {text}: expected openai:URL#name, such as openai:http://localhost:8000/v1#my-model")
        return OpenAIEngine(url, model)
    path = str(EMBEDDED) if text == "embedded" else text
    folder = Path(path)
    dtype = dtype or fast_dtype()
    tokenizer = load_tokenizer(path, revision)
    model = load_model(path, dtype, revision)
    if folder.is_dir():
        files = sorted({file for pattern in WEIGHTS for file in folder.glob(pattern)})
        digest = hashlib.sha256("\n".join(f"{file.name} {sha256(file)}" for file in files).encode()).hexdigest()
        identity = f"files:{digest}:{dtype}"
    else:
        identity = f"hub:{path}@{getattr(model.config, '_commit_hash', None) or revision}:{dtype}"
    return TransformersEngine(model, tokenizer, text, identity)


def _parameter_hash(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"parameters:{digest.hexdigest()}"
