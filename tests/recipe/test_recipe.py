"""Recipes: strict keys and types, overrides, and a source for every value."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gazal.common.errors import GazalError
from gazal.common.paths import RECIPES
from gazal.knowledge.base_train import BaseTraining
from gazal.recipe.data import SourceSection
from gazal.recipe.load import dump_recipe, load_recipe
from gazal.recipe.recipe import Recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(GazalError) as caught:
        load_recipe(name, list(overrides))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def values(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Description of each field that holds a value (not a section), by its dotted key."""
    found = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= values(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.description or ""
    return found


def test_three_recipes_are_shipped() -> None:
    assert {"embedded", "mixed", "qwen3-32b"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_loads_under_its_own_name(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_value_in_a_shipped_file_is_followed_by_its_source(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    body = [line for line in text.splitlines() if ":" in line and not line.lstrip().startswith("#")]
    plain = [
        line
        for line in body
        if line.split("#")[0].split(":", 1)[1].strip() not in ("", "&adapter") and not line.startswith("name:")
    ]
    keys = [line for line in plain if line.lstrip("- ").split(":")[0].replace("_", "").isalnum()]
    assert len(keys) >= 3
    assert not [
        line for line in keys if not any(word in line.partition("#")[2] for word in ("paper", "card", "chosen"))
    ]


def test_the_paper_recipe_holds_the_published_values() -> None:
    recipe = load_recipe("qwen3-32b")
    assert recipe.model.base == "Qwen/Qwen3-32B"
    for adapter in (recipe.sft.adapter, recipe.grpo.adapter):
        assert adapter.rank == 256 and adapter.dora and adapter.rslora
    assert recipe.evaluation.benchmark_limit is None and recipe.evaluation.max_new_tokens == 2048
    assert [(one.name, one.use, one.shape, one.weight) for one in recipe.data.sources] == [
        ("TachyHealth/structured_medical", "sft", "structured_medical", 107_033),
        ("UCSC-VLAA/MedReason", "sft", "medreason", 32_682),
        ("TachyHealth/medical_grpo", "grpo", "medical_grpo", 1),
    ]
    assert recipe.data.sft == 107_033 + 32_682 and recipe.data.grpo == 32_000


def test_the_cards_sampling_and_greedy_differ_in_sampling_alone() -> None:
    card, greedy = load_recipe("card"), load_recipe("greedy")
    sampling = ("temperature", "top_p", "top_k", "max_new_tokens")
    assert [getattr(card.evaluation, key) for key in sampling] == [0.7, 0.8, 20, 2048]
    assert [getattr(greedy.evaluation, key) for key in sampling] == [0.0, 1.0, 0, 2048]
    assert (
        card.evaluation.model_copy(update={key: getattr(greedy.evaluation, key) for key in sampling})
        == greedy.evaluation
    )
    assert card.model == greedy.model and card.model.system == load_recipe("qwen3-32b").model.system


@pytest.mark.parametrize(
    ("key", "description"),
    [
        *values(Recipe).items(),
        *values(SourceSection, "data.sources.0.").items(),
        *values(BaseTraining, "base_training.").items(),
    ],
)
def test_every_field_says_what_it_is_and_where_its_value_is_from(key: str, description: str) -> None:
    what, marker, source = description.partition("source:")
    assert marker and len(what.strip()) >= 3, f"{key}: no description with a source"
    assert source.split()[0].strip(",") in {"paper", "card", "chosen"} and "\n" not in description


def test_round_trip_of_a_shipped_recipe(tmp_path: Path) -> None:
    for name in SHIPPED:
        recipe = load_recipe(name)
        assert load_recipe(write(tmp_path / f"{name}.yaml", dump_recipe(recipe))) == recipe


@settings(max_examples=25)
@given(
    rate=st.floats(1e-12, 10, allow_nan=False),
    seed=st.integers(0, 2**31),
    rank=st.integers(1, 512),
    dora=st.booleans(),
    target=st.one_of(
        st.just("all-linear"), st.lists(st.sampled_from(["q_proj", "v_proj", "up_proj"]), min_size=1, max_size=3)
    ),
    limit=st.none() | st.integers(1, 10**6),
)
def test_round_trip_of_any_override(tmp_path_factory, rate, seed, rank, dora, target, limit) -> None:
    overrides = {
        "sft.learning_rate": rate,
        "seed": seed,
        "grpo.adapter.rank": rank,
        "sft.adapter.dora": dora,
        "sft.adapter.target_modules": target,
        "evaluation.benchmark_limit": limit,
    }
    texts = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]}"
        for key, value in overrides.items()
    ]
    recipe = load_recipe("embedded", texts)
    assert (recipe.sft.learning_rate, recipe.seed, recipe.grpo.adapter.rank, recipe.sft.adapter.dora) == (
        rate,
        seed,
        rank,
        dora,
    )
    assert recipe.sft.adapter.target_modules == target and recipe.evaluation.benchmark_limit == limit
    saved = write(tmp_path_factory.getbasetemp() / "any.yaml", dump_recipe(recipe))
    assert load_recipe(saved) == recipe


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("5E-6", 5e-6), ("1.5e-3", 1.5e-3), ("+2e-3", 2e-3), ("0.0001", 1e-4), ("1", 1.0)],
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, number: float) -> None:
    assert load_recipe("embedded", [f"sft.learning_rate={text}"]).sft.learning_rate == number
    assert load_recipe(write(tmp_path / "r.yaml", f"sft:\n  learning_rate: {text}\n")).sft.learning_rate == number


