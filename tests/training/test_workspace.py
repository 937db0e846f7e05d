"""The working folder: what is begun, finished and measured with which settings, and one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path

import pytest

from mogu.errors import ConfigError, MoguError
from mogu.training.workspace import Workspace


def test_a_finished_part_is_known_by_its_settings(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    assert workspace.finished("glad", "settings") is None
    folder = workspace.begin("glad", "settings", resume=False)
    (folder / "checkpoint-3").mkdir()
    workspace.finish("glad", "settings", seconds=1.5)
    assert not (folder / "checkpoint-3").exists()
    assert workspace.finished("glad", "settings") == {"fingerprint": "settings", "seconds": 1.5}
    with pytest.raises(ConfigError, match="trained with other settings"):
        workspace.finished("glad", "others")


def test_a_part_that_stopped_is_resumed_on_request_only(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work", how_to_resume="say so")
    folder = workspace.begin("glad", "settings", resume=False)
    (folder / "leftover").touch()
    assert not (workspace.begin("glad", "settings", resume=False) / "leftover").exists()  # no checkpoint: nothing to resume
    (folder / "checkpoint-3").mkdir()
    with pytest.raises(ConfigError, match=r"stopped at step 3\. .*say so"):
        workspace.begin("glad", "settings", resume=False)
    with pytest.raises(ConfigError, match="other settings"):
        workspace.begin("glad", "others", resume=True)
    assert (workspace.begin("glad", "settings", resume=True) / "checkpoint-3").exists()


def test_a_measure_of_other_settings_is_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    workspace.measure("base", "settings", rate=0.5)
    assert workspace.measured("base", "settings") == {"fingerprint": "settings", "rate": 0.5}
    assert workspace.measured("base", "others") is None


def _hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    """Runs in a process of its own, which is killed while it holds the folder."""
    with Workspace(folder).locked():
        held.set()
        signal.pause()


def test_a_second_process_in_the_same_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "work", held))
    process.start()
    try:
        assert held.wait(60)
        refused = pytest.raises(MoguError, match=r"Another process is training in .*work.*run\.work")
        with refused, Workspace(tmp_path / "work").locked():
            pass
    finally:
        process.kill()
        process.join(60)
    with Workspace(tmp_path / "work").locked():  # a kill lets go of it
        assert json.loads((tmp_path / "work" / "mogu_training.json").read_text())["what"].startswith("working folder of `mogu train`")
    with Workspace(tmp_path / "work").locked():
        pass
