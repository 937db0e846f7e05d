"""Base models in 4 or 8 bits by bitsandbytes: how one is loaded, how it is told from others, and how it is made plain again.

Knows the layers of bitsandbytes; knows nothing of routing, of training, or of where models come from.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mogu.errors import ConfigError
from mogu.recipes.settings import Quantization

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig


def loading_options(config: PreTrainedConfig, quantization: Quantization, dtype: Any, *, source: str) -> dict[str, Any]:
    """What ``AutoModelForCausalLM.from_pretrained`` takes to load a base model in 4 or 8 bits; nothing where it was saved so.

    4 bits are NF4 with double quantization (QLoRA, arXiv 2305.14314), computed with in the model's floating-point type; 8 bits are
    LLM.int8 (arXiv 2208.07339).

    Args:
        config: of the base model.
        quantization: to how many bits.
        dtype: the floating-point type of everything else; ``"auto"`` is the one it was saved in.
        source: names the base model in errors.

    Raises:
        ConfigError: bitsandbytes is missing or does not run here, or the model was saved in another quantization.
    """
    import torch
    import transformers

    saved = getattr(config, "quantization_config", None)
    if saved is not None and saved_quantization(config) != quantization:
        method = _field(saved, "quant_method")
        raise ConfigError(
            f"{source} was saved quantized ({getattr(method, 'value', method)}), and is to be loaded in {in_words(quantization)}",
            expected="a base model that is not quantized, or was saved in as many bits by bitsandbytes",
            action="leave the quantization out, or name the model that it was quantized from",
        )
    check_bitsandbytes()
    if saved is not None:
        return {}
    bits_and_bytes: Any = transformers.BitsAndBytesConfig
    if quantization == "8bit":
        return {"quantization_config": bits_and_bytes(load_in_8bit=True)}
    computed_in = dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    options = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": computed_in}
    return {"quantization_config": bits_and_bytes(load_in_4bit=True, **options)}


def check_bitsandbytes() -> None:
    """Refuse to go on where bitsandbytes is missing, too old for transformers, or does not run.

    Raises:
        ConfigError: so it is.
    """
    from transformers.utils import import_utils

    if not import_utils.is_bitsandbytes_available():
        raise missing_bitsandbytes()
    try:
        importlib.import_module("bitsandbytes")
        integration: Any = importlib.import_module("transformers.integrations.bitsandbytes")
        integration.validate_bnb_backend_availability(raise_exception=True)
    except Exception as error:  # whatever a library of another platform raises while it is loaded
        raise ConfigError(
            f"bitsandbytes does not run on this machine: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            expected="a CPU or GPU that bitsandbytes supports",
            action="upgrade bitsandbytes, or load the base model without quantization",
        ) from error


def missing_bitsandbytes() -> ConfigError:
    """What is said where a base model needs bitsandbytes, and it is not there."""
    return ConfigError(
        "bitsandbytes is not installed, or is older than transformers needs it",
        expected="bitsandbytes, to load a base model in 4 or 8 bits",
        action="pip install -U 'mogu[quant]', or load the base model without quantization",
    )


def no_layers(source: str, model: Any, quantization: Quantization) -> ConfigError:
    """What is said of a model that is as it was once bitsandbytes has been through it."""
    return ConfigError(
        f"No layer of {source}, a model of the type {model.config.model_type}, can be loaded in {in_words(quantization)}",
        expected="a model with linear layers of PyTorch's own class, which transformers hands to bitsandbytes",
        action="load it without quantization",
    )


def in_words(quantization: Quantization | None) -> str:
    """``"4 bits"``; ``"no quantization"`` where there is none."""
    return "no quantization" if quantization is None else f"{quantization.removesuffix('bit')} bits"


def saved_quantization(config: PreTrainedConfig) -> Quantization | None:
    """The bits that a model was saved in by bitsandbytes, as its config has it; ``None`` for others."""
    saved = getattr(config, "quantization_config", None)
    if saved is None:
        return None
    return "4bit" if _field(saved, "load_in_4bit") else "8bit" if _field(saved, "load_in_8bit") else None


def _field(saved: Any, name: str) -> Any:
    return saved.get(name) if isinstance(saved, dict) else getattr(saved, name, None)


def quantization_of(model: nn.Module) -> Quantization | None:
    """The bits that a model in memory has its linear layers in, by bitsandbytes; ``None`` for others."""
    for module in _quantized(model):
        return "4bit" if _is_4bit(module) else "8bit"
    return None


def settle(model: nn.Module, *, for_training: bool = False) -> None:
    """Have the weights of a quantized model stay as they were loaded, whatever is computed with them; of others, do nothing.

    On CPUs with AVX512-BF16, bitsandbytes would rearrange 4-bit weights at the first pass that needs no gradient: their scales are
    rounded, later passes in training have no gradient, and layers of some sizes are an error. 8-bit weights keep what belongs to them in
    two places until the first pass, which a second model on the same weights would not find.

    Args:
        model: whatever has been computed with it: 4-bit weights that are rearranged already remain so.
        for_training: whether to refuse those.

    Raises:
        ConfigError: the weights are rearranged already, and are to be trained with.
    """
    for module in _quantized(model):
        if not _is_4bit(module):
            logging.getLogger("bitsandbytes.autograd._functions").addFilter(_no_notice_of_casts)
            if module.weight.CB is not None:
                module.init_8bit_state()
            continue
        if for_training and getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise ConfigError(
                "The 4-bit base model has computed on this CPU, for which bitsandbytes rearranged its weights",
                expected="the weights as they were loaded",
                action="load it again with mogu.hub.load_base, after which they stay as they are",
            )
        module.support_avx512bf16_for_cpu = False


def quantized_tensors(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that 8-bit layers keep beside their parameters; those of 4-bit layers are part of these."""
    for module in _quantized(model):
        if not _is_4bit(module):
            yield from (tensor for tensor in (module.state.CB, module.state.SCB) if tensor is not None)


