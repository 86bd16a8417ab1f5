"""Speed of the rewards, and what each pays for: ours, TRL's and open-r1's formulas on the same completions, one process, one core.

`make bench-rewards`, or `python measure/rewards.py`. Writes `measure/results/rewards.json` and `rewards.md`, prints the latter.

Speed: distinct completions of about 300 tokens (the embedded tokenizer) in eleven forms, CPU seconds, the best of `repeats`.
Pay, on the red team's cases: a case's share is (total - wrong) / (right - wrong), where right and wrong are the totals of the
honest right and wrong answers to its item in the form that the system asks for. A case that does not answer with the key is
paid if its share is above PAID. A peer sees each case twice, as it stands and with its answer lines written in that peer's
form, and the better total counts: an attack knows its grader.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from completions import FORMS, TOKENIZER, Batch, cases_batch, honest_batch, token_ids
from peers import Peer, open_r1, trl
from tokenizers import Tokenizer
from trl.rewards import accuracy_reward as accuracy_of_trl

from gazal.answers.extract import extract
from gazal.common.files import atomic_write, write_json
from gazal.common.paths import RED_TEAM_CASES
from gazal.recipe.rewards import RewardConfig
from gazal.rewards.functions import accuracy_reward, format_reward, length_reward, repetition_reward, score_completion
from gazal.rewards.red_team import Case, honest_completion, read_cases
from gazal.rewards.trl import trl_reward_functions
from gazal.runs import code_version

ROOT = Path(__file__).resolve().parent.parent
GOAL = 20_000
PAID = 0.05
PACKAGES = ("trl", "math-verify", "tokenizers")
ANSWER_LINE = re.compile(r"^\**Answer:\** *(?P<letter>[A-J])(?:\. (?P<text>.*))?$", re.M)


def our_timings(batch: Batch, cfg: RewardConfig) -> dict[str, Callable[[], Any]]:
    """What is timed of ours: each reward alone (format and length are told what was extracted), then all four together."""
    rows = list(zip(batch.texts, batch.options, batch.keys, batch.ids, strict=True))
    found = [extract(text, options) for text, options, _, _ in rows]
    columns = {"options": batch.options, "answer_idx": batch.keys, "completion_ids": batch.ids}
    messages = batch.messages
    return {
        "accuracy": lambda: [accuracy_reward(extract(t, o), k) for t, o, k, _ in rows],
        "format": lambda: [format_reward(t, o, f, cfg) for (t, o, _, _), f in zip(rows, found, strict=True)],
        "length": lambda: [
            length_reward(len(ids), f.letter == k, cfg) for (_, _, k, ids), f in zip(rows, found, strict=True)
        ],
        "repetition": lambda: [repetition_reward(ids, cfg) for *_, ids in rows],
        "all four": lambda: [score_completion(t, o, k, token_ids=ids, cfg=cfg) for t, o, k, ids in rows],
        "all four, called by TRL": lambda: [reward(messages, **columns) for reward in trl_reward_functions(cfg)],
    }


def peer_timings(batch: Batch, peer: Peer) -> dict[str, Callable[[], Any]]:
    """What is timed of a peer: each reward alone, then those that make up its total, called one after the other."""
    columns = {
        "completions": batch.messages,
        "solution": [peer.solution.format(k) for k in batch.keys],
        "completion_ids": batch.ids,
    }
    calls: dict[str, Callable[[], Any]] = {
        name: (lambda part=part: part(**columns)) for name, part in (peer.parts | peer.extra).items()
    }
    return calls | {f"all {len(peer.parts)} of its total": lambda: [part(**columns) for part in peer.parts.values()]}


def speed(calls: dict[str, Callable[[], Any]], n: int, repeats: int) -> dict[str, float]:
    """Completions per CPU second of each call: `n` over the least of `repeats` timings (others on the machine only add), after one that does not count."""
    rates = {}
    for name, call in calls.items():
        times = []
        for _ in range(repeats + 1):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
        rates[name] = n / min(times[1:])
    return rates


def forms_read(peers: Sequence[Peer], options: dict[str, str], key: str) -> list[dict[str, Any]]:
    """Which of the honest forms earn accuracy with the right letter: ours, then each peer that has an accuracy reward."""
    reasoning = honest_completion(options, key).removeprefix("<think>\n").partition("\n</think>")[0]
    rows = []
    for name, form in FORMS.items():
        text = form.format(reasoning=reasoning, letter=key, text=options[key])
        row: dict[str, Any] = {"form": name, "Gazal": extract(text, options).letter == key}
        for peer in peers:
            if "accuracy" in peer.parts:
                row[peer.name] = (
                    peer.parts["accuracy"]([[{"content": text}]], solution=[peer.solution.format(key)])[0] == 1.0
                )
        rows.append(row)
    return rows


def peer_honest(peer: Peer, case: Case, letter: str) -> str:
    """The honest completion of `letter` to a case's item in the form that the peer asks for (it has no word for a prefilled think)."""
    thought = honest_completion(case.options, letter).partition("\n</think>")[0]
    return f"{thought}\n</think>\n{peer.answer.format(letter)}"


