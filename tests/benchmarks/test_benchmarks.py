"""What the benchmarks measure is what they say: structure and correctness, never timings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.memory import added_parameters
from benchmarks.models import LLAMA_2_7B, SMALL, make_base, make_published, make_routed, random_prompt
from benchmarks.speed import counted_prefills, reply_ways
from mogu.modeling.shared_weights import share_weights

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of ``python -m benchmarks --quick``."""
    out = tmp_path_factory.mktemp("bench-results")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    table = (out / "results.md").read_text(encoding="utf-8").splitlines()
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert sum(line.startswith("| ") for line in table) == len(results["findings"]) + 2
    return results


def test_results_are_whole(quick: dict[str, Any]) -> None:
    assert quick["quick"] is True
    assert {"device", "cores", "threads", "torch"} <= set(quick["machine"])
    for finding in quick["findings"]:
        assert {"what", "case", "value", "unit", "at_most", "at_least", "holds"} <= set(finding)
        assert (finding["holds"] is None) == (finding["at_most"] is None and finding["at_least"] is None)
    targets = [one["at_most"] or one["at_least"] for one in quick["findings"] if one["what"] == "decoding step, routing on"]
    assert targets == [1.03]


def test_every_way_took_every_turn(quick: dict[str, Any]) -> None:
    for one in quick["speed"]["steps"]:
        assert len(one["seconds"]["base"]) == len(one["seconds"]["routed"])
    for one in quick["speed"]["replies"]:
        turns = {name: [len(turns) for turns in rounds] for name, rounds in one["seconds"].items()}
        asked_and_replied = [one["new_tokens"] + 2] * 2  # a turn ends with the prompt, with each token, and with the end
        assert turns == {**dict.fromkeys(["base", "continue", "recompute", "published"], asked_and_replied), "prefill": [1, 1]}
        assert all(len(tokens) == one["new_tokens"] for tokens in one["tokens"].values())


def test_recompute_costs_exactly_one_prefill_more(quick: dict[str, Any]) -> None:
    for one in quick["speed"]["replies"]:
        assert one["prefills"] == {"base": 1, "continue": 1, "recompute": 2, "published": 6}


def test_a_second_reading_is_timed_for_every_first_layer(quick: dict[str, Any]) -> None:
    names = {f"{handoff} {first}" for handoff in ("continue", "recompute") for first in (0, 1)}
    assert {name: len(taken) for name, taken in quick["rereading"]["seconds"].items()} == dict.fromkeys(names | {"prefill"}, 2)
    assert sum(one["what"] == "second reading" for one in quick["findings"]) == 2


def test_published_procedure_and_recompute_say_the_same(quick: dict[str, Any]) -> None:
    for one in quick["speed"]["replies"]:
        assert one["tokens"]["published"] == one["tokens"]["recompute"]
        assert one["tokens"]["published"] != one["tokens"]["base"]


def test_training_ways_have_the_same_losses(quick: dict[str, Any]) -> None:
    for stage in ("responder", "router"):
        assert quick["training"][stage]["loss_difference"] < 1e-5


def test_memory_counts_weights_once_for_mogu_and_twice_for_the_published_pair(quick: dict[str, Any]) -> None:
    weights = {way: runs[0]["weight_bytes"] for way, runs in quick["memory"]["runs"].items()}
    layers, width, rank = SMALL.layers, SMALL.hidden, 8
    assert weights["recompute"] - weights["base"] == 4 * layers * ((4 * rank + 2) * width + 2)
    assert weights["published"] > 2 * weights["base"]


def test_added_parameters_at_the_7b_shape() -> None:
    layers, width, inner, vocabulary, rank, hidden = 32, 4096, 11008, 32000, 8, 512
    base = 2 * vocabulary * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width
    mogu = layers * (2 * rank * width + 2 * width + 2 * rank * width + 2)
    published = layers * (2 * 2 * rank * width + 2 * (hidden * width + width * hidden + width + width + 1))
    assert added_parameters(LLAMA_2_7B) == {"base": base, "mogu": mogu, "published": published}
    assert 100 * mogu / base <= 0.1
    assert round(100 * published / base, 2) == 4.05


def test_published_procedure_equals_ours_in_float64() -> None:
    base = make_base(SMALL, CPU, torch.float64)
    routed, published = make_routed(share_weights(base)), make_published(base)
    for length in (3, 40):
        ways = reply_ways(base, {"continue": routed, "recompute": routed}, published.generate, random_prompt(SMALL, length, CPU), 24)
        replies = {name: way(None)[0, length:].tolist() for name, way in ways.items()}
        assert replies["published"] == replies["recompute"]
        assert len({tuple(replies[name]) for name in ("base", "continue", "recompute")}) == 3


def test_base_shares_weights_but_no_module_with_the_routed_model() -> None:
    base = make_base(SMALL, CPU, torch.float32)
    plain = base.model.layers[0].self_attn.o_proj
    routed = make_routed(share_weights(base))
    assert base.model.layers[0].self_attn.o_proj is plain
    assert type(plain) is torch.nn.Linear
    assert routed.routed_layers[0].base_layer.weight is plain.weight


def test_prefill_counter_sees_passes_over_several_tokens_only() -> None:
    base = make_base(SMALL, CPU, torch.float32)
    with counted_prefills([base.model]) as lengths:
        base.generate(random_prompt(SMALL, 7, CPU), max_new_tokens=4, do_sample=False)
    assert lengths == [7]
