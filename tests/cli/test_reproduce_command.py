"""`mogu reproduce` as a user meets it: its steps, and what it says about missing data."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Mogu = Callable[..., tuple[int, str, str]]
MoguProcess = Callable[..., subprocess.CompletedProcess[str]]


def test_reproduce_lists_its_steps_and_names_missing_data(run_mogu_offline: Mogu, mogu_process: MoguProcess, tmp_path: Path) -> None:
    code, listed, err = run_mogu_offline("reproduce", "falcon-7b", "--dry-run")
    assert code == 0, err
    assert all(step in listed for step in ("data", "glad", "unwill", "router", "baselines", "comparison", "report"))
    assert "tiiuae/falcon-7b-instruct" in listed
    assert "Nothing was downloaded, trained or written." in listed
    _, out, _ = run_mogu_offline("reproduce", "falcon-7b", "--judge", "openai/gpt-4o", "--dry-run", "--json")
    judged = json.loads(out)
    assert "calls of the judge" in judged["steps"][5]["cost"]
    assert "the judge openai/gpt-4o" in judged["steps"][5]["inputs"]
    # A process of its own, since datasets decides at import whether it may ask the hub.
    missing = mogu_process("reproduce", "falcon-7b", "--out", str(tmp_path / "out"))
    assert missing.returncode == 2
    assert "advbench" in missing.stderr
    assert "MOGU_DATA_DIR" in missing.stderr
    assert "Traceback" not in missing.stderr
