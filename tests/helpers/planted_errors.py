"""True traces with one error of a stated kind each, and the measures that the error may lower: no other may move."""

from __future__ import annotations

import re
from collections.abc import Callable

from gazal.items.schema import Item

Lines = list[str]
Planted = tuple[Lines, str] | None
"""The trace's steps without their numbers, and the answer's letter; None where the error cannot be planted in this item."""

ERRORS: dict[str, tuple[Callable[[Item, Lines], Planted], set[str]]] = {}
LEVEL = re.compile(r": (\d)(?=;)")


def error(*lowered: str) -> Callable:
    def keep(plant: Callable[[Item, Lines], Planted]) -> Callable[[Item, Lines], Planted]:
        ERRORS[plant.__name__] = (plant, set(lowered))
        return plant

    return keep


def other(item: Item) -> str:
    return next(letter for letter in item.options if letter != item.answer_idx)


def at_option(item: Item, lines: Lines, letter: str) -> int | None:
    return next((i for i, line in enumerate(lines) if line.startswith(f"{letter}. ")), None)


def changed(item: Item, lines: Lines, at: int | None, old: str, new: str) -> Planted:
    if at is None or not re.search(old, lines[at]):
        return None
    return [*lines[:at], re.sub(old, new, lines[at], count=1), *lines[at + 1 :]], item.answer_idx


def total_of(line: str) -> float:
    return float(re.search(r"(?:total|gain): (-?[\d.]+)", line)[1])


@error("precision", "coverage", "arithmetic")
def wrong_level(item: Item, lines: Lines) -> Planted:
    at = at_option(item, lines, other(item)) if item.reasoning_type == "diagnosis" else None
    return changed(item, lines, at, r": (\d); ", lambda m: f": {(int(m[1]) + 1) % 4}; ") if at is not None else None


@error("precision", "coverage")
def wrong_level_with_its_total(item: Item, lines: Lines) -> Planted:
    at = at_option(item, lines, other(item)) if item.reasoning_type == "diagnosis" else None
    if at is None or not re.search(r": [123];", lines[at].partition("absent")[0]):
        return None
    line = re.sub(r": ([123]);", lambda m: f": {int(m[1]) - 1};", lines[at], count=1)
    return [
        *lines[:at],
        re.sub(r"total: (-?\d+)", lambda m: f"total: {int(m[1]) - 1}", line),
        *lines[at + 1 :],
    ], item.answer_idx


@error("precision", "coverage", "arithmetic")
def wrong_total_or_gain(item: Item, lines: Lines) -> Planted:
    return changed(
        item,
        lines,
        at_option(item, lines, other(item)),
        r"(total|gain): (-?\d+)$",
        lambda m: f"{m[1]}: {int(m[2]) - 1}",
    )


@error("follows")
def wrong_letter(item: Item, lines: Lines) -> Planted:
    return [*lines[:-1], re.sub("answer: [A-J]$", f"answer: {other(item)}", lines[-1])], other(item)


@error("follows")
def wrong_letter_in_the_answer_alone(item: Item, lines: Lines) -> Planted:
    return lines, other(item)


@error("follows")
def wrong_letter_in_the_trace_alone(item: Item, lines: Lines) -> Planted:
    return [*lines[:-1], re.sub("answer: [A-J]$", f"answer: {other(item)}", lines[-1])], item.answer_idx


@error("precision", "coverage", "quotes")
def swapped_diseases(item: Item, lines: Lines) -> Planted:
    a, b = at_option(item, lines, item.answer_idx), at_option(item, lines, other(item))
    if item.reasoning_type != "diagnosis":
        return None
    one, two = (re.match(r"[A-J]\. ([^:]+)(.*)", lines[i]) for i in (a, b))
    found = list(lines)
    found[a], found[b] = f"{item.answer_idx}. {two[1]}{one[2]}", f"{other(item)}. {one[1]}{two[2]}"
    return found, item.answer_idx


@error("precision", "coverage", "quotes")
def disease_that_is_no_option(item: Item, lines: Lines) -> Planted:
    if item.reasoning_type != "diagnosis" or "Canavan disease" in item.options.values():
        return None
    return changed(item, lines, at_option(item, lines, other(item)), r"^([A-J])\. [^:]+", r"\1. Canavan disease")


@error("precision", "coverage", "quotes")
def unknown_disease(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, at_option(item, lines, other(item)), r"^([A-J])\. [^:]+", r"\1. Gazal fever")
        if item.reasoning_type == "diagnosis"
        else None
    )


@error("precision", "coverage")
def finding_not_asked(item: Item, lines: Lines) -> Planted:
    asked = item.reasoning_type == "diagnosis" and "Hiccups" not in item.question
    return (
        changed(item, lines, at_option(item, lines, other(item)), r"^([^:]+: )[^:]+", r"\1Hiccups") if asked else None
    )


@error("precision")
def finding_added(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, at_option(item, lines, other(item)), "; total", "; Gazal sign: 0; total")
        if item.reasoning_type == "diagnosis"
        else None
    )


