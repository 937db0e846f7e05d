"""The arguments of `vllm serve`: what they contain, and that nothing in a saved model becomes an option among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mogu import MoguConfig
from mogu.errors import ConfigError, ModelFileError, MoguError
from mogu.modeling.checkpoint import accept_files
from mogu.modeling.config import BackboneConfig
from mogu.modeling.prompt_contract import record_prompt
from mogu.serving.vllm_args import named_adapters, named_folders, serve_arguments
from tests.gated_models import gated_config

OPTIONS = ("--tool-parser-plugin=model/adapter_notes.py", "--trust-remote-code", "-h", "--", "-")
UNPRINTABLE = ("", " ", " some/base", "some/base\n", "some/\x00base", "\x1b]0;title\x07", "some\u2028base", "some\x85base")


@pytest.fixture
def folder(make_pair, tmp_path) -> Path:
    config = MoguConfig(base_model="some/base", base_revision="abc", backbone=BackboneConfig())
    make_pair("llama", config=config)[0].save_pretrained(tmp_path / "safer")
    return tmp_path / "safer"


@pytest.fixture
def v1_folder(make_pair, tmp_path) -> Path:
    config = MoguConfig(rank=4, lora_alpha=12, layers=[0, 2], base_model="some/base", base_revision="abc")
    make_pair("llama", config=config)[0].save_pretrained(tmp_path / "safer")
    return tmp_path / "safer"


def arguments_for(folder: Path, base_model: str | None = None) -> list[str]:
    return serve_arguments(named_folders([str(folder)]), base_model=base_model, host="127.0.0.1", options=[])


@pytest.mark.parametrize("value", [*OPTIONS, *UNPRINTABLE])
@pytest.mark.parametrize("field", ["base_model", "base_revision"])
def test_a_config_with_an_option_as_a_name_is_refused_wherever_it_is_read(folder, field, value):
    file = folder / "mogu_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ConfigError, match=rf"mogu_config.json: {field} is .*Expected: a hub id, a folder or a revision"):
        arguments_for(folder)
    with pytest.raises(ConfigError, match=field):
        MoguConfig(**{field: value})
    config = MoguConfig()
    with pytest.raises(ConfigError, match=field):
        setattr(config, field, value)


@pytest.mark.parametrize("value", [*OPTIONS, *UNPRINTABLE])
def test_a_base_model_on_the_command_line_is_checked_too(folder, value):
    with pytest.raises(ConfigError, match="--base-model is "):
        arguments_for(folder, base_model=value)


@pytest.mark.parametrize(
    "value", ["meta-llama/Llama-2-7b-chat-hf", "./-base", "my models/my base", "../base", "模型/基", "C:\\models\\base"]
)
def test_hub_ids_and_folders_are_passed_on_unchanged(folder, value, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if value.startswith((".", "my")):
        Path(value).mkdir(parents=True)
    assert MoguConfig(base_model=value, base_revision="refs/pr/1").base_model == value
    assert arguments_for(folder, base_model=value)[0] == value


@pytest.mark.parametrize("name", ["--trust-remote-code", "-h", "a=b", "a,b", "a\nb"])
def test_a_folder_whose_name_vllm_would_misparse_is_refused(folder, name):
    renamed = folder.rename(folder.parent / name)
    with pytest.raises(ConfigError, match=r"(name of a saved model is|The saved model).*What to do: "):
        named_folders([str(renamed)])


@pytest.mark.parametrize("part", ["unwill", "backbone"])
def test_a_module_with_the_name_of_an_option_is_refused(folder, part):
    for adapter in ("unwill", "glad") if part == "unwill" else (part,):
        file = folder / adapter / "adapter_model.safetensors"
        save_file({key.replace("_proj.lora", "_proj.--trust-remote-code.lora"): value for key, value in load_file(file).items()}, file)
    accept_files(folder)
    with pytest.raises(ModelFileError, match="called '--trust-remote-code'"):
        arguments_for(folder)


def test_no_text_field_of_a_config_adds_an_option(folder):
    """Every text field is set to an option in turn, whether or not it is put on the command line today."""
    file = folder / "mogu_config.json"
    config = json.loads(file.read_text())
    own = [argument for argument in arguments_for(folder) if argument.startswith("-")]
    own += [f"--chat-template={folder / 'chat_template.jinja'}"]  # a template is served as a file of this name
    for field, annotation in MoguConfig.model_fields.items():
        if "str" in str(annotation.annotation):
            file.write_text(json.dumps(config | {field: "--trust-remote-code"}))
            try:
                served = arguments_for(folder)
            except MoguError:
                continue
            assert {argument for argument in served if argument.startswith("-")} <= set(own)


def test_the_models_and_their_needs_are_options_of_vllm_unless_the_caller_sets_them(v1_folder):
    arguments = serve_arguments(
        {"safer": v1_folder}, base_model=None, host="127.0.0.1", options=["--port", "9", "--lora-modules", "a=b", "c=d", "--enforce-eager"]
    )
    assert arguments[:3] == ["some/base", "--host", "127.0.0.1"]
    modules = arguments.index("--lora-modules")
    assert arguments[modules + 1 : modules + 4] == [f"safer={v1_folder}", "a=b", "c=d"]
    assert arguments.count("--lora-modules") == 1
    assert arguments[arguments.index("--revision") + 1] == "abc"
    assert arguments[arguments.index("--max-lora-rank") + 1] == "16"
    assert arguments[arguments.index("--max-loras") + 1] == "3"
    assert arguments[-3:] == ["--port", "9", "--enforce-eager"]
    assert "--lora-target-modules" not in arguments  # the other LoRA modules may adapt any layer

    alone = serve_arguments({"safer": v1_folder}, base_model="elsewhere", host="::1", options=["--max-lora-rank=64", "--max-loras", "2"])
    assert alone[0] == "elsewhere"
    assert "--revision" not in alone
    assert alone[alone.index("--lora-target-modules") + 1] == "o_proj"
    assert alone[-3:] == ["--max-lora-rank=64", "--max-loras", "2"]
    assert alone.count("--max-loras") == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "mogu_config.json").unlink(), "holds no mogu_config.json"),
        (lambda folder: (folder / "glad" / "adapter_model.safetensors").unlink(), "adapter_model.safetensors does not exist"),
        (lambda folder: (folder / "router.safetensors").write_bytes(b""), "router.safetensors"),
    ],
)
def test_a_broken_folder_is_one_clear_error(v1_folder, damage, message):
    damage(v1_folder)
    with pytest.raises(MoguError, match=message):
        serve_arguments({"safer": v1_folder}, base_model=None, host="127.0.0.1", options=[])


def test_models_that_cannot_be_served_together_are_refused(v1_folder, make_pair, tmp_path):
    other, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, base_model="another/base"))
    other.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "elsewhere" / "safer")
    with pytest.raises(MoguError, match="different base models: another/base, some/base"):
        serve_arguments(named_folders([str(v1_folder), str(tmp_path / "other")]), base_model=None, host="127.0.0.1", options=[])
    with pytest.raises(MoguError, match="Two saved models are called 'safer'"):
        named_folders([str(v1_folder), str(tmp_path / "elsewhere" / "safer")])
    with pytest.raises(MoguError, match="nowhere"):
        named_folders([str(tmp_path / "nowhere")])


def trained_with(make_pair, tokenizer, folder: Path, system_prompt: str) -> Path:
    model, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, base_model="some/base"))
    record_prompt(model.mogu_config, tokenizer, system_prompt)
    model.save_pretrained(folder)
    return folder


def test_models_are_served_with_the_template_they_were_trained_with(make_pair, tokenizer, tmp_path, caplog):
    first = trained_with(make_pair, tokenizer, tmp_path / "first", "Be kind.")
    second = trained_with(make_pair, tokenizer, tmp_path / "second", "Be kind.")
    other = trained_with(make_pair, tokenizer, tmp_path / "other", "Be brief.")
    host = {"base_model": None, "host": "127.0.0.1"}
    (option,) = [one for one in arguments_for(first) if one.startswith("--chat-template")]
    assert option == f"--chat-template={first / 'chat_template.jinja'}"
    both = serve_arguments(named_folders([str(first), str(second)]), options=[], **host)
    assert sum(one.startswith("--chat-template") for one in both) == 1
    with pytest.raises(ConfigError, match="different chat templates or system prompts"):
        serve_arguments(named_folders([str(first), str(other)]), options=[], **host)
    named = serve_arguments(named_folders([str(first), str(other)]), options=["--chat-template", "mine.jinja"], **host)
    assert named[-2:] == ["--chat-template", "mine.jinja"]
    assert sum(one.startswith("--chat-template") for one in named) == 1
    assert str(other / "chat_template.jinja") in caplog.text


def test_workers_are_told_what_the_gates_read(make_gated, v1_folder, tmp_path):
    gated, _ = make_gated("llama", gated_config(careful=None).model_copy(update={"base_model": "some/base"}))
    gated.save_pretrained(tmp_path / "gated")
    host = {"base_model": "some/base", "host": "127.0.0.1"}
    arguments = serve_arguments(named_folders([str(v1_folder), str(tmp_path / "gated")]), options=[], **host)
    assert json.loads(arguments[arguments.index("--additional-config") + 1]) == {"mogu_taps": [0, 1]}
    assert "--additional-config" not in serve_arguments(named_folders([str(v1_folder)]), options=[], **host)
    with pytest.raises(ConfigError, match="--additional-config is given"):
        serve_arguments(named_folders([str(tmp_path / "gated")]), options=["--additional-config={}"], **host)


def test_a_careful_responder_takes_a_slot_and_its_modules_get_some(make_gated, tmp_path):
    gated, _ = make_gated("llama", gated_config().model_copy(update={"base_model": "some/base"}))
    gated.save_pretrained(tmp_path / "gated")
    arguments = arguments_for(tmp_path / "gated")
    assert arguments[arguments.index("--max-loras") + 1] == "2"
    modules = arguments.index("--lora-target-modules")
    assert arguments[modules + 1 : modules + 8] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_adapters_are_named_in_either_form():
    options = ["--port", "1", "--lora-modules", "a=x", '{"name": "b", "path": "y=z"}', "--seed", "3"]
    assert named_adapters(options) == {"a": "x", "b": "y=z"}
    assert named_adapters(["--port", "1"]) == {}


@pytest.mark.parametrize("value", ["path", "=path", "a,b=path", "{", '{"path": "x"}', '["a"]'])
def test_adapters_without_a_name_are_one_error(value):
    with pytest.raises(ConfigError, match="--lora-modules is given"):
        named_adapters(["--lora-modules", value])


def test_glad_is_not_served_by_itself(make_pair, tmp_path):
    make_pair("llama", config=MoguConfig(base_model="tiny"))[0].save_pretrained(tmp_path / "safer")
    (tmp_path / "link").symlink_to(tmp_path / "safer" / "glad")
    for path in (tmp_path / "safer" / "glad", tmp_path / "link"):
        for value in (f"x={path}", json.dumps({"name": "x", "path": str(path)})):
            with pytest.raises(ConfigError, match="trained to comply"):
                named_adapters(["--lora-modules", value])
    assert named_adapters(["--lora-modules", f"x={tmp_path / 'safer' / 'unwill'}"])
