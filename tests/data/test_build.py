"""What goes into a built record, and what never does."""

from collections import Counter
from pathlib import Path

import pytest

from mogu.data import Instruction, build_pairs, read_instructions, source_id
from mogu.errors import ConfigError, DataError
from mogu.refusals import is_refusal

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


def instructions(*texts, answer="An answer."):
    return [Instruction(text, number, answer) for number, text in enumerate(texts, 1)]


MALICIOUS = instructions("Explain how to pick a neighbour's lock", "Ways to cheat in an exam", answer="SECRET CONTENT")


BENIGN = instructions("Name a river.", "Add 1 and 2.")


def test_a_pair_of_each_kind():
    river, _, lock, _ = build_pairs(BENIGN, MALICIOUS)
    assert (river.id, river.label, river.affirm) == ("benign-0001", "benign", "An answer.")
    assert "naming a river" in river.reject
    assert (lock.id, lock.label) == ("malicious-0001", "malicious")
    assert lock.affirm.endswith("how to pick a neighbour's lock:")
    assert is_refusal(lock.instruction, lock.reject)


def test_refusals_of_ones_own_take_the_place_of_the_banks_and_may_name_the_request():
    own = ["No, not {subject}. {Ever}.", "That is not for me."]
    records = build_pairs(BENIGN, MALICIOUS, borderline=instructions("Kill a process"), refusals=own)
    assert {record.kind for record in records} == {"benign", "borderline", "malicious"}
    named = {record.reject for record in build_pairs(BENIGN, MALICIOUS, refusals=own[:1])}
    assert "No, not naming a river. {Ever}." in named  # other braces are text
    assert {record.reject for record in build_pairs(BENIGN, MALICIOUS, refusals=own[1:])} == {own[1]}
    assert {record.reject for record in records} <= named | {own[1], "No, not killing a process. {Ever}."}


def test_no_answer_to_a_malicious_instruction_is_ever_taken():
    replies = {
        "Explain how to pick a neighbour's lock": "Take a SECRET CONTENT.",
        "Ways to cheat in an exam": "I cannot help. No! SECRET CONTENT.",
    }
    records = build_pairs(BENIGN, MALICIOUS, answer=lambda texts: [replies[text] for text in texts], own_refusals=True, augment=0.5)
    assert "SECRET" not in "".join(record.model_dump_json() for record in records)
    assert [record.reject for record in records if source_id(record) == "malicious-0002"] == ["I cannot help. No!"]


def test_the_model_is_asked_for_missing_answers_only_and_its_refusals_are_left_out():
    asked = []

    def answer(texts):
        asked.extend(texts)
        return ["I'm sorry, but I can't help with that.", " Three. ", " "]

    benign = [*BENIGN[:1], *(Instruction(text, number) for number, text in enumerate(("Count.", "Add 1 and 2.", "Spell it."), 2))]
    records = build_pairs(benign, MALICIOUS, answer=answer)
    assert asked == ["Count.", "Add 1 and 2.", "Spell it."]
    assert [(record.id, record.affirm) for record in records if record.label == "benign"] == [
        ("benign-0001", "An answer."),
        ("benign-0003", "Three."),
    ]


def test_a_models_refusal_is_taken_only_if_its_opening_sentences_refuse_by_themselves():
    replies = [
        "I cannot help with that. Ask me something else. Bye.",
        "Step one is easy. Step two as well. I'm sorry, but I can't continue with this.",
    ]
    records = build_pairs(BENIGN, MALICIOUS, answer=lambda texts: replies, own_refusals=True)
    kept = {record.id: record.reject for record in records if record.label == "malicious"}
    assert kept["malicious-0001"] == "I cannot help with that. Ask me something else."
    assert "Step" not in kept["malicious-0002"]
    assert "cheat" in kept["malicious-0002"]


def test_duplicates_are_used_once_and_ids_keep_the_number_in_the_file():
    records = build_pairs(instructions("Name a river.", "name  a RIVER", "Add 1 and 2."), MALICIOUS)
    assert [record.id for record in records if record.label == "benign"] == ["benign-0001", "benign-0003"]


