"""``gazal teach``: plan, estimate, send under a cap, judge, write."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gazal import DISCLAIMER
from gazal.common.endpoints import public_endpoint, public_model, usable_url
from gazal.common.errors import GazalError
from gazal.common.files import atomic_write, write_json
from gazal.items.writing import write_items_jsonl
from gazal.teacher.accept import Reason, Rules, accept
from gazal.teacher.client import Cap, Prices, Teacher
from gazal.teacher.ledger import Ledger
from gazal.teacher.plan import Request, Task, make_requests, seed_tasks, topic_tasks

SHOWN = 300  # characters of a rejected text


def read_rules(settings: list[str]) -> Rules:
    """Return acceptance rules from ``name=value`` pairs.

    Raises GazalError for an unknown name or a wrong value.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in Rules.model_fields:
            raise GazalError(f"--rule {setting}: expected name=value with one of {', '.join(Rules.model_fields)}")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise GazalError(f"--rule {setting}: not a value") from error
    try:
        return Rules(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise GazalError(f"--rule {first['loc'][0]}: {first['msg']}") from error


def check_endpoint(url: str | None) -> str:
    """Return the endpoint's address, from the option or ``OPENAI_BASE_URL``. Raises GazalError if it is no address."""
    url = url or os.environ.get("OPENAI_BASE_URL", "")
    if not url:
        raise GazalError("no endpoint: give --endpoint URL or set OPENAI_BASE_URL, such as http://localhost:8000/v1")
    if not usable_url(url):
        raise GazalError("--endpoint: expected http(s)://host[:port]/path, such as http://localhost:8000/v1")
    return url


def estimate_lines(requests: list[Request], total: int, ledger: Ledger, prices: Prices, cap: Cap) -> list[str]:
    """Return lines on what it may cost to send ``requests`` (of ``total``)."""
    prompt, bound = sum(r.prompt_estimate for r in requests), sum(r.prompt_bound for r in requests)
    longest = sum(r.body["max_tokens"] for r in requests)
    most = prices.bill(bound, longest)
    lines = [
        f"estimate: {len(requests)} requests to send, {total - len(requests)} of {total} answered before; "
        f"about {prompt:,} prompt tokens (characters / 4)"
    ]
    if (mean := ledger.mean_completion) is not None:
        likely = prices.bill(prompt, round(mean * len(requests)))
        lines.append(
            f"  likely: {likely.tokens:,} tokens, ${likely.usd:.4f}, "
            f"at {mean:.0f} completion tokens (the mean of {ledger.counted} answers so far)"
        )
    else:
        lines.append("  likely: not known before the first answer")
    lines.append(
        f"  at most: {most.tokens:,} tokens, ${most.usd:.4f}, "
        "with every completion at its limit and a prompt token for each byte"
    )
    if ledger.booked.tokens:
        lost = f", {ledger.lost} requests that were in flight at a kill at the most they can cost included"
        lines.append(
            f"  booked before: {ledger.booked.tokens:,} tokens, ${ledger.booked.usd:.4f}{lost if ledger.lost else ''}"
        )
    if not cap.allows(ledger.booked + most):
        lines.append("  the cap is lower than this may cost: asking stops where the next request could pass it")
    return lines


def teach(
    model: str,
    endpoint: str | None,
    out: str | Path,
    *,
    seeds: Path | None = None,
    topics: Path | None = None,
    n: int | None = None,
    samples: int = 1,
    concurrency: int = 8,
    max_tokens: int = 2048,
    temperature: float = 0.7,
    prices: Prices = Prices(),
    cap: Cap = Cap(),
    seed: int = 0,
    estimate_only: bool = False,
    confirm: Callable[[str], bool] | None = None,
    rules: Rules = Rules(),
    timeout: float = 600.0,
    attempts: int = 6,
    first_wait: float = 1.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Prompt the teacher and write ``out/examples.jsonl``, ``rejected.jsonl``, ``report.json`` and ``README.md``.

    Returns the report. ``cap`` bounds all that this folder ever booked. ``confirm`` is called once, after the estimate,
    when there is something to send. A second call sends only what has no answer yet and judges everything anew. Raises
    GazalError for bad input, an endpoint that cannot be used, and, after writing, for requests that stayed unanswered.
    """
    if (seeds is None) == (topics is None):
        raise GazalError("give one of --seeds and --topics")
    tasks = seed_tasks(seeds, n, seed) if seeds else topic_tasks(topics, n, seed)
    to_requests = partial(
        make_requests, model=model, samples=samples, max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    if estimate_only:
        cap = Cap()
    elif cap == Cap():
        raise GazalError(
            "no cap: give --max-cost USD (with --price-in and --price-out) or --max-total-tokens N, or --estimate-only"
        )
    elif cap.usd is not None and not (prices.prompt or prices.completion):
        raise GazalError(
            "--max-cost: needs --price-in and --price-out, in USD for a million tokens; "
            "where nothing is charged, --max-total-tokens"
        )
    endpoint, out, began = check_endpoint(endpoint), Path(out), time.monotonic()
    requests = [request for task in tasks for request in to_requests(task)]
    ledger = Ledger(out, say)
    try:
        missing = list({request.key: request for request in requests if request.key not in ledger.answers}.values())
        for line in estimate_lines(missing, len(requests), ledger, prices, cap):
            say(line)
        if estimate_only:
            return {}
        teacher = Teacher(endpoint, ledger, prices, cap, concurrency, timeout, attempts, first_wait, say)
        if missing:
            if confirm and not confirm(f"Send up to {len(missing)} requests to {public_endpoint(endpoint)}?"):
                raise GazalError("nothing sent")
            teacher.ask(missing)
        about = {
            "endpoint": public_endpoint(endpoint),
            "wall_seconds": round(time.monotonic() - began, 1),
            "stopped": "cap" if teacher.capped else "unanswered" if teacher.unanswered else None,
            "cap": asdict(cap),
            "prices_usd_per_million": asdict(prices),
            "sampling": {"samples": samples, "temperature": temperature, "max_tokens": max_tokens, "seed": seed},
        }
        report = _write(out, tasks, to_requests, ledger, rules, model, about)
    finally:
        ledger.close()
    counts, booked = report["counts"], report["booked"]
    say(
        f"{out}: {counts['accepted']} of {counts['tasks']} examples accepted; "
        f"{counts['answered']} of {counts['requests']} requests answered"
    )
    say(f"rejected: {', '.join(f'{reason} {number}' for reason, number in report['rejected'].items()) or 'none'}")
    uncounted = report["tokens"]["answers_without_usage"]
    without = f"; {uncounted} answers came without usage and are booked at their most" if uncounted else ""
    say(f"booked: {booked['tokens']:,} tokens, ${booked['usd']:.4f}{without}")
    if teacher.capped:
        say("stopped at the cap: the next request could have passed it; a higher cap and the same command go on")
    say(DISCLAIMER)
    if teacher.unanswered:
        raise GazalError(
            f"{out}: {len(teacher.unanswered)} requests failed at every attempt; the same command asks them again"
        )
    return report


def _write(
    out: Path,
    tasks: list[Task],
    to_requests: Callable[[Task], list[Request]],
    ledger: Ledger,
    rules: Rules,
    model: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Judge what the ledger holds and write all four files, in a stream: only the copies' shingles stay in memory."""
    name = public_model(model)
    counts, rejected, kinds, specialties, served = Counter(), Counter(), {}, {}, set()

    def read(request: Request) -> dict[str, Any] | None:
        line = ledger.read(request)
        if line:
            served.add(line["response"]["model"])
        return line

    def examples(log: Any) -> Any:
        for found in accept(tasks, to_requests, read, rules, name):
            counts["answered"] += 1
            for table, key in ((kinds, found.task.kind), (specialties, found.task.specialty)):
                table.setdefault(key, Counter(answered=0, accepted=0)).update(
                    answered=1, accepted=int(found.example is not None)
                )
            if found.example:
                yield found.example
                continue
            reasons = [reason.value for reason in found.reasons]
            rejected.update(reasons)
            counts["rejected"] += reasons != [Reason.SURPLUS]
            row = {"id": found.task.id, "sample": found.sample, "reasons": reasons, "text": found.text[:SHOWN]}
            log.write(json.dumps(row) + "\n")

    with atomic_write(out / "rejected.jsonl") as log:
        accepted = write_items_jsonl(out / "examples.jsonl", examples(log))
    report = {
        "model": name,
        "served_as": sorted(served),
        **about,
        "counts": {
            "tasks": len(tasks),
            "requests": len(tasks) * about["sampling"]["samples"],
            "answered": counts["answered"],
            "accepted": accepted,
            "rejected": counts["rejected"],
        },
        "rejected": dict(rejected.most_common()),
        "by_type": kinds,
        "by_specialty": specialties,
        "tokens": {
            "prompt": ledger.prompt_tokens,
            "completion": ledger.completion_tokens,
            "answers_without_usage": ledger.uncounted,
        },
        "booked": {
            "tokens": ledger.booked.tokens,
            "usd": round(ledger.booked.usd, 6),
            "lost_in_flight": ledger.lost,
            "failed_attempts": ledger.failures,
        },
        "answer_seconds": round(ledger.seconds, 1),
        "rules": rules.model_dump(),
        "disclaimer": DISCLAIMER,
    }
    write_json(out / "report.json", report)
    with atomic_write(out / "README.md") as card:
        card.write(
            f"# Structured clinical reasoning examples\n\n{accepted} examples, written by the language model {name} "
            f"and accepted by rule from {counts['answered']} answers; no clinician has reviewed them. "
            "The model's own licence and terms govern their use. `report.json` has counts, cost and rules, "
            f"`rejected.jsonl` the reasons, `responses.jsonl` every response as it came.\n\n{DISCLAIMER}\n"
        )
    return report


def ask_terminal(question: str) -> bool:
    """Return yes or no from the terminal. Raises GazalError without a terminal."""
    if not sys.stdin.isatty():
        raise GazalError("nothing sent: give --yes to send without being asked, or --estimate-only")
    return input(f"{question} [y/N] ").strip().casefold() in ("y", "yes")
