"""Ways of generating that do not go with a routed opening, wherever they are set; every method of the library is decided about."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from mogu.errors import ConfigError
from mogu.modeling.generation_options import REFUSED_METHODS

PROMPT = torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50]])
GREEDY = {"do_sample": False, "max_new_tokens": 10}

# What else the wrapped class offers that has to do with generating, and why it needs no door of ours.
HARMLESS = {
    "generate": "MoguModel's own",
    "can_generate": "says whether a model can generate",
    "adjust_generation_fn": "puts a repository's own generate on the model, which check_options refuses",
    "load_custom_generate": "loads such a function and calls nothing; it needs trust_remote_code",
    "prepare_inputs_for_generation": "makes the inputs of one pass",
    "compute_transition_scores": "reads scores of a finished generation",
    "heal_tokens": "generates single tokens with the base's own generate, before a prompt is given to ours",
    "generation_config_class": "names the class of the settings",
    "output_modalities": "names what comes out",
    "destroy_cached_continuous_batching_manager": "frees what continuous batching left",
}
WORDS = ("generat", "batch", "decode", "search", "sample", "continuous", "speculat", "assist", "beam", "stream")


@pytest.fixture(scope="module")
def model(make_pair):
    return make_pair("llama")[0]


def test_every_generating_method_of_the_library_has_been_decided_about():
    mixins = [kind for kind in PreTrainedModel.__mro__ + GenerationMixin.__mro__ if kind is not object]
    public = {name for kind in mixins if kind.__module__.startswith("transformers.generation") for name in vars(kind) if name[0] != "_"}
    named = {name for name, _ in inspect.getmembers(PreTrainedModel, callable) if name[0] != "_" and any(word in name for word in WORDS)}
    undecided = (public | {name for name in named if not name.endswith("_decoder")}) - REFUSED_METHODS - set(HARMLESS)
    assert not undecided, "decide in mogu.modeling.generation_options whether these are refused"


@pytest.mark.parametrize("name", sorted(REFUSED_METHODS))
def test_methods_that_decode_past_the_opening_are_refused(model, name):
    with pytest.raises(ConfigError, match=name):
        getattr(model, name)([[5, 9, 33]])


@pytest.mark.parametrize(("option", "value"), [("prompt_lookup_num_tokens", 4), ("assistant_early_exit", 1)])
def test_options_are_refused_where_they_are_inherited_too(make_pair, option, value):
    model, _ = make_pair("llama")
    setattr(model.generation_config, option, value)
    with pytest.raises(ConfigError, match=f"{option} is set in the model's own generation_config"):
        model.generate(PROMPT, **GREEDY)
    with pytest.raises(ConfigError, match=f"{option} is set in the generation_config that was passed"):
        model.generate(PROMPT, generation_config=GenerationConfig(**{option: value}))
    setattr(model.generation_config, option, None)
    with pytest.raises(ConfigError, match=f"{option} is set by the caller"):
        model.generate(PROMPT, **GREEDY, **{option: value})


@pytest.mark.parametrize("passed", [False, True], ids=["options", "generation_config"])
def test_use_cache_false_that_a_trainer_left_behind_is_not_heeded(make_pair, passed):
    model, slow = make_pair("llama")
    model.generation_config.use_cache = model.config.use_cache = False
    options = {"generation_config": GenerationConfig(**GREEDY)} if passed else GREEDY
    found = model.generate(PROMPT, routed_tokens=3, **options)[0, 10:].tolist()
    assert found == slow.greedy(PROMPT, routed_tokens=3, new_tokens=10)
    assert model.generation_config.use_cache is False


def test_a_base_with_a_generate_of_its_own_is_refused(make_pair):
    model, _ = make_pair("llama")
    model.base_model.generate = lambda *args, **kwargs: None
    with pytest.raises(ConfigError, match="generate method of its own"):
        model.generate(PROMPT, **GREEDY)
