"""The audit log: what it says of a request, and that it says no more."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mogu import MoguConfig
from mogu.cli import app
from mogu.errors import ConfigError
from mogu.serving import plugin
from mogu.serving.audit import audit_line, write_line
from tests.gated_models import gated_config

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def gated(make_gated, tmp_path) -> Path:
    model, _ = make_gated("llama", config=gated_config(careful=None, refuse=0.25))
    model.save_pretrained(tmp_path / "gated")
    return tmp_path / "gated"


def test_a_line_says_what_was_decided_by_what_and_no_text(gated):
    line = audit_line(request="r-1", model="safer", folder=gated, score=0.25, overrides='{"dial": 1.0}', now=NOW)
    assert line | {"weights": "", "config": ""} == {
        "time": "2026-01-02T03:04:05.678+00:00",
        "request": "r-1",
        "model": "safer",
        "score": 0.25,
        "threshold": 0.25,
        "decision": "refuse",
        "config": "",
        "weights": "",
        "mogu": {"dial": 1.0},
    }
    assert line["config"] == hashlib.sha256((gated / "mogu_config.json").read_bytes()).hexdigest()
    assert audit_line(request="r", model="safer", folder=gated, score=0.2499, text="Hello")["decision"] == "base"
    assert audit_line(request="r", model="safer", folder=gated, score=0.2499, text="Hello")["text"] == "Hello"


def test_a_prompt_that_nobody_could_judge_was_refused(gated):
    line = audit_line(request="r", model="safer", folder=gated, score=float("nan"))
    assert (line["score"], line["decision"]) == (None, "refuse")
    json.dumps(line, allow_nan=False)


def test_a_second_opinion_has_a_name_and_a_threshold(make_gated, tmp_path):
    make_gated("llama", config=gated_config(careful=0.125, refuse=0.25))[0].save_pretrained(tmp_path / "gated")
    scores = (0.1249, 0.125, 0.2499, 0.25, float("nan"))
    lines = [audit_line(request="r", model="safer", folder=tmp_path / "gated", score=score) for score in scores]
    assert [line["decision"] for line in lines] == ["base", "careful", "careful", "refuse", "refuse"]
    assert {(line["careful"], line["threshold"]) for line in lines} == {(0.125, 0.25)}


def test_other_weights_have_another_digest_and_a_routed_model_has_no_threshold(make_pair, tmp_path):
    digests = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        model, _ = make_pair("llama", config=MoguConfig(base_model="tiny"))
        if seed:
            model.injected.set_responder("unwill", model.injected.responder("glad"))
        model.save_pretrained(tmp_path / name)
        line = audit_line(request="r", model=name, folder=tmp_path / name, score=0.5)
        assert (line["threshold"], line["decision"]) == (None, "routed")
        digests.append(line["weights"])
    assert digests[0] == digests[1] != digests[2]


def test_lines_are_appended_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("MOGU_AUDIT", raising=False)
    write_line({"a": 1})
    file = tmp_path / "audit.jsonl"
    file.write_text("{}\n")
    monkeypatch.setenv("MOGU_AUDIT", str(file))
    write_line({"a": 1})
    write_line({"a": "\n"})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{}, {"a": 1}, {"a": "\n"}]


def test_a_log_that_cannot_be_written_is_one_error_at_start(monkeypatch, gated, tmp_path):
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    result = CliRunner().invoke(app, ["serve", str(gated), "--base-model", "base", "--audit", str(tmp_path / "none" / "log")])
    assert isinstance(result.exception, ConfigError)
    assert "cannot be written" in str(result.exception)
