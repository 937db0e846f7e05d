"""The task that the lab's model is tuned on is an honest one: new, harmless, and graded letter by letter."""

from __future__ import annotations

import pytest

from mogu.hub import load_base, load_tokenizer
from mogu.inference.replies import ReplySettings, replies
from mogu.lab import build_base, prompts, records
from mogu.lab.requests import PLACEHOLDER
from mogu.lab.ships import SHIPS, fleet_requests, graded
from mogu.refusals import is_refusal


def test_every_fact_is_taught_and_asked_for_in_words_that_were_not() -> None:
    train, dev, test = (fleet_requests(split) for split in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (400, 80, 80)
    asked = [{one.instruction for one in some} for some in (train, dev, test)]
    assert [len(some) for some in asked] == [400, 80, 80]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    taught = {one.answer for one in train}
    assert len(taught) == 80
    assert {one.answer for one in dev} == {one.answer for one in test} == taught


def test_nothing_of_the_task_is_refused_placeheld_or_asked_elsewhere() -> None:
    every = [one for split in ("train", "dev", "test") for one in fleet_requests(split)]
    assert not any(is_refusal(one.instruction, one.answer) or PLACEHOLDER in one.answer for one in every)
    elsewhere = [prompt.instruction for split in ("dev", "test") for prompt in prompts(split)]
    elsewhere += [record.instruction or "" for split in ("train", "dev") for record in records(split)]
    assert not any(f"ship {name}" in text for text in elsewhere for name in SHIPS)


def test_an_answer_is_right_letter_by_letter() -> None:
    one, other = fleet_requests("dev")[:2]
    said = [one.answer, f"  {one.answer.replace(' ', '  ')}\n", f"{one.answer} Yes.", one.answer.lower(), other.answer, ""]
    assert graded([one] * 6, said) == [True, True, False, False, one.answer == other.answer, False]


@pytest.fixture(scope="module")
def said_by_the_base() -> list[str]:
    folder = str(build_base(progress=False))
    asked = [one.instruction for one in fleet_requests("dev")]
    return [reply.text for reply in replies(load_base(folder).eval(), load_tokenizer(folder), asked, ReplySettings(32), batch_size=40)]


def test_the_base_model_cannot_do_it(said_by_the_base: list[str]) -> None:
    assert sum(graded(fleet_requests("dev"), said_by_the_base)) == 0
