"""Whether a model can read two answers behind one prompt in a single row.

Asked of the model itself, by trying: families differ in which masks and positions they honour, and remote code in all.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from mogu.training.batches import Collator, ExampleDataset, Layout
from mogu.training.examples import Example
from mogu.training.losses import answer_cross_entropy

logger = logging.getLogger(__name__)


@torch.no_grad()
def choose_layout(model: Any, vocabulary: int, longest: int) -> Layout:
    """``"shared"`` if it gives the model the same losses as ``"separate"``, else ``"separate"``.

    Args:
        model: the base model.
        vocabulary: size of its vocabulary.
        longest: length of the longest row to come: a sliding window shorter than that is not kept by a mask of ours.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window is not None and window < longest:
        return "separate"
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(10, vocabulary - 1), vocabulary, (3, 12), generator=generator).tolist()
    trials = [
        Example("trial", tuple(ids[0]), (tuple(ids[1][:7]), tuple(ids[2][:4])), malicious=False),
        Example("trial", tuple(ids[0][:5]), (tuple(ids[1][7:]), tuple(ids[2][4:])), malicious=False),
    ]
    features = [ExampleDataset(trials)[index] for index in range(len(trials))]
    device = model.get_input_embeddings().weight.device
    was_training = model.training
    model.eval()
    losses = {}
    try:
        for layout in ("separate", "shared"):
            batch = {name: tensor.to(device) for name, tensor in Collator(0, layout)(features).items()}
            losses[layout] = answer_cross_entropy(model, batch, layout, answers=2)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # whatever modelling code makes of a mask it does not know
        if "separate" not in losses:
            raise
        logger.info("Two answers share no pass over their prompt: %s", error)
        return "separate"
    finally:
        model.train(was_training)
    # Half precision adds up in another order for another row length.
    tolerance = 1e-4 if losses["separate"].dtype == model.get_input_embeddings().weight.dtype else 5e-2
    return "shared" if torch.allclose(losses["shared"], losses["separate"], rtol=tolerance, atol=tolerance) else "separate"
