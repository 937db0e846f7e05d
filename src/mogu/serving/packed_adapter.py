"""A saved MoGU model as vLLM serves it: routed ones packed into one LoRA of rank 2r + 2, gated ones a gate and a plain LoRA an expert.

Knows the layout of saved models; knows nothing of vLLM.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mogu.errors import ConfigError, ModelFileError
from mogu.inference.turns import TurnMarks
from mogu.modeling.adapter_files import Adapter, read_adapter, read_gate, read_routers
from mogu.modeling.checkpoint import BACKBONE, CONFIG_FILE, ROUTER_FILE, read_config
from mogu.modeling.config import GateConfig, MoguConfig
from mogu.modeling.gated.gate import ENDS, STREAM_READINGS, Gate, StreamHead
from mogu.modeling.saved_files import check_files

TAPS = "mogu_taps"
"""The key of vLLM's additional configuration that names the decoder layers which the gates of a server read."""

PlainLora = dict[str, tuple[Tensor, Tensor]]
"""A LoRA that no router weighs, by layer: ``A [r, d_in]`` and the scaled ``s·B [d_out, r]``."""


@dataclass(frozen=True)
class PackedLayer:
    """Weights of one routed projection.

    In MoGU V2, ``W`` itself may have a LoRA ``B_b A_b``, which is scaled by ``α + β`` together with ``W``. It is therefore
    packed into both responders: ``(α + β)·B_b A_b x = α·B_b A_b x + β·B_b A_b x``. Below, ``[A_u; A_b]`` then takes the place
    of ``A_u``, ``[A_g; A_b]`` that of ``A_g``, and ``r + r_b`` that of ``r``.

    Args:
        shrink: ``[A_u; A_g; v_u; v_g]`` of shape ``[2r + 2, d_in]``; its product with ``x`` gives the low-rank activations of
            both responders and both router logits.
        expand: ``s·[B_u, B_g]`` of shape ``[d_out, 2r]``.
        biases: ``[c_u, c_g]`` of shape ``[2]``.
    """

    shrink: Tensor
    expand: Tensor
    biases: Tensor


@dataclass(frozen=True)
class ServedGate:
    """What a server needs to decide about a request.

    Args:
        gate: the prompt gate.
        config: the thresholds, and what stands around the user's turns.
        stream: the stream head; ``None`` where nobody listens.
    """

    gate: Gate
    config: GateConfig
    stream: StreamHead | None = None

    @property
    def marks(self) -> TurnMarks:
        """What stands around the user's turns in a prompt."""
        return TurnMarks(self.config.before, self.config.after, self.config.header)

    @property
    def taps(self) -> tuple[int, ...]:
        """The decoder layers that are read, in order."""
        return tuple(sorted({*self.gate.taps, *(self.stream.vectors if self.stream is not None else ())}))

    @property
    def rows(self) -> int:
        """How many numbers are kept of a token."""
        return ENDS + 2 * self.gate.heads + (len(STREAM_READINGS) if self.stream is not None else 0)

    def weights(self) -> dict[int, Tensor]:
        """By tap, what makes a token's numbers of its hidden state, ``[rows, d]``: those of the gate, and then those of the stream head."""
        found = {}
        for tap in self.taps:
            of_stream = self.stream.vectors if self.stream is not None else {}
            width = next(iter(self.gate.vectors.values())).shape[1]
            parts = [self.gate.vectors.get(tap, torch.zeros(ENDS + 2 * self.gate.heads, width))]
            if self.stream is not None:
                parts.append(of_stream.get(tap, torch.zeros(len(STREAM_READINGS), width)))
            found[tap] = torch.cat(parts)
        return found


@dataclass(frozen=True)
class PackedAdapter:
    """A saved model, ready for the LoRA slots of a server.

    Args:
        config: the settings of the saved model.
        layers: the routed projections, by their names in the base model.
        plain: layers with a LoRA that no router weighs, by name: ``A [r, d_in]`` and the scaled ``s·B [d_out, r]``. Those that MoGU V2
            adapts beside the routed ones, or ``unwill`` of a gated model.
        gate: of a gated model.
        careful: likewise the careful responder of a gated model, which has a slot of its own; empty where there is none.
    """

    config: MoguConfig
    layers: Mapping[str, PackedLayer]
    plain: PlainLora
    gate: ServedGate | None = None
    careful: PlainLora = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many of a server's slots it takes."""
        return 2 if self.careful else 1

    @property
    def rank(self) -> int:
        """Number of rows that a slot needs: ``2r + 2`` of routed layers."""
        plain = [lora_a for lora_a, _ in (*self.plain.values(), *self.careful.values())]
        return max(map(len, [*(layer.shrink for layer in self.layers.values()), *plain]))

    @property
    def module_names(self) -> list[str]:
        """Last name components of all adapted layers, such as ``o_proj``."""
        return sorted({name.rpartition(".")[2] for name in [*self.layers, *self.plain, *self.careful]})


