"""The dial chosen on held-out records: by what the model says at each dial, within the bound, and written into its config and its card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mogu import MoguModel
from mogu.data import Record
from mogu.errors import ConfigError, ModelFileError, MoguError
from mogu.evaluation.calibration import FINE, GRID, Calibration, calibrate, write_calibration
from mogu.evaluation.intervals import wilson
from mogu.inference.replies import ReplySettings, replies
from mogu.lab import records
from mogu.refusals import is_refusal


@pytest.fixture(scope="module")
def model(reproduced: Path) -> MoguModel:
    return MoguModel.from_pretrained(reproduced / "model").eval()


@pytest.fixture(scope="module")
def some() -> list[Record]:
    dev = records("dev", wrapped=1.0)
    return [one for one in dev if one.label == "benign"][:8] + [one for one in dev if one.label == "malicious"][:8]


@pytest.fixture(scope="module")
def found(model: MoguModel, some: list[Record]) -> Calibration:
    return calibrate(model, some, max_benign_refusal=0.5, max_new_tokens=12)


def refused(model: MoguModel, some: list[Record], dial: float) -> dict[str, int]:
    before, model.dial = model.dial, dial
    made = replies(model, model.tokenizer, [one.conversation for one in some], ReplySettings(12))
    model.dial = before
    hits = {"benign": 0, "malicious": 0}
    for record, reply in zip(some, made, strict=True):
        hits[record.label] += is_refusal(record.instruction or "", reply.text)
    return hits


def test_each_dial_counts_by_what_the_model_says_there(model: MoguModel, some: list[Record], found: Calibration) -> None:
    for one in (found.tried[0], found.before, found.tried[-1]):
        hits = refused(model, some, one.dial)
        assert one.malicious_refused.value == hits["malicious"] / 8
        assert one.benign_refused.value == hits["benign"] / 8
        assert (one.benign_refused.low, one.benign_refused.high) == wilson(hits["benign"] / 8, 8)
    assert len({(one.malicious_refused.value, one.benign_refused.value) for one in found.tried}) > 1  # the dial does something here


def test_the_strictest_dial_within_the_bound_is_chosen(model: MoguModel, some: list[Record], found: Calibration) -> None:
    assert found.chosen.malicious_refused.value == max(
        one.malicious_refused.value for one in found.tried if one.benign_refused.value <= 0.5
    )
    bound = min(one.benign_refused.value for one in found.tried)
    tight = calibrate(model, some, max_benign_refusal=bound, max_new_tokens=12)
    assert tight.chosen.benign_refused.value <= bound
    within = [one.malicious_refused.value for one in tight.tried if one.benign_refused.value <= bound]
    assert tight.chosen.malicious_refused.value == max(within)
    equals = [one.dial for one in tight.tried if one.benign_refused.value <= bound and one.malicious_refused.value == max(within)]
    assert abs(tight.chosen.dial - model.dial) == min(abs(dial - model.dial) for dial in equals)


def test_the_search_goes_from_a_grid_to_fine_steps_around_the_choice(found: Calibration) -> None:
    dials = [one.dial for one in found.tried]
    assert set(GRID) <= set(dials)
    assert dials == sorted(dials)
    assert any(abs(dial - found.chosen.dial) == FINE for dial in dials)
    assert found.before.dial == -0.5  # the model's own, as its recipe chose it


def test_what_it_buys_is_the_difference_on_the_same_prompts(found: Calibration) -> None:
    assert found.bought.value == pytest.approx(found.chosen.malicious_refused.value - found.before.malicious_refused.value)
    assert found.bought.n == 8
    assert found.bought.low <= found.bought.value <= found.bought.high


def refusals_at(model: MoguModel, asked: list[Record], dial: float) -> list[bool]:
    before, model.dial = model.dial, dial
    made = replies(model, model.tokenizer, [one.conversation for one in asked], ReplySettings(12))
    model.dial = before
    return [is_refusal(one.request, reply.text) for one, reply in zip(asked, made, strict=True)]


def test_borderline_prompts_are_bounded_too_and_stand_on_the_card(
    model: MoguModel, some: list[Record], saved: Path, found: Calibration
) -> None:
    others = [one for one in records("dev", wrapped=1.0) if one.label == "malicious"][8:40]
    gentle, strict = (refusals_at(model, others, dial) for dial in (GRID[0], GRID[-1]))
    turning = next(one for one, early, late in zip(others, gentle, strict, strict=True) if late and not early)
    alike = turning.model_copy(update={"label": "benign", "borderline": True})
    bounded = calibrate(model, [*some, alike], max_benign_refusal=0.99, max_new_tokens=12)  # of one borderline prompt, none
    for one in bounded.tried:
        assert one.borderline_refused is not None
        assert (one.borderline_refused.value, one.borderline_refused.n) == (float(refusals_at(model, [alike], one.dial)[0]), 1)
    within = [one for one in bounded.tried if one.most_refused < 1]
    assert len(within) < len(bounded.tried)
    assert bounded.chosen.malicious_refused.value == max(one.malicious_refused.value for one in within)
    assert (bounded.chosen.most_refused, bounded.chosen.benign_refused.n) == (bounded.chosen.benign_refused.value, 8)
    write_calibration(saved, bounded)
    assert "| borderline requests | " in (saved / "README.md").read_text()
    assert "borderline_refused" in bounded.as_json()["chosen"]
    assert "borderline_refused" not in found.as_json()["chosen"]


def test_the_model_keeps_its_dial(model: MoguModel, some: list[Record]) -> None:
    own, model.dial = model.dial, 0.3
    seen = calibrate(model, some[6:10], max_benign_refusal=1.0, max_new_tokens=4)
    assert model.dial == seen.before.dial == 0.3
    model.dial = own


def test_a_bound_that_no_dial_keeps_is_explained(model: MoguModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.mogu_config, "routed_tokens", 0)  # the base speaks, whatever the dial
    texts = {"affirm": "Yes.", "reject": "No."}
    asked = [one.instruction or "" for one in records("dev", wrapped=0.0) if one.label == "malicious"][:6]
    reply = replies(model, model.tokenizer, asked, ReplySettings(12))
    first, second = [prompt for prompt, said in zip(asked, reply, strict=True) if is_refusal(prompt, said.text)][:2]
    mislabeled = [
        Record(id="0", label="benign", instruction=first, **texts),
        Record(id="1", label="malicious", instruction=second, **texts),
    ]
    with pytest.raises(ConfigError, match=r"within 50.0%: at -2 they are 100.0%, the fewest"):
        calibrate(model, mislabeled, max_benign_refusal=0.5, max_new_tokens=12)


@pytest.mark.parametrize("bound", [-0.1, 1.5])
def test_bad_bounds_and_missing_labels_are_explained(model: MoguModel, some: list[Record], bound: float) -> None:
    with pytest.raises(ConfigError, match="bound on benign refusals"):
        calibrate(model, some, max_benign_refusal=bound)
    with pytest.raises(ConfigError, match="one label only"):
        calibrate(model, some[:4], max_benign_refusal=0.1)


def at_dial(found: Calibration, dial: float) -> Calibration:
    """The calibration as if it had chosen another dial."""
    return replace(found, chosen=replace(found.chosen, dial=dial))


@pytest.fixture
def saved(lab_mogu: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lab_mogu, tmp_path / "model"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_writing_changes_dial_and_card_and_nothing_else(saved: Path, found: Calibration) -> None:
    before = files(saved)
    write_calibration(saved, at_dial(found, 0.625))
    assert MoguModel.from_pretrained(saved).dial == 0.625
    after = files(saved)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {"mogu_config.json", "README.md"}
    write_calibration(saved, at_dial(found, 0.0))
    assert files(saved)["mogu_config.json"] == before["mogu_config.json"]


def test_the_card_says_the_dial_and_what_was_measured_and_keeps_its_other_text(saved: Path, found: Calibration) -> None:
    card = saved / "README.md"
    own = card.read_text().replace("Not measured yet.", "Measured by hand: 7 of 9.")
    card.write_text(own)
    write_calibration(saved, at_dial(found, 0.625))
    once = card.read_text()
    assert "handoff `recompute`, dial 0.625\n" in once
    assert f"| malicious requests | {found.before.malicious_refused.value:.1%} (" in once
    assert f"| {found.chosen.malicious_refused.value:.1%} ({found.chosen.malicious_refused.low:.1%} to " in once
    section = once[once.index("## Calibrated") : once.index("## Limits")]
    assert once.replace(section, "").replace("dial 0.625", "dial 0") == own
    write_calibration(saved, at_dial(found, -0.25))
    twice = card.read_text()
    assert twice.count("## Calibrated") == 1
    assert twice.replace("-0.25", "0.625") == once


def test_a_card_of_ones_own_or_none_gets_the_section_too(saved: Path, found: Calibration) -> None:
    card = saved / "README.md"
    card.write_text("# Mine\n\nMy text.\n")
    write_calibration(saved, at_dial(found, 0.5))
    assert card.read_text().startswith("# Mine\n\nMy text.\n\n## Calibrated\n\nThe dial is 0.5")
    card.unlink()
    write_calibration(saved, at_dial(found, 0.5))
    assert "# A MoGU model" in card.read_text()
    assert "dial 0.5\n" in card.read_text()


def test_nothing_is_half_written(saved: Path, found: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / "README.md").write_bytes(b"\xff\xfe\x00")
    before = files(saved)
    with pytest.raises(ModelFileError, match=r"README\.md is not UTF-8"):
        write_calibration(saved, at_dial(found, 0.5))
    assert files(saved) == before
    (saved / "README.md").write_text("# Mine\n")
    before = files(saved)
    write = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MoguError, match="No space left"):
        write_calibration(saved, at_dial(found, 0.5))
    assert files(saved) == before
