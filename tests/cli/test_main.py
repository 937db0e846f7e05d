"""The command line as a whole: help for every command and option, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mogu.cli import app

RunMogu = Callable[..., tuple[int, str, str]]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def plain(output: str) -> str:
    return " ".join(output.replace("│", " ").split())


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert len(COMMANDS) >= 16
    assert all(f" {path[0]} " in plain(result.stdout) for path in COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    _, _, example = plain(result.stdout).partition("Example")
    assert f"mogu {' '.join(path)} " in example


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_explained_in_a_sentence(path: tuple[str, ...]) -> None:
    unexplained = [parameter.name for parameter in COMMANDS[path].params if not (parameter.help or "").strip().endswith(".")]
    assert unexplained == []


def test_help_imports_no_torch() -> None:
    code = "import sys; from mogu.cli import app; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_input_is_one_clear_error_with_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mogu", "info", tmp_path / "nowhere"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: " in done.stderr
    assert "does not exist" in done.stderr
    assert "What to do" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_options_exit_with_2(run_mogu: RunMogu) -> None:
    assert run_mogu("info", "--no-such-option")[0] == 2


def test_data_validate_passes_its_exit_code_on(run_mogu: RunMogu, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"id": "1", "label": "odd"}\n')
    code, out, _ = run_mogu("data", "validate", file, "--json")
    assert code == 2
    assert json.loads(out)["valid"] is False
