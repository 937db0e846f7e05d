"""Training without the layers below the first trained one: the losses and the weights of the whole model, wherever that is claimed."""

from __future__ import annotations

import json
import logging
import random
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mogu import MoguConfig, MoguModel
from mogu.data import Record
from mogu.modeling.adapter_files import read_adapter
from mogu.modeling.architectures import find_linear_layers
from mogu.modeling.config import BackboneConfig
from mogu.training import harden, recipe_from, train_baselines
from mogu.training.attention_layout import choose_layout
from mogu.training.collator import Layout
from mogu.training.examples import Example
from mogu.training.recipe import ContrastiveStage, RouterStage, RunSection
from mogu.training.stages import StageSetting, train_responder, train_router
from mogu.training.training_state import ACTIVATIONS_FILE

pytestmark = pytest.mark.core

WITHOUT_DROPOUT: dict[str, dict[str, float]] = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"dropout": 0.0, "attention_dropout": 0.0},
}
"""The settings of those families whose decoder layers are random while training."""


def examples(count: int = 10, answers: int = 2) -> list[Example]:
    draw = random.Random(0)

    def ids(shortest: int, longest: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 60) for _ in range(draw.randint(shortest, longest)))

    return [Example(str(number), ids(4, 12), tuple(ids(2, 6) for _ in range(answers)), number % 2 == 0) for number in range(count)]


def setting(folder: Path, cached: bool, layout: Layout, layers: list[int], **config: Any) -> StageSetting:
    run = RunSection(output=folder / "out", micro_batch_size=3, save_steps=2, cache_activations=cached)
    return StageSetting(run, MoguConfig(rank=4, router_hidden=6, layers=layers, **config), layout, 0)


def history(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "loss_history.jsonl").read_text().splitlines()]


class LowerPasses:
    """Counts the passes in which the first decoder layer computes: a linear layer of it that the others have as well."""

    def __init__(self, base: PreTrainedModel) -> None:
        self.count = 0
        next(iter(find_linear_layers(base).values()))[0].module.register_forward_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.count += 1


def responder(base: PreTrainedModel, folder: Path, one: StageSetting) -> dict[str, tuple[Tensor, Tensor]]:
    stage = ContrastiveStage(learning_rate=1e-2, epochs=3, batch_size=5, dropout=0.1)
    train_responder("glad", base, examples(), stage, one, folder, [1.0])
    (taken,) = folder.glob("step-*")
    return read_adapter(taken).weights


def routers(base: PreTrainedModel, folder: Path, one: StageSetting) -> list[Tensor]:
    torch.manual_seed(5)
    model = MoguModel.from_base(base, one.config)
    stage = RouterStage(learning_rate=1e-2, epochs=3, batch_size=5)
    try:
        train_router(model, examples(answers=1), stage, 2.0, one, folder, title="router")
        backbone = model.injected.backbone()
        adapted = [half for both in backbone.weights.values() for half in both] if backbone is not None else []
        return [half.float() for layer in model.routed_layers for half in layer.folded_router()] + adapted
    finally:
        model.detach()


@pytest.mark.parametrize("first", [1, 2])
def test_a_responder_of_every_family_has_the_losses_and_the_weights_of_the_whole_model(
    every_family: str, first: int, make_base: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """10 pairs in passes of at most 3 are 4 passes an epoch. The file takes 4 passes, and the trial before it 3."""
    found = {}
    for cached in (False, True):
        base = make_base(every_family, torch.float32, **WITHOUT_DROPOUT.get(every_family, {}))
        layout, lower, folder = choose_layout(base, 64), LowerPasses(base), tmp_path / str(cached)
        weights = responder(base, folder, setting(tmp_path, cached, layout, list(range(first, 3))))
        assert lower.count == (4 + 3 if cached else 3 * 4)
        assert not (folder / ACTIVATIONS_FILE).exists()
        found[cached] = history(folder), weights
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5, abs=1e-5)
    assert found[True][1].keys() == found[False][1].keys()
    for name, both in found[False][1].items():
        assert both[1].abs().max() > 0.02  # it has moved
        torch.testing.assert_close(found[True][1][name], both, rtol=1e-3, atol=1e-4)