def dequantize(model: Any) -> None:
    """Put plain layers, with the weights that a quantized model computes with, in the place of its quantized ones; of others, do nothing.

    Transformers' own ``dequantize`` forgets that GPT-2 keeps its weights as ``[d_in, d_out]``, and refuses to save what comes out.
    """
    import torch
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    if quantization_of(model) is None:
        return
    base = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    for name, module in list(base.named_modules()):
        if not _is_quantized(module):
            continue
        weight = dequantized_weight(module).to(base.dtype)
        with torch.device("meta"):
            if transposed(module):
                plain: Any = Conv1D(module.out_features, module.in_features)  # type: ignore[no-untyped-call]
            else:
                plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        plain.weight = nn.Parameter(weight.T.contiguous() if transposed(module) else weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.detach().to(base.dtype), requires_grad=False)
        base.set_submodule(name, plain.train(module.training))
    del base.hf_quantizer, base.is_quantized, base.config.quantization_config
    for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
        vars(base).pop(mark, None)


def dequantized_weight(module: Any) -> Tensor:
    """``W`` ``[d_out, d_in]`` of a quantized layer, as it computes with it."""
    functional: Any = importlib.import_module("bitsandbytes.functional")
    if _is_4bit(module):
        weight: Tensor = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        return weight
    state = module.state if module.state.CB is not None else module.weight
    rows: Tensor = functional.int8_vectorwise_dequant(state.CB, state.SCB)
    return rows


def transposed(module: nn.Module) -> bool:
    """Whether a linear layer keeps its weights as ``[d_in, d_out]``, as GPT-2's ``Conv1D`` does, or did before it was quantized."""
    from transformers.pytorch_utils import Conv1D

    return issubclass(getattr(module, "source_cls", type(module)), Conv1D)


def parameter_count(parameter: Tensor) -> int:
    """How many numbers a parameter stands for: two a byte where it is in 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def quantized_bytes(outputs: int, inputs: int, quantization: Quantization, *, double: bool) -> int:
    """What a weight ``[d_out, d_in]`` takes in 4 or 8 bits, its scales included.

    .. code-block:: text

        4 bits            n/2 + 4·(n/64) + 64                                 a scale for each 64 numbers, and the 16 values
        4 bits, double    n/2 + (n/64) + 4·(n/64/256) + 64 + 1,024 + 4        the scales in 8 bits, and what these stand for
        8 bits            n + 4·d_out                                         a scale for each row

    Args:
        outputs: ``d_out``.
        inputs: ``d_in``.
        quantization: to how many bits.
        double: whether the scales of 4 bits are quantized, too.
    """
    numbers = outputs * inputs
    if quantization == "8bit":
        return numbers + 4 * outputs
    blocks = -(-numbers // 64)
    scales = blocks + 4 * -(-blocks // 256) + 1024 + 4 if double else 4 * blocks
    return -(-numbers // 2) + scales + 64


def _no_notice_of_casts(record: logging.LogRecord) -> bool:
    """Every product of an 8-bit layer would tell that its input is cast to float16."""
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


def _quantized(model: nn.Module) -> Iterable[Any]:
    if "bitsandbytes" not in sys.modules:
        return ()
    return (module for module in model.modules() if _is_quantized(module))


def _is_quantized(module: nn.Module) -> bool:
    layers: Any = sys.modules["bitsandbytes"].nn
    return isinstance(module, layers.Linear4bit | layers.Linear8bitLt)


def _is_4bit(module: nn.Module) -> bool:
    layers: Any = sys.modules["bitsandbytes"].nn
    return isinstance(module, layers.Linear4bit)
