"""The code blocks of README and docs: where they stand, what they need, and how one is run.

Knows Markdown's fences and the command line; knows nothing of what any page says.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / folder / "README.md" for folder in (".", "deploy", "examples")), *sorted((ROOT / "docs").rglob("*.md"))]

NEEDS = {
    "a 7B model": "weights of a size that no laptop trains",
    "a GPU": "",
    "a GGUF file": "of the reader's own; tests/hub writes small ones",
    "an adapter": "of the reader's own; tests/hub makes one",
    "vLLM": "an environment of its own; `make test-vllm` tests serving",
    "the hub": "a network, and for some models an account",
    "the package index": "a network",
    "an API key": "a judge that somebody else runs",
    "a cluster": "",
    "a published release": "files by the authors of MoGU",
    "a keyboard": "somebody who types",
    "minutes": "more of them than a test should take; `make demo`, `make bench` and benchmarks/ run these",
}
"""What a block may say that it needs, and so is not run: things that a laptop, or a test, lacks."""

LANGUAGES = {"console", "python", "text", "toml", "json", "yaml", "css"}
"""Only the first two are run; so a command must not hide in another kind of block."""

_BLOCK = re.compile(r"^(?:<!-- needs: (?P<needs>.+?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"[|<>$&;`*]|\\$|^(?!mogu )", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: the page, relative to the project's root.
        line: where its code begins.
        language: what stands behind the fence.
        code: its text.
        needs: what it needs that a test lacks; empty where it can be run.
    """

    page: str
    line: int
    language: str
    code: str
    needs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it can be run here."""
        return self.language in ("console", "python") and not self.needs

    def commands(self) -> list[list[str]]:
        """Each call of ``mogu`` in a console block, as a list of arguments without ``mogu``."""
        lines = [shlex.split(line, comments=True) for line in self.code.replace("\\\n", " ").splitlines() if line.startswith("mogu ")]
        return [words[1 : next((place for place, word in enumerate(words) if word in "|>&&;"), len(words))] for words in lines]

    def run(self, folder: Path, names: dict[str, Any]) -> None:
        """Run the block in a folder; Python blocks share ``names``.

        Raises:
            AssertionError: a command failed.
        """
        with chdir(folder):
            if self.language == "python":
                exec(compile(self.code, str(self), "exec"), names)
            elif _SHELL.search(re.sub(r"\s+#.*$", "", self.code.strip(), flags=re.MULTILINE)):
                _run_in_shell(self)
            else:
                for arguments in self.commands():
                    _run_mogu(self, arguments)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        needs = tuple(found["needs"].split(", ")) if found["needs"] else ()
        yield Block(str(page.relative_to(ROOT)), line, found["language"], found["code"], needs)


def run_page(page: Path, folder: Path) -> None:
    """Run all blocks of a page that can be run, in order, in one folder.

    Raises:
        AssertionError: a command failed.
    """
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.runs:
            block.run(folder, names)


def _run_in_shell(block: Block) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(command, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{block}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


def _run_mogu(block: Block, arguments: list[str]) -> None:
    # In this process: starting Python and importing PyTorch for each command would take most of the time.
    from mogu.cli import main

    with mock.patch.object(sys, "argv", ["mogu", *arguments]):
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        assert code == 0, f"{block}: `mogu {shlex.join(arguments)}` ended with {code}"
