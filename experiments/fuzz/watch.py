"""One input after the other: how its reader ends, how long it takes, how much memory, and what it does beside reading."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from experiments.fuzz.readers import Reader
from mogu.errors import MoguError

_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.rmtree")
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect", "socket.getaddrinfo")
_ROOM = 4 * 2**30  # of address space: what asks for more gets an error in place of the machine's whole memory
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Outcome:
    """How a reader ended on one input.

    Args:
        end: ``error`` is one of ours; ``success``; ``foreign`` is any other exception; ``hang``; ``memory``; ``deed`` is anything done
            beside reading.
        what: of the last four, where or what.
        mebibytes: by how much the peak of memory grew.
    """

    end: str
    what: str = ""
    mebibytes: int = 0


class _TooLong(BaseException):
    pass


class Watch:
    """Tries inputs in a folder of its own, which is emptied before each.

    Args:
        folder: the folder.
        seconds: of the processor's time, after which an input counts as a hang.
        mebibytes: by how much memory may grow.
    """

    def __init__(self, folder: Path, *, seconds: float = 2.0, mebibytes: int = 512) -> None:
        self.folder, self.seconds, self.mebibytes = folder, seconds, mebibytes
        self._deeds: list[str] = []
        self._armed = False
        sys.addaudithook(self._hear)

    def try_one(self, reader: Reader, random: Random) -> Outcome:
        """Make an input and give it to its reader."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        reader.make(random, self.folder / "input")
        path = next(iter(sorted(self.folder.iterdir())))
        self._deeds.clear()
        before = _reset_peak()
        outcome = self._ending(reader, path)
        grown = (_peak() - before) // 1024
        if self._deeds:
            return Outcome("deed", self._deeds[0][:200], grown)
        if grown > self.mebibytes and outcome.end != "hang":
            return Outcome("memory", f"{grown} MiB, {outcome.end}", grown)
        return Outcome(outcome.end, outcome.what, grown)

    def _ending(self, reader: Reader, path: Path) -> Outcome:
        try:
            with self._limited():
                reader.read(path)
        except MoguError as error:
            complete = "Expected: " in str(error) and "What to do: " in str(error)
            return Outcome("error") if complete else Outcome("foreign", f"an error without all its parts: {error}"[:200])
        except _TooLong as error:
            return Outcome("hang", _place(error))
        except MemoryError as error:
            return Outcome("memory", f"MemoryError at {_place(error)}")
        except BaseException as error:
            return Outcome("foreign", f"{type(error).__name__}: {error}"[:150] + f" at {_place(error)}")
        return Outcome("success")

    @contextmanager
    def _limited(self) -> Iterator[None]:
        def ring(*_: Any) -> None:
            raise _TooLong

        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") * 1024 + _ROOM, limits[1]))
        previous = signal.signal(signal.SIGPROF, ring)
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, previous)
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        inside = any(str(argument).startswith(str(self.folder)) or "__pycache__" in str(argument) for argument in arguments[:2])
        if event in _RUNS or (event in _CHANGES and not inside):
            self._deeds.append(f"{event} {arguments[:2]}")
        elif event == "open" and not inside and isinstance(arguments[2], int) and arguments[2] & _WRITES and arguments[0] != os.devnull:
            self._deeds.append(f"writes {arguments[0]}")
        elif event in ("import", "compile") and str(arguments[1] or "").startswith(str(self.folder)):
            self._deeds.append(f"{event} {arguments[1]}")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/mogu/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The peak of resident memory since it was reset, in KiB."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))
