"""Write the pages of docs/reference/ that are taken from the source: the command line, the Python API, and the tables of settings.

    python docs/generate.py            # writes them
    python docs/generate.py --check    # exits with 1 where a page differs from the source

Knows typer's own Markdown, docstrings and pydantic models; knows nothing of what commands or functions do. The words beside each
setting are written by hand in recipes.md; its name, type and default are not.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 120
ELSEWHERE = ("mogu.serving",)
"""Packages that need an environment of their own, and have no Python interface beyond the command line."""


# The command line ---------------------------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """``mogu`` and every command of it, from the help that the command itself prints."""
    command = [sys.executable, "-m", "typer", "mogu.cli", "utils", "docs", "--name", "mogu"]
    text = html.unescape(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    sections = re.split(r"^(?=##+ `mogu )", text.replace("# `mogu`", "# `mogu `", 1), flags=re.MULTILINE)
    named = {re.match(r"#+ `(.+?) ?`", section)[1]: section for section in sections}  # type: ignore[index]
    summaries = {name: section.split("\n\n")[1] for name, section in named.items()}
    page = "\n".join(_command_section(name, section, summaries) for name, section in named.items())
    return _wrapped(f"{_generated('the help texts in `mogu.cli`')}\n\n{page.replace('# `mogu `', '# The command line', 1)}")


def _command_section(name: str, text: str, summaries: dict[str, str]) -> str:
    text = text.replace("$ mogu", "mogu").replace("```console\nmogu", "```text\nmogu")  # a usage line is no command to run
    text = re.sub(r"^\* `--(install-completion|show-completion|help)`: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Options\*\*:\n\n(?!\*)", "", text)
    before, commands, listed = text.partition("**Commands**:")
    listed = re.sub(r"^\* `(\S+)`: .*$", lambda line: _link(f"{name} {line[1]}", summaries), listed, flags=re.MULTILINE)
    text = before + commands + listed
    return re.sub(
        r"^Examples?:\s+((?:(?:mogu|torchrun) .*\n+)+)",
        lambda found: f"Examples:\n\n```text\n{_lines(found[1])}\n```\n\n",
        text,
        flags=re.MULTILINE,
    )


def _link(command: str, summaries: dict[str, str]) -> str:
    return f"* [`{command}`](#{command.replace(' ', '-')}): {summaries[command]}"


def _lines(text: str) -> str:
    return "\n".join(line if len(line) <= WIDTH else _continued(line) for line in text.split("\n") if line)


def _continued(line: str) -> str:
    return " \\\n    ".join(textwrap.wrap(line, WIDTH - 6, break_long_words=False, break_on_hyphens=False))


# The Python API -----------------------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """Every public name of every package that lists its names in ``__all__``, with its signature and docstring."""
    parts = [_generated("the docstrings"), "# The Python API", "Public is what a package lists in its `__all__`; anything else may change."]
    described: dict[int, str] = {}
    for package in _packages():
        names = {name: getattr(package, name) for name in sorted(package.__all__)}
        callables = {name: thing for name, thing in names.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
        plain = [f"`{name}`" for name, thing in names.items() if name not in callables and not inspect.ismodule(thing)]
        elsewhere = [f"`{name}` ({described[id(thing)]})" for name, thing in callables.items() if id(thing) in described]
        parts += [f"## {package.__name__}", _markdown(inspect.getdoc(package) or "")]
        parts += [f"Constants and types: {', '.join(plain)}."] if plain else []
        parts += [f"Described above: {', '.join(elsewhere)}."] if elsewhere else []
        for name, thing in callables.items():
            if id(thing) not in described:
                described[id(thing)] = f"`{package.__name__}`"
                parts += _entry(f"{package.__name__}.{name}", name, thing)
    return _wrapped("\n\n".join(part for part in parts if part))


def _packages() -> Iterator[ModuleType]:
    root = importlib.import_module("mogu")
    for name in ["mogu", *sorted(found.name for found in pkgutil.walk_packages(root.__path__, "mogu.") if found.ispkg)]:
        if not name.startswith((*ELSEWHERE, "mogu.cli")):
            package = importlib.import_module(name)
            if getattr(package, "__all__", None):
                yield package


def _entry(title: str, name: str, thing: Any) -> list[str]:
    parts = [f"### {title}", *_described(name, thing)]
    if inspect.isclass(thing):
        for method, member in vars(thing).items():
            if method.startswith("_") or not _own_docstring(member):
                continue
            parts += [f"#### {name}.{method}", *_described(method, member)]
    return parts


def _own_docstring(member: Any) -> bool:
    return (inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod, property))) and bool(inspect.getdoc(member))


def _described(name: str, thing: Any) -> list[str]:
    function = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    return [
        f"```text\n{_signature(name, function, called=not isinstance(thing, property))}\n```",
        _markdown(inspect.getdoc(function) or ""),
    ]


def _signature(name: str, thing: Any, *, called: bool) -> str:
    """The signature as the source writes it: annotations and defaults by their names, not by their values."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    returned = f" -> {ast.unparse(node.returns)}" if isinstance(node, ast.FunctionDef) and node.returns else ""
    if not called:
        return name + returned.replace(" ->", ":")
    if isinstance(node, ast.ClassDef):
        initialisers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        shown = _parameters(initialisers[0].args) if initialisers else [ast.unparse(one) for one in fields]
    else:
        assert isinstance(node, ast.FunctionDef)
        shown = _parameters(node.args)
    line = f"{name}({', '.join(shown)}){returned}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){returned}"


