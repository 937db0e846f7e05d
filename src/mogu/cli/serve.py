"""`mogu serve`: start vLLM's OpenAI-compatible server with hardened models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mogu.cli._options import BaseModel
from mogu.cli._terminal import echo


class ScoresShown(StrEnum):
    """What callers see of a prompt's score."""

    NONE = "none"
    COARSE = "coarse"
    EXACT = "exact"


def serve(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Saved MoGU model: a folder or a hub id. Further models of the same base model may follow."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on. The default accepts connections from this machine only.")] = "127.0.0.1",
    locked: Annotated[
        bool | None,
        typer.Option(
            "--locked/--open",
            help="Locked, the default, is for callers that are not your own: requests to the undefended base model are refused, and those "
            "that weaken the routing, begin the reply or force its content. Open leaves all of that to callers.",
            show_default=False,
        ),
    ] = None,
    allow_request_settings: Annotated[
        str,
        typer.Option(
            help="Settings that requests may choose on a locked server, such as dial:0..2,routed_tokens,handoff. What makes the model "
            "stricter than it was saved they may always.",
        ),
    ] = "",
    settings_keys: Annotated[
        Path | None, typer.Option(help="A file of API keys, one a line, whose holders alone may choose these settings.")
    ] = None,
    serve_base: Annotated[bool, typer.Option("--serve-base", help="A locked server answers as the undefended base model as well.")] = False,
    scores: Annotated[
        ScoresShown | None,
        typer.Option(
            help="What callers see of a prompt's score, which tells an attacker how far along they are: none (a locked server's "
            "default), coarse (in tenths) or exact (an open one's). Metrics have all of it.",
            show_default=False,
        ),
    ] = None,
    limit_similar: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse a caller's prompt (429) that is nearly the same as this many of the last ten minutes."),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="Append one JSON line for each answer to this file: score, threshold, decision, digests, and no text."),
    ] = None,
    audit_text: Annotated[bool, typer.Option("--audit-text", help="The audit log has the texts of prompts as well.")] = False,
    base_model: BaseModel = None,
    show: Annotated[bool, typer.Option("--show", help="Print the vLLM command instead of running it.")] = False,
) -> None:
    """Serve hardened models with vLLM, each under the name of its folder. Options of `vllm serve` are passed on to it.

    The server is locked: callers get hardened models as they were saved, and nothing that a request says makes them weaker. Plain
    adapters that are named with --lora-modules are answered with too.

    Example: mogu serve safer-model --port 8000 --api-key SECRET --tensor-parallel-size 2
    """
    import os
    import shlex
    import sys

    from mogu.serving import access, similar
    from mogu.serving import audit as audit_log
    from mogu.serving.plugin import check_version, installed_version
    from mogu.serving.vllm_args import named_adapters, named_folders, serve_arguments

    paths, options = _paths_first(context.args)
    if locked is None:
        locked = access.LOCKED not in os.environ or access.access().locked
    also = [*([access.BASE] if serve_base else []), *named_adapters(options)]
    values = {
        access.LOCKED: "1" if locked else "0",
        access.SETTINGS: allow_request_settings,
        access.SETTINGS_KEYS: str(settings_keys.resolve()) if settings_keys is not None else "",
        access.ALSO_SERVED: ",".join(also),
        access.SCORES: scores.value if scores is not None else "",
        similar.LIMIT: str(limit_similar or ""),
        audit_log.AUDIT: str(audit.resolve()) if audit is not None else "",
        audit_log.AUDIT_TEXT: "1" if audit_text else "",
    }
    # Otherwise modules in the current folder would shadow those of Python and vLLM, here and in processes that vLLM starts.
    environment = {"PYTHONSAFEPATH": "1"} | {name: value for name, value in values.items() if value}
    access.parse_settings(allow_request_settings)
    if settings_keys is not None:
        access.read_keys(settings_keys)
    if audit is not None and not show:
        audit_log.check_file(audit)
    arguments = ["serve", *serve_arguments(named_folders([path, *paths]), base_model=base_model, host=host, options=options)]
    if show:
        echo(shlex.join([*(f"{name}={value}" for name, value in environment.items()), "vllm", *arguments]))
        return
    check_version(installed_version())
    # Replace this process, so that signals reach vLLM and the exit code is vLLM's.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "mogu.serving.launch", *arguments], os.environ | environment)


def _paths_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the extra arguments into further saved models and, from the first option on, options for vLLM."""
    first = next((index for index, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]
