"""Where each model family keeps its attention output projection and its other linear layers.

Knows names of modules; knows nothing of LoRA, routing or training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.errors import ArchitectureError

# Path of the attention output projection inside one decoder layer, by `config.model_type`.
OUTPUT_PROJECTIONS: dict[str, str] = {
    "baichuan": "self_attn.o_proj",
    "cohere": "self_attn.o_proj",
    "falcon": "self_attention.dense",
    "gemma": "self_attn.o_proj",
    "gemma2": "self_attn.o_proj",
    "gemma3": "self_attn.o_proj",
    "gemma3_text": "self_attn.o_proj",
    "gemma4_text": "self_attn.o_proj",
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "granite": "self_attn.o_proj",
    "laguna": "self_attn.o_proj",
    "lfm2": "self_attn.out_proj",
    "llama": "self_attn.o_proj",
    "mistral": "self_attn.o_proj",
    "mixtral": "self_attn.o_proj",
    "olmo": "self_attn.o_proj",
    "olmo2": "self_attn.o_proj",
    "opt": "self_attn.out_proj",
    "phi": "self_attn.dense",
    "phi3": "self_attn.o_proj",
    "qwen2": "self_attn.o_proj",
    "qwen3": "self_attn.o_proj",
    "qwen3_5_text": "self_attn.o_proj",
    "qwen3_moe": "self_attn.o_proj",
    "stablelm": "self_attn.o_proj",
    "starcoder2": "self_attn.o_proj",
}

_IN_A_LAYER = re.compile(r"(|.*?\.)(\d+)\.(.*)")
"""What stands before the number of a decoder layer, the number, and the path inside the layer."""


@dataclass(frozen=True)
class Projection:
    """A linear layer ``W: d_in → d_out`` of one decoder layer, found in a model; mostly its attention output projection.

    Args:
        layer: index of the decoder layer.
        name: full module name, as in ``model.named_modules()``.
        module: the projection itself: ``nn.Linear``, GPT-2's ``Conv1D`` or a quantized linear layer.
    """

    layer: int
    name: str
    module: nn.Module

    @property
    def in_features(self) -> int:
        """``d_in``: width of the projection's input."""
        return in_and_out_features(self.module)[0]

    @property
    def out_features(self) -> int:
        """``d_out``: width of the residual stream."""
        return in_and_out_features(self.module)[1]


