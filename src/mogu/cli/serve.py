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
        bool,
        typer.Option(
            "--locked",
            help="For untrusted clients: refuse requests to the undefended base model and requests that change the routing, "
            "begin the reply or force its content.",
        ),
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

    from mogu.serving.lock import LOCKED, is_locked
    from mogu.serving.plugin import check_version, installed_version
    from mogu.serving.vllm_args import named_folders, serve_arguments

    # Otherwise modules in the current folder would shadow those of Python and vLLM, here and in processes that vLLM starts.
    environment = {"PYTHONSAFEPATH": "1"}
    if is_locked() or locked:
        environment[LOCKED] = "1"
    paths, options = _paths_first(context.args)
    arguments = ["serve", *serve_arguments(named_folders([path, *paths]), base_model=base_model, host=host, options=options)]
    if show:
        print(shlex.join([*(f"{name}={value}" for name, value in environment.items()), "vllm", *arguments]))
        return
    check_version(installed_version())
    # Replace this process, so that signals reach vLLM and the exit code is vLLM's.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "mogu.serving.launch", *arguments], os.environ | environment)


def _paths_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the extra arguments into further saved models and, from the first option on, options for vLLM."""
    first = next((index for index, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]
