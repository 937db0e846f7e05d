"""What errors advise can be done: every option that a message names is one of the command line, every setting one of a recipe."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import mogu
from mogu.cli import app
from mogu.finetuning import FinetuneRecipe
from mogu.training import Recipe

SOURCE = Path(mogu.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
COMMAND = re.compile(r"`mogu ([^`]*)`")

OF_VLLM = {
    "--additional-config",
    "--fully-sharded-loras",
    "--lora-target-modules",
    "--max-lora-rank",
    "--max-loras",
    "--speculative-config",
}
"""Options that `mogu serve` hands on, named in the messages of the plugin."""

OF_PIP = {"--no-deps"}

OF_RAY = {"--address", "--head"}

NOT_OF_TRAINING = {
    "analysis/base_model.py": "saved models that other commands measure",
    "analysis/robustness": "settings that `mogu robustness` alone takes; `mogu finetune` has none of them",
    "data/build.py": "`mogu data build`",
    "data/instructions.py": "`mogu data build`, `mogu score`, `mogu tendency`",
    "data/tools.py": "`mogu generate`",
    "data/twins.py": "`mogu robustness`",
    "hub/package_index.py": "pip",
    "modeling/base_identity.py": "commands that load a saved model",
    "modeling/config.py": "commands that load a saved model",
    "modeling/loading.py": "commands that load a saved model",
    "modeling/prompt_contract.py": "commands that load a saved model",
    "training/sweep.py": "`mogu sweep`",
}
"""What `mogu train` and `mogu finetune` never say, and who does."""

ROOMS = ("analysis", "data", "finetuning", "hub", "inference", "modeling", "recipes", "training")
"""What `mogu train` and `mogu finetune` run through."""


@dataclass(frozen=True)
class Message:
    file: str
    line: int
    text: str

    @property
    def options(self) -> set[str]:
        return set(OPTION.findall(self.text))


def text_of(node: ast.expr) -> str:
    """The text of an expression, whatever is filled in left out."""
    return "".join(part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def messages() -> Iterator[Message]:
    """What is said in errors and in the log, and the functions that make such texts."""
    for file in sorted(SOURCE.rglob("*.py")):
        name = file.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                is_error = called.endswith("Error") and called != "AttributeError"
                if is_error or called in ("warning", "info", "stoppable", "print", "add_row"):
                    for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
                        yield Message(name, node.lineno, text_of(part))
            elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Call):
                yield Message(name, node.lineno, text_of(node.value))


def commands() -> dict[str, set[str]]:
    """The options of every command, by its name."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        if not hasattr(command, "list_commands"):
            found[name] = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            return
        context = typer.Context(command)
        for inner in command.list_commands(context):
            walk(command.get_command(context, inner), f"{name} {inner}".strip())

    walk(typer.main.get_command(app), "")
    return found


def settings() -> dict[str, set[str]]:
    """The keys of every section of a recipe, a campaign and a comparison."""
    found: dict[str, set[str]] = {}
    for recipe in (Recipe, FinetuneRecipe):
        for section, field in recipe.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found.setdefault(section, set()).update(field.annotation.model_fields)
    return found


MODULES = {path.stem for path in SOURCE.iterdir()}
SETTING = re.compile(rf"(?<![\w./`@])({'|'.join(settings())})\.(?!(?:{'|'.join(MODULES)})\b)([a-z_]+)\b(?![(.])")
MESSAGES = [message for message in messages() if " " in message.text]


def test_options_are_those_of_a_command() -> None:
    known = {"--version", "--help", *OF_VLLM, *OF_PIP, *OF_RAY}.union(*commands().values())
    unknown = [message for message in MESSAGES if not message.options <= known]
    assert unknown == []
    assert len([message for message in MESSAGES if message.options]) > 60  # the walk finds them


def test_a_command_in_backticks_has_the_options_that_are_named_with_it() -> None:
    known, looked_at = commands(), 0
    for message in MESSAGES:
        for written in COMMAND.findall(message.text):
            name = max((name for name in known if f"{written} ".startswith(f"{name} ")), key=len, default=None)
            if name is None:
                continue
            looked_at += 1
            assert set(OPTION.findall(written)) <= known[name] | (OF_VLLM if name == "serve" else set()), message
    assert looked_at > 10


def test_settings_are_those_of_a_recipe() -> None:
    known, looked_at = settings(), 0
    for message in MESSAGES:
        if message.file in ("modeling/adapter_files.py", "modeling/import_reference.py"):
            continue  # which names tensors
        if "mogu_config.json" in message.text:
            continue  # of a saved model, whose settings have names of their own
        for section, key in SETTING.findall(message.text):
            looked_at += 1
            assert key in known[section], message
    assert looked_at > 30


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_what_both_trainers_may_say_can_be_done_with_each(command: str) -> None:
    """An option that one of them lacks stands beside the setting that it has instead, or the command that has it."""
    own = commands()[command] | OF_VLLM
    for message in MESSAGES:
        room = message.file.split("/")[0]
        elsewhere = any(message.file.startswith(file) for file in NOT_OF_TRAINING) or (room == "finetuning" and command == "train")
        if room not in ROOMS or elsewhere:
            continue
        instead = SETTING.findall(message.text) or COMMAND.findall(message.text) or "in Python" in message.text
        assert message.options <= own or instead, message
