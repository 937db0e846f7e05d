"""A saved MoGU model as one LoRA of rank 2r + 2, the shape in which it is served.

Knows the saved layout; knows nothing of vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mogu.config import MoguConfig
from mogu.errors import ModelFileError
from mogu.saved import CONFIG_FILE, RESPONDERS, ROUTER_FILE, read_adapter, read_config, read_routers


@dataclass(frozen=True)
class ServedLayer:
    """One routed projection.

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
        layers: by the name of the projection in the base model.
    """

    config: MoguConfig
    layers: Mapping[str, ServedLayer]

    @property
    def rank(self) -> int:
        """``2r + 2``: rows that a slot needs."""
        return 2 * self.config.rank + 2


def is_mogu_folder(folder: str | Path) -> bool:
    """Whether this is the folder of a saved MoGU model."""
    return (Path(folder) / CONFIG_FILE).is_file()


def read_served_adapter(folder: Path) -> ServedAdapter:
    """Read a saved model's folder as it is served.

    Raises:
        MoguError: something in it is missing or broken, or its parts do not fit together.
    """
    config = read_config(folder)
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
    layers = {}
    for layer, name in sorted(names.items()):
        (unwill_a, unwill_b), (glad_a, glad_b), (vectors, biases) = unwill.weights[name], glad.weights[name], routers[layer]
        scaled = [half.float() * (one.lora_alpha / one.rank) for half, one in ((unwill_b, unwill), (glad_b, glad))]
        shrink = torch.cat([unwill_a.float(), glad_a.float(), vectors.float()])
        layers[name] = ServedLayer(shrink, torch.cat(scaled, dim=1), biases.float())
    return ServedAdapter(config, layers)


def _layer_of(name: str, folder: Path) -> int:
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
    if not numbers:
        raise ModelFileError(
            f"The responders in {folder} have a module {name!r}, which belongs to no decoder layer",
            expected="modules such as model.layers.0.self_attn.o_proj",
            action="save the model again",
        )
    return int(numbers[0])
