"""What the name of a model stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.errors import ModelFileError
from mogu.files.digests import file_digest
from mogu.hub import gguf_digest, resolve_source
from mogu.training.recipe import ModelSection


def test_a_hub_id_and_a_folder_stand_for_themselves(tmp_path: Path) -> None:
    assert resolve_source("owner/repository") == "owner/repository"
    assert resolve_source(str(tmp_path)) == str(tmp_path)
    assert gguf_digest("owner/repository") is None
    assert gguf_digest(str(tmp_path)) is None


def test_a_missing_gguf_file_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        resolve_source("./missing.gguf")
    with pytest.raises(ModelFileError, match="does not exist"):
        resolve_source("missing.gguf")


def test_the_digest_is_that_of_the_gguf_file(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    assert gguf_digest(str(file)) == gguf_digest(resolve_source(str(file))) == file_digest(file)


def test_a_gguf_file_in_a_folder_or_repository_is_named_by_base_and_gguf_file(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    write_gguf(tmp_path / "models" / "tiny.gguf")
    section = ModelSection(base=str(tmp_path / "models"), gguf_file="tiny.gguf")
    assert Path(resolve_source(section.base)).name.startswith("tiny-")
    assert ModelSection(base="owner/repository", gguf_file="q4/file.gguf").base == "owner/repository/q4/file.gguf"
