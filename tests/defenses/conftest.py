"""Models for defenses: random ones with random adapters, some whose replies are known by hand, and the lab's with trained baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from mogu.defenses import TargetModel
from mogu.inference.prompts import Conversation, as_conversation
from mogu.lab import build_base, prompts, records
from mogu.lab.demo import lab_recipe
from mogu.modeling.shared_weights import share_weights
from mogu.training import train_baselines

END = 2


@pytest.fixture(scope="session")
def random_target(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> TargetModel:
    """A tiny random Llama in float64, with random adapters for ``sft`` and ``expert``."""
    base = make_base()
    folder = tmp_path_factory.mktemp("baselines")
    for seed, name in enumerate(("sft", "expert")):
        torch.manual_seed(seed)
        adapted = get_peft_model(share_weights(base), LoraConfig(r=4, lora_alpha=8, target_modules=["o_proj"], init_lora_weights=False))
        adapted.save_pretrained(folder / name)
    return TargetModel(base, tokenizer, baselines=folder)


@pytest.fixture(scope="session")
def make_chained_target(tokenizer: PreTrainedTokenizerFast) -> Callable[[Mapping[str, str]], TargetModel]:
    """Make a Llama whose next token depends on the last one alone: ``{"a": "b"}`` writes b after a, and ends after any other letter.

    Its prompts end with the last letter that the user wrote.
    """
    letters = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<pad>", padding_side="left"
    )
    letters.chat_template = "<s>{% for message in messages %}{{ message.content }}{% endfor %}"
    size = len(letters)

    def make(chains: Mapping[str, str]) -> TargetModel:
        shape = {"hidden_size": size, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=size, eos_token_id=END, pad_token_id=0, **shape))
        next_token = {letters.convert_tokens_to_ids(last): letters.convert_tokens_to_ids(following) for last, following in chains.items()}
        with torch.no_grad():
            layer = model.model.layers[0]
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.zero_()
            for token in range(size):
                model.lm_head.weight[next_token.get(token, END), token] = 1.0
        return TargetModel(model.eval(), letters)

    return make


@pytest.fixture(scope="session")
def lab_baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's baselines, trained on 40 records of each label in a few seconds."""
    folder = tmp_path_factory.mktemp("lab") / "baselines"
    base_folder = build_base(progress=False)
    target = TargetModel.load(str(base_folder))
    recipe = lab_recipe(base_folder, folder)
    short = recipe.model_copy(update={"router": recipe.router.model_copy(update={"epochs": 3.0})})
    train_baselines(
        short,
        folder,
        base=target.base,
        tokenizer=target.tokenizer,
        records=records("train", benign=40, malicious=40),
        learning_rates={"sft": 2e-3},
    )
    return folder


@pytest.fixture(scope="session")
def lab_target(lab_baselines: Path) -> TargetModel:
    return TargetModel.load(str(build_base(progress=False)), baselines=lab_baselines)


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    """Conversations for the lab's model: three turns with a system prompt, and a short and a long prompt of each category."""
    instructions = [prompt.instruction for index, prompt in enumerate(prompts("dev")) if index % 56 in (3, 30)]
    talk = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": instructions[0]},
        {"role": "assistant", "content": "Use a soft cloth."},
        {"role": "user", "content": instructions[1]},
    ]
    return [talk, *map(as_conversation, instructions)]
