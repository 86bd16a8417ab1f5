"""Load the engine of a folder, a hub id or a server, at once or when its first prompt comes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from gazal.common.paths import EMBEDDED
from gazal.engines.reply import Engine
from gazal.models.identity import fast_dtype, folder_name, identity_of, server_of
from gazal.recipe.evaluation import EvaluationSection


def load_engine(
    spec: str | Path,
    dtype: str | None = None,
    revision: str | None = None,
    engine: str = "transformers",
    context: int | None = None,
    identity: str | None = None,
) -> Engine:
    """Load the engine of ``spec``: a folder, a hub id, ``embedded``, or ``openai:URL#name``.

    ``dtype`` None is :func:`fast_dtype`. ``engine`` (``transformers`` or ``vllm``) runs what is no server. ``context``:
    tokens of prompt and completion for which vLLM keeps room, None for all that the model can. ``identity``: the result
    of :func:`identity_of`, if it is known; finding it reads all weights. Raise GazalError for a folder that is no model
    and for a hub that cannot be reached.
    """
    text = str(spec)
    if text.startswith("openai:"):
        from gazal.engines.server import OpenAIEngine

        return OpenAIEngine(*server_of(text))
    path, dtype = str(EMBEDDED) if text == "embedded" else text, dtype or fast_dtype()
    if engine == "vllm":
        from gazal.engines.vllm import load_vllm

        return load_vllm(path, text, dtype, revision, context, identity)
    from gazal.engines.local import TransformersEngine
    from gazal.models.loading import load_config, load_model, load_tokenizer

    load_config(path, revision)  # a folder that is no model is that, before its tokenizer is
    tokenizer = load_tokenizer(path, revision)
    model = load_model(path, dtype, revision)
    return TransformersEngine(model, tokenizer, text, identity or identity_of(text, dtype, revision))


class LazyEngine:
    """An :class:`gazal.engines.reply.Engine` whose name and identity are known before its model is loaded.

    The model is loaded when the engine is first used; if all predictions are there, never.
    """

    def __init__(
        self, spec: str | Path, settings: EvaluationSection, dtype: str | None = None, revision: str | None = None
    ) -> None:
        """Raise GazalError for what is no model, and for a hub that cannot be reached."""
        self.spec, self.settings, self.revision = str(spec), settings, revision
        self.dtype = dtype if dtype or self.spec.startswith("openai:") else fast_dtype()
        self.name = folder_name(self.spec)
        self.identity = identity_of(self.spec, self.dtype, revision, settings.engine)
        self._loaded: Engine | None = None

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self._engine(), attribute)

    def _engine(self) -> Engine:
        if self._loaded is None:
            self._loaded = load_engine(
                self.spec, self.dtype, self.revision, self.settings.engine, self.settings.context, self.identity
            )
        return self._loaded

    def close(self) -> None:
        """Free the model's memory, so that another may be loaded."""
        engine, self._loaded = self._loaded, None
        if engine is None:
            return
        getattr(engine, "close", lambda: None)()
        del engine
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
