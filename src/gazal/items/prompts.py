"""Prompts of items, and the completions for training: the same functions for every stage.

The completion's form follows the Gazal-R1 model card: a ``<think>`` block of numbered steps, then a
``## Clinical Assessment``. A knowledge-derived item has only an answer there, since its source says nothing about
management or follow-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from gazal.common.errors import GazalError
from gazal.items.schema import Item, TrainingExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# ChatML as Qwen uses it; nothing is dropped or added around <think>, and the prompt never opens it.
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SYSTEM = (
    "You are a careful clinical reasoner. Think in numbered steps between <think> and </think>, then give one answer."
)
HEADING = "## Clinical Assessment"
SECTIONS = ("Primary Diagnosis", "Reasoning", "Immediate Management", "Follow-up")
Messages = list[dict[str, str]]
Prompt = Messages | str  # a chat, or plain text that the model continues


def question_text(item: Item) -> str:
    """Return context, question and lettered options (free text has none), as one user turn."""
    return "\n".join([*(item.context or []), item.question, *_options(item)])


def plain_question(item: Item, instruction: str = "") -> str:
    """Return the same as plain text that ends before the letter, as lm-eval's medical tasks do (medqa_4options)."""
    said = [instruction] if instruction else []
    return "\n".join([*(item.context or []), f"Question: {item.question}", *_options(item), *said, "Answer:"])


def _options(item: Item) -> list[str]:
    return [f"{letter}. {text}" for letter, text in item.options.items()]


def build_messages(item: Item, system: str, instruction: str = "") -> list[dict[str, str]]:
    """Return the chat prompt of an item.

    It is the recipe's system text (none if empty), then the question, then the instruction on a line of its own.
    """
    turns = [{"role": "system", "content": system}] if system else []
    text = question_text(item) + (f"\n{instruction}" if instruction else "")
    return [*turns, {"role": "user", "content": text}]


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: list[list[dict[str, str]]], opening: bool = False
) -> list[list[int]]:
    """Return the token ids of chats as the tokenizer's template renders them.

    With ``opening``, the assistant's opening follows. Raise GazalError for a template that cannot render them.
    """
    try:
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=opening, tokenize=True, return_dict=True)
    except Exception as error:  # what the template computes may raise anything
        why = f"{type(error).__name__}: {error}"
        raise GazalError(f"model {tokenizer.name_or_path}: its chat template fails ({why})") from error
    return cast(Any, encoded)["input_ids"]  # return_dict makes it a BatchEncoding


def answer_text(item: Item) -> str:
    """Return what follows ``</think>``: one heading and one answer line, or a free-text example's own response."""
    if isinstance(item, TrainingExample):
        return item.response
    return f"{HEADING}\n{short_answer(item)}"


def short_answer(item: Item) -> str:
    """Return the answer line alone."""
    return f"**Answer:** {item.answer_idx}"


def completion_text(item: Item, reasoning: str) -> str:
    """Return a whole training completion: think block, then the assessment or response."""
    return f"<think>\n{reasoning}\n</think>\n\n{answer_text(item)}"