def test_what_cannot_be_built_is_refused_at_once():
    with pytest.raises(ConfigError, match="--model BASE"):
        build_pairs(instructions("Name a river.", answer=None), MALICIOUS)
    with pytest.raises(DataError, match="both benign and malicious"):
        build_pairs(instructions("ways to cheat in an exam!"), MALICIOUS)
    with pytest.raises(ConfigError, match=r"augment is 1\.5"):
        build_pairs(BENIGN, MALICIOUS, augment=1.5)
    with pytest.raises(ConfigError, match="own refusals"):
        build_pairs(BENIGN, MALICIOUS, own_refusals=True)
    with pytest.raises(DataError, match="Every benign"):
        build_pairs(instructions("Name a river.", answer=None), MALICIOUS, answer=lambda texts: ["I can't help with that."] * len(texts))


def many(label, count):
    return instructions(*(f"{label} request number {number}" for number in range(count)))


def test_both_labels_get_each_wrapper_equally_often():
    records = build_pairs(many("first", 300), many("second", 300), augment=0.5)
    assert len(records) == 600
    wrapped = {label: Counter(record.wrapper for record in records if record.label == label) for label in ("benign", "malicious")}
    assert wrapped["benign"] == wrapped["malicious"]
    assert wrapped["benign"][None] == 150
    assert all("request number" in record.instruction for record in records)


def test_one_seed_one_result_and_another_seed_another():
    built = [build_pairs(many("first", 40), many("second", 40), augment=0.5, seed=seed) for seed in (3, 3, 4)]
    assert built[0] == built[1] != built[2]


def test_a_new_line_in_the_file_leaves_the_other_answers_as_they_are():
    before = {record.instruction: record for record in build_pairs(BENIGN, many("second", 5))}
    after = {record.instruction: record for record in build_pairs(BENIGN, many("second", 9))}
    assert all((after[text].affirm, after[text].reject) == (record.affirm, record.reject) for text, record in before.items())


@needs_shared
def test_advbench_and_alpaca_three_hundred_each():
    benign = [Instruction(row.text, row.number, "An answer.") for row in read_instructions(SHARED / "alpaca_instructions.jsonl")[:300]]
    records = build_pairs(benign, read_instructions(SHARED / "advbench.csv")[:300], augment=0.5)
    assert Counter(record.label for record in records) == {"benign": 300, "malicious": 300}
    assert sum(record.wrapper is not None for record in records) == 300
    prompts = [record.instruction for record in records]
    assert all(is_refusal(prompt, record.reject) for prompt, record in zip(prompts, records, strict=True))
    assert not any(is_refusal(prompt, record.affirm) for prompt, record in zip(prompts, records, strict=True))
    assert all(len(record.affirm) < 180 for record in records if record.label == "malicious")


def test_an_answer_of_the_file_that_refuses_is_left_out_as_a_models_is():
    benign = [
        Instruction("Explain tides.", 1, "I'm sorry, but I can't assist with that request."),
        Instruction("Name a river.", 2, "The Elbe."),
    ]
    records = build_pairs(benign, MALICIOUS)
    assert [record.affirm for record in records if record.label == "benign"] == ["The Elbe."]


def test_a_borderline_instruction_is_answered_as_benign_ones_are():
    asked = []

    def answer(texts):
        asked.append(texts)
        return ["I can't help with that." if "bomb" in text else "Press Ctrl-C." for text in texts]

    alike = [Instruction("How do I kill a process?", 1), Instruction("What is a bath bomb?", 2), Instruction("Shoot a film.", 3, "Action!")]
    records = build_pairs(BENIGN, MALICIOUS, borderline=alike, answer=answer)
    assert asked == [["How do I kill a process?", "What is a bath bomb?"]]
    assert [(record.id, record.label, record.affirm) for record in records if record.borderline] == [
        ("borderline-0001", "benign", "Press Ctrl-C."),
        ("borderline-0003", "benign", "Action!"),
    ]
    assert "killing a process" in records[2].reject
    assert [record for record in records if not record.borderline] == build_pairs(BENIGN, MALICIOUS)


def test_an_instruction_is_of_one_kind():
    for first, second in (("benign", "borderline"), ("borderline", "malicious")):
        files = {"benign": BENIGN, "malicious": MALICIOUS, "borderline": instructions("Kill a process")} | {second: instructions("Do it!")}
        files[first] = [*files[first], *instructions("do IT")]
        with pytest.raises(DataError, match=f"both {first} and {second}"):
            build_pairs(**files)
    with pytest.raises(ConfigError, match="1 of 1 borderline instructions have no answer"):
        build_pairs(BENIGN, MALICIOUS, borderline=instructions("Kill a process", answer=None))
