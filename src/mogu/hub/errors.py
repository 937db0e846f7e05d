"""What is said of a model that cannot be found or loaded. Knows other libraries' errors; loads nothing."""

from __future__ import annotations

from pathlib import Path

from mogu.errors import ModelFileError


def explain(source: str, error: Exception, what: str = "base model") -> ModelFileError:
    """Describe why a model or tokenizer could not be loaded; ``what`` names it."""
    if "trust_remote_code" in str(error):
        return ModelFileError(
            f"The {what} {source} needs code from its own repository to run",
            expected="a model whose code is part of transformers, or your word that this code may run",
            action="read that code, then pass --trust-remote-code (trust_remote_code=True in Python)",
        )
    if not Path(source).expanduser().exists():
        return not_found(source, error, what)
    return ModelFileError(
        f"The {what} in {source} cannot be loaded: {first_line(error)}",
        expected="a whole Hugging Face model folder that this release of transformers knows",
        action="copy or download it again, or upgrade transformers; what lies in mogu's cache goes with `mogu models rm`",
    )


def not_found(source: str, error: Exception, what: str = "model") -> ModelFileError:
    """Describe a model that is neither here nor where the hub is asked for it."""
    return ModelFileError(
        f"The {what} {source} was not found: {first_line(error)}",
        expected="a local folder, a .gguf file, a name that `mogu models ls` lists, or a hub repository that this machine can reach",
        action="check the name, log in to the hub if the repository is gated, or download it first and give the folder",
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
