"""GGUF files as ordinary model folders in mogu's cache: config, float32 weights, tokenizer and chat template, made once.

A folder is named after its file and the file's SHA-256, so that one file is dequantized once, wherever it lies and whatever it is called
by. It appears whole or not at all, and a second process waits for the first. Knows files and transformers' reader; knows nothing of where
a file comes from.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mogu.errors import ModelFileError, MoguError
from mogu.files.atomic import discard, put_in_place, remove_leftovers, scratch_beside
from mogu.files.cache import cache_root
from mogu.files.digests import file_digest
from mogu.files.json_files import read_json, write_json
from mogu.files.locks import locked_in_turn
from mogu.hub.errors import first_line
from mogu.hub.gguf_header import check_header
from mogu.progress import progress_bars, quiet_transformers

logger = logging.getLogger(__name__)

MARKER = "mogu_source.json"
_MOST_IN_FLOAT32 = 8 * 2**30


@dataclass(frozen=True)
class Dequantized:
    """A folder of the cache, as its marker describes it.

    Args:
        name: of the folder.
        file: what the file was called.
        sha256: its digest.
        license: the license that the file names; ``None`` where it names none.
    """

    name: str
    file: str
    sha256: str
    license: str | None

    @property
    def folder(self) -> Path:
        """The folder."""
        return models_folder() / self.name

    def bytes(self) -> int:
        """How much space the folder takes."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def models_folder() -> Path:
    """The folder of the cache in which models are."""
    return cache_root() / "models"


def in_cache(sha256: str) -> Path | None:
    """The folder of a GGUF file of this digest, if it has been dequantized."""
    return next((entry.folder for entry in cached_models() if entry.sha256 == sha256), None)


def cached_models() -> list[Dequantized]:
    """Every GGUF file that has been dequantized, by name."""
    folder = models_folder()
    markers = sorted(folder.glob(f"[!.]*/{MARKER}")) if folder.is_dir() else []
    return [Dequantized(name=marker.parent.name, **(read_json(marker) or {})) for marker in markers]


def remove(entry: Dequantized) -> None:
    """Delete a folder of the cache, once no process is making it."""
    with alone(entry.folder):
        discard(entry.folder)


def digest_of(folder: Path) -> str | None:
    """The SHA-256 of the GGUF file that a folder was made from; ``None`` for any other folder."""
    made_from = read_json(folder / MARKER) if folder.is_dir() else None
    return str(made_from["sha256"]) if made_from is not None else None


def dequantized(file: Path) -> Path:
    """The folder of a GGUF file in the cache, made if it is not there yet.

    Weights become float32, or bfloat16 where float32 would take more than 8 GiB.

    Raises:
        ModelFileError: the file is broken, or of an architecture or quantization that transformers cannot read.
        MoguError: the cache cannot be written, or the package ``gguf`` is missing.
    """
    try:
        digest = file_digest(file)
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error.strerror}", expected="a GGUF file", action="check the path") from error
    if (folder := in_cache(digest)) is not None:
        return folder
    header = _read_header(file)
    target = models_folder() / f"{file.stem}-{digest[:12]}"
    with alone(target):
        if not (target / MARKER).is_file():  # another process may just have made it
            _make(file, header, target, digest)
    return target


@dataclass(frozen=True)
class _Header:
    parameters: int
    quantizations: list[str]
    license: str | None

    @property
    def dtype(self) -> str:
        return "float32" if 4 * self.parameters <= _MOST_IN_FLOAT32 else "bfloat16"

    @property
    def bytes(self) -> int:
        return self.parameters * (4 if self.dtype == "float32" else 2)


def _read_header(file: Path) -> _Header:
    if importlib.util.find_spec("gguf") is None:
        raise MoguError(
            f"{file.name} is a GGUF file, and the package gguf, which reads such files, is not installed",
            expected="mogu with its extra gguf",
            action='run: pip install "mogu[gguf]"',
        )
    from gguf import GGUFReader

    try:
        check_header(file)
        reader = GGUFReader(file)
        field = reader.fields.get("general.license")
        return _Header(
            parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
            quantizations=sorted({tensor.tensor_type.name for tensor in reader.tensors}),
            license=str(field.contents()) if field is not None else None,
        )
    except Exception as error:  # the reader raises whatever numpy and struct make of a broken file
        raise ModelFileError(
            f"{file} is no GGUF file that can be read: {first_line(error)}", expected="a whole GGUF file", action="download it again"
        ) from error


def _make(file: Path, header: _Header, target: Path, digest: str) -> None:
    check_space(target, header.bytes, what=f"{file.name} as an ordinary model folder")
    with (
        scratch_beside(target, remedy="free space, or name another cache folder in the environment variable MOGU_CACHE") as scratch,
        progress_bars() as bars,
        quiet_transformers(),
    ):
        task = bars.add_task(f"dequantizing {file.name}", total=3, note="once")
        folder = scratch / "model"
        _save_model(file, header, folder)
        bars.advance(task, 2)
        _save_tokenizer(file, folder)
        write_json(folder / MARKER, {"file": file.name, "sha256": digest, "license": header.license})
        bars.advance(task)
        put_in_place(folder, target)


def _save_model(file: Path, header: _Header, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the reader has a bar of its own that nothing turns off
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=getattr(torch, header.dtype))
    except Exception as error:  # of the reader, of its converters, of the modeling code
        if isinstance(error, MemoryError):
            raise
        raise ModelFileError(
            f"The weights of {file} cannot be read: {first_line(error)}",
            expected=f"an architecture and quantizations that this release of transformers knows; it has {', '.join(header.quantizations)}",
            action="convert it to a common quantization such as Q8_0, or use the model's folder in the format of Hugging Face",
        ) from error
    # What is in memory is not quantized any more, which transformers does not notice: it would refuse to save it.
    del model.hf_quantizer, model.is_quantized, model.config.quantization_config
    # The reader keeps the file's title under names that mean a path.
    model.config._name_or_path = ""
    vars(model.config).pop("_model_name_or_path", None)
    model.save_pretrained(folder)


def _save_tokenizer(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # as for the weights
        raise ModelFileError(
            f"The tokenizer of {file} cannot be read: {first_line(error)}",
            expected="a kind of tokenizer that this release of transformers can take out of a GGUF file",
            action="use the model's folder in the format of Hugging Face",
        ) from error
    tokenizer.save_pretrained(folder)


def check_space(target: Path, needed: int, *, what: str) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        target: what is about to be written; its parents need not be there.
        needed: bytes.
        what: what they are.

    Raises:
        MoguError: there is less room.
    """
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise MoguError(
            f"{what} needs {needed / 2**30:.1f} GiB, and there is {free / 2**30:.1f} GiB left in {parent}",
            expected="enough space",
            action="free space, or name another cache folder in the environment variable MOGU_CACHE",
        )


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder of the cache to this process, cleared of what a killed one left beside it; wait for another one that has it.

    Raises:
        MoguError: the cache cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoguError(
            f"The cache {folder.parent} cannot be made: {error.strerror}",
            expected="a folder that you may write to",
            action="name another one in the environment variable MOGU_CACHE",
        ) from error
    with locked_in_turn(folder.with_name(f".{folder.name}.lock"), lambda: logger.info("Another process is making %s; waiting.", folder)):
        remove_leftovers(folder)
        yield
