"""The models that are measured: a Llama, random or a real one, a gated and a routed model on the same weights, and the published pair,
which has the routed one's numbers.

Knows how to build them; knows nothing of timing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.published import Published, PublishedProjection, RouterChain
from mogu import MoguConfig, MoguModel
from mogu.hub import load_base, load_config
from mogu.modeling.config import GateConfig
from mogu.modeling.gated.gate import ENDS, Gate, StreamHead
from mogu.modeling.gated.model import GatedModel
from mogu.training.gated.fit import default_taps
from mogu.transformers_compat import read_head_in_order

SEED = 0
HEADS = 40  # as many as recipes fit: five members of eight


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a Llama; ``tied`` is whether input and output embeddings are one matrix."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    tied: bool = True

    def config(self) -> LlamaConfig:
        """Return a config of ``transformers``; no token ends an answer, so that every reply has the length asked for."""
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=4096,
            initializer_range=self.hidden**-0.5,  # large enough that replies do not repeat one token
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )


FULL = LlamaShape("Llama, 110M parameters", 768, 2048, 12, 12, 32000)
SMALL = LlamaShape("Llama, 0.1M parameters", 64, 128, 2, 4, 512)
LLAMA_2_7B = LlamaShape("Llama-2-7B", 4096, 11008, 32, 32, 32000, tied=False)


@dataclass(frozen=True)
class RealModel:
    """A model of Llama's architecture that can be loaded, and its sizes."""

    name: str
    layers: int
    vocabulary: int

    @classmethod
    def find(cls, source: str) -> RealModel:
        """Look up a folder, a name or a hub id.

        Raises:
            ModelFileError: there is no such model.
        """
        config = load_config(source)
        return cls(source, config.num_hidden_layers, config.vocab_size)


Subject = LlamaShape | RealModel
"""What is measured."""


def find_subject(name: str) -> Subject:
    """Return the subject of a name, in a process that knows no more than that."""
    return {shape.name: shape for shape in (FULL, SMALL)}.get(name) or RealModel.find(name)


def make_base(subject: Subject, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """Make a plain Llama, never wrapped: with random weights, or a real one that never ends a reply."""
    if isinstance(subject, RealModel):
        real = load_base(subject.name, dtype=dtype)
        assert isinstance(real, LlamaForCausalLM)
        real.generation_config.eos_token_id = None
        return _as_fast_as_it_is(real.to(device))
    torch.manual_seed(SEED)
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(subject.config())
    finally:
        torch.set_default_dtype(default_dtype)
    return _as_fast_as_it_is(model)


def _as_fast_as_it_is(base: LlamaForCausalLM) -> LlamaForCausalLM:
    """Freeze a plain model, whose weights others share, without what that costs it: its head would copy them for a prompt's last token."""
    read_head_in_order(base)
    return base.requires_grad_(False).eval()


def make_routed(base: LlamaForCausalLM, layers: list[int] | None = None) -> MoguModel:
    """Wrap a model in place, with random responders and random folded routers, so that nothing is zero and nothing is skipped."""
    model = MoguModel.from_base(base, MoguConfig(layers=layers))
    numbers = random_numbers(len(model.routed_layers), base.config.hidden_size)
    for layer, (responders, chains) in zip(model.routed_layers, numbers, strict=True):
        layer.set_responder("unwill", *responders[0])
        layer.set_responder("glad", *responders[1])
        folded = [fold(chain) for chain in chains]
        layer.set_router(torch.stack([vector for vector, _ in folded]), torch.stack([bias for _, bias in folded]))
    return model


def make_gated(base: Any, *, listens: bool) -> GatedModel:
    """A gated model with a random gate, and a random stream head, that find nothing malicious."""
    config = base.config
    random = torch.Generator().manual_seed(0)
    taps = default_taps(config.num_hidden_layers)
    gate_config = GateConfig(refuse=1.0, listen=1.0 if listens else None, hold_back=0)  # a turn a token
    model = MoguModel.from_base(base, MoguConfig(routed_tokens="all", gate=gate_config))
    assert isinstance(model, GatedModel)
    gate = {tap: torch.randn(ENDS + 2 * HEADS, config.hidden_size, generator=random) * 1e-6 for tap in taps}
    head = {tap: torch.randn(2, config.hidden_size, generator=random) * 1e-6 for tap in taps}
    model.set_gate(Gate(gate, -9.0), StreamHead(head, 0.0, -9.0) if listens else None)
    return model


def make_published(base: LlamaForCausalLM) -> Published:
    """Make the published pair of models, with the numbers of :func:`make_routed`; its routed model has weights of its own."""
    routed = copy.deepcopy(base)
    numbers = random_numbers(base.config.num_hidden_layers, base.config.hidden_size)
    for decoder_layer, (responders, chains) in zip(routed.model.layers, numbers, strict=True):
        attention = decoder_layer.self_attn
        projection = PublishedProjection(attention.o_proj, responders, chains)
        attention.o_proj = projection.to(attention.o_proj.weight.device, attention.o_proj.weight.dtype)
    routed.requires_grad_(False)
    routed.eval()
    return Published(routed, base)


Responder = tuple[Tensor, Tensor]
"""``A [r, d]`` and ``B [d, r]``."""


def random_numbers(layers: int, width: int) -> Iterator[tuple[tuple[Responder, Responder], tuple[RouterChain, RouterChain]]]:
    """Yield both responders and both routers of each layer, unwill first, with numbers large enough to change the replies."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    rank, hidden = MoguConfig().rank, MoguConfig().router_hidden
    for _ in range(layers):
        responders = [(draw(rank, width, std=width**-0.5), draw(width, rank, std=0.1)) for _ in range(2)]
        chains = []
        for _ in range(2):
            chain = RouterChain(width, hidden)
            with torch.no_grad():
                chain.linear_0.weight.copy_(draw(hidden, width, std=width**-0.5))
                chain.linear_1.weight.copy_(draw(width, hidden, std=hidden**-0.5))
                chain.linear_1.bias.copy_(draw(width, std=0.1))
                chain.linear_2.weight.copy_(draw(1, width, std=3 * width**-0.5))
                chain.linear_2.bias.copy_(draw(1, std=1.0))
            chains.append(chain)
        yield (responders[0], responders[1]), (chains[0], chains[1])


@torch.no_grad()
def fold(chain: RouterChain) -> tuple[Tensor, Tensor]:
    """Return ``v = w₂·W₁·W₀`` and ``c = w₂·b₁ + b₂``, in float64."""
    first, second, third = (getattr(chain, f"linear_{number}").weight.double() for number in range(3))
    bias = third[0] @ chain.linear_1.bias.double() + chain.linear_2.bias.double()[0]
    return (third @ second @ first)[0], bias


def random_prompt(shape: Subject, tokens: int, device: torch.device) -> Tensor:
    """Return random token ids ``[1, tokens]``."""
    generator = torch.Generator().manual_seed(SEED + tokens)
    return torch.randint(2, shape.vocabulary, (1, tokens), generator=generator).to(device)