def test_routers_and_backbone_of_every_family_have_those_of_the_whole_model(
    every_family: str, make_base: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    found = {}
    for cached in (False, True):
        base = make_base(every_family, torch.float32, **WITHOUT_DROPOUT.get(every_family, {}))
        layout, lower, folder = choose_layout(base, 64), LowerPasses(base), tmp_path / str(cached)
        weights = routers(base, folder, setting(tmp_path, cached, layout, [1, 2], backbone=BackboneConfig(rank=2)))
        assert lower.count == (4 + 3 if cached else 3 * 4)
        found[cached] = history(folder), weights
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5, abs=1e-5)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["shared", "separate"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_both_layouts_with_and_without_gradient_checkpointing(
    layout: Layout, checkpointing: bool, make_base: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    losses = []
    for cached in (False, True):
        one = setting(tmp_path, cached, layout, [1, 2])
        one = replace(one, run=one.run.model_copy(update={"gradient_checkpointing": checkpointing}))
        responder(make_base("llama", torch.float32), tmp_path / str(cached), one)
        losses.append(history(tmp_path / str(cached)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_in_bfloat16_the_losses_are_near(make_base: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    losses = []
    for cached in (False, True):
        base = make_base("llama", torch.bfloat16)
        lower = LowerPasses(base)
        routers(base, tmp_path / str(cached), setting(tmp_path, cached, "shared", [1, 2]))
        assert lower.count == 2 + (7 if cached else 12)  # the first two try out which attention is used
        losses.append(history(tmp_path / str(cached)))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


class Stopped(Exception):
    """As a kill, for a test within one process."""


@pytest.mark.parametrize("stop", [2, 4, 5], ids=lambda step: f"in step {step}")
def test_a_stage_that_was_stopped_goes_on_to_the_very_weights_and_leaves_no_file(
    stop: int, make_base: Callable[..., PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = setting(tmp_path, True, "shared", [1, 2])
    whole = responder(make_base("llama", torch.float32), tmp_path / "whole", one)
    plain, calls = torch.optim.AdamW.step, [0]

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop:
            assert (tmp_path / "stopped" / ACTIVATIONS_FILE).stat().st_size == tokens_of(examples()) * 32 * 4
            raise Stopped
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stopping)
    with pytest.raises(Stopped):
        responder(make_base("llama", torch.float32), tmp_path / "stopped", one)
    assert not (tmp_path / "stopped" / ACTIVATIONS_FILE).exists()
    (tmp_path / "stopped" / ACTIVATIONS_FILE).write_bytes(b"what a kill would leave")
    again = responder(make_base("llama", torch.float32), tmp_path / "stopped", one)
    for name, both in whole.items():
        assert all(torch.equal(half, other) for half, other in zip(both, again[name], strict=True))
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")
    assert not (tmp_path / "stopped" / ACTIVATIONS_FILE).exists()


def tokens_of(some: list[Example]) -> int:
    """Of rows that hold a prompt and both answers."""
    return sum(len(one.prompt) + sum(map(len, one.answers)) for one in some)


def test_the_model_computes_as_before_when_training_is_over(make_base: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    base, ids = make_base("llama", torch.float32), torch.arange(5, 15).unsqueeze(0)
    before = base(ids).logits
    responder(base, tmp_path / "glad", setting(tmp_path, True, "shared", [2]))
    assert torch.equal(base(ids).logits, before)
    assert not any("forward" in vars(module) for module in base.modules())


def test_the_baselines_have_the_losses_of_the_whole_model(base_folder: Path, records: list[Record], tmp_path: Path) -> None:
    tokenizer, losses = AutoTokenizer.from_pretrained(base_folder), []
    for cached in (False, True):
        tree: dict[str, Any] = {
            "method": "v1",
            "model": {"base": str(base_folder)},
            "data": {"train": "records"},
            "mogu": {"rank": 4, "layers": [1]},
            "router": {"epochs": 3, "batch_size": 8},
            "run": {"output": tmp_path / "safer", "max_length": 128, "cache_activations": cached},
        }
        base = AutoModelForCausalLM.from_pretrained(base_folder).eval()
        lower, folder = LowerPasses(base), tmp_path / str(cached)
        train_baselines(recipe_from(tree, source="test"), folder, base=base, tokenizer=tokenizer, records=records, parts=["sft", "expert"])
        # 24 records for 3 epochs, then 12 for 2, in passes of 8 and of 6 (a step has 8, of 12 the second has 4): one a step.
        assert lower.count == ((3 + 3) + (2 + 3) if cached else 3 * 3 + 2 * 2)
        losses.append([history(folder / "training" / part) for part in ("sft", "expert")])
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


def trained_fully(base: PreTrainedModel, tmp_path: Path, layers: list[int], caplog: pytest.LogCaptureFixture, count: int = 10) -> str:
    """Train a responder with the setting on, see that every pass is a whole one, and return what the log says."""
    lower = LowerPasses(base)
    stage = ContrastiveStage(learning_rate=1e-2, epochs=3, batch_size=5)
    with caplog.at_level(logging.DEBUG, logger="mogu.training"):
        train_responder("glad", base, examples(count), stage, setting(tmp_path, True, "shared", layers), tmp_path / "glad", [1.0])
    assert lower.count >= 3 * count * 2 // 5  # passes of 3 and 2 pairs
    assert not (tmp_path / "glad" / ACTIVATIONS_FILE).exists()
    return next(record.getMessage() for record in caplog.records if "every layer computes in every pass" in record.getMessage())


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_layers_with_dropout_compute_in_every_pass(
    family: str, make_base: Callable[..., PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "random numbers" in trained_fully(make_base(family, torch.float32), tmp_path, [1, 2], caplog)


def test_nothing_is_kept_where_the_first_layer_is_trained(
    make_base: Callable[..., PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "nothing lies below" in trained_fully(make_base("llama", torch.float32), tmp_path, [0, 2], caplog)


def test_layers_that_feed_later_ones_in_another_way_compute_in_every_pass(
    make_base: Callable[..., PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first layer's output is added once more before the last layer, as in a network with long skip connections."""
    base, seen = make_base("llama", torch.float32), {}
    base.model.layers[0].register_forward_hook(lambda _, args, output: seen.update(first=output))
    base.model.layers[2].register_forward_pre_hook(lambda _, args: (args[0] + seen["first"], *args[1:]))
    assert "the losses differ" in trained_fully(base, tmp_path, [1, 2], caplog)


def test_layers_that_leave_something_for_later_ones_compute_in_every_pass(
    make_base: Callable[..., PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where layers share keys and values: without the first layer's attention, the last layer finds nothing to use."""
    base, shared = make_base("llama", torch.float32), {}
    base.model.layers[0].self_attn.v_proj.register_forward_hook(lambda _, args, output: shared.update(value=output))
    base.model.layers[2].self_attn.v_proj.register_forward_hook(lambda _, args, output: output + shared.pop("value"))
    assert "cannot do without" in trained_fully(base, tmp_path, [1, 2], caplog)


def test_the_setting_may_change_between_two_runs(base_folder: Path, record_files: tuple[Path, Path], tmp_path: Path) -> None:
    """It is no part of what a stage was trained with: whoever needs the disk turns it off and goes on."""
    written = []
    for cached in (True, False):
        tree: dict[str, Any] = {
            "method": "v1",
            "model": {"base": str(base_folder)},
            "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
            "mogu": {"layers": [1]},
            "glad": {"epochs": 2},
            "run": {"output": tmp_path / "out", "max_length": 128, "cache_activations": cached},
        }
        harden(recipe_from(tree, source="test"), stage="glad")
        written.append((tmp_path / "out-training" / "glad" / "done.json").stat().st_mtime_ns)
    assert written[0] == written[1]


def test_without_room_on_the_disk_training_goes_on_without_the_file(
    make_base: Callable[..., PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First no file may grow beyond what checkpoints need, then free space counts for nothing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        assert tokens_of(examples(30)) * 32 * 4 > 55_000
        said = trained_fully(make_base("llama", torch.float32), tmp_path / "one", [1, 2], caplog, count=30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "could not be written" in said
    caplog.clear()
    monkeypatch.setattr("mogu.training.lower_activations.MOST_OF_FREE_SPACE", 0.0)
    assert "are free" in trained_fully(make_base("llama", torch.float32), tmp_path / "two", [1, 2], caplog)


def test_a_single_epoch_needs_no_file(make_base: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    base = make_base("llama", torch.float32)
    lower, one = LowerPasses(base), setting(tmp_path, True, "shared", [1, 2])
    train_responder("glad", base, examples(), ContrastiveStage(epochs=1, batch_size=5), one, tmp_path / "glad", [1.0])
    assert lower.count == 4
