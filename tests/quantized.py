"""Base models in 4 and 8 bits for tests, and plain ones with the weights that those compute with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu.hub import load_base
from mogu.recipes.settings import Quantization

BITS: tuple[Quantization, ...] = ("4bit", "8bit")


def needs_bitsandbytes() -> None:
    """Skip a test, or a module, where bitsandbytes is missing."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed", exc_type=ImportError)


def plain_twin(folder: Path, quantization: Quantization, target: Path) -> Path:
    """Write a model that is not quantized, with the weights of a quantized one as the functions of bitsandbytes give them."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    quantized = load_base(str(folder), quantization=quantization)
    plain: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, module in quantized.named_modules():
            if isinstance(module, Linear4bit):
                plain.get_submodule(name).weight.copy_(functional.dequantize_4bit(module.weight.data, module.weight.quant_state))
            elif isinstance(module, Linear8bitLt):
                plain.get_submodule(name).weight.copy_(functional.int8_vectorwise_dequant(module.state.CB, module.state.SCB))
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def weights(model: Any) -> dict[str, Tensor]:
    """Every number of a model, packed ones and their scales among them, copied."""
    return {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
