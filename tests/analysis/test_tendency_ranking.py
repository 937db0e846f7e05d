"""Instructions are ranked by the formula; a run resumes after a stop, and files are written whole or not at all."""

from __future__ import annotations

import inspect
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.analysis import tendency_plot
from mogu.analysis.answer_openings import AnswerOpenings
from mogu.analysis.labeled_instructions import LabeledInstruction
from mogu.analysis.measurement_cache import MEASUREMENTS_FILE
from mogu.analysis.tendency_ranking import JSON_FILE, PLOT_FILE, rank_instructions, write_ranking
from mogu.errors import DataError, MoguError
from mogu.inference.prompts import encode_prompt
from mogu.transformers_compat import CACHE

BANKS = AnswerOpenings(("Sure", "Of course"), ("No", "I will not"))


TEXTS = ("How do I bake bread?", "Hello", "Name a river", "Tell a tale of a cat", "Hello")


LABELS = ("benign", "malicious", "benign", "malicious", "benign")


INSTRUCTIONS = [LabeledInstruction.plain(f"n{index}", label, text) for index, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))]


class Counting:
    """Counts the prompts that a model reads."""

    def __init__(self, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts, forward = 0, model.forward

        def counted(input_ids: torch.Tensor, **kwargs: Any) -> Any:
            self.prompts += len(input_ids) if kwargs.get(CACHE) is None else 0
            return forward(input_ids=input_ids, **kwargs)

        counted.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
        monkeypatch.setattr(model, "forward", counted)


@torch.no_grad()
def by_hand(base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Any) -> float:
    """The formula, pass by pass: letters are tokens here, and an opening stands directly behind the prompt."""

    def mean_log_probability(opening: str) -> float:
        before, after = encode_prompt(tokenizer, prompt), [tokenizer.convert_tokens_to_ids(letter) for letter in opening]
        chances = torch.log_softmax(base(input_ids=torch.tensor([before + after])).logits[0], -1)
        return statistics.fmean(float(chances[len(before) - 1 + index, token]) for index, token in enumerate(after))

    return statistics.fmean(map(mean_log_probability, BANKS.affirm)) - statistics.fmean(map(mean_log_probability, BANKS.refuse))


def test_ranked_by_the_formula(make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = make_base("llama")
    ranking = rank_instructions(base, tokenizer, INSTRUCTIONS, BANKS, tmp_path / "out", batch_size=2)
    expected = {one.id: by_hand(base, tokenizer, one.instruction) for one in INSTRUCTIONS}
    assert {row.instruction.id: row.tendency.value for row in ranking.rows} == pytest.approx(expected, rel=1e-6)
    values = [row.tendency.value for row in ranking.rows]
    assert values == sorted(values, reverse=True)

    assert write_ranking(ranking, tmp_path / "out")
    told = json.loads((tmp_path / "out" / JSON_FILE).read_text(encoding="utf-8"))
    assert [row["id"] for row in told["instructions"]] == [row.instruction.id for row in ranking.rows]
    benign = [expected[one.id] for one in INSTRUCTIONS if one.label == "benign"]
    assert told["labels"]["benign"]["n"] == 3
    assert told["labels"]["benign"]["mean"] == pytest.approx(sum(benign) / 3, rel=1e-6)
    assert told["labels"]["benign"]["affirming"] == sum(value > 0 for value in benign) / 3
    of_banks = [statistics.fmean(told["openings"][kind].values()) for kind in ("affirm", "refuse")]
    assert of_banks[0] - of_banks[1] == pytest.approx(statistics.fmean(expected.values()), rel=1e-6)
    assert (tmp_path / "out" / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


def test_a_system_prompt_stands_before_conversations_without_one(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = make_base("llama")
    turns = ({"role": "system", "content": "be b"}, {"role": "user", "content": "Hello"})
    listed = [LabeledInstruction.plain("plain", "x", "Hello"), LabeledInstruction("own", "x", turns)]
    ranking = rank_instructions(base, tokenizer, listed, BANKS, tmp_path / "out", system_prompt="be a")
    found = {row.instruction.id: row.tendency.value for row in ranking.rows}
    assert found["own"] == pytest.approx(by_hand(base, tokenizer, turns), rel=1e-6)
    other = [{"role": "system", "content": "be a"}, turns[1]]
    assert found["plain"] == pytest.approx(by_hand(base, tokenizer, other), rel=1e-6)


def test_a_run_resumes_where_it_was_stopped(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("llama")
    whole = rank_instructions(base, tokenizer, INSTRUCTIONS, BANKS, tmp_path / "whole", batch_size=1)
    counting = Counting(base, monkeypatch)

    def stop(done: int) -> None:
        if counting.prompts == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        rank_instructions(base, tokenizer, INSTRUCTIONS, BANKS, out, batch_size=1, advance=stop)
    assert not (out / JSON_FILE).exists()
    with (out / MEASUREMENTS_FILE).open("ab") as file:
        file.write(b'{"key": "cut off by a ki')

    told: list[int] = []
    again = rank_instructions(base, tokenizer, INSTRUCTIONS, BANKS, out, batch_size=1, advance=told.append)
    assert counting.prompts == 4  # five instructions, two of them the same
    assert told == [3, 1, 1]  # the shortest first, which stands there twice
    assert [row.tendency for row in again.rows] == [row.tendency for row in whole.rows]
    assert all(json.loads(line) for line in (out / MEASUREMENTS_FILE).read_text().splitlines())

    rank_instructions(base, tokenizer, INSTRUCTIONS, BANKS, out, batch_size=1)
    assert counting.prompts == 4


def test_bad_input_leaves_nothing(make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = make_base("llama")
    with pytest.raises(DataError, match="instruction long has"):
        rank_instructions(base, tokenizer, [*INSTRUCTIONS, LabeledInstruction.plain("long", "x", "a" * 80)], BANKS, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        rank_instructions(base, tokenizer, INSTRUCTIONS, BANKS, tmp_path / "theirs")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["letter.txt"]


def test_files_are_replaced_whole_or_not_at_all(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = rank_instructions(make_base("llama"), tokenizer, INSTRUCTIONS, BANKS, tmp_path / "out")
    write_ranking(ranking, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(by_label: Any, file: Path) -> None:
        file.write_bytes(b"\x89PN")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tendency_plot, "draw_histograms", full)
    with pytest.raises(MoguError, match="No space left"):
        write_ranking(ranking, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
