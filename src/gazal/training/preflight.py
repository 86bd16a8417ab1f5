"""Preflight: find in the first minute what would otherwise fail, or silently train nothing, in the last hour.

Each check is one line: what was checked, its outcome, and the public issues in which others met the fault.
`gazal.training.probes` holds the checks that run the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gazal.common.errors import GazalError
from gazal.common.hub import first_line
from gazal.items.prompts import build_messages, completion_text, encode_chats, question_text
from gazal.items.schema import Item
from gazal.models.loading import base_path, load_tokenizer, read_config
from gazal.models.rendering import end_of_turn
from gazal.models.weights import require_rows
from gazal.recipe.recipe import Recipe
from gazal.trainer.backend import require_options
from gazal.training.checks import EOS, LENGTH, PAD, TAGGED, TEMPLATE, Check

TAGS = ("<think>", "</think>")
SAMPLE = 10_000  # examples that are rendered and measured, evenly spaced if there are more
EXAMPLE = Item(
    id="preflight",
    question="Which of these is a fruit?",
    options={"A": "Apple", "B": "Chair"},
    answer_idx="A",
    reasoning="Step 1: An apple grows on a tree.\nStep 2: A chair is furniture.",
)
Chat = list[dict[str, str]]


def print_checks(checks: Sequence[Check], say: Callable[[str], None] = print) -> None:
    """Print a line for each check; raise GazalError naming the first that failed."""
    for check in checks:
        say(check.line())
    if failed := [check for check in checks if check.outcome == "fail"]:
        raise GazalError(f"preflight: {failed[0].name}: {failed[0].why} ({failed[0].guards})")


def preflight_sft(
    recipe: Recipe, items: list[Item], tokenizer: PreTrainedTokenizerBase | None = None, run: bool = True
) -> list[Check]:
    """Return the checks before SFT. ``items`` are training items with traces, none if no data exist yet.

    If ``run`` is False no model is loaded, and the checks that need one are skipped. The random number generators are
    left as they were. Raises GazalError if an option of the recipe cannot run on this machine, or the model cannot be
    read.
    """
    base = base_path(recipe.model)
    if run:
        require_options(recipe, "sft")
    tokenizer = tokenizer or load_tokenizer(base, recipe.model.revision, to_train=True)
    sample, long = _sample(items, lambda item: completion_text(item, item.reasoning or ""))
    pairs = [(build_messages(item, recipe.model.system), _turn(item)) for item in [*sample, *long] or [EXAMPLE]]
    checks = _check_tokenizer(tokenizer, pairs, recipe.model.prompt_opens_think)
    lengths = _lengths(tokenizer, [prompt + turn for prompt, turn in pairs]) if items else []
    limit, context = recipe.sft.max_length, _context(base, tokenizer, recipe.model.revision)
    checks.append(check_lengths(lengths[: len(sample)], limit, context, "sft.max_length"))
    run = run and all(check.outcome != "fail" for check in checks)  # the model would be trained on the same fault
    from gazal.training.probes import probe_sft

    fitting = [(length, item) for length, item in zip(lengths, [*sample, *long], strict=bool(items)) if length <= limit]
    if recipe.sft.packing:  # the example whose repetition fills a row best
        fitting = sorted(fitting, key=lambda pair: pair[0] * (limit // pair[0]))[-1:]
    longest = sorted(fitting, key=lambda pair: -pair[0])[: recipe.sft.batch_size]
    return checks + probe_sft(recipe, longest, tokenizer, run)


def preflight_grpo(
    recipe: Recipe,
    items: list[Item],
    sft: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    run: bool = True,
) -> list[Check]:
    """Return the checks before GRPO from the merged SFT model in folder ``sft``; otherwise as :func:`preflight_sft`."""
    if run:
        require_options(recipe, "grpo")
    tokenizer = tokenizer or load_tokenizer(sft, to_train=True)
    sample, long = _sample(items, question_text)
    prompts = [build_messages(item, recipe.model.system) for item in [*sample, *long] or [EXAMPLE]]
    pairs = [(prompt, _turn(EXAMPLE)) for prompt in prompts]
    checks = _check_tokenizer(tokenizer, pairs, recipe.model.prompt_opens_think)
    opened = _lengths(tokenizer, prompts, opened=True) if items else []
    lengths = [length + recipe.grpo.max_completion_length for length in opened]
    context, what = _context(sft, tokenizer), "the model's context, with grpo.max_completion_length"
    checks.append(check_lengths(lengths[: len(sample)], context, context, what))
    run = run and all(check.outcome != "fail" for check in checks)
    from gazal.training.probes import probe_grpo

    longest = max(zip(lengths, [*sample, *long], strict=bool(items)), key=lambda pair: pair[0], default=None)
    return checks + probe_grpo(recipe, items, longest, sft, tokenizer, run)


def _turn(item: Item) -> Chat:
    return [{"role": "assistant", "content": completion_text(item, item.reasoning or "")}]


def _sample(items: list[Item], text: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """Return evenly spaced items and, if that leaves some out, those of the longest texts.

    The longest batch is sought in both.
    """
    step = -(-len(items) // SAMPLE) or 1
    return items[::step], [] if step == 1 else sorted(items, key=lambda item: -len(text(item)))[:1000]


def _lengths(tokenizer: PreTrainedTokenizerBase, chats: list[Chat], opened: bool = False) -> list[int]:
    return [len(ids) for ids in encode_chats(tokenizer, chats, opened)]


def _context(path: str | Path, tokenizer: PreTrainedTokenizerBase, revision: str | None = None) -> int | None:
    """Return the model's context in tokens; None if its config names none.

    Raise GazalError for a config that cannot be read, and for a tokenizer with more ids than the model has rows.
    """
    config = read_config(path, revision).get_text_config()
    require_rows(str(path), tokenizer, config.vocab_size)
    return getattr(config, "max_position_embeddings", None)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[Chat, Chat]], think: bool) -> list[Check]:
    template, end = check_template(tokenizer, pairs, think), check_end(tokenizer, *pairs[0])
    return [template, end, check_pad(tokenizer), check_tags(tokenizer)]


def check_template(tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[Chat, Chat]], opens_think: bool) -> Check:
    """Check that what is trained begins with what is prompted, in text and in tokens.

    What is trained is prompt and completion rendered together. It must hold the completion with each think tag as often
    as written. A template may drop the think block, double it, or open it itself.
    """
    for prompt, turn in pairs[:: -(-len(pairs) // 64)]:
        try:
            problem = _template_problem(tokenizer, prompt, turn, opens_think)
        except Exception as error:  # what the template computes may raise anything
            problem = f"the chat template refuses these messages ({first_line(error)})"
        if problem:
            return Check(TEMPLATE, "fail", problem)
    opened = "the prompt opens <think>" if opens_think else "the completion opens <think>"
    return Check(TEMPLATE, "pass", f"what is trained begins with what is prompted; {opened}")


def _template_problem(tokenizer: PreTrainedTokenizerBase, prompt: Chat, turn: Chat, opens_think: bool) -> str | None:
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    bare = tokenizer.apply_chat_template(prompt, tokenize=False)
    whole = tokenizer.apply_chat_template(prompt + turn, tokenize=False)
    opening = asked.removeprefix(bare)  # what the template adds for the assistant
    if opening.count(TAGS[1]):
        return "the template closes the think block in the prompt, so nothing can be thought"
    if TAGS[0] in opening and not opens_think:
        return "the template opens <think> in the prompt: set model.prompt_opens_think, or the format reward stays 0"
    if opens_think and TAGS[0] not in opening:
        return "model.prompt_opens_think is set, and the template does not open <think>"
    written, text = whole.removeprefix(bare), turn[0]["content"]
    for tag in TAGS:
        if written.count(tag) != text.count(tag):
            return (
                f"{tag} stands {written.count(tag)} times in what is trained and {text.count(tag)} times "
                "in the completion: the template drops or doubles it"
            )
    if "".join(text.split()) not in "".join(written.split()):
        return "the template changes the completion's text"
    if not whole.startswith(asked):
        return f"what is trained does not begin with what is prompted ({asked[-40:]!r} is missing)"
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (asked, whole)]
    if ids[1][: len(ids[0])] != ids[0]:
        return "tokens merge across the end of the prompt: trained and prompted tokens differ"
    return None


def check_end(tokenizer: PreTrainedTokenizerBase, prompt: Chat, turn: Chat) -> Check:
    """Check that the template ends a turn with the tokenizer's EOS.

    Generation stops on it, and the rewards count a completion without it as cut.
    """
    try:
        end = end_of_turn(tokenizer, prompt, turn)
    except Exception:  # check_template says which
        end = None
    if end is None:
        return Check(EOS, "fail", "the template writes nothing after a completion, so the model never learns to stop")
    written, eos = tokenizer.convert_ids_to_tokens(end), tokenizer.eos_token
    if end != tokenizer.eos_token_id:
        why = f"the template ends a turn with {written}, the tokenizer's EOS is {eos}: generation would not stop"
        return Check(EOS, "fail", why)
    return Check(EOS, "pass", f"the template ends a turn with {eos}, on which generation stops")


def check_pad(tokenizer: PreTrainedTokenizerBase) -> Check:
    """Check that pad is not EOS: EOS would be masked out of the labels with the padding, and the model never stop."""
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if pad is None or pad == eos:
        return Check(PAD, "fail", f"pad is {pad}, EOS is {eos}: EOS would be masked with the padding")
    return Check(PAD, "pass", f"pad is {pad}, EOS is {eos}")


def check_tags(tokenizer: PreTrainedTokenizerBase) -> Check:
    """Check that think tags are no special tokens: completions are decoded without these before they are scored."""
    ids = {tag: tokenizer(f"a{tag}b", add_special_tokens=False)["input_ids"] for tag in TAGS}
    lost = [tag for tag in TAGS if tag not in tokenizer.decode(ids[tag], skip_special_tokens=True)]
    if lost:
        why = f"{' and '.join(lost)} vanish in decoding (special tokens): every format reward would be 0"
        return Check(TAGGED, "fail", why)
    return Check(TAGGED, "pass", "<think> and </think> are no special tokens")


def check_lengths(lengths: list[int], limit: int | None, context: int | None, what: str) -> Check:
    """Check how many examples are longer than ``limit`` or than the model's ``context``, in tokens; None: no limit."""
    if not lengths:
        return Check(LENGTH, "skipped", "no data yet")
    longest, over = max(lengths), sum(limit is not None and length > limit for length in lengths)
    beyond = sum(context is not None and context < length <= (limit or length) for length in lengths)
    count = len(lengths)
    if beyond:
        why = f"{beyond} of {count} sequences pass {what} {limit} but not the model's context of {context} tokens"
        return Check(LENGTH, "fail", why)
    if over:
        share = f"{over} of {count} ({over / count:.1%})"
        why = f"{share} are longer than {what} ({limit} tokens); the longest has {longest}"
        return Check(LENGTH, "fail" if over == count else "warn", why)
    shown = f"{what} ({limit} tokens)" if limit else what
    return Check(LENGTH, "pass", f"none of {count} is longer than {shown}; the longest has {longest}")
