"""BPE dropout: the tokenizer's own ids without it, characters at its fullest, and in between the probabilities of the definition."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from known_models import says
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mogu.defenses import Subject, make_defense
from mogu.defenses.bpe_dropout import BpeDropout
from mogu.errors import ConfigError
from mogu.inference.replies import ReplySettings
from mogu.lab import prompts

TEXTS = [
    "<|user|>How do I clean the kettle?<|assistant|>",
    "Tabs\tand  two   spaces,\n\nnew lines, 12345 and don't.",
    "naïve Ünïcode, 你好, 🙂 and a \x07 bell",
    "<|user|><|user|> <|assistant|>",
    "a" * 300 + " " + "kettle" * 50,
    "",
]


def byte_level(**options: object) -> PreTrainedTokenizerFast:
    rust = Tokenizer(models.BPE(**options))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    return trained(rust, pre_tokenizers.ByteLevel.alphabet())


def like_llama_2() -> PreTrainedTokenizerFast:
    """No words, spaces as "▁", unknown characters as bytes."""
    rust = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return trained(rust, ["▁"], [f"<0x{byte:02X}>" for byte in range(256)])


def trained(rust: Tokenizer, alphabet: list[str], extra: list[str] | None = None) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*special, *(extra or [])], initial_alphabet=alphabet)
    rust.train_from_iterator([word for prompt in prompts("dev") for word in (prompt.instruction, *prompt.instruction.split())], trainer)
    if extra:  # bytes are words of the vocabulary, not special tokens
        tree = json.loads(rust.to_str())
        tree["added_tokens"] = [one for one in tree["added_tokens"] if one["content"] in special]
        rust = Tokenizer.from_str(json.dumps(tree))
    fast = PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.add_tokens([AddedToken(one, special=True, normalized=False) for one in ("<|user|>", "<|assistant|>")])
    return fast


KINDS = {"byte level": byte_level, "whole words first": lambda: byte_level(ignore_merges=True), "like Llama 2": like_llama_2}


@pytest.fixture(scope="module", params=KINDS)
def bpe(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return KINDS[request.param]()


def test_without_dropout_the_ids_are_the_tokenizers_own(bpe: PreTrainedTokenizerFast) -> None:
    pieces = BpeDropout(bpe)
    for text in [*TEXTS, *(prompt.instruction for prompt in prompts("dev"))]:
        assert pieces.encode(text, 0.0, random.Random(0)) == bpe(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("dropout", [0.2, 0.7, 1.0])
def test_the_text_is_the_same_whatever_is_dropped(dropout: float, bpe: PreTrainedTokenizerFast) -> None:
    pieces = BpeDropout(bpe)
    for text in TEXTS:
        own = bpe.decode(bpe(text, add_special_tokens=False)["input_ids"])
        assert bpe.decode(pieces.encode(text, dropout, random.Random(1))) == own


def test_byte_level_pieces_spell_the_text() -> None:
    tokenizer = byte_level()
    for text in TEXTS:
        assert tokenizer.decode(BpeDropout(tokenizer).encode(text, 0.4, random.Random(3))) == text


def test_with_every_merge_dropped_words_are_characters() -> None:
    tokenizer = byte_level()
    ids = BpeDropout(tokenizer).encode("<|user|>the é", 1.0, random.Random(0))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "t", "h", "e", "Ġ", "Ã", "©"]  # é is the bytes C3 A9
    tokenizer = like_llama_2()
    ids = BpeDropout(tokenizer).encode("the é", 1.0, random.Random(0))
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁", "t", "h", "e", "▁", "<0xC3>", "<0xA9>"]


def three_letters(**options: object) -> PreTrainedTokenizerFast:
    merges = [("a", "b"), ("b", "c"), ("ab", "c")]
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    rust = Tokenizer(models.BPE(vocabulary, merges, **options))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=rust)


@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_merges_are_dropped_as_often_as_asked(dropout: float) -> None:
    """For "abc": ab survives with q = 1 - p, and then ab+c with q; with ab dropped, bc survives with q.

    So P(abc) = q², P(ab c) = q·p, P(a bc) = p·q, P(a b c) = p².
    """
    tokenizer = three_letters()
    words = 20_000
    ids = BpeDropout(tokenizer).encode("abc " * words, dropout, random.Random(5))
    text = " ".join(tokenizer.convert_ids_to_tokens(ids)) + " "
    ways = {"abc": "abc ", "ab c": "ab c ", "a bc": "a bc ", "a b c": "a b c "}
    counts: Counter[str] = Counter()
    while text:
        way = next(name for name, start in ways.items() if text.startswith(start))
        counts[way] += 1
        text = text[len(ways[way]) :]
    p, q = dropout, 1 - dropout
    for way, share in {"abc": q * q, "ab c": q * p, "a bc": p * q, "a b c": p * p}.items():
        assert counts[way] / words == pytest.approx(share, abs=4 * (share * (1 - share) / words) ** 0.5)


def test_a_whole_word_found_at_once_is_dropped_like_a_merge() -> None:
    """Where whole words come first, "abc" stands with q; else its merges are tried: q + p·q² of the time it is whole."""
    words = 20_000
    tokenizer = three_letters(ignore_merges=True)
    ids = BpeDropout(tokenizer).encode("abc " * words, 0.5, random.Random(5))
    whole = ids.count(tokenizer.convert_tokens_to_ids("abc")) / words
    assert whole == pytest.approx(0.5 + 0.5 * 0.25, abs=4 * (0.625 * 0.375 / words) ** 0.5)


def test_special_tokens_are_never_cut(bpe: PreTrainedTokenizerFast) -> None:
    users = bpe.convert_tokens_to_ids("<|user|>")
    ids = BpeDropout(bpe).encode("<|user|>the kettle<|user|>", 1.0, random.Random(0))
    assert (ids[0], ids[-1], ids.count(users)) == (users, users, 2)


def test_the_seed_alone_decides(lab: Subject) -> None:
    asked = [says(prompt.instruction) for prompt in prompts("dev")[:12]]
    settings = [ReplySettings(12, seed=seed) for seed in (None, 0, 1)]
    ready = make_defense("retokenization", lab, dropout=0.6)
    unseeded, zero, one = ([reply.text for reply in ready.reply(asked, setting)] for setting in settings)
    assert unseeded == zero  # 0 is the default
    assert zero != one
    backwards = [reply.text for reply in ready.reply(asked[::-1], settings[1])]
    assert backwards == zero[::-1]


def test_without_dropout_the_base_model_answers(lab: Subject) -> None:
    asked = [says(prompt.instruction) for prompt in prompts("dev")[:4]]
    made = [make_defense("none", lab), make_defense("retokenization", lab, dropout=0.0)]
    plain, retokenized = ([one.text for one in ready.reply(asked, ReplySettings(16))] for ready in made)
    assert retokenized == plain


def test_long_words_take_no_quadratic_time() -> None:
    """Forty thousand characters without a space: every neighbor of every merge looked at once, not all of them each time."""
    tokenizer = three_letters()
    calls = 0

    class Counting(random.Random):
        def random(self) -> float:
            nonlocal calls
            calls += 1
            return super().random()

    ids = BpeDropout(tokenizer).encode("abc" * 13_000, 0.1, Counting(0))
    assert 13_000 <= len(ids) < 3 * 13_000
    assert calls < 20 * 39_000


@pytest.mark.parametrize("kind", ["words", "marks"])
def test_other_tokenizers_are_refused_by_name(kind: str, tokenizer: PreTrainedTokenizerFast, lab: Subject) -> None:
    if kind == "marks":
        rust = Tokenizer(models.BPE({"a</w>": 0, "a": 1}, [], end_of_word_suffix="</w>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust)
    with pytest.raises(ConfigError, match="WordLevel" if kind == "words" else "marks inside or at the end"):
        make_defense("retokenization", Subject(lab.base, tokenizer))
