"""Models with an adapter of PEFT: told from whole models, and merged into one on request.

Knows PEFT's folders and layers; knows nothing of responders.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mogu.errors import ModelFileError
from mogu.files.atomic import atomic_folder
from mogu.files.digests import file_digest
from mogu.files.json_files import fingerprint, read_json, write_json
from mogu.hub.errors import explain, first_line
from mogu.hub.quantization import dequantize, quantization_of, transposed
from mogu.hub.sources import at_revision, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "adapter_config.json"
MARKER = "mogu_merged.json"
_PEFT_PREFIX = "base_model.model."


def is_adapter(source: str) -> bool:
    """Whether a folder holds an adapter of PEFT, and so no whole model."""
    return (Path(source).expanduser() / CONFIG_FILE).is_file()


def has_adapter(model: Any) -> bool:
    """Whether a model has layers of PEFT in it."""
    if "peft" not in sys.modules:
        return False  # and loading a plain model need not wait for its import
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules())


def refuse_adapter(source: str) -> None:
    """Refuse a folder that holds an adapter where a base model is asked for.

    Raises:
        ModelFileError: it holds one.
    """
    if is_adapter(source):
        raise adapter_error(source)


def adapter_error(source: str) -> ModelFileError:
    """What is said of an adapter where a base model is asked for."""
    return ModelFileError(
        f"{source} holds an adapter of PEFT, not a whole model",
        expected="a base model: a hardened model has to find its base again, in one piece",
        action="merge the two: `mogu train` and `mogu finetune` do so with --merge-adapter (model.merge_adapter = true), "
        "PEFT with merge_and_unload() and save_pretrained()",
    )


def adapted_base(source: str) -> str:
    """The name of the base model that an adapter is for.

    Raises:
        ModelFileError: it is no adapter, or does not say.
    """
    settings = (read_json(Path(source).expanduser() / CONFIG_FILE) or {}) if is_adapter(source) else {}
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelFileError(
            f"{source} is no adapter of PEFT that names its base model",
            expected=f"a folder with an {CONFIG_FILE} and its base_model_name_or_path",
            action="leave --merge-adapter out for a whole model; write the base model's folder or hub id into that file",
        )
    return base


def merged(model: Any) -> PreTrainedModel:
    """Merge a model of PEFT's and its LoRAs, in place, into one plain model.

    Weights in 4 or 8 bits become plain ones first: PEFT would quantize the sum again, and with it lose much of what a LoRA learned.
    """
    if quantization_of(model) is None:
        plain: PreTrainedModel = model.merge_and_unload()
        return plain
    updates = {
        name.removeprefix(_PEFT_PREFIX): module.get_delta_weight(module.active_adapters[0])
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    plain = model.unload()
    dequantize(plain)
    for name, update in updates.items():
        layer: Any = plain.get_submodule(name)
        layer.weight.data = (layer.weight.float() + (update.T if transposed(layer) else update).float()).to(layer.weight.dtype)
    return plain


def merge_adapter(source: str, target: Path) -> None:
    """Merge an adapter into its base model and write both as one ordinary model folder, unless that has been done.

    Args:
        source: folder of the adapter.
        target: the folder to write.

    Raises:
        MoguError: one of the two cannot be loaded, or the target exists and is not such a folder, or cannot be written.
    """
    from peft import PeftModel

    from mogu.hub.loading import load_base

    base_name = adapted_base(source)
    made_from = {"adapter": _digest(Path(source).expanduser()), "base": base_name}
    if read_json(target / MARKER) == made_from:
        return
    base = load_base(base_name, dtype="auto")
    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(base, str(Path(source).expanduser())).merge_and_unload(safe_merge=True)
    except Exception as error:  # of PEFT, safetensors and torch
        raise ModelFileError(
            f"The adapter {source} cannot be merged into {base_name}: {first_line(error)}",
            expected="an adapter that was trained on this base model and that PEFT can merge",
            action="check that the base model is the right one; save the adapter again",
        ) from error
    with atomic_folder(target, marker=MARKER) as folder:
        merged.save_pretrained(folder)
        _tokenizer(source, base_name).save_pretrained(folder)
        write_json(folder / MARKER, made_from)


def _tokenizer(source: str, base_name: str) -> Any:
    """The tokenizer beside the adapter, which may have a template or tokens of its own, or else that of the base model."""
    from transformers import AutoTokenizer

    folder = Path(source).expanduser()
    own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    place, revision = (str(folder), None) if own else at_revision(resolve_source(base_name), None)
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision or "main")
    except Exception as error:  # tokenizers raise bare Exceptions for broken files
        raise explain(place, error, what="tokenizer") from error


def _digest(folder: Path) -> str:
    """SHA-256 over an adapter's files."""
    return fingerprint({file.name: file_digest(file) for file in sorted(folder.glob("adapter_*"))})
