"""`mogu import-reference`: convert a model of the published MoGU release into a saved MoGU model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mogu.cli._options import TrustRemoteCode


def import_reference(
    base: Annotated[str, typer.Option(help="Base model: a folder or a hub id.")],
    unwill: Annotated[Path, typer.Option(help="Folder of the unwill responder, such as resp_unwill/960_lora.")],
    glad: Annotated[Path, typer.Option(help="Folder of the glad responder, such as resp_glad/800_lora.")],
    router: Annotated[Path, typer.Option(help="File of the routers, such as router_layer/5920_router.pth.")],
    out: Annotated[Path, typer.Option(help="Folder to write the saved model to.")],
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Convert a model of the published MoGU release into a saved MoGU model. No tokenizer is needed.

    Example: mogu import-reference --base llama-2-7b-chat --unwill resp_unwill/960_lora --glad resp_glad/800_lora --router
    router_layer/5920_router.pth --out safer-llama
    """
    from mogu.files.atomic import check_replaceable
    from mogu.modeling.checkpoint import CONFIG_FILE
    from mogu.modeling.import_reference import import_reference as convert

    check_replaceable(out, marker=CONFIG_FILE)
    model = convert(base, unwill, glad, router, trust_remote_code=trust_remote_code)
    model.save_pretrained(out)
    added, layers = model.added_parameters(), len(model.routed_layers)
    Console().print(f"Saved to {escape(str(out))}: {layers} routed layers, {added:,} added parameters, routers folded.", highlight=False)
