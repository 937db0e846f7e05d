"""Folders of saved models: found on this machine or downloaded from the hub, and uploaded there.

Knows which files a saved model may have; knows nothing of what is in them.
"""

from __future__ import annotations

from pathlib import Path

from mogu.errors import MoguError
from mogu.hub.errors import first_line, not_found
from mogu.hub.named_models import HARDENED_MODELS
from mogu.hub.sources import at_revision, resolve_source

# Exact names: with a pattern a repository could bring any file along, code among them.
CARD_FILE = "README.md"
SAVED_FILES = (
    CARD_FILE,
    "base_identity.safetensors",
    "chat_template.jinja",
    "router.safetensors",
    "training_report.json",
    *(
        f"{part}/{file}"
        for part in ("unwill", "glad", "careful", "backbone")
        for file in ("adapter_config.json", "adapter_model.safetensors")
    ),
)
"""What a saved model may consist of, beside its config."""


def fetch_model_folder(name: str, *, marker: str) -> Path:
    """The folder of a model: a local one as it is, a model that ships with the package, a repository downloaded to the hub's cache.

    Args:
        name: a folder, a name that ``mogu models ls`` lists, a GGUF file or a hub id, which may end in ``@`` and a revision.
        marker: the file that tells a saved MoGU model from a base model; of a hub repository nothing but the files of a saved model is
            downloaded.

    Raises:
        ModelFileError: there is no such model, nor a repository that can be reached.
    """
    if not Path(name).expanduser().exists() and name in HARDENED_MODELS:
        return HARDENED_MODELS[name].folder
    source, revision = at_revision(resolve_source(name), None)
    folder = Path(source).expanduser()
    if folder.exists():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[marker, *SAVED_FILES]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise not_found(source, error) from error


def push_folder(folder: Path, repo_id: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder to a model repository of the hub, made if it is missing; returns its URL.

    Raises:
        MoguError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload MoGU model")
    except Exception as error:  # the hub's client lets errors of its HTTP library through, which differs by release
        raise MoguError(
            f"The model could not be pushed to {repo_id}: {first_line(error)}",
            expected="a repository name such as you/safer-model, a hub that can be reached and a token that may write there",
            action="check the name, and log in with `hf auth login` or pass token=...",
        ) from error
    return str(url)
