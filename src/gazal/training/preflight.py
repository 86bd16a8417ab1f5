"""Preflight: checks that fail in the first minute what would otherwise fail, or silently train nothing, in the last hour.

Each check is one line: what was looked at, how it came out, and the public issue in which others met the fault.
`gazal.training.probes` holds the checks that run the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoConfig, PreTrainedTokenizerBase

from gazal.common.errors import GazalError
from gazal.items.prompts import build_messages, completion_text, encode_chats, question_text
from gazal.items.schema import Item
from gazal.models.loading import base_path, load_tokenizer
from gazal.recipe.recipe import Recipe
from gazal.trainer.backend import require_options
from gazal.training.checks import Check

TAGS = ("<think>", "</think>")
SAMPLE = 10_000  # examples that are rendered and measured, evenly spaced where there are more
TEMPLATE, EOS, PAD, TAGGED, LENGTH = (
    "template round trip",
    "end of turn is EOS",
    "pad is not EOS",
    "tags survive decoding",
    "length",
)
ISSUES = {
    TEMPLATE: "trl#1623, trl#6966, open-r1#235",
    EOS: "trl#1623, trl#7039",
    PAD: "trl#3091",
    TAGGED: "trl#2897",
    LENGTH: "trl#4698",
}
EXAMPLE = Item(
    id="preflight",
    question="Which of these is a fruit?",
    options={"A": "Apple", "B": "Chair"},
    answer_idx="A",
    reasoning="Step 1: An apple grows on a tree.\nStep 2: A chair is furniture.",
)
Chat = list[dict[str, str]]


def report(checks: Sequence[Check], say: Callable[[str], None] = print) -> None:
    """Say every line; raise GazalError naming the first check that failed."""
    for check in checks:
        say(check.line())
    if failed := [check for check in checks if check.outcome == "fail"]:
        raise GazalError(f"preflight: {failed[0].name}: {failed[0].why} ({failed[0].guards})")


def preflight_sft(
    recipe: Recipe, items: list[Item], tokenizer: PreTrainedTokenizerBase | None = None, run: bool = True
) -> list[Check]:
    """Checks before SFT. ``items``: training items with traces; empty where no data exist yet.

    ``run`` False loads no model: what needs one is skipped. The random number generators are left as they
    were. Raises GazalError when an option of the recipe cannot run on this machine, or the model cannot be read.
    """
    base = base_path(recipe.model)
    if run:
        require_options(recipe, "sft")
    tokenizer = tokenizer or load_tokenizer(base, recipe.model.revision, to_train=True)
    sample, long = _sample(items, lambda item: completion_text(item, item.reasoning or ""))
    pairs = [(build_messages(item, recipe.model.system), _turn(item)) for item in [*sample, *long] or [EXAMPLE]]
    checks = [
        check_template(tokenizer, pairs, recipe.model.prompt_opens_think),
        check_end(tokenizer, *pairs[0]),
        check_pad(tokenizer),
        check_tags(tokenizer),
    ]
    lengths = _lengths(tokenizer, [prompt + turn for prompt, turn in pairs]) if items else []
    checks.append(
        check_lengths(
            lengths[: len(sample)], recipe.sft.max_length, _context(base, recipe.model.revision), "sft.max_length"
        )
    )
    if any(check.outcome == "fail" for check in checks):
        run = False  # the model would be trained on the same fault
    from gazal.training.probes import probe_sft

    limit = recipe.sft.max_length
    fitting = [(length, item) for length, item in zip(lengths, [*sample, *long], strict=bool(items)) if length <= limit]
    if recipe.sft.packing:  # the example whose repetition fills a row best
        fitting = sorted(fitting, key=lambda pair: pair[0] * (limit // pair[0]))[-1:]
    return checks + probe_sft(
        recipe, sorted(fitting, key=lambda pair: -pair[0])[: recipe.sft.batch_size], tokenizer, run
    )


def preflight_grpo(
    recipe: Recipe,
    items: list[Item],
    sft: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    run: bool = True,
) -> list[Check]:
    """Checks before GRPO from the merged SFT model in folder ``sft``; otherwise as :func:`preflight_sft`."""
    if run:
        require_options(recipe, "grpo")
    tokenizer = tokenizer or load_tokenizer(sft, to_train=True)
    sample, long = _sample(items, question_text)
    prompts = [build_messages(item, recipe.model.system) for item in [*sample, *long] or [EXAMPLE]]
    pairs = [(prompt, _turn(EXAMPLE)) for prompt in prompts]
    checks = [
        check_template(tokenizer, pairs, recipe.model.prompt_opens_think),
        check_end(tokenizer, *pairs[0]),
        check_pad(tokenizer),
        check_tags(tokenizer),
    ]
    lengths = (
        [length + recipe.grpo.max_completion_length for length in _lengths(tokenizer, prompts, opened=True)]
        if items
        else []
    )
    context = _context(sft)
    checks.append(
        check_lengths(lengths[: len(sample)], context, context, "the model's context, with grpo.max_completion_length")
    )
    if any(check.outcome == "fail" for check in checks):
        run = False
    from gazal.training.probes import probe_grpo

    longest = max(zip(lengths, [*sample, *long], strict=bool(items)), key=lambda pair: pair[0], default=None)
    return checks + probe_grpo(recipe, items, longest, sft, tokenizer, run)


def _turn(item: Item) -> Chat:
    return [{"role": "assistant", "content": completion_text(item, item.reasoning or "")}]


def _sample(items: list[Item], text: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """Items evenly spaced, and, where that leaves some out, those of the longest texts: the longest batch is sought in both."""
    step = -(-len(items) // SAMPLE) or 1
    return items[::step], [] if step == 1 else sorted(items, key=lambda item: -len(text(item)))[:1000]


def _lengths(tokenizer: PreTrainedTokenizerBase, chats: list[Chat], opened: bool = False) -> list[int]:
    return [len(ids) for ids in encode_chats(tokenizer, chats, opened)]


def _context(path: str | Path, revision: str | None = None) -> int | None:
    """The model's context in tokens; None where its config names none."""
    try:
        config = AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise GazalError(f"model {path}: its config cannot be read ({str(error).splitlines()[0]})") from error
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_template(tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[Chat, Chat]], opens_think: bool) -> Check:
    """What is trained (prompt and completion rendered together) begins with what is prompted, in text and in tokens,
    and holds the completion with each think tag as often as written: a template may drop the block, double it or open it itself."""
    problem = None
    for prompt, turn in pairs[:: -(-len(pairs) // 64)]:
        try:
            problem = _template_problem(tokenizer, prompt, turn, opens_think)
        except TemplateError as error:
            problem = f"the chat template refuses these messages ({error})"
        if problem:
            break
    opened = "the prompt opens <think>" if opens_think else "the completion opens <think>"
    return Check(
        TEMPLATE,
        "fail" if problem else "pass",
        problem or f"what is trained begins with what is prompted; {opened}",
        ISSUES[TEMPLATE],
    )


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
            return f"{tag} stands {written.count(tag)} times in what is trained and {text.count(tag)} times in the completion: the template drops or doubles it"
    if "".join(text.split()) not in "".join(written.split()):
        return "the template changes the completion's text"
    if not whole.startswith(asked):
        return f"what is trained does not begin with what is prompted ({asked[-40:]!r} is missing)"
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (asked, whole)]
    if ids[1][: len(ids[0])] != ids[0]:
        return "tokens merge across the end of the prompt: trained and prompted tokens differ"
    return None


def end_of_turn(tokenizer: PreTrainedTokenizerBase, prompt: Chat, turn: Chat) -> int | None:
    """The token that the template writes after a completion; None when it writes nothing."""
    whole, last = (
        tokenizer.apply_chat_template(prompt + turn, tokenize=False),
        turn[0]["content"].rstrip().splitlines()[-1],
    )
    ids = (
        tokenizer(whole[whole.rindex(last) + len(last) :], add_special_tokens=False)["input_ids"]
        if last in whole
        else []
    )
    return ids[0] if ids else None


def check_end(tokenizer: PreTrainedTokenizerBase, prompt: Chat, turn: Chat) -> Check:
    """The template ends a turn with the tokenizer's EOS: generation stops on it, and the rewards count a completion without it as cut."""
    try:
        end = end_of_turn(tokenizer, prompt, turn)
    except TemplateError:
        end = None
    if end is None:
        return Check(
            EOS,
            "fail",
            "the template writes nothing after a completion, so the model never learns to stop",
            ISSUES[EOS],
        )
    written, eos = tokenizer.convert_ids_to_tokens(end), tokenizer.eos_token
    if end != tokenizer.eos_token_id:
        return Check(
            EOS,
            "fail",
            f"the template ends a turn with {written}, the tokenizer's EOS is {eos}: generation would not stop",
            ISSUES[EOS],
        )
    return Check(EOS, "pass", f"the template ends a turn with {eos}, on which generation stops", ISSUES[EOS])


def check_pad(tokenizer: PreTrainedTokenizerBase) -> Check:
    """A pad that is EOS is masked out of the labels with the padding, and the model never stops."""
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if pad is None or pad == eos:
        return Check(PAD, "fail", f"pad is {pad}, EOS is {eos}: EOS would be masked with the padding", ISSUES[PAD])
    return Check(PAD, "pass", f"pad is {pad}, EOS is {eos}", ISSUES[PAD])


def check_tags(tokenizer: PreTrainedTokenizerBase) -> Check:
    """Completions are decoded without special tokens before they are scored: think tags must not be among them."""
    lost = [
        tag
        for tag in TAGS
        if tag
        not in tokenizer.decode(tokenizer(f"a{tag}b", add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    ]
    if lost:
        return Check(
            TAGGED,
            "fail",
            f"{' and '.join(lost)} vanish in decoding (special tokens): every format reward would be 0",
            ISSUES[TAGGED],
        )
    return Check(TAGGED, "pass", "<think> and </think> are no special tokens", ISSUES[TAGGED])


def check_lengths(lengths: list[int], limit: int | None, context: int | None, what: str) -> Check:
    """Share of examples over ``limit`` and over the model's ``context`` (tokens); None: no such limit."""
    if not lengths:
        return Check(LENGTH, "skipped", "no data yet", ISSUES[LENGTH])
    longest, over = max(lengths), sum(limit is not None and length > limit for length in lengths)
    beyond = sum(context is not None and context < length <= (limit or length) for length in lengths)
    if beyond:
        return Check(
            LENGTH,
            "fail",
            f"{beyond} of {len(lengths)} sequences pass {what} {limit} but not the model's context of {context} tokens",
            ISSUES[LENGTH],
        )
    if over:
        why = f"{over} of {len(lengths)} ({over / len(lengths):.1%}) are longer than {what} ({limit} tokens); the longest has {longest}"
        return Check(LENGTH, "fail" if over == len(lengths) else "warn", why, ISSUES[LENGTH])
    return Check(
        LENGTH,
        "pass",
        f"none of {len(lengths)} is longer than {what}{f' ({limit} tokens)' if limit else ''}; the longest has {longest}",
        ISSUES[LENGTH],
    )
