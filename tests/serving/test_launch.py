"""Modules that lie in the folder where `mogu serve` is started never run, in no process of the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mogu import MoguConfig

HOSTILE = ("vllm", "json", "packaging", "mogu", "torch", "multiprocessing", "logging", "sitecustomize", "unrelated")
# In vLLM's place: it starts children as vLLM does, by `spawn`, by `-m` and by `-c`, and imports what a server imports.
STAND_IN = """
import multiprocessing, subprocess, sys

def work():
    import json, logging, packaging

def main():
    work()
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
    subprocess.run([sys.executable, "-m", "json.tool", "--help"], check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", "import json, vllm"], check=True)
    print("STARTED", sys.argv[1:])
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    site = tmp_path / "site"
    for file, text in {
        "vllm/__init__.py": "",
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/cli/__init__.py": "",
        "vllm/entrypoints/cli/main.py": STAND_IN,
        "vllm-0.32.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n",
    }.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text)
    import mogu

    source = Path(mogu.__file__).parents[1]
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {"PYTHONPATH": f"{site}:{source}"}


def test_what_lies_in_the_current_folder_is_not_imported(make_pair, tmp_path, environment):
    here, mark = tmp_path / "downloads", tmp_path / "ran"
    make_pair("llama", config=MoguConfig(base_model="tiny"))[0].save_pretrained(here / "model")
    for module in HOSTILE:
        (here / f"{module}.py").write_text(f"open({str(mark)!r}, 'a').write({module!r})\n")
    # As the installed command `mogu` does, this process itself takes nothing from the current folder.
    command = [sys.executable, "-P", "-c", "from mogu.cli import main; main()", "serve", "model", "--port", "9"]
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "STARTED ['serve', 'tiny', " in done.stdout
    assert not mark.exists(), mark.read_text()

    # The same folder does run code where Python is left to its default, so the test can fail.
    subprocess.run([sys.executable, "-c", "import unrelated"], env=environment, cwd=here, check=True)
    assert mark.read_text() == "unrelated"
