"""`mogu recipes`: list what ships with the package, and copy it to edit it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mogu.cli._shared import print_columns
from mogu.cli._terminal import echo
from mogu.recipes import ShippedRecipe, copy_shipped, shipped_machines, shipped_recipe, shipped_recipes, shipped_templates

app = typer.Typer(no_args_is_help=True, help="List and copy the recipes, chat templates and configs for accelerate that ship with mogu.")


@app.command()
def ls(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the shipped recipes, chat templates and configs for `accelerate launch`.

    A recipe's name takes the place of a file: `mogu train vicuna-7b` trains with the shipped recipe as it is. So does a template's, in
    recipes (chat_template = "vicuna") and on the command line (--chat-template vicuna).

    Example: mogu recipes ls
    """
    recipes, templates, machines = shipped_recipes(), shipped_templates(), shipped_machines()
    if as_json:
        echo(json.dumps({"recipes": [asdict(recipe) for recipe in recipes], "templates": templates, "accelerate": machines}, indent=2))
        return
    rows = [("RECIPE", "METHOD", "BASE MODEL", "CHAT TEMPLATE")]
    rows += [(recipe.name, _method(recipe), recipe.base_model, recipe.template or "the tokenizer's") for recipe in recipes]
    print_columns(rows)
    echo(f"\nChat templates: {', '.join(templates)}")
    echo(f"Configs for accelerate launch: {', '.join(machines)}")
    echo("To edit one, copy it: mogu recipes cp vicuna-7b, mogu recipes cp templates/vicuna, or mogu recipes cp accelerate/8x80gb")


def _method(recipe: ShippedRecipe) -> str:
    names = {"gated": "MoGU, gated", "v1": "MoGU V1", "v2": "MoGU V2"}
    return names[recipe.method] if recipe.command == "train" else f"fine-tuning ({recipe.method})"


@app.command()
def cp(
    name: Annotated[str, typer.Argument(help="A recipe that `mogu recipes ls` lists, templates/NAME or accelerate/NAME.")],
    target: Annotated[Path | None, typer.Argument(help="The new file, or a folder for it; by default the current folder.")] = None,
) -> None:
    """Copy a shipped recipe, chat template or config for `accelerate launch` into a file of your own. No file is overwritten.

    A copied recipe works from any folder: it names its chat template by name, not by path.

    Examples:

    mogu recipes cp qwen2.5-7b-instruct

    mogu recipes cp v2/vicuna-7b my-vicuna.toml

    mogu recipes cp accelerate/8x80gb
    """
    copy = copy_shipped(name, target)
    echo(f"Copied to {copy}")
    if name.startswith("templates/"):
        echo(f"To use it: chat_template = {json.dumps(str(copy))} in a recipe, or --chat-template {copy}")
    elif name.startswith("accelerate/"):
        echo(f"To use it: accelerate launch --config_file {copy} -m mogu train RECIPE")
    else:
        echo(f"Next: mogu {shipped_recipe(name).command} {copy} --dry-run")
