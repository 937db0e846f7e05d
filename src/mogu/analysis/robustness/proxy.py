"""The proxy of ML-LR: a linear classifier of benign and malicious prompts on a model's security feature, fitted once, then fixed.

The security feature is the input of the output head at the last prompt token: the vector that the answer's first token is computed
from. It decides whether an answer opens with a refusal, and every module of every decoder layer contributes to it, which is not true of
any earlier hidden state.

It is fitted either to records as they are, or, as in the paper, to malicious prompts and their benign twins (:mod:`mogu.data.twins`), which
differ in a word: such a proxy cannot go by topic, form or length. A prompt and its twin are then in the same half.

Knows models, prompts and labels; knows nothing of how a model is perturbed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.activations import projection_inputs
from mogu.analysis.base_model import check_prompt_lengths
from mogu.analysis.layer_ranking import LEAST_AUROC
from mogu.analysis.linear_probe import check_scikit_learn, fit_linear_classifier
from mogu.data import Record, encode_records
from mogu.data.twins import with_twins
from mogu.errors import ArchitectureError, DataError, MoguError
from mogu.inference.padding import padding_id
from mogu.modeling.architectures import Projection

ProxyKind = Literal["records", "twins"]
"""What a proxy is fitted to: records as they are, or malicious ones and their benign twins."""

LEAST_RECORDS = 10
"""The fewest records of each label: the classifier is fitted to half of them and measured on the other half."""


def proxy_records(records: Sequence[Record], kind: ProxyKind) -> Sequence[Record]:
    """The records that a proxy is fitted to and measured on; of twins, each malicious record is followed by its twin.

    Raises:
        DataError: no record has a twin.
    """
    return with_twins(records) if kind == "twins" else records


def check_labels(records: Sequence[Record]) -> None:
    """Refuse records that are too few for a proxy.

    Raises:
        DataError: a label has too few.
    """
    labels = Counter(record.label for record in records)
    for label in ("benign", "malicious"):
        if labels[label] < LEAST_RECORDS:
            raise DataError(
                f"There are {labels[label]} {label} prompts to fit and measure a proxy with",
                expected=f"at least {LEAST_RECORDS} of each label; a few hundred for reliable numbers",
                action=f"add {label} records",
            )


@dataclass(frozen=True)
class LabeledPrompts:
    """Prompts as a model reads them, with their labels.

    Args:
        ids: token ids of each.
        malicious: ``[prompts]``, bool.
        pad_token_id: the token that pads shorter prompts.
        batch_size: number of prompts in one forward pass.
        kind: what they are; of twins, each two neighbors are a malicious prompt and its twin.
    """

    ids: Sequence[list[int]]
    malicious: Tensor
    pad_token_id: int
    batch_size: int
    kind: ProxyKind = "records"

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        records: Sequence[Record],
        *,
        system_prompt: str | None,
        batch_size: int,
        kind: ProxyKind = "records",
    ) -> LabeledPrompts:
        """Encode the prompts of records, or of those among them that have a twin, and of their twins.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or it fails.
            DataError: a label has too few records, none has a twin, or a prompt is longer than the model's context.
        """
        records = proxy_records(records, kind)
        check_labels(records)
        ids = encode_records(tokenizer, records, system_prompt)
        check_prompt_lengths(records, ids, model)
        malicious = torch.tensor([record.label == "malicious" for record in records])
        return cls(ids, malicious, padding_id(tokenizer, model), batch_size, kind)

    def subset(self, indices: Sequence[int]) -> LabeledPrompts:
        """Return the prompts at some indices."""
        ids, malicious = [self.ids[index] for index in indices], self.malicious[list(indices)]
        return LabeledPrompts(ids, malicious, self.pad_token_id, self.batch_size, self.kind)

    def halves(self, seed: int) -> tuple[list[int], list[int]]:
        """Divide the prompts into two halves with the same share of each label, which never part a prompt from its twin."""
        from sklearn.model_selection import train_test_split

        if self.kind == "records":
            first, second = train_test_split(range(len(self.ids)), test_size=0.5, stratify=self.malicious.numpy(), random_state=seed)
            return first, second
        pairs = train_test_split(range(len(self.ids) // 2), test_size=0.5, random_state=seed)
        first, second = ([2 * pair + of_pair for pair in half for of_pair in (0, 1)] for half in pairs)
        return first, second

    def balanced_mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values [prompts]`` over each label, then over both, so that neither label outweighs the other."""
        return (values[self.malicious].mean() + values[~self.malicious].mean()) / 2


