"""Read the inputs of each layer's attention output projection while a model reads prompts.

Knows models, their projections and token ids; knows nothing of labels, of probes or of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.analysis.activation_cache import ActivationCache, CachedBatch
from mogu.analysis.scaled_half import ScaledHalf
from mogu.errors import MoguError
from mogu.modeling.architectures import Projection, compute_device

Kind = Literal["last", "mean"]
KINDS: tuple[Kind, ...] = ("last", "mean")
"""The input at the last prompt token, and the mean over the prompt's tokens (including the chat template's, never padding)."""


class _AllInputsRead(Exception):
    """All projections have been reached: the rest of the forward pass is not needed."""


@dataclass(frozen=True)
class Activations:
    """Inputs of the projections of all layers for all prompts, in scaled half precision.

    Args:
        vectors: for each kind ``[layers, prompts, d_in]``, the narrower layers filled up with zeros to the widest.
        widths: ``d_in`` of each layer.
    """

    vectors: dict[Kind, ScaledHalf]
    widths: tuple[int, ...]

    def of(self, kind: Kind, index: int) -> Tensor:
        """Return ``[prompts, d_in]``, float64, of the projection at an index in the list of projections."""
        packed = self.vectors[kind]
        return ScaledHalf(packed.values[index], packed.exponents[index]).unpacked()[:, : self.widths[index]]


@torch.no_grad()
def projection_inputs(
    model: PreTrainedModel, projections: Sequence[Projection], prompts: Sequence[list[int]], pad_token_id: int
) -> dict[Kind, Tensor]:
    """Run a batch of prompts through the model up to the last projection; no logits are computed.

    Args:
        model: the model, in evaluation mode.
        projections: the projections whose inputs are read.
        prompts: token ids of each prompt.
        pad_token_id: the token that pads shorter prompts.

    Returns:
        ``{"last": …, "mean": …}``, each ``[layers, prompts, d_in]``, float32 (float64 if the model computes in it), on the CPU; narrower
        layers are filled up with zeros to the widest.
    """
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Module)
    # Padded on the right and without a mask, unlike in generation: causal attention never looks to the right, however a model treats
    # masks and positions, and every row has something to attend to; some attention code makes NaN of rows that have nothing.
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    ids = torch.tensor([[*prompt, *[pad_token_id] * (longest - len(prompt))] for prompt in prompts])
    is_token = torch.arange(longest) < lengths[:, None]  # [prompts, tokens]
    inputs_of: dict[int, dict[Kind, Tensor]] = {}

    def keep(index: int, inputs: Tensor) -> None:
        x = inputs.reshape(*is_token.shape, inputs.shape[-1])  # OPT sometimes flattens the batch
        exact = torch.promote_types(x.dtype, torch.float32)
        mask = is_token.to(x.device)[..., None]
        # Filled rather than multiplied by 0: values at padding must not count even if they are NaN.
        total = x.masked_fill(~mask, 0).sum(1, dtype=exact)
        rows, ends = torch.arange(len(x), device=x.device), lengths.to(x.device) - 1
        inputs_of[index] = {"last": x[rows, ends].to(exact), "mean": total / mask.sum(1)}
        if len(inputs_of) == len(projections):
            raise _AllInputsRead

    with _input_hooks(projections, keep), suppress(_AllInputsRead):
        model(input_ids=ids.to(compute_device(embeddings)), use_cache=False)
    widest = max(projection.in_features for projection in projections)

    def filled(index: int, kind: Kind) -> Tensor:
        vectors = inputs_of[index][kind].cpu()
        return nn.functional.pad(vectors, (0, widest - vectors.shape[-1]))

    return {kind: torch.stack([filled(index, kind) for index in range(len(projections))]) for kind in KINDS}


@contextmanager
def _input_hooks(projections: Sequence[Projection], keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``keep(index, x)`` with the input of each projection; the hooks are removed afterwards, whatever happens."""

    def hook(index: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: keep(index, inputs[0])

    handles = []
    try:
        for index, projection in enumerate(projections):
            handles.append(projection.module.register_forward_pre_hook(hook(index)))
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
    cache: ActivationCache | None = None,
    advance: Callable[[int], None] = lambda prompts: None,
) -> Activations:
    """Read the activations of all prompts in one forward pass each, in batches of similar length, the longest first.

    Args:
        model: the model, in evaluation mode.
        projections: the projections whose inputs are read.
        prompts: token ids of each prompt.
        pad_token_id: the token that pads shorter prompts.
        batch_size: number of prompts in one forward pass.
        cache: stores each batch as soon as it is read; prompts that it holds already are not read again.
        advance: called with the number of prompts that were just finished.

    Raises:
        MoguError: an activation is not finite, or the cache cannot be written.
    """
    batches = cache.read() if cache is not None else []
    done = {prompt for batch in batches for prompt in batch.prompts}
    advance(len(done))
    # The longest first: a batch that does not fit into memory fails at once.
    order = sorted(set(range(len(prompts))) - done, key=lambda index: (-len(prompts[index]), index))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = projection_inputs(model, projections, [prompts[index] for index in chosen], pad_token_id)
        _check_finite(inputs, projections, model)
        batch = CachedBatch(tuple(chosen), {kind: ScaledHalf.of(vectors) for kind, vectors in inputs.items()})
        if cache is not None:
            cache.write(batch)
        batches.append(batch)
        advance(len(chosen))
    order_of_prompts = torch.tensor([prompt for batch in batches for prompt in batch.prompts]).argsort()
    vectors = {kind: ScaledHalf.joined([batch.vectors[kind] for batch in batches], order_of_prompts) for kind in KINDS}
    return Activations(vectors, tuple(projection.in_features for projection in projections))


def _check_finite(inputs: dict[Kind, Tensor], projections: Sequence[Projection], model: PreTrainedModel) -> None:
    finite = torch.stack([vectors.isfinite().all(-1).all(-1) for vectors in inputs.values()]).all(0)  # [layers]
    if not finite.all():
        layer = projections[int((~finite).nonzero()[0])].layer
        raise MoguError(
            f"The activations of layer {layer} are not finite, with the model in {str(model.dtype).removeprefix('torch.')}",
            expected="finite numbers",
            action="load the model in bfloat16 or float32 (--dtype, in a recipe model.dtype); if that fails too, its weights are broken",
        )
