"""`mogu compare`, `mogu calibrate` and `mogu reproduce` as a user meets them, on a tiny model."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mogu.data import Record, write_records

ROOT = Path(__file__).parents[2]


def mogu(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mogu", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "160"} | environment,
        check=False,
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "dev.jsonl"
    texts = {"affirm": "Yes.", "reject": "No."}
    labels = ("benign", "malicious")
    write_records(file, [Record(id=f"{n}", label=labels[n % 2], instruction=f"Request number {n}.", **texts) for n in range(6)])
    return file


def test_compare_writes_its_files_and_says_where(saved_model: Path, records: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    options = ["--defenses", "none,mogu", "--data", str(records), "--seeds", "1", "--shifts", "1", "--max-new-tokens", "4"]
    done = mogu("compare", str(saved_model), "--out", str(out), *options)
    assert done.returncode == 0, done.stderr
    assert "On the frontier:" in done.stdout
    assert f"Report:  {out / 'report.html'}" in done.stdout
    assert "dev, seed 0, mogu@+1: 6 replies" in done.stderr
    again = mogu("compare", str(saved_model), "--out", str(out), *options, "--json")
    found = json.loads(again.stdout)
    assert found["made"]["command"].startswith(f"mogu compare {saved_model} --out")
    assert found["data"] == [
        {"dataset": "dev", "category": "benign", "prompts": 3},
        {"dataset": "dev", "category": "malicious", "prompts": 3},
    ]
    assert "replies in" not in again.stderr


def test_compare_measures_the_defense_of_a_plugin(saved_model: Path, records: Path, tmp_path: Path) -> None:
    options = ["--plugin", "examples/custom_defense.py", "--defenses", "none,perplexity_filter", "--data", str(records)]
    done = mogu("compare", str(saved_model), "--out", str(tmp_path / "out"), *options, "--seeds", "2", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert "dev, seed 0, perplexity_filter: 6 replies" in done.stderr


def test_compare_explains_bad_input(saved_model: Path, tmp_path: Path) -> None:
    for options, found in (
        (["--shifts", "high"], "--shifts is 'high'"),
        (["--defenses", "none", "--base-model", str(tmp_path / "gone")], "gone"),
        (["--plugin", str(tmp_path / "gone.py")], "gone.py does not exist"),
    ):
        done = mogu("compare", str(saved_model), "--out", str(tmp_path / "out"), *options)
        assert done.returncode == 2, done.stderr
        assert found in done.stderr
        assert "Traceback" not in done.stderr


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


def test_calibrate_prints_what_it_buys_and_writes_on_request(saved_model: Path, records: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved_model, model)
    before = (model / "mogu_config.json").read_text()
    options = ["calibrate", str(model), "--dev", str(records), "--max-benign-refusal", "1", "--max-new-tokens", "2"]
    shown = mogu(*options)
    assert shown.returncode == 0, shown.stderr
    assert "points of malicious requests refused" in shown.stdout
    assert "n 3" in shown.stdout
    assert (model / "mogu_config.json").read_text() == before
    written = json.loads(mogu(*options, "--write", "--json").stdout)
    assert written["written"] is True
    assert json.loads((model / "mogu_config.json").read_text())["dial"] == written["chosen"]["dial"]
    assert f"dial {written['chosen']['dial']:g}\n" in (model / "README.md").read_text()


def test_reproduce_lists_its_steps_and_names_missing_data(tmp_path: Path) -> None:
    listed = mogu("reproduce", "falcon-7b", "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert all(step in listed.stdout for step in ("data", "glad", "unwill", "router", "baselines", "comparison", "report"))
    assert "tiiuae/falcon-7b-instruct" in listed.stdout
    assert "Nothing was downloaded, trained or written." in listed.stdout
    judged = json.loads(mogu("reproduce", "falcon-7b", "--judge", "openai/gpt-4o", "--dry-run", "--json").stdout)
    assert "calls of the judge" in judged["steps"][5]["cost"]
    assert "the judge openai/gpt-4o" in judged["steps"][5]["inputs"]
    missing = mogu("reproduce", "falcon-7b", "--out", str(tmp_path / "out"))
    assert missing.returncode == 2
    assert "advbench" in missing.stderr
    assert "MOGU_DATA_DIR" in missing.stderr
    assert "Traceback" not in missing.stderr
