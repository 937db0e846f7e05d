"""What a base model in 4 or 8 bits takes, told from its shape: no weight is loaded, and none is quantized.

Knows modules on the meta device; knows nothing of stages or of what is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import nn
from transformers import PreTrainedModel

from mogu.hub.quantization import loading_options, no_layers, quantized_bytes, saved_quantization
from mogu.modeling.architectures import in_and_out_features
from mogu.recipes.settings import Quantization
from mogu.training.recipe import ModelSection
from mogu.transformers_compat import quantizable_linears


@dataclass(frozen=True)
class QuantizedShape:
    """The quantized layers of a base model.

    Args:
        quantization: to how many bits.
        layers: what would be quantized, by its plain layers on the meta device.
        saved_bytes: what all of the weights take less than they would unquantized.
        largest_bytes: what the largest of the weights takes unquantized: it is so while it computes, one at a time.
    """

    quantization: Quantization
    layers: tuple[nn.Module, ...]
    saved_bytes: int
    largest_bytes: int

    @classmethod
    def of(cls, base: PreTrainedModel, section: ModelSection) -> Self | None:
        """The quantized layers of a base model as a recipe loads it; ``None`` where there are none.

        Raises:
            ConfigError: it could not be loaded so.
        """
        quantization = section.quantization or saved_quantization(base.config)
        if quantization is None:
            return None
        loading_options(base.config, quantization, base.dtype, source=section.base)
        saved: Any = getattr(base.config, "quantization_config", None)
        fields = {} if saved is None else saved if isinstance(saved, dict) else saved.to_dict()
        layers = tuple(quantizable_linears(base, fields.get("llm_int8_skip_modules")))
        if not layers:
            raise no_layers(section.base, base, quantization)
        double = saved is None or bool(fields.get("bnb_4bit_use_double_quant"))
        plain, quantized = [], 0
        for layer in layers:
            inputs, outputs = in_and_out_features(layer)
            plain.append(inputs * outputs * base.dtype.itemsize)
            quantized += quantized_bytes(outputs, inputs, quantization, double=double)
        return cls(quantization, layers, sum(plain) - quantized, max(plain))

    @property
    def keeps_inputs(self) -> bool:
        """Whether the layers keep what enters them until the backward pass: those of LLM.int8 do, where a gradient passes through."""
        return self.quantization == "8bit"