def find_head(model: PreTrainedModel) -> Projection:
    """Return the output head, whose input is the security feature.

    Raises:
        ArchitectureError: the model has none.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Module):
        raise ArchitectureError(
            f"{type(model).__name__} has no output head",
            expected="a causal language model, which computes the first token of an answer from a hidden state",
            action="choose such a model",
        )
    return Projection(0, next(name for name, module in model.named_modules() if module is head), head)


def security_features(
    model: PreTrainedModel, head: Projection, prompts: LabeledPrompts, advance: Callable[[int], None] = lambda count: None
) -> Tensor:
    """Read the input of the output head at each prompt's last token.

    Args:
        model: in evaluation mode.
        head: see :func:`find_head`.
        prompts: any number of prompts; those of similar length share a forward pass.
        advance: called with the number of prompts that were just read.

    Returns:
        ``[prompts, d]``, float64, on the CPU.

    Raises:
        MoguError: a feature is not finite.
    """
    order = sorted(range(len(prompts.ids)), key=lambda index: (-len(prompts.ids[index]), index))
    batches = []
    for start in range(0, len(order), prompts.batch_size):
        chosen = [prompts.ids[index] for index in order[start : start + prompts.batch_size]]
        batches.append(projection_inputs(model, [head], chosen, prompts.pad_token_id)["last"][0].double())
        advance(len(chosen))
    features = torch.cat(batches)[torch.tensor(order).argsort()]
    if not bool(features.isfinite().all()):
        raise MoguError(
            f"The model's last hidden state is not finite, in {str(model.dtype).removeprefix('torch.')}",
            expected="finite numbers",
            action="load the model in bfloat16 or float32 (--dtype, in a recipe model.dtype), or perturb it less "
            "(--strength of `mogu robustness`)",
        )
    return features


@dataclass(frozen=True)
class Proxy:
    """A linear classifier fitted to one half of the prompts, and the other half, on which it is measured.

    Args:
        model: the model whose security feature is read.
        head: the projection whose input is the security feature.
        classifier: a scikit-learn pipeline.
        held_out: the prompts on which the classifier is measured.
        distances: ``[held out]``, float64: the signed distance ``f(x)`` of each prompt to the decision boundary in the intact model,
            malicious positive, times the norm of the classifier's weights.
        auroc: of ``distances``.
    """

    model: PreTrainedModel
    head: Projection
    classifier: Any
    held_out: LabeledPrompts
    distances: Tensor
    auroc: float

    @property
    def margin(self) -> float:
        """Balanced mean of the signed distances, positive on a prompt's own side."""
        return float(self.held_out.balanced_mean(torch.where(self.held_out.malicious, self.distances, -self.distances)))

    def shift(self) -> float:
        """Measure how far distances in the model as it is now are from those in the intact model: their mean squared difference."""
        features = security_features(self.model, self.head, self.held_out)
        distances = torch.from_numpy(self.classifier.decision_function(features.numpy()))
        return float(self.held_out.balanced_mean((distances - self.distances).square()))


def fit_proxy(model: PreTrainedModel, prompts: LabeledPrompts, *, seed: int, advance: Callable[[int], None] = lambda count: None) -> Proxy:
    """Read every prompt once, fit the classifier to one half of each label, and measure it on the other half.

    Args:
        model: the intact model, in evaluation mode.
        prompts: prompts of both labels.
        seed: decides which prompt is in which half.
        advance: called with the number of prompts that were just read.

    Raises:
        ConfigError: scikit-learn is missing.
        MoguError: the classifier does not separate the labels, or a feature is not finite.
    """
    check_scikit_learn()
    from sklearn.metrics import roc_auc_score

    head = find_head(model)
    features = security_features(model, head, prompts, advance).numpy()
    truth = prompts.malicious.numpy()
    fitted, held_out = prompts.halves(seed)
    classifier = fit_linear_classifier(features[fitted], truth[fitted])
    distances = classifier.decision_function(features[held_out])
    auroc = float(roc_auc_score(truth[held_out], distances))
    proxy = Proxy(model, head, classifier, prompts.subset(held_out), torch.from_numpy(distances), auroc)
    if auroc < LEAST_AUROC or proxy.margin <= 0:
        raise MoguError(
            f"The proxy does not tell malicious prompts from benign ones: its AUROC on the half that it was not fitted to is {auroc:.2f}",
            expected=f"at least {LEAST_AUROC}; 0.5 is chance, and a proxy cannot measure the loss of what it does not see",
            action="check the records' labels and the chat template, or add records",
        )
    return proxy
