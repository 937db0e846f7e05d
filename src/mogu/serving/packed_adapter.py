"""A saved MoGU model as one LoRA, of rank 2r + 2 on the routed projections, the shape in which it is served.

Knows the saved layout; knows nothing of vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mogu.errors import ConfigError, ModelFileError
from mogu.modeling.adapter_files import RESPONDERS, Adapter, read_adapter, read_routers
from mogu.modeling.checkpoint import BACKBONE, CONFIG_FILE, ROUTER_FILE, read_config
from mogu.modeling.config import MoguConfig


@dataclass(frozen=True)
class ServedLayer:
    """One routed projection.

    The LoRA ``B_b A_b`` that MoGU V2 may have on ``W`` itself is scaled by ``α + β`` with it, and so is a part of either
    responder: ``(α + β)·B_b A_b x = α·B_b A_b x + β·B_b A_b x``. Then ``[A_u; A_b]`` stands below in the place of ``A_u``,
    ``[A_g; A_b]`` in that of ``A_g``, ``r + r_b`` in that of ``r``.

    Args:
        shrink: ``[A_u; A_g; v_u; v_g]``, ``[2r + 2, d_in]``: its product with ``x`` is both low-rank activations and both
            router logits.
        expand: ``s·[B_u, B_g]``, ``[d_out, 2r]``.
        biases: ``[c_u, c_g]``, ``[2]``.
    """

    shrink: Tensor
    expand: Tensor
    biases: Tensor


@dataclass(frozen=True)
class ServedAdapter:
    """A saved model, ready to be put into a server's slots.

    Args:
        config: its settings.
        layers: routed projections, by their names in the base model.
        backbone: the other layers that MoGU V2 adapts, by name: ``A [r, d_in]`` and the scaled ``s·B [d_out, r]``.
    """

    config: MoguConfig
    layers: Mapping[str, ServedLayer]
    backbone: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """``2r + 2``: rows that a slot needs."""
        return max(len(layer.shrink) for layer in self.layers.values())

    @property
    def module_names(self) -> list[str]:
        """Last parts of the names of all layers that it has something for."""
        return sorted({name.rpartition(".")[2] for name in [*self.layers, *self.backbone]})


def is_mogu_folder(folder: str | Path) -> bool:
    """Whether this is the folder of a saved MoGU model."""
    return (Path(folder) / CONFIG_FILE).is_file()


def read_served_adapter(folder: Path) -> ServedAdapter:
    """Read a saved model's folder as it is served.

    Raises:
        MoguError: something in it is missing or broken, its parts do not fit together, or it routes in a way that is not served.
    """
    config = read_config(folder)
    if config.answer_marker is not None:
        raise ConfigError(
            f"The model {folder} routes again behind {config.answer_marker!r} (answer_marker), which the vLLM plugin cannot do",
            expected="a model that routes the first tokens of an answer alone",
            action="use `mogu generate`, or set answer_marker to null in its mogu_config.json to serve it without the second opening",
        )
    unwill, glad = (read_adapter(folder / name) for name in RESPONDERS)
    if unwill.weights.keys() != glad.weights.keys() or {unwill.rank, glad.rank} != {config.rank}:
        raise ModelFileError(
            f"The responders in {folder} have ranks {unwill.rank} and {glad.rank} and {len(unwill.weights)} and {len(glad.weights)} layers",
            expected=f"two responders of rank {config.rank} for the same layers",
            action="save the model again",
        )
    names = {_layer_of(name, folder): name for name in unwill.weights}
    width = next(iter(unwill.weights.values()))[0].shape[1]
    routers = read_routers(folder / ROUTER_FILE, sorted(names), width)
    backbone = _scaled(read_adapter(folder / BACKBONE)) if config.backbone is not None else {}
    responders = [_scaled(unwill), _scaled(glad)]
    layers = {}
    for layer, name in sorted(names.items()):
        vectors, biases = routers[layer]
        on_base = [backbone.pop(name)] if name in backbone else []
        both = [[responder[name], *on_base] for responder in responders]
        shrink = torch.cat([lora_a for parts in both for lora_a, _ in parts] + [vectors.float()])
        expand = torch.cat([lora_b for parts in both for _, lora_b in parts], dim=1)
        layers[name] = ServedLayer(shrink, expand, biases.float())
    return ServedAdapter(config, layers, backbone)


def _scaled(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    scaling = adapter.lora_alpha / adapter.rank
    return {name: (lora_a.float(), lora_b.float() * scaling) for name, (lora_a, lora_b) in adapter.weights.items()}


def _layer_of(name: str, folder: Path) -> int:
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
    if not numbers:
        raise ModelFileError(
            f"The responders in {folder} have a module {name!r}, which belongs to no decoder layer",
            expected="modules such as model.layers.0.self_attn.o_proj",
            action="save the model again",
        )
    return int(numbers[0])
