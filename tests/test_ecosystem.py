"""Where a PeftModel or the base model could stand, a MoguModel can: pipelines, lm-eval, accelerate, PyTorch's own tools."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
import transformers
from accelerate import cpu_offload, dispatch_model

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base
from mogu.transformers_compat import enable_checkpointing
from tests.gated_models import gated_config

pytestmark = pytest.mark.core

IDS = torch.tensor([[5, 9, 33, 12, 60, 7], [11, 6, 29, 44, 8, 52]])


@pytest.fixture
def pair(make_pair):
    return make_pair("llama")


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def pipeline_outputs(model, tokenizer, conversations, batch_size, caplog):
    """What a text generation pipeline makes of conversations, without a word of complaint."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
        outputs = pipe(conversations, max_new_tokens=6, do_sample=False, batch_size=batch_size, return_tensors=True)
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    return outputs


def test_a_text_generation_pipeline(make_pair, tokenizer, caplog):
    model, slow = make_pair("llama", torch.float32)
    messages = [[{"role": "user", "content": "hello"}], [{"role": "user", "content": "what is this thing, and why?"}]]
    outputs = pipeline_outputs(model, tokenizer, messages, 2, caplog)
    for message, output in zip(messages, outputs, strict=True):
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True, return_tensors="pt")["input_ids"]
        assert output[0]["generated_token_ids"][-6:] == slow.greedy(ids, routed_tokens=5, new_tokens=6)


def test_a_pipeline_and_lm_eval_answer_as_the_gate_decides(make_gated, tokenizer, caplog):
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="lm-eval is not installed")
    from lm_eval.api.instance import Instance

    model, slow = make_gated(config=gated_config(before=(), after=()))  # no marks: all of a prompt is the user's
    model.stream, model.tokenizer = None, tokenizer

    def who_answers(ids):
        logit = slow.logit(ids, model.gate.vectors, model.gate.bias, list(range(len(ids))), len(ids) - 1, len(ids) - 1)
        probability = 1 / (1 + math.exp(-logit))
        return "unwill" if probability >= 0.7 else "careful" if probability >= 0.4 else "base"

    texts = ["hello", "what is this thing, and why?", "a", "tell me more", "this is it", "you", "why not, then?"]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    outputs = pipeline_outputs(model, tokenizer, conversations, 3, caplog)
    answering = set()
    for conversation, output in zip(conversations, outputs, strict=True):
        ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)["input_ids"]
        answering.add(who := who_answers(ids))
        assert output[0]["generated_token_ids"][-6:] == slow.greedy(ids, who, 6)
    assert len(answering) > 1

    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=64)
    arguments = {"until": ["</s>"], "max_gen_toks": 6, "do_sample": False}
    requests = [Instance("generate_until", {}, (text, arguments), 0) for text in texts]
    for text, reply in zip(texts, harness.generate_until(requests, disable_tqdm=True), strict=True):
        ids = tokenizer.encode(text)
        answer = slow.greedy(ids, who_answers(ids), 6)
        answer = answer[: answer.index(2)] if 2 in answer else answer
        assert reply == tokenizer.decode(answer, skip_special_tokens=True)


def test_lm_eval(make_pair, tokenizer):
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="lm-eval is not installed")
    from lm_eval.api.instance import Instance

    model, slow = make_pair("llama", torch.float32)
    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=64)
    pairs = [("hello", " you"), ("what is", " this?"), ("a", "b")]
    requests = [Instance("loglikelihood", {}, arguments, 0) for arguments in pairs]
    for (context, continuation), (likelihood, greedy) in zip(pairs, harness.loglikelihood(requests, disable_tqdm=True), strict=True):
        context_ids, ids = tokenizer.encode(context), tokenizer.encode(context + continuation)
        steps = slow.logits(torch.tensor([ids]))[0].log_softmax(-1)
        wanted = [float(steps[place - 1, ids[place]]) for place in range(len(context_ids), len(ids))]
        assert likelihood == pytest.approx(sum(wanted), abs=1e-3)
        assert greedy == all(int(steps[place - 1].argmax()) == ids[place] for place in range(len(context_ids), len(ids)))
    arguments = ("hello", {"until": ["</s>"], "max_gen_toks": 6, "do_sample": False})
    (text,) = harness.generate_until([Instance("generate_until", {}, arguments, 0)], disable_tqdm=True)
    answer = slow.greedy(torch.tensor([tokenizer.encode("hello")]), routed_tokens=5, new_tokens=6, eos=2)
    assert text == tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("mode", ["on", "off", "glad"])
