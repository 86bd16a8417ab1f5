"""Steps of the GPU check that measure: the card, layers of the large models' widths, SmolLM2."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from gpu_steps import Run
from gpu_training import BF16, Clock, apart, grpo_items, losses, recipe, sft_items
from peft.tuners.lora.dora import DoraLinearLayer
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from gazal.common.devices import Devices, known_devices
from gazal.common.paths import EMBEDDED
from gazal.items.schema import TrainingExample
from gazal.models.generation import generate
from gazal.models.loading import load_tokenizer, lora_config
from gazal.planning.memory import Tokens, stage_memory
from gazal.planning.model_shapes import base_config, with_layers
from gazal.planning.work import generation_seconds, stage_work
from gazal.recipe.load import load_recipe
from gazal.recipe.recipe import ModelSection, Recipe
from gazal.rewards.trl import trl_reward_functions
from gazal.training.grpo import grpo_trainer
from gazal.training.rollouts import MergedModel
from gazal.training.sft import sft_dataset, sft_trainer

UTILISATION = 0.4  # that plans assume
WARM = 2  # steps that are not counted
MEMORY_GOAL, DORA_GOAL, MFU_GOAL = 0.1, 1.15, 0.45


def rate(run: Run, work: Callable[[], object], amount: float) -> float:
    """``amount`` of one call over its median seconds, of ten calls after three."""
    seconds = []
    for _ in range(13):
        began = run.synchronize()
        work()
        seconds.append(run.synchronize() - began)
    return amount / median(seconds[3:])


def data_sheet(run: Run) -> dict[str, Any]:
    """The shipped data sheet of this card, empty where it is not known."""
    name = "" if run.cpu else torch.cuda.get_device_name().lower().replace(" ", "")
    return next((known for key, known in known_devices().items() if key in name), {})


def copy_rate(run: Run) -> float:
    """Bytes a second, read and written."""
    source = torch.rand(run.sizes.copied // 4, device=run.device)
    target = torch.empty_like(source)
    return rate(run, lambda: target.copy_(source), 2 * source.nbytes)


def card(run: Run) -> None:
    """Step 1: what the data sheet's figures are worth here."""
    known = data_sheet(run)
    with run.check("copy on the device, bytes read and written") as found:
        speed = copy_rate(run)
        found.figures |= {"GB/s": speed / 1e9} | (
            {"share of the data sheet's": speed / known["bandwidth"]} if known else {}
        )
    with run.check(f"bf16 matrix product, {run.sizes.matrix} wide") as found:
        a, b = (torch.randn(run.sizes.matrix, run.sizes.matrix, device=run.device).bfloat16() for _ in range(2))
        speed = rate(run, lambda: torch.mm(a, b), 2 * run.sizes.matrix**3)
        found.figures |= {"TFLOP/s": speed / 1e12} | (
            {"share of the data sheet's": speed / known["flops"]} if known else {}
        )


def shape(run: Run, name: str, layers: int) -> PreTrainedConfig:
    """A hub model's shape with fewer layers, on a CPU narrower too."""
    config = with_layers(base_config(ModelSection(base=name)), layers)
    for key, value in (run.sizes.narrow or {}).items():
        setattr(config, key, value)
    return config


