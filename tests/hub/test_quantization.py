"""Quantized base models: loaded, shared, made plain again and merged, against bitsandbytes' own functions; and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.errors import ConfigError
from mogu.hub import load_base, resolve_source
from mogu.hub.adapters import merged
from mogu.hub.quantization import dequantize, parameter_count, quantization_of, quantized_bytes, settle
from mogu.modeling.shared_weights import share_weights
from mogu.transformers_compat import quantizable_linears
from tests.quantized import BITS, needs_bitsandbytes, weights

needs_bitsandbytes()
from bitsandbytes import functional  # noqa: E402
from bitsandbytes.nn import Linear4bit, Linear8bitLt  # noqa: E402

Make = Callable[..., PreTrainedModel]
IDS = torch.tensor([[3, 9, 17, 33, 5, 60]])
FAMILIES = ["llama-3", "gpt2", "opt", "phi", "gemma3", "mixtral", "lfm2"]


@pytest.fixture
def load(make_base: Make, tmp_path: Path) -> Callable[..., Any]:
    """``load(quantization, family)``: a tiny model, from a folder."""

    def load(quantization: Any, family: str = "llama") -> Any:
        folder = tmp_path / family
        if not folder.is_dir():
            make_base(family, torch.float32).save_pretrained(folder)
        return load_base(str(folder), quantization=quantization).eval()

    return load


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
        return found


def quantized_layers(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_and_their_bytes_are_those_that_are_counted_without_weights(family: str, make_base: Make, load: Any) -> None:
    with torch.device("meta"):
        shape = make_base(family, torch.float32)
    kinds = {id(module) for module in quantizable_linears(shape)}
    counted = {name for name, module in shape.named_modules() if id(module) in kinds}
    four, eight = load("4bit", family), load("8bit", family)
    assert quantized_layers(four).keys() == quantized_layers(eight).keys() == counted
    assert counted
    for layer in quantized_layers(four).values():
        state = layer.weight.quant_state
        tensors = [layer.weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        assert quantized_bytes(*state.shape, "4bit", double=True) == sum(tensor.nbytes for tensor in tensors)
        assert parameter_count(layer.weight) == layer.in_features * layer.out_features
        once, state = functional.quantize_4bit(torch.randn(state.shape), quant_type="nf4")
        assert quantized_bytes(*state.shape, "4bit", double=False) == once.nbytes + state.absmax.nbytes + state.code.nbytes
    for layer in quantized_layers(eight).values():
        assert quantized_bytes(*layer.weight.shape, "8bit", double=True) == layer.state.CB.nbytes + layer.state.SCB.nbytes


@pytest.mark.parametrize("quantization", BITS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_what_is_made_plain_again_has_the_weights_that_bitsandbytes_says(quantization: Any, family: str, load: Any, tmp_path: Path) -> None:
    base, original = load(quantization, family), load(None, family)
    assert (quantization_of(base), quantization_of(original)) == (quantization, None)
    before = weights(base)
    plain = copy.deepcopy(base)
    dequantize(plain)
    assert quantization_of(plain) is None
    for name, layer in quantized_layers(base).items():
        if quantization == "4bit":
            weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        else:
            weight = functional.int8_vectorwise_dequant(layer.state.CB, layer.state.SCB)
        found, first = plain.get_submodule(name), original.get_submodule(name)
        assert type(found) is type(first)
        assert torch.equal(found.weight, weight.T if isinstance(first, Conv1D) else weight)
    # LLM.int8 rounds what enters a layer as well, unless a CPU trains.
    torch.testing.assert_close(logits(base), logits(plain), rtol=0, atol=1e-5 if quantization == "4bit" else 0.3)
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())
    plain.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert torch.equal(logits(again), logits(plain))
    assert plain.to(torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("quantization", BITS)
def test_weights_stay_as_loaded_and_let_gradients_through_after_replies(quantization: Any, load: Any) -> None:
    """On CPUs with AVX512-BF16, 4-bit layers would be rearranged by the first pass, and have no gradient from then on."""
    base = load(quantization)
    before = weights(base)
    embedded = base.get_input_embeddings()(IDS).detach().requires_grad_()
    base(inputs_embeds=embedded).logits.square().sum().backward()
    first = embedded.grad
    logits(base)
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())
    again = embedded.detach().clone().requires_grad_()
    base.train()(inputs_embeds=again).logits.square().sum().backward()
    assert again.grad is not None
    assert again.grad.norm() > 0
    if quantization == "4bit":
        assert torch.equal(again.grad, first)


def test_weights_that_bitsandbytes_rearranged_are_not_trained_with(make_base: Make, tmp_path: Path) -> None:
    if not functional.has_avx512bf16():
        pytest.skip("bitsandbytes rearranges weights on CPUs with AVX512-BF16 only")
    make_base("llama", torch.float32, hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).eval()
    settle(copy.deepcopy(base), for_training=True)
    logits(base)
    settle(base)
    with pytest.raises(ConfigError, match="rearranged its weights"):
        settle(base, for_training=True)


@pytest.mark.parametrize("quantization", BITS)
def test_a_second_model_on_the_same_weights_holds_none_twice(quantization: Any, load: Any) -> None:
    base = load(quantization)
    second = share_weights(base)  # before either has computed anything
    for name, layer in quantized_layers(base).items():
        other = second.get_submodule(name)
        assert other is not layer
        assert other.weight is layer.weight
        if quantization == "8bit":
            assert (other.state.CB.data_ptr(), other.state.SCB.data_ptr()) == (layer.state.CB.data_ptr(), layer.state.SCB.data_ptr())
    assert torch.equal(logits(second), logits(base))


@pytest.mark.parametrize("quantization", [None, *BITS])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_merged_lora_is_the_sum_of_what_the_weights_stand_for_and_what_was_learned(quantization: Any, family: str, load: Any) -> None:
    base = load(quantization, family)
    plain = copy.deepcopy(base)
    dequantize(plain)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, lora)
    state = weights(model)
    whole = merged(copy.deepcopy(model))
    for name, module in plain.named_modules():
        key = f"base_model.model.{name}.lora_A.default.weight"
        if key not in state:
            continue
        update = 3 * state[key.replace("lora_A", "lora_B")] @ state[key]
        expected = module.weight + (update.T if isinstance(module, Conv1D) else update)
        torch.testing.assert_close(whole.get_submodule(name).weight.data, expected.data, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in weights(model).items())
    assert type(whole) is type(plain)


def test_a_model_that_was_saved_quantized_is_loaded_so_or_refused(load: Any, tmp_path: Path) -> None:
    base = load("4bit")
    base.save_pretrained(tmp_path / "saved")
    for quantization in (None, "4bit"):
        assert torch.equal(logits(load_base(str(tmp_path / "saved"), quantization=quantization).eval()), logits(base))
    with pytest.raises(ConfigError, match=r"saved quantized \(bitsandbytes\), and is to be loaded in 8 bits"):
        load_base(str(tmp_path / "saved"), quantization="8bit")


@pytest.mark.parametrize("quantization", BITS)
def test_a_gguf_file_is_quantized_like_the_folder_that_is_made_of_it(
    quantization: Any, write_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "Q8_0")
    base = load_base(str(file), quantization=quantization).eval()
    folder = load_base(resolve_source(str(file)), quantization=quantization).eval()
    assert quantization_of(base) == quantization
    assert torch.equal(logits(base), logits(folder))


def test_a_model_without_a_layer_to_quantize_is_refused(load: Any) -> None:
    """Falcon's linear layers are of a class of its own, which transformers leaves alone."""
    with pytest.raises(ConfigError, match=r"No layer of .*falcon, a model of the type falcon, can be loaded in 4 bits"):
        load("4bit", "falcon")


