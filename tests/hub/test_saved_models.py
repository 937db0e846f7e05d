"""Pushing to the hub and loading from it: the real client against a small hub of our own on this machine."""

from __future__ import annotations

import copy

import pytest
import torch

from mogu import MoguConfig, MoguModel
from mogu.errors import ModelFileError, MoguError
from mogu.hub import fetch_model_folder, load_base
from mogu.inference.prompts import render_prompt
from mogu.modeling.config import BackboneConfig
from mogu.modeling.loading import load_model
from mogu.modeling.prompt_contract import record_prompt
from tests.hub.local_hub import COMMIT, REPOSITORY, Hub

IDS = torch.tensor([[5, 9, 33, 12, 60, 7]])


def test_there_and_back(hub, make_pair, make_base):
    model, _ = make_pair("llama", torch.float32)
    url = model.push_to_hub(REPOSITORY, token="hf_none", card="# Safer\n")
    assert url.endswith(REPOSITORY)
    adapters = {f"{name}/{file}" for name in ("glad", "unwill") for file in ("adapter_config.json", "adapter_model.safetensors")}
    assert adapters | {"README.md", "mogu_config.json", "router.safetensors"} <= set(hub)
    assert hub["README.md"] == b"# Safer\n"
    loaded = MoguModel.from_pretrained(REPOSITORY, base_model=make_base("llama", torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-6, rtol=0)


def test_a_model_from_the_hub_asks_what_it_was_trained_with(hub, make_pair, make_base, tokenizer, tmp_path):
    base = tmp_path / "base"
    make_base("llama", torch.float32).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model, _ = make_pair("llama", torch.float32)
    trained = copy.copy(tokenizer)
    trained.chat_template = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }} {% endfor %}"
    record_prompt(model.mogu_config, trained, "Be kind.")
    model.push_to_hub(REPOSITORY, token="hf_none")
    model.save_pretrained(tmp_path / "saved")
    for source in (REPOSITORY, str(tmp_path / "saved")):
        loaded = load_model(source, base_model=str(base))
        assert render_prompt(loaded.tokenizer, "hello") == "[system] Be kind. [user] hello "
        assert torch.equal(loaded.mogu.score("hello"), load_model(tmp_path / "saved", base_model=str(base)).mogu.score("hello"))


def test_a_repository_that_is_not_there(hub, make_base):
    with pytest.raises(ModelFileError, match=r"somebody/else was not found.*log in to the hub"):
        MoguModel.from_pretrained("somebody/else", base_model=make_base())


@pytest.mark.parametrize("repository", ["somebody/locked", "no//name"])
def test_a_hub_that_refuses(hub, make_pair, repository):
    model, _ = make_pair()
    with pytest.raises(MoguError, match=rf"could not be pushed to {repository}.*What to do: check the name"):
        model.push_to_hub(repository, token="hf_none")
    assert hub == {}


def test_a_download_brings_the_files_of_a_saved_model_and_no_others(hub, make_pair):
    model, _ = make_pair("llama", torch.float32, config=MoguConfig(backbone=BackboneConfig()))
    model.push_to_hub(REPOSITORY, token="hf_none", card="# Safer\n")
    saved = set(hub) - {".gitattributes"}
    assert any(name.startswith("backbone/") for name in saved)
    beside = (
        "glad/adapter_notes.py",
        "model/adapter_notes.py",
        "unwill/adapter_model.bin",
        "vllm.py",
        "modeling_llama.py",
        "router.safetensors.py",
    )
    hub.update(dict.fromkeys(beside, b"print('ran')"))
    folder = fetch_model_folder(REPOSITORY, marker="mogu_config.json")
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == saved


def test_base_tokenizer_and_saved_model_are_asked_for_at_their_revisions(hub, make_pair, make_base, tokenizer, tmp_path):
    """A base that came from the hub is recorded with its commit; its weights and its tokenizer are loaded from that commit again."""
    base = make_base("llama", torch.float32)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    hub.update({file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()})
    loaded = MoguModel.from_base(load_base(REPOSITORY), MoguConfig(rank=4))
    assert (loaded.mogu_config.base_model, loaded.mogu_config.base_revision) == (REPOSITORY, COMMIT)
    loaded.save_pretrained(tmp_path / "saved")
    Hub.asked.clear()
    load_model(tmp_path / "saved")
    assert any(f"/resolve/{COMMIT}/tokenizer_config.json" in path for path in Hub.asked)
    assert not [path for path in Hub.asked if "/main" in path]


def test_a_saved_model_can_be_named_with_a_revision(hub, make_pair, make_base):
    model, _ = make_pair("llama", torch.float32)
    model.push_to_hub(REPOSITORY, token="hf_none")
    Hub.asked.clear()
    assert fetch_model_folder(f"{REPOSITORY}@{COMMIT}", marker="mogu_config.json").name == COMMIT
    assert Hub.asked
    assert not [path for path in Hub.asked if "/main" in path]


def test_a_model_with_a_careful_responder_comes_back_whole(hub, make_gated, make_base):
    model, _ = make_gated()
    model.push_to_hub(REPOSITORY, token="hf_none")
    assert MoguModel.from_pretrained(REPOSITORY, base_model=make_base()).mogu_config.careful == model.mogu_config.careful
