"""Hidden states of prompts and answers, against what the model hands upward one prompt at a time."""

from __future__ import annotations

import pytest
import torch

from mogu.hub import load_base, load_tokenizer
from mogu.inference.prompts import encode_prompt
from mogu.inference.turns import TurnMarks
from mogu.modeling.gated.injection import _Ear
from mogu.training.gated.reading import read_answers, read_prompts

pytestmark = pytest.mark.core

MARKS = TurnMarks((60,), (61, 62))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("system", [[], [7, 8, 9, 10, 11]])
def test_what_is_read_of_prompts_is_what_the_model_hands_upward(make_base, family, system):
    base = make_base(family)
    random = torch.Generator().manual_seed(0)
    prompts = [[1, *system, 60, *torch.randint(3, 59, (count,), generator=random).tolist(), 61, 62] for count in (3, 9, 4, 6)]
    found = read_prompts(base, prompts, taps=[0, 1], marks=MARKS, pad_token_id=0, batch_size=3)
    assert not any(isinstance(hook, _Ear) for module in base.modules() for hook in module._forward_hooks.values())
    for prompt, of_prompt in zip(prompts, found, strict=True):
        with torch.no_grad():
            states = base(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for index, tap in enumerate((0, 1)):
            h = states[tap + 1][0]
            expected = torch.cat([h[2 + len(system) : -2], h[-1:]])
            assert torch.allclose(of_prompt[:, index], expected, atol=1e-5)


def test_answers_are_the_models_own_and_read_at_each_of_their_tokens(base_folder):
    base, tokenizer = load_base(str(base_folder)), load_tokenizer(str(base_folder))
    prompts = [
        encode_prompt(tokenizer, text)
        for text in ("How do I clean the kettle?", "Name a bird", "Why is the lake deep, and how deep is it?")
    ]
    found = read_answers(base, tokenizer, prompts, taps=[1, 0], max_new_tokens=6, batch_size=2)
    for prompt, of_prompt in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            whole = base.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)
            handed_up: list[torch.Tensor] = []
            handles = [layer.register_forward_hook(lambda *call, to=handed_up: to.append(call[2])) for layer in base.model.layers]
            base(input_ids=whole)
            for handle in handles:
                handle.remove()
        answer = whole[0, len(prompt) :].tolist()
        length = next((place + 1 for place, token in enumerate(answer) if token == tokenizer.eos_token_id), len(answer))
        assert of_prompt.shape[0] == length
        for index, tap in enumerate((1, 0)):
            assert torch.allclose(of_prompt[:, index], handed_up[tap][0, len(prompt) : len(prompt) + length], atol=1e-5)
