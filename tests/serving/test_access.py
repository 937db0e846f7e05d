"""The lock is on, off or an error: never open because of how it was spelled."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from mogu import MoguConfig
from mogu.cli import app
from mogu.errors import ConfigError, LockedError
from mogu.serving import plugin
from mogu.serving.access import HOLDS_KEY, Access, access, holds_key, parse_settings

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
    assert access().locked


@pytest.mark.parametrize("value", [*FALSE, None])
def test_every_usual_spelling_of_false_does_not(monkeypatch, value):
    monkeypatch.delenv("MOGU_LOCKED", raising=False)
    if value is not None:
        monkeypatch.setenv("MOGU_LOCKED", value)
    assert not access().locked


@pytest.mark.parametrize("value", UNKNOWN)
def test_anything_else_is_an_error_at_start(monkeypatch, saved, value):
    monkeypatch.setenv("MOGU_LOCKED", value)
    with pytest.raises(ConfigError, match=r"MOGU_LOCKED is .*Expected: 1, true, yes or on"):
        access()
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
    [
        ("yes", [], True),
        ("0", ["--locked"], True),
        (None, [], True),
        (None, ["--open"], False),
        ("yes", ["--open"], False),
        ("off", [], False),
    ],
)
def test_a_server_is_started_locked_unless_somebody_says_otherwise(monkeypatch, saved, value, options, locked):
    monkeypatch.delenv("MOGU_LOCKED", raising=False)
    if value is not None:
        monkeypatch.setenv("MOGU_LOCKED", value)
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    assert CliRunner().invoke(app, ["serve", saved, *options], catch_exceptions=False).exit_code == 0
    [(_, _, environment)] = started
    monkeypatch.setattr(os, "environ", environment)
    assert access().locked == locked
    shown = CliRunner().invoke(app, ["serve", saved, *options, "--show"], catch_exceptions=False).output
    assert f"MOGU_LOCKED={int(locked)} " in shown  # who copies the command keeps the lock


def test_the_command_says_who_may_do_what(monkeypatch, saved, tmp_path):
    for name in ("MOGU_LOCKED", "MOGU_ALLOW_SETTINGS", "MOGU_SETTINGS_KEYS", "MOGU_ALSO_SERVED", "MOGU_SCORES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    keys = tmp_path / "keys"
    keys.write_text("one\n\ntwo\n")
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    options = ["--allow-request-settings", "dial:-1..2,handoff", "--settings-keys", str(keys), "--serve-base", "--scores", "coarse"]
    options += ["--lora-modules", "other=path", '{"name": "third", "path": "x"}']
    assert CliRunner().invoke(app, ["serve", saved, *options], catch_exceptions=False).exit_code == 0
    [(_, _, environment)] = started
    monkeypatch.setattr(os, "environ", environment)
    found = access()
    assert found == Access(True, (-1.0, 2.0), frozenset({"handoff"}), frozenset({"base", "other", "third"}), "coarse", keys)
    assert [holds_key(header) for header in ("Bearer one", "Bearer two", "Bearer three", "", "Bearer ")] == [
        True,
        True,
        False,
        False,
        False,
    ]


SAVED = MoguConfig(routed_tokens=5, dial=0.5, handoff="continue")


@pytest.mark.parametrize(
    "given", [{}, {"dial": 0.5}, {"dial": 3.0}, {"routed_tokens": 6}, {"routed_tokens": "all"}, {"routed_tokens": None}]
)
def test_a_caller_may_always_make_a_model_stricter(given):
    Access(locked=True).check_settings(given | {"handoff": "continue"}, SAVED)


@pytest.mark.parametrize("given", [{"dial": 0.4}, {"routed_tokens": 4}, {"routed_tokens": 0}, {"handoff": "recompute"}])
def test_what_is_not_stricter_is_the_operators_to_open(given):
    [name] = given
    with pytest.raises(LockedError, match=rf"sets mogu\.{name} to .*--allow-request-settings {name}") as raised:
        Access(locked=True).check_settings(given, SAVED)
    assert raised.value.parameter == f"mogu.{name}"
    dial, others = parse_settings("dial:0..2,routed_tokens,handoff")
    Access(True, dial, others).check_settings(given, SAVED)
    Access(locked=False).check_settings(given, SAVED)


def test_a_dial_is_opened_within_a_range_and_to_whom_it_is_opened(tmp_path):
    opened = Access(True, (-0.5, 2.0))
    opened.check_settings({"dial": -0.5}, SAVED)
    with pytest.raises(LockedError, match=r"or within -0\.5 to 2"):
        opened.check_settings({"dial": -0.6}, SAVED)
    by_key = Access(True, (-0.5, 2.0), keys=tmp_path / "keys")
    with pytest.raises(LockedError):
        by_key.check_settings({"dial": 0.0}, SAVED)
    token = HOLDS_KEY.set(True)
    try:
        by_key.check_settings({"dial": 0.0}, SAVED)
    finally:
        HOLDS_KEY.reset(token)


def test_all_tokens_routed_is_the_strictest():
    everything = MoguConfig(routed_tokens="all")
    Access(locked=True).check_settings({"routed_tokens": None}, everything)
    with pytest.raises(LockedError):
        Access(locked=True).check_settings({"routed_tokens": 1000}, everything)


@pytest.mark.parametrize("text", ["dials", "dial:2..0", "dial:a..b", "dial:0", "dial:0..nan", "temperature"])
def test_settings_that_cannot_be_opened_are_one_error_at_start(monkeypatch, saved, text):
    with pytest.raises(ConfigError, match="settings that requests may choose"):
        parse_settings(text)
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    result = CliRunner().invoke(app, ["serve", saved, "--allow-request-settings", text])
    assert isinstance(result.exception, ConfigError)


def test_a_score_is_the_operators_unless_he_says_otherwise(monkeypatch):
    monkeypatch.delenv("MOGU_SCORES", raising=False)
    shown = {}
    for locked in ("1", "0"):
        monkeypatch.setenv("MOGU_LOCKED", locked)
        shown[locked] = access().scores
    assert shown == {"1": "none", "0": "exact"}
    monkeypatch.setenv("MOGU_SCORES", "all")
    with pytest.raises(ConfigError, match="MOGU_SCORES is 'all'"):
        access()


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_a_file_without_keys_is_one_error_at_start(monkeypatch, saved, tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    result = CliRunner().invoke(app, ["serve", saved, "--settings-keys", str(file)])
    assert isinstance(result.exception, ConfigError)
    assert "keys" in str(result.exception)


def test_a_front_end_past_the_checks_does_not_start_a_locked_server(monkeypatch):
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    monkeypatch.setenv("MOGU_LOCKED", "1")
    with pytest.raises(ConfigError, match="VLLM_USE_RUST_FRONTEND is set"):
        plugin.register()
