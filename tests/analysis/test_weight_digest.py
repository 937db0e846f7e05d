"""The digest of a model's weights is the same wherever it is computed, and another as soon as one number is."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from mogu.analysis.weight_digest import digest_weights


def digest(model: nn.Module) -> str:
    sha = hashlib.sha256()
    digest_weights(sha, model)
    return sha.hexdigest()


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 50), nn.BatchNorm1d(50))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_changed_number_anywhere_gives_another_digest(dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    digests = {digest(model)}
    for tensor in (model[0].weight, model[0].bias, model[1].running_mean):
        for index in (0, 1, tensor.numel() - 1):  # most numbers of the weight are outside the sample
            with torch.no_grad():
                tensor.view(-1)[index] += 1
            digests.add(digest(model))
    assert len(digests) == 10


def test_threads_and_memory_layout_do_not_matter() -> None:
    model = make_model()
    expected = digest(model)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert digest(model) == expected
    finally:
        torch.set_num_threads(threads)
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    assert digest(model) == expected


def test_names_types_and_shapes_count_even_without_numbers() -> None:
    def on_meta(*modules: nn.Module) -> str:
        return digest(nn.Sequential(*modules).to("meta"))

    shapes = [on_meta(nn.Linear(4, 6)), on_meta(nn.Linear(6, 4)), on_meta(nn.Linear(4, 6, bias=False)), on_meta(nn.Linear(4, 6).half())]
    assert len(set(shapes)) == 4
    assert on_meta(nn.Linear(4, 6)) == shapes[0]
