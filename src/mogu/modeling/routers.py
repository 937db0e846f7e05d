"""The trainable forms of a router, which maps the input of one attention output projection to one logit.

Know vectors; know nothing of layers, responders or training loops. Where nothing is trained, a router is one vector and one scalar.
"""

from __future__ import annotations

from torch import Tensor, nn

from mogu.modeling.config import RouterKind


class ChainRouter(nn.Module):
    """The published router, ``router(x) = w₂·(W₁·(W₀·x) + b₁) + b₂``, with nothing nonlinear between its maps.

    Hence it is one vector ``v = w₂·W₁·W₀`` and one scalar ``c = w₂·b₁ + b₂``. It is trained as a chain, because the
    factored form is another optimization path, and always evaluated folded: from the left, the fold costs two
    vector-matrix products a step, where the chain itself costs two matrix products a token.

    Args:
        width: ``d``, width of the projection's input.
        hidden: width between the first and the second map.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_0 = nn.Linear(width, hidden, bias=False)
        self.linear_1 = nn.Linear(hidden, width)
        self.linear_2 = nn.Linear(width, 1)

    def fold(self) -> tuple[Tensor, Tensor]:
        """``v [d]`` and ``c []``, differentiable, in the chain's own precision."""
        row = self.linear_2.weight
        vector = (row @ self.linear_1.weight) @ self.linear_0.weight
        return vector[0], (row @ self.linear_1.bias + self.linear_2.bias)[0]


class LinearRouter(nn.Module):
    """A router trained as what it amounts to: ``router(x) = v·x + c``.

    Args:
        width: ``d``, width of the projection's input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def fold(self) -> tuple[Tensor, Tensor]:
        """``v [d]`` and ``c []``, differentiable."""
        return self.linear.weight[0], self.linear.bias[0]


def make_router(kind: RouterKind, width: int, hidden: int) -> ChainRouter | LinearRouter:
    """A freshly initialized trainable router of a kind."""
    return ChainRouter(width, hidden) if kind == "chain" else LinearRouter(width)