def _parameters(arguments: ast.arguments) -> list[str]:
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    shown = [_parameter(one, default) for one, default in zip(arguments.args, defaults, strict=True) if one.arg not in ("self", "cls")]
    if arguments.vararg or arguments.kwonlyargs:
        shown.append("*" + (ast.unparse(arguments.vararg) if arguments.vararg else ""))
    shown += [_parameter(one, default) for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return shown + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(default)}" if default else "")


_ROLE = re.compile(r":[a-z]+:`~?(?:[\w.]*\.)?(\w+)`")


def _markdown(docstring: str) -> str:
    """A docstring in the style of this project as Markdown: sections become lists, roles and double backticks code."""
    text = re.sub(r"``(.+?)``", r"`\1`", _ROLE.sub(r"`\1`", docstring), flags=re.DOTALL)
    blocks = re.split(r"^(Args|Returns|Raises|Yields):\n", text, flags=re.MULTILINE)
    parts = [_prose(blocks[0])]
    for title, body in zip(blocks[1::2], blocks[2::2], strict=True):
        section, _, rest = body.partition("\n\n") if not body.startswith("\n") else ("", "", body)
        parts += [f"{title}:", _items(textwrap.dedent(section), named=title in ("Args", "Raises")), _prose(textwrap.dedent(rest))]
    return "\n\n".join(part for part in parts if part.strip())


def _items(text: str, *, named: bool) -> str:
    items = re.split(r"^(?=\S)", text.strip("\n"), flags=re.MULTILINE)
    joined = [" ".join(item.split()) for item in items if item.strip()]
    if not named:
        return " ".join(joined)
    return "\n".join(re.sub(r"^([\w*.]+): ", r"- `\1`: ", item) for item in joined)


def _prose(text: str) -> str:
    # An indented block is a formula, and stays as it is.
    blocks = text.strip("\n").split("\n\n")
    return "\n\n".join(
        f"```text\n{textwrap.dedent(block)}\n```" if block.startswith("    ") else " ".join(block.split()) for block in blocks
    )


# The tables of settings ---------------------------------------------------------------------------------------------------------------

_TABLE = re.compile(r"(?<=<!-- settings: )(\w+)\.(\w+)( -->\n\n)((?:\|.*\n)*)")