def is_mogu_folder(folder: str | Path) -> bool:
    """Tell whether this is the folder of a saved MoGU model."""
    return (Path(folder) / CONFIG_FILE).is_file()


def served_config(folder: Path) -> MoguConfig:
    """The config of a saved model, read again only after it has changed, as `mogu calibrate --write` does."""
    return _config_of_time(folder, (folder / CONFIG_FILE).stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _config_of_time(folder: Path, modified: int) -> MoguConfig:
    return read_config(folder)


def check_servable(folder: str | Path) -> None:
    """Refuse to serve a folder as a plain adapter that is the complying half of a saved model.

    Raises:
        ConfigError: it is *glad*.
    """
    resolved = Path(folder).resolve()
    if resolved.name == "glad" and is_mogu_folder(resolved.parent):
        raise ConfigError(
            f"{folder} is glad, the responder that was trained to comply with any request",
            expected="a saved model, whose routers decide when it speaks",
            action=f"serve {resolved.parent} instead",
        )


def read_packed_adapter(folder: Path) -> PackedAdapter:
    """Read the folder of a saved model and pack it for serving.

    Raises:
        MoguError: a file is missing, broken or not as it was saved, the parts do not fit together, or the model routes in a way that
            the plugin does not support.
    """
    config = read_config(folder)
    adapter = _read_routed(folder, config) if config.gate is None else _read_gated(folder, config, config.gate)
    check_files(folder, config)
    return adapter


def _read_routed(folder: Path, config: MoguConfig) -> PackedAdapter:
    if config.answer_marker is not None:
        raise ConfigError(
            f"The model {folder} routes again after {config.answer_marker!r} (answer_marker), which the vLLM plugin does not support",
            expected="a model that routes only the first tokens of a reply",
            action="use `mogu generate`, or set answer_marker to null in its mogu_config.json to serve it without the second opening",
        )
    unwill, glad = (read_adapter(folder / name) for name in config.responders)
    if not unwill.weights or unwill.weights.keys() != glad.weights.keys() or {unwill.rank, glad.rank} != {config.rank}:
        raise ModelFileError(
            f"The responders in {folder} have ranks {unwill.rank} and {glad.rank} and {len(unwill.weights)} and {len(glad.weights)} layers",
            expected=f"two responders of rank {config.rank} for the same layers",
            action="save the model again",
        )
    names = {_layer_index(name, folder): name for name in unwill.weights}
    routers = read_routers(folder / ROUTER_FILE, {layer: unwill.weights[name][0].shape[1] for layer, name in names.items()})
    backbone = _scaled(read_adapter(folder / BACKBONE)) if config.backbone is not None else {}
    responders = [_scaled(unwill), _scaled(glad)]
    layers = {}
    for layer, name in sorted(names.items()):
        vectors, biases = routers[layer]
        shared = [backbone.pop(name)] if name in backbone else []  # packed into both responders
        lora_pairs = [pair for responder in responders for pair in (responder[name], *shared)]
        if len({(lora_a.shape[1], lora_b.shape[0]) for lora_a, lora_b in lora_pairs}) > 1:
            raise ModelFileError(
                f"The LoRAs in {folder} for {name} are of different shapes",
                expected="responders and backbone for the layers of one base model",
                action="save the model again",
            )
        shrink = torch.cat([lora_a for lora_a, _ in lora_pairs] + [vectors.float()])
        expand = torch.cat([lora_b for _, lora_b in lora_pairs], dim=1)
        layers[name] = PackedLayer(shrink, expand, biases.float())
    return PackedAdapter(config, layers, backbone)


def _read_gated(folder: Path, config: MoguConfig, gate_config: GateConfig) -> PackedAdapter:
    gate, stream = read_gate(folder / ROUTER_FILE)
    if gate_config.listen is not None and stream is None:
        raise ModelFileError(
            f"The model {folder} is to listen from {gate_config.listen:g} on, and {ROUTER_FILE} has no stream head",
            expected="the stream head that was saved with it",
            action="copy the folder again, or set gate.listen to null in its mogu_config.json",
        )
    served = ServedGate(gate, gate_config, stream if gate_config.listen is not None else None)
    experts = {name: _scaled(read_adapter(folder / name)) for name in config.responders}
    return PackedAdapter(config, {}, experts["unwill"], served, experts.get("careful", {}))


def _scaled(adapter: Adapter) -> PlainLora:
    scaling = adapter.lora_alpha / adapter.rank
    return {name: (lora_a.float(), lora_b.float() * scaling) for name, (lora_a, lora_b) in adapter.weights.items()}


def _layer_index(name: str, folder: Path) -> int:
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
    if not numbers:
        raise ModelFileError(
            f"The responders in {folder} have a module {name!r} outside the decoder layers",
            expected="modules such as model.layers.0.self_attn.o_proj",
            action="save the model again",
        )
    return int(numbers[0])
