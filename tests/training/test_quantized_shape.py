"""The plan of a base model in 4 or 8 bits, against counts by hand, and against what bitsandbytes' layers hold and keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mogu.errors import ConfigError, MoguError
from mogu.hub import load_base
from mogu.hub.quantization import quantization_of
from mogu.training import plan
from mogu.training.collator import Collator
from mogu.training.dry_run import model_on_meta
from mogu.training.examples import Example
from mogu.training.memory import count_kept
from mogu.training.pipeline import load_recipe_base
from mogu.training.quantized_shape import QuantizedShape
from mogu.training.recipe import ModelSection
from tests.launched import plan_as_one_of
from tests.quantized import BITS, needs_bitsandbytes
from tests.training.test_memory import ROW, ROWS, SHAPE, with_trained

needs_bitsandbytes()

CARD = 24 * 10**9
"""Bytes of a card of 24 GB."""


def llama_bytes(width: int, layers: int, vocabulary: int, feed_forward: int, keys: int, of_a_number: float) -> float:
    """A Llama's weights: embedding, head and norms in two bytes, the matrices of its layers in so many."""
    matrices = layers * (2 * width * width + 2 * width * keys + 3 * width * feed_forward)
    return of_a_number * matrices + 2 * (2 * vocabulary * width + (2 * layers + 1) * width)


@pytest.mark.parametrize(
    ("quantization", "of_a_number"),
    [("4bit", 1 / 2 + (1 + 4 / 256) / 64), ("8bit", 1 + 4 / 4096)],  # each 64 numbers have a scale of a byte, and 256 scales one of four
)
def test_the_weights_of_llama_3_1_8b_in_4_and_8_bits(quantization: str, of_a_number: float, dry: Any) -> None:
    found = plan(dry("llama-3.1-8b-instruct", f"model.quantization={quantization}"))
    whole = plan(dry("llama-3.1-8b-instruct"))
    assert (found.quantization, whole.quantization, found.dtype) == (quantization, None, "bfloat16")
    assert found.base_parameters == whole.base_parameters == 8_030_261_248
    assert whole.base_bytes == 2 * whole.base_parameters == llama_bytes(4096, 32, 128256, 14336, 1024, 2)
    assert found.base_bytes == pytest.approx(llama_bytes(4096, 32, 128256, 14336, 1024, of_a_number), rel=1e-3)


@pytest.mark.parametrize("quantization", BITS)
@pytest.mark.parametrize("method", ["gated", "v1", "v2"])
def test_an_8b_model_fits_a_card_of_24_gb(method: str, quantization: str, dry: Any) -> None:
    """Rows of 1,024 tokens, which is the most that the recipe takes; the settings are those of recipes/accelerate/24gb.yaml."""
    settings = ["run.gradient_checkpointing=true", "run.micro_batch_size=2", f"model.quantization={quantization}", f"method={method}"]
    found = plan(dry("llama-3.1-8b-instruct" if method == "gated" else "v1/llama-3.1-8b-instruct", *settings))
    assert found.memory_bytes < 0.9 * CARD


def test_a_base_that_was_saved_in_4_bits_is_counted_so(base_folder: Path, dry: Any, tmp_path: Path) -> None:
    load_base(str(base_folder), quantization="4bit").save_pretrained(tmp_path / "saved")
    settings = [f"model.base={json.dumps(str(tmp_path / 'saved'))}", "model.dtype=float32"]
    saved = plan(dry("v1/llama-2-7b-chat", *settings))
    settings = [f"model.base={json.dumps(str(base_folder))}", "model.dtype=float32"]
    loaded = plan(dry("v1/llama-2-7b-chat", *settings, "model.quantization=4bit"))
    assert saved.quantization == "4bit"
    assert saved.base_bytes == loaded.base_bytes < 0.8 * plan(dry("v1/llama-2-7b-chat", *settings)).base_bytes
    with pytest.raises(MoguError, match="is to be loaded in 8 bits"):
        plan(dry("v1/llama-2-7b-chat", f"model.base={json.dumps(str(tmp_path / 'saved'))}", "model.quantization=8bit"))


def test_a_model_without_a_layer_to_quantize_is_refused(dry: Any) -> None:
    with pytest.raises(MoguError, match=r"No layer of .*falcon"):
        plan(dry("falcon-7b-instruct", "model.quantization=8bit"))


def test_the_bytes_of_a_small_model_are_those_in_memory(base_folder: Path, dry: Any) -> None:
    for quantization in BITS:
        base: Any = load_base(str(base_folder), quantization=quantization)
        held = {tensor.data_ptr(): tensor.nbytes for name, tensor in base.state_dict().items() if "quant_state" not in name}
        settings = [f"model.base={json.dumps(str(base_folder))}", "model.dtype=float32", f"model.quantization={quantization}"]
        beside = 14 * 4 if quantization == "4bit" else -14  # the offset of each matrix's scales; the number of a format
        assert plan(dry("v1/llama-2-7b-chat", *settings)).base_bytes == sum(held.values()) + beside


@pytest.mark.parametrize("quantization", BITS)
@pytest.mark.parametrize("stage", ["responder", "all-linear", "router"])
def test_what_is_counted_is_what_quantized_layers_keep(quantization: Any, stage: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), quantization=quantization)
    assert quantization_of(base) == quantization
    found = held(with_trained(base, stage).train(), base)
    section = ModelSection(base=str(tmp_path), quantization=quantization)
    shape = model_on_meta(section, [])
    quantized = QuantizedShape.of(shape, section)
    assert quantized is not None
    assert quantized.largest_bytes == 4 * 128 * 320
    keeping = quantized.layers if quantized.keeps_inputs else ()
    with torch.device("meta"):
        trained = with_trained(shape, stage).train()
    counted = count_kept(trained, shape, ROWS, ROW, plain_attention=False, keep_inputs=keeping)
    assert found == pytest.approx(counted.bytes(checkpointing=False), rel=0.08, abs=4 * ROWS * ROW * 128 * 3)
    plain = count_kept(trained, shape, ROWS, ROW, plain_attention=False)
    assert (counted.layers > plain.layers) == (quantization == "8bit")


def held(model: Any, base: Any) -> int:
    """The bytes that the graph of a pass holds: what autograd saves, and what functions of bitsandbytes keep by themselves."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), *base.state_dict().values())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    pairs = [Example(str(row), tuple(range(1, 61)), (tuple(range(40)),), malicious=False) for row in range(ROWS)]
    batch = Collator(0, "separate")(pairs)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=batch["input_ids"]).logits
    for node in nodes(logits.grad_fn):
        for tensor in (getattr(node, "A", None), *getattr(node, "tensors", ())):
            if isinstance(tensor, torch.Tensor):
                keep(tensor)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def nodes(root: Any) -> Iterator[Any]:
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def test_processes_that_are_to_share_it_are_refused_before_it_is_loaded(dry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dry("llama-3.1-8b-instruct", "model.quantization=4bit", "run.micro_batch_size=1")
    plan_as_one_of(2, monkeypatch)
    for attempt in (lambda: plan(recipe), lambda: load_recipe_base(recipe.model)):
        with pytest.raises(ConfigError, match="weights in 4bit, and the processes were started for FSDP"):
            attempt()
