"""The model provider: what it answers, with whom it shares weights, and what it refuses to do."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import generate as generate_once
from inspect_ai.tool import ToolCall, ToolInfo

from mogu import MoguModel
from mogu.defenses import TargetModel, make_defense
from mogu.errors import ConfigError, ModelFileError
from mogu.evaluation.inspect.model_pool import LoadOptions, shared_target
from mogu.inference.prompts import encode_prompt
from mogu.inference.replies import ReplySettings
from mogu.lab import prompts

pytestmark = pytest.mark.core

ASKED = [prompt.instruction for prompt in prompts("dev")[::12]]


def generate(model: Any, asked: list[Any], **config: Any) -> list[ModelOutput]:
    """Replies to concurrent requests, in their order."""
    outputs: dict[int, ModelOutput] = {}

    async def one(number: int, prompt: Any) -> None:
        outputs[number] = await model.generate(prompt, config=GenerateConfig(**config))

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for number, prompt in enumerate(asked):
                group.start_soon(one, number, prompt)

    anyio.run(all_of_them)
    return [outputs[number] for number in range(len(asked))]


@pytest.mark.parametrize("defense", ["none", "mogu"])
def test_batched_replies_are_those_given_one_by_one(lab_mogu: Path, defense: str) -> None:
    model = get_model(f"mogu/{lab_mogu}", defense=defense, batch_size=8)
    outputs = generate(model, ASKED, max_tokens=24, max_connections=64)
    alone = make_defense(defense, TargetModel.load(lab_mogu))
    expected = [alone.reply([[{"role": "user", "content": one}]], ReplySettings(24))[0] for one in ASKED]
    assert [output.completion for output in outputs] == [reply.text for reply in expected]
    assert [output.usage.output_tokens for output in outputs] == [reply.tokens for reply in expected]
    sizes = [output.metadata["batch"] for output in outputs]
    assert max(sizes) <= 8
    assert sum(1 / size for size in sizes) < len(ASKED) / 2  # batches, however the machine was busy
    assert {output.metadata["defense"] for output in outputs} == {defense}


def test_a_conversation_that_cannot_be_answered_ends_none_of_its_batch(lab_base: Path, tmp_path: Path) -> None:
    template = tmp_path / "brief.jinja"
    own = shared_target(str(lab_base), LoadOptions()).target.tokenizer.chat_template
    too_long = "{{ raise_exception('This prompt is too long.') }}"
    template.write_text(
        "{% for message in messages %}{% if message['content'] | length > 2000 %}" + too_long + "{% endif %}{% endfor %}" + own
    )
    model = get_model(f"mogu/{lab_base}", chat_template=str(template), batch_size=8)
    samples = [Sample(input=text, id=number) for number, text in enumerate([*ASKED[:4], "word " * 500, *ASKED[4:6]])]
    task = Task(dataset=MemoryDataset(samples), solver=generate_once())
    [log] = inspect_eval(task, model=model, max_tokens=12, fail_on_error=False, max_samples=16)
    assert log.status == "success"
    assert log.samples is not None
    [faulty] = [sample for sample in log.samples if sample.error is not None]
    assert (faulty.id, "This prompt is too long." in faulty.error.message) == (4, True)
    plain = get_model(f"mogu/{lab_base}")
    expected = [output.completion for output in generate(plain, [*ASKED[:4], *ASKED[4:6]], max_tokens=12)]
    assert [sample.output.completion for sample in log.samples if sample.error is None] == expected


def test_metadata_carry_score_weights_and_cost(lab_mogu: Path) -> None:
    [output] = generate(get_model(f"mogu/{lab_mogu}"), ASKED[:1], max_tokens=6)
    found = output.metadata
    model = MoguModel.from_pretrained(lab_mogu)
    assert found["defense"] == "mogu"
    assert found["intervened"] is False
    assert len(found["unwill"]) == len(found["glad"]) == 4
    by_hand = sum(unwill / (unwill + glad) for unwill, glad in zip(found["unwill"], found["glad"], strict=True)) / 4
    assert found["score"] == pytest.approx(by_hand, abs=1e-6)
    assert found["score"] == pytest.approx(model.score([ASKED[0]])[0].item(), abs=1e-5)
    prompt = len(encode_prompt(model.tokenizer, ASKED[0]))
    # The prompt and four more tokens routed; then the base model reads prompt and opening again.
    assert found["cost"]["passes"] == 6
    assert found["cost"]["tokens"] == (prompt + 4) + (prompt + 5)
    assert 0 < found["cost"]["seconds"] <= output.time
    assert output.usage.input_tokens == prompt
    assert output.usage.total_tokens == prompt + output.usage.output_tokens


def test_options_reach_the_defense(lab_mogu: Path) -> None:
    def first_layer(**options: Any) -> dict[str, float]:
        [output] = generate(get_model(f"mogu/{lab_mogu}", **options), ASKED[:1], max_tokens=2)
        return {name: math.log(output.metadata[name][0] / (1 - output.metadata[name][0])) for name in ("unwill", "glad")}

    plain, shifted = first_layer(), first_layer(dial=1.5)
    assert shifted["unwill"] - plain["unwill"] == pytest.approx(1.5, abs=1e-3)
    assert shifted["glad"] - plain["glad"] == pytest.approx(-1.5, abs=1e-3)
    [unrouted] = generate(get_model(f"mogu/{lab_mogu}", routed_tokens=0), ASKED[:1], max_tokens=8)
    [base] = generate(get_model(f"mogu/{lab_mogu}", defense="none"), ASKED[:1], max_tokens=8)
    assert unrouted.completion == base.completion
    assert "score" not in unrouted.metadata


def test_a_base_model_has_no_defense_unless_told(lab_base: Path) -> None:
    [output] = generate(get_model(f"mogu/{lab_base}"), ["What does the fennick eat?"], max_tokens=30)
    assert output.metadata["defense"] == "none"
    assert output.stop_reason == "stop"


def test_settings_are_heeded(lab_base: Path) -> None:
    model = get_model(f"mogu/{lab_base}")
    [whole] = generate(model, ASKED[:1], max_tokens=30)
    [cut] = generate(model, ASKED[:1], max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    assert whole.completion.startswith(cut.completion)
    word = whole.completion.split()[2]
    [stopped] = generate(model, ASKED[:1], max_tokens=30, stop_seqs=[word])
    assert stopped.completion == whole.completion[: whole.completion.index(word)].strip()
    assert stopped.stop_reason == "stop"
    sampled = [generate(model, ASKED[:1], max_tokens=30, temperature=3.0, seed=seed)[0].completion for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    [narrow] = generate(model, ASKED[:1], max_tokens=30, temperature=3.0, top_k=1)
    assert narrow.completion == whole.completion


def test_system_prompt_and_history_are_part_of_the_prompt(lab_base: Path) -> None:
    model = get_model(f"mogu/{lab_base}")
    history = [
        ChatMessageSystem(content="You are a helpful assistant."),
        ChatMessageUser(content=[ContentText(text="Hello!")]),
        ChatMessageAssistant(content="Hello! How can I help you?"),
        ChatMessageUser(content="What does the fennick eat?"),
    ]
    [output] = generate(model, [history], max_tokens=4)
    talk = [{"role": message.role, "content": message.text} for message in history]
    tokenizer = shared_target(str(lab_base), LoadOptions()).target.tokenizer
    assert output.usage.input_tokens == len(encode_prompt(tokenizer, talk))


def test_defenses_of_one_model_share_its_weights_until_all_are_closed(lab_mogu: Path) -> None:
    models = [get_model(f"mogu/{lab_mogu}", defense=defense, dtype="float32", memoize=False) for defense in ("none", "mogu")]
    shared = shared_target(str(lab_mogu), LoadOptions(dtype="float32"))
    target = weakref.ref(shared.target)
    assert [model.api._ready[0] for model in models] == [shared, shared]
    generate(models[0], ASKED[:1], max_tokens=1)
    del shared
    models[0].api.close()
    gc.collect()
    assert target() is not None
    [output] = generate(models[1], ASKED[:1], max_tokens=1)
    assert output.metadata["defense"] == "mogu"
    models[1].api.close()
    gc.collect()
    assert target() is None
    with pytest.raises(ConfigError, match="closed"):
        generate_one(models[1], ASKED[0])


def generate_one(model: Any, prompt: Any, tools: list[ToolInfo] | None = None, **config: Any) -> ModelOutput:
    """One request straight to the provider, past Inspect's own handling of errors."""
    messages = prompt if isinstance(prompt, list) else [ChatMessageUser(content=prompt)]
    return anyio.run(model.api.generate, messages, tools or [], "none", GenerateConfig(**config))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"defense": "prayer"}, ConfigError, "no defense 'prayer'"),
        ({"defense": "none", "dial": 1.0}, ConfigError, "given dial"),
        ({"dyal": 1.0}, ConfigError, "given dyal.*dial"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"dtype": "int8"}, ConfigError, "dtype is 'int8'"),
        ({"chat_template": "/nowhere.jinja"}, ConfigError, "nowhere.jinja"),
    ],
)
def test_bad_options_are_explained(lab_mogu: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        get_model(f"mogu/{lab_mogu}", **options)
    assert isinstance(caught.value, PrerequisiteError)  # so that `inspect eval` prints its message and no traceback


def test_a_model_that_is_not_there_is_explained() -> None:
    with pytest.raises(ModelFileError, match="/no/such/model does not exist"):
        get_model("mogu//no/such/model")


def test_mogu_on_a_base_model_is_explained(lab_base: Path) -> None:
    with pytest.raises(ConfigError, match="plain base model"):
        get_model(f"mogu/{lab_base}", defense="mogu")


@pytest.mark.parametrize("config", [{"num_choices": 2}, {"logprobs": True}, {"frequency_penalty": 0.5}, {"best_of": 3}])
def test_settings_that_would_be_ignored_are_refused(lab_base: Path, config: dict[str, Any]) -> None:
    model = get_model(f"mogu/{lab_base}")
    with pytest.raises(ConfigError, match=next(iter(config))):
        generate_one(model, ASKED[0], **config)


def test_neutral_settings_are_let_pass(lab_base: Path) -> None:
    output = generate_one(get_model(f"mogu/{lab_base}"), ASKED[0], max_tokens=2, num_choices=1, logprobs=False, max_connections=3)
    assert output.usage.output_tokens == 2


def test_tools_and_pictures_are_refused(lab_base: Path) -> None:
    model = get_model(f"mogu/{lab_base}")
    with pytest.raises(ConfigError, match="tools \\(adder\\)"):
        generate_one(model, ASKED[0], tools=[ToolInfo(name="adder", description="Adds.")])
    called = ChatMessageAssistant(content="", tool_calls=[ToolCall(id="c1", function="adder", arguments={})])
    result = ChatMessageTool(content="3", tool_call_id="c1", function="adder")
    for history in ([called], [called, result]):
        with pytest.raises(ConfigError, match="a tool call or a tool's answer"):
            generate_one(model, [ChatMessageUser(content=ASKED[0]), *history])
    with pytest.raises(ConfigError, match="user message contains image"):
        generate_one(model, [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")])])