def random_model(run: Run, config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    """A model of random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(run.device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")


@contextmanager
def trained_from(make: Callable[[], PreTrainedModel]) -> Iterator[None]:
    """Trainers made inside train the model of ``make`` in place of what their recipe's base holds: random weights need no disk."""

    def load(recipe: Recipe, stage: str, *_: Any) -> tuple[PreTrainedModel, Any]:
        return make().train(), lora_config(getattr(recipe, stage).adapter)

    with patch("gazal.training.sft.load_trainable", load), patch("gazal.training.grpo.load_trainable", load):
        yield


def long_rows(run: Run, count: int, tokens: int) -> list[TrainingExample]:
    """Examples of at least ``tokens`` tokens: the trainer cuts them at its ``max_length``."""
    text = "\n".join(item.reasoning or "" for item in sft_items(run)) * (1 + tokens // 400)
    return [
        TrainingExample(id=str(n), question=f"{n}", reasoning=text[: 12 * tokens], response="Yes.")
        for n in range(count)
    ]


def large(run: Run, rows: int, tokens: int, *overrides: str) -> Recipe:
    """The 32B recipe for one device and steps of ``rows`` examples."""
    return load_recipe(
        "qwen3-32b",
        [
            "launch.processes=1",
            "launch.strategy=ddp",
            f"sft.batch_size={rows}",
            "sft.gradient_accumulation=1",
            f"sft.max_length={tokens}",
            "sft.warmup_steps=0",
            f"sft.adapter.rank={run.sizes.rank}",
            f"sft.adapter.alpha={run.sizes.rank}",
            "model.system=''",
            *(("sft.bf16=false", "model.dtype=float32") if run.cpu else ()),
            *overrides,
        ],
    )


def timed(run: Run, made: Recipe, config: PreTrainedConfig) -> tuple[Any, Clock, int]:
    """A trainer after a few steps on rows of ``sft.max_length`` tokens, its clock, and the bytes that lay on the device before."""
    before, clock = 0 if run.cpu else torch.cuda.memory_allocated(), Clock(run)
    count = made.sft.batch_size * (WARM + run.sizes.timed)
    dataset = sft_dataset(long_rows(run, count, made.sft.max_length), "")
    with trained_from(lambda: random_model(run, config, made.model.dtype)):
        trainer = sft_trainer(
            made, dataset, load_tokenizer(EMBEDDED, to_train=True), run.folder("trained"), [clock], save_strategy="no"
        )
    short = sum(len(row["input_ids"]) < made.sft.max_length for row in trainer.train_dataset)
    if short:
        raise RuntimeError(f"{short} of {count} rows have fewer than {made.sft.max_length} tokens")
    trainer.train()
    clock.seconds = clock.seconds[WARM:]
    return trainer, clock, before


def devices(run: Run) -> Devices:
    """This card for a plan, which gives no times where the data sheet is not known."""
    known, memory = data_sheet(run), 0.0 if run.cpu else float(torch.cuda.get_device_properties(0).total_memory)
    return Devices(1, 1, memory, known.get("flops", 0.0), known.get("bandwidth", 0.0), "this card")


def widths_32b(run: Run) -> None:
    """Step 6."""
    parts, config = run.sizes, shape(run, "Qwen/Qwen3-32B", run.sizes.layers_32b)
    made, trainer = large(run, 1, parts.row_32b), None
    with run.check(
        f"SFT step, {parts.layers_32b} layers, DoRA rank {parts.rank}, {parts.row_32b} tokens, beside gazal plan"
    ) as found:
        trainer, clock, before = timed(run, made, config)
        tokens = Tokens(parts.row_32b, parts.row_32b, 64)
        plan = stage_memory(made, config, "sft", tokens, devices(run))
        planned = plan.peak - plan.parts["framework"]  # which is not the allocator's
        one = made.model_copy(update={"data": made.data.model_copy(update={"sft": 1})})
        work = stage_work(one, config, "sft", tokens, devices(run), UTILISATION)
        found.figures |= {"ms/step": 1e3 * median(clock.seconds), "planned GB": planned / 1e9}
        found.expect(all(map(math.isfinite, losses(trainer))), "a loss is not finite")
        if not run.cpu:
            measured = clock.memory - before
            found.figures |= {"measured GB": measured / 1e9, "planned / measured - 1": planned / measured - 1}
            if data_sheet(run):
                found.figures |= {"MFU": mfu(trainer), "planned ms/step at 40 % MFU": 3.6e6 * work.hours}
            found.expect(
                abs(planned / measured - 1) <= MEMORY_GOAL,
                f"the plan misses the measured memory by more than {MEMORY_GOAL:.0%}",
                "missed",
            )
    if trainer is None:
        return
    policy, tokenizer = trainer.accelerator.unwrap_model(trainer.model), load_tokenizer(EMBEDDED)
    trainer.optimizer = trainer.lr_scheduler = None
    merged = None
    with run.check("copy of merged weights") as found:
        merged = MergedModel(policy)
        found.figures |= {"ms/refresh": 1e3 / rate(run, merged.refresh, 1.0), "MB": merged.copied_bytes / 1e6}
    if merged is None:
        return
    for rows in parts.decode_rows:
        with run.check(f"decoding a token, {rows} rows") as found:
            through, plain = (decode(run, model, tokenizer, rows) for model in (policy, merged.model))
            planned = [
                generation_seconds(made, config, rows, 64, 64, devices(run), UTILISATION, unmerged) / 64
                for unmerged in (made.sft.adapter, None)
            ]
            found.figures |= {
                "ms/token through the adapter": 1e3 * through,
                "ms/token merged": 1e3 * plain,
                "ratio": through / plain,
            }
            if data_sheet(run):
                found.figures |= {"planned through the adapter": 1e3 * planned[0], "planned merged": 1e3 * planned[1]}


def decode(run: Run, model: Any, tokenizer: Any, rows: int) -> float:
    """Seconds a decoded token of ``rows`` rows, the prompt's pass left out."""
    prompt = tokenizer("Step 1: " * 64)["input_ids"]
    assert len(prompt) == 64, len(prompt)

    def seconds(tokens: int) -> float:
        began = run.synchronize()
        made = list(generate(model, tokenizer, [prompt] * rows, max_new_tokens=tokens, batch_tokens=2**30))
        assert all(len(one.ids) == tokens for one in made), "a row ended early"
        return run.synchronize() - began

    short, long = (min(seconds(tokens) for _ in range(3)) for tokens in (4, 4 + run.sizes.decoded))
    return (long - short) / run.sizes.decoded


def mfu(trainer: Any) -> float:
    """The median of the logged utilisation of a card whose data sheet is known."""
    return median([row["mfu"] for row in trainer.state.log_history if "loss" in row][WARM:])


def factor_norm(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, squares: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ‖w + s·BA‖ of each output in fp32 as √(‖w‖² + 2s⟨w, BA⟩ + s²‖BA‖²) from the factors (peft#3387): no outputs × inputs matrix is made.

    ``weight``: outputs × inputs, ``a``: rank × inputs, ``b``: outputs × rank; ``squares``: ‖w‖² of each output, where it is known.
    """
    squares = weight.float().square().sum(1) if squares is None else squares
    cross = ((weight @ a.to(weight.dtype).T).float() * b).sum(1)
    own = ((b @ (a @ a.T)) * b).sum(1)
    return (squares + 2 * scale * cross + scale**2 * own).clamp(min=0).sqrt()


@contextmanager
def norm_from_factors() -> Iterator[None]:
    """DoRA's layers with :func:`factor_norm`, which reads the base's weights in their own dtype. PEFT's make s·BA through an
    identity matrix, and the base's weights anew in fp32, in each forward pass."""

    def forward(
        self: Any,
        x: torch.Tensor,
        *,
        lora_A: Any,
        lora_B: Any,
        scaling: float,
        base_layer: Any,
        base_result: torch.Tensor,
        adapter_name: str = "default",
    ) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if not hasattr(self, "squares"):  # the base is frozen
                self.squares = base_layer.weight.float().square().sum(1)
            norm = factor_norm(base_layer.weight, lora_A.weight, lora_B.weight, scaling, self.squares)
        ratio = (self.weight / norm).view(1, -1)
        change = lora_B(lora_A(x))
        return (ratio - 1).to(base_result.dtype) * base_result + (ratio * scaling).to(change.dtype) * change

    with patch.object(DoraLinearLayer, "forward", forward):
        yield


def norms_apart(run: Run, trainer: Any) -> float:
    """The largest relative difference of :func:`factor_norm` and PEFT's norm over all adapted layers, both in fp32."""
    worst = 0.0
    for layer in trainer.accelerator.unwrap_model(trainer.model).modules():
        if hasattr(layer, "lora_magnitude_vector"):
            a, b, scale, weight = (
                layer.lora_A["default"].weight,
                layer.lora_B["default"].weight,
                layer.scaling["default"],
                layer.base_layer.weight.float(),
            )
            with torch.no_grad():
                exact = layer.lora_magnitude_vector["default"].get_weight_norm(weight, b @ a, scale)
                worst = max(worst, ((factor_norm(weight, a, b, scale) - exact).abs() / exact).max().item())
    return worst


def widths_8b(run: Run) -> None:
    """Step 7."""
    parts, config = run.sizes, shape(run, "Qwen/Qwen3-8B", run.sizes.layers_8b)
    seconds: dict[bool, float] = {}  # of LoRA
    curves: dict[str, list[float]] = {}
    for checkpointing in (True, False):
        for name, dora, patched in (
            ("LoRA", False, nullcontext),
            ("DoRA", True, nullcontext),
            ("DoRA, norm from its factors", True, norm_from_factors),
        ):
            with (
                run.check(
                    f"SFT step, {parts.layers_8b} layers, {name}, checkpointing {'on' if checkpointing else 'off'}"
                ) as found,
                patched(),
            ):
                made = large(
                    run,
                    parts.batch_8b,
                    parts.row_8b,
                    f"sft.adapter.dora={str(dora).lower()}",
                    "sft.logits=chunked",
                    f"sft.gradient_checkpointing={str(checkpointing).lower()}",
                )
                trainer, clock, before = timed(run, made, config)
                curves[name], mine = losses(trainer), median(clock.seconds)
                found.figures["ms/step"] = 1e3 * mine
                if not dora:
                    seconds[checkpointing] = mine
                elif checkpointing in seconds:
                    found.figures["time / LoRA's"] = mine / seconds[checkpointing]
                found.expect(all(map(math.isfinite, curves[name])), "a loss is not finite")
                if dora and name != "DoRA":
                    found.figures["largest relative difference of norms"] = norms_apart(run, trainer)
                    if "DoRA" in curves:
                        found.figures["of losses, to PEFT's DoRA"] = apart(curves[name], curves["DoRA"])
                    found.expect(found.figures["largest relative difference of norms"] < 1e-4, "the two norms differ")
                if not run.cpu:
                    found.figures["peak GB"] = (clock.memory - before) / 1e9
                    found.expect(
                        mine <= DORA_GOAL * seconds.get(checkpointing, mine),
                        f"goal: at most {DORA_GOAL} times LoRA",
                        "missed",
                    )
                    if data_sheet(run):
                        found.figures["MFU"] = mfu(trainer)
                        found.expect(mfu(trainer) >= MFU_GOAL, f"goal: MFU of at least {MFU_GOAL:.0%}", "missed")
                del trainer


def smollm2(run: Run) -> None:
    """Step 10: the real model where its folder travels in the pack, else random weights of its shape, for speed alone."""
    folder = run.pack / "smollm2"
    real = (folder / "config.json").is_file()
    what = "SmolLM2-135M" if real else "random weights of SmolLM2-135M's shape (build/gpu/smollm2 is not there)"
    base = folder if real else EMBEDDED
    rows = run.sizes.smol_rows
    made = recipe(run, f"sft.batch_size={rows}", f"model.base={base}", "sft.max_length=512", *(() if run.cpu else BF16))
    config = shape(run, "HuggingFaceTB/SmolLM2-135M", 2 if run.cpu else 30)
    tokenizer = load_tokenizer(base, to_train=True)
    with nullcontext() if real else trained_from(lambda: random_model(run, config, made.model.dtype)):
        with run.check(f"SFT steps of {rows} examples, {what}") as found:
            clock, items = Clock(run), sft_items(run)
            trainer = sft_trainer(
                made, sft_dataset(items, ""), tokenizer, run.folder("sft"), [clock], save_strategy="no"
            )
            trainer.train()
            logged = [row for row in trainer.state.log_history if "loss" in row]
            found.figures |= {
                "ms/step": 1e3 * median(clock.seconds),
                "tokens/s": median([row["tokens_per_second"] for row in logged]),
            }
            found.figures |= {"first loss": logged[0]["loss"], "last loss": logged[-1]["loss"]}
        with run.check(f"GRPO steps of {run.sizes.prompts} × {run.sizes.generations} completions, {what}") as found:
            clock = Clock(run)
            functions = trl_reward_functions(made.grpo.rewards, tokenizer.eos_token_id)
            trainer = grpo_trainer(
                made,
                grpo_items(run),
                folder if real else EMBEDDED,
                tokenizer,
                functions,
                run.folder("grpo"),
                [clock],
                save_strategy="no",
            )
            trainer.train()
            logged = [row for row in trainer.state.log_history if "loss" in row]
            tokens = [row["completions/mean_length"] * run.sizes.prompts * run.sizes.generations for row in logged]
            found.figures |= {
                "s/step": median(clock.seconds),
                "completion tokens/s, training included": tokens[-1] / clock.seconds[-1],
                "mean tokens": logged[-1]["completions/mean_length"],
            }
