"""Two processes that each hold half of a base model's layers compute what one computes with all of it, whatever passes each makes.

The last lines of this file are what torchrun runs of it.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mogu import MoguConfig, MoguModel
from mogu.analysis.weight_digest import digest_weights
from mogu.errors import ConfigError
from mogu.modeling.base_identity import sample_weights
from mogu.modeling.sharding import bytes_per_process, shard, whole
from mogu.processes import gathered, is_main, joined, on_main, rank
from mogu.transformers_compat import enable_checkpointing
from tests.conftest import DECODER, FAMILIES, VOCABULARY, randomize
from tests.launched import torchrun

CPU = torch.device("cpu")


def test_two_processes_compute_what_one_computes(tmp_path: Path) -> None:
    """Runs the last lines of this file, which say what they saw."""
    run = torchrun(__file__, str(tmp_path / "seen.json"), sharded=True)
    assert run.returncode == 0, run.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["families"] == dict.fromkeys(FAMILIES, True)
    assert seen["rows"] == [[26, 25], [26, 25]]  # of 51 rows
    assert seen["same"] == dict.fromkeys(seen["same"], True)
    assert seen["packed"] == "The base model has weights of torch.int8, and the processes were started for FSDP"


def test_one_process_holds_all_of_it() -> None:
    base = made("llama", DECODER)
    assert bytes_per_process(base) == sum(parameter.numel() * parameter.itemsize for parameter in base.parameters())
    weight = base.get_input_embeddings().weight
    assert whole(weight) is weight


def made(family: str, settings: dict[str, object]) -> PreTrainedModel:
    torch.manual_seed(0)
    base: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    return base.eval()


def both(family: str = "llama", settings: dict[str, object] | None = None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model that is whole in each process, and the same one sharded; layers have 51 rows, or what a family has."""
    base = made(family, settings or DECODER | {"intermediate_size": 51})
    sharded = copy.deepcopy(base)
    shard(sharded, CPU)
    return base.requires_grad_(False), sharded


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY - 1, shape, generator=torch.Generator().manual_seed(seed))


def with_lora(base: PreTrainedModel, modules: str | list[str] = "all-linear") -> Any:
    torch.manual_seed(1)
    transposed = base.config.model_type == "gpt2"
    return get_peft_model(base, LoraConfig(r=2, target_modules=modules, init_lora_weights=False, fan_in_fan_out=transposed)).train()


def gradients(model: Any, passes: int) -> list[Tensor]:
    torch.manual_seed(2)  # some families drop out
    for number in range(passes):
        model(input_ids=tokens(2, 5 + number, seed=number)).logits.square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def equal(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(torch.equal, tensors, others))


class Ended(Exception):
    """Ends a pass in its midst."""


def end_of_pass(*_: Any) -> None:
    raise Ended


def digest(model: PreTrainedModel) -> list[bytes]:
    class Collected(list[bytes]):
        update = list.append

    collected = Collected()
    digest_weights(collected, model)
    return list(collected)


@torch.no_grad()
def without_gradients(base: PreTrainedModel, sharded: PreTrainedModel) -> dict[str, bool]:
    same = {}

    def passes(model: PreTrainedModel, count: int) -> list[Tensor]:
        return [model(input_ids=tokens(2, 4 + number)).logits for number in range(count)]

    own = 1 + 2 * rank()
    same["of the second process, more passes"] = equal(passes(base, own), passes(sharded, own))
    gathered(None)
    same["of the main process alone"] = on_main(lambda: equal(passes(base, 2), passes(sharded, 2)))

    def replies(model: PreTrainedModel) -> Tensor:
        return model.generate(input_ids=tokens(1 + rank(), 3, seed=rank()), max_new_tokens=3 + 4 * rank(), do_sample=False)

    same["replies of other lengths"] = torch.equal(replies(base), replies(sharded))
    if is_main():
        handle = sharded.get_submodule("model.layers.1").self_attn.register_forward_hook(end_of_pass)
        with pytest.raises(Ended):
            passes(sharded, 1)
        handle.remove()
    same["behind a pass that ended early"] = equal(passes(base, 2 - rank()), passes(sharded, 2 - rank()))
    gathered(None)

    samples = on_main(lambda: sample_weights(sharded.named_parameters()))
    of_whole = sample_weights(base.named_parameters())
    same["names"] = list(samples) == list(of_whole)
    same["samples of weights"] = equal(list(samples.values()), list(of_whole.values()))
    same["digest of weights"] = digest(base) == digest(sharded)
    same["weights"] = equal([whole(parameter) for parameter in sharded.parameters()], list(base.parameters()))
    return same


@torch.no_grad()
def routed_replies(base: PreTrainedModel, sharded: PreTrainedModel) -> bool:
    """At the handoff, the layers below the first routed one do not compute again, which each process comes to at another time."""
    answered = []
    for model_of in (base, sharded):
        model = MoguModel.from_base(model_of, MoguConfig(router_hidden=8, layers=[2], routed_tokens=4))
        torch.manual_seed(3)
        randomize(model)
        ids = tokens(1, 5 + rank(), seed=rank())
        answered.append([model.generate(input_ids=ids, max_new_tokens=6 + 3 * rank(), do_sample=False, routed_tokens=2 + rank())])
        model.detach()
        gathered(None)
    return equal(*answered)


def computing() -> dict[str, Any]:
    families = {}
    for name, (family, settings) in FAMILIES.items():
        base, sharded = both(family, settings)
        of_base, of_sharded = (gradients(with_lora(model), 1 + rank()) for model in (base, sharded))
        families[name] = len(of_base) > 0 and equal(of_base, of_sharded)
        gathered(None)

    base, sharded = both()
    gate = sharded.get_submodule("model.layers.0.mlp.gate_proj").weight
    rows = gathered([len(gate.to_local()), 51 - len(gate.to_local())])
    same = without_gradients(base, sharded)
    same["routed replies"] = routed_replies(base, sharded)
    for checkpointing in (False, True):
        tuned = [with_lora(model, ["layers.1.self_attn.o_proj", "layers.1.mlp.up_proj"]) for model in (base, sharded)]
        for model in tuned:
            if checkpointing:
                enable_checkpointing(model.get_base_model(), use_reentrant=False)
        name = f"gradients, {'with' if checkpointing else 'without'} checkpointing"
        same[name] = equal(*[gradients(model, 2 + rank()) for model in tuned])
        gathered(None)
        for model in tuned:
            model.unload()
    same["plain again"] = equal([base(input_ids=tokens(1, 4)).logits], [sharded(input_ids=tokens(1, 4)).logits])

    return {"families": families, "rows": [rows[0], rows[1][::-1]], "same": same, "packed": error_of(packed)}


def packed() -> None:
    base = made("llama", DECODER)
    layer = base.get_submodule("model.layers.0.self_attn.q_proj")
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    shard(base, CPU)


def error_of(work: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        work()
    return caught.value.found


if __name__ == "__main__":
    with joined():
        seen = gathered(computing())
        if is_main():
            every = seen[0] | {"same": {name: all(of["same"][name] for of in seen) for name in seen[0]["same"]}}
            every["families"] = {name: all(of["families"][name] for of in seen) for name in seen[0]["families"]}
            Path(sys.argv[1]).write_text(json.dumps(every))