def totals_of(
    peer: Peer | None, cases: Sequence[Case], texts: Sequence[str], cfg: RewardConfig, tokenizer: Tokenizer
) -> list[float]:
    """Totals of `texts` as completions to the cases' items; peer None: ours."""
    ids = token_ids(texts, tokenizer)
    if peer is not None:
        return peer.total(
            [[{"role": "assistant", "content": text}] for text in texts], [case.answer_idx for case in cases], ids
        )
    return [
        score_completion(text, case.options, case.answer_idx, token_ids=i, cfg=cfg, think_open=case.think_open).total
        for case, text, i in zip(cases, texts, ids, strict=True)
    ]


def adapted(peer: Peer, case: Case) -> str:
    """The case with its plain answer lines (a letter, or a letter and its own option's text) written in the peer's form."""

    def swap(line: re.Match[str]) -> str:
        plain = line["text"] in (None, "", case.options.get(line["letter"]))
        return peer.answer.format(line["letter"]) if plain else line[0]

    return ANSWER_LINE.sub(swap, case.completion).replace("\n\n## Clinical Assessment\n", "\n")


def pay(peer: Peer | None, cases: Sequence[Case], cfg: RewardConfig, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Per case: family, id, total, the honest right and wrong totals, its share between them, whether it answers with the key, and is paid."""
    wrongs = [next(letter for letter in case.options if letter != case.answer_idx) for case in cases]
    honest = (
        (lambda case, letter: honest_completion(case.options, letter, case.think_open))
        if peer is None
        else partial(peer_honest, peer)
    )
    texts = [
        [case.completion for case in cases],
        [honest(c, c.answer_idx) for c in cases],
        [honest(c, x) for c, x in zip(cases, wrongs, strict=True)],
    ]
    own, right, wrong = (totals_of(peer, cases, column, cfg, tokenizer) for column in texts)
    if peer is not None:
        own = list(map(max, own, totals_of(peer, cases, [adapted(peer, case) for case in cases], cfg, tokenizer)))
    shares = [(o - w) / (r - w) for o, r, w in zip(own, right, wrong, strict=True)]
    return [
        {
            "family": c.family,
            "id": c.id,
            "total": o,
            "honest_right": r,
            "honest_wrong": w,
            "share": s,
            "with_key": c.letter == c.answer_idx,
            "paid": c.letter != c.answer_idx and s > PAID,
        }
        for c, o, r, w, s in zip(cases, own, right, wrong, shares, strict=True)
    ]


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, operating system, versions of Python and of what is compared."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or "unknown",
    )
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core only, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def measure(n: int, repeats: int, cases_file: Path) -> dict[str, Any]:
    """All figures. `n`: completions timed (a tenth of them where math-verify judges); raises GazalError for a bad cases file."""
    cfg, tokenizer = RewardConfig(), Tokenizer.from_file(str(TOKENIZER))
    peers, cases = [trl(cfg.max_tokens), open_r1()], read_cases(cases_file)
    honest = honest_batch(n, tokenizer)
    adverse = cases_batch(cases, tokenizer)
    speeds, timed = {"Gazal": speed(our_timings(honest, cfg), len(honest), repeats)}, {"Gazal": len(honest)}
    red = {"Gazal": speed({"all": our_timings(adverse, cfg)["all four"]}, len(adverse), repeats)["all"]}
    for peer in peers:
        batch = honest.take(max(n // 10, 1)) if peer.parts.get("accuracy") is accuracy_of_trl else honest
        timed[peer.name] = len(batch)
        speeds[peer.name] = speed(peer_timings(batch, peer), len(batch), repeats)
        red[peer.name] = speed({"all": list(peer_timings(adverse, peer).values())[-1]}, len(adverse), 1)["all"]
    paid = {
        peer.name if peer else "Gazal": pay(peer, cases, cfg, tokenizer)
        for peer in (None, *(p for p in peers if "accuracy" in p.parts))
    }
    return {
        "machine": machine(), "code": code_version(), "config": cfg.model_dump(), "repeats": repeats,
        "completions": {"n": timed, "mean_tokens": statistics.mean(map(len, honest.ids)), "mean_characters": statistics.mean(map(len, honest.texts))},
        "red_team": {"n": len(cases), "families": len({c.family for c in cases}), "mean_characters": statistics.mean(map(len, adverse.texts))},
        "completions_per_second": speeds, "red_team_per_second": red, "forms_read": forms_read(peers, cases[0].options, cases[0].answer_idx),
        "pay": paid, "left_out": {peer.name: peer.left_out for peer in peers if peer.left_out},
    }  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def markdown(results: dict[str, Any]) -> str:
    """The report: machine, speed, forms read, families paid."""
    m, c, r = results["machine"], results["completions"], results["red_team"]
    rates = results["completions_per_second"]
    speeds = [(system, name, f"{rate:,.0f}") for system, parts in rates.items() for name, rate in parts.items()]
    ours = rates["Gazal"]["all four"]
    systems = list(results["pay"])
    forms = [[f"`{row['form']}`", *("yes" if row[s] else "no" for s in systems)] for row in results["forms_read"]]
    return "\n\n".join([
        "# Rewards: speed, and what they pay for",
        f"{m['cpu']}, one core of {m['cores']}; {m['system']}, Python {m['python']}, "
        + ", ".join(f"{p} {m[p]}" for p in PACKAGES) + f"; code {results['code']}.",
        *(f"{system}: left out: {what}." for system, what in results["left_out"].items()),
        "## Speed",
        f"Completions per CPU second, best of {results['repeats']}: {c['n']['Gazal']:,} distinct completions (TRL: {c['n']['TRL']:,} of them) of {c['mean_tokens']:.0f} tokens "
        f"({c['mean_characters']:,.0f} characters) on average, token ids given. Ours, all four: {ours:,.0f} (goal {GOAL:,}: {'met' if ours >= GOAL else 'not met'}).",
        table(["system", "reward", "completions/s"], speeds),
        f"The red team ({r['n']} cases, {r['mean_characters']:,.0f} characters on average), the whole total: "
        + ", ".join(f"{system} {rate:,.0f}/s" for system, rate in results["red_team_per_second"].items()) + ".",
        "## Honest right answers that earn accuracy",
        "TRL judges mathematics: a bare letter as the solution gives None for every completion, so its solution is `\\boxed{C}` here.",
        table(["form", *systems], forms),
        "## Red-team families that are paid",
        "A case's share: 0 % is what the honest wrong answer earns in the system's own form, 100 % what the honest right one does. "
        f"*paid*: cases that get over {100 * PAID:.0f} %; *best*: the greatest share. Here are the cases that do not answer with the key. "
        "TRL and open-r1 see each as it stands and with its answer lines in their own form; the better one counts.",
        pay_table(results["pay"]),
        keyed_line(results["pay"]),
    ]) + "\n"  # fmt: skip


def pay_table(paid: dict[str, list[dict[str, Any]]]) -> str:
    """One row per family and one of all, of cases that do not answer with the key: each system's part that is paid, best share."""
    families = sorted({row["family"] for row in next(iter(paid.values())) if not row["with_key"]})
    head = ["family", "cases", *(f"{system}: {what}" for system in paid for what in ("paid", "best"))]
    rows = []
    for family in (*families, None):
        chosen = [
            [row for row in scored if not row["with_key"] and family in (None, row["family"])]
            for scored in paid.values()
        ]
        cells = [
            cell
            for own in chosen
            for cell in (
                f"{statistics.mean(row['paid'] for row in own):.0%}",
                f"{max(row['share'] for row in own):.0%}",
            )
        ]
        rows.append(["**all**" if family is None else family.replace("_", " "), len(chosen[0]), *cells])
    return table(head, rows)


def keyed_line(paid: dict[str, list[dict[str, Any]]]) -> str:
    """What the cases that do answer with the key get at most."""
    keyed = {system: [row["share"] for row in scored if row["with_key"]] for system, scored in paid.items()}
    most = ", ".join(f"{system} {max(shares, default=0):.0%}" for system, shares in keyed.items())
    return (
        f"Cases that do answer with the key, in a poor form ({len(next(iter(keyed.values())))}), get at most: {most}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write both files, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000, help="completions to time")
    parser.add_argument("--repeats", type=int, default=15, help="timings of which the best counts")
    parser.add_argument("--cases", type=Path, default=RED_TEAM_CASES, help="the red team's cases, JSON lines")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "measure" / "results", help="folder for rewards.json and rewards.md"
    )
    given = parser.parse_args(arguments)
    if given.n < 1 or given.repeats < 1:
        parser.error("--n and --repeats must be at least 1")
    with one_core():
        results = measure(given.n, given.repeats, given.cases)
    write_json(given.out / "rewards.json", results)
    report = markdown(results)
    with atomic_write(given.out / "rewards.md") as handle:
        handle.write(report)
    sys.stdout.write(report)


if __name__ == "__main__":
    main()
