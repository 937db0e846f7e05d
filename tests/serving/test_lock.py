"""The lock is on, off or an error: never open because of how it was spelled."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from mogu import MoguConfig
from mogu.cli import app
from mogu.errors import ConfigError
from mogu.serving import plugin
from mogu.serving.lock import is_locked

TRUE = ("1", "true", "True", "TRUE", "yes", "YES", "on", "On", "y", "t", " true\n")
FALSE = ("0", "false", "False", "FALSE", "no", "NO", "off", "Off", "n", "f", "")
UNKNOWN = ("2", "treu", "locked", "enable", "-1", "'1'", "none", "1 0")


@pytest.fixture
def saved(make_pair, tmp_path) -> str:
    make_pair("llama", config=MoguConfig(base_model="tiny"))[0].save_pretrained(tmp_path / "safer")
    return str(tmp_path / "safer")


@pytest.mark.parametrize("value", TRUE)
def test_every_usual_spelling_of_true_locks(monkeypatch, value):
    monkeypatch.setenv("MOGU_LOCKED", value)
    assert is_locked()


@pytest.mark.parametrize("value", [*FALSE, None])
def test_every_usual_spelling_of_false_does_not(monkeypatch, value):
    monkeypatch.delenv("MOGU_LOCKED", raising=False)
    if value is not None:
        monkeypatch.setenv("MOGU_LOCKED", value)
    assert not is_locked()


@pytest.mark.parametrize("value", UNKNOWN)
def test_anything_else_is_an_error_at_start(monkeypatch, saved, value):
    monkeypatch.setenv("MOGU_LOCKED", value)
    with pytest.raises(ConfigError, match=r"MOGU_LOCKED is .*Expected: 1, true, yes or on"):
        is_locked()
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    with pytest.raises(ConfigError, match="MOGU_LOCKED"):  # where plain `vllm serve` starts
        plugin.register()
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    result = CliRunner().invoke(app, ["serve", saved])
    assert isinstance(result.exception, ConfigError)
    assert not started


@pytest.mark.parametrize(
    ("value", "options", "locked"),
    [("yes", [], True), ("0", ["--locked"], True), (None, ["--locked"], True), (None, [], False), ("off", [], False)],
)
def test_a_server_is_started_locked_where_either_says_so(monkeypatch, saved, value, options, locked):
    monkeypatch.delenv("MOGU_LOCKED", raising=False)
    if value is not None:
        monkeypatch.setenv("MOGU_LOCKED", value)
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    assert CliRunner().invoke(app, ["serve", saved, *options], catch_exceptions=False).exit_code == 0
    [(_, _, environment)] = started
    monkeypatch.setattr(os, "environ", environment)
    assert is_locked() == locked
    shown = CliRunner().invoke(app, ["serve", saved, *options, "--show"], catch_exceptions=False).output
    assert ("MOGU_LOCKED=1 " in shown) == locked  # who copies the command keeps the lock
