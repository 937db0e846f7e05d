"""What goes into each layer's attention output projection while a model reads prompts.

Knows models, their projections and token ids; knows nothing of labels, of probes or of what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.analysis.activation_cache import Part, Parts
from mogu.analysis.scaled_half import Halves
from mogu.errors import MoguError
from mogu.modeling.architectures import Projection, compute_device

Kind = Literal["last", "mean"]
KINDS: tuple[Kind, ...] = ("last", "mean")
"""At the last prompt token, and the mean over the prompt's tokens (the chat template's among them, padding never)."""


class _EndOfPass(Exception):
    """All projections have been reached: what the model would do after them is not needed."""


@dataclass(frozen=True)
class Activations:
    """Inputs of the projections of all layers for all prompts, in half precision.

    Args:
        halves: of each kind ``[layers, prompts, d_in]``.
    """

    halves: dict[Kind, Halves]

    def of(self, kind: Kind, layer: int) -> Tensor:
        """``[prompts, d_in]``, float64, of the layer at a place in the list of projections."""
        half = self.halves[kind]
        return Halves(half.values[layer], half.exponents[layer]).unpacked()


@torch.no_grad()
def projection_inputs(
    model: PreTrainedModel, projections: Sequence[Projection], prompts: Sequence[list[int]], pad_token_id: int
) -> dict[Kind, Tensor]:
    """One pass over a batch of prompts, which ends where the last projection begins: no logits are made.

    Args:
        model: the model, in evaluation mode.
        projections: of which layers.
        prompts: token ids of each prompt.
        pad_token_id: what fills rows up.

    Returns:
        ``{"last": …, "mean": …}``, each ``[layers, prompts, d_in]``, float32 (float64 where the model computes in it), on the CPU.
    """
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Module)
    # Filled up on the right and without a mask, unlike where answers are generated: causal attention never looks to the right, whatever
    # a model makes of masks and positions, and no row is without anything to attend to, which some attention code turns into NaN.
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    ids = torch.tensor([[*prompt, *[pad_token_id] * (longest - len(prompt))] for prompt in prompts])
    real = torch.arange(longest) < lengths[:, None]  # [prompts, tokens]
    found: dict[int, dict[Kind, Tensor]] = {}

    def keep(place: int, inputs: Tensor) -> None:
        x = inputs.reshape(*real.shape, inputs.shape[-1])  # OPT flattens the batch now and then
        exact = torch.promote_types(x.dtype, torch.float32)
        mask = real.to(x.device)[..., None]
        # Filled, not multiplied: what stands at padding is of no account, even where it is no number.
        total = x.masked_fill(~mask, 0).sum(1, dtype=exact)
        rows, ends = torch.arange(len(x), device=x.device), lengths.to(x.device) - 1
        found[place] = {"last": x[rows, ends].to(exact), "mean": total / mask.sum(1)}
        if len(found) == len(projections):
            raise _EndOfPass

    with _listening(projections, keep), suppress(_EndOfPass):
        model(input_ids=ids.to(compute_device(embeddings)), use_cache=False)
    return {kind: torch.stack([found[place][kind].cpu() for place in range(len(projections))]) for kind in KINDS}


@contextmanager
def _listening(projections: Sequence[Projection], keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``keep(place, x)`` with what goes into each projection; whatever happens, the hooks are gone afterwards."""

    def hook(place: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: keep(place, inputs[0])

    handles = []
    try:
        for place, projection in enumerate(projections):
            handles.append(projection.module.register_forward_pre_hook(hook(place)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_activations(
    model: PreTrainedModel,
    projections: Sequence[Projection],
    prompts: Sequence[list[int]],
    *,
    pad_token_id: int,
    batch_size: int,
    parts: Parts | None = None,
    advance: Callable[[int], None] = lambda prompts: None,
) -> Activations:
    """The activations of all prompts, one pass a prompt, in batches of like length, the longest first.

    Args:
        model: the model, in evaluation mode.
        projections: of which layers.
        prompts: token ids of each prompt.
        pad_token_id: for padding.
        batch_size: prompts a pass.
        parts: where each batch is kept as soon as it is read; what is kept there already is not read again.
        advance: is told how many more prompts there are.

    Raises:
        MoguError: an activation is not finite, or the parts cannot be written.
    """
    kept = parts.read() if parts is not None else []
    done = {prompt for part in kept for prompt in part.prompts}
    advance(len(done))
    # The longest first: a batch that does not fit in memory shows itself at once.
    order = sorted(set(range(len(prompts))) - done, key=lambda place: (-len(prompts[place]), place))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found = projection_inputs(model, projections, [prompts[place] for place in chosen], pad_token_id)
        _check_finite(found, projections, model)
        part = Part(tuple(chosen), {kind: Halves.of(vectors) for kind, vectors in found.items()})
        if parts is not None:
            parts.write(part)
        kept.append(part)
        advance(len(chosen))
    places = torch.tensor([prompt for part in kept for prompt in part.prompts]).argsort()
    return Activations({kind: Halves.joined([part.vectors[kind] for part in kept], places) for kind in KINDS})


def _check_finite(found: dict[Kind, Tensor], projections: Sequence[Projection], model: PreTrainedModel) -> None:
    finite = torch.stack([vectors.isfinite().all(-1).all(-1) for vectors in found.values()]).all(0)  # [layers]
    if not finite.all():
        layer = projections[int((~finite).nonzero()[0])].layer
        raise MoguError(
            f"The activations of layer {layer} are not finite, with the model in {str(model.dtype).removeprefix('torch.')}",
            expected="finite numbers",
            action="load the model with --dtype bfloat16 or float32; if that changes nothing, its weights are broken",
        )