@pytest.mark.parametrize("word", ["on", "off", "template"])
def test_thinking_is_on_or_off_as_people_write_it(tmp_path: Path, word: str) -> None:
    """YAML 1.1 reads on and off as true and false."""
    recipe = load_recipe("embedded", [f"evaluation.thinking={word}"])
    assert recipe.evaluation.thinking == word and load_recipe(write(tmp_path / "r.yaml", dump_recipe(recipe))) == recipe
    path = write(
        tmp_path / "s.yaml", f"evaluation: {{thinking: {word}}}\nmodels: {{m: {{model: a/b, thinking: {word}}}}}\n"
    )
    assert load_recipe(path).evaluation.thinking == load_recipe(path).models["m"].thinking == word


@pytest.mark.parametrize("text", ["", "''", '""'])
def test_an_empty_text_is_empty_whether_the_shell_leaves_its_quotes_or_not(text: str) -> None:
    assert load_recipe("qwen3-32b", [f"model.system={text}"]).model.system == ""
    assert load_recipe("card", [f"evaluation.few_shot_items={text}", "threads=null"]).evaluation.few_shot_items == ""


def test_overrides_apply_in_order_and_only_where_they_say() -> None:
    recipe = load_recipe("embedded", ["sft.epochs=2", "sft.epochs=3", "evaluation.stages=[base, sft]", "threads=null"])
    assert (recipe.sft.epochs, recipe.evaluation.stages, recipe.threads) == (3, ["base", "sft"], None)
    assert recipe.grpo == load_recipe("embedded").grpo


def test_an_override_of_one_adapter_leaves_the_other_that_shares_a_yaml_anchor() -> None:
    recipe = load_recipe("qwen3-32b", ["sft.adapter.rank=8"])
    assert (recipe.sft.adapter.rank, recipe.grpo.adapter.rank) == (8, 256)


def test_an_override_reaches_into_a_list() -> None:
    recipe = load_recipe("mixed", ["data.sources.0.name=./my.jsonl", "data.sources.3.weight=2e-1"])
    plain = load_recipe("mixed")
    assert (recipe.data.sources[0].name, recipe.data.sources[3].weight) == ("./my.jsonl", 0.2)
    assert (
        recipe.data.sources[1:3] == plain.data.sources[1:3]
        and recipe.data.sources[0].limit == plain.data.sources[0].limit
    )
    whole = load_recipe(
        "mixed",
        [
            "data.sources.0={name: synth, use: sft, shape: synth}",
            "data.sources.2.name=my.jsonl",
            "data.sources.2.shape=items",
        ],
    )
    assert whole.data.sources[0].limit is None and whole.data.sources[2].shape == "items"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sources.5.name=x", "data.sources is a list of 5: '5' is not a number from 0 to 4"),
        ("data.sources.-1.name=x", "'-1' is not a number from 0 to 4"),
        ("data.sources.first.name=x", "'first' is not a number"),
        ("data.sources.7={}", "'7' is not a number"),
        ("sft.0.x=1", "sft is no list in the recipe file"),
    ],
)
def test_a_bad_list_index_is_named(override: str, message: str) -> None:
    assert message in refusal("mixed", override) and override.split("=")[0] in refusal("mixed", override)


