"""What ships with the package: every recipe is listed, found by name, copied whole, and never mistaken for a file of the user's."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from mogu import MoguError
from mogu.finetuning import read_finetune_recipe
from mogu.hub import load_tokenizer
from mogu.recipes import (
    copy_shipped,
    find_recipe,
    find_template,
    model_shape,
    shipped_machines,
    shipped_recipe,
    shipped_recipes,
    shipped_template,
    shipped_templates,
)
from mogu.training import plan, read_recipe
from tests.launched import FSDP, plan_as_one_of

MODELS = (
    *("baichuan2-7b-chat", "dolphin", "falcon-7b-instruct", "llama-2-7b-chat", "llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "smollm2"),
    "vicuna-7b",
)
NAMES = {
    *(f"{folder}{name}" for folder in ("", "v1/") for name in MODELS),
    *(f"{folder}/{name}" for folder in ("v2", "finetuning") for name in ("falcon-7b-instruct", "llama-2-7b-chat", "qwen2.5-7b-instruct")),
    *("v2/vicuna-7b", "finetuning/vicuna-7b", "v2/smollm2"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, far from any clone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_is_listed_once_with_what_it_says() -> None:
    recipes = shipped_recipes()
    assert len(recipes) == len(NAMES)
    assert {recipe.name for recipe in recipes} == NAMES
    for recipe in recipes:
        assert recipe.command == ("finetune" if recipe.name.startswith("finetuning/") else "train")
        methods = {"v1": "v1", "v2": "v2", "finetuning": "lora, data-mix"}
        assert recipe.method == methods.get(recipe.name.partition("/")[0], "gated")
        tree = tomllib.loads(recipe.path.read_text())
        assert (recipe.base_model, recipe.template) == (tree["model"]["base"], tree["model"].get("chat_template"))
        assert recipe.template is None or recipe.template in shipped_templates()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_is_read_as_the_file_of_that_name(name: str) -> None:
    read = read_finetune_recipe if name.startswith("finetuning/") else read_recipe
    assert read(Path(name)) == read(shipped_recipe(name).path)
    copy = copy_shipped(name)
    assert read(copy) == read(Path(name))
    assert copy.read_bytes() == shipped_recipe(name).path.read_bytes()


def test_every_base_model_has_the_config_of_its_family() -> None:
    families = {"baichuan2": "baichuan", "qwen2.5": "qwen2", "falcon": "falcon"}  # the others are Llamas
    for recipe in shipped_recipes():
        assert model_shape(recipe.base_model) == recipe.shape
        family = families.get(recipe.name.rpartition("/")[2].partition("-")[0], "llama")
        assert json.loads((recipe.shape / "config.json").read_text())["model_type"] == family
    assert model_shape("someone/another-model") is None


def test_a_file_of_the_same_name_is_taken_before_what_ships(elsewhere: Path) -> None:
    own = elsewhere / "vicuna"
    own.write_text("{{ messages[0].content }}")
    assert find_template(Path("vicuna")) == Path("vicuna")
    (elsewhere / "vicuna-7b").mkdir()  # a folder is no recipe, and hides none
    assert find_recipe(Path("vicuna-7b")) == shipped_recipe("vicuna-7b").path
    (elsewhere / "dolphin").write_text("[model]")
    assert find_recipe(Path("dolphin")) == Path("dolphin")


@pytest.mark.parametrize("path", ["vicuna-7b.toml", "recipes/vicuna-7b.toml"])
def test_a_missing_file_is_never_replaced_by_what_ships_under_its_name(path: str) -> None:
    with pytest.raises(MoguError, match=r"no such file.*write vicuna-7b without \.toml"):
        read_recipe(Path(path))


def test_an_unknown_recipe_points_to_the_list() -> None:
    with pytest.raises(MoguError, match="mogu recipes ls"):
        read_recipe(Path("gpt-7"))


@pytest.mark.parametrize("named", ["vicuna", "recipes/templates/vicuna.jinja"])
def test_a_template_is_found_by_name_and_where_earlier_files_say_it_is(
    named: str, tokenizer: PreTrainedTokenizerFast, elsewhere: Path
) -> None:
    tokenizer.save_pretrained(elsewhere / "base")
    loaded = load_tokenizer("./base", chat_template=Path(named))
    asked = [{"role": "user", "content": "Why?"}]
    prompt = loaded.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert str(prompt).endswith(" USER: Why? ASSISTANT:")


@pytest.mark.parametrize(
    "named", ["none.jinja", "templates/vicuna", "../templates/vicuna", "vicuna.jinja", "elsewhere/templates/vicuna.jinja"]
)
def test_an_unknown_template_names_those_that_ship(named: str) -> None:
    assert shipped_template(Path(named)) is None
    with pytest.raises(MoguError, match="baichuan2, dolphin, falcon, vicuna"):
        find_template(Path(named))


def test_copies_go_where_they_are_wanted_and_recipes_of_one_model_beside_each_other(elsewhere: Path) -> None:
    (elsewhere / "mine").mkdir()
    copies = [
        copy_shipped("vicuna-7b"),
        copy_shipped("v2/vicuna-7b"),
        copy_shipped("finetuning/vicuna-7b", Path("mine")),
        copy_shipped("templates/vicuna"),
        copy_shipped("accelerate/8x80gb"),
        copy_shipped("dolphin", Path("new/folder/my.toml")),
    ]
    expected = ["vicuna-7b.toml", "v2-vicuna-7b.toml", "mine/finetuning-vicuna-7b.toml", "vicuna.jinja"]
    expected += ["accelerate-8x80gb.yaml", "new/folder/my.toml"]
    assert [copy.as_posix() for copy in copies] == expected
    assert sorted(path.relative_to(elsewhere).as_posix() for path in elsewhere.rglob("*") if path.is_file()) == sorted(expected)


@pytest.mark.parametrize(("machine", "processes"), [("24gb", 1), ("80gb", 1), ("8x80gb", 8)])
def test_accelerate_reads_the_configs_of_machines(machine: str, processes: int) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    config = load_config_from_file(str(copy_shipped(f"accelerate/{machine}")))
    assert isinstance(config, ClusterConfig)
    assert config.num_processes == processes
    assert config.distributed_type.value == ("NO" if processes == 1 else "FSDP")
    assert not config.use_cpu
    assert machine in shipped_machines()


def test_accelerate_tells_the_processes_of_eight_gpus_to_share_the_base_model() -> None:
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    settings = yaml.safe_load(copy_shipped("accelerate/8x80gb").read_text())["fsdp_config"]
    machine = ["--num_processes=8", "--num_machines=1", "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]
    words = ["--use_fsdp", *machine, *(f"--{name}={value}" for name, value in settings.items()), "training.py"]
    told = prepare_multi_gpu_env(launch_command_parser().parse_args(words))
    assert {name: told[name] for name in FSDP} == FSDP
    assert told["FSDP_OFFLOAD_PARAMS"] == "false"  # which training refuses otherwise


@pytest.mark.parametrize(
    ("gigabytes", "settings"),
    [(24, ["run.gradient_checkpointing=true", "run.micro_batch_size=2"]), (80, [])],
)
def test_what_the_configs_say_of_memory_is_what_the_dry_run_counts(
    gigabytes: int, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Llama 3.1 8B, the largest model of a recipe."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    needed = plan(read_recipe(Path("llama-3.1-8b-instruct"), ["data.train=starter", "data.dev=starter", *settings])).memory_bytes
    assert needed < 0.95 * gigabytes * 2**30  # what is sold as 80 GB has 80 GiB; some are CUDA's own


def test_seventy_billion_parameters_fit_on_eight_gpus_that_share_them(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shape of Llama 3.1 70B: 80 layers of 855,654,400 parameters, and 128,256 tokens · 8,192 before them and behind."""
    folder = model_shape("meta-llama/Llama-3.1-8B-Instruct")
    assert folder is not None
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    (elsewhere / "base").mkdir()
    (elsewhere / "base" / "config.json").write_text(json.dumps(shape))
    settings = ["model.base=base", "data.train=starter", "data.dev=starter", "run.gradient_checkpointing=true", "run.micro_batch_size=1"]
    recipe = read_recipe(Path("llama-3.1-8b-instruct"), settings)
    whole = plan(recipe)
    layer, rest = 855_654_400, 2 * 128_256 * 8192 + 8192
    assert whole.base_parameters == 80 * layer + rest

    plan_as_one_of(8, monkeypatch)
    parts = plan(recipe)
    # In bfloat16, beside an eighth of the layers three that are whole at a time.
    assert whole.stages[0].memory_bytes - parts.stages[0].memory_bytes == 2 * (80 * layer - 10 * layer - 3 * layer)
    assert parts.memory_bytes < 0.95 * 80 * 2**30 < whole.memory_bytes
    assert any("each of 8 processes" in note for note in parts.notes)


def test_nothing_is_overwritten(elsewhere: Path) -> None:
    (elsewhere / "vicuna-7b.toml").write_text("mine")
    (elsewhere / "link.toml").symlink_to("nowhere")
    for target in (None, Path("vicuna-7b.toml"), Path("link.toml")):
        with pytest.raises(MoguError, match="exists already"):
            copy_shipped("vicuna-7b", target)
    assert (elsewhere / "vicuna-7b.toml").read_text() == "mine"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["link.toml", "vicuna-7b.toml"]


@pytest.mark.parametrize(
    "name", ["nothing", "templates/nothing", "templates/../vicuna-7b", "configs/vicuna-7b", "accelerate/1", "/etc/passwd", ""]
)
def test_only_what_is_listed_can_be_copied(name: str, elsewhere: Path) -> None:
    with pytest.raises(MoguError, match="no shipped recipe"):
        copy_shipped(name)
    assert not list(elsewhere.iterdir())


def test_listing_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, mogu.recipes; mogu.recipes.shipped_recipes(); assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
