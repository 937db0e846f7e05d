"""What a disk has lost or changed is noticed: training goes on from an older good checkpoint, or says what is damaged."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mogu.errors import MoguError
from mogu.training.recipe import Stage
from mogu.training.trainer import Snapshots
from mogu.training.workspace import Workspace, date_of_run
from tests.training.test_trainer import Stopped, examples, train, with_lora  # noqa: F401  (fixtures)

STAGE = Stage(learning_rate=1e-2, epochs=2, batch_size=5)
"""10 steps, with a checkpoint every 3."""


def gone(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    file.write_bytes(content)


SPOILED = [gone, emptied, cut, flipped]


@pytest.fixture
def stopped(base_folder: Path, train: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The folder of a stage that was stopped at step 8, with the checkpoints of steps 3 and 6."""
    plain, calls = torch.optim.AdamW.step, [0]

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            raise Stopped
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stopping)
    with pytest.raises(Stopped):
        train(with_lora(base_folder), STAGE)
    monkeypatch.setattr(torch.optim.AdamW, "step", plain)
    return tmp_path / "stage"


@pytest.fixture
def resumed(base_folder: Path, train: Callable[..., None]) -> Callable[[], bool]:  # noqa: F811
    """Resumes the stage; whether its weights are those of one that was never stopped."""

    def resume() -> bool:
        again, whole = with_lora(base_folder), with_lora(base_folder)
        train(again, STAGE)
        train(whole, STAGE, "whole")
        return all(torch.equal(one, other) for one, other in zip(again.parameters(), whole.parameters(), strict=True))

    return resume


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("name", ["trained.safetensors", "state.pt", "digests.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    name: str, spoil: Callable[[Path], None], stopped: Path, resumed: Callable[[], bool], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(stopped / "checkpoint-6" / name)
    assert resumed()
    assert f"checkpoint-6/{name}" in caplog.text
    assert "goes on from an earlier checkpoint" in caplog.text


def test_where_every_checkpoint_is_damaged_nothing_is_trained(stopped: Path, resumed: Callable[[], bool]) -> None:
    for checkpoint in stopped.glob("checkpoint-*"):
        flipped(checkpoint / "state.pt")
    with pytest.raises(MoguError, match=r"No checkpoint in .*stage is whole: .*checkpoint-3/state.pt is not what was written.*--resume"):
        resumed()
    assert (stopped / "checkpoint-6").is_dir()  # it is left to be looked at
    shutil.rmtree(stopped)
    assert resumed()


@pytest.mark.parametrize("spoil", [gone, emptied, flipped])
def test_a_damaged_loss_history_is_an_error(spoil: Callable[[Path], None], stopped: Path, resumed: Callable[[], bool]) -> None:
    history = stopped / "loss_history.jsonl"
    if spoil is flipped:
        history.write_bytes(history.read_bytes().replace(b'"step": 2', b'"step": 3'))
    else:
        spoil(history)
    with pytest.raises(MoguError, match=r"loss_history.jsonl is damaged"):
        resumed()


def test_what_was_finished_before_a_checkpoint_is_part_of_it(
    base_folder: Path,
    train: Callable[..., None],  # noqa: F811
    tmp_path: Path,
) -> None:
    """A responder is written at a share of the steps: half of it lost, it must not become part of a model."""
    responder = tmp_path / "stage" / "step-2" / "adapter"

    def take(_: int) -> None:
        responder.parent.mkdir(exist_ok=True)
        responder.write_bytes(b"weights")

    train(with_lora(base_folder), STAGE, snapshots=Snapshots([0.2], take))
    cut(responder)
    with pytest.raises(MoguError, match=r"No checkpoint .*step-2/adapter is not what was written"):
        train(with_lora(base_folder), STAGE, snapshots=Snapshots([0.2], take))


def test_a_clock_that_was_set_back_changes_nothing(stopped: Path, resumed: Callable[[], bool]) -> None:
    """Checkpoints are told apart by their steps; here the older one has the later time, and both are of a day to come."""
    for days, name in ((2, "checkpoint-3"), (1, "checkpoint-6")):
        for path in [stopped / name, *(stopped / name).iterdir()]:
            os.utime(path, times=(time.time() + days * 86_400,) * 2)
    (stopped / "checkpoint-3" / "state.pt").unlink()  # it would not do
    assert resumed()


@pytest.mark.parametrize("spoil", [emptied, cut, flipped])
@pytest.mark.parametrize("name", ["begun.json", "done.json", "measured.json", "adapter", "loss_history.jsonl", "../mogu_training.json"])
def test_a_damaged_record_or_part_is_never_used(
    name: str, spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tmp_path / "work")
    folder = workspace.begin("glad", "settings", resume=False)
    for file in ("adapter", "loss_history.jsonl", "trackers/events"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("0123456789")
    (folder / "checkpoint-3").mkdir()
    if name != "begun.json":
        workspace.finish("glad", "settings", seconds=1.5)
    workspace.measure("glad", "settings", rate=0.25)
    spoil(folder / "trackers" / "events")  # these grow, and are no part of it
    spoil(folder / name)
    if name == "measured.json":
        assert workspace.measured("glad", "settings") is None  # and is measured again
        assert "measured.json is damaged" in caplog.text
        return
    used: Callable[[], object] = lambda: workspace.finished("glad", "settings")  # noqa: E731
    if name == "begun.json":
        used = lambda: workspace.begin("glad", "settings", resume=True)  # noqa: E731
    elif name.startswith(".."):
        used = lambda: date_of_run(tmp_path / "work")  # noqa: E731
    with pytest.raises(MoguError, match="damaged") as raised:
        used()
    assert Path(name).name in str(raised.value)
    assert "delete" in raised.value.action


def test_a_lost_file_of_a_finished_part_is_named_and_a_lost_record_makes_the_part_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    folder = workspace.begin("glad", "settings", resume=False)
    (folder / "step-4").mkdir()
    (folder / "step-4" / "adapter").write_text("weights")
    (tmp_path / "sft").write_text("beside the working folder")
    workspace.finish("glad", "settings", elsewhere=[tmp_path / "sft"])
    assert workspace.finished("glad", "settings") == {"fingerprint": "settings"}
    flipped(tmp_path / "sft")
    with pytest.raises(MoguError, match=r"sft is not what was written"):
        workspace.finished("glad", "settings")
    (tmp_path / "sft").write_text("beside the working folder")
    shutil.rmtree(folder / "step-4")
    with pytest.raises(MoguError, match=r"step-4/adapter cannot be read: No such file"):
        workspace.finished("glad", "settings")
    (folder / "done.json").unlink()
    assert workspace.finished("glad", "settings") is None
    assert list(workspace.begin("glad", "settings", resume=True).iterdir()) == [folder / "begun.json"]


def test_a_record_without_its_digest_does_not_count(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    workspace.measure("base", "settings", rate=0.25)
    file = tmp_path / "work" / "base" / "measured.json"
    record = json.loads(file.read_text())
    del record["sha256"]
    file.write_text(json.dumps(record))
    assert workspace.measured("base", "settings") is None
