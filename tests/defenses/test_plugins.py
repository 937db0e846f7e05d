"""Plugins: defenses from a file or an installed package, and clear errors for those that cannot be used."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from mogu.defenses import defense_names, load_plugin, registry
from mogu.errors import ConfigError

DEFENSE = """
from mogu.defenses import defense

@defense({name!r}, label="Mine", order={order})
def mine(target):
    return lambda conversations, settings: []
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(("order", "expected"), [(50, [10]), (5, [1]), (99, [11])])
def test_the_order_decides_the_position_whenever_the_file_is_loaded(order: int, expected: list[int], tmp_path: Path) -> None:
    builtin = defense_names()
    assert load_plugin(write(tmp_path, DEFENSE.format(name="mine", order=order))) == ["mine"]
    names = defense_names()
    assert [index for index, name in enumerate(names) if name == "mine"] == expected
    assert [name for name in names if name != "mine"] == builtin


def test_a_file_can_be_loaded_again_after_a_change(tmp_path: Path) -> None:
    file = write(tmp_path, DEFENSE.format(name="mine", order=50))
    load_plugin(file)
    write(tmp_path, DEFENSE.format(name="mine", order=5))
    assert load_plugin(file) == ["mine"]
    assert defense_names()[1] == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "registers nothing"),
        (DEFENSE.format(name="half", order=50) + "\n1 / 0", "fails with ZeroDivisionError: division by zero"),
        ("def broken(:", "fails with SyntaxError"),
        ("import no_such_module", "fails with ModuleNotFoundError: No module named 'no_such_module'"),
        (DEFENSE.format(name="mogu", order=50), "registers the defense 'mogu', which mogu.defenses.routed has registered already"),
    ],
)
def test_an_unusable_file_is_one_clear_error_and_registers_nothing(text: str, message: str, tmp_path: Path) -> None:
    before = defense_names()
    with pytest.raises(ConfigError) as caught:
        load_plugin(write(tmp_path, text))
    assert message in str(caught.value)
    assert defense_names() == before


def test_two_files_of_the_same_name_cannot_share_a_defense(tmp_path: Path) -> None:
    text = DEFENSE.format(name="mine", order=50)
    load_plugin(write(tmp_path / "a", text))
    with pytest.raises(ConfigError, match="registered already"):
        load_plugin(write(tmp_path / "b", text))


@pytest.mark.parametrize("name", ["nowhere.py", "notes.txt"])
def test_what_is_not_a_python_file_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, "hello", "notes.txt")
    with pytest.raises(ConfigError, match="does not exist" if name == "nowhere.py" else "is not a Python file"):
        load_plugin(tmp_path / name)


def install(folder: Path, name: str, module: str) -> None:
    """What an installer leaves of a package with one defense, beside its module."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[mogu.defenses]\n{name} = {module}\n")
    importlib.invalidate_caches()


def test_defenses_of_installed_packages_are_found_by_their_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, DEFENSE.format(name="installed", order=50), "installed_defense.py")
    write(tmp_path, "1 / 0", "broken_defense.py")
    monkeypatch.syspath_prepend(tmp_path)
    registry._load_installed.cache_clear()
    assert "installed" not in defense_names()
    install(tmp_path, "installed", "installed_defense")
    registry._load_installed.cache_clear()
    assert "installed" in defense_names()
    install(tmp_path, "broken", "broken_defense")
    registry._load_installed.cache_clear()
    with pytest.raises(ConfigError, match=r"broken_defense.*ZeroDivisionError"):
        defense_names()
    monkeypatch.undo()
    registry._load_installed.cache_clear()
    sys.modules.pop("installed_defense", None)
