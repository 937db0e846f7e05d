"""A tiny Llama, its tokenizer and the two as a GGUF file; a cache of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests import gguf_files
from tests.hub.local_hub import running_hub


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models in a cache of the test's own."""
    monkeypatch.setenv("MOGU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    return gguf_files.tiny_llama()


@pytest.fixture(scope="session")
def gguf_tokenizer() -> PreTrainedTokenizerFast:
    return gguf_files.tiny_tokenizer()


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    """``write_gguf(file, quantization="F32", template=…, architecture="llama")``: the tiny Llama as a GGUF file."""
    return gguf_files.write_gguf


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """The files of the one repository of a hub on this machine."""
    with running_hub(monkeypatch, tmp_path / "hub-cache") as files:
        yield files
