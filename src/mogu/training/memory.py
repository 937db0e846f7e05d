"""What a training pass needs beside weights and optimizer: what autograd keeps, and what the loss and the backward pass add.

The model runs on PyTorch's meta device, where operations make shapes and no numbers, and what autograd saves is added up: whatever is
trained, and however the family's layers are built. Knows modules and autograd; knows nothing of stages or of what is trained.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from mogu.modeling.architectures import decoder_layer_name, find_linear_layers
from mogu.training.collator import Collator, Layout
from mogu.training.cpu_attention import PLAIN, pays_off
from mogu.training.examples import AnyExample, TurnsExample
from mogu.training.quantized_shape import QuantizedShape
from mogu.training.recipe import RunSection
from mogu.training.sampler import StepBatches
from mogu.transformers_compat import in_layers

_LOSS_BYTES = 12
"""A logit in float32 three times: itself or its gradient, its softmax, and the gradient of that."""


def pass_bytes(
    model: nn.Module,
    base: PreTrainedModel,
    rows: int,
    row: int,
    answer_tokens: int,
    run: RunSection,
    quantized: QuantizedShape | None = None,
) -> int:
    """The bytes that a forward and backward pass take at most, beside what is there without one.

    .. code-block:: text

        kept + max(12 · answer_tokens · vocabulary, largest layer) + largest weight

    ``kept`` is what autograd saves; when the loss is computed all of it is there, and when a layer's gradients are, nearly all. They take
    about as much as the layer keeps. The largest weight is there only if the base model is quantized: one weight at a time is not.

    Args:
        model: the base model with all that is trained in it, on the meta device.
        base: the base model.
        rows: rows of a pass.
        row: tokens of each row.
        answer_tokens: tokens of the pass that have a logit.
        run: says whether there is gradient checkpointing.
        quantized: which layers of the base model are quantized.
    """
    keeping = quantized.layers if quantized is not None and quantized.keeps_inputs else ()
    plain = not torch.accelerator.is_available() and pays_off(torch.device("cpu"), base.dtype, row)
    model.train()
    try:
        kept = count_kept(model, base, rows, row, plain_attention=plain, keep_inputs=keeping)
    except (RuntimeError, ValueError, TypeError, AttributeError):  # modelling code that asks for numbers, which there are none of
        kept = estimate_kept(base.config.get_text_config(), base.dtype, rows, row, plain_attention=plain)
    finally:
        model.eval()
    loss = _LOSS_BYTES * answer_tokens * int(base.config.get_text_config().vocab_size)
    weight = quantized.largest_bytes if quantized is not None else 0
    return kept.bytes(checkpointing=run.gradient_checkpointing) + max(loss, kept.largest_layer) + weight


def largest_pass(examples: Sequence[AnyExample], batches: StepBatches, epochs: float, layout: Layout) -> tuple[int, int, int]:
    """Rows and tokens of each row of the pass that has most of them, padding included, and the most answer tokens of any pass."""
    collator = Collator(0, layout)
    rows, longest, answered = array("q"), array("q"), array("q")
    for example in examples:
        lengths = collator.row_lengths(example)
        rows.append(len(lengths))
        longest.append(max(lengths))
        answered.append(len(example.learned) if isinstance(example, TurnsExample) else sum(map(len, example.answers)))
    largest, most_answered = (0, 0), 0
    for epoch in range(math.ceil(epochs)):
        for one in chain.from_iterable(batches.of_epoch(epoch)):
            shape = sum(rows[index] for index in one), max(longest[index] for index in one)
            largest = max(largest, shape, key=math.prod)
            most_answered = max(most_answered, sum(answered[index] for index in one))
    return *largest, most_answered


@dataclass(frozen=True)
class Kept:
    """Bytes that a pass keeps until its backward pass, the output head and the loss not among it.

    Args:
        layers: in the decoder layers.
        largest_layer: in the one that keeps most.
        entering: of the hidden states that enter the layers, all of them together: what checkpointing keeps.
        elsewhere: before and behind the layers.
    """

    layers: int
    largest_layer: int
    entering: int
    elsewhere: int

    def bytes(self, *, checkpointing: bool) -> int:
        """All of it; with gradient checkpointing, which makes one layer at a time anew, what is kept at most."""
        return self.elsewhere + (self.entering + self.largest_layer if checkpointing else self.layers)


def count_kept(
    model: nn.Module,
    base: PreTrainedModel,
    rows: int,
    row: int,
    *,
    plain_attention: bool,
    keep_inputs: Sequence[nn.Module] = (),
) -> Kept:
    """Count what a training pass keeps.

    Args:
        model: the base model with all that is trained in it, on the meta device, in training mode.
        base: the base model.
        rows: rows of the batch.
        row: tokens of each row.
        plain_attention: whether attention keeps its weights, rather than its inputs, its output and one number a row.
        keep_inputs: layers that keep what enters them, where a gradient passes through.

    Raises:
        RuntimeError: the model computes with numbers, which there are none of; so may other errors of its code.
    """
    counter = _Counter()
    counter.keep_nothing_of(model)
    stack = {decoder_layer_name(layer.name) for layers in find_linear_layers(base).values() for layer in layers}
    hooks = [
        handle
        for name in sorted(stack)
        for handle in (
            base.get_submodule(name).register_forward_pre_hook(counter.enter_layer, with_kwargs=True),
            base.get_submodule(name).register_forward_hook(counter.leave_layer),
        )
    ]
    hooks += [layer.register_forward_pre_hook(counter.enter_quantized) for layer in keep_inputs]
    ids = torch.zeros(rows, row, dtype=torch.long, device="meta")
    mask = torch.zeros(rows, 1, row, row, dtype=base.dtype, device="meta")
    before = base.config._attn_implementation
    try:
        if plain_attention:
            base.set_attn_implementation(PLAIN)
        with torch.autograd.graph.saved_tensors_hooks(counter.keep, lambda tensor: tensor), _FusedAttention():
            base.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        if plain_attention:
            base.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    layers = sum(counter.of_layers)
    return Kept(layers, max(counter.of_layers), counter.entering, counter.total - layers)


def estimate_kept(config: PreTrainedConfig, dtype: torch.dtype, rows: int, row: int, *, plain_attention: bool = False) -> Kept:
    """Estimate what a pass keeps in a decoder built like Llama, where it cannot be counted.

    .. code-block:: text

        layer = tokens · (itemsize · ((5 + 2 · kv_heads / heads) · width + 3 · feed_forward) + 8 · width · half)
        layer += 6 · rows · heads · row²                               where attention is plain

    These are what autograd saves in a Llama layer whose own weights are frozen: what enters the two norms and the LoRA, queries, keys,
    values and the output of attention, and three of the feed-forward part. In half precision (``half = 1``) the norms keep what enters
    them in float32. Plain attention (:mod:`mogu.training.cpu_attention`) keeps its weights in float32 and in half precision.

    Args:
        config: of the decoder.
        dtype: the type it computes in.
        rows: rows of a batch.
        row: tokens of each row.
        plain_attention: whether attention is plain.
    """

    def size(*names: str, default: int) -> int:
        return next((int(max(values)) for name in names if (values := in_layers(config, name))), default)

    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    feed_forward = size("moe_intermediate_size", "intermediate_size", "ffn_dim", default=4 * width)
    feed_forward *= size("num_experts_per_tok", default=1)
    heads = size("num_attention_heads", default=1)
    key_values = size("num_key_value_heads", default=heads) / heads
    tokens, norms = rows * row, 8 * width if dtype.itemsize == 2 else 0
    layer = int(tokens * (dtype.itemsize * ((5 + 2 * key_values) * width + 3 * feed_forward) + norms))
    layer += 6 * rows * heads * row**2 if plain_attention else 0
    return Kept(layers * layer, layer, layers * dtype.itemsize * tokens * width, 4 * tokens * width)


@dataclass
class _Counter:
    total: int = 0
    entering: int = 0
    of_layers: list[int] = field(default_factory=list)
    _before: int = 0
    _seen: dict[int, Any] = field(default_factory=dict)

    def keep_nothing_of(self, model: nn.Module) -> None:
        for tensor in (*model.parameters(), *model.buffers()):
            self._seen[tensor.untyped_storage()._cdata] = tensor

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor  # held, so that no other storage takes its address
            self.total += storage.nbytes()
        return tensor

    def enter_layer(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        self._before, self.entering = self.total, self.entering + hidden.numel() * hidden.itemsize

    def enter_quantized(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        hidden: Tensor = args[0]
        if hidden.requires_grad:
            self.keep(hidden)

    def leave_layer(self, *_: Any) -> None:
        self.of_layers.append(self.total - self._before)


class _FusedAttention(TorchFunctionMode):
    """While active, attention saves what the fused kernels save; on the meta device PyTorch would take one that saves its weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _SavesWhatFusedOnesSave.apply(*args[:3])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _SavesWhatFusedOnesSave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output