def test_the_type_that_4_bits_compute_in_is_the_model_s(make_base: Make, tmp_path: Path) -> None:
    make_base("llama", torch.bfloat16).save_pretrained(tmp_path)
    for dtype, expected in (("auto", torch.bfloat16), (torch.float32, torch.float32), (torch.float16, torch.float16)):
        base = load_base(str(tmp_path), quantization="4bit", dtype=dtype)
        assert {layer.compute_dtype for layer in quantized_layers(base).values()} == {base.dtype} == {expected}
        assert all(layer.weight.quant_type == "nf4" and layer.weight.quant_state.nested for layer in quantized_layers(base).values())


@pytest.mark.parametrize("saved", [False, True])
def test_without_bitsandbytes_the_error_says_what_to_install(
    saved: bool, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("8bit").save_pretrained(tmp_path / "saved")
    for module in ("utils.import_utils", "quantizers.quantizer_bnb_8bit"):
        monkeypatch.setattr(f"transformers.{module}.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match=r"bitsandbytes is not installed.*pip install -U 'mogu\[quant\]'"):
        load_base(str(tmp_path / ("saved" if saved else "llama")), quantization=None if saved else "8bit")


def test_where_bitsandbytes_does_not_run_the_error_says_so(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load(None)
    monkeypatch.setattr("bitsandbytes.supported_torch_devices", {"abacus"})
    with pytest.raises(ConfigError, match="bitsandbytes does not run on this machine: None of the available devices"):
        load("4bit")
