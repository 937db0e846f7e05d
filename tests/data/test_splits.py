"""No instruction is in two splits, and each label has the same share in all of them."""

import random
from collections import Counter

import pytest

from mogu.data import Instruction, Record, build_pairs, source_id, split_records
from mogu.data.splits import normalized
from mogu.errors import ConfigError, DataError
from mogu.files.disk_list import DiskList


def instructions(*texts, answer="An answer."):
    return [Instruction(text, number, answer) for number, text in enumerate(texts, 1)]


def many(label, count):
    return instructions(*(f"{label} request number {number}" for number in range(count)))


def test_splits_hold_both_labels_in_the_shares_asked_for():
    splits = split_records(build_pairs(many("first", 100), many("second", 50)), dev=0.1, test=0.2)
    counts = {split: Counter(record.label for record in records) for split, records in splits.items()}
    assert counts == {
        "train": {"benign": 70, "malicious": 35},
        "dev": {"benign": 10, "malicious": 5},
        "test": {"benign": 20, "malicious": 10},
    }


def test_no_instruction_leaks_whatever_its_wrapper_or_spelling():
    records = build_pairs(many("first", 60), many("second", 60))
    respelled = [
        record.model_copy(update={"id": f"other-{record.id}", "instruction": record.instruction.upper().replace(" ", "  ")})
        for record in records
    ]
    wrapped = [
        record.model_copy(update={"id": f"x-{record.id}", "instruction": f"Hi! {record.instruction}", "source": record.id})
        for record in respelled
    ]
    splits = split_records([*wrapped, *records, *respelled], dev=0.2, test=0.2, seed=5)
    said = {
        split: [" ".join(record.instruction.lower().removeprefix("hi! ").split()) for record in found] for split, found in splits.items()
    }
    assert all(set(Counter(texts).values()) == {3} for texts in said.values())
    assert {split: len(texts) for split, texts in said.items()} == {"train": 216, "dev": 72, "test": 72}


def test_wrapped_variants_of_one_source_stay_together():
    records = build_pairs(many("first", 60), many("second", 60), augment=1.0)
    second = build_pairs(many("first", 60), many("second", 60), augment=1.0, seed=1)
    splits = split_records([*records, *second], seed=2)
    sources = [source_id(record) for found in splits.values() for record in {source_id(record): record for record in found}.values()]
    assert len(sources) == len(set(sources)) == 120


def test_small_and_impossible_splits():
    records = build_pairs(many("first", 3), many("second", 3))
    assert {split: len(found) for split, found in split_records(records).items()} == {"train": 2, "dev": 2, "test": 2}
    assert {split: len(found) for split, found in split_records(records, dev=0, test=0).items()} == {"train": 6, "dev": 0, "test": 0}
    with pytest.raises(DataError, match="only 2 benign"):
        split_records(records[1:])
    for dev, test in ((-0.1, 0.1), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.0)):
        with pytest.raises(ConfigError):
            split_records(records, dev=dev, test=test)


def test_conversations_are_split_by_all_that_was_said():
    def talk(number, last):
        messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": last})
        return Record(id=f"talk-{number}", label="benign", messages=messages, affirm="Yes.", reject="I can't help.")

    splits = split_records([talk(number, f"Thing {number // 2}") for number in range(20)], dev=0.3, test=0.3)
    homes = {split: {record.messages[-1].content for record in found} for split, found in splits.items()}
    assert sum(map(len, homes.values())) == 10


def test_each_kind_has_its_share_in_every_split():
    records = build_pairs(many("first", 50), many("second", 50), borderline=many("third", 20))
    splits = split_records(records, dev=0.1, test=0.2)
    counts = {split: Counter(record.kind for record in found) for split, found in splits.items()}
    assert counts == {
        "train": {"benign": 35, "borderline": 14, "malicious": 35},
        "dev": {"benign": 5, "borderline": 2, "malicious": 5},
        "test": {"benign": 10, "borderline": 4, "malicious": 10},
    }


def test_borderline_records_leave_the_splits_of_the_others_as_they_are():
    plain = split_records(build_pairs(many("first", 50), many("second", 50)), seed=4)
    more = split_records(build_pairs(many("first", 50), many("second", 50), borderline=many("third", 20)), seed=4)
    assert {split: [record for record in found if not record.borderline] for split, found in more.items()} == plain


def by_dictionaries(records, dev, test, seed):
    """The splits, worked out with texts and ids in dictionaries: what they were before they took no memory."""
    first_with, group_of = {}, {}
    for record in records:
        if record.source is None:
            group_of[record.id] = first_with.setdefault(normalized(record.instruction), record.id)
    for record in records:
        group_of.setdefault(source_id(record), source_id(record))
    split_of = {}
    for kind in ("benign", "borderline", "malicious"):
        groups = sorted({group_of[source_id(record)] for record in records if record.kind == kind})
        random.Random(f"{seed}:{kind}").shuffle(groups)
        dev_size, test_size = (max(1, round(share * len(groups))) if share else 0 for share in (dev, test))
        for index, group in enumerate(groups):
            split_of[group] = "dev" if index < dev_size else "test" if index < dev_size + test_size else "train"
    splits = {"train": [], "dev": [], "test": []}
    for record in records:
        splits[split_of[group_of[source_id(record)]]].append(record)
    return splits


@pytest.mark.parametrize("seed", range(5))
def test_records_on_the_disk_are_split_as_dictionaries_would_split_them(seed):
    rng = random.Random(seed)
    bare = []
    for number in range(300):
        kind, text = rng.choice(("benign", "borderline", "malicious")), f"{rng.choice(('Name', 'name '))} thing {rng.randrange(150)}"
        label, name = ("malicious" if kind == "malicious" else "benign"), f"{rng.choice(('ä', 'z', 'Z', '🌊'))}-{number}"
        bare.append(Record(id=name, label=label, instruction=text, affirm="Yes.", reject="No.", borderline=kind == "borderline"))
    made = [
        record.model_copy(update={"id": f"{record.id}-{copy}", "instruction": f"Hi! {record.instruction}", "source": record.id})
        for record in rng.sample(bare, 120)
        for copy in range(rng.randrange(1, 3))
    ]
    records = [record for record in [*bare, *made] if rng.random() < 0.8]  # some sources are gone
    rng.shuffle(records)
    expected = by_dictionaries(records, 0.1, 0.2, seed)
    assert split_records(records, dev=0.1, test=0.2, seed=seed) == expected
    assert split_records(DiskList(records), dev=0.1, test=0.2, seed=seed) == expected


def test_records_that_stay_together_bring_their_variants_along():
    records = [*build_pairs(many("first", 40), many("second", 40))]
    made = [record.model_copy(update={"id": f"{record.id}-made", "source": record.id}) for record in records]
    together = [*(index // 4 * 4 for index in range(80)), *range(80, 160)]  # each four bare ones; the others are with their sources
    splits = split_records([*records, *made], dev=0.2, test=0.2, together=together)
    split_of = {record.id: split for split, members in splits.items() for record in members}
    for index, record in enumerate(records):
        assert split_of[record.id] == split_of[f"{record.id}-made"] == split_of[records[index // 4 * 4].id]
    assert {split: len(members) for split, members in splits.items()} == {"train": 96, "dev": 32, "test": 32}
