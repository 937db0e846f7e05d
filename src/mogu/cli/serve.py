"""`mogu serve`: vLLM's OpenAI API server with hardened models."""

from __future__ import annotations

from typing import Annotated

import typer

from mogu.cli._options import BaseModel


def serve(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A saved MoGU model: a folder, or a repository of the hub. More may follow, of the same base model."
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on. The default is this machine alone.")] = "127.0.0.1",
    locked: Annotated[
        bool,
        typer.Option(
            "--locked",
            help="For clients that are not trusted: refuse requests to the undefended base model, and requests that change the routing, "
            "begin the answer or force it.",
        ),
    ] = False,
    base_model: BaseModel = None,
    show: Annotated[bool, typer.Option("--show", help="Print the command instead of running it.")] = False,
) -> None:
    """Serve hardened models with vLLM, under the names of their folders. Options of `vllm serve` are passed on.

    Example: mogu serve safer-model --port 8000 --api-key SECRET --tensor-parallel-size 2
    """
    import os
    import shlex
    import sys

    from mogu.serving.lock import LOCKED, is_locked
    from mogu.serving.plugin import check_version, installed_version
    from mogu.serving.vllm_args import named_folders, serve_arguments

    # Else modules that lie in the current folder would run in place of Python's and vLLM's, here and in vLLM's own processes.
    environment = {"PYTHONSAFEPATH": "1"}
    if is_locked() or locked:
        environment[LOCKED] = "1"
    paths, options = _paths_first(context.args)
    arguments = ["serve", *serve_arguments(named_folders([path, *paths]), base_model=base_model, host=host, options=options)]
    if show:
        print(shlex.join([*(f"{name}={value}" for name, value in environment.items()), "vllm", *arguments]))
        return
    check_version(installed_version())
    # In place of this process, so that signals and exit codes are vLLM's.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "mogu.serving.launch", *arguments], os.environ | environment)


def _paths_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Further saved models, and from the first option on what is vLLM's."""
    first = next((index for index, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]
