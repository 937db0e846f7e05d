"""Options that several commands share, and functions that parse their values. Knows nothing of what a command does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

ModelPath = Annotated[str, typer.Argument(metavar="PATH", help="Saved MoGU model: a folder, a hub id or a name (mogu models ls).")]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Folder or hub id of the base model. Default: where it was during training.")
]
StrictBase = Annotated[
    bool, typer.Option("--strict-base", help="Refuse a base model whose weights are not those of training, instead of a warning.")
]
Dtype = Annotated[str, typer.Option("--dtype", help="Floating-point type of the weights: auto (as saved), float32, bfloat16 or float16.")]
Quantization = Annotated[
    str,
    typer.Option(
        "--quantization",
        help="Bits of the base model's linear layers: 4bit, 8bit or none, or auto: as the model was trained. Needs mogu\\[quant].",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code from the base model's repository. Read it first.")
]
MergeAdapter = Annotated[
    bool,
    typer.Option(
        "--merge-adapter",
        help="The base model is the folder of a PEFT adapter, such as `mogu finetune` writes: merge it into one model, OUTPUT-base.",
    ),
]
ChatTemplate = Annotated[
    Path | None,
    typer.Option(
        "--chat-template",
        help="Jinja file, or name of a shipped template (mogu recipes ls), to use instead of the model's own chat template.",
    ),
]
Dial = Annotated[
    float | None,
    typer.Option(
        "--dial",
        help="Shift of the routing logits: positive refuses more, negative answers more. Typical values are -2 to 2. "
        "Default: the model's own setting.",
    ),
]
RoutedTokens = Annotated[
    str | None,
    typer.Option(
        "--routed-tokens",
        help="Number of tokens at the start of a reply that are routed, or 'all'. Default: the model's own setting.",
    ),
]

BatchSize = Annotated[int, typer.Option(min=1, help="Replies at a time, at most; fewer where memory is short.")]
ScorerName = Annotated[
    str, typer.Option("--scorer", help="Who decides whether a reply refuses: classifier, or strings, the list of published attacks.")
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Python file that registers defenses with @mogu.defenses.defense, or attacks for mogu attack; may be given several times. "
        "The file is run with your rights: read it first.",
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that share the work; needs the extra ray. Default: this one does all of it."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Put the workers on a Ray cluster: auto for the one this machine belongs to, or HOST:PORT. All its machines have to see this "
        "folder. Default without --workers: one for each GPU, or for each machine.",
    ),
]
AnswerMarker = Annotated[
    str | None,
    typer.Option(
        "--answer-marker",
        help="Text that ends a reasoning block, such as '</think>'; the same number of tokens is routed again after it. "
        "'' means none. Default: the model's own setting.",
    ),
]


def dtype_option(name: str) -> torch.dtype | None:
    """Parse ``--dtype`` into a PyTorch type; ``auto`` becomes ``None``, which stands for the type the model was saved in.

    Raises:
        ConfigError: the name is unknown.
    """
    import torch

    from mogu.errors import ConfigError

    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype is {name!r}", expected="auto, float32, bfloat16 or float16", action="choose one of them")
    dtype: torch.dtype | None = None if name == "auto" else getattr(torch, name)
    return dtype


def routing_options(routed_tokens: str | None, answer_marker: str | None) -> dict[str, Any]:
    """Parse ``--routed-tokens`` and ``--answer-marker`` into keyword arguments of ``generate``; options not given are left out.

    Raises:
        ConfigError: ``--routed-tokens`` is neither a number nor ``all``.
    """
    from mogu.errors import ConfigError

    options: dict[str, Any] = {} if answer_marker is None else {"answer_marker": answer_marker or None}
    if routed_tokens is None:
        return options
    if routed_tokens != "all" and not routed_tokens.isdecimal():
        raise ConfigError(f"--routed-tokens is {routed_tokens!r}", expected="a whole number of at least 0, or 'all'", action="correct it")
    return {**options, "routed_tokens": "all" if routed_tokens == "all" else int(routed_tokens)}
