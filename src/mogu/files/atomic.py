"""Files and folders that appear whole or not at all, after a kill and after a power cut.

What is written is on the disk before it gets its name, and of what it replaces one or the other is there at every moment. Knows the file
system; knows nothing of what is written.
"""

from __future__ import annotations

import ctypes
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, ENOSYS, ENOTSUP
from pathlib import Path

from filelock import FileLock, Timeout

from mogu.errors import MoguError
from mogu.files.locks import LOCK_FILE

logger = logging.getLogger(__name__)

_SCRATCH = ".incoming"
"""Ends the name of a folder in which something is being written."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (EINVAL, ENOSYS, ENOTSUP)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a scratch path beside ``target``; when the block ends well, it takes the target's place in one step.

    Raises:
        MoguError: the file system refuses, for want of space or of permission; the target is then as it was.
    """
    with scratch_beside(target) as folder:
        scratch = folder / target.name
        yield scratch
        put_in_place(scratch, target)


@contextmanager
def atomic_folder(target: Path, *, marker: str) -> Iterator[Path]:
    """Yield a scratch folder beside ``target``; when the block ends well, it takes the target's place.

    What else the old folder held (somebody's notes, results) is kept in ``NAME-kept`` beside it.

    Args:
        target: the folder to write; where it is a link, the folder that it leads to.
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
        place = _real(target)
        if place.is_dir():
            sync(scratch)
            _keep_others(place, scratch)
            _swap(scratch, place)
        else:
            put_in_place(scratch, place)


def put_in_place(written: Path, target: Path) -> None:
    """Give a finished file or folder its name, once everything in it is on the disk.

    Raises:
        OSError: the file system refuses.
    """
    target = _real(target)
    sync(written)
    os.replace(written, target)
    _sync_one(target.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, would survive a power cut.

    Raises:
        OSError: the file system refuses, some of them only now for want of space.
    """
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_one(Path(folder, name))
        _sync_one(Path(folder))
    if not path.is_dir():
        _sync_one(path)


def check_replaceable(target: Path, *, marker: str) -> None:
    """Refuse an output path that exists and is not ours, or that cannot be written.

    A folder that a killed run left in its place, see :func:`atomic_folder`, is put back first.

    Raises:
        MoguError: ``target`` is a file, or a folder with something in it but without ``marker``, or may not be written.
    """
    _put_back(_real(target))
    if target.is_dir() and ((target / marker).is_file() or not any(map(_is_content, target.iterdir()))):
        check_writable(target)
        return
    if target.exists() or target.is_symlink():
        raise MoguError(
            f"The output {target} exists and was not written by mogu (it holds no {marker})",
            expected="a new path, an empty folder, or a folder that mogu wrote",
            action="choose another output path, or remove that one yourself",
        )
    check_writable(target)


def check_writable(target: Path) -> None:
    """Refuse a folder that cannot be written, or cannot be made, before time goes into what is to be written there.

    Raises:
        MoguError: the file system is mounted read-only, or permission is missing.
    """
    nearest = next(folder for folder in (_real(target), *_real(target).parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise MoguError(
            f"{target} could not be written: {nearest} {'may not be written to' if nearest.is_dir() else 'is no folder'}",
            expected="a place with enough space that you may write to",
            action="choose another path, or change the permissions of that one",
        )


@contextmanager
def scratch_beside(target: Path, *, remedy: str = "free space, or choose another output path") -> Iterator[Path]:
    """Yield a hidden folder beside ``target``, on the same file system, which is gone when the block ends.

    Those that killed processes left there for the same target are removed first.

    Args:
        target: what is about to be written; its parents are made.
        remedy: what a user can do if the file system refuses.

    Raises:
        MoguError: the file system refuses, for want of space or of permission.
    """
    place = _real(target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=_SCRATCH, dir=place.parent))
        try:
            with FileLock(folder / LOCK_FILE):  # says that somebody lives who writes here
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise MoguError(
            f"{target} could not be written: {error.strerror or error}",
            expected="a place with enough space that you may write to",
            action=remedy,
        ) from error


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes left half-written beside ``target``, or in it; what a living one is writing stays."""
    beside = target.parent.glob(f".{glob.escape(target.name)}.*{_SCRATCH}")
    for folder in [*beside, *target.rglob(f".*{_SCRATCH}")]:
        try:
            with FileLock(folder / LOCK_FILE, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue


def discard(path: Path) -> None:
    """Delete a file or folder; it loses its name first, so that a kill half-way leaves nothing that looks whole."""
    if not path.exists():
        return
    nameless = path.with_name(f".discarded-{path.name}")
    shutil.rmtree(nameless, ignore_errors=True)
    os.replace(path, nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def _swap(new: Path, old: Path) -> None:
    """Let two folders take each other's places: in one step where the system can do that, else in three."""
    if not _exchanged(new, old):
        aside = _aside(old)
        shutil.rmtree(aside, ignore_errors=True)  # of a swap that was killed before its last step
        os.replace(old, aside)
        try:
            os.replace(new, old)
        except OSError:
            os.replace(aside, old)
            raise
        os.replace(aside, new)
    _sync_one(old.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; ``False`` where the system or this file system cannot, as macOS and NFS."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _aside(folder: Path) -> Path:
    """Where a folder is between the steps of a swap that takes three."""
    return folder.with_name(f".{folder.name}.previous")


def _put_back(folder: Path) -> None:
    with suppress(OSError):  # what cannot be written is refused in the next moment
        if _aside(folder).is_dir() and not folder.exists():
            os.replace(_aside(folder), folder)


def _keep_others(old: Path, new: Path) -> None:
    """Keep those files of a folder that the one in its place does not have, beside it; the old one stays whole meanwhile."""
    others = [file.relative_to(old) for file in sorted(old.rglob("*")) if not file.is_dir() or file.is_symlink()]
    others = [file for file in others if not os.path.lexists(new / file) and _is_content(old / file.parts[0])]
    if not others:
        return
    kept = old.with_name(f"{old.name}-kept")
    number = 1
    while os.path.lexists(kept):
        number += 1
        kept = old.with_name(f"{old.name}-kept-{number}")
    for file in others:
        (kept / file).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / file, kept / file, follow_symlinks=False)
        except OSError:  # a file system without hard links
            shutil.copy2(old / file, kept / file, follow_symlinks=False)
    sync(kept)
    names = ", ".join(map(str, others[:5])) + (", …" if len(others) > 5 else "")
    logger.warning("%s held %d files that what takes its place does not have; they are kept in %s: %s.", old, len(others), kept, names)


def _is_content(path: Path) -> bool:
    """Whether a file counts: locks do not, nor what a killed process left half-written."""
    return path.name != LOCK_FILE and not (path.name.startswith(".") and path.name.endswith(_SCRATCH))


def _real(path: Path) -> Path:
    """The path that a link leads to: a link is followed, never replaced."""
    return Path(os.path.realpath(path))


def _sync_one(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
