"""Attacks from a file: what is registered, and clear errors for files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from mogu.attacks import attack_info, attack_names, load_plugin
from mogu.defenses import defense_names
from mogu.errors import ConfigError

ATTACK = """
from mogu.attacks import ask, attack

@attack({name!r}, label="insisting", family="dialogue", queries=3)
def insist(behavior, context):
    yield ask(behavior, behavior.instruction)
"""
DEFENSE = """
from mogu.defenses import defense

@defense("mine", label="Mine")
def mine(target):
    return lambda conversations, settings: []
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "own.py"
    file.write_text(text)
    return file


def test_an_attack_of_a_file_is_one_like_any_other(tmp_path: Path) -> None:
    assert load_plugin(write(tmp_path, ATTACK.format(name="insist"))) == ["insist"]
    assert attack_names()[-1] == "insist"
    assert attack_info("insist").queries == 3


def test_a_file_may_register_defenses_as_well_or_instead(tmp_path: Path) -> None:
    assert load_plugin(write(tmp_path, ATTACK.format(name="insist") + DEFENSE)) == ["mine", "insist"]
    assert "mine" in defense_names()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "registers nothing"),
        (ATTACK.format(name="half") + DEFENSE + "\n1 / 0", "fails with ZeroDivisionError"),
        (ATTACK.format(name="gcg"), "registers the attack 'gcg', which mogu.attacks.gcg has registered already"),
    ],
)
def test_an_unusable_file_is_one_clear_error_and_registers_nothing(text: str, message: str, tmp_path: Path) -> None:
    before = attack_names(), defense_names()
    with pytest.raises(ConfigError) as caught:
        load_plugin(write(tmp_path, text))
    assert message in str(caught.value)
    assert (attack_names(), defense_names()) == before
