"""`mogu playground`: a page on this machine on which people try hardened models; what it needs is imported when it runs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console

from mogu.cli._options import BaseModel, ChatTemplate, Dtype, Quantization, StrictBase, TrustRemoteCode, dtype_option
from mogu.errors import ConfigError

_DEFAULT = "smollm2-safer"


def playground(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help=f"Saved MoGU models or base models: folders, hub ids or names (mogu models ls). Default: {_DEFAULT}.",
        ),
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option("--defense", help="Another defense, such as self_reminder, on the base of the first model. Repeatable."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8765,
    places: Annotated[int, typer.Option(min=1, max=100, help="How many people are served at once; whoever comes later waits.")] = 10,
    base_model: BaseModel = None,
    strict_base: StrictBase = False,
    dtype: Dtype = "auto",
    quantization: Quantization = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
) -> None:
    """Try models in the browser: plain and hardened side by side, why each prompt was scored as it was, the dial, attacks, files.

    The page is for this machine alone, and asks nothing of any other. Ctrl-C ends it.

    Example: mogu playground smollm2-safer
    """
    if missing := [name for name in ("starlette", "uvicorn", "wsproto") if find_spec(name) is None]:
        raise ConfigError(
            f"The playground needs {', '.join(missing)}",
            expected="the packages of the extra `playground`",
            action="pip install 'mogu[playground]'",
        )
    console = Console(stderr=True, highlight=False)
    with console.status("loading …"):
        import torch

        from mogu.playground.jobs import Playground
        from mogu.playground.server import open_server
        from mogu.playground.sides import load_sides
        from mogu.progress import quiet_transformers

        with quiet_transformers():
            sides = load_sides(
                models or [_DEFAULT],
                defenses=defense or [],
                base_model=base_model,
                strict_base=strict_base,
                dtype=dtype_option(dtype) or "auto",
                quantization=quantization,
                trust_remote_code=trust_remote_code,
                chat_template=chat_template,
                device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
            )
    server, listening, address = open_server(Playground(sides), port=port, places=places)
    out = Console(highlight=False)
    out.print(f"The playground is at [bold]{address}[/bold], for this machine alone. Ctrl-C ends it.", soft_wrap=True)
    server.run(sockets=[listening])