def recipes_page(text: str) -> str:
    """recipes.md with its tables of settings as the models have them.

    The words of a setting are those that stand there, and for a new one those of the model's docstring.

    Raises:
        SystemExit: the page lacks a section, has one that is not there, or nothing says what a setting is.
    """
    recipes = {command: _public(name).model_fields for command, name in (("train", "Recipe"), ("finetune", "FinetuneRecipe"))}
    shown = {(command, section) for command, section in re.findall(r"<!-- settings: (\w+)\.(\w+) -->", text)}
    there = {
        (command, name)
        for command, fields in recipes.items()
        for name, field in fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    if wrong := (shown - there) | {(command, name) for command, name in there - shown if name not in ("model", "run")}:
        sys.exit(f"docs/reference/recipes.md: these sections are in the page or in the recipes, but not in both: {sorted(wrong)}")
    return _TABLE.sub(lambda found: f"{found[1]}.{found[2]}{found[3]}{_settings(recipes[found[1]][found[2]].annotation, found[4])}", text)


def _public(name: str) -> Any:
    (thing,) = {getattr(package, name) for package in _packages() if name in package.__all__}
    return thing


def _settings(model: Any, table: str) -> str:
    by_hand = dict(re.findall(r"^\| `(\w+)` \|.*?\|.*?\| (.*) \|$", table.replace(r"\|", "\0"), flags=re.MULTILINE))
    written = "\n".join(_markdown(inspect.getdoc(kind) or "") for kind in reversed(model.__mro__) if issubclass(kind, BaseModel))
    words = dict(re.findall(r"^- `(\w+)`: (.+)$", written.replace("|", "\0"), flags=re.MULTILINE)) | by_hand
    missing = [key for key in model.model_fields if not words.get(key)]
    if missing:
        sys.exit(f"docs/reference/recipes.md: say what these settings of {model.__name__} are: {', '.join(missing)}")
    rows = [f"| `{key}` | {_type(field.annotation)} | {_default(field)} | {words[key]} |" for key, field in model.model_fields.items()]
    return "\n".join(["| key | type | default | what it does |", "|---|---|---|---|", *rows, ""]).replace("\0", r"\|")


def _type(annotation: Any) -> str:
    text = re.sub(r"(?:pathlib|typing|collections\.abc)\.(?:_local\.)?", "", str(annotation))
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace(" | None", "")
    if choice := re.fullmatch(r"Union\[Annotated\[int, FieldInfo\(.*?\)\], Literal\['(\w+)'\](?:, NoneType)?\]", text):
        return f'whole number or `"{choice[1]}"`'
    if choice := re.fullmatch(r"(?:Union\[)?Literal\['(\w+)'\](?:, | \| )Path(?:, NoneType)?\]?", text):
        return f'path or `"{choice[1]}"`'
    text = re.sub(r"Annotated\[(\w+), .*?\](?=\]|$)", r"\1", text)
    if choices := re.fullmatch(r"Literal\[(.+)\]", text):
        return ", ".join(f"`{json.dumps(one.strip(chr(39)))}`" for one in choices[1].split(", "))
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "`true` or `false`", "Path": "path"}
    names |= {f"list[{name}]": f"list of {plural}" for name, plural in {"str": "texts", "int": "whole numbers", "float": "numbers"}.items()}
    return names.get(text, f"`{text}`".replace("|", r"\|"))


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required() or value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "see its section"
    return f"`{value:g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


# ---------------------------------------------------------------------------------------------------------------------------------------


def _generated(source: str) -> str:
    return f"<!-- Written by docs/generate.py from {source}. To change this page, change those, and run `make docs`. -->"


def _wrapped(text: str) -> str:
    """The same Markdown with prose in lines of :data:`WIDTH` characters; code, tables and headings stay as they are."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for index in range(0, len(parts), 2):
        parts[index] = "\n\n".join(_filled(block) for block in re.split(r"\n{2,}", parts[index]))
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip() + "\n"


def _filled(block: str) -> str:
    if block.lstrip().startswith(("|", "#", "<!--")):
        return block
    start, end = (re.match(r"\n?", block)[0], "\n" if block.endswith("\n") else "")  # type: ignore[index]
    items = re.split(r"^(?=[*-] )", block.strip("\n"), flags=re.MULTILINE)
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    filled = [
        textwrap.fill(" ".join(item.split()), WIDTH, subsequent_indent="  " if item[:2] in ("* ", "- ") else "", **options)
        for item in items
    ]
    return start + "\n".join(filled) + end


def pages() -> dict[Path, str]:
    """Every generated page, as the source has it now."""
    recipes = REFERENCE / "recipes.md"
    return {
        REFERENCE / "cli.md": cli_page(),
        REFERENCE / "api.md": api_page(),
        recipes: recipes_page(recipes.read_text(encoding="utf-8")),
    }


def main() -> None:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page differs from the source")
    options = parser.parse_args()
    stale = {path: text for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(f"{'differs from the source' if options.check else 'written'}: {path}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
