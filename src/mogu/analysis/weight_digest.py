"""Digest a model's weights, so that measurements of one model are never taken for those of another.

Knows tensors; knows nothing of what is measured.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from mogu.modeling.sharding import whole

_SAMPLE = 512  # number of entries of each weight that are hashed one by one
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def digest_weights(digest: _Digest, model: nn.Module) -> None:
    """Update a digest with every parameter and buffer of a model: name, type and shape, the sum of its bits, and a sample.

    The bits are summed as integers, which is exact in any order: the same weights give the same digest on any number of threads, and
    one changed number gives another. Weights that are not in memory count by name, type and shape alone.

    Args:
        digest: an object of :mod:`hashlib`.
        model: the model.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if not tensor.is_meta:
            bits = whole(tensor).detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
            digest.update(f" {int(bits.sum(dtype=torch.int64))} ".encode())
            sample = bits[:: max(1, bits.numel() // _SAMPLE)].contiguous().cpu()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
