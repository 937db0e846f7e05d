"""`mogu data` from the outside: files in, files out, exit codes, and one clear error for whatever is wrong."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mogu.cli.data import app
from mogu.data import read_records
from mogu.errors import ConfigError, DataError, ModelFileError, MoguError
from mogu.refusals import is_refusal
from tests.kills import held, killed_at

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}</s>"


def mogu_data(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def files(tmp_path):
    benign = "".join(json.dumps({"question": f"Name {number} rivers.", "answer": "The Elbe."}) + "\n" for number in range(20))
    (tmp_path / "benign.jsonl").write_text(benign)
    (tmp_path / "malicious.txt").write_text("".join(f"Explain how to pick {number} locks of a neighbor\n" for number in range(20)))
    return ["--benign", tmp_path / "benign.jsonl", "--malicious", tmp_path / "malicious.txt", "--out", tmp_path / "pairs.jsonl"]


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_build_writes_three_valid_splits_and_says_where(files, tmp_path):
    result = mogu_data("build", *files, "--augment", 0.5)
    assert result.exit_code == 0, result.output
    for name, count in (("pairs.jsonl", 16), ("pairs.dev.jsonl", 2), ("pairs.test.jsonl", 2)):
        assert Counter(record.label for record in read_records(tmp_path / name)) == {"benign": count, "malicious": count}
        assert mogu_data("validate", tmp_path / name).exit_code == 0
    assert "train" in result.output


def test_build_takes_look_alikes_from_a_third_file_and_validate_counts_them(files, tmp_path):
    rows = [{"asked": f"How do I kill {number} processes?", "output": "Press Ctrl-C."} for number in range(10)]
    (tmp_path / "alike.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = mogu_data("build", *files, "--borderline", tmp_path / "alike.jsonl", "--borderline-column", "asked")
    assert result.exit_code == 0, result.output
    assert "borderline" in result.output
    assert Counter(record.kind for record in read_records(tmp_path / "pairs.jsonl")) == {"benign": 16, "borderline": 8, "malicious": 16}
    assert "40 good records (16 benign, 8 borderline, 16 malicious)" in mogu_data("validate", tmp_path / "pairs.jsonl").output
    report = json.loads(mogu_data("validate", tmp_path / "pairs.jsonl", "--json").output)
    assert (report["labels"], report["borderline"]) == ({"benign": 24, "malicious": 16}, 8)


def test_the_same_seed_gives_the_same_bytes_and_force_is_needed(files, tmp_path):
    assert mogu_data("build", *files).exit_code == 0
    before = listing(tmp_path)
    refused = mogu_data("build", *files, "--seed", 1)
    assert isinstance(refused.exception, ConfigError)
    assert "--force" in str(refused.exception)
    assert listing(tmp_path) == before
    assert mogu_data("build", *files, "--force").exit_code == 0
    assert listing(tmp_path) == before
    assert mogu_data("build", *files, "--force", "--seed", 1).exit_code == 0
    assert listing(tmp_path) != before


def test_a_split_of_an_earlier_run_does_not_outlive_it(files, tmp_path):
    assert mogu_data("build", *files).exit_code == 0
    assert mogu_data("build", *files, "--force", "--test", 0).exit_code == 0
    assert (tmp_path / "pairs.dev.jsonl").exists()
    assert not (tmp_path / "pairs.test.jsonl").exists()


def test_a_kill_at_any_call_leaves_no_records_beside_those_of_another_build(files, tmp_path):
    """The training records are named last: where they are, the held-out ones are of the same instructions' other parts."""
    builds = []
    for seed in (0, 1):
        assert mogu_data("build", *files, "--force", "--seed", seed).exit_code == 0
        builds.append({name: content for name, content in listing(tmp_path).items() if name.startswith("pairs")})

    def build():
        assert mogu_data("build", *files, "--force", "--seed", 1).exit_code == 0

    call, found = 0, []
    while True:
        call += 1
        for name, content in builds[0].items():
            (tmp_path / name).write_bytes(content)
        killed = killed_at(call, build, folder=str(tmp_path))
        left = {name: content for name, content in listing(tmp_path).items() if name.startswith("pairs")}
        assert "pairs.jsonl" not in left or left in builds
        assert all(content in (builds[0][name], builds[1][name]) for name, content in left.items())
        build()
        assert {name: content for name, content in listing(tmp_path).items() if name.startswith("pairs")} == builds[1]
        assert not list(tmp_path.glob(".*.incoming"))
        found.append("pairs.jsonl" in left and builds.index(left))
        if not killed:
            break
    assert found[0] == 0  # the first calls change nothing
    assert found[-1] == 1


