"""Files that are missing, broken or made for another model: one clear error, and the base model as it was."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mogu import MoguConfig, MoguError, MoguModel
from mogu.errors import ConfigError, ModelFileError
from mogu.modeling.checkpoint import accept_files


@pytest.fixture
def saved(make_pair, tmp_path: Path) -> Path:
    model, _ = make_pair("llama", torch.float32)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)


def edit_json(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refuses(folder: Path, base, error: type[MoguError], *parts: str) -> None:
    """Loading fails with our error, whose message has ``parts``, and leaves the base model plain and trainable."""
    with suppress(MoguError):
        accept_files(folder)  # as whoever makes such files would do
    with pytest.raises(error) as caught:
        MoguModel.from_pretrained(folder, base_model=base)
    message = str(caught.value)
    assert "Expected: " in message
    assert "What to do: " in message
    for part in parts:
        assert part in message
    assert not any(type(module).__name__ == "RoutedLinear" for module in base.modules())
    assert all(parameter.requires_grad for parameter in base.parameters())


REQUIRED = ["mogu_config.json", "router.safetensors", "glad/adapter_config.json", "unwill/adapter_model.safetensors"]


@pytest.mark.parametrize("name", REQUIRED)
def test_missing(saved, make_base, name):
    (saved / name).unlink()
    refuses(saved, make_base(), ModelFileError, Path(name).name)


@pytest.mark.parametrize("name", ["router.safetensors", "glad/adapter_model.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.99])
def test_cut_short(saved, make_base, name, keep):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    refuses(saved, make_base(), ModelFileError, name, "not a whole safetensors file")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "EOF"),
        (b"{", "Invalid JSON"),
        (b"[]", "object"),
        (b'{"rank": "eight"}', "rank"),
        (b'{"rank": 0}', "rank"),
        (b'{"dial": 1e999}', "dial"),
        (b'{"unheard_of": 1}', "unheard_of"),
        (b'{"format_version": 99}', "format version 99"),
        (b'{"format_version": 99, "new_in_99": true}', "format version 99"),
        (b'{"handoff": "jump"}', "handoff"),
    ],
)
def test_a_broken_config(saved, make_base, content, found):
    (saved / "mogu_config.json").write_bytes(content)
    refuses(saved, make_base(), ConfigError, "mogu_config.json", found)


@pytest.mark.parametrize("name", ["mogu_config.json", "glad/adapter_config.json"])
def test_a_config_that_is_no_text(saved, make_base, name):
    (saved / name).write_bytes(b"\xff\xfe\x00\x80")
    refuses(saved, make_base(), ModelFileError, "not UTF-8")


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"r": "x", "lora_alpha": 1, "peft_type": "LORA"}', '{"r": 4}'])
def test_a_broken_adapter_config(saved, make_base, content):
    (saved / "glad" / "adapter_config.json").write_text(content)
    refuses(saved, make_base(), ModelFileError, "adapter_config.json is not a PEFT LoRA config")


@pytest.mark.parametrize("change", [{"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"rank_pattern": {"x": 3}}, {"r": 0}])
def test_an_adapter_that_is_no_plain_lora(saved, make_base, change):
    edit_json(saved / "glad" / "adapter_config.json", **change)
    refuses(saved, make_base(), ModelFileError, "not a plain LoRA")


def test_routers_of_wrong_shape(saved, make_base):
    rewrite(saved / "router.safetensors", lambda tensors: tensors.update({"layers.1.weight": torch.zeros(2, 31)}))
    refuses(saved, make_base(), ModelFileError, "[2, 31]", "weight [2, 32]")


def test_routers_of_too_few_and_too_many_layers(saved, make_base):
    rewrite(
        saved / "router.safetensors",
        lambda tensors: tensors.update({"layers.3.weight": torch.zeros(2, 32), "layers.3.bias": torch.zeros(2)}),
    )
    refuses(saved, make_base(), ModelFileError, "for layer 3", "3 routers, one a routed layer")
    rewrite(saved / "router.safetensors", lambda tensors: [tensors.pop(key) for key in list(tensors) if key[7] in "23"])
    refuses(saved, make_base(), ModelFileError, "nothing for layer 2")


@pytest.mark.parametrize("name", ["router.safetensors", "unwill/adapter_model.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(saved, make_base, name, value):
    rewrite(saved / name, lambda tensors: next(iter(tensors.values())).view(-1)[1:2].fill_(value))
    refuses(saved, make_base(), ModelFileError, name, "not finite")


def test_an_adapter_with_foreign_tensors(saved, make_base):
    rewrite(saved / "glad" / "adapter_model.safetensors", lambda tensors: tensors.update({"x.lora_magnitude_vector": torch.zeros(3)}))
    refuses(saved, make_base(), ModelFileError, "lora_magnitude_vector")


def test_an_adapter_of_another_rank(saved, make_base, make_pair, tmp_path):
    edit_json(saved / "glad" / "adapter_config.json", r=2)
    refuses(saved, make_base(), ModelFileError, "A [2, d_in]")
    other, _ = make_pair("llama", torch.float32, MoguConfig(rank=2, lora_alpha=12))
    other.save_pretrained(tmp_path / "other")
    shutil.rmtree(saved / "glad")
    shutil.copytree(tmp_path / "other" / "glad", saved / "glad")
    refuses(saved, make_base(), ModelFileError, "rank 2", "rank 4")


def test_a_rank_no_projection_has(saved, make_base):
    edit_json(saved / "mogu_config.json", rank=10**12)
    refuses(saved, make_base(), ConfigError, "rank 1000000000000")


@pytest.mark.parametrize(("family", "changes"), [("llama", {"hidden_size": 64}), ("llama", {"num_hidden_layers": 4}), ("qwen2", {})])
def test_another_base_model(saved, make_base, family, changes):
    refuses(saved, make_base(family, **changes), ModelFileError, "llama of 3 layers and width 32")


def test_an_adapter_of_another_base_model(saved, make_base, make_pair, tmp_path):
    for family, changes, found in [("gpt2", {}, "c_proj"), ("llama", {"head_dim": 16}, "[4, 64]")]:
        other, _ = make_pair(family, torch.float32, **changes)
        other.save_pretrained(tmp_path / family)
        shutil.rmtree(saved / "unwill")
        shutil.copytree(tmp_path / family / "unwill", saved / "unwill")
        refuses(saved, make_base(), ModelFileError, found)


def test_places_that_do_not_exist(make_base, tmp_path):
    refuses(tmp_path / "nowhere", make_base(), ModelFileError, "nowhere does not exist")
    refuses(tmp_path, make_base(), ModelFileError, "holds no mogu_config.json")


def test_a_base_model_that_does_not_exist(saved, tmp_path):
    with pytest.raises(ModelFileError, match="nowhere"):
        MoguModel.from_pretrained(saved, base_model=tmp_path / "nowhere")
    edit_json(saved / "mogu_config.json", base_model=None)
    with pytest.raises(ModelFileError, match="names no base model"):
        MoguModel.from_pretrained(saved)


def test_a_base_model_cut_short(saved, make_base, tmp_path):
    make_base("llama", torch.float32).save_pretrained(tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        MoguModel.from_pretrained(saved, base_model=tmp_path / "base")


def test_model_arguments_beside_a_loaded_base_are_refused(saved, make_base):
    with pytest.raises(ConfigError, match="dtype"):
        MoguModel.from_pretrained(saved, base_model=make_base(), dtype=torch.bfloat16)


def test_remote_code_runs_only_where_it_is_allowed(make_pair, baichuan_folder, tmp_path):
    model, _ = make_pair("baichuan", torch.float32)
    model.mogu_config.base_model = str(baichuan_folder)
    model.save_pretrained(tmp_path / "saved")
    code = baichuan_folder / "modeling_baichuan.py"
    before = code.read_text()
    try:
        code.write_text(before + f"\nimport pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
        with pytest.raises(ModelFileError, match="trust_remote_code=True"):
            MoguModel.from_pretrained(tmp_path / "saved")
        assert not (tmp_path / "ran").exists()
        loaded = MoguModel.from_pretrained(tmp_path / "saved", trust_remote_code=True)
        assert (tmp_path / "ran").exists()
    finally:
        code.write_text(before)
    ids = torch.tensor([[5, 9, 33]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-6, rtol=0)
