"""Where the cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mogu.files.cache import cache_root


def test_the_cache_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOGU_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("MOGU_CACHE")
    assert cache_root() == Path.home() / ".cache" / "mogu"
