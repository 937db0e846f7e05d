"""Compare records per second in training, of responders and routers: our batches against the published one example a forward pass.

Both train the same weights on the same records and take turns step by step. Before that they are compared: with dropout off, their
losses must agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from benchmarks.findings import Finding
from benchmarks.models import SEED, LlamaShape, make_base, make_published, make_routed, random_numbers
from benchmarks.published import Published, responder_loss, router_loss
from benchmarks.timing import Times, interleaved, median_ratio, medians
from mogu import MoguConfig
from mogu.modeling.shared_weights import share_weights
from mogu.training.collator import Collator, Layout
from mogu.training.examples import Example
from mogu.training.losses import responder_losses, router_losses
from mogu.training.recipe import ContrastiveStage, RouterStage, RunSection

LEAST = 2.0
WEIGHT_PENALTY = 2.0
MICRO_BATCH = {"cpu": 2, "cuda": RunSection.model_fields["micro_batch_size"].default}
"""Our examples in one forward pass. On a CPU fewer are faster than the recipes' default, whose activations exceed its caches."""
LAYOUT: Layout = "shared"
"""What ``mogu train`` itself chooses for a Llama."""

Step = Callable[[Sequence[Example]], object]
Losses = Callable[[Sequence[Example]], Tensor]


@dataclass(frozen=True)
class TrainingPlan:
    """How much is measured.

    Args:
        prompt_tokens: mean length of the prompts.
        answer_tokens: shortest and longest answer.
        pairs: number of pairs in an optimizer step of a responder.
        records: number of records in an optimizer step of the routers.
        steps: number of optimizer steps of each way.
    """

    prompt_tokens: int
    answer_tokens: tuple[int, int]
    pairs: int
    records: int
    steps: int


FULL_PLAN = TrainingPlan(150, (20, 30), ContrastiveStage().batch_size, RouterStage().batch_size, 4)
QUICK_PLAN = TrainingPlan(30, (4, 8), 4, 4, 2)


@dataclass(frozen=True)
class TrainingWay:
    """A way to train: an optimizer step on a list of examples, and the loss of each example as the step sees it."""

    step: Step
    losses: Losses


def measure_training(
    plan: TrainingPlan, shape: LlamaShape, device: torch.device, dtype: torch.dtype
) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and every timing behind them."""
    base = make_base(shape, device, dtype)
    findings, details = [], {}
    stages = {
        "responder": (_our_responder(base, device), published_responder(base, device), plan.pairs, 2, LEAST),
        "router": (_our_routers(base, device), published_routers(base, device), plan.records, 1, None),
    }
    for stage, (ours, published, batch_size, answers, least) in stages.items():
        batches = [random_examples(shape.vocabulary, plan, batch_size, answers, number) for number in range(plan.steps + 1)]
        difference = _loss_difference(ours, published, batches[0])
        times = _time_steps(ours, published, batches, device)
        findings += _stage_findings(stage, batch_size, MICRO_BATCH[device.type], times, least, difference)
        details[stage] = {"seconds": times, "records_a_step": batch_size, "loss_difference": difference}
    return findings, details


def _stage_findings(stage: str, batch_size: int, in_a_pass: int, times: Times, least: float | None, difference: float) -> list[Finding]:
    middle = medians(times)
    unit = "pairs" if stage == "responder" else "records"
    note = f"{batch_size / middle['ours']:.2f} {unit} a second, published {batch_size / middle['published']:.2f}"
    what, case = f"training, {stage}", f"{batch_size} {unit} a step, {in_a_pass} a pass"
    return [
        Finding(what, case, median_ratio(times, "published", "ours"), "× published", at_least=least, note=note),
        Finding(f"{what}: loss beside the published one", "relative difference", difference),
    ]


def _time_steps(ours: TrainingWay, published: TrainingWay, batches: Sequence[Sequence[Example]], device: torch.device) -> Times:
    feeds = {"ours": iter(batches), "published": iter(batches)}
    ways = {
        "ours": lambda: ours.step(next(feeds["ours"])),
        "published": lambda: published.step(next(feeds["published"])),
    }
    interleaved(ways, 1, device)
    return interleaved(ways, len(batches) - 1, device)


def _loss_difference(ours: TrainingWay, published: TrainingWay, examples: Sequence[Example]) -> float:
    with torch.no_grad():
        our_losses, published_losses = ours.losses(examples), published.losses(examples)
    return float(((our_losses - published_losses).abs() / published_losses.abs()).max())


def random_examples(vocabulary: int, plan: TrainingPlan, count: int, answers: int, seed: int) -> list[Example]:
    """Return examples of random tokens, of the lengths that a plan names."""
    draw = random.Random(f"{SEED}/{count}/{answers}/{seed}")

    def ids(shortest: int, longest: int) -> tuple[int, ...]:
        return tuple(draw.randrange(2, vocabulary) for _ in range(draw.randint(shortest, longest)))

    deviation = plan.prompt_tokens // 10
    prompts = [ids(plan.prompt_tokens - deviation, plan.prompt_tokens + deviation) for _ in range(count)]
    return [
        Example(f"record {index}", prompt, tuple(ids(*plan.answer_tokens) for _ in range(answers)), malicious=index % 2 == 0)
        for index, prompt in enumerate(prompts)
    ]


def _collated(examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in Collator(0, LAYOUT)(examples).items()}


def _training_way(model: torch.nn.Module, losses: Losses, learning_rate: float, examples_a_pass: int) -> TrainingWay:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)

    def step(examples: Sequence[Example]) -> None:
        model.train()
        for start in range(0, len(examples), examples_a_pass):
            (losses(examples[start : start + examples_a_pass]).sum() / len(examples)).backward()
        optimizer.step()
        optimizer.zero_grad()

    def evaluated_losses(examples: Sequence[Example]) -> Tensor:
        model.eval()
        return losses(examples)

    return TrainingWay(step, evaluated_losses)


def with_lora(base: Any, layers: Sequence[int] | None = None) -> Any:
    """Return a model on the same weights with a responder's LoRA, in all layers or in some."""
    config, stage = MoguConfig(), ContrastiveStage()
    torch.manual_seed(SEED)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=int(config.lora_alpha),
        lora_dropout=stage.dropout,
        target_modules=["o_proj"],
        layers_to_transform=None if layers is None else list(layers),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(share_weights(base), lora)


