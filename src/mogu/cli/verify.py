"""`mogu verify`: whether a saved model is the one that was saved."""

from __future__ import annotations

from typing import Annotated

import typer

from mogu.cli._options import ModelPath
from mogu.cli._terminal import echo


def verify(
    path: ModelPath,
    sha256: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Require this SHA-256 of mogu_config.json, which stands for the whole model.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="List the files in mogu_config.json as they are now: for changes of your own.")
    ] = False,
) -> None:
    """Read a saved model as loading does, without its base, and hold each file against the digest that was saved with it.

    The digest that is printed is that of mogu_config.json, which lists those of all other files but the card: who publishes it lets
    others check that they have the same model. A model that differs is an error that names the files.

    Example: mogu verify safer-model
    """
    from mogu.errors import ModelFileError
    from mogu.files.digests import file_digest
    from mogu.hub import fetch_model_folder
    from mogu.modeling.checkpoint import CONFIG_FILE, Checkpoint, accept_files

    folder = fetch_model_folder(path, marker=CONFIG_FILE)
    if accept:
        accept_files(folder)
    config = Checkpoint.read(folder).config
    digest = file_digest(folder / CONFIG_FILE)
    if sha256 is not None and sha256.lower() != digest:
        raise ModelFileError(
            f"{folder} is not the model that was asked for: the SHA-256 of its {CONFIG_FILE} is {digest}",
            expected=sha256,
            action="get the model from where this digest was published",
        )
    for name in sorted(config.files or ()):
        echo(f"as saved  {name}")
    echo(f"{digest}  {CONFIG_FILE}" if config.files is not None else f"{folder} lists no digests: `mogu verify {path} --accept` does")
