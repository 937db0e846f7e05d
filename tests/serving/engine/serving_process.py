"""`mogu serve` as a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

KEY = "a-key-of-the-tests"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def served(
    arguments: list[str], log: Path, *, environment: dict[str, str] | None = None, folder: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server that answers, started in ``folder``, and its process, which is gone afterwards."""
    port = free_port()
    # As the installed command, which takes nothing from the current folder.
    command = [sys.executable, "-P", "-c", "from mogu.cli import main; main()", "serve", *arguments, "--port", str(port), "--api-key", KEY]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | (environment or {}), start_new_session=True, cwd=folder
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not _healthy(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-6000:]}")
            time.sleep(0.5)
        yield address, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
