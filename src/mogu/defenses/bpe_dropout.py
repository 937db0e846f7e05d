"""BPE dropout (Provilkov et al., ACL 2020) with the merges of any BPE tokenizer, reproducible from a seed.

The tokenizers library implements BPE dropout too, but its random numbers cannot be seeded. Knows tokenizers; knows nothing of models.
"""

from __future__ import annotations

import heapq
import json
import random
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from mogu.errors import ConfigError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"  # SentencePiece's mark for a space, which begins a word


class BpeDropout:
    """Encode text with a tokenizer's vocabulary and merges, dropping merges at random.

    The tokenizer's own encoding determines the words, so its normalizer, special tokens and pre-tokenizer apply. The merges
    of each word are then repeated with dropout: at every step, each possible merge is dropped with the same probability, and
    of the remaining ones the first in the tokenizer's order is applied. A word is done when no merge remains.

    Args:
        tokenizer: a fast tokenizer with byte-level or SentencePiece-like BPE.

    Raises:
        ConfigError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        model = _bpe_model(tokenizer)
        self._vocabulary: dict[str, int] = model["vocab"]
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
        self._whole_words: bool = model["ignore_merges"]
        self._unknown: str | None = model["unk_token"]
        self._byte_fallback: bool = model["byte_fallback"]
        self._added = frozenset(tokenizer.added_tokens_decoder)

    def encode(self, text: str, dropout: float, generator: random.Random) -> list[int]:
        """Encode a text into token ids; no special tokens are added, and those in the text stay whole.

        Args:
            text: any text, such as a rendered prompt.
            dropout: probability that a merge is dropped; 0 gives the tokenizer's own ids, 1 gives single characters (or bytes).
            generator: source of the random numbers.
        """
        ids: list[int] = []
        for word in self._words(text):
            if isinstance(word, int):
                ids.append(word)
            elif self._whole_words and len(word) == 1 and generator.random() >= dropout:
                # Llama 3 looks up whole words before merging: that counts as a merge and is dropped like one.
                ids.append(self._vocabulary[word[0]])
            else:
                ids += self._merge([symbol for token in word for symbol in self._symbols(token)], dropout, generator)
        return ids

    def _words(self, text: str) -> Iterator[int | list[str]]:
        """Yield special tokens as ids, and words as lists of the tokens they have without dropout.

        If the tokenizer does not split words (Llama 2 merges whole texts), a space begins one. Splitting between two tokens
        of the tokenizer's own result changes no merge, since none crossed that boundary.
        """
        encoding = self._tokenizer(text, add_special_tokens=False).encodings[0]
        word: list[str] = []
        word_index: int | None = None
        for token, token_id, index in zip(encoding.tokens, encoding.ids, encoding.word_ids, strict=True):
            special = token_id in self._added
            begins_word = token.startswith(_SPACE) and bool(word) and word[-1].strip(_SPACE) != ""
            if word and (special or begins_word or index != word_index):
                yield word
                word = []
            if special:
                yield token_id
            else:
                word.append(token)
                word_index = index
        if word:
            yield word

    def _symbols(self, token: str) -> list[str]:
        """Return what a token is merged from: its characters, unless it is a byte token or the unknown token."""
        atomic = token == self._unknown or (self._byte_fallback and _BYTE.fullmatch(token) is not None)
        return [token] if atomic or any(character not in self._vocabulary for character in token) else list(token)

    def _merge(self, symbols: list[str], dropout: float, generator: random.Random) -> list[int]:
        """Merge symbols with a linked list and a heap of possible merges, so that long words do not take quadratic time."""
        size = len(symbols)
        parts = list(symbols)  # an empty part has been merged into its left neighbor
        following, preceding = list(range(1, size + 1)), list(range(-1, size - 1))
        possible: list[tuple[int, int, str, str]] = []

        def consider(left: int) -> None:
            right = following[left] if left >= 0 else size
            if right < size and (rank := self._ranks.get((parts[left], parts[right]))) is not None:
                heapq.heappush(possible, (rank, left, parts[left], parts[right]))

        for index in range(size - 1):
            consider(index)
        while True:
            dropped = []
            while possible:
                candidate = heapq.heappop(possible)
                _, left, first, second = candidate
                if parts[left] != first or following[left] >= size or parts[following[left]] != second:
                    continue  # one of the two has been merged in the meantime
                if generator.random() >= dropout:
                    break
                dropped.append(candidate)
            else:
                break
            for candidate in dropped:
                heapq.heappush(possible, candidate)
            right = following[left]
            parts[left], parts[right] = first + second, ""
            following[left] = following[right]
            if following[left] < size:
                preceding[following[left]] = left
            consider(preceding[left])
            consider(left)
        return [self._vocabulary[part] for part in parts if part]


def _bpe_model(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: dict[str, Any] = json.loads(backend.to_str())["model"] if backend is not None else {"type": "slow"}
    kind = model["type"]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        kind += " with prefixes or suffixes that mark parts of words"
    if kind != "BPE":
        raise ConfigError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} is {kind}",
            expected="a fast tokenizer with byte-level or SentencePiece-like BPE",
            action="choose another defense than retokenization",
        )
    return model
