"""The command as a user meets it: help, errors and exit codes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    "demo",
    "data",
    "recipes",
    "train",
    "compare",
    "calibrate",
    "probe",
    "reproduce",
    "generate",
    "chat",
    "info",
    "import-reference",
]


def mogu(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mogu", *arguments], input=stdin, capture_output=True, text=True, timeout=120)


def test_help_names_every_command() -> None:
    done = mogu("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    arguments = {"data": ["data", "build"], "recipes": ["recipes", "cp"]}.get(command, [command])
    done = mogu(*arguments, "--help")
    assert done.returncode == 0
    shown = " ".join(done.stdout.replace("│", " ").split())
    assert "Example" in shown
    assert f"mogu {' '.join(arguments)} " in shown.partition("Example")[2] + " "


def test_help_imports_no_torch() -> None:
    code = "import sys; from mogu.cli import app; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_input_is_one_clear_error_with_exit_code_2(tmp_path: Path) -> None:
    done = mogu("info", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "What to do" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_options_exit_with_2() -> None:
    assert mogu("info", "--no-such-option").returncode == 2


def test_data_validate_passes_its_exit_code_on(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"id": "1", "label": "odd"}\n')
    done = mogu("data", "validate", str(file), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["valid"] is False