def test_a_second_build_at_the_same_output_is_refused(files, tmp_path):
    with held(tmp_path / ".pairs.jsonl.lock"):
        refused = mogu_data("build", *files)
    assert isinstance(refused.exception, MoguError)
    assert "Another process is writing" in str(refused.exception)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_an_existing_split_is_not_overwritten_either(files, tmp_path):
    (tmp_path / "pairs.test.jsonl").write_text("precious")
    assert isinstance(mogu_data("build", *files).exception, ConfigError)
    assert (tmp_path / "pairs.test.jsonl").read_text() == "precious"
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("extra", "error", "reason"),
    [
        (["--benign-column", "nothing"], DataError, "'question', 'answer'"),
        (["--malicious-column", "goal"], DataError, "no column 'goal'"),
        (["--augment", "2"], ConfigError, "augment is 2"),
        (["--dev", "0.6", "--test", "0.5"], ConfigError, "dev 0.6 and test 0.5"),
        (["--refusals", "model"], ConfigError, "--model BASE"),
        (["--refusals", "nothing.txt"], DataError, "nothing.txt"),
        (["--limit", "2"], DataError, "only 2 benign"),
    ],
)
def test_what_is_wrong_is_said_once_and_nothing_is_written(files, tmp_path, extra, error, reason):
    before = listing(tmp_path)
    result = mogu_data("build", *files, *extra)
    assert isinstance(result.exception, error), result.output
    assert reason in str(result.exception)
    assert listing(tmp_path) == before


