"""The rows of ``sft/metrics.jsonl`` and of ``grpo/metrics.jsonl``: one optimizer step, as TRL and this room log it.

TRL averages over the forward passes of a step. A value may be NaN.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from gazal.common.formats import Format
from gazal.recipe.rewards import COMPONENTS


class Step(Format):
    """One optimizer step."""

    step: Annotated[int, Field(ge=1)]
    """Optimizer steps so far, this one included."""
    epoch: float
    """Passes over the training items so far."""
    loss: float
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    entropy: NotRequired[float]
    """Of the next token, nats; absent if the logits are never whole."""
    aux_loss: NotRequired[float]
    """Of a mixture of experts: how unevenly they are used."""
    num_tokens: float
    """Tokens trained on so far, prompts included."""
    tokens_per_second: float
    """Trained tokens, without padding, over all processes, by wall time. Differs between equal runs."""
    padding_share: float
    """Share of places in the batches that hold padding."""
    mfu: NotRequired[float]
    """FLOPs of the model by those of the device; absent if the device's are not known. Differs between equal runs."""


class SftStep(Step):
    """A row of ``sft/metrics.jsonl``."""

    mean_token_accuracy: NotRequired[float]
    """Share of trained tokens that are the likeliest ones; absent if the kernel does not give it."""


def _about(text: str) -> Any:
    return Annotated[float, Field(description=text)]


# Names with a slash cannot be written in a class.
_Slashed = TypedDict(
    "_Slashed",
    {
        "completions/mean_length": _about("Tokens"),
        "completions/min_length": _about("Tokens"),
        "completions/max_length": _about("Tokens"),
        "completions/clipped_ratio": _about("Share of completions that were cut at the token limit"),
        "completions/mean_terminated_length": _about("Tokens of those that were not cut; 0 if all were"),
        "completions/min_terminated_length": _about("Tokens"),
        "completions/max_terminated_length": _about("Tokens"),
        "zero_signal/accuracy": _about("Share of groups whose completions are all right or all wrong"),
        "clip_ratio/low_mean": _about("Share of tokens whose probability ratio is clipped from below"),
        "clip_ratio/low_min": _about("The least of a completion"),
        "clip_ratio/high_mean": _about("Share of tokens whose probability ratio is clipped from above"),
        "clip_ratio/high_max": _about("The most of a completion"),
        "clip_ratio/region_mean": _about("Both together"),
        **{f"rewards/{name}/mean": _about(f"The {name} reward, without its weight") for name in COMPONENTS},
        **{f"rewards/{name}/std": _about("Its standard deviation over completions") for name in COMPONENTS},
    },
)


class GrpoStep(Step, _Slashed):
    """A row of ``grpo/metrics.jsonl``."""

    reward: float
    """Weighted sum of the rewards, mean over completions."""
    reward_std: float
    """Its standard deviation over completions."""
    frac_reward_zero_std: float
    """Share of groups whose completions all have the same reward."""
    kl: NotRequired[float]
    """Of the policy to the reference; present if ``grpo.beta`` is not 0."""
