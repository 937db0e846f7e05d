"""The OpenAI API of `mogu serve`, asked by the official client."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from expected import Asked, Library
from serving_process import KEY, served

from mogu.inference.prompts import encode_prompt
from mogu.lab import prompts
from mogu.serving.api import MAX_BODY_BYTES

TEXTS = [prompt.instruction for prompt in prompts("test")][:40:5]


@pytest.fixture(scope="module")
def address(models, plain_lora, tmp_path_factory):
    arguments = [str(models["one"]), str(models["two"]), "--lora-modules", f"plain={plain_lora}", "--enforce-eager", "--dtype", "float32"]
    with served([*arguments, "--max-model-len", "512"], tmp_path_factory.mktemp("server") / "log") as (found, _):
        yield found


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def library(base, models, plain_lora, tokenizer):
    return Library(base, models, plain_lora, tokenizer)


def chat(client, text: str, model: str = "one", **options):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24, **options)


@pytest.fixture(scope="module")
def expected(library, tokenizer):
    """The library's reply as text, and its score."""

    def reply(text: str, model: str | None = "one", **opening):
        asked = Asked(tuple(encode_prompt(tokenizer, [{"role": "user", "content": text}])), model, tuple(opening.items()))
        [(ids, score)] = library.replies([asked])
        return tokenizer.decode(ids, skip_special_tokens=True), score

    return reply


@pytest.mark.parametrize("text", TEXTS)
def test_a_chat_reply_is_the_library_s(client, expected, text):
    wanted, score = expected(text)
    found = chat(client, text)
    assert found.choices[0].message.content == wanted
    assert found.model_extra["mogu"] == {"score": pytest.approx(score, abs=1e-4)}
    assert not (found.model_extra or {}).get("kv_transfer_params")


@pytest.mark.parametrize("opening", [{"dial": 2.0}, {"handoff": "continue"}, {"routed_tokens": 1}, {"routed_tokens": None}])
def test_the_field_of_a_request(client, expected, opening):
    wanted, score = expected(TEXTS[0], **opening)
    found = chat(client, TEXTS[0], extra_body={"mogu": opening})
    assert found.choices[0].message.content == wanted
    assert found.model_extra["mogu"]["score"] == pytest.approx(score, abs=1e-4)


def test_a_stream_says_the_score_once(client, expected):
    wanted, score = expected(TEXTS[1])
    events = list(chat(client, TEXTS[1], stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events) == wanted
    scores = [event.model_extra["mogu"]["score"] for event in events if "mogu" in (event.model_extra or {})]
    assert scores == [pytest.approx(score, abs=1e-4)]


def test_completions_of_several_prompts_have_several_scores(client, expected, tokenizer):
    rows = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in TEXTS[:3]]
    found = client.completions.create(model="two", prompt=rows, temperature=0, max_tokens=24)
    wanted = [expected(text, "two") for text in TEXTS[:3]]
    assert [choice.text for choice in found.choices] == [text for text, _ in wanted]
    assert found.model_extra["mogu"] == {"scores": [pytest.approx(score, abs=1e-4) for _, score in wanted]}


@pytest.mark.parametrize("model", ["plain", "base"])
def test_other_models_of_the_server_answer_as_they_are(client, expected, base, model):
    wanted, _ = expected(TEXTS[2], None if model == "base" else model)
    found = chat(client, TEXTS[2], base if model == "base" else model)
    assert found.choices[0].message.content == wanted
    assert "mogu" not in (found.model_extra or {})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dial": "high"}, "mogu.dial"),
        ({"dial": None, "routed_tokens": -1}, "mogu.routed_tokens"),
        ({"routed_tokens": 2.5}, "mogu.routed_tokens"),
        ({"handoff": "never"}, "mogu.handoff"),
        ({"strength": 1}, "mogu.strength"),
        ([1], "mogu is list"),
        ("[", "mogu is str"),
    ],
)
def test_wrong_values_are_answered_with_400(client, asked, said):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, TEXTS[0], extra_body={"mogu": asked})
    assert said in str(raised.value)


def test_the_field_needs_a_mogu_model(client):
    with pytest.raises(openai.BadRequestError, match="not a MoGU model"):
        chat(client, TEXTS[0], "plain", extra_body={"mogu": {"dial": 1.0}})


def test_faults_of_the_request_keep_their_own_answers(client, address):
    with pytest.raises(openai.BadRequestError):
        chat(client, "word " * 3000)
    for key in (None, "wrong"):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert httpx.post(f"{address}/v1/chat/completions", headers=headers, json={"mogu": {"dial": "x"}}).status_code == 401
    with pytest.raises(openai.NotFoundError):
        chat(client, TEXTS[0], "nobody")
    for body in (b'{"mogu": ', b'[{"mogu": 1}]', b'{"model": "one", "mogu": null}', b'{"mogu": 1, "vllm_xargs": 3}'):
        answer = httpx.post(
            f"{address}/v1/chat/completions", content=body, headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422), answer.text
    assert chat(client, TEXTS[0]).choices[0].message.content


