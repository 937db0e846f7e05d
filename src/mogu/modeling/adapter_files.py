"""LoRA adapters, routers and gates on disk: safetensors with a PEFT config beside them, read with checks.

Knows files and tensors; knows nothing of models or of what else a saved model holds. Nothing here unpickles code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save
from torch import Tensor

from mogu.errors import ModelFileError
from mogu.files.text_files import parse_json
from mogu.modeling.gated.gate import ENDS, STREAM_READINGS, Gate, StreamHead

PEFT_PREFIX = "base_model.model."
_MOST_TEXT = 2**22
_MOST_DIMENSIONS = 8
_LAYER = r"(0|[1-9][0-9]{0,5})"
_NUMBERS = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


@dataclass(frozen=True)
class Adapter:
    """A responder, or the backbone's LoRA, as PEFT keeps it.

    Args:
        weights: for each layer, by module name, ``A [r, d_in]`` and ``B [d_out, r]``.
        rank: ``r``.
        lora_alpha: the alpha that gives its scaling as ``lora_alpha / r``.
        fan_in_fan_out: whether the base layers keep their weights as ``[d_in, d_out]``, as GPT-2's ``Conv1D`` does.
    """

    weights: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    lora_alpha: float
    fan_in_fan_out: bool = False


def read_text(file: Path) -> str:
    """Read a text file of a saved model.

    Raises:
        ModelFileError: it is not UTF-8 text, cannot be read, or is larger than any that was ever saved.
    """
    try:
        size = file.stat().st_size
        if size > _MOST_TEXT:
            raise ModelFileError(
                f"{file} has {size:,} bytes", expected=f"at most {_MOST_TEXT:,} bytes, and far fewer", action="copy the folder again"
            )
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{file} is not UTF-8 text", expected="the file as it was saved", action="copy the file again") from error
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error.strerror}", expected="a file that may be read", action="check it") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ModelFileError: the file is missing, cut short or not a safetensors file, or has numbers that are not finite.
    """
    if not file.is_file():
        raise ModelFileError(f"{file} does not exist", expected="a safetensors file", action="check the path, or copy the folder again")
    try:
        tensors = load_file(file)
    except MemoryError:
        raise
    except Exception as error:  # besides SafetensorError and OSError, what PyTorch makes of types that it does not know
        raise ModelFileError(
            f"{file} is not a whole safetensors file ({error})",
            expected="the file as it was saved",
            action="copy or download the file again",
        ) from error
    for key, tensor in tensors.items():
        if tensor.dtype not in _NUMBERS or tensor.ndim > _MOST_DIMENSIONS:
            raise ModelFileError(
                f"{file} holds {key!r:.200} as {tensor.dtype} of {tensor.ndim} dimensions",
                expected="vectors and matrices of ordinary numbers",
                action="save the model again",
            )
    check_finite(file, tensors)
    return tensors


def check_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers: one of them would make every answer empty.

    Raises:
        ModelFileError: a tensor of ``file`` holds an infinity or not a number.
    """
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelFileError(
                f"{file} holds numbers in {key} that are not finite",
                expected="weights as a sound training run leaves them",
                action="copy the file again, or train again with a smaller learning rate",
            )


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT LoRA adapter folder.

    Raises:
        ModelFileError: something is missing or broken, or the adapter is not a plain LoRA.
    """
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        raise ModelFileError(f"{folder} holds no adapter_config.json", expected="a PEFT LoRA adapter", action="check the path")
    try:
        raw = parse_json(read_text(config_file))
        rank, alpha = int(raw["r"]), float(raw["lora_alpha"])
        plain = raw["peft_type"] == "LORA" and not raw.get("use_dora") and raw.get("bias", "none") == "none"
        plain = plain and not raw.get("rank_pattern") and not raw.get("alpha_pattern")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"{config_file} is not a PEFT LoRA config ({error!r})", expected="an adapter that PEFT saved", action="save or copy it again"
        ) from error
    if not plain or rank < 1 or not math.isfinite(alpha):
        raise ModelFileError(
            f"The adapter {folder} is not a plain LoRA of one rank and a finite alpha",
            expected="peft_type LORA without DoRA, trained biases or per-module ranks",
            action="train it as a plain LoRA",
        )
    if raw.get("use_rslora"):
        alpha *= rank**0.5
    file = folder / "adapter_model.safetensors"
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(file).items():
        name, _, half = key.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        if not name or half not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise ModelFileError(
                f"{file} holds {key!r} of shape {list(tensor.shape)}",
                expected="only LoRA matrices A and B",
                action="save the adapter again",
            )
        halves.setdefault(name, {})[half[0]] = tensor
    for name, both in halves.items():
        if set(both) != {"A", "B"} or both["A"].shape[0] != rank or both["B"].shape[1] != rank:
            shapes = {half: list(tensor.shape) for half, tensor in both.items()}
            raise ModelFileError(
                f"{file} holds {shapes} for {name}", expected=f"A [{rank}, d_in] and B [d_out, {rank}]", action="save the adapter again"
            )
    weights = {name: (both["A"], both["B"]) for name, both in halves.items()}
    return Adapter(weights, rank, alpha, bool(raw.get("fan_in_fan_out")))


