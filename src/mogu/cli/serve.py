"""`mogu serve`: start vLLM's OpenAI-compatible server with hardened models."""

from __future__ import annotations

from typing import Annotated

import typer

from mogu.cli._options import BaseModel


def serve(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Saved MoGU model: a folder or a hub id. Further models of the same base model may follow."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on. The default accepts connections from this machine only.")] = "127.0.0.1",
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse requests to the undefended base model, and requests that set dial, tokens or handoff.")
    ] = False,
    base_model: BaseModel = None,
    show: Annotated[bool, typer.Option("--show", help="Print the vLLM command instead of running it.")] = False,
) -> None:
    """Serve hardened models with vLLM, each under the name of its folder. Options of `vllm serve` are passed on to it.

    Example: mogu serve safer-model --port 8000 --api-key SECRET --tensor-parallel-size 2
    """
    import os
    import shlex
    import sys

    from mogu.serving.plugin import check_version, installed_version
    from mogu.serving.vllm_args import named_folders, serve_arguments

    paths, options = _paths_first(context.args)
    arguments = ["serve", *serve_arguments(named_folders([path, *paths]), base_model=base_model, host=host, options=options)]
    if show:
        print(shlex.join(["vllm", *arguments]))
        return
    check_version(installed_version())
    if locked:
        os.environ["MOGU_LOCKED"] = "1"
    # Replace this process, so that signals reach vLLM and the exit code is vLLM's.
    os.execv(sys.executable, [sys.executable, "-m", "mogu.serving.launch", *arguments])


def _paths_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the extra arguments into further saved models and, from the first option on, options for vLLM."""
    first = next((index for index, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]
