"""The working folder: what is begun, finished and measured with which settings, and one process at a time."""

from __future__ import annotations

import json
import subprocess
import sys
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


HOLD = """if True:
    import signal, sys
    from pathlib import Path
    from mogu.training.workspace import Workspace
    with Workspace(Path(sys.argv[1])).locked():
        print("held", flush=True)
        signal.pause()
"""


def test_a_second_process_in_the_same_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "work")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(MoguError, match=r"Another process is training in .*work.*run\.work")
        with refused, Workspace(tmp_path / "work").locked():
            pass
        holder.kill()
    with Workspace(tmp_path / "work").locked():  # a kill releases it
        assert json.loads((tmp_path / "work" / "mogu_training.json").read_text())["what"].startswith("working folder of `mogu train`")
    with Workspace(tmp_path / "work").locked():  # and so does the end of the block
        pass
