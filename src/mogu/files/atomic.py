"""Files and folders that appear whole or not at all.

Knows the file system; knows nothing of what is written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mogu.errors import MoguError


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a scratch path beside ``target``; when the block ends well, it takes the target's place in one step.

    Raises:
        MoguError: the file system refuses, for want of space or of permission; the target is then as it was.
    """
    with scratch_beside(target) as folder:
        scratch = folder / target.name
        yield scratch
        os.replace(scratch, target)


@contextmanager
def atomic_folder(target: Path, *, marker: str) -> Iterator[Path]:
    """Yield a scratch folder beside ``target``; when the block ends well, it takes the target's place.

    Args:
        target: the folder to write.
        marker: name of a file that tells a folder of ours from somebody else's; only a missing or empty folder, or one
            that holds this file, is ever replaced.

    Raises:
        MoguError: ``target`` is somebody else's, or the file system refuses; the target is then as it was.
    """
    check_replaceable(target, marker=marker)
    with scratch_beside(target) as folder:
        scratch = folder / "new"
        scratch.mkdir()
        yield scratch
        old = folder / "old"
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(scratch, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise


def check_replaceable(target: Path, *, marker: str) -> None:
    """Refuse an output path that exists and is not ours.

    Raises:
        MoguError: ``target`` is a file, or a folder with something in it but without ``marker``.
    """
    if target.is_dir() and ((target / marker).is_file() or not any(target.iterdir())):
        return
    if target.exists() or target.is_symlink():
        raise MoguError(
            f"The output {target} exists and was not written by mogu (it holds no {marker})",
            expected="a new path, an empty folder, or a folder that mogu wrote",
            action="choose another output path, or remove that one yourself",
        )


@contextmanager
def scratch_beside(target: Path, *, remedy: str = "free space, or choose another output path") -> Iterator[Path]:
    """Yield a hidden folder beside ``target``, on the same file system, which is gone when the block ends.

    Args:
        target: what is about to be written; its parents are made.
        remedy: what a user can do if the file system refuses.

    Raises:
        MoguError: the file system refuses, for want of space or of permission.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise MoguError(
            f"{target} could not be written: {error.strerror or error}",
            expected="a place with enough space that you may write to",
            action=remedy,
        ) from error


def discard(path: Path) -> None:
    """Delete a file or folder; it loses its name first, so that a kill half-way leaves nothing that looks whole."""
    if not path.exists():
        return
    nameless = path.with_name(f".discarded-{path.name}")
    shutil.rmtree(nameless, ignore_errors=True)
    os.replace(path, nameless)
    shutil.rmtree(nameless, ignore_errors=True)
