"""BPE dropout: the tokenizer's own ids at 0, single characters at 1, and the probabilities of the definition in between."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mogu.defenses.bpe_dropout import BpeDropout
from mogu.errors import ConfigError
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
    """A tokenizer without words: spaces are "▁", and unknown characters are bytes."""
    rust = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return trained(rust, ["▁"], [f"<0x{byte:02X}>" for byte in range(256)])


def trained(rust: Tokenizer, alphabet: list[str], extra: list[str] | None = None) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*special, *(extra or [])], initial_alphabet=alphabet)
    rust.train_from_iterator([word for prompt in prompts("dev") for word in (prompt.instruction, *prompt.instruction.split())], trainer)
    if extra:  # byte tokens belong to the vocabulary and are not special
        tree = json.loads(rust.to_str())
        tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] in special]
        rust = Tokenizer.from_str(json.dumps(tree))
    fast = PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.add_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|user|>", "<|assistant|>")])
    return fast


KINDS = {"byte level": byte_level, "whole words first": lambda: byte_level(ignore_merges=True), "like Llama 2": like_llama_2}


@pytest.fixture(scope="module", params=KINDS)
def bpe(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return KINDS[request.param]()


def test_without_dropout_the_ids_are_the_tokenizers_own(bpe: PreTrainedTokenizerFast) -> None:
    dropped = BpeDropout(bpe)
    for text in [*TEXTS, *(prompt.instruction for prompt in prompts("dev"))]:
        assert dropped.encode(text, 0.0, random.Random(0)) == bpe(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("dropout", [0.2, 0.7, 1.0])
def test_dropout_does_not_change_the_decoded_text(dropout: float, bpe: PreTrainedTokenizerFast) -> None:
    dropped = BpeDropout(bpe)
    for text in TEXTS:
        own = bpe.decode(bpe(text, add_special_tokens=False)["input_ids"])
        assert bpe.decode(dropped.encode(text, dropout, random.Random(1))) == own


def test_byte_level_tokens_decode_to_the_text() -> None:
    tokenizer = byte_level()
    for text in TEXTS:
        assert tokenizer.decode(BpeDropout(tokenizer).encode(text, 0.4, random.Random(3))) == text


def test_with_every_merge_dropped_each_character_is_a_token() -> None:
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
def test_merges_are_dropped_with_the_given_probability(dropout: float) -> None:
    """For "abc": ab survives with q = 1 - p, and then ab+c with q; with ab dropped, bc survives with q.

    So P(abc) = q², P(ab c) = q·p, P(a bc) = p·q, P(a b c) = p².
    """
    tokenizer = three_letters()
    words = 20_000
    ids = BpeDropout(tokenizer).encode("abc " * words, dropout, random.Random(5))
    text = " ".join(tokenizer.convert_ids_to_tokens(ids)) + " "
    splits = ("abc", "ab c", "a bc", "a b c")
    counts: Counter[str] = Counter()
    while text:
        split = next(split for split in splits if text.startswith(f"{split} "))
        counts[split] += 1
        text = text[len(split) + 1 :]
    p, q = dropout, 1 - dropout
    for split, share in {"abc": q * q, "ab c": q * p, "a bc": p * q, "a b c": p * p}.items():
        assert counts[split] / words == pytest.approx(share, abs=4 * (share * (1 - share) / words) ** 0.5)


def test_a_whole_word_is_dropped_like_a_merge() -> None:
    """If whole words are looked up first, "abc" stays whole with probability q, otherwise its merges are tried: q + p·q² in all."""
    words = 20_000
    tokenizer = three_letters(ignore_merges=True)
    ids = BpeDropout(tokenizer).encode("abc " * words, 0.5, random.Random(5))
    whole = ids.count(tokenizer.convert_tokens_to_ids("abc")) / words
    assert whole == pytest.approx(0.5 + 0.5 * 0.25, abs=4 * (0.625 * 0.375 / words) ** 0.5)


def test_special_tokens_stay_whole(bpe: PreTrainedTokenizerFast) -> None:
    user_id = bpe.convert_tokens_to_ids("<|user|>")
    ids = BpeDropout(bpe).encode("<|user|>the kettle<|user|>", 1.0, random.Random(0))
    assert (ids[0], ids[-1], ids.count(user_id)) == (user_id, user_id, 2)


def test_long_words_do_not_take_quadratic_time() -> None:
    """The number of draws for 39,000 characters without a space grows linearly: only neighbors of a merge are looked at again."""
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


@pytest.mark.parametrize("kind", ["words", "suffixes"])
def test_other_tokenizers_are_refused_by_name(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    if kind == "suffixes":
        rust = Tokenizer(models.BPE({"a</w>": 0, "a": 1}, [], end_of_word_suffix="</w>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust)
    with pytest.raises(ConfigError, match="WordLevel" if kind == "words" else "that mark parts of words"):
        BpeDropout(tokenizer)
