"""Experiment trackers: which numbers reach them, under transformers' own callback interface, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from mogu.errors import ConfigError
from mogu.training.trackers import check_trackers, tracking


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a tracker of transformers' hears; it stands in for those that need an account or a package."""
    calls: list[tuple[Any, ...]] = []

    class Tracker(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            calls.append(("begin", args.output_dir, args.run_name, state.max_steps, model is not None))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            calls.append((state.global_step, logs))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            calls.append(("end", state.global_step))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "stand-in", Tracker)
    return calls


def test_a_tracker_hears_every_step_and_is_closed_when_training_fails(heard: list[tuple[Any, ...]], tmp_path: Path) -> None:
    def train_until_stopped() -> None:
        with tracking(["stand-in"], tmp_path, nn.Linear(1, 1), title="glad", steps=9) as track:
            track(1, 0.5, {"loss": 2.0, "learning_rate": 1e-3})
            track(2, 1.0, {"loss": 1.5, "learning_rate": 1e-3})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_until_stopped()
    assert heard == [
        ("begin", str(tmp_path), "glad", 9, True),
        (1, {"loss": 2.0, "learning_rate": 1e-3, "epoch": 0.5}),
        (2, {"loss": 1.5, "learning_rate": 1e-3, "epoch": 1.0}),
        ("end", 2),
    ]


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with tracking([], tmp_path / "folder", nn.Linear(1, 1), title="glad", steps=9) as track:
        track(1, 0.5, {"loss": 2.0})
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking(["tensorboard"], tmp_path, nn.Linear(1, 1), title="glad", steps=2) as track:
        track(1, 0.5, {"loss": 2.0})
        track(2, 1.0, {"loss": 1.5})
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file.parent)).Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if tag.endswith("loss")]
    assert [(event.step, event.value) for event in events.Scalars(tag)] == [(1, 2.0), (2, 1.5)]


def test_an_unknown_or_missing_tracker_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no-such-tracker is not supported"):
        check_trackers(["no-such-tracker"])

    def missing() -> None:
        raise RuntimeError("requires a package")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "stand-in", missing)
    with pytest.raises(ConfigError, match=r"run\.report_to = \['stand-in'\] cannot be used: requires a package"):
        check_trackers(["stand-in"])
    check_trackers([])
