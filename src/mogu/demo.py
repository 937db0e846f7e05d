"""The demo: get SmolLM2, harden it on the starter set, and hold both side by side on topics that neither was trained on.

Knows the order of the steps and what is asked; knows nothing of how results are shown.
"""

from __future__ import annotations

import json
from logging import getLogger
from pathlib import Path

import psutil

from mogu.data.starter import STARTER
from mogu.errors import MoguError
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.side_by_side import SideBySide, compare_replies
from mogu.hub import resolve_source
from mogu.training import harden, read_recipe

logger = getLogger(__name__)

BASE = "smollm2"
"""The name of the base model, and of the shipped recipe that hardens it."""

PROMPTS_OF_A_KIND = 30
MAX_NEW_TOKENS = 48
MEMORY_GIB = 3.9
"""Measured at most, on Linux; batches of replies shrink where less is free, and training does not."""
_BATCH = 64
_TIMED, _ROUNDS = 1, 2  # prompts and turns, in three ways of some seconds each: the rest of the time is better spent on the model


def memory_note(free: int) -> str | None:
    """What to say where ``free`` bytes of memory may be too few; ``None`` where they suffice."""
    if free >= MEMORY_GIB * 2**30:
        return None
    return (
        f"{free / 2**30:.1f} GiB of memory are free, and the demo takes up to {MEMORY_GIB} GiB. If the system ends it, close other "
        "programs and run it again, which goes on from the last finished stage; or run `mogu demo --lab`, which needs less."
    )


def run_demo(output: Path, recipe_name: Path = Path(BASE)) -> SideBySide:
    """Get, harden and measure. The model, and a stage that an earlier run finished, are reused.

    Args:
        output: folder of the hardened model.
        recipe_name: what is hardened, and how: a recipe's name or file.

    Raises:
        MoguError: the model cannot be had, the output exists and is not ours, or it cannot be written.
    """
    if (note := memory_note(psutil.virtual_memory().available)) is not None:
        logger.warning("%s", note)
    logger.info("1. The base model: SmolLM2, a small open chat model that follows almost any request.")
    recipe = read_recipe(recipe_name, [f"run.output={json.dumps(str(output))}"])
    try:
        resolve_source(recipe.model.base)
    except MoguError as error:
        raise type(error)(
            error.found, expected=error.expected, action=f"{error.action}; or run `mogu demo --lab`, which needs no download"
        ) from error
    logger.info("2. Hardening it on the starter set: a gate that hears each request, and a responder that refuses what it flags.")
    model = harden(recipe, resume=True)
    assert model is not None  # all stages were run
    logger.info("3. Asking both about topics and with wrappers that were never trained on.")
    prompts = read_prompts([STARTER], limit=PROMPTS_OF_A_KIND, jailbreaks="own")
    timed = [prompt for prompt in prompts if prompt.category == "benign"][:_TIMED]
    return compare_replies(model, model.tokenizer, prompts, timed=timed, rounds=_ROUNDS, max_new_tokens=MAX_NEW_TOKENS, batch_size=_BATCH)