def in_and_out_features(module: nn.Module) -> tuple[int, int]:
    """``(d_in, d_out)`` of a linear-like layer; ``Conv1D`` stores its weight as ``[d_in, d_out]``."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]


def is_linear(module: nn.Module) -> bool:
    """Whether a module maps ``[.., d_in]`` to ``[.., d_out]``: plain, transposed (``Conv1D``) or quantized."""
    return isinstance(module, Conv1D) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def _layer_of(projection: Projection) -> int:
    return projection.layer


def find_output_projections(
    model: PreTrainedModel, output_projection: str | None = None, layers: list[int] | None = None
) -> list[Projection]:
    """The attention output projections of a model, in layer order: of all of its decoder layers, or of those that have attention.

    Args:
        model: any causal language model of ``transformers``.
        output_projection: path inside one decoder layer; ``None`` looks it up by ``model.config.model_type``.
        layers: keep only these decoder layers; ``None`` keeps all.

    Raises:
        ArchitectureError: the architecture is unknown, the path matches nothing, or a layer does not exist.
    """
    model_type = str(model.config.model_type)
    suffix = output_projection or OUTPUT_PROJECTIONS.get(model_type)
    if suffix is None:
        raise ArchitectureError(
            f"The architecture {model_type!r} is not in MoGU's table",
            expected=f"one of {', '.join(sorted(OUTPUT_PROJECTIONS))}, or the name of its attention output projection",
            action=_advice(model),
        )
    pattern = re.compile(rf"(|.*\.)(\d+)\.{re.escape(suffix)}")
    matches = [(match, module) for name, module in model.named_modules() if (match := pattern.fullmatch(name)) and is_linear(module)]
    projections = sorted((Projection(int(match[2]), match[0], module) for match, module in matches), key=_layer_of)
    if len({match[1] for match, _ in matches}) != 1:  # none, or another stack of layers, such as a tower that reads pictures, has them too
        raise ArchitectureError(
            f"No module of this {model_type!r} model is called '<layer>.{suffix}' once in every decoder layer with attention",
            expected="a linear layer of that name in each decoder layer that has attention",
            action=_advice(model),
        )
    if layers is None:
        return projections
    present = {projection.layer: projection for projection in projections}
    missing = sorted(set(layers) - set(present))
    if missing or not layers:
        raise ArchitectureError(
            f"The layers {missing} are not in this model, or have no attention" if missing else "The list of layers to route is empty",
            expected=f"layer indices {_listed(list(present))}",
            action="correct mogu.layers in the recipe (layers in a MoguConfig)",
        )
    return [present[index] for index in sorted(set(layers))]


def _listed(layers: Sequence[int]) -> str:
    """``from 0 to 31``; of models in which only some layers have attention ``among 3, 7, 11``."""
    whole = list(layers) == list(range(len(layers)))
    return f"from 0 to {len(layers) - 1}" if whole else f"among {', '.join(map(str, layers))}, those with attention"


def find_backbone(model: PreTrainedModel, layers: Sequence[int], modules: Sequence[str] | None = None) -> list[Projection]:
    """Linear layers of some decoder layers, in layer order.

    Args:
        model: any causal language model of ``transformers``.
        layers: indices of the decoder layers.
        modules: paths inside one decoder layer, or the ends of such paths; ``None`` is every linear layer that each of them has.

    Raises:
        ArchitectureError: a path matches nothing.
    """
    linear = find_linear_layers(model, layers)
    chosen = [path for path in linear if modules is None or any(path == name or path.endswith(f".{name}") for name in modules)]
    missing = [name for name in modules or () if not any(path == name or path.endswith(f".{name}") for path in linear)]
    if missing or not chosen:
        raise ArchitectureError(
            f"No linear layer in this {model.config.model_type!r} model's decoder layers is called {', '.join(missing) or 'anything'}",
            expected=f"names among {', '.join(linear) or 'none found'}",
            action="correct the backbone's 'modules', or leave them out to adapt all of them",
        )
    return sorted((projection for path in chosen for projection in linear[path] if projection.layer in layers), key=_layer_of)


def decoder_layer_name(module_name: str) -> str:
    """Full name of the decoder layer that a module is part of: ``"model.layers.3"`` for ``"model.layers.3.self_attn.o_proj"``."""
    match = _IN_A_LAYER.fullmatch(module_name)
    assert match is not None  # whoever asks has found the module in one
    return f"{match[1]}{match[2]}"


def place_in_stack(name: str) -> tuple[str, int] | None:
    """The stack of layers that a module or a parameter is part of, and its layer there; ``None`` where it is part of none.

    ``("model.layers", 3)`` for ``"model.layers.3.self_attn.o_proj.weight"``.
    """
    match = _IN_A_LAYER.fullmatch(name)
    return (match[1].removesuffix("."), int(match[2])) if match else None


def _advice(model: PreTrainedModel) -> str:
    candidates = candidate_projections(model)
    if not candidates:
        return "choose a model with attention: this one has none that MoGU finds"
    return (
        f"name it with output_projection=... (mogu.output_projection in a recipe, --output-projection of `mogu probe`); candidates: "
        f"{', '.join(candidates)}"
    )


def candidate_projections(model: PreTrainedModel) -> list[str]:
    """Paths of what may be attention output projections, those of most decoder layers first.

    Of each module that is called attention, or the like, its last linear layer that maps to the width of the residual stream; so
    none of a feed-forward network.
    """
    width = int(model.config.get_text_config().hidden_size)
    last: dict[str, dict[str, list[Projection]]] = {}
    for path, projections in _decoder(model).items():
        parent = path.rpartition(".")[0]
        if "att" in parent.lower() and all(projection.out_features == width for projection in projections):
            last.setdefault(parent, {})[path] = projections
    found = {path: len(of_path) for paths in last.values() for path, of_path in list(paths.items())[-1:]}
    return sorted(found, key=lambda path: -found[path])


def find_linear_layers(model: PreTrainedModel, layers: Sequence[int] | None = None) -> dict[str, list[Projection]]:
    """The linear layers that occur once in every decoder layer, by their path inside it, those that look like attention first.

    Each list is in layer order. What a model has beside its decoder, such as a tower that reads pictures, does not count.

    Args:
        model: any causal language model of ``transformers``.
        layers: the decoder layers that must have them; ``None`` is all.
    """
    decoder = _decoder(model)
    everywhere = {projection.layer for projections in decoder.values() for projection in projections} if layers is None else set(layers)
    paths = [path for path, projections in decoder.items() if everywhere <= {projection.layer for projection in projections}]
    return {path: sorted(decoder[path], key=_layer_of) for path in sorted(paths, key=lambda path: ("att" not in path, path))}


def _decoder(model: PreTrainedModel) -> dict[str, list[Projection]]:
    """The linear layers of the decoder, by their path inside a decoder layer; the decoder is the largest stack of layers."""
    stacks: dict[str, dict[str, list[Projection]]] = {}
    for name, module in model.named_modules():
        match = _IN_A_LAYER.fullmatch(name)
        if match and is_linear(module):
            stacks.setdefault(match[1], {}).setdefault(match[3], []).append(Projection(int(match[2]), name, module))
    return max(stacks.values(), key=lambda paths: sum(map(len, paths.values())), default={})


def compute_dtype(module: nn.Module, model: PreTrainedModel) -> torch.dtype:
    """The floating-point type in which a projection computes: its weight's, or for quantized weights the model's."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if weight.is_floating_point() and weight.dtype.itemsize >= 2:
        return weight.dtype
    chosen = getattr(module, "compute_dtype", None)
    if isinstance(chosen, torch.dtype):
        return chosen
    return model.dtype if model.dtype.is_floating_point else torch.float32


def compute_device(module: nn.Module) -> torch.device:
    """The device on which a projection computes: its weight's, or, where accelerate keeps the weight elsewhere, its hook's."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.device
