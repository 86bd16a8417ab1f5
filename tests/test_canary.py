"""The private names and deep modules of other packages that this project leans on: one test each.

A new release may change them without a word. `pytest -m canary` against the newest releases says which.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Trainer
from trl import GRPOTrainer, SFTTrainer

pytestmark = pytest.mark.canary

TRAINERS = (Trainer, SFTTrainer, GRPOTrainer)
# What gazal's mixins override or call, with the arguments that they take or give.
METHODS = {
    "_get_output_dir": ("trial",),  # trainer/checkpoints.py
    "_save_checkpoint": ("model", "trial"),
    "_run_epoch": ("model", "epoch", "train_dataloader"),
    "create_model_card": (),
    "create_accelerator_and_postprocess": (),  # trainer/processes.py
    "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
    "_get_num_items_in_batch": ("batch_samples", "device"),
    "save_model": ("output_dir", "_internal_call"),
    "_save": ("output_dir", "state_dict"),
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "training_step": ("model", "inputs"),  # trainer/throughput.py
    "compute_loss": ("model", "inputs"),
}
# (the method that calls, what it calls, how many arguments at most by position): an override must be reached.
CALLS = [
    ("_save_checkpoint", "_get_output_dir", 1),
    ("_save_checkpoint", "save_model", 1),
    ("_save_checkpoint", "_save_optimizer_and_scheduler", 1),
    ("_run_epoch", "get_batch_samples", 3),
    ("get_batch_samples", "_get_num_items_in_batch", 2),
]
# Deep modules, the names used of them, and the arguments that those must take.
FUNCTIONS = [
    ("transformers.integrations.sdpa_attention", "sdpa_attention_forward", ("module", "query", "key", "value")),
    ("transformers.masking_utils", "sdpa_mask", ()),
    ("transformers.utils.peft_utils", "find_adapter_config_file", ("revision",)),
    ("trl.trainer.utils", "entropy_from_logits", ("logits",)),
    (
        "trl.trainer.utils",
        "selective_log_softmax_and_entropy",
        ("logits", "index", "entropy_requires_grad", "row_mask"),
    ),
    ("trl.rewards", "get_soft_overlong_punishment", ("max_completion_len", "soft_punish_cache")),
    ("trl.rewards", "get_repetition_penalty_reward", ("ngram_size", "max_penalty")),
    ("accelerate.utils", "broadcast_object_list", ("object_list",)),
    ("accelerate.utils.operations", "convert_outputs_to_fp32", ("model_forward",)),
    ("accelerate.commands.launch", "launch_command_parser", ()),  # training/launch.py and its tests
    ("accelerate.commands.launch", "_validate_launch_command", ("args",)),
    ("accelerate.commands.config.config_args", "load_config_from_file", ("config_file",)),
    ("accelerate.utils.launch", "prepare_multi_gpu_env", ("args",)),
    ("huggingface_hub.file_download", "repo_folder_name", ("repo_id", "repo_type")),
    ("torch.utils._pytree", "tree_iter", ("tree",)),
]
CONSTANTS = [
    ("transformers.trainer", "OPTIMIZER_NAME", "optimizer.pt"),
    ("transformers.trainer", "SCHEDULER_NAME", "scheduler.pt"),
    ("transformers.trainer_utils", "PREFIX_CHECKPOINT_DIR", "checkpoint"),
    ("transformers.utils", "ADAPTER_SAFE_WEIGHTS_NAME", "adapter_model.safetensors"),
    ("trl.trainer.sft_trainer", "_CHUNKED_LM_HEAD_CHUNK_SIZE", int),
    ("trl.trainer.grpo_trainer", "_CHUNKED_LOGPROB_CHUNK_SIZE", int),
]


def find(module: str, name: str) -> Any:
    """What ``module`` calls ``name``; the test fails if there is no such thing."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{module}.{name} is gone ({error})")


def takes(function: Callable[..., Any], where: str, arguments: tuple[str, ...]) -> None:
    """Fail if ``function`` does not take each of ``arguments`` by name."""
    there = inspect.signature(function).parameters
    missing = [name for name in arguments if name not in there]
    assert not missing, f"{where} no longer takes {', '.join(missing)}: it takes {', '.join(there)}"


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_trainer_has_the_method_that_is_overridden(trainer: type, name: str) -> None:
    assert hasattr(trainer, name), f"{trainer.__name__}.{name} is gone: an override of it would never run"
    if trainer is Trainer or "kwargs" not in inspect.signature(getattr(trainer, name)).parameters:
        takes(getattr(trainer, name), f"{trainer.__name__}.{name}", METHODS[name])


@pytest.mark.parametrize(("caller", "called", "most"), CALLS)
def test_the_trainer_calls_what_is_overridden(caller: str, called: str, most: int) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(Trainer, caller))))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == f"self.{called}"
    ]
    assert calls, f"Trainer.{caller} no longer calls self.{called}"
    assert all(len(call.args) <= most for call in calls), f"Trainer.{caller} gives self.{called} more than it takes"


@pytest.mark.parametrize("called", ["_run_epoch", "_save_checkpoint", "_load_optimizer_and_scheduler"])
def test_the_trainer_calls_from_some_method(called: str) -> None:
    tree = ast.parse(inspect.getsource(Trainer))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == f"self.{called}"
    ]
    assert calls, f"no method of Trainer calls self.{called}: an override of it would never run"
    if called == "_run_epoch":
        assert not any(call.args for call in calls), "Trainer gives self._run_epoch arguments by position"


@pytest.mark.parametrize(("module", "name", "arguments"), FUNCTIONS, ids=str)
def test_a_deep_function_is_there(module: str, name: str, arguments: tuple[str, ...]) -> None:
    takes(find(module, name), f"{module}.{name}", arguments)


