"""The embedded model's tokenizer: byte-level BPE whose merges may cross spaces.

Line breaks, numbers, option letters and punctuation are tokens of their own. Between them BPE may merge whole phrases
("superword" BPE, Liu et al. 2025, arXiv 2503.13423), so that a disease or a finding is one token.
``Step 2: `` and ``: 3; `` are one token too. Traces become half as long and are learnt faster.
Any text can still be encoded: other words fall back to shorter pieces and finally to bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gazal.items.prompts import CHATML_TEMPLATE

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK = ["<think>", "</think>"]
# A piece is a step's head; a value with the colon before it and what ends it; a number; an option's letter;
# line breaks; bold marks or a punctuation mark, each with the space after it; or other text up to the next of these.
PIECES = (
    r"Step \d+: |: \d+(?:\.\d+)?(?:; |\n)?| ?\d+(?:\.\d+)?|[A-J]\. |\n+|\*\* ?|[;:.,()] ?"
    r"|[^\n\d;:.,()*]+|\*"
)


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train the BPE on ``documents`` and return it as a transformers tokenizer.

    EOS is ``<|im_end|>``, padding ``<|endoftext|>``. The think tags are ordinary added tokens: TRL leaves special
    tokens out when it decodes completions for the rewards.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(THINK),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML_TEMPLATE
    return fast