def write_adapter(folder: Path, adapter: Adapter, *, base_model: str | None) -> None:
    """Write a LoRA as an adapter that PEFT alone can load.

    Args:
        folder: where to write.
        adapter: the LoRA.
        base_model: name of the base model, for PEFT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=int(adapter.lora_alpha) if adapter.lora_alpha.is_integer() else adapter.lora_alpha,  # type: ignore[arg-type]
        # Full names: a bare suffix such as "c_proj" would match the feed-forward's projection too.
        target_modules=list(adapter.weights),
        fan_in_fan_out=adapter.fan_in_fan_out,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    config.target_modules = list(adapter.weights)  # PEFT makes a set of it, whose order differs from run to run
    config.save_pretrained(str(folder))
    tensors = {}
    for name, (lora_a, lora_b) in adapter.weights.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = lora_a.cpu().contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = lora_b.cpu().contiguous()
    write_tensors(folder / "adapter_model.safetensors", tensors)


def read_routers(file: Path, widths: Mapping[int, int] | None = None) -> dict[int, tuple[Tensor, Tensor]]:
    """Read folded routers by layer: ``vectors [2, d_in]`` and ``biases [2]``, unwill first.

    Args:
        file: a safetensors file.
        widths: the decoder layers that it has to be for, each with its ``d_in``; ``None`` is whichever it has.

    Raises:
        ModelFileError: the file is broken, or its layers or shapes are not those of the model.
    """
    tensors = read_tensors(file)
    keys = [re.fullmatch(rf"layers\.{_LAYER}\.weight", key) for key in tensors]
    listed = sorted(int(key[1]) for key in keys if key) if widths is None else sorted(widths)
    routers = {}
    for layer in listed:
        vectors, biases = tensors.get(f"layers.{layer}.weight"), tensors.get(f"layers.{layer}.bias")
        width = None if widths is None else widths[layer]
        fits = vectors is not None and vectors.ndim == 2 and vectors.shape == (2, width or vectors.shape[1])
        if vectors is None or biases is None or not fits or biases.shape != (2,):
            shapes = {key: list(tensor.shape) for key, tensor in tensors.items() if key.startswith(f"layers.{layer}.")}
            raise ModelFileError(
                f"{file} holds {shapes or 'nothing'} for layer {layer}",
                expected=f"weight [2, {width or 'd'}] and bias [2] for each of the layers {listed}",
                action="use the router that was saved with this model",
            )
        routers[layer] = (vectors, biases)
    if len(tensors) != 2 * len(listed):
        raise ModelFileError(
            f"{file} holds {len(tensors) // 2} routers",
            expected=f"{len(listed)}, one a routed layer",
            action="use the router of this model",
        )
    return routers


def write_routers(file: Path, routers: Mapping[int, tuple[Tensor, Tensor]]) -> None:
    """Write folded routers, in float32."""
    tensors = {}
    for layer, (vectors, biases) in routers.items():
        tensors[f"layers.{layer}.weight"] = vectors.to("cpu", torch.float32).contiguous()
        tensors[f"layers.{layer}.bias"] = biases.to("cpu", torch.float32).contiguous()
    write_tensors(file, tensors)


def read_gate(file: Path) -> tuple[Gate, StreamHead | None]:
    """Read a prompt gate and, where there is one, the stream head beside it.

    Raises:
        ModelFileError: the file is broken, or its taps or shapes are not those of one model.
    """
    tensors = read_tensors(file)
    prompt, stream = _by_tap(tensors, "gate"), _by_tap(tensors, "stream")
    rows, width = next((vectors.shape for vectors in prompt.values() if vectors.dim() == 2), (0, 0))
    known = {*(f"gate.{tap}.weight" for tap in prompt), "gate.bias"}
    if stream:
        known |= {*(f"stream.{tap}.weight" for tap in stream), "stream.prompt", "stream.bias"}
    fits = rows > ENDS and rows % 2 == 0 and all(vectors.shape == (rows, width) for vectors in prompt.values())
    fits = fits and all(vectors.shape == (len(STREAM_READINGS), width) for vectors in stream.values())
    if not prompt or not fits or set(tensors) != known or any(tensors[key].numel() != 1 for key in known if not key.endswith(".weight")):
        raise ModelFileError(
            f"{file} holds {', '.join(f'{key} {list(tensor.shape)}' for key, tensor in sorted(tensors.items())) or 'nothing'}",
            expected="gate.<layer>.weight [2 + 2·heads, d] and gate.bias; and of a stream head stream.<layer>.weight [2, d], .prompt .bias",
            action="use the gate that was saved with this model",
        )
    head = StreamHead(stream, float(tensors["stream.prompt"]), float(tensors["stream.bias"])) if stream else None
    return Gate(prompt, float(tensors["gate.bias"])), head


def _by_tap(tensors: Mapping[str, Tensor], part: str) -> dict[int, Tensor]:
    keys = [re.fullmatch(rf"{part}\.{_LAYER}\.weight", key) for key in tensors]
    # Copied: in a mapped file they may lie unaligned, and products with them would then round in another way than before saving.
    return {int(key[1]): tensors[key[0]].float().clone() for key in sorted(filter(None, keys), key=lambda key: int(key[1]))}


def write_gate(file: Path, gate: Gate, stream: StreamHead | None) -> None:
    """Write a prompt gate and the stream head beside it, in float32."""
    tensors = {f"gate.{tap}.weight": vectors for tap, vectors in gate.vectors.items()}
    tensors["gate.bias"] = torch.tensor([gate.bias])
    if stream is not None:
        tensors |= {f"stream.{tap}.weight": vectors for tap, vectors in stream.vectors.items()}
        tensors |= {"stream.prompt": torch.tensor([stream.prompt]), "stream.bias": torch.tensor([stream.bias])}
    write_tensors(file, {key: tensor.to("cpu", torch.float32).contiguous() for key, tensor in tensors.items()})


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file."""
    # Not by save_file, which hides a full disk in an error of its own and leaves half a file.
    file.write_bytes(save(tensors, metadata={"format": "pt"}))
