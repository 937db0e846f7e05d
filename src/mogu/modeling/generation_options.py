"""Which ways of generating go with a routed opening, and which are refused; looked up wherever ``generate`` would take them from.

Knows the names of Hugging Face's options and methods; generates nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mogu.errors import ConfigError
from mogu.inference.leaving_rows import LeavingRows
from mogu.modeling.config import Handoff
from mogu.modeling.routing_schedule import RoutingSchedule

# Ways to generate in which one forward pass decides several tokens at once, so that no pass is the last routed one,
# or in which somebody else's loop decodes.
_SEVERAL_TOKENS_A_PASS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "custom_generate")

REFUSED_METHODS = frozenset({"generate_batch", "init_continuous_batching", "continuous_batching_context_manager"})
"""Methods of Hugging Face's models that generate by a loop of their own, past the routed opening."""


def check_options(base: Any, schedule: RoutingSchedule, handoff: Handoff, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Refuse what cannot be combined with a routed opening.

    Args:
        base: the base model, whose own generation settings hold where ``kwargs`` say nothing.
        schedule: which tokens of an answer are routed.
        handoff: how the base model goes on.
        kwargs: what ``generate`` was given.

    Returns:
        Options that have to be given besides.

    Raises:
        ConfigError: an option, given or inherited, that the opening does not go with.
    """
    if handoff not in ("recompute", "continue"):
        raise ConfigError(f"handoff is {handoff!r}", expected="'recompute' or 'continue'", action="choose one of the two")
    if "generate" in vars(base):
        raise ConfigError(
            f"The {type(base).__name__} brings a generate method of its own, which MoGU cannot look into",
            expected="a model that generates by the method of its class",
            action="delete the attribute 'generate' of the base model, or generate inside `with model.routing('off')`",
        )
    for option in _SEVERAL_TOKENS_A_PASS:
        value, source = setting(base, kwargs, option)
        if value is not None and not isinstance(value, LeavingRows):
            raise ConfigError(
                f"{option} is set {source}",
                expected="a way of decoding that makes one token a pass: greedy, sampling or beams",
                action="leave it out, or generate inside `with model.routing('off')`",
            )
    use_cache, source = setting(base, kwargs, "use_cache")
    inherited = source == _INHERITED
    if use_cache is False and not inherited:
        raise ConfigError(f"use_cache=False is set {source}", expected="generation with a key-value cache", action="leave use_cache out")
    if handoff == "recompute" and kwargs.get("inputs_embeds") is not None and schedule.routed_tokens != "all":
        raise ConfigError(
            "generate was given inputs_embeds with handoff='recompute', which reads prompt and opening again by their ids",
            expected="token ids, or handoff='continue'",
            action="pass input_ids, or handoff='continue'",
        )
    # Trainers leave use_cache = false in a model's config: that was about training, and nobody asked for it here.
    if use_cache is not False:
        return {}
    passed = kwargs.get("generation_config")
    if passed is None:
        return {"use_cache": True}
    passed = copy.deepcopy(passed)
    passed.use_cache = True
    return {"generation_config": passed}


_INHERITED = "in the model's own generation_config"


def setting(base: Any, kwargs: Mapping[str, Any], option: str) -> tuple[Any, str]:
    """An option of ``generate`` as it will hold, and where that is set.

    What is passed comes before what a passed ``generation_config`` says, and that before the model's own ``generation_config``.
    """
    if kwargs.get(option) is not None:
        return kwargs[option], "by the caller of generate"
    passed = getattr(kwargs.get("generation_config"), option, None)
    if passed is not None:
        return passed, "in the generation_config that was passed"
    return getattr(base.generation_config, option, None), _INHERITED


def refused_method(name: str) -> Any:
    """What stands for a method of the base model that is refused: it raises when it is called.

    Raises:
        ConfigError: always, when called.
    """

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConfigError(
            f"{name} decodes by a loop of its own, past the routed opening",
            expected="generate, which routes the first tokens of an answer",
            action=f"call generate, serve the model with `mogu serve`, or call base_model.{name} of a detached model",
        )

    return refuse