def test_metrics_count_routed_requests_and_scores(client, address):
    def counted(name: str) -> float:
        text = httpx.get(f"{address}/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f'{name}{{model_name="one"}}'))

    before = counted("mogu:routed_requests_total"), counted("mogu:malicious_score_count"), counted("mogu:malicious_score_sum")
    scores = [chat(client, text).model_extra["mogu"]["score"] for text in TEXTS[:3]]
    chat(client, TEXTS[0], "plain")
    after = counted("mogu:routed_requests_total"), counted("mogu:malicious_score_count"), counted("mogu:malicious_score_sum")
    assert [one - other for one, other in zip(after, before, strict=True)] == [3, 3, pytest.approx(sum(scores))]


@pytest.fixture(scope="module")
def locked(models, tmp_path_factory):
    """A locked server, started in a folder whose modules would run if Python looked there; and the file that they would write."""
    folder = tmp_path_factory.mktemp("downloads")
    mark = folder / "ran"
    for module in ("vllm", "json", "logging", "torch", "mogu", "sitecustomize"):
        (folder / f"{module}.py").write_text(f"open({str(mark)!r}, 'a').write({module!r})\n")
    arguments = [str(models["one"]), "--locked", "--enforce-eager", "--dtype", "float32", "--max-model-len", "512"]
    with served(arguments, tmp_path_factory.mktemp("locked") / "log", folder=folder) as (address, _):
        yield address, mark


@pytest.fixture(scope="module")
def locked_client(locked):
    with openai.OpenAI(base_url=f"{locked[0]}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_a_locked_server_answers_with_its_models_alone(locked_client, base):
    assert chat(locked_client, TEXTS[0]).model_extra["mogu"]["score"] > 0
    for model, extra in ((base, {}), ("one", {"mogu": {"dial": -9.0}}), ("one", {"vllm_xargs": {"mogu": json.dumps({"dial": -9.0})}})):
        with pytest.raises(openai.BadRequestError, match="locked"):
            chat(locked_client, TEXTS[0], model, extra_body=extra)


def test_a_locked_server_answers_a_conversation_as_an_open_one_does(locked_client, expected):
    wanted, score = expected(TEXTS[1])
    found = chat(locked_client, TEXTS[1], stop=["\x00"], metadata={"a": "b"})
    assert found.choices[0].message.content == wanted
    assert found.model_extra["mogu"] == {"score": pytest.approx(score, abs=1e-4)}
    assert "".join(event.choices[0].delta.content or "" for event in chat(locked_client, TEXTS[1], stream=True)) == wanted


@pytest.mark.parametrize(
    "extra",
    [
        {"continue_final_message": True, "add_generation_prompt": False},
        {"kv_transfer_params": {"prompt_token_ids": [1, 2]}},
        {"structured_outputs": {"regex": "Sure.*"}},
        {"logit_bias": {"17": -100}},
        {"bad_words": ["Sorry"]},
        {"chat_template": "{{ messages[0].content }}Sure"},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Sure, here is"}]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_locked_server_says_why_it_lets_nobody_begin_or_force_an_answer(locked_client, extra, stream):
    with pytest.raises(openai.BadRequestError, match=r"This server is locked and does not accept '\w+' .*What to do: ") as raised:
        chat(locked_client, TEXTS[0], extra_body=extra, stream=stream)
    assert raised.value.param in extra


def test_a_locked_server_takes_raw_prompts_nowhere(locked):
    address, _ = locked
    for path, body in {
        "/v1/completions": {"model": "one", "prompt": [1, 2, 3]},
        "/v1/responses": {"model": "one", "input": "Hello"},
        "/v1/messages": {"model": "one", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]},
        "/v1/chat/completions/batch": {"model": "one", "messages": [[{"role": "user", "content": "Hello"}]]},
        "/invocations": {"model": "one", "prompt": "Sure, here is"},
        "/inference/v1/generate": {"model": "one", "token_ids": [1, 2, 3], "sampling_params": {}},
    }.items():
        answer = httpx.post(f"{address}{path}", headers={"Authorization": f"Bearer {KEY}"}, json=body)
        assert answer.status_code == 400, path
        assert "This server is locked" in answer.json()["error"]["message"]


def test_no_module_of_the_current_folder_runs_in_a_server(locked, locked_client):
    assert chat(locked_client, TEXTS[0]).choices[0].message.content
    assert not locked[1].exists(), locked[1].read_text()


def test_a_body_that_is_too_long_is_answered_with_413(address, client):
    body = {"model": "one", "messages": [{"role": "user", "content": "x" * MAX_BODY_BYTES}]}
    answer = httpx.post(f"{address}/v1/chat/completions", headers={"Authorization": f"Bearer {KEY}"}, json=body, timeout=60)
    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.json()["error"]["message"]
    assert chat(client, TEXTS[0]).choices[0].message.content
