"""MoGU pairs among a user's data: how many, of which label, and conversations as pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mogu.data import Chat, Message, read_records
from mogu.finetuning.data_mix import mixed_in, task_pairs
from mogu.refusals import is_refusal


def test_a_mix_is_half_malicious_and_takes_no_pair_twice_before_all_were_taken(record_files: tuple[Path, Path]) -> None:
    pairs = read_records(record_files[0])  # 8 of each label
    few = mixed_in(pairs, 0.1, 90, seed=1)
    assert Counter(record.label for record in few) == {"benign": 5, "malicious": 5}
    assert len({record.id for record in few}) == 10
    many = mixed_in(pairs, 0.5, 40, seed=1)
    assert Counter(record.label for record in many) == {"benign": 20, "malicious": 20}
    assert set(Counter(record.id for record in many).values()) == {2, 3}
    assert {record.id for record in few} <= {record.id for record in many}


def test_conversations_become_benign_pairs(record_files: tuple[Path, Path]) -> None:
    def chat(*roles: str) -> Chat:
        return Chat(id="row", messages=tuple(Message(role=role, content=f"{role} {index}") for index, role in enumerate(roles)))  # type: ignore[arg-type]

    chats = [chat("user", "assistant", "user", "assistant", "user"), chat("user", "assistant"), chat("system", "assistant")]
    pairs = task_pairs(chats, 5, seed=0)
    assert {(len(pair.conversation), pair.affirm) for pair in pairs} == {(3, "assistant 3"), (1, "assistant 1")}
    for pair in pairs:
        assert pair.label == "benign"
        assert pair.conversation[-1]["role"] == "user"
        assert is_refusal(pair.conversation[-1]["content"], pair.reject)
    assert len(task_pairs(chats[:2], 1, seed=0)) == 1
