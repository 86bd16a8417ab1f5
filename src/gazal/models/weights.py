"""Check that a loaded model has its own weights, all of them and all finite, and knows every token id it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazal.common.errors import GazalError

SHOWN = 5  # keys that a message names
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def require_loaded(path: str, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Raise GazalError for a key that is missing, unexpected or of another shape, by transformers' loading ``info``.

    transformers fills what is missing with random numbers. What it does not report is no fault: tied weights, and
    buffers that are computed.
    """
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    missing = {key for key in info["missing_keys"] if tied.get(key) not in info["missing_keys"]}
    unexpected = set(info["unexpected_keys"]) - {name for name, _ in model.named_buffers()}
    mismatched = [
        f"{key} ({_shape(found)} instead of {_shape(wanted)})" for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    faults = [
        f"{what} {_first(sorted(keys))}"
        for what, keys in (("missing:", missing), ("unexpected:", unexpected), ("of another shape:", mismatched))
        if keys
    ]
    if faults:
        hint = _wrapper(missing, unexpected)
        raise GazalError(f"model {path}: its weights are not those of its config.json; {'; '.join(faults)}{hint}")


def require_tied(path: str, model: PreTrainedModel) -> None:
    """Raise GazalError for a head that the config ties to the embedding, but that is stored with other values.

    transformers would use the stored head; vLLM would not.
    """
    for head, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if model.get_parameter(head) is not model.get_parameter(source):
            raise GazalError(
                f"model {path}: config.json ties {head} to {source}, but the two are stored with different values: "
                "set tie_word_embeddings to false if both are meant, else remove one"
            )


def require_finite(path: str, model: PreTrainedModel) -> None:
    """Raise GazalError, naming the tensor, for a NaN or an infinite value in the weights.

    A NaN is both least and largest. To find these two reads each tensor once, on a CPU 20 times as fast as ``isfinite``.
    """
    for name, value in model.named_parameters():
        number = value.dtype.is_floating_point and value.dtype.itemsize > 1  # float8 has no such functions
        if number and value.numel() and not value.is_meta:
            least, largest = value.detach().aminmax()
            if not bool(least.isfinite() & largest.isfinite()):
                raise GazalError(f"model {path}: {name} holds NaN or infinite values in {_dtype(value)}")


def require_finite_logits(model: PreTrainedModel, finite: torch.Tensor) -> None:
    """Raise GazalError if any of ``finite`` is False: logits without a largest number, from which nothing follows."""
    if not bool(finite.all()):
        raise GazalError(
            f"model {model.name_or_path}: its logits are no numbers (NaN or infinite) in {_dtype(model)}: "
            "its weights are damaged, or too large for this precision"
        )


def rows_of(model: PreTrainedModel) -> int:
    """Return how many token ids the model's embedding has rows for."""
    return cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]


def require_known(model: PreTrainedModel, largest: int) -> None:
    """Raise GazalError if a prompt's ``largest`` token id has no row in the embedding; a GPU would stop for good."""
    if largest >= (rows := rows_of(model)):
        raise GazalError(
            f"model {model.name_or_path}: a prompt has token id {largest}, but the model's embedding has {rows} rows: "
            "the tokenizer is another model's"
        )


def require_rows(path: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raise GazalError if the tokenizer has ids for which an embedding of ``rows`` rows has none.

    A special token without a role in text does not count. Gemma 3's text models name a token for images that they
    have no row for.
    """
    used = {getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad", "unk", "cls", "sep")}
    added = cast(dict[int, Any], cast(Any, tokenizer).added_tokens_decoder)
    spare = {i for i, token in added.items() if token.special} - used
    largest = max((i for i in tokenizer.get_vocab().values() if i not in spare), default=0)
    if largest >= rows:
        raise GazalError(
            f"model {path}: its tokenizer has token ids up to {largest}, but its embedding has {rows} rows: "
            "the tokenizer is another model's, or the embedding was not enlarged with it"
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shape(shape: Collection[int]) -> str:
    return "×".join(map(str, shape))


def _dtype(holder: torch.Tensor | PreTrainedModel) -> str:
    return str(holder.dtype).removeprefix("torch.")


def _wrapper(missing: set[str], unexpected: set[str]) -> str:
    """Say which addition to their names explains why keys are unexpected, if there is one."""
    if any(".lora_" in key for key in unexpected):
        return "; they hold an adapter that is not merged"
    if not missing or not unexpected:
        return ""
    first = min(unexpected)
    prefixes = {first.removesuffix(key) for key in missing if first.endswith(key)}
    removals: dict[str, Callable[[str], str]] = {
        **{f"begin with {prefix}": lambda key, prefix=prefix: key.removeprefix(prefix) for prefix in sorted(prefixes)},
        **{f"contain {word}": lambda key, word=word: key.replace(word, "") for word in WRAPPERS},
    }
    for what, remove in removals.items():
        if all(remove(key) in missing for key in unexpected):
            return f"; the stored names {what}, which has to be removed from them"
    return ""
