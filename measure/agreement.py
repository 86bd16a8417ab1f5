"""Item by item: our letter by log-likelihood beside another evaluator's, saved as it goes; evaluation.py asks both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gazal.items.schema import Item

CHUNK = 20  # items between two saves


class Kind(NamedTuple):
    """What is compared: for people, the recipe values that ask for it, how sums are normed, whether by chat."""

    label: str
    settings: tuple[str, ...]
    norm: str = "sum"
    chat: bool = False


PLAIN = ("evaluation.method=loglik", "evaluation.prompt=plain", "model.system=''")
KINDS = {
    "letters": Kind("letters, plain prompt", PLAIN),
    "chat": Kind("letters, chat prompt", ("evaluation.method=loglik",), chat=True),
    "texts": Kind(
        "option texts per character, plain prompt",
        (*PLAIN, "evaluation.loglik_choice=text", "evaluation.loglik_norm=characters"),
        "characters",
    ),
}
Asker = Callable[[list[Item]], list[list[float]]]
"""Items to each option's summed log-likelihood in nats, in order of the options."""


class Compared(NamedTuple):
    """One item: both letters; the largest difference of a log-likelihood (nats), the same after the norm, and how far our best
    option leads our second after the norm."""

    id: str
    ours: str
    theirs: str
    key: str
    difference: float
    normed: float
    lead: float


def compare(item: Item, ours: Sequence[float], theirs: Sequence[float], norm: str) -> Compared:
    """Both letters from both log-likelihoods; the first of equals wins."""
    lengths = [len(text) if norm == "characters" else 1 for text in item.options.values()]
    mine, other = ([value / length for value, length in zip(values, lengths, strict=True)] for values in (ours, theirs))
    best, second = sorted(mine, reverse=True)[:2]
    letters = [list(item.options)[max(range(len(values)), key=values.__getitem__)] for values in (mine, other)]
    apart = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in ((ours, theirs), (mine, other))]
    return Compared(item.id, *letters, item.answer_idx, *apart, best - second)


def compared(
    items: list[Item],
    norm: str,
    ours: Asker,
    theirs: Asker,
    asked: dict[str, Any],
    before: dict[str, Any],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """``{"asked", "rows", "cpu"}``: what was asked, a :class:`Compared` an item as a dict, CPU seconds of ours and theirs.

    ``keep`` is given it every ``CHUNK`` items. What ``before`` holds of the same is not asked again.
    """
    rows = before.get("rows", [])
    goes_on = before.get("asked") == asked and [row["id"] for row in rows] == [item.id for item in items[: len(rows)]]
    found = (
        {"asked": asked, "rows": list(rows), "cpu": list(before["cpu"])}
        if goes_on
        else {"asked": asked, "rows": [], "cpu": [0.0, 0.0]}
    )
    while rest := items[len(found["rows"]) :][:CHUNK]:
        began = time.process_time()
        mine = ours(rest)
        between = time.process_time()
        other = theirs(rest)
        for which, seconds in enumerate((between - began, time.process_time() - between)):
            found["cpu"][which] += seconds
        found["rows"] += [compare(*both, norm)._asdict() for both in zip(rest, mine, other, strict=True)]
        keep(found)
    return found


def as_text(record: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of Markdown from what :func:`compared` found, by ``"<benchmark> <kind>"``."""
    header = [
        "Benchmark",
        "Compared",
        "Items",
        "Same letter",
        "Letters chosen",
        "Largest difference, nats",
        "Closest lead",
        "Accuracy, ours / theirs",
    ]
    lines = [f"| {' | '.join(header)} | CPU seconds, ours / theirs |", "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    differing, asked = [], []
    for which, found in sorted(record.items(), key=lambda pair: list(KINDS).index(pair[0].split()[1])):
        (benchmark, kind), rows = which.split(), found["rows"]
        same, cut = (
            sum(row["ours"] == row["theirs"] for row in rows),
            f" of {found['asked']['items']}, cut" if len(rows) < found["asked"]["items"] else "",
        )
        chosen = ", ".join(
            f"{letter} {count}" for letter, count in sorted(Counter(row["ours"] for row in rows).items())
        )
        right = " / ".join(
            f"{sum(row[side] == row['key'] for row in rows) / len(rows):.3f}" for side in ("ours", "theirs")
        )
        lines.append(
            f"| {benchmark} | {KINDS[kind].label} | {len(rows)}{cut} | {same} | {chosen} "
            f"| {max(row['difference'] for row in rows):.1e} | {min(row['lead'] for row in rows):.1e} | {right} | {found['cpu'][0]:.0f} / {found['cpu'][1]:.0f} |"
        )
        differing += [
            f"- {benchmark}, {KINDS[kind].label}, {row['id']}: ours {row['ours']}, theirs {row['theirs']}; our first leads by {row['lead']:.1e}, "
            f"and the two sides' log-likelihoods differ by up to {row['normed']:.1e}"
            for row in rows
            if row["ours"] != row["theirs"]
        ]
        asked.append(found["asked"]["where"])
    lines += [
        "",
        "Lead: of our first option over our second in nats, of option texts in nats per character.",
        *(f"{where}." for where in dict.fromkeys(asked)),
    ]
    return [*lines, "", *(["Differing items:", *differing] if differing else ["No item differs."]), ""]
