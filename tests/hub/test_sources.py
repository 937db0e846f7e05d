"""What the name of a model stands for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.errors import ModelFileError
from mogu.files.digests import file_digest
from mogu.hub import at_revision, gguf_digest, load_base, named_folder, resolve_source
from mogu.training.recipe import ModelSection
from tests.gguf_files import tiny_llama


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


@pytest.mark.parametrize("source", ["./runs/base", "/no/where", "~/no/where", "runs/2024/base", "runs/base"])
def test_a_missing_folder_is_never_looked_for_on_the_hub(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, somebody else may have a repository of that name. A name whose first part is a folder here is meant as a path."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match="does not exist"):
        resolve_source(source)


def test_a_revision_in_a_name_is_the_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "base@night").mkdir()
    monkeypatch.chdir(tmp_path)
    assert at_revision(resolve_source("owner/repository@0123abc"), None) == ("owner/repository", "0123abc")
    assert at_revision("owner/repository", "0123abc") == ("owner/repository", "0123abc")
    assert at_revision(resolve_source("base@night"), None) == ("base@night", None)


def test_a_folder_is_remembered_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert named_folder("models/base") == "./models/base"
    assert named_folder("owner/base") == "owner/base"
    assert named_folder(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("num_hidden_layers", 10**9), ("vocab_size", 10**9)])
def test_a_base_that_asks_for_more_than_its_weights_is_refused_before_it_is_allocated(tmp_path: Path, field: str, value: int) -> None:
    tiny_llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ModelFileError, match=r"The config of the base model in .* asks for "):
        load_base(str(tmp_path))
