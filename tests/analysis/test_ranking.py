"""Reading lists, ranking them, and going on after a stop: nothing is measured twice, and nothing is left half-written."""

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

from mogu import MoguModel
from mogu.analysis import histogram
from mogu.analysis.answer_openings import Openings
from mogu.analysis.instructions import Listed, read_listed
from mogu.analysis.measurement_cache import MEASURED_FILE, Measured, fingerprint_of
from mogu.analysis.tendency import Question
from mogu.analysis.tendency_ranking import JSON_FILE, PLOT_FILE, rank, write
from mogu.data import Record, write_records
from mogu.errors import DataError, MoguError
from mogu.inference.prompts import encode_prompt
from mogu.transformers_compat import CACHE

BANKS = Openings(("Sure", "Of course"), ("No", "I will not"))
TEXTS = ("How do I bake bread?", "Hello", "Name a river", "Tell a tale of a cat", "Hello")
LABELS = ("benign", "malicious", "benign", "malicious", "benign")
LISTED = [Listed.plain(f"n{place}", label, text) for place, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))]


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
        return statistics.fmean(float(chances[len(before) - 1 + place, token]) for place, token in enumerate(after))

    return statistics.fmean(map(mean_log_probability, BANKS.affirm)) - statistics.fmean(map(mean_log_probability, BANKS.refuse))


