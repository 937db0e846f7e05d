"""GGUF files become ordinary model folders: once, whole or not at all, with the numbers and words that are in the file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.errors import ChatTemplateError, ModelFileError, MoguError
from mogu.hub import load_base, load_config, load_tokenizer, resolve_source
from mogu.hub.dequantized import MARKER, cached_models, remove
from mogu.inference.prompts import render_prompt
from mogu.modeling.loading import load_model

WriteGguf = Callable[..., Path]
IDS = torch.tensor([[5, 9, 33, 12, 60, 7]])


def test_float32_weights_come_out_as_they_went_in(write_gguf: WriteGguf, llama: LlamaForCausalLM, tmp_path: Path) -> None:
    model = load_base(str(write_gguf(tmp_path / "tiny.gguf")))
    assert all(torch.equal(tensor, llama.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(model(IDS).logits, llama(IDS).logits)


def test_a_quantized_weight_is_scale_times_code_plus_minimum(write_gguf: WriteGguf, llama: LlamaForCausalLM, tmp_path: Path) -> None:
    """Q4_1 by hand: blocks of 32 numbers, each a 4-bit code between the block's minimum and maximum, kept in float16."""
    model = load_base(str(write_gguf(tmp_path / "tiny.gguf", "Q4_1")))
    weights = llama.model.layers[0].mlp.up_proj.weight.detach().numpy().reshape(-1, 32)
    low, high = weights.min(1, keepdims=True), weights.max(1, keepdims=True)
    scale = ((high - low) / 15).astype(np.float32)
    codes = np.clip(np.trunc((weights - low) / scale + 0.5), 0, 15)
    by_hand = scale.astype(np.float16).astype(np.float32) * codes + low.astype(np.float16).astype(np.float32)
    loaded = model.model.layers[0].mlp.up_proj.weight.detach().numpy().reshape(-1, 32)
    np.testing.assert_allclose(loaded, by_hand, atol=1e-6)


def test_the_tokenizer_and_its_template_come_out_of_the_file(
    write_gguf: WriteGguf, gguf_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    loaded = load_tokenizer(str(write_gguf(tmp_path / "tiny.gguf")))
    text = "How do I bake 12 loaves?"
    assert loaded(text)["input_ids"] == gguf_tokenizer(text)["input_ids"]
    assert render_prompt(loaded, text) == "<user>How do I bake 12 loaves?</s><assistant>"


def test_the_folder_is_an_ordinary_one(write_gguf: WriteGguf, tmp_path: Path) -> None:
    folder = resolve_source(str(write_gguf(tmp_path / "tiny.gguf", "Q8_0")))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path / "again")
    assert load_config(folder).vocab_size == 320