def _our_responder(base: Any, device: torch.device) -> TrainingWay:
    model = with_lora(base)

    def losses(examples: Sequence[Example]) -> Tensor:
        return responder_losses(model, _collated(examples, device), LAYOUT)

    return _training_way(model, losses, ContrastiveStage().learning_rate, MICRO_BATCH[device.type])


def published_responder(base: Any, device: torch.device) -> TrainingWay:
    """Return the published way to train a responder."""
    model = with_lora(base)

    def losses(examples: Sequence[Example]) -> Tensor:
        return torch.stack([responder_loss(model, example.prompt, example.answers, device) for example in examples])

    return _training_way(model, losses, ContrastiveStage().learning_rate, 1)


def with_routers(base: Any, layers: Sequence[int] | None = None) -> Any:
    """Return a routed model on the same weights whose routers are in training, with the numbers of the published one."""
    model = make_routed(share_weights(base), None if layers is None else list(layers))
    model.injected.start_router_training()
    numbers = random_numbers(len(model.routed_layers), base.config.hidden_size)
    for layer, (_, (unwill, glad)) in zip(model.routed_layers, numbers, strict=True):
        assert layer.routers is not None
        layer.routers["unwill"].load_state_dict(unwill.state_dict())
        layer.routers["glad"].load_state_dict(glad.state_dict())
    return model


def _our_routers(base: Any, device: torch.device) -> TrainingWay:
    model = with_routers(base)

    def losses(examples: Sequence[Example]) -> Tensor:
        return router_losses(model, _collated(examples, device), LAYOUT, WEIGHT_PENALTY)

    return _training_way(model, losses, RouterStage().learning_rate, MICRO_BATCH[device.type])


def published_routers(base: Any, device: torch.device) -> TrainingWay:
    """Return the published way to train routers."""
    published: Published = make_published(base)
    for projection in published.projections:
        projection.unwill_router.requires_grad_(True)
        projection.glad_router.requires_grad_(True)

    def losses(examples: Sequence[Example]) -> Tensor:
        each = [
            router_loss(
                published, example.prompt, example.answers[0], malicious=example.malicious, weight_penalty=WEIGHT_PENALTY, device=device
            )
            for example in examples
        ]
        return torch.stack(each)

    return _training_way(published.routed, losses, RouterStage().learning_rate, 1)
