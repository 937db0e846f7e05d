"""What a saved model says never becomes an option of vLLM's command line, whichever of its fields says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mogu import MoguConfig
from mogu.errors import ConfigError, ModelFileError, MoguError
from mogu.modeling.config import BackboneConfig
from mogu.serving.vllm_args import named_folders, serve_arguments

OPTIONS = ("--tool-parser-plugin=model/adapter_notes.py", "--trust-remote-code", "-h", "--", "-")
UNPRINTABLE = ("", " ", " some/base", "some/base\n", "some/\x00base", "\x1b]0;title\x07", "some\u2028base", "some\x85base")


@pytest.fixture
def folder(make_pair, tmp_path) -> Path:
    config = MoguConfig(base_model="some/base", base_revision="abc", backbone=BackboneConfig())
    make_pair("llama", config=config)[0].save_pretrained(tmp_path / "safer")
    return tmp_path / "safer"


def arguments(folder: Path, base_model: str | None = None) -> list[str]:
    return serve_arguments(named_folders([str(folder)]), base_model=base_model, host="127.0.0.1", options=[])


@pytest.mark.parametrize("value", [*OPTIONS, *UNPRINTABLE])
@pytest.mark.parametrize("field", ["base_model", "base_revision"])
def test_a_config_that_names_an_option_is_refused_wherever_it_is_read(folder, field, value):
    file = folder / "mogu_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ConfigError, match=rf"mogu_config.json: {field} is .*Expected: a hub id, a folder or a revision"):
        arguments(folder)
    with pytest.raises(ConfigError, match=field):
        MoguConfig(**{field: value})
    config = MoguConfig()
    with pytest.raises(ConfigError, match=field):
        setattr(config, field, value)


@pytest.mark.parametrize("value", [*OPTIONS, *UNPRINTABLE])
def test_a_base_model_named_on_the_command_line_is_held_to_the_same(folder, value):
    with pytest.raises(ConfigError, match="--base-model is "):
        arguments(folder, base_model=value)


@pytest.mark.parametrize("value", ["meta-llama/Llama-2-7b-chat-hf", "./-base", "/models/my base", "../base", "模型/基", "C:\\models\\base"])
def test_hub_ids_and_folders_are_taken_as_they_are(folder, value):
    assert MoguConfig(base_model=value, base_revision="refs/pr/1").base_model == value
    assert arguments(folder, base_model=value)[0] == value


@pytest.mark.parametrize("name", ["--trust-remote-code", "-h", "a=b", "a,b", "a\nb"])
def test_a_folder_whose_name_vllm_would_misread_is_refused(folder, name):
    renamed = folder.rename(folder.parent / name)
    with pytest.raises(ConfigError, match=r"(name of a saved model is|The saved model).*What to do: "):
        named_folders([str(renamed)])


@pytest.mark.parametrize("part", ["unwill", "backbone"])
def test_a_module_that_is_called_like_an_option_is_refused(folder, part):
    for one in ("unwill", "glad") if part == "unwill" else (part,):
        file = folder / one / "adapter_model.safetensors"
        save_file({key.replace("_proj.lora", "_proj.--trust-remote-code.lora"): value for key, value in load_file(file).items()}, file)
    with pytest.raises(ModelFileError, match="called '--trust-remote-code'"):
        arguments(folder)


def test_every_argument_that_begins_with_a_dash_is_mogu_s_own(folder):
    """Whatever field of a config comes to be put on the command line: with an option in every text field, none gets through."""
    file = folder / "mogu_config.json"
    kept = json.loads(file.read_text())
    own = [argument for argument in arguments(folder) if argument.startswith("-")]
    own += [f"--chat-template={folder / 'chat_template.jinja'}"]  # a template is served as a file of this name
    for field, annotation in MoguConfig.model_fields.items():
        if "str" in str(annotation.annotation):
            file.write_text(json.dumps(kept | {field: "--trust-remote-code"}))
            try:
                served = arguments(folder)
            except MoguError:
                continue
            assert {argument for argument in served if argument.startswith("-")} <= set(own)
