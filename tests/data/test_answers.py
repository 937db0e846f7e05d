"""A tiny real model and tokenizer, made here, answer instructions."""

import sys
from subprocess import run

import pytest

from mogu.data import ModelAnswers
from mogu.data.answers import _whole_sentences
from mogu.errors import ChatTemplateError

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROMPTS = ["Name a river.", "Write a poem about the rain and the wind and the sea in the north.", "Add 1 and 2."]


@pytest.fixture(scope="module")
def tiny():
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    inner.train_from_iterator(
        PROMPTS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def test_a_batch_answers_as_each_prompt_alone_does(tiny):
    model, tokenizer = tiny
    together = ModelAnswers(model, tokenizer, max_new_tokens=12, batch_size=3)(PROMPTS)
    alone = [ModelAnswers(model, tokenizer, max_new_tokens=12, batch_size=1)([prompt])[0] for prompt in PROMPTS]
    assert together == alone
    assert len(set(together)) > 1


def test_answers_are_the_models_own_greedy_continuation(tiny):
    import torch

    model, tokenizer = tiny
    ids = tokenizer(f"<|user|>{PROMPTS[0]}</s><|assistant|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    expected = []
    for _ in range(5):
        with torch.no_grad():
            token = model(torch.cat([ids, torch.tensor([expected], dtype=torch.long)], dim=1)).logits[0, -1].argmax().item()
        if token == tokenizer.eos_token_id:
            break
        expected.append(token)
    (answer,) = ModelAnswers(model, tokenizer, max_new_tokens=5)(PROMPTS[:1])
    assert tokenizer.decode(expected, skip_special_tokens=True).strip().startswith(answer)
    assert answer


def test_an_answer_ends_where_the_model_ends_it(tiny):
    model, tokenizer = tiny
    (answer,) = ModelAnswers(model, tokenizer, max_new_tokens=1)(PROMPTS[:1])
    first = tokenizer(answer, add_special_tokens=False)["input_ids"][0]
    before, model.generation_config.eos_token_id = model.generation_config.eos_token_id, [1, first]
    try:
        assert ModelAnswers(model, tokenizer, max_new_tokens=9)(PROMPTS[:1]) == [""]
    finally:
        model.generation_config.eos_token_id = before


def test_no_template_no_answer(tiny):
    import copy

    bare = copy.deepcopy(tiny[1])
    bare.chat_template = None
    with pytest.raises(ChatTemplateError):
        ModelAnswers(tiny[0], bare)(["Hi"])


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ("The Elbe is long. It rises in", "The Elbe is long."),
        ("Three ideas:\n1. Walk more.\n2. Sleep", "Three ideas:\n1. Walk more."),
        ("Three ideas:\n1.", "Three ideas:\n1."),
        ("No end in sight", "No end in sight"),
        ('He said "Stop!" and then', 'He said "Stop!"'),
        ("It costs 3.50 euros. Then", "It costs 3.50 euros."),
        ("这是一条河。它很", "这是一条河。"),
        ("", ""),
    ],
)
def test_a_cut_off_answer_keeps_its_whole_sentences(cut, whole):
    assert _whole_sentences(cut) == whole


def test_importing_the_package_imports_no_torch():
    code = "import sys, mogu.data, mogu.cli.data; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
