"""The claims ledger: what the authors derive from their results table, recomputed from that table.

If its models were measured here, the claims are judged again by what was measured.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gazal.common.errors import GazalError
from gazal.scoring.table import NONE, signed

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class ClaimCheck:
    """One derived claim on one benchmark: the reported numbers behind it, and whether they support it.

    ``measured``: what our own numbers say.
    """

    text: str
    benchmark: str  # display name
    numbers: str
    claimed: bool
    holds: bool
    measured: str = NOT_MEASURED


def _judge(claim: dict[str, Any], models: dict[str, Any], benchmark: str) -> tuple[str, bool]:
    model = models[claim["model"]]
    if claim["check"] == "highest":
        best = max((m for key, m in models.items() if key != claim["model"]), key=lambda m: m[benchmark])
        numbers = f"{model[benchmark]:.1f}; best other {best[benchmark]:.1f} ({best['name']})"
        return numbers, model[benchmark] > best[benchmark]
    than = models[claim["than"]]
    if claim["check"] == "above":
        return f"{model[benchmark]:.1f} against {than[benchmark]:.1f}", model[benchmark] > than[benchmark]
    if claim["check"] == "gain":
        gain = model[benchmark] - than[benchmark]
        return f"{model[benchmark]:.1f} − {than[benchmark]:.1f} = {gain:+.1f}", round(gain, 1) == claim["value"]
    ratio = than["billions"] / model["billions"]
    return f"{than['billions']}B / {model['billions']}B = {ratio:.2f}", int(ratio) == claim["value"]


def _difference(scores: dict[str, Any], benchmark: str, model: str, than: str) -> tuple[float, float, float] | None:
    """Return the measured accuracy of ``model`` less that of ``than`` on the same items, with its 95 % interval.

    All three are in points. Return None if the pair was not measured.
    """
    for row in scores.get("paired", []):
        sign = {(than, model): 100, (model, than): -100}.get((row["a"], row["b"]))
        if sign and row["benchmark"] == benchmark:
            low, high = sorted(sign * end for end in row["ci95"])
            return sign * row["delta"], low, high
    return None


def _measured(
    claim: dict[str, Any], models: dict[str, Any], benchmark: str, scores: dict[str, Any], measured: Collection[str]
) -> str:
    """Return ``yes``, ``no`` or ``undecided``, by the 95 % interval of the paired differences, with that difference."""
    if claim["check"] == "size":
        return NONE
    others = [key for key in models if key != claim["model"]] if claim["check"] == "highest" else [claim["than"]]
    found = {
        key: _difference(scores, benchmark, claim["model"], key)
        for key in others
        if {key, claim["model"]} <= set(measured)
    }
    if len(found) < len(others) or None in found.values():
        return NOT_MEASURED
    key = min(found, key=lambda name: found[name][0])
    delta, low, high = found[key]
    if claim["check"] == "gain":
        word = "yes" if low <= claim["value"] <= high else "no"
    else:
        word = (
            "yes"
            if all(one[1] > 0 for one in found.values())
            else "no"
            if any(one[2] < 0 for one in found.values())
            else "undecided"
        )
    numbers = f"{signed(delta)} [{signed(low)}, {signed(high)}]"
    return f"{word}: {numbers} against {models[key]['name']}" if len(others) > 1 else f"{word}: {numbers}"


def check_claims(
    published: dict[str, Any], scores: dict[str, Any] | None = None, measured: Collection[str] = ()
) -> list[ClaimCheck]:
    """Recompute each claim of published.yaml from its table: one check per claim and benchmark.

    ``measured``: the published models that are in ``scores`` (of scores.json) under their names. Claims on
    others are not measured. Raises GazalError, naming the claim, for an unknown check, model or benchmark.
    """
    checks = []
    for claim in published["claims"]:
        if claim["check"] not in {"highest", "above", "gain", "size"}:
            raise GazalError(f"published.yaml: claims: {claim['text']!r}: check: unknown {claim['check']!r}")
        rows = [(b, True) for b in claim.get("benchmarks", [])] + [(b, False) for b in claim.get("not_claimed", [])]
        for benchmark, claimed in rows or [("", True)]:
            try:
                numbers, holds = _judge(claim, published["models"], benchmark)
                name = published["benchmarks"][benchmark] if benchmark else "size"
            except KeyError as error:
                raise GazalError(
                    f"published.yaml: claims: {claim['text']!r}: no {error.args[0]!r} in the table"
                ) from error
            ours = _measured(claim, published["models"], benchmark, scores or {}, measured)
            checks.append(ClaimCheck(claim["text"], name, numbers, claimed, holds, ours))
    return checks