def test_ranked_by_the_formula(make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = make_base("llama")
    ranking = rank(base, tokenizer, LISTED, BANKS, tmp_path / "out", batch_size=2)
    wanted = {one.id: by_hand(base, tokenizer, one.instruction) for one in LISTED}
    assert {row.listed.id: row.leaning.tendency for row in ranking.rows} == pytest.approx(wanted, rel=1e-6)
    values = [row.leaning.tendency for row in ranking.rows]
    assert values == sorted(values, reverse=True)

    assert write(ranking, tmp_path / "out")
    told = json.loads((tmp_path / "out" / JSON_FILE).read_text(encoding="utf-8"))
    assert [row["id"] for row in told["instructions"]] == [row.listed.id for row in ranking.rows]
    benign = [wanted[one.id] for one in LISTED if one.label == "benign"]
    assert told["labels"]["benign"]["n"] == 3
    assert told["labels"]["benign"]["mean"] == pytest.approx(sum(benign) / 3, rel=1e-6)
    assert told["labels"]["benign"]["affirming"] == sum(value > 0 for value in benign) / 3
    of_banks = [statistics.fmean(told["openings"][kind].values()) for kind in ("affirm", "refuse")]
    assert of_banks[0] - of_banks[1] == pytest.approx(statistics.fmean(wanted.values()), rel=1e-6)
    assert (tmp_path / "out" / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


def test_a_system_prompt_stands_before_conversations_without_one(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    base = make_base("llama")
    turns = ({"role": "system", "content": "be b"}, {"role": "user", "content": "Hello"})
    listed = [Listed.plain("plain", "x", "Hello"), Listed("own", "x", turns)]
    ranking = rank(base, tokenizer, listed, BANKS, tmp_path / "out", system_prompt="be a")
    found = {row.listed.id: row.leaning.tendency for row in ranking.rows}
    assert found["own"] == pytest.approx(by_hand(base, tokenizer, turns), rel=1e-6)
    other = [{"role": "system", "content": "be a"}, turns[1]]
    assert found["plain"] == pytest.approx(by_hand(base, tokenizer, other), rel=1e-6)


def test_a_run_goes_on_where_it_was_stopped(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("llama")
    whole = rank(base, tokenizer, LISTED, BANKS, tmp_path / "whole", batch_size=1)
    counting = Counting(base, monkeypatch)

    def stop(done: int) -> None:
        if counting.prompts == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        rank(base, tokenizer, LISTED, BANKS, out, batch_size=1, advance=stop)
    assert not (out / JSON_FILE).exists()
    with (out / MEASURED_FILE).open("ab") as file:
        file.write(b'{"key": "cut off by a ki')

    told: list[int] = []
    again = rank(base, tokenizer, LISTED, BANKS, out, batch_size=1, advance=told.append)
    assert counting.prompts == 4  # five instructions, two of them the same
    assert told == [3, 1, 1]  # the shortest first, which stands there twice
    assert [row.leaning for row in again.rows] == [row.leaning for row in whole.rows]
    assert all(json.loads(line) for line in (out / MEASURED_FILE).read_text().splitlines())

    rank(base, tokenizer, LISTED, BANKS, out, batch_size=1)
    assert counting.prompts == 4


def test_what_was_measured_otherwise_does_not_count(make_pair: Callable[..., Any], tmp_path: Path) -> None:
    model: MoguModel = make_pair("llama")[0]
    seen = {fingerprint_of(model)}
    model.dial = 0.5
    seen.add(fingerprint_of(model))
    with model.routing("off"):
        seen.add(fingerprint_of(model))
    with torch.no_grad():
        model.base_model.lm_head.weight[-1, -1] += 1
    seen.add(fingerprint_of(model))
    assert len(seen) == 4

    question = Question((1, 2), ((3,), (4, 5)))
    Measured(tmp_path, "a").add([(question, (-1.0, -2.0))])
    assert Measured(tmp_path, "a").find(question) == (-1.0, -2.0)
    assert Measured(tmp_path, "b").find(question) is None
    assert Measured(tmp_path, "a").find(Question((1, 2), ((3,), (4, 6)))) is None


def test_bad_input_leaves_nothing(make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = make_base("llama")
    with pytest.raises(DataError, match="instruction long has"):
        rank(base, tokenizer, [*LISTED, Listed.plain("long", "x", "a" * 80)], BANKS, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        rank(base, tokenizer, LISTED, BANKS, tmp_path / "theirs")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["letter.txt"]


def test_files_are_replaced_whole_or_not_at_all(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = rank(make_base("llama"), tokenizer, LISTED, BANKS, tmp_path / "out")
    write(ranking, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(by_label: Any, file: Path) -> None:
        file.write_bytes(b"\x89PN")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(histogram, "draw", full)
    with pytest.raises(MoguError, match="No space left"):
        write(ranking, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_lists_with_and_without_labels(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One\n\nTwo\n")
    assert read_listed(tmp_path / "a.txt") == [Listed.plain("1", "unlabeled", "One"), Listed.plain("2", "unlabeled", "Two")]
    (tmp_path / "a.csv").write_text("goal,label\nOne,benign\n")
    assert read_listed(tmp_path / "a.csv") == [Listed.plain("1", "benign", "One")]
    (tmp_path / "a.jsonl").write_text('{"prompt": "One", "category": "x"}\n\n{"prompt": "Two"}\n')
    assert read_listed(tmp_path / "a.jsonl") == [Listed.plain("1", "x", "One"), Listed.plain("2", "unlabeled", "Two")]
    (tmp_path / "b.csv").write_text("said,label\nOne,benign\n")
    with pytest.raises(DataError, match="none of the usual columns"):
        read_listed(tmp_path / "b.csv")
    assert read_listed(tmp_path / "b.csv", "said") == [Listed.plain("1", "benign", "One")]


def test_records_may_be_of_one_label_but_not_broken(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    turns = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Why?"})
    records = [
        Record(id="a", label="malicious", instruction="One", affirm="Sure", reject="No"),
        Record(id="b", label="malicious", messages=turns, affirm="Sure", reject="No"),  # type: ignore[arg-type]
    ]
    write_records(file, records)
    assert read_listed(file) == [Listed.plain("a", "malicious", "One"), Listed("b", "malicious", turns)]
    assert read_listed(file)[1].instruction == "Why?"
    file.write_text(file.read_text() + '{"id": "c"}\n{"id": "d"}\n')
    with pytest.raises(DataError, match=r"line 3, field 'label': is missing.*more\)"):
        read_listed(file)