@pytest.mark.parametrize("key", ["typo", "sft.lr", "grpo.rewards.bonus", "sft.adapter.r", "nowhere.at.all", "a..b"])
def test_unknown_key_is_named(key: str) -> None:
    message = refusal("embedded", f"{key}=1")
    assert "unknown key" in message and key.split("..")[0].split(".at")[0] in message


def test_unknown_key_in_a_file_names_file_and_key(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "mine.yaml", "sft:\n  learning_rat: 1.0e-4\n"))
    assert "mine.yaml" in message and "sft.learning_rat" in message


@pytest.mark.parametrize(
    "override",
    [
        "sft.learning_rate=fast",
        "sft.learning_rate=-1",
        "sft.learning_rate=.nan",
        "sft.learning_rate=.inf",
        "sft.learning_rate=",
        "sft.learning_rate=true",
        "sft.batch_size=2.5",
        "sft.batch_size='8'",
        "sft.batch_size=0",
        "data.sft=1e3",
        "sft.adapter.dora=1",
        "sft.adapter.rank=[16]",
        "model.dtype=float16",
        "data.sources=web",
        "data.sources=[]",
        "data.sources=[{name: synth, use: rl, shape: synth}]",
        "grpo.num_generations=1",
        "evaluation.stages=[base, rl]",
        "evaluation.top_p=1.5",
        "grpo.rewards.accuracy_weight=0",
        "name=a/b",
        "seed=-1",
        "sft=5",
    ],
)
def test_wrong_type_or_value_names_file_and_key(override: str) -> None:
    message = refusal("embedded", override)
    assert "embedded.yaml" in message and override.split("=")[0] in message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("grpo.batch_size=7", "batch_size"),
        ("grpo.pass_rate_low=1.0", "pass_rate_low"),
        ("grpo.max_completion_length=4096", "grpo.max_completion_length"),
        ("grpo.rewards.cosine_wrong_long=2.0", "cosine_"),
    ],
)
def test_impossible_combination_names_the_key(override: str, key: str) -> None:
    message = refusal("embedded", override)
    assert "embedded.yaml" in message and key in message


def test_a_longer_completion_is_possible_with_a_longer_context() -> None:
    assert load_recipe("embedded", ["grpo.max_completion_length=4096", "model.base=some/model"]).model_limit == 32_768


@pytest.mark.parametrize(
    "override", ["sft.learning_rate", "=3", "", "seed.x=1", "sft.learning_rate='1e-4", "sft.learning_rate=[1"]
)
def test_override_that_is_no_key_and_value(override: str) -> None:
    message = refusal("embedded", override)
    assert "override" in message and override.split("=")[0] in message


@pytest.mark.parametrize("name", ["embeded", "", "recipes", "missing.yaml", "/no/such/place.yml"])
def test_unknown_recipe_lists_the_known_ones(name: str) -> None:
    message = refusal(name)
    assert repr(name) in message and "embedded" in message and "qwen3-32b" in message


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words\n", "a: [1\n b: :\n", "1: 2\n", "sft:\n"])
def test_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    assert "odd.yaml" in refusal(write(tmp_path / "odd.yaml", text))


def test_binary_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\x00name")
    assert "odd.yaml" in refusal(str(tmp_path / "odd.yaml"))


def test_yaml_tags_are_never_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    message = refusal(write(tmp_path / "evil.yaml", f'name: !!python/object/apply:os.mkdir ["{target}"]\n'))
    assert "evil.yaml" in message and not target.exists()


def test_an_empty_file_is_the_default_recipe(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "empty.yaml", "")) == Recipe()
