"""What the installed transformers calls a key-value cache, and models of remote code that call it otherwise."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from mogu import MoguModel
from mogu.analysis.tendency import PromptWithOpenings, opening_log_probabilities
from mogu.hub import load_base
from mogu.transformers_compat import CACHE, accept_cache, cache_of, disable_checkpointing, enable_checkpointing

pytestmark = pytest.mark.core

OLD = "past_key_values"
RENAMED = Version(transformers.__version__) >= Version("5.24")
PROMPT = torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50]])
M, NEW = 3, 8
GREEDY = {"do_sample": False, "max_new_tokens": NEW}
both_handoffs = pytest.mark.parametrize("handoff", ["recompute", "continue"])
TURN = [8, 44, 21, 3, 17]


def test_the_name_is_the_installed_library_s():
    assert ("cache" if RENAMED else OLD) == CACHE


@torch.no_grad()
def test_a_pass_fills_the_cache_it_is_given_and_its_output_returns_it(make_base):
    base, cache = make_base("llama"), DynamicCache()
    output = base(input_ids=PROMPT, use_cache=True, **{CACHE: cache})
    assert cache_of(output) is cache
    assert cache.get_seq_length() == PROMPT.shape[1]
    assert cache_of(base(input_ids=PROMPT, use_cache=False)) is None
    assert accept_cache(base) is None  # it knows the present name


@torch.no_grad()
def second_turn(pair, name: str, handoff: str) -> tuple[list[int], list[int]]:
    """The answer on the cache of an earlier turn that is passed as ``name``; and the same written out, each token from a fresh cache."""
    model, slow = pair

    def first_turn(base) -> DynamicCache:
        cache = DynamicCache(config=model.base_model.config)
        base(input_ids=PROMPT, use_cache=True, **{CACHE: cache})
        return cache

    with model.routing("off"):
        cache = first_turn(model)
    whole = torch.cat([PROMPT, torch.tensor([TURN])], dim=1)
    found = model.generate(whole, routed_tokens=M, handoff=handoff, **{name: cache}, **GREEDY)[0, whole.shape[1] :].tolist()

    answer: list[int] = []
    for number in range(NEW):
        slow.route(False)
        past = first_turn(slow.model)
        passes = [(TURN, 0), *(([token], step) for step, token in enumerate(answer, 1))]
        if handoff == "recompute":
            passes = [(TURN + answer, number)]
        for tokens, step in passes:
            slow.route(step < M)
            logits = slow.model(input_ids=torch.tensor([tokens]), use_cache=True, **{CACHE: past}).logits
        answer.append(int(logits[0, -1].argmax()))
    return found, answer


@both_handoffs
def test_the_cache_of_an_earlier_turn_under_the_present_name(make_pair, handoff):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        found, expected = second_turn(make_pair("llama"), CACHE, handoff)
    assert found == expected


@both_handoffs
@pytest.mark.skipif(not RENAMED, reason="here the old name is the present one")
def test_the_cache_of_an_earlier_turn_under_the_old_name(make_pair, handoff):
    """The library still takes it, and says that it has a new one."""
    with pytest.warns(FutureWarning, match=OLD):
        found, expected = second_turn(make_pair("llama"), OLD, handoff)
    assert found == expected


@both_handoffs
def test_remote_code_that_knows_the_old_name_only(make_pair, handoff):
    """A model that ignores a name it does not know would read each token without those before it."""
    model, slow = make_pair("baichuan")
    assert {OLD, "cache"} & set(inspect.signature(model.base_model.forward).parameters) == {OLD}
    write_out = slow.greedy if handoff == "recompute" else slow.greedy_continued
    output = model.generate(PROMPT, routed_tokens=M, handoff=handoff, **GREEDY)
    assert output[0, 10:].tolist() == write_out(PROMPT, routed_tokens=M, new_tokens=NEW)
    with model.routing("off"):
        assert model.generate(PROMPT, **GREEDY)[0, 10:].tolist() == slow.greedy(PROMPT, routed_tokens=0, new_tokens=NEW)
    found, expected = second_turn((model, slow), CACHE, handoff)
    assert found == expected


def written_out(base) -> torch.Tensor:
    sequence = PROMPT
    for _ in range(NEW):
        with torch.no_grad():
            sequence = torch.cat([sequence, base(input_ids=sequence, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return sequence


def test_remote_code_loaded_as_a_base_model(baichuan_folder):
    """Undefended too, and after it was routed, it generates what its passes without a cache give."""
    base = load_base(str(baichuan_folder), trust_remote_code=True, dtype=torch.float64).eval()
    assert torch.equal(base.generate(PROMPT, **GREEDY), written_out(base))
    assert torch.equal(MoguModel.from_base(base).detach().generate(PROMPT, **GREEDY), written_out(base))


def test_remote_code_that_the_caller_loaded(baichuan_folder):
    """It generates rightly while it is wrapped, and is left as it was."""
    base = AutoModelForCausalLM.from_pretrained(baichuan_folder, trust_remote_code=True, dtype=torch.float64).eval()
    hooks = dict(base._forward_pre_hooks)
    model = MoguModel.from_base(base)
    with model.routing("off"):
        assert torch.equal(model.generate(PROMPT, **GREEDY), written_out(base))
    model.detach()
    assert dict(base._forward_pre_hooks) == hooks


@torch.no_grad()
def test_openings_share_the_cache_of_remote_code(baichuan_folder):
    base = AutoModelForCausalLM.from_pretrained(baichuan_folder, trust_remote_code=True, dtype=torch.float64).eval()
    openings = ((35, 45, 11), (3, 4, 5))
    expected = []
    for opening in openings:
        steps = base(input_ids=torch.cat([PROMPT, torch.tensor([opening])], dim=1), use_cache=False).logits[0, 9:12].log_softmax(-1)
        expected.append(sum(float(steps[place, token]) for place, token in enumerate(opening)) / 3)
    assert opening_log_probabilities(base, [PromptWithOpenings(tuple(PROMPT[0].tolist()), openings)])[0].tolist() == pytest.approx(expected)


def test_checkpointing_is_turned_on_and_off_without_a_warning(make_base):
    base = make_base("llama")
    layers = base.model.layers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enable_checkpointing(base, use_reentrant=False)
        assert all(layer.gradient_checkpointing for layer in layers)
        assert all(layer._gradient_checkpointing_func.keywords == {"use_reentrant": False} for layer in layers)
        disable_checkpointing(base)
    assert not any(layer.gradient_checkpointing for layer in layers)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_routed_models_head_reads_one_block_of_memory_and_a_detached_models_what_it_is_given(rows: int) -> None:
    """The last token's hidden states are cut out of a whole prompt's, which leaves gaps between rows; one row keeps such strides too."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).eval()
    read: list[tuple[int, ...]] = []
    ids = torch.arange(6 * rows).view(rows, 6)
    with torch.no_grad():
        model = MoguModel.from_base(base)
        handle = base.lm_head.register_forward_hook(lambda _, args, __: read.append(args[0].stride()))
        model(input_ids=ids, logits_to_keep=1)
        model.detach()
        base(input_ids=ids, logits_to_keep=1)
        handle.remove()
    assert read == [(16, 16, 1), (6 * 16, 16, 1)]
