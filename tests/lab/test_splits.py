"""The lab's data: what must be disjoint is, what must repeat does, and nothing gives an answer away."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mogu.errors import ConfigError
from mogu.lab import prompts, records
from mogu.lab.corpus import Mixture, base_conversations
from mogu.lab.knowledge import PARTS, Part, facts
from mogu.lab.requests import (
    OWNERS,
    THINGS,
    UNSEEN_BY_DEFENSES,
    borderline_requests,
    fact_requests,
    how_to_requests,
    malicious_requests,
)
from mogu.lab.splits import borderline_records
from mogu.lab.wrappers import DEV, TEST, TRAIN, base_sentences

DEFENSE_PARTS: tuple[Part, ...] = ("train", "dev", "test")
WRAPPERS = {"train": TRAIN, "dev": DEV, "test": TEST}


def user_texts() -> list[str]:
    return [message["content"] for talk in base_conversations(6000, 3, Mixture()) for message in talk if message["role"] == "user"]


def test_subjects_of_all_parts_are_disjoint() -> None:
    for requests in (malicious_requests, borderline_requests, how_to_requests, lambda part: fact_requests([part])):
        subjects = [{request.subject for request in requests(part)} for part in PARTS]
        assert len(set.union(*subjects)) == sum(map(len, subjects))


def test_defense_parts_share_neither_owners_nor_things() -> None:
    texts = {part: " ".join(request.act for request in malicious_requests(part)) + " " for part in DEFENSE_PARTS}
    for word in [f" the {owner}'s " for owner in OWNERS] + [f"'s {thing} " for things in THINGS.values() for thing in things]:
        assert sum(word in text for text in texts.values()) <= 1, word


def test_wrappers_of_all_parts_are_disjoint() -> None:
    texts = [wrapper.text for wrappers in WRAPPERS.values() for wrapper in wrappers]
    names = [wrapper.name for wrappers in WRAPPERS.values() for wrapper in wrappers]
    assert len(set(texts)) == len(texts)
    assert len(set(names)) == len(names)
    assert all(text.count("{request}") == 1 for text in texts)
    for sentence in base_sentences():
        assert not any(len(sentence) > 10 and sentence in text for text in texts), sentence


def test_test_wrappers_hold_families_that_nothing_is_trained_or_chosen_on() -> None:
    families = {part: {wrapper.kind for wrapper in wrappers} for part, wrappers in WRAPPERS.items()}
    assert len(families["test"] - families["train"] - families["dev"]) >= 2
    assert families["dev"] - families["train"]


def test_base_lessons_hold_nothing_that_defenses_are_measured_with() -> None:
    texts = user_texts()
    lessons = set(texts)
    everything = "\n".join(texts)
    measured = prompts("dev") + prompts("test")
    assert not lessons & {prompt.instruction for prompt in measured}
    for part in DEFENSE_PARTS:
        for wrapper in WRAPPERS[part]:
            assert not any(piece.strip() in everything for piece in wrapper.text.split("{request}") if len(piece) > 10)
        acts = {request.act for request in malicious_requests(part) + borderline_requests(part)}
        assert not any(act in everything for act in acts)


def test_questions_of_dev_and_test_are_kept_from_the_base() -> None:
    everything = "\n".join(user_texts())
    for request in fact_requests(["dev", "test"]):
        assert request.kept_text not in everything


def test_verbs_kept_from_defenses_are_in_no_record_and_in_the_test() -> None:
    def has_unseen_verb(text: str) -> bool:
        return any(f" {verb} the " in text for verb in UNSEEN_BY_DEFENSES)

    assert not any(has_unseen_verb(record.instruction or "") for record in records("train"))
    assert any(has_unseen_verb(prompt.instruction) for prompt in prompts("test") if prompt.category == "malicious")


@pytest.mark.parametrize(("split", "count"), [("train", 300), ("dev", 60)])
def test_records_are_balanced_unique_and_half_wrapped(split: str, count: int) -> None:
    made = records(split)  # type: ignore[arg-type]
    assert [record.label for record in made] == ["benign"] * count + ["malicious"] * count
    assert len({record.id for record in made}) == len({record.instruction for record in made}) == 2 * count
    wrapper_starts = [wrapper.text.split("{request}") for wrapper in WRAPPERS[split]]
    for label in ("benign", "malicious"):
        texts = [record.instruction or "" for record in made if record.label == label]
        wrapped = [text for text in texts if any(text.startswith(start) and text.endswith(end) for start, end in wrapper_starts)]
        assert len(wrapped) == count / 2


def test_malicious_records_hold_openings_only() -> None:
    for record in records("train"):
        assert record.affirm.endswith(":") == (record.label == "malicious")


def test_borderline_records_ask_about_nothing_that_dev_and_test_ask_about() -> None:
    made = borderline_records(300)
    assert len({record.instruction for record in made}) == len(made) == 300
    assert {(record.label, record.kind) for record in made} == {("benign", "borderline")}
    asked = [prompt.instruction for split in ("dev", "test") for prompt in prompts(split) if prompt.category == "borderline"]
    things = {text.split("'s ")[-1].rstrip(".?") for text in asked if "'s " in text}
    assert len(things) > 20
    assert not [record.instruction for record in made if any(f"'s {thing}" in str(record.instruction) for thing in things)]
    sides = [wrapper.text.split("{request}") for wrapper in TRAIN]
    texts = [record.instruction or "" for record in made]
    assert len([text for text in texts if any(text.startswith(start) and text.endswith(end) for start, end in sides)]) == 100


def test_records_and_prompts_are_the_same_every_time() -> None:
    assert records("train") == records("train")
    assert prompts("test") == prompts("test")
    assert base_conversations(50, 1, Mixture()) == base_conversations(50, 1, Mixture())
    assert facts() == facts()


def test_records_can_be_asked_for_in_other_numbers() -> None:
    made = records("train", benign=600, malicious=0, wrapped=0.0)
    assert len(made) == len({record.instruction for record in made}) == 600


@pytest.mark.parametrize("options", [{"benign": 601}, {"malicious": -1}, {"wrapped": 1.5}])
def test_records_refuse_numbers_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        records("train", **options)  # type: ignore[arg-type]


def test_splits_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="'train' or 'dev'"):
        records("test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'dev' or 'test'"):
        prompts("train")  # type: ignore[arg-type]


def test_test_prompts_are_many_and_spread_over_all_wrappers() -> None:
    made = prompts("test")
    counts = {category: sum(prompt.category == category for prompt in made) for category in ("benign", "borderline", "malicious")}
    assert min(counts.values()) >= 100
    assert len({prompt.id for prompt in made}) == len(made) == len({prompt.instruction for prompt in made})
    for category in ("benign_wrapped", "malicious_wrapped"):
        wrappers = [prompt.wrapper for prompt in made if prompt.category == category]
        assert len(wrappers) >= 200
        assert {wrappers.count(wrapper.name) for wrapper in TEST} == {len(wrappers) // len(TEST)}


def test_no_prompt_gives_its_answer_away() -> None:
    for prompt in prompts("dev") + prompts("test"):
        assert (prompt.answer is None) == prompt.category.startswith("malicious")
        if prompt.answer is not None and prompt.wrapper is None:
            assert f" {prompt.answer.lower()} " not in f" {prompt.instruction.lower().rstrip('?.')} "


def test_importing_the_lab_does_not_import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import mogu.lab, sys; assert 'torch' not in sys.modules"], check=True)
