"""BPE dropout (Provilkov et al., ACL 2020) over any BPE tokenizer's own merges, reproducible from a seed.

The tokenizers library has BPE dropout of its own, but its random numbers cannot be seeded. Knows tokenizers; knows nothing of models.
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
_SPACE = "▁"  # SentencePiece's, which opens a word


class BpeDropout:
    """Encodes text with a tokenizer's vocabulary and merges, some of which are dropped at random.

    The tokenizer's own encoding says where the words are: its normalizer, its special tokens and its pre-tokenizer all
    have their say. The merges of each word are then done anew. At every step, each merge that is possible is dropped with
    some probability, and of the others the first in the tokenizer's order is done; a word is ready when none is left.

    Args:
        tokenizer: byte-level or SentencePiece-like BPE.

    Raises:
        ConfigError: it is another kind of tokenizer.
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
        """Token ids of a text; no special tokens are added, those written in it stay whole.

        Args:
            text: any text, such as a rendered prompt.
            dropout: probability that a merge is dropped; 0 gives the tokenizer's own ids, 1 single characters (or bytes).
            generator: where the random numbers come from.
        """
        ids: list[int] = []
        for word in self._words(text):
            if isinstance(word, int):
                ids.append(word)
            elif self._whole_words and len(word) == 1 and generator.random() >= dropout:
                # Llama 3 looks a whole word up before it merges anything: that is a merge like any other, and dropped like one.
                ids.append(self._vocabulary[word[0]])
            else:
                ids += self._merge([symbol for token in word for symbol in self._symbols(token)], dropout, generator)
        return ids

    def _words(self, text: str) -> Iterator[int | list[str]]:
        """Special tokens by their id, and words as the tokens they have without dropout.

        Where the tokenizer has no words (Llama 2 merges whole texts), a space opens one. To cut between two tokens of the tokenizer's
        own result changes no merge: none of them crossed that border.
        """
        encoding = self._tokenizer(text, add_special_tokens=False).encodings[0]
        word: list[str] = []
        number: int | None = None
        for token, token_id, of_word in zip(encoding.tokens, encoding.ids, encoding.word_ids, strict=True):
            special = token_id in self._added
            opens = token.startswith(_SPACE) and bool(word) and word[-1].strip(_SPACE) != ""
            if word and (special or opens or of_word != number):
                yield word
                word = []
            if special:
                yield token_id
            else:
                word.append(token)
                number = of_word
        if word:
            yield word

    def _symbols(self, token: str) -> list[str]:
        """What a token is merged from: its characters, unless it stands for a byte or for what the vocabulary lacks."""
        whole = token == self._unknown or (self._byte_fallback and _BYTE.fullmatch(token) is not None)
        return [token] if whole or any(character not in self._vocabulary for character in token) else list(token)

    def _merge(self, symbols: list[str], dropout: float, generator: random.Random) -> list[int]:
        """A linked list of symbols and a heap of possible merges: long words without a space take no quadratic time."""
        size = len(symbols)
        parts = list(symbols)  # an empty one was merged into the one on its left
        after, before = list(range(1, size + 1)), list(range(-1, size - 1))
        possible: list[tuple[int, int, str, str]] = []

        def consider(left: int) -> None:
            right = after[left] if left >= 0 else size
            if right < size and (rank := self._ranks.get((parts[left], parts[right]))) is not None:
                heapq.heappush(possible, (rank, left, parts[left], parts[right]))

        for place in range(size - 1):
            consider(place)
        while True:
            dropped = []
            while possible:
                candidate = heapq.heappop(possible)
                _, place, first, second = candidate
                if parts[place] != first or after[place] >= size or parts[after[place]] != second:
                    continue  # one of the two has been merged since
                if generator.random() >= dropout:
                    break
                dropped.append(candidate)
            else:
                break
            for candidate in dropped:
                heapq.heappush(possible, candidate)
            right = after[place]
            parts[place], parts[right] = first + second, ""
            after[place] = after[right]
            if after[place] < size:
                before[after[place]] = place
            consider(before[place])
            consider(place)
        return [self._vocabulary[part] for part in parts if part]


def _bpe_model(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: dict[str, Any] = json.loads(backend.to_str())["model"] if backend is not None else {"type": "slow"}
    kind = model["type"]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        kind += " with marks inside or at the end of words"
    if kind != "BPE":
        raise ConfigError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} is {kind}",
            expected="a fast tokenizer of byte-level or SentencePiece BPE, whose merges can be dropped",
            action="choose another defense than retokenization",
        )
    return model
