"""Small items."""

from __future__ import annotations

from gazal.items.schema import Item


def make_item(number: int, options: int = 4, **fields: object) -> Item:
    """A plain item whose key moves through the letters."""
    letters = "ABCDEFGHIJ"[:options]
    return Item.model_validate(
        {
            "id": f"item-{number}",
            "question": f"Question {number}?",
            "options": {k: f"option {k.lower()} of {number}" for k in letters},
            "answer_idx": letters[number % options],
            **fields,
        }
    )