@pytest.mark.parametrize(("module", "name", "value"), CONSTANTS)
def test_a_deep_constant_is_there(module: str, name: str, value: object) -> None:
    found = find(module, name)
    right = isinstance(found, value) and found > 0 if isinstance(value, type) else found == value
    assert right, f"{module}.{name} is {found!r} now"


def test_a_config_names_its_attention() -> None:
    config = Qwen3Config(num_hidden_layers=1)
    config._attn_implementation = "sdpa"
    assert config._attn_implementation == "sdpa", (
        "PretrainedConfig._attn_implementation does not keep what is put there"
    )


def test_a_config_has_its_commit() -> None:
    assert hasattr(Qwen3Config(), "_commit_hash"), "PretrainedConfig._commit_hash is gone"


def test_a_cache_layer_can_be_subclassed() -> None:
    layer = find("transformers.cache_utils", "DynamicLayer")
    for name in ("lazy_initialization", "update", "batch_select_indices", "get_seq_length"):
        assert hasattr(layer, name), f"DynamicLayer.{name} is gone"
    takes(layer.lazy_initialization, "DynamicLayer.lazy_initialization", ("key_states", "value_states"))
    states = torch.zeros(1, 1, 2, 4)
    made = layer()
    keys, _ = made.update(states, states)
    assert keys.shape == states.shape and made.keys is not None, "DynamicLayer does not hold its keys in .keys"


def test_a_cache_has_layers_that_can_be_replaced() -> None:
    cache = find("transformers", "DynamicCache")(config=Qwen3Config(num_hidden_layers=2))
    assert isinstance(cache.layers, list) and len(cache.layers) == 2, "DynamicCache.layers is no list of its layers"


@pytest.mark.parametrize("interface", ["AttentionInterface", "AttentionMaskInterface"])
def test_an_attention_can_be_registered(interface: str) -> None:
    takes(find("transformers", interface).register, f"{interface}.register", ("key", "value"))


def test_sft_counts_its_tokens() -> None:
    source = inspect.getsource(find("trl.trainer.sft_trainer", "SFTTrainer"))
    assert "self._total_train_tokens = 0" in source, "SFTTrainer._total_train_tokens is gone: checkpoints would lose it"


def test_grpo_takes_a_rollout_function() -> None:
    find("trl.trainer.grpo_trainer", "RolloutFunc")
    takes(GRPOTrainer.__init__, "GRPOTrainer", ("rollout_func",))
    source = inspect.getsource(GRPOTrainer)
    assert "self.rollout_func(prompts, self)" in source, "GRPOTrainer calls its rollout_func in another way"


def test_a_lora_layer_merges_and_keeps_caches() -> None:
    lora, base = import_module("peft.tuners.lora"), find("peft.tuners.tuners_utils", "BaseTunerLayer")
    config = find("peft", "LoraConfig")(r=2, lora_alpha=2, use_dora=True)
    made = lora.Linear(torch.nn.Linear(4, 4), "default", config=config, r=2, lora_alpha=2)
    assert isinstance(made, base) and isinstance(made.base_layer, torch.nn.Linear)
    takes(made.merge, "peft.tuners.lora.Linear.merge", ("safe_merge",))
    assert isinstance(made._caches, dict), "LoraLayer._caches is no dict: rollouts clear it after a merge"
    made.merge(safe_merge=True)
    assert made.merged_adapters == ["default"], "a merge no longer shows in LoraLayer.merged_adapters"


def test_accelerates_state_is_one_dict() -> None:
    state = find("accelerate", "PartialState")
    alone = state(cpu=True)
    assert state._shared_state.get("distributed_type") == alone.distributed_type, (
        "PartialState._shared_state no longer holds distributed_type"
    )


@pytest.mark.parametrize("name", ["MULTI_CPU", "MULTI_GPU"])
def test_accelerate_knows_the_distributed_type(name: str) -> None:
    assert hasattr(find("accelerate.utils", "DistributedType"), name), f"DistributedType.{name} is gone"


@pytest.mark.parametrize("name", ["end_of_dataloader", "remainder"])
def test_accelerates_gradient_state_says_where_an_epoch_ends(name: str) -> None:
    assert hasattr(find("accelerate.state", "GradientState")(), name), f"GradientState.{name} is gone"


def test_dataset_cards_are_made_from_these() -> None:
    splits = find("datasets.splits", "SplitDict").from_split_dict([{"name": "a", "num_bytes": 1, "num_examples": 2}])
    assert splits["a"].num_examples == 2, "SplitDict.from_split_dict reads another shape"
    for module, name in (("datasets.info", "DatasetInfosDict"), ("datasets.utils.metadata", "MetadataConfigs")):
        assert hasattr(find(module, name), "to_dataset_card_data"), f"{name}.to_dataset_card_data is gone"


def test_a_stored_tensor_has_an_address() -> None:
    assert isinstance(torch.zeros(1).untyped_storage()._cdata, int), "UntypedStorage._cdata is gone"


@pytest.mark.parametrize("name", ["_parameters", "_buffers"])
def test_a_module_keeps_its_tensors_in_dicts(name: str) -> None:
    assert isinstance(getattr(torch.nn.BatchNorm1d(1), name, None), dict), f"torch.nn.Module.{name} is no dict"


def test_operations_can_be_counted_on_fake_tensors() -> None:
    fake = find("torch._subclasses.fake_tensor", "FakeTensorMode")
    assert hasattr(find("torch.utils._python_dispatch", "TorchDispatchMode"), "__torch_dispatch__")
    assert torch.ops.aten.mm in find("torch.utils.flop_counter", "flop_registry"), "flop_registry has no matrix product"
    with fake():
        assert (torch.zeros(2, 3) @ torch.zeros(3, 4)).shape == (2, 4)
