"""Bring models of the published release into this project's layout.

Knows the published names; knows nothing of training or generation. Router files are read by PyTorch's restricted
unpickler, which runs no code.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mogu.errors import ModelFileError
from mogu.hub import load_base
from mogu.modeling.adapter_files import check_finite, read_adapter
from mogu.modeling.config import MoguConfig
from mogu.modeling.model import MoguModel

_PUBLISHED_ROUTERS = {"alpha_": "unwill", "beta_": "glad"}
_PUBLISHED_KEY = re.compile(
    r"(?:.*\.)?routers\.([0-9]{1,6})\.(alpha_|beta_)\.(linear_0\.weight|linear_1\.weight|linear_1\.bias|linear_2\.weight|linear_2\.bias)"
)
_PARTS = ("linear_0.weight", "linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")


def import_reference(
    base_model: PreTrainedModel | str | Path, unwill: str | Path, glad: str | Path, router: str | Path, *, trust_remote_code: bool = False
) -> MoguModel:
    """Make a :class:`~mogu.MoguModel` of a published release: two PEFT adapters and a router state dict.

    Args:
        base_model: the base model, or its folder or hub id.
        unwill: folder of the unwill responder (``resp_unwill/<step>_lora``).
        glad: folder of the glad responder (``resp_glad/<step>_lora``).
        router: file of the routers (``router_layer/<step>_router.pth``).
        trust_remote_code: whether the base model's own code may run.

    Raises:
        ModelFileError: a file is missing, broken or hostile, or does not fit the base model.
    """
    unwill_adapter, glad_adapter = read_adapter(Path(unwill)), read_adapter(Path(glad))
    rank, lora_alpha = unwill_adapter.rank, unwill_adapter.lora_alpha
    if (glad_adapter.rank, glad_adapter.lora_alpha) != (rank, lora_alpha):
        raise ModelFileError(
            f"The unwill responder has rank {rank} and alpha {lora_alpha:g}, "
            f"the glad responder rank {glad_adapter.rank} and alpha {glad_adapter.lora_alpha:g}",
            expected="two responders of one rank and one alpha",
            action="use the two responders of one release",
        )
    folded = read_published_routers(Path(router))
    base = base_model if isinstance(base_model, PreTrainedModel) else load_base(str(base_model), trust_remote_code=trust_remote_code)
    model = MoguModel.from_base(base, MoguConfig(rank=rank, lora_alpha=lora_alpha))
    try:
        model.injected.set_responder("unwill", unwill_adapter)
        model.injected.set_responder("glad", glad_adapter)
        _set_routers(model, folded, Path(router))
    except ModelFileError:
        model.detach()
        raise
    return model


def _set_routers(model: MoguModel, folded: dict[int, tuple[Tensor, Tensor]], file: Path) -> None:
    width = model.routed_layers[0].in_features
    found_width = next(iter(folded.values()))[0].shape[1]
    if sorted(folded) != model.routed_layer_indices or found_width != width:
        raise ModelFileError(
            f"{file} holds routers for {len(folded)} layers of width {found_width}",
            expected=f"{len(model.routed_layers)} layers of width {width}",
            action="use the router of this base model",
        )
    for index, layer in zip(model.routed_layer_indices, model.routed_layers, strict=True):
        layer.set_router(*folded[index])


def read_published_routers(file: Path) -> dict[int, tuple[Tensor, Tensor]]:
    """Read a published router file and fold it, in float64: ``v = w₂·W₁·W₀`` and ``c = w₂·b₁ + b₂``.

    Returns:
        For each layer ``vectors [2, d]`` and ``biases [2]`` in float32, unwill first.

    Raises:
        ModelFileError: the file is missing, broken, holds code, or is not a router state dict.
    """
    state = _load_state(file)
    chains: dict[int, dict[str, dict[str, Tensor]]] = {}
    for key, tensor in state.items():
        match = _PUBLISHED_KEY.fullmatch(str(key))
        if match is None or not isinstance(tensor, Tensor):
            raise _not_routers(file, f"it holds {key!r:.200}")
        if not _is_plain(tensor, file):
            raise _not_routers(file, f"{key!r:.200} is no plain matrix of numbers, or stands for more of them than the file holds")
        chains.setdefault(int(match[1]), {}).setdefault(_PUBLISHED_ROUTERS[match[2]], {})[match[3]] = tensor.double()
    check_finite(file, {str(key): tensor for key, tensor in state.items() if isinstance(tensor, Tensor)})
    if not chains:
        raise _not_routers(file, "it is empty")
    folded = {}
    for layer, routers in sorted(chains.items()):
        pairs = [_fold(file, layer, routers.get(name, {})) for name in ("unwill", "glad")]
        folded[layer] = (torch.stack([vector for vector, _ in pairs]).float(), torch.stack([bias for _, bias in pairs]).float())
    if len({vectors.shape for vectors, _ in folded.values()}) != 1:
        raise _not_routers(file, "its layers have different widths")
    return folded


def _is_plain(tensor: Tensor, file: Path) -> bool:
    """Whether a tensor is what it seems: in memory, of floating-point numbers, each of which is in the file."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype.is_floating_point
    return plain and tensor.numel() * tensor.element_size() <= file.stat().st_size


def _fold(file: Path, layer: int, chain: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    missing = [part for part in _PARTS if part not in chain]
    if missing:
        raise _not_routers(file, f"layer {layer} lacks {', '.join(missing)}")
    first, second, second_bias, third, third_bias = (chain[part] for part in _PARTS)
    try:
        hidden, width = first.shape
        row = third.view(1, width)
        vector = (row @ second.view(width, hidden)) @ first
        return vector[0], (row @ second_bias.view(width) + third_bias.view(1))[0]
    except (RuntimeError, ValueError) as error:
        shapes = {part: list(tensor.shape) for part, tensor in chain.items()}
        raise _not_routers(file, f"the shapes of layer {layer} do not chain: {shapes}") from error


def _load_state(file: Path) -> dict[str, object]:
    if not file.is_file():
        raise ModelFileError(f"{file} does not exist", expected="a published router file (.pth)", action="check the path")
    _check_sizes(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{file} holds more than tensors, and was not loaded: it may contain code",
            expected="a state dict that torch.load(weights_only=True) reads",
            action="do not use this file unless you know where it comes from; save its tensors anew in a safe place",
        ) from error
    except Exception as error:  # a scrambled pickle can make the reader stumble anywhere
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"{file} is cut short or no PyTorch file ({first_line})", expected="a router file (.pth)", action="copy it again"
        ) from error
    if not isinstance(state, dict):
        raise _not_routers(file, f"it holds a {type(state).__name__}")
    return state


def _check_sizes(file: Path) -> None:
    """Refuse an archive whose parts are packed, which PyTorch never does: they can unpack to any size."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            packed = any(part.compress_type != zipfile.ZIP_STORED or part.file_size > file.stat().st_size for part in archive.infolist())
    except Exception as error:  # a scrambled archive can make the reader stumble anywhere
        raise _not_routers(file, "it is no archive of PyTorch") from error
    if packed:
        raise _not_routers(file, "its parts are compressed")


def _not_routers(file: Path, why: str) -> ModelFileError:
    return ModelFileError(
        f"{file} is not a router file of the published release: {why}",
        expected="keys like model.routers.<layer>.alpha_.linear_0.weight, in shapes [512, d], [d, 512], [d], [1, d], [1]",
        action="give the <step>_router.pth of the release",
    )
