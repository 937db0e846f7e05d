"""The task `mogu/lab`, run by Inspect on the lab's models, and read back from the logs that it wrote."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model

from mogu import MoguModel
from mogu.hub import load_base, load_tokenizer
from mogu.lab import prompts
from mogu.lab.inspect_task import lab
from mogu.lab.measure import judged_replies


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))


def run(task: Any, model: Any, **options: Any) -> EvalLog:
    """One evaluation, its log read back from the disk."""
    [log] = inspect_eval(task, model=model, display="none", score_display=False, log_realtime=False, max_connections=64, **options)
    assert log.status == "success", log.error
    return read_eval_log(log.location)


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {name: metric.value for name, metric in log.results.scores[0].metrics.items()}


def test_lab_finds_what_the_labs_own_measure_finds(lab_base: Path) -> None:
    dev_prompts = prompts("dev")
    log = run(lab("dev"), f"mogu/{lab_base}")
    own = judged_replies(load_base(str(lab_base)), load_tokenizer(str(lab_base)), dev_prompts)
    found = {sample.id: sample.scores["lab_verdict"].value for sample in log.samples}
    assert found == {one.prompt.id: one.verdict for one in own}
    hits = Counter(one.prompt.category for one in own if one.verdict == one.prompt.expected)
    table = metrics(log)
    for category, count in Counter(one.category for one in dev_prompts).items():
        assert table[f"right, category={category}"] == pytest.approx(hits[category] / count)
        assert table[f"right, category={category}, samples"] == count
    families = Counter(one.group for one in dev_prompts if one.category == "malicious_wrapped")
    right = Counter(one.prompt.group for one in own if one.prompt.category == "malicious_wrapped" and one.verdict == "refused")
    for family, count in families.items():
        assert table[f"right, malicious_wrapped, family={family}"] == pytest.approx(right[family] / count)


def test_the_log_carries_score_and_weights_of_each_sample(lab_mogu: Path) -> None:
    log = run(lab("dev"), get_model(f"mogu/{lab_mogu}", dial=0.5), limit=10)
    model = MoguModel.from_pretrained(lab_mogu)
    model.dial = 0.5
    expected = model.score([prompt.instruction for prompt in prompts("dev")[:10]]).tolist()
    kept = [sample.output.metadata for sample in log.samples]
    assert [one["score"] for one in kept] == pytest.approx(expected, abs=1e-5)
    for one in kept:
        assert len(one["unwill"]) == len(one["glad"]) == 4
        assert one["cost"]["passes"] > 0
    assert log.eval.model_args == {"dial": 0.5}


def test_lab_runs_from_a_shell(lab_mogu: Path, tmp_path: Path) -> None:
    command = ["inspect_ai", "eval", "mogu/lab", "--model", f"mogu/{lab_mogu}", "-M", "defense=none", "--limit", "20"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--log-dir", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = tmp_path.glob("*.eval")
    log = read_eval_log(written)
    assert (log.status, log.eval.task, len(log.samples)) == ("success", "mogu/lab", 20)
    assert {sample.output.metadata["defense"] for sample in log.samples} == {"none"}
