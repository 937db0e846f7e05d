"""Records of the starter set: who is drawn, who gives way, which wrappers, and nothing of a held-out topic."""

from __future__ import annotations

from collections import Counter

import pytest

from mogu.data import NEUTRAL_WRAPPERS, WRAPPERS, Record
from mogu.data.starter import (
    DEV_WRAPPERS,
    GATE_DEV_WRAPPERS,
    GATE_TRAIN_WRAPPERS,
    HELD_OUT,
    SPLITS,
    TRAIN_WRAPPERS,
    dev_pairs,
    opening_answers,
    starter_instructions,
    train_pairs,
)
from mogu.data.templates import GATE_WRAPPERS
from mogu.errors import DataError
from mogu.refusals import is_refusal

TOPIC_OF = {
    one.id: one.topic for kind in ("benign", "borderline", "malicious") for split in SPLITS for one in starter_instructions(kind, split)
}
TEXT_OF = {
    one.id: one.text for kind in ("benign", "borderline", "malicious") for split in SPLITS for one in starter_instructions(kind, split)
}


def source(record: Record) -> str:
    return record.source or record.id


def test_training_records_are_two_hundred_and_fifty_of_each_label_and_a_hundred_are_borderline() -> None:
    records = train_pairs(opening_answers)
    assert Counter(record.kind for record in records) == {"benign": 150, "borderline": 100, "malicious": 250}
    assert Counter(record.kind for record in records if record.wrapper) == {"benign": 75, "borderline": 50, "malicious": 125}
    assert len({record.id for record in records}) == 500
    topics = Counter((record.label, TOPIC_OF[source(record)]) for record in records)
    assert not HELD_OUT.keys() & {topic for _, topic in topics}
    assert {count for (label, _), count in topics.items() if label == "malicious"} == {1, 2}
    assert all(is_refusal(record.request, record.reject) and not is_refusal(record.request, record.affirm) for record in records)


def test_what_the_model_refuses_or_leaves_unanswered_gives_way_to_others() -> None:
    asked: list[list[str]] = []

    def answer(instructions: list[str]) -> list[str]:
        asked.append(instructions)
        return [
            "I'm sorry, but I can't help with that." if "the" in text else " " if "my" in text else f"On {text}" for text in instructions
        ]

    records = train_pairs(answer, limit=100, augment=0.0)
    assert Counter(record.kind for record in records) == {"benign": 60, "borderline": 40, "malicious": 100}
    assert len(asked) > 2
    assert all(record.affirm == f"On {record.instruction}" for record in records if record.label == "benign")
    everyone = [text for texts in asked for text in texts]
    assert len(everyone) == len(set(everyone))  # nobody is asked twice
    assert not {record.instruction for record in records if record.label == "malicious"} & set(everyone)
    few = train_pairs(answer, augment=0.0)  # too few are answered: all that are, and the malicious ones as ever
    answerable = [one for one in starter_instructions("borderline", "train") if "the" not in one.text and "my" not in one.text]
    assert sum(record.borderline for record in few) == min(100, len(answerable))
    with pytest.raises(DataError, match="Every benign instruction is refused"):
        train_pairs(lambda instructions: ["I can't help with that."] * len(instructions))


def test_dev_records_are_bare_and_again_in_wrappers_that_no_training_record_is_in() -> None:
    records = dev_pairs()
    bare = [record for record in records if record.wrapper is None]
    assert Counter(record.kind for record in bare) == {"benign": 40, "borderline": 40, "malicious": 40}
    assert {record.source for record in records if record.wrapper} == {record.id for record in bare}
    assert len(records) == 240
    assert {HELD_OUT.get(TOPIC_OF[record.id]) for record in bare} == {"dev"}
    texts = {template.name: template for template in WRAPPERS}
    assert all(texts[record.wrapper].apply(TEXT_OF[source(record)]) == record.instruction for record in records if record.wrapper)
    used = {record.wrapper for record in train_pairs(opening_answers) if record.wrapper}
    assert used == {template.name for template in TRAIN_WRAPPERS}
    assert {record.wrapper for record in records if record.wrapper} == {template.name for template in DEV_WRAPPERS}
    assert Counter(record.kind for record in dev_pairs(limit=5)) == {"benign": 10, "borderline": 10, "malicious": 10}


def test_a_third_of_the_wrappers_of_each_kind_is_kept_for_dev() -> None:
    neutral = {template.name for template in NEUTRAL_WRAPPERS}
    held_out = [template.name in neutral for template in DEV_WRAPPERS]
    assert (held_out.count(True), held_out.count(False)) == (5, 7)  # of 14 and 20
    assert {*DEV_WRAPPERS, *TRAIN_WRAPPERS} == set(WRAPPERS)
    assert not set(DEV_WRAPPERS) & set(TRAIN_WRAPPERS)
    assert {*GATE_DEV_WRAPPERS, *GATE_TRAIN_WRAPPERS} == {*WRAPPERS, *GATE_WRAPPERS}
    assert not set(GATE_DEV_WRAPPERS) & set(GATE_TRAIN_WRAPPERS)
    assert (len(GATE_DEV_WRAPPERS), len(GATE_TRAIN_WRAPPERS)) == (32, 64)


def test_the_same_answers_give_the_same_records() -> None:
    assert train_pairs(opening_answers) == train_pairs(opening_answers)
    assert train_pairs(opening_answers, augment=0.2) != train_pairs(opening_answers)