def test_torch_compile(pair, mode):
    """One graph without a break, in every mode, and the weights of a compiled pass are to be had."""
    model, slow = pair
    with model.routing(mode):
        expected = logits(model)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(logits(compiled), expected, atol=1e-9, rtol=1e-9)
    if mode == "on":
        slow.logits(IDS)
        wanted = torch.stack([layer.unwill_weight for layer in slow.layers])
        torch.testing.assert_close(model.routing_weights["unwill"], wanted, atol=1e-6, rtol=1e-6)
        with model.routing("off"):  # a mode that is set later is not the one that was compiled
            torch.testing.assert_close(logits(compiled), slow.logits(IDS, routed=False), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(logits(compiled), expected, atol=1e-9, rtol=1e-9)


def router_gradients(model: MoguModel) -> dict[str, torch.Tensor]:
    """Gradients of a loss on the logits and on the routing weights, as the training of routers has it."""
    model.zero_grad()
    loss = model(input_ids=IDS).logits.logsumexp(-1).mean()
    weights = model.routing_weights
    (loss + 2 * (weights["unwill"] ** 2).mean() + 2 * ((weights["glad"] - 1) ** 2).mean()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("options", [{}, {"use_reentrant": False}], ids=["default", "not reentrant"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing(make_pair, family, options):
    model, _ = make_pair(family)
    model.injected.start_router_training()
    plain = router_gradients(model.eval())
    enable_checkpointing(model, **options)
    if family == "gpt2":
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    model.train()
    checkpointed = router_gradients(model)
    assert set(checkpointed) == set(plain)
    assert len(plain) == 3 * 2 * 5
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-10, rtol=1e-7)


def test_compiled_training(pair):
    model, _ = pair
    model.injected.start_router_training()
    expected = router_gradients(model)
    model.base_model.forward = torch.compile(model.base_model.forward, backend="aot_eager")
    for name, gradient in router_gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("place", ["offloaded", "dispatched"])
def test_weights_that_accelerate_places(make_base, pair, place):
    """Weights that live elsewhere until they are needed: what routing adds lives where the projection computes."""
    model, _ = pair
    base = make_base("llama")
    if place == "offloaded":
        cpu_offload(base, execution_device=torch.device("cpu"))
        assert base.model.layers[0].self_attn.o_proj.weight.is_meta
    else:
        dispatch_model(base, {"": "cpu"}, main_device="cpu", force_hooks=True)
    placed = MoguModel.from_base(base, model.mogu_config)
    for layer, like in zip(placed.routed_layers, model.routed_layers, strict=True):
        layer.load_state_dict({name: value for name, value in like.state_dict().items() if "base_layer" not in name}, strict=False)
        layer.set_dial(0.0)
    torch.testing.assert_close(logits(placed), logits(model), atol=1e-9, rtol=1e-9)
    assert not any(layer.down.is_meta for layer in placed.routed_layers)


def test_a_base_loaded_with_a_device_map(pair, make_base, tmp_path):
    model, _ = pair
    make_base("llama").save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "saved")
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=tmp_path / "base", device_map="cpu", dtype=torch.float64)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


def quantized(make_base, tmp_path, **options):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    config = transformers.BitsAndBytesConfig(**options)
    wide = {"hidden_size": 64, "intermediate_size": 64}
    make_base("llama", torch.float32, **wide).save_pretrained(tmp_path / "base")
    return load_base(str(tmp_path / "base"), quantization_config=config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
    ],
    ids=["int8", "nf4", "nf4 in bf16"],
)
def test_quantized_base_layers(make_base, tmp_path, options):
    """Off is the quantized base; on, each layer is the formula on the quantized projection's own output."""
    base = quantized(make_base, tmp_path, **options)
    expected = logits(base)
    model = MoguModel.from_base(base, MoguConfig(rank=4))
    random = torch.Generator().manual_seed(0)
    for layer in model.routed_layers:
        assert layer.down.dtype.is_floating_point
        for name in ("unwill", "glad"):
            layer.set_responder(name, torch.randn(4, 64, generator=random) / 4, torch.randn(64, 4, generator=random) / 4)
        layer.set_router(torch.randn(2, 64, generator=random) / 4, torch.randn(2, generator=random))
    with model.routing("off"):
        assert torch.equal(logits(model), expected)

    seen = []
    layer = model.routed_layers[0]
    layer.base_layer.register_forward_hook(lambda module, inputs, output: seen.append(output.double()))
    layer.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0].double(), output]))
    assert not torch.allclose(logits(model), expected, atol=1e-2)
    plain, x, output = seen
    vectors, biases = (part.double() for part in layer.folded_router())
    (a_u, b_u), (a_g, b_g) = ((a.double(), b.double()) for a, b in (layer.responder("unwill"), layer.responder("glad")))
    alpha, beta = torch.sigmoid(x @ vectors.T + biases).split(1, -1)
    wanted = (alpha + beta) * plain + layer.scaling * (alpha * (x @ a_u.T @ b_u.T) + beta * (x @ a_g.T @ b_g.T))
    tolerance = 1e-4 if layer.down.dtype == torch.float32 else 4e-2
    assert (output.double() - wanted).abs().max() <= tolerance * wanted.abs().max()

    assert model.generate(IDS, do_sample=False, max_new_tokens=8, routed_tokens=3).shape == (2, 14)
    model.save_pretrained(tmp_path / "saved")
    again = MoguModel.from_pretrained(tmp_path / "saved", base_model=quantized(make_base, tmp_path, **options))
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)
    with again.routing("off"):
        assert torch.equal(logits(again), expected)
    assert torch.equal(logits(model.detach()), expected)


def test_router_training_on_a_quantized_base(make_base, tmp_path):
    base = quantized(make_base, tmp_path, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = MoguModel.from_base(base, MoguConfig(rank=4, router_hidden=8))
    model.injected.start_router_training()
    gradients = router_gradients(model)
    assert len(gradients) == 3 * 2 * 5
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_moving_and_copying(pair):
    model, _ = pair
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert logits(half).dtype == torch.bfloat16
    state = model.state_dict()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(state)
    assert torch.equal(logits(twin), logits(model))


def test_a_compiled_model_does_not_heed_how_another_one_is_routed(make_pair):
    """PyTorch's compiler takes two objects that are compared by identity for what they were when it looked."""
    (model, _), (other, _) = make_pair("llama"), make_pair("llama")
    expected = logits(model)
    other.routing("off")  # from here on, in this thread
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    try:
        with model.routing("off"):
            assert not torch.allclose(logits(compiled), expected, atol=1e-3)
        torch.testing.assert_close(logits(compiled), expected, atol=1e-9, rtol=1e-9)
    finally:
        other.routing("on")