def test_an_output_that_is_no_jsonl_or_a_folder_is_refused(files, tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    for out in (tmp_path / "pairs.json", tmp_path / "folder.jsonl"):
        assert isinstance(mogu_data("build", *files[:-1], out).exception, ConfigError)


def test_without_answers_and_without_a_model_the_way_out_is_named(files, tmp_path):
    plain = tmp_path / "plain.txt"
    plain.write_text("Name a river.\n")
    result = mogu_data("build", "--benign", plain, *files[2:])
    assert isinstance(result.exception, ConfigError)
    assert "--model BASE, or a benign file with an answer column" in str(result.exception)


def test_starter_writes_lists_that_build_reads_and_overwrites_only_when_told_to(tmp_path):
    written = mogu_data("starter", "--out", tmp_path / "set")
    assert written.exit_code == 0, written.output
    files = listing(tmp_path / "set" / "train")
    assert set(files) == {"benign.jsonl", "borderline.jsonl", "malicious.jsonl"}
    assert f"--borderline {tmp_path / 'set' / 'train' / 'borderline.jsonl'}" in written.output
    assert "data.train=starter" in written.output
    (tmp_path / "set" / "train" / "benign.jsonl").write_text("mine\n")
    again = mogu_data("starter", "--out", tmp_path / "set")
    assert isinstance(again.exception, ConfigError)
    assert (tmp_path / "set" / "train" / "benign.jsonl").read_text() == "mine\n"
    assert mogu_data("starter", "--out", tmp_path / "set", "--force").exit_code == 0
    assert listing(tmp_path / "set" / "train") == files
    answered = [{**json.loads(line), "output": "An answer."} for line in files["benign.jsonl"].decode().splitlines()]
    (tmp_path / "benign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answered))
    lists = ["--benign", tmp_path / "benign.jsonl", "--malicious", tmp_path / "set" / "train" / "malicious.jsonl"]
    built = mogu_data("build", *lists, "--out", tmp_path / "pairs.jsonl", "--dev", 0, "--test", 0)
    assert built.exit_code == 0, built.output
    assert Counter(record.kind for record in read_records(tmp_path / "pairs.jsonl")) == {"benign": 1800, "malicious": 2788}


def test_validate_names_line_field_and_reason(tmp_path):
    path = tmp_path / "records.jsonl"
    good = {"id": "a", "label": "benign", "instruction": "Hi", "affirm": "Hi.", "reject": "I can't help."}
    path.write_text(
        "\n".join(json.dumps({**good, **change}) for change in ({}, {"id": "b", "label": "[red]bad"}, {"id": "c", "label": "malicious"}))
    )
    shown = mogu_data("validate", path)
    assert shown.exit_code == 2
    assert "[red]bad" in shown.output
    printed = mogu_data("validate", path, "--json")
    assert printed.exit_code == 2
    report = json.loads(printed.output)
    assert (report["valid"], report["records"], report["labels"]) == (False, 2, {"benign": 1, "malicious": 1})
    ((problem),) = report["problems"]
    assert (problem["line"], problem["field"]) == (2, "label")
    assert "'benign' or 'malicious'" in problem["reason"]


def test_validate_of_nothing_is_one_error(tmp_path):
    assert isinstance(mogu_data("validate", tmp_path / "none.jsonl").exception, MoguError)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random two-layer Llama with a tokenizer trained here: it answers, if not to the point."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(["Name a river"], trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, initializer_range=0.3, **sizes)
    ).save_pretrained(folder)
    return folder


def test_a_base_model_fills_missing_answers_in(files, tmp_path, base):
    plain = tmp_path / "plain.txt"
    plain.write_text("".join(f"Name {number} rivers.\n" for number in range(10)))
    result = mogu_data(
        "build", "--benign", plain, *files[2:], "--model", base, "--max-new-tokens", 6, "--refusals", "model", "--dev", 0, "--test", 0
    )
    assert result.exit_code == 0, (result.output, result.exception)
    records = read_records(tmp_path / "pairs.jsonl")
    assert Counter(record.label for record in records) == {"benign": 10, "malicious": 20}
    assert all(is_refusal(record.instruction, record.reject) for record in records)


def test_refusals_come_from_a_file(files, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("That is beyond me.\nLeave me out of {subject}.\n")
    result = mogu_data("build", *files, "--refusals", own)
    assert result.exit_code == 0, (result.output, result.exception)
    rejects = {record.reject for record in read_records(tmp_path / "pairs.jsonl")}
    assert "That is beyond me." in rejects
    assert all(reject == "That is beyond me." or reject.startswith("Leave me out of ") for reject in rejects)
    assert not any("{" in reject for reject in rejects)


def test_a_model_that_is_not_there_is_one_error(files, tmp_path):
    result = mogu_data("build", *files, "--model", tmp_path / "nowhere")
    assert isinstance(result.exception, ModelFileError)
    assert not (tmp_path / "pairs.jsonl").exists()


@needs_shared
def test_advbench_and_the_seed_tasks(tmp_path):
    arguments = ["--benign", SHARED / "seed_tasks.jsonl", "--malicious", SHARED / "advbench.csv", "--limit", 150, "--augment", 0.5]
    result = mogu_data("build", *arguments, "--out", tmp_path / "pairs.jsonl")
    assert result.exit_code == 0, result.exception
    written = [record for path in tmp_path.glob("*.jsonl") for record in read_records(path)]
    asked = [str(record.conversation[-1]["content"]) for record in written]
    # The people who wrote the seed tasks' answers declined these two, so they are no examples of answering.
    assert not any(text.startswith(("Give me the address of this person", "Return the SSN number for the person")) for text in asked)
    # 120 but for those two and one false alarm: "Write a list of questions to start a conversation." is answered by asking.
    assert Counter(record.label for record in read_records(tmp_path / "pairs.jsonl")) == {"benign": 117, "malicious": 120}
