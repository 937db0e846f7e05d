"""The options that several commands share, and what their text stands for. Knows nothing of what a command does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

ModelPath = Annotated[str, typer.Argument(metavar="PATH", help="A saved MoGU model: a folder, or a repository of the hub.")]
BaseModel = Annotated[str | None, typer.Option("--base-model", help="Where the base model is now, if not where it was in training.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the base model. Read it first.")]
ChatTemplate = Annotated[
    Path | None,
    typer.Option("--chat-template", help="A Jinja file, or the name of a shipped template (mogu recipes ls), in place of the tokenizer's."),
]
Dial = Annotated[
    float | None, typer.Option("--dial", help="Shift toward refusing (positive) or answering (negative); 0 is as trained. Try 0.5 to 2.")
]
RoutedTokens = Annotated[
    str | None, typer.Option("--routed-tokens", help="How many tokens of an answer are routed: a number, or 'all'. Default: the model's.")
]

AnswerMarker = Annotated[
    str | None,
    typer.Option(
        "--answer-marker",
        help="Text that ends a reasoning block, such as '</think>': behind it as many tokens are routed again; '' for none.",
    ),
]


def dtype_option(name: str) -> torch.dtype | None:
    """``--dtype`` as PyTorch's type; ``None`` is the one that a model was saved in.

    Raises:
        ConfigError: there is no such type.
    """
    import torch

    from mogu.errors import ConfigError

    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype is {name!r}", expected="auto, float32, bfloat16 or float16", action="choose one of them")
    chosen: torch.dtype | None = None if name == "auto" else getattr(torch, name)
    return chosen


def routing_options(routed_tokens: str | None, answer_marker: str | None) -> dict[str, Any]:
    """``--routed-tokens`` and ``--answer-marker`` as keyword arguments of ``generate``; what is not given is left to the model's config.

    Raises:
        ConfigError: the tokens are neither a number nor ``all``.
    """
    from mogu.errors import ConfigError

    options: dict[str, Any] = {} if answer_marker is None else {"answer_marker": answer_marker or None}
    if routed_tokens is None:
        return options
    if routed_tokens != "all" and not routed_tokens.isdecimal():
        raise ConfigError(f"--routed-tokens is {routed_tokens!r}", expected="a whole number from 0, or 'all'", action="correct it")
    return {**options, "routed_tokens": "all" if routed_tokens == "all" else int(routed_tokens)}
