"""A linear detector of malicious prompts that reads a base model's hidden state.

Knows prompts, hidden states and the file with the weights; knows nothing of how they are fitted, or of how a score is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mogu.analysis.linear_head import LinearHead, broken
from mogu.errors import ModelFileError
from mogu.inference.padding import left_pad


@dataclass(frozen=True)
class Detector:
    """A linear head on the hidden state ``[d]`` at the last prompt token.

    Args:
        layer: index of the hidden state: 0 is the embedding, ``n`` the output of the n-th decoder layer.
        head: over a state's ``d`` numbers.
    """

    layer: int
    head: LinearHead

    def scores(self, base: PreTrainedModel, prompts: Sequence[list[int]], pad_token_id: int) -> list[float]:
        """Score how malicious each prompt is, in [0, 1], in one forward pass.

        Raises:
            ModelFileError: the detector belongs to another base model.
        """
        states = last_token_states(base, prompts, pad_token_id)
        width = len(self.head.weights)
        if self.layer >= len(states) or width != states.shape[-1]:
            raise ModelFileError(
                f"The detector reads {width} numbers of layer {self.layer}; this model has {states.shape[-1]} in each of its "
                f"{len(states)} hidden states",
                expected="a detector that was trained on this base model",
                action="train it again, or name another folder of baselines",
            )
        return self.head.probabilities(states[self.layer])

    def save(self, file: Path, **about: Any) -> None:
        """Write the detector as JSON, whole or not at all.

        Args:
            file: the target file.
            about: anything else a reader may want to know, such as its accuracy; :meth:`load` ignores it.
        """
        self.head.save(file, **about, layer=self.layer)

    @classmethod
    def load(cls, file: Path) -> Detector:
        """Read a detector that :meth:`save` wrote.

        Raises:
            ModelFileError: the file is not a detector.
        """
        head, content = LinearHead.load(file)
        layer = content.get("layer")
        if not isinstance(layer, int) or layer < 0:
            raise broken(file, "names no layer")
        return cls(layer, head)


@torch.no_grad()
def last_token_states(base: PreTrainedModel, prompts: Sequence[list[int]], pad_token_id: int) -> Tensor:
    """Return the hidden states at the last token of each prompt, ``[layers + 1, prompts, d]``, float32, on the CPU.

    This takes one forward pass, which computes no logits.

    Args:
        base: the base model, in evaluation mode.
        prompts: token ids of each prompt.
        pad_token_id: the token that pads shorter prompts.
    """
    body: Any = base.base_model
    batch = left_pad(list(prompts), pad_token_id, body.get_input_embeddings().weight.device)
    # With padding on the left, a token's position is the number of tokens before it that are not padding.
    options = {"position_ids": (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0), "use_cache": False}
    accepted = inspect.signature(body.forward).parameters
    output = body(**batch, output_hidden_states=True, **{name: value for name, value in options.items() if name in accepted})
    return torch.stack([states[:, -1].float().cpu() for states in output.hidden_states])
