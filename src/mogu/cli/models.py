"""`mogu models`: models that have names of ours, and GGUF files that were dequantized: what is there, get it, find it, remove it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mogu.cli._shared import print_columns, show_log
from mogu.cli._terminal import echo

if TYPE_CHECKING:
    from mogu.hub.dequantized import Dequantized

app = typer.Typer(no_args_is_help=True, help="List, get and remove the models that mogu knows by name or made from GGUF files.")

_Name = Annotated[str, typer.Argument(help="A name that `mogu models ls` lists.")]


@app.command()
def ls(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the models that have a name, and what was made from GGUF files: size on disk, license, where it is.

    A name takes the place of a folder or hub id wherever a model is named: `mogu train smollm2`, `mogu chat smollm2-safer`.

    Example: mogu models ls
    """
    rows = _rows()
    if as_json:
        echo(json.dumps({"models": rows}, indent=2))
        return
    table = [("MODEL", "SIZE", "LICENSE", "WHERE")]
    table += [(row["name"], _mib(row["bytes"]), row["license"] or "not stated", row["folder"] or row["source"]) for row in rows]
    print_columns(table)
    echo("\nTo get one before it is needed: mogu models get NAME")


@app.command()
def get(name: _Name) -> None:
    """Get a model, unless it is here already, and print its folder.

    Example: mogu models get smollm2
    """
    from mogu.hub.named_models import HARDENED_MODELS

    if name in HARDENED_MODELS:
        echo(HARDENED_MODELS[name].folder)
        return
    from mogu.hub import resolve_source

    _known(name)
    with show_log(Console(stderr=True)):
        echo(resolve_source(name))


@app.command()
def path(name: _Name) -> None:
    """Print the folder of a model that is here, and get nothing.

    Example: mogu models path smollm2
    """
    from mogu.errors import ModelFileError

    row = _known(name)
    if row["folder"] is None:
        raise ModelFileError(f"{name} is not on this machine", expected="a model that is", action=f"run: mogu models get {name}")
    echo(row["folder"])


@app.command()
def rm(name: _Name) -> None:
    """Remove what is in the cache of a model. It is gotten, or made from its file, again when it is next needed.

    Example: mogu models rm smollm2
    """
    from mogu.errors import ModelFileError
    from mogu.hub.dequantized import cached_models, remove

    row = _known(name)
    entry = next((entry for entry in cached_models() if str(entry.folder) == row["folder"]), None)
    if entry is None:
        raise ModelFileError(
            f"{name} is not in mogu's cache",
            expected="a model that was gotten or made from a GGUF file",
            action="there is nothing to do; a model that ships with mogu goes with it",
        )
    size = entry.bytes()
    remove(entry)
    echo(f"Removed {entry.folder} ({_mib(size)})")


def _known(name: str) -> dict[str, Any]:
    from mogu.errors import ConfigError

    rows = {row["name"]: row for row in _rows()}
    if name not in rows:
        raise ConfigError(f"There is no model {name!r}", expected=f"one of {', '.join(rows)}", action="correct the name")
    return rows[name]


def _rows() -> list[dict[str, Any]]:
    from mogu.hub.dequantized import cached_models
    from mogu.hub.named_models import HARDENED_MODELS, PACKAGED_MODELS

    cached = {entry.sha256: entry for entry in cached_models()}
    rows = []
    for model in PACKAGED_MODELS.values():
        entry = cached.pop(model.sha256, None)
        source = f"not here yet; from the package {model.requirement} or the hub, {_mib(model.wheel_bytes)} to download"
        rows.append(_row(model.name, model.title, model.license, entry, source))
    for hardened in HARDENED_MODELS.values():
        size = sum(file.stat().st_size for file in hardened.folder.rglob("*") if file.is_file())
        source = f"ships with mogu; hardens {hardened.base}"
        rows.append(_row(hardened.name, hardened.title, hardened.license, None, source) | {"bytes": size, "folder": str(hardened.folder)})
    rows += [_row(entry.name, f"made from {entry.file}", entry.license, entry, "") for entry in cached.values()]
    return rows


def _row(name: str, title: str, license: str | None, entry: Dequantized | None, source: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "license": license,
        "bytes": entry.bytes() if entry is not None else None,
        "folder": str(entry.folder) if entry is not None else None,
        "source": source,
    }


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
