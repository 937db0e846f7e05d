"""Whether a model can read two answers behind one prompt in a single row.

This is tried out on the model itself: families differ in which masks and positions they honor, and remote code may do anything.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import PreTrainedModel

from mogu.modeling.architectures import find_output_projections
from mogu.training.collator import Collator, Layout
from mogu.training.examples import Example
from mogu.training.losses import answer_cross_entropy
from mogu.transformers_compat import in_layers

logger = logging.getLogger(__name__)


@torch.no_grad()
def choose_layout(model: Any, longest: int) -> Layout:
    """Return ``"shared"`` if a model reads two answers in one row just as it reads each alone, else ``"separate"``.

    Three things are tested: another first answer must not change the loss of the second one (so the mask is honored); another
    numbering of the second answer's positions must change its loss (so the position ids are honored); and both layouts must give
    the same losses, within the rounding of the model's type.

    Args:
        model: the base model.
        longest: tokens of the longest row to come; our mask does not implement a sliding window shorter than that.
    """
    if min(in_layers(model.config.get_text_config(), "sliding_window"), default=longest) < longest:
        return "separate"
    vocabulary = model.get_input_embeddings().weight.shape[0]
    was_training = model.training
    model.eval()
    trials, others = _trials(vocabulary, other_first=False), _trials(vocabulary, other_first=True)
    separate = _losses(model, trials, "separate")
    try:
        shared = _losses(model, trials, "shared")
        masked = torch.allclose(_losses(model, others, "shared")[:, 1], shared[:, 1], rtol=0, atol=1e-3)
        placed = not torch.equal(_losses(model, trials, "shared", moved=5)[:, 1], shared[:, 1])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # whatever modelling code makes of a mask it does not know
        logger.debug("Two answers cannot share a pass over their prompt: %s", error)
        return "separate"
    finally:
        model.train(was_training)
    tolerance = 1e-4 if model.get_input_embeddings().weight.itemsize >= 4 else 5e-2
    same = torch.allclose(shared, separate, rtol=tolerance, atol=tolerance)
    return "shared" if masked and placed and same else "separate"


def likely_layout(model: PreTrainedModel, longest: int) -> Layout:
    """What :func:`choose_layout` will return, by the model's config alone: for what needs no weights.

    Args:
        model: the base model.
        longest: tokens of the longest row to come.
    """
    config = model.config.get_text_config()
    alike = len(find_output_projections(model)) == config.num_hidden_layers  # layers without attention look at no mask
    positions = not getattr(config, "alibi", False)  # distances, which are counted past other answers
    return "shared" if alike and positions and min(in_layers(config, "sliding_window"), default=longest) >= longest else "separate"


def _trials(vocabulary: int, *, other_first: bool) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    prompts, firsts, seconds, others = torch.randint(min(10, vocabulary - 1), vocabulary, (4, 12), generator=generator).tolist()
    first = others if other_first else firsts
    return [
        Example("trial", tuple(prompts), (tuple(first[:7]), tuple(seconds[:4])), malicious=False),
        Example("trial", tuple(prompts[:5]), (tuple(first[7:]), tuple(seconds[4:])), malicious=False),
    ]


def _losses(model: Any, trials: list[Example], layout: Layout, moved: int = 0) -> torch.Tensor:
    batch = Collator(0, layout)(trials)
    batch["position_ids"] = batch["position_ids"] + moved * (batch["segments"] == 2)
    device = model.get_input_embeddings().weight.device
    return answer_cross_entropy(model, {name: tensor.to(device) for name, tensor in batch.items()}, layout, answers=2)
