"""Kills at exact moments: a function runs in a forked process, which dies at one of its file-system calls; and a lock's holder to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CALLS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree")
"""Audit events of Python's own calls; each is raised just before the call is made."""


def die_at(call: int, folder: str = "") -> Callable[[], int]:
    """Have this process killed just before its ``call``-th file-system call, of those whose path lies in a folder.

    Returns:
        How many such calls there were so far.
    """
    left = [call]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS and folder in str(arguments[0]):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    return lambda: call - left[0]


def killed_at(call: int, function: Callable[..., object], *arguments: Any, folder: str = "") -> bool:
    """Run a function in a process of its own that is killed at a call; whether it was, rather than ending before."""
    if (child := os.fork()) == 0:
        try:
            die_at(call, folder)
            function(*arguments)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


_HOLD = """if True:
    import sys
    from pathlib import Path
    from mogu.files.outputs import one_process_at
    with one_process_at(Path("out"), Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


@contextmanager
def held(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Until the block ends, another process holds a lock."""
    command = [sys.executable, "-c", _HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Until the block ends, a folder may not be written, not even by root."""
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
