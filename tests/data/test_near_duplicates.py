"""Near-duplicates are those, and nearly all of those, that a comparison of every text with every other one finds."""

from __future__ import annotations

import random
import sys

import pytest

from mogu.data import Record
from mogu.data.near_duplicates import THRESHOLD, compared_text, near_duplicate_groups, near_duplicates
from mogu.data.templates import WRAPPERS
from mogu.errors import ConfigError

TEXTS = 2500


def runs(text: str) -> set[tuple[str, ...]]:
    words = text.lower().replace(".", "").split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)} or {tuple(words)}


def edited(words: list[str], rng: random.Random) -> list[str]:
    edited = list(words)
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(edited))
        edited[place : place + rng.randrange(2)] = [f"new{rng.randrange(1000)}"] * rng.randrange(2)
    return edited


def generated(seed: int) -> list[str]:
    """Texts of 8 to 90 words over few words, so that chance makes them a little alike; half are edits of others."""
    rng = random.Random(seed)
    texts: list[list[str]] = []
    while len(texts) < TEXTS:
        if texts and rng.random() < 0.5:
            texts.append(edited(rng.choice(texts), rng))
        else:
            texts.append([f"w{rng.randrange(40)}" for _ in range(rng.randrange(8, 90))])
    return [" ".join(words).capitalize() + "." * rng.randrange(2) for words in texts]


def compared_exactly(texts: list[str]) -> dict[tuple[int, int], float]:
    by_size = sorted(((runs(text), index) for index, text in enumerate(texts)), key=lambda item: len(item[0]))
    alike = {}
    for position, (one, first) in enumerate(by_size):
        for other, second in by_size[position + 1 :]:
            if len(one) < THRESHOLD * len(other):
                break  # no larger set can be near
            common = len(one & other)
            if common / (len(one) + len(other) - common) >= THRESHOLD:
                alike[min(first, second), max(first, second)] = common / (len(one) + len(other) - common)
    return alike


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return generated(0)


@pytest.fixture(scope="module")
def alike(texts: list[str]) -> dict[tuple[int, int], float]:
    return compared_exactly(texts)


def test_pairs_are_those_that_comparing_everything_finds(texts: list[str], alike: dict[tuple[int, int], float]) -> None:
    pytest.importorskip("rensa")
    parts = [random.Random(index).randrange(3) for index in range(TEXTS)]
    expected = {pair: share for pair, share in alike.items() if parts[pair[0]] != parts[pair[1]]}
    found = {(pair.first, pair.second): pair.jaccard for pair in near_duplicates(texts, parts)}
    assert len(expected) > 500
    assert found.items() <= expected.items()
    assert len(found) >= 0.95 * len(expected)
    assert list(found) == sorted(found)


def test_groups_are_the_connected_components_of_those_pairs(texts: list[str], alike: dict[tuple[int, int], float]) -> None:
    pytest.importorskip("rensa")
    component = list(range(TEXTS))
    for first, second in sorted(alike):
        low, high = sorted((component[first], component[second]))
        component = [low if index == high else index for index in component]
    groups = near_duplicate_groups(texts).tolist()
    assert len(set(component)) < 0.9 * TEXTS
    missed = sum(one != other for one, other in zip(groups, component, strict=True))
    assert missed <= 0.01 * TEXTS
    assert all(component[group] == component[index] for index, group in enumerate(groups))  # none is joined to a stranger


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("Name a river.", "name a  RIVER", True),
        ("Name a river.", "Name a lake.", False),
        ("???", "!!!", False),
        ("🌊", "🌊", True),
        ("你好，请告诉我怎样烤好一个又大又圆的面包", "你好！请告诉我怎样烤好一个又大又圆的面包", True),
        ("你好，请告诉我怎样烤好一个又大又圆的面包", "今天天气很好我们一起去公园里散步吧", False),
        ("half of a pair \ud83d", "half of a pair \ud83d", True),
    ],
)
def test_what_counts_as_a_word(first: str, second: str, near: bool) -> None:
    pytest.importorskip("rensa")
    assert len(list(near_duplicates([first, second], [0, 1]))) == near
    assert not list(near_duplicates([first, second], [0, 0]))
    assert near_duplicate_groups([first, second]).tolist() == [0, 1 - near]


def test_no_texts_have_no_duplicates() -> None:
    pytest.importorskip("rensa")
    assert not list(near_duplicates([], []))
    assert not near_duplicate_groups([]).tolist()


def test_a_wrapper_makes_no_two_instructions_alike() -> None:
    record = Record(id="a", label="benign", instruction="Name a river in Spain.", affirm="The Ebro.", reject="No.")
    assert {compared_text(record.wrapped_in(template)) for template in WRAPPERS} == {compared_text(record)} == {record.instruction}


def test_without_the_extra_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigError, match=r"pip install 'mogu\[dedup\]'"):
        list(near_duplicates(["a"], [0]))
