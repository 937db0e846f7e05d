"""A second model object on the weights of a first one.

Knows modules and tensors; knows nothing of what either object is for.
"""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from torch import nn

from mogu.hub.quantization import quantized_tensors, settle

ModelT = TypeVar("ModelT", bound=nn.Module)


def share_weights(model: ModelT) -> ModelT:
    """A copy of a model's modules around the very same parameters and buffers: no weight is held twice.

    What is done to the modules of the one (routing, a LoRA) leaves the other as it is; what is done to a weight is done to both.
    """
    settle(model)
    shared = itertools.chain(model.parameters(), model.buffers(), quantized_tensors(model))
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
