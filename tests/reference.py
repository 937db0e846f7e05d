"""MoGU written down slowly: the independent answer that the fast layers, generation and scores are held against.

Every formula stands here term by term, and decoding without a cache or with one cache that is never rewound. Nothing here may be
imported from ``mogu.modeling`` but names of transformers.
"""

from __future__ import annotations

import copy
import math
import re
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.transformers_compat import CACHE, cache_of


class SlowRoutedLinear(nn.Module):
    """MoGU's formula written down term by term: the independent answer to ``RoutedLinear``."""

    def __init__(self, base_layer: nn.Module, numbers: SimpleNamespace) -> None:
        super().__init__()
        self.base_layer, self.numbers, self.routed, self.dial = base_layer, numbers, True, 0.0
        self.unwill_weight = self.glad_weight = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.base_layer(x)
        if not self.routed:
            return plain
        n = self.numbers
        alpha = 1 / (1 + torch.exp(-(x * n.v_unwill).sum(-1, keepdim=True) - n.c_unwill - self.dial))
        beta = 1 / (1 + torch.exp(-(x * n.v_glad).sum(-1, keepdim=True) - n.c_glad + self.dial))
        self.unwill_weight, self.glad_weight = alpha[..., 0], beta[..., 0]
        unwill = plain + n.scaling * (x @ n.a_unwill.T @ n.b_unwill.T)
        glad = plain + n.scaling * (x @ n.a_glad.T @ n.b_glad.T)
        return alpha * unwill + beta * glad


class SlowAdaptedLinear(nn.Module):
    """The LoRA of an adapted backbone written down: the independent answer to ``AdaptedLinear``."""

    def __init__(self, base_layer: nn.Module, numbers: SimpleNamespace) -> None:
        super().__init__()
        self.base_layer, self.numbers, self.routed = base_layer, numbers, True

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        n = self.numbers
        return self.base_layer(x) + n.scaling * (x @ n.a.T @ n.b.T) if self.routed else self.base_layer(x)


class SlowRouted:
    """A copy of a base model with slow layers in the place of its own, and decoding written out."""

    def __init__(self, base: PreTrainedModel, numbers: dict[str, SimpleNamespace], backbone: dict[str, SimpleNamespace]) -> None:
        self.model = copy.deepcopy(base)
        self.adapted = [self._put(SlowAdaptedLinear, name, one) for name, one in backbone.items()]
        self.layers = [self._put(SlowRoutedLinear, name, one) for name, one in numbers.items()]

    def _put(self, kind: type[nn.Module], name: str, numbers: SimpleNamespace) -> nn.Module:
        parent, _, attribute = name.rpartition(".")
        layer = kind(self.model.get_submodule(name), numbers)
        setattr(self.model.get_submodule(parent), attribute, layer)
        return layer

    def route(self, routed: bool) -> None:
        for layer in [*self.layers, *self.adapted]:
            layer.routed = routed

    @torch.no_grad()
    def logits(self, ids: Tensor, *, routed: bool = True) -> Tensor:
        self.route(routed)
        return self.model(input_ids=ids, use_cache=False).logits

    def greedy(self, ids: Tensor, *, routed_tokens: int | None, new_tokens: int, eos: int | None = None) -> list[int]:
        """Handoff ``recompute``, without any cache: each token from one pass over everything before it."""
        answer: list[int] = []
        while len(answer) < new_tokens and (not answer or answer[-1] != eos):
            routed = routed_tokens == "all" or len(answer) < routed_tokens
            sequence = torch.cat([ids, torch.tensor([answer], dtype=torch.long)], dim=1)
            answer.append(int(self.logits(sequence, routed=routed)[0, -1].argmax()))
        return answer

    @torch.no_grad()
    def greedy_continued(self, ids: Tensor, *, routed_tokens: int, new_tokens: int) -> list[int]:
        """Handoff ``continue``: one cache, filled by routed passes first and by plain ones then."""
        answer: list[int] = []
        cache, step = None, ids
        for number in range(new_tokens):
            self.route(number < routed_tokens)
            output = self.model(input_ids=step, use_cache=True, **{CACHE: cache})
            cache, step = cache_of(output), output.logits[:, -1:].argmax(-1)
            answer.append(int(step))
        return answer


class SlowGated:
    """A gated model written down: one whole copy of the base model an expert, its LoRA added into the weights, and no cache anywhere."""

    def __init__(self, base: PreTrainedModel, experts: dict[str, dict[str, SimpleNamespace]]) -> None:
        self.models = {"base": copy.deepcopy(base)}
        for expert, numbers in experts.items():
            self.models[expert] = copy.deepcopy(base)
            for name, n in numbers.items():
                module = self.models[expert].get_submodule(name)
                update = n.scaling * n.b @ n.a
                module.weight.data += update.T if type(module).__name__ == "Conv1D" else update

    @torch.no_grad()
    def states(self, ids: list[int], layer: int) -> Tensor:
        """What a decoder layer hands upward, token by token."""
        found: list[Tensor] = []
        paths = [name for name, _ in self.models["base"].named_modules() if re.fullmatch(rf"(?!.*vision).*\.(?:layers|h)\.{layer}", name)]
        module = self.models["base"].get_submodule(paths[0])

        def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            found.append(output if isinstance(output, Tensor) else output[0])

        handle = module.register_forward_hook(keep)
        self.models["base"](input_ids=torch.tensor([ids]))
        handle.remove()
        return found[0].reshape(len(ids), -1).double()

    def logit(self, ids: list[int], vectors: dict[int, Tensor], bias: float, user: list[int], last: int, end: int) -> float:
        total = bias
        states = {layer: self.states(ids, layer) for layer in vectors}

        def product(row: int, token: int) -> float:
            return sum(float((vectors[layer][row].double() * states[layer][token]).sum()) for layer in vectors)

        heads = (len(next(iter(vectors.values()))) - 2) // 2
        total += product(0, last) + product(1, end)
        for head in range(heads):
            weights = {token: math.exp(product(2 + head, token)) for token in user}
            total += sum(weights[token] * product(2 + heads + head, token) for token in user) / sum(weights.values())
        return total

    def stream_logits(self, prompt: list[int], answer: list[int], vectors: dict[int, Tensor], fixed: float) -> list[float]:
        """At each token of an answer, from one pass over all of it."""
        logits = [fixed] * len(answer)
        for layer, (a, m) in vectors.items():
            states = self.states(prompt + answer, layer)[len(prompt) :]
            for t in range(len(answer)):
                mean = sum(states[: t + 1]) / (t + 1)
                logits[t] += float((a.double() * states[t]).sum() + (m.double() * mean).sum())
        return logits

    @torch.no_grad()
    def greedy(self, ids: list[int], who: str, new_tokens: int) -> list[int]:
        answer: list[int] = []
        while len(answer) < new_tokens:
            answer.append(int(self.models[who](input_ids=torch.tensor([ids + answer]), use_cache=False).logits[0, -1].argmax()))
        return answer
