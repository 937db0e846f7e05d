"""Activations on disk are those that were read, and belong to one model and one list of prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.analysis.activation_cache import ActivationCache, activations_fingerprint
from mogu.analysis.activations import KINDS, read_activations
from mogu.modeling.architectures import find_output_projections

PROMPTS = [[5, 9, 30, 2, 41, 17, 8], [3, 50], [12, 7, 7, 25], [60]]


MakeBase = Callable[..., PreTrainedModel]


class Counted:
    """How many prompts a model reads."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.prompts = 0
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.prompts += len(inputs[0])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_stopped_run_reads_no_prompt_twice(make_base: MakeBase, tmp_path: Path, batch_size: int) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    fingerprint = activations_fingerprint(model, projections, PROMPTS)
    whole = read_activations(model, projections, PROMPTS, pad_token_id=0, batch_size=2)

    def stop(prompts: int) -> None:
        if prompts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_activations(
            model,
            projections,
            PROMPTS,
            pad_token_id=0,
            batch_size=2,
            cache=ActivationCache(tmp_path / "a", fingerprint, KINDS),
            advance=stop,
        )
    counted = Counted(model)
    cache = ActivationCache(tmp_path / "a", fingerprint, KINDS)
    found = read_activations(model, projections, PROMPTS, pad_token_id=0, batch_size=batch_size, cache=cache)
    assert counted.prompts == 2
    again = read_activations(model, projections, PROMPTS, pad_token_id=0, batch_size=batch_size, cache=cache)
    assert counted.prompts == 2
    for kind in KINDS:
        assert torch.allclose(found.vectors[kind].unpacked(), whole.vectors[kind].unpacked(), rtol=2**-10, atol=2**-20)
        assert torch.equal(found.vectors[kind].unpacked(), again.vectors[kind].unpacked())


def test_a_damaged_batch_is_read_again(make_base: MakeBase, tmp_path: Path) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    cache = ActivationCache(tmp_path / "a", activations_fingerprint(model, projections, PROMPTS), KINDS)
    whole = read_activations(model, projections, PROMPTS, pad_token_id=0, batch_size=1, cache=cache)
    file = sorted((tmp_path / "a").glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-5])
    counted = Counted(model)
    found = read_activations(model, projections, PROMPTS, pad_token_id=0, batch_size=1, cache=cache)
    assert counted.prompts == 1
    assert torch.equal(found.vectors["mean"].unpacked(), whole.vectors["mean"].unpacked())


def test_batches_of_other_weights_or_prompts_are_deleted(make_base: MakeBase, tmp_path: Path) -> None:
    model = make_base("llama")
    projections = find_output_projections(model)
    fingerprints = [activations_fingerprint(model, projections, PROMPTS), activations_fingerprint(model, projections, PROMPTS[:3])]
    read_activations(
        model, projections, PROMPTS, pad_token_id=0, batch_size=2, cache=ActivationCache(tmp_path / "a", fingerprints[0], KINDS)
    )
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.mul_(1.001)
    fingerprints.append(activations_fingerprint(model, projections, PROMPTS))
    assert len(set(fingerprints)) == 3
    assert len(ActivationCache(tmp_path / "a", fingerprints[0], KINDS).read()) == 2
    assert ActivationCache(tmp_path / "a", fingerprints[2], KINDS).read() == []
    assert ActivationCache(tmp_path / "a", fingerprints[0], KINDS).read() == []