@error("coverage", "follows")
def missing_option(item: Item, lines: Lines) -> Planted:
    at = at_option(item, lines, other(item))
    return None if at is None else ([*lines[:at], *lines[at + 1 :]], item.answer_idx)


@error("precision", "coverage")
def wrong_range(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, at_option(item, lines, other(item)), "range: [^;]+", "range: 200 to 300")
        if item.reasoning_type == "treatment"
        else None
    )


@error("precision", "coverage", "arithmetic", "follows")
def inside_for_outside(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, at_option(item, lines, other(item)), "outside", "inside")


@error("precision", "coverage", "arithmetic", "follows")
def outside_for_inside(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, at_option(item, lines, item.answer_idx), "inside", "outside")


@error("quotes", "arithmetic")
def misquoted_clearance(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, at_option(item, lines, item.answer_idx), r"; \d+: inside", "; 900: inside")
        if "and above" not in lines[-1]
        else None
    )


@error("quotes")
def misquoted_clearance_in_the_same_range(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, at_option(item, lines, item.answer_idx), r"; \d+: inside", "; 900: inside")
        if "and above" in lines[-1]
        else None
    )


@error("quotes")
def misquoted_age(item: Item, lines: Lines) -> Planted:
    at = next((i for i, line in enumerate(lines) if line.startswith("age ")), None)
    return changed(item, lines, at, r"^age \d+", "age 7")


@error("precision", "coverage", "arithmetic")
def wrong_points(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, 0, r": (-?[\d.]+); sum", lambda m: f": {float(m[1]) + 1:g}; sum")


@error("precision", "coverage", "arithmetic")
def wrong_running_sum(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, 0, r"; sum: (-?[\d.]+)", lambda m: f"; sum: {float(m[1]) + 1:g}")
        if sum("; sum:" in line for line in lines) > 1
        else None
    )


@error("precision", "coverage", "arithmetic", "follows")
def wrong_last_sum(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, len(lines) - 2, r"; sum: (-?[\d.]+)", lambda m: f"; sum: {float(m[1]) + 1:g}")


@error("precision", "coverage")
def present_criterion_called_absent(item: Item, lines: Lines) -> Planted:
    if "; sum:" not in lines[0] or ": absent:" in lines[0] or lines[0].startswith("age "):
        return None
    return changed(item, lines, 0, r"^(.+): (-?[\d.]+); sum", r"\1: absent: \2; sum")


@error("coverage", "precision", "arithmetic", "follows")
def criterion_of_another_score(item: Item, lines: Lines) -> Planted:
    """In the last criterion's place, with its points: the sum is then not that of any patient."""
    if "; sum:" not in lines[-2] or "absent" in lines[-2] or lines[-2].startswith("age "):
        return None
    return [*lines[:-2], "Gazal sign: 50; sum: 50", lines[-1]], item.answer_idx


@error("precision", "coverage", "arithmetic")
def wrong_conclusion(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, len(lines) - 1, r"(total|gain): (-?[\d.]+)", lambda m: f"{m[1]}: {float(m[2]) + 1:g}")


@error("precision", "coverage", "arithmetic")
def wrong_concluding_range(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, len(lines) - 1, "inside: [^;]+", "inside: 200 to 300")


@error("precision", "coverage")
def wrong_term(item: Item, lines: Lines) -> Planted:
    return changed(item, lines, 0, "= [^;]+", "= Hiccups") if lines[0].startswith("terms") else None


@error("coverage")
def missing_terms(item: Item, lines: Lines) -> Planted:
    return (lines[1:], item.answer_idx) if lines[0].startswith("terms") else None


@error("precision", "coverage")
def absent_finding_called_present(item: Item, lines: Lines) -> Planted:
    return (
        changed(item, lines, at_option(item, lines, other(item)), "; absent ", "; ")
        if item.reasoning_type == "diagnosis"
        else None
    )


@error("steps")
def duplicate_step(item: Item, lines: Lines) -> Planted:
    return [lines[0], f"Step 1: {lines[0]}", *lines[1:]], item.answer_idx


@error("steps")
def steps_out_of_order(item: Item, lines: Lines) -> Planted:
    return (
        ([f"Step 2: {lines[1]}", f"Step 1: {lines[0]}", *lines[2:]], item.answer_idx)
        if item.reasoning_type != "prognosis" and not lines[0].startswith("terms")
        else None
    )


@error("read")
def garbage(item: Item, lines: Lines) -> Planted:
    return [*lines[:1], "the patient looks rather unwell, total", *lines[1:]], item.answer_idx


@error("read", "coverage", "follows")
def broken_line(item: Item, lines: Lines) -> Planted:
    at = at_option(item, lines, other(item))
    return None if at is None else ([*lines[:at], "totalylanswer", *lines[at + 1 :]], item.answer_idx)


@error("claims", "precision", "coverage", "arithmetic", "follows", "read")
def nothing_but_garbage(item: Item, lines: Lines) -> Planted:
    return ["it must be this one"], item.answer_idx


def numbered(lines: Lines) -> str:
    """The trace with its steps numbered, but for those that bring a number."""
    return "\n".join(line if line.startswith("Step ") else f"Step {n}: {line}" for n, line in enumerate(lines, 1))
