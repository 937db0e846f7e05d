"""A whole probe of the lab's base model: its numbers, how it resumes after a stop, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from mogu import MoguConfig, MoguModel
from mogu.analysis import Probe, probe
from mogu.analysis.linear_probe import STRENGTH
from mogu.data import Record
from mogu.errors import ConfigError, DataError, ModelFileError, MoguError
from mogu.hub import load_base, load_tokenizer
from mogu.inference.prompts import encode_prompt
from mogu.lab import records


def probe_of(base: Path, records: list[Record], out: Path, **changes: object) -> Probe:
    return dataclasses.replace(Probe(str(base), records, out), **changes)  # type: ignore[arg-type]


def written(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()} - {".lock"} if out.exists() else set()


class RecordedProgress:
    """Record what a probe reports of its progress, and optionally stop it after a number of prompts."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.calls.append((what, done, total))
        if self.after is not None and what == "reading prompts" and done >= self.after:
            raise KeyboardInterrupt


def test_numbers_are_those_of_plain_passes_and_scikit_learn(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    result = probe(probe_of(lab_base, lab_records, tmp_path / "out", folds=4, seed=3))
    model, tokenizer = load_base(str(lab_base)), load_tokenizer(str(lab_base))
    inputs: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs.append(given[0][0].double())

    model.model.layers[2].self_attn.o_proj.register_forward_pre_hook(keep)
    with torch.no_grad():
        for record in lab_records:
            model(input_ids=torch.tensor([encode_prompt(tokenizer, record.conversation)]))
    truth = [record.label == "malicious" for record in lab_records]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    for kind, vectors in (("last", [x[-1] for x in inputs]), ("mean", [x.mean(0) for x in inputs])):
        found = result.probes[kind][2]
        for name, scoring in (("auroc", "roc_auc"), ("accuracy", "accuracy")):
            scores = cross_val_score(classifier, torch.stack(vectors).numpy(), truth, cv=folds, scoring=scoring)
            # half precision moves a prompt across a boundary that it lay on, if any: one pair, one prompt
            assert getattr(found, name).folds == pytest.approx(list(scores), abs=0.06)
            assert getattr(found, name).mean == pytest.approx(scores.mean(), abs=0.015)


def test_everything_is_written_and_chosen(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    result = probe(probe_of(lab_base, lab_records, tmp_path / "out", top=2, name="lab"))
    assert written(tmp_path / "out") == {"mogu_probe.json", "probe.json", "probe.png", "activations"}
    numbers = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert numbers == json.loads(json.dumps(result.as_json()))
    assert (numbers["format"], numbers["model"], numbers["base"]) == (1, "lab", None)
    assert numbers["prompts"] == {"benign": 40, "malicious": 40}
    assert [one["layer"] for one in numbers["layers"]] == [0, 1, 2, 3]
    assert all(len(one[kind]["margin"]["folds"]) == 5 for one in numbers["layers"] for kind in ("last", "mean"))
    best = sorted(range(4), key=lambda layer: -numbers["layers"][layer]["last"]["auroc"]["mean"])
    assert numbers["choice"]["top"] == sorted(numbers["choice"]["top"])
    assert max(numbers["layers"][layer]["last"]["auroc"]["mean"] for layer in numbers["choice"]["top"]) == pytest.approx(
        numbers["layers"][best[0]]["last"]["auroc"]["mean"]
    )
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_probe_resumes_and_another_threshold_reads_nothing(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        probe(probe_of(lab_base, lab_records, out, batch_size=10), progress=RecordedProgress(after=40))
    assert written(out) == {"mogu_probe.json", "activations"}
    assert len(list((out / "activations").glob("part-*"))) == 4
    resumed = RecordedProgress()
    result = probe(probe_of(lab_base, lab_records, out, batch_size=10), progress=resumed)
    assert [done for what, done, _ in resumed.calls if what == "reading prompts"] == [40, 50, 60, 70, 80]
    whole = probe(probe_of(lab_base, lab_records, tmp_path / "whole", batch_size=10))
    assert result.probes == whole.probes
    again = RecordedProgress()
    assert probe(probe_of(lab_base, lab_records, out, threshold=0.99), progress=again).choice.threshold == 0.99
    assert [done for what, done, _ in again.calls if what == "reading prompts"] == [80]


def test_of_a_saved_model_the_base_is_probed(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    model = MoguModel.from_base(load_base(str(lab_base)), MoguConfig(base_model=str(lab_base), layers=[1, 2]))
    for layer in model.routed_layers:  # responders that would change everything, were they probed
        layer.set_responder("glad", *(torch.randn(shape) for shape in ((8, 128), (128, 8))))
    model.save_pretrained(tmp_path / "saved")
    result = probe(probe_of(tmp_path / "saved", lab_records, tmp_path / "out"))
    assert (result.model, result.base) == (str(tmp_path / "saved"), str(lab_base))
    assert result.probes == probe(probe_of(lab_base, lab_records, tmp_path / "base")).probes


def test_a_system_prompt_is_read_as_in_training(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    plain = probe(probe_of(lab_base, lab_records, tmp_path / "plain"))
    told = probe(probe_of(lab_base, lab_records, tmp_path / "told", system_prompt="Answer in one sentence."))
    system = {"role": "system", "content": "Answer in one sentence."}
    by_hand = [
        Record.model_validate(record.model_dump(exclude={"instruction"}) | {"messages": [system, *record.conversation]})
        for record in lab_records
    ]
    assert told.probes == probe(probe_of(lab_base, by_hand, tmp_path / "hand")).probes
    assert told.probes != plain.probes


def test_labels_that_nothing_separates_leave_no_choice(lab_base: Path, tmp_path: Path) -> None:
    drawn = torch.randint(2, (400,), generator=torch.Generator().manual_seed(1)).tolist()  # few prompts are separated by luck
    mixed = [
        record.model_copy(update={"label": ("benign", "malicious")[label]})
        for record, label in zip(records("train", benign=200, malicious=200), drawn, strict=True)
    ]
    with pytest.raises(MoguError, match=r"No layer separates benign prompts from malicious ones: the best AUROC is 0\.5\d, in layer \d"):
        probe(probe_of(lab_base, mixed, tmp_path / "out"))
    assert not written(tmp_path / "out") & {"probe.json", "probe.png"}


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"folds": 50}, DataError, "There are 40 benign prompts, for 50 folds"),
        ({"folds": 1}, ConfigError, "1 folds"),
        ({"threshold": 0.3}, ConfigError, "threshold is 0.3"),
        ({"top": 5}, ConfigError, "a number from 1 to 4"),
        ({"base_model": "somewhere"}, ConfigError, "is no saved MoGU model"),
        ({"model": "./nowhere"}, ModelFileError, "nowhere does not exist"),
        ({"chat_template": Path("nowhere.jinja")}, ConfigError, "nowhere.jinja cannot be read"),
        ({"output_projection": "self_attn.nothing"}, MoguError, "self_attn.nothing"),
    ],
)
def test_bad_settings_write_nothing(
    lab_base: Path, lab_records: list[Record], tmp_path: Path, changes: dict[str, object], error: type[MoguError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        probe(probe_of(lab_base, lab_records, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_label_with_too_few_records(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    few = [record for record in lab_records if record.label == "benign"] + lab_records[-4:]
    with pytest.raises(DataError, match="There are 4 malicious prompts"):
        probe(probe_of(lab_base, few, tmp_path / "out"))
    with pytest.raises(DataError, match="There are 0 malicious prompts"):
        probe(probe_of(lab_base, few[:-4], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_prompt_longer_than_the_context(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    long = lab_records[3].model_copy(update={"instruction": "bread " * 2000})
    with pytest.raises(DataError, match=rf"record '{lab_records[3].id}' has \d+ tokens.*at most 1024"):
        probe(probe_of(lab_base, [*lab_records[:3], long, *lab_records[4:]], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(lab_base: Path, lab_records: list[Record], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(MoguError, match="was not written by mogu"):
        probe(probe_of(lab_base, lab_records, tmp_path))
    assert written(tmp_path) == {"mine.txt"}


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_what_the_extra_brings_is_asked_for_at_once(
    lab_records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"is not installed.*mogu\[eval\]"):
        probe(probe_of(Path("nowhere"), lab_records, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
