"""Plain attention on a CPU in half precision: only there, only for short rows, with the same losses, and only while training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from mogu import MoguConfig, MoguModel
from mogu.training.collator import Collator
from mogu.training.cpu_attention import LONGEST_ROW, fastest_attention
from mogu.training.examples import Example
from mogu.training.losses import answer_losses
from mogu.training.recipe import RouterStage, RunSection
from mogu.training.stages import StageSetting, train_router

pytestmark = pytest.mark.core

EXAMPLES = [Example(str(number), tuple(range(5, 15 + number)), (tuple(range(20, 26)),), number % 2 == 0) for number in range(4)]
BATCH = Collator(0, "separate")(EXAMPLES)


def losses_of(model: PreTrainedModel) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    return functools.partial(answer_losses, model, layout="separate")


def calls_of_the_fused(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    seen: list[torch.dtype] = []
    fused = F.scaled_dot_product_attention

    def noted(query: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.append(query.dtype)
        return fused(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    return seen


@pytest.mark.parametrize(
    ("dtype", "longest", "plain"),
    [
        (torch.bfloat16, LONGEST_ROW, True),
        (torch.float16, 20, True),
        (torch.bfloat16, LONGEST_ROW + 1, False),
        (torch.float32, 20, False),
    ],
)
def test_short_rows_in_half_precision_are_computed_without_the_fused_one(
    dtype: torch.dtype, longest: int, plain: bool, make_base: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("llama", dtype)
    losses, fused = losses_of(base), calls_of_the_fused(monkeypatch)
    before = losses(BATCH)
    with fastest_attention(base, losses, BATCH, longest):
        fused.clear()
        assert losses(BATCH).tolist() == pytest.approx(before.tolist(), rel=3e-2)
        assert len(fused) == (0 if plain else 3)
    assert torch.equal(losses(BATCH), before)
    assert len(fused) == (3 if plain else 6)


def test_every_family_trains_in_bfloat16_and_is_as_before(
    every_family: str, make_base: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    base = make_base(every_family, torch.bfloat16)
    before, used = losses_of(base)(BATCH), base.config._attn_implementation
    model = MoguModel.from_base(base, MoguConfig(rank=4, router_hidden=6))
    one = StageSetting(RunSection(output=tmp_path / "out"), model.mogu_config, "separate", 0)
    train_router(model, EXAMPLES, RouterStage(epochs=2, learning_rate=1e-2, batch_size=2), 2.0, one, tmp_path / "work", title="router")
    model.detach()
    assert base.config._attn_implementation == used
    torch.testing.assert_close(losses_of(base)(BATCH), before, rtol=0, atol=0)


def test_the_fused_one_stays_where_the_plain_one_computes_something_else(
    make_base: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A modelling code whose plain attention is another one: here its output is halved."""
    base = make_base("llama", torch.bfloat16)
    for layer in base.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args: (args[0] / 2,) if base.config._attn_implementation == "eager" else None
        )
    losses, fused = losses_of(base), calls_of_the_fused(monkeypatch)
    with caplog.at_level("INFO", logger="mogu.training"), fastest_attention(base, losses, BATCH, 20):
        fused.clear()
        losses(BATCH)
        assert len(fused) == 3
    assert "other losses" in caplog.text