def test_a_file_is_dequantized_once_wherever_it_lies(write_gguf: WriteGguf, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    folder = Path(resolve_source(str(file)))
    made = (folder / MARKER).stat().st_mtime_ns
    moved = shutil.move(file, tmp_path / "elsewhere.gguf")
    assert Path(resolve_source(str(moved))) == folder
    assert (folder / MARKER).stat().st_mtime_ns == made
    [entry] = cached_models()
    assert (entry.file, entry.license) == ("tiny.gguf", "mit")
    remove(entry)
    assert not cached_models()
    assert not folder.exists()


_MAKE = "import sys; from mogu.hub import resolve_source; print(resolve_source(sys.argv[1]))"
_DIE_BEFORE_THE_TOKENIZER = (
    "import os, signal, sys; from mogu.hub import dequantized, resolve_source; "
    "dequantized._save_tokenizer = lambda *_: os.kill(os.getpid(), signal.SIGKILL); resolve_source(sys.argv[1])"
)


def test_what_a_killed_process_left_is_no_model_and_is_cleared_away(write_gguf: WriteGguf, cache: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    killed = subprocess.run([sys.executable, "-c", _DIE_BEFORE_THE_TOKENIZER, str(file)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not cached_models()
    left = [path for path in cache.iterdir() if path.is_dir()]
    assert len(left) == 1
    folder = Path(resolve_source(str(file)))
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]
    load_tokenizer(str(folder))


def test_a_second_process_waits_for_the_first(write_gguf: WriteGguf, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    command = [sys.executable, "-c", _MAKE, str(file)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    load_base(outputs[0].strip())


@pytest.mark.parametrize(
    "spoil",
    [lambda whole: whole[: len(whole) // 2], lambda whole: whole[:40], lambda whole: b"", lambda whole: b"PK" + whole[2:]],
    ids=["half", "a few bytes", "empty", "not GGUF"],
)
def test_a_broken_file_is_one_clear_error(spoil: Callable[[bytes], bytes], write_gguf: WriteGguf, cache: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ModelFileError, match="no GGUF file that can be read"):
        load_base(str(file))
    assert not cached_models()
    assert not [path for path in cache.glob("*") if path.is_dir()]


def test_an_architecture_that_transformers_cannot_read_is_one_clear_error(write_gguf: WriteGguf, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"weights of .* cannot be read"):
        load_base(str(write_gguf(tmp_path / "tiny.gguf", architecture="mogu-test")))


def test_a_quantization_that_transformers_cannot_read_is_one_clear_error(write_gguf: WriteGguf, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "Q8_0")
    packed = bytearray(file.read_bytes())
    # The type of a tensor is a number behind its name, its dimensions and their sizes: 8 is Q8_0, 4 was Q4_2, which is no more.
    name = b"blk.0.ffn_up.weight"
    at = packed.index(name) + len(name) + 4 + 2 * 8
    assert int.from_bytes(packed[at : at + 4], "little") == 8
    packed[at : at + 4] = (4).to_bytes(4, "little")
    file.write_bytes(bytes(packed))
    with pytest.raises(ModelFileError, match="no GGUF file that can be read"):
        load_base(str(file))


def test_a_file_without_a_chat_template_asks_for_one(write_gguf: WriteGguf, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_gguf(tmp_path / "tiny.gguf", template=None)))
    with pytest.raises(ChatTemplateError, match="chat template"):
        render_prompt(tokenizer, "Hello")


def test_a_file_that_is_not_called_gguf_is_refused(write_gguf: WriteGguf, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf").rename(tmp_path / "tiny.bin")
    with pytest.raises(ModelFileError, match=r"does not end in \.gguf"):
        load_base(str(file))


def test_a_full_disk_is_noticed_before_anything_is_written(
    write_gguf: WriteGguf, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(MoguError, match=r"needs 0\.0 GiB"):
        load_base(str(file))
    assert not cached_models()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_one_clear_error(write_gguf: WriteGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("MOGU_CACHE", "/proc/mogu")
    with pytest.raises(MoguError, match="MOGU_CACHE"):
        load_base(str(file))


@pytest.fixture
def saved(write_gguf: WriteGguf, tmp_path: Path) -> tuple[Path, Path]:
    """A hardened model on a GGUF file, and that file."""
    from mogu.hub import gguf_digest

    file = write_gguf(tmp_path / "tiny.gguf")
    model = MoguModel.from_base(load_base(str(file)), MoguConfig(base_model=str(file), base_sha256=gguf_digest(str(file)), rank=2))
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved", file


def test_a_hardened_model_finds_its_gguf_base_again(saved: tuple[Path, Path], llama: LlamaForCausalLM) -> None:
    loaded = load_model(saved[0])
    assert loaded.mogu is not None
    torch.testing.assert_close(loaded.mogu(IDS).logits, llama(IDS).logits)
    assert render_prompt(loaded.tokenizer, "Hello") == "<user>Hello</s><assistant>"


def test_a_base_whose_file_is_gone_is_found_in_the_cache(saved: tuple[Path, Path], llama: LlamaForCausalLM) -> None:
    saved[1].unlink()
    loaded = load_model(saved[0])
    assert loaded.mogu is not None
    torch.testing.assert_close(loaded.mogu(IDS).logits, llama(IDS).logits)


def test_another_file_under_the_name_of_the_base_is_noticed(
    saved: tuple[Path, Path], write_gguf: WriteGguf, caplog: pytest.LogCaptureFixture
) -> None:
    [entry] = cached_models()
    remove(entry)
    write_gguf(saved[1], "Q8_0")
    load_model(saved[0])
    assert "is not the file of training" in caplog.text
    with pytest.raises(ModelFileError, match="other weights"):
        load_model(saved[0], strict_base=True)
