"""The three stages: two responders, trained as PEFT LoRAs on the base model, and the routers between them.

Knows how one stage runs on a loaded model; knows nothing of recipe files, of choosing among trials or of evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from mogu.files.atomic import atomic_folder
from mogu.hub.quantization import transposed
from mogu.modeling.adapter_files import PEFT_PREFIX, Adapter, write_adapter
from mogu.modeling.architectures import Projection, find_output_projections
from mogu.modeling.config import MoguConfig
from mogu.modeling.model import MoguModel
from mogu.training.collator import Layout
from mogu.training.examples import Example
from mogu.training.losses import Losses, plain_responder_losses, responder_losses, router_losses
from mogu.training.recipe import ContrastiveStage, ResponderStage, RouterStage, RunSection
from mogu.training.trainer import Rates, Snapshots, train_stage
from mogu.transformers_compat import disable_checkpointing, enable_checkpointing

ADAPTER_MARKER = "adapter_config.json"


@dataclass(frozen=True)
class StageSetting:
    """What the stages of one run share.

    Args:
        run: seed, micro batch, lengths, how often to save.
        config: the routed model's settings.
        layout: how two answers of one prompt are laid out.
        pad_token_id: fills up rows.
    """

    run: RunSection
    config: MoguConfig
    layout: Layout
    pad_token_id: int


def train_responder(
    title: str,
    base: PreTrainedModel,
    examples: Sequence[Example],
    stage: ContrastiveStage,
    setting: StageSetting,
    folder: Path,
    shares: Sequence[float],
) -> None:
    """Train one responder and leave the base model as it was.

    Args:
        title: names the responder in the progress bar and in the loss history.
        base: the base model, plain.
        examples: prompts, each with the answer to learn, then the other one.
        stage: its settings.
        setting: what the stages share.
        folder: for checkpoints; the responder is written to ``step-<n>``, a PEFT adapter.
        shares: the shares of the steps after which it is written.
    """
    train_lora(
        title,
        base,
        examples,
        responder_losses if stage.loss == "ratio" else plain_responder_losses,
        stage,
        setting,
        folder,
        shares=shares,
        adapter_folder=lambda step: folder / f"step-{step}",
    )


def train_lora(
    title: str,
    base: PreTrainedModel,
    examples: Sequence[Example],
    losses: Callable[..., torch.Tensor],
    stage: ResponderStage,
    setting: StageSetting,
    folder: Path,
    *,
    shares: Sequence[float],
    adapter_folder: Callable[[int], Path],
    projections: Sequence[Projection] | None = None,
) -> None:
    """Train a LoRA on some linear layers and leave the base model as it was.

    Args:
        title: names the training in the progress bar and in the loss history.
        base: the base model, plain.
        examples: the data.
        losses: ``losses(model, batch, layout=...)``, one of :mod:`mogu.training.losses`.
        stage: its settings.
        setting: what the stages share; ``config`` says the LoRA's rank and its scaling.
        folder: for checkpoints.
        shares: the shares of the steps after which the LoRA is written.
        adapter_folder: the folder of the PEFT adapter that is written after a step.
        projections: where the LoRA goes; by default the attention output projections that ``config`` routes.
    """
    projections = projections or find_output_projections(base, setting.config.output_projection, setting.config.layers)
    config = LoraConfig(
        r=setting.config.rank,
        lora_alpha=setting.config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=stage.dropout,
        target_modules=[projection.name for projection in projections],
        fan_in_fan_out=isinstance(projections[0].module, Conv1D),
        task_type="CAUSAL_LM",
    )
    set_seed(setting.run.seed)
    required_grad = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    peft_model: Any = get_peft_model(base, config)
    gradient_checkpointing(base, setting.run)

    def take(step: int) -> None:
        with atomic_folder(adapter_folder(step), marker=ADAPTER_MARKER) as scratch:
            adapter = replace(_adapter(peft_model, setting.config), fan_in_fan_out=transposed(projections[0].module))
            write_adapter(scratch, adapter, base_model=setting.config.base_model)

    try:
        _train(
            peft_model,
            functools.partial(losses, peft_model, layout=setting.layout),
            examples,
            stage,
            setting,
            folder,
            title=title,
            snapshots=Snapshots(shares, take),
        )
    finally:
        peft_model.unload()
        for parameter_name, parameter in base.named_parameters():
            parameter.requires_grad_(parameter_name in required_grad)


def train_router(
    model: MoguModel,
    examples: Sequence[Example],
    stage: RouterStage,
    weight_penalty: float,
    setting: StageSetting,
    folder: Path,
    *,
    title: str,
    backbone_rate: float | None = None,
) -> None:
    """Train the routers of a model that has its responders, together with the LoRA of its backbone if it has one, and fold them.

    Args:
        model: the routed model.
        examples: benign prompts with the affirmative answer, malicious ones with the rejecting one.
        stage: its settings.
        weight_penalty: ``λ``.
        setting: what the stages share.
        folder: for checkpoints.
        title: names the training in the progress bar and in the loss history.
        backbone_rate: learning rate of the backbone's LoRA; by default the routers'.
    """
    set_seed(setting.run.seed)
    dial, model.dial = model.dial, 0.0
    model.injected.start_router_training()
    gradient_checkpointing(model.base_model, setting.run)

    def share(parameter: str) -> float:
        return 1.0 if ".routers." in parameter or backbone_rate is None else backbone_rate / stage.learning_rate

    losses = functools.partial(router_losses, model, layout=setting.layout, weight_penalty=weight_penalty, penalty=stage.penalty)
    rates = share if model.mogu_config.backbone is not None else None
    try:
        _train(model, losses, examples, stage, setting, folder, title=title, rates=rates)
    finally:
        model.injected.finish_router_training()
        model.dial = dial


def _train(
    model: Any,
    losses: Losses,
    examples: Sequence[Example],
    stage: ResponderStage | RouterStage,
    setting: StageSetting,
    folder: Path,
    *,
    title: str,
    snapshots: Snapshots | None = None,
    rates: Rates | None = None,
) -> None:
    try:
        train_stage(
            model,
            losses,
            examples,
            stage,
            setting.run,
            folder,
            title=title,
            layout=setting.layout,
            pad_token_id=setting.pad_token_id,
            snapshots=snapshots,
            rates=rates,
        )
    finally:
        model.eval()
        if setting.run.gradient_checkpointing:
            disable_checkpointing(model.get_base_model())


def gradient_checkpointing(base: Any, run: RunSection) -> None:
    """Turn on gradient checkpointing if the run asks for it."""
    if run.gradient_checkpointing:
        # Reentrant checkpointing would drop the routing weights from the graph: they are no output of the layer.
        enable_checkpointing(base, use_reentrant=False)


def _adapter(peft_model: PeftModel, config: MoguConfig) -> Adapter:
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in peft_model.named_parameters():
        stem, separator, half = name.partition(".lora_")
        if separator:
            matrices.setdefault(stem.removeprefix(PEFT_PREFIX), {})[half[0]] = parameter.detach().float().cpu().clone()
    return Adapter({name: (both["A"], both["B"]) for name, both in matrices.items()}, config.rank, config.lora_alpha)
