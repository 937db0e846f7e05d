"""`mogu compare` as a user meets it, on tiny models."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Mogu = Callable[..., tuple[int, str, str]]
Process = Callable[..., subprocess.CompletedProcess[str]]


def test_compare_writes_its_files_and_says_where(run_mogu_offline: Mogu, saved_model: Path, dev_records: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    options = ["--defenses", "none,mogu", "--data", str(dev_records), "--seeds", "1", "--shifts", "1", "--max-new-tokens", "4"]
    code, told, err = run_mogu_offline("compare", str(saved_model), "--out", str(out), *options)
    assert code == 0, err
    assert "On the frontier:" in told
    assert f"Report:  {out / 'report.html'}" in told
    assert "dev, seed 0, mogu@+1: 6 replies" in err
    _, told, err = run_mogu_offline("compare", str(saved_model), "--out", str(out), *options, "--json")
    found = json.loads(told)
    assert found["made"]["command"].startswith(f"mogu compare {saved_model} --out")
    assert found["data"] == [
        {"dataset": "dev", "category": "benign", "prompts": 3},
        {"dataset": "dev", "category": "malicious", "prompts": 3},
    ]
    assert "replies in" not in err


def test_compare_measures_the_defense_of_a_plugin(mogu_process: Process, saved_model: Path, dev_records: Path, tmp_path: Path) -> None:
    """In a process of its own, since a plugin registers for good."""
    options = ["--plugin", "examples/custom_defense.py", "--defenses", "none,perplexity_filter", "--data", str(dev_records)]
    options += ["--seeds", "2", "--max-new-tokens", "4"]
    done = mogu_process("compare", str(saved_model), "--out", str(tmp_path / "out"), *options)
    assert done.returncode == 0, done.stderr
    assert "dev, seed 0, perplexity_filter: 6 replies" in done.stderr
    assert "Perplexity filter" in done.stdout


def test_compare_explains_bad_input(run_mogu_offline: Mogu, saved_model: Path, tmp_path: Path) -> None:
    for options, found in (
        (["--shifts", "high"], "--shifts is 'high'"),
        (["--defenses", "none", "--base-model", str(tmp_path / "gone")], "gone"),
        (["--plugin", str(tmp_path / "gone.py")], "gone.py does not exist"),
    ):
        code, _, err = run_mogu_offline("compare", str(saved_model), "--out", str(tmp_path / "out"), *options)
        assert code == 2, err
        assert found in err
        assert "Traceback" not in err


def test_ctrl_c_stops_with_a_hint(saved_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = [sys.executable, "-m", "mogu", "compare", str(saved_model), "--out", str(out), "--defenses", "none,mogu", "--seeds", "1"]
    # A background job's SIGINT is ignored, and so is its children's: here it is not.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 60
    while not (out / "mogu_comparison.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "The same command goes on" in told
    assert "Traceback" not in told
    assert not (out / "results.json").exists()


def test_several_models_are_rows_of_one_table(run_mogu_offline: Mogu, saved_model: Path, dev_records: Path, tmp_path: Path) -> None:
    for name in ("gentle", "strict"):
        shutil.copytree(saved_model, tmp_path / name)
    options = ["--defenses", "none,mogu", "--data", str(dev_records), "--seeds", "1", "--shifts", "", "--max-new-tokens", "4", "--json"]
    models = [str(tmp_path / name) for name in ("gentle", "strict")]
    code, out, err = run_mogu_offline("compare", *models, "--out", str(tmp_path / "out"), *options)
    assert code == 0, err
    found = json.loads(out)
    assert found["made"]["defenses"] == ["none", "gentle", "strict"]
    assert {row["defense"] for row in found["numbers"] if row["section"] == "model"} == {"strict"}
    code, _, err = run_mogu_offline("compare", str(saved_model), str(saved_model), "--out", str(tmp_path / "twice"), *options)
    assert code == 2
    assert "Two rows of the comparison are called saved" in err
