"""The proxy of ML-LR: a plane that tells benign prompts from malicious ones by a model's security feature, fitted once, then fixed.

The security feature is what goes into the output head at the last prompt token: the vector that the first token of the answer is read
from. Whether an answer opens with a refusal is decided there, and every module of every decoder layer has its share in it, which is true
of no earlier place.

Knows models, prompts and labels; knows nothing of how a model is perturbed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.activations import projection_inputs
from mogu.analysis.base_model import check_lengths
from mogu.analysis.layer_ranking import LEAST_AUROC
from mogu.analysis.linear_probe import check_scikit_learn, fitted_plane
from mogu.data import Record, conversation_of
from mogu.errors import ArchitectureError, DataError, MoguError
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompt
from mogu.modeling.architectures import Projection

LEAST_RECORDS = 10
"""Of each label: half of them fit the plane, and half of them measure it."""


def check_labels(records: Sequence[Record]) -> None:
    """Refuse records that cannot make a proxy.

    Raises:
        DataError: a label has too few.
    """
    labels = Counter(record.label for record in records)
    for label in ("benign", "malicious"):
        if labels[label] < LEAST_RECORDS:
            raise DataError(
                f"There are {labels[label]} {label} prompts to fit and to measure a proxy",
                expected=f"at least {LEAST_RECORDS} of each label; some hundreds for numbers to rely on",
                action=f"add {label} records",
            )


@dataclass(frozen=True)
class Prompts:
    """Prompts as a model reads them, with their labels.

    Args:
        ids: token ids of each.
        malicious: ``[prompts]``, bool.
        pad_token_id: what fills batches up.
        batch_size: prompts a pass.
    """

    ids: list[list[int]]
    malicious: Tensor
    pad_token_id: int
    batch_size: int

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        records: Sequence[Record],
        *,
        system_prompt: str | None,
        batch_size: int,
    ) -> Prompts:
        """The prompts of records.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or it fails.
            DataError: a label has too few records, or a prompt is longer than the model's context.
        """
        check_labels(records)
        ids = [encode_prompt(tokenizer, conversation_of(record, system_prompt)) for record in records]
        check_lengths(records, ids, model)
        malicious = torch.tensor([record.label == "malicious" for record in records])
        return cls(ids, malicious, padding_id(tokenizer), batch_size)

    def some(self, places: Sequence[int]) -> Prompts:
        """Those at some places."""
        return Prompts([self.ids[place] for place in places], self.malicious[list(places)], self.pad_token_id, self.batch_size)

    def by_label(self, numbers: Tensor) -> Tensor:
        """Mean over the prompts of each label, then over both: ``numbers`` is ``[prompts]``, and neither label outweighs the other."""
        return (numbers[self.malicious].mean() + numbers[~self.malicious].mean()) / 2


def find_head(model: PreTrainedModel) -> Projection:
    """The output head, whose input is the security feature.

    Raises:
        ArchitectureError: the model has none.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Module):
        raise ArchitectureError(
            f"{type(model).__name__} has no output head",
            expected="a causal language model, whose first answer token is read from a hidden state",
            action="choose such a model",
        )
    return Projection(0, next(name for name, module in model.named_modules() if module is head), head)


def security_features(
    model: PreTrainedModel, head: Projection, prompts: Prompts, advance: Callable[[int], None] = lambda more: None
) -> Tensor:
    """The input of the output head at each prompt's last token.

    Args:
        model: in evaluation mode.
        head: see :func:`find_head`.
        prompts: any number of them; those of like length share a pass.
        advance: is told how many more prompts were read.

    Returns:
        ``[prompts, d]``, float64, on the CPU.

    Raises:
        MoguError: a feature is not finite.
    """
    order = sorted(range(len(prompts.ids)), key=lambda place: (-len(prompts.ids[place]), place))
    found = []
    for start in range(0, len(order), prompts.batch_size):
        chosen = [prompts.ids[place] for place in order[start : start + prompts.batch_size]]
        found.append(projection_inputs(model, [head], chosen, prompts.pad_token_id)["last"][0].double())
        advance(len(chosen))
    features = torch.cat(found)[torch.tensor(order).argsort()]
    if not bool(features.isfinite().all()):
        raise MoguError(
            f"The model's last hidden state is not finite, in {str(model.dtype).removeprefix('torch.')}",
            expected="finite numbers",
            action="load the model in bfloat16 or float32 (--dtype), or perturb it less (--strength)",
        )
    return features


@dataclass(frozen=True)
class Proxy:
    """A plane fitted to one half of the prompts, and the other half, which measures it.

    Args:
        model: whose security feature is read.
        head: where it is read.
        plane: scikit-learn's pipeline.
        held_out: the prompts that measure.
        sides: ``[held out]``, float64: the signed distance ``f(x)`` of each to the plane in the intact model, malicious positive, times
            the norm of the plane's weights.
        auroc: of ``sides``.
    """

    model: PreTrainedModel
    head: Projection
    plane: Any
    held_out: Prompts
    sides: Tensor
    auroc: float

    @property
    def margin(self) -> float:
        """Mean of the signed distances, positive on a prompt's own side; neither label outweighs the other."""
        return float(self.held_out.by_label(torch.where(self.held_out.malicious, self.sides, -self.sides)))

    def shift(self) -> float:
        """How far the plane's distances are, in the model as it now is, from those in the intact one: their mean square."""
        now = torch.from_numpy(self.plane.decision_function(security_features(self.model, self.head, self.held_out).numpy()))
        return float(self.held_out.by_label((now - self.sides).square()))


def fit_proxy(model: PreTrainedModel, prompts: Prompts, *, seed: int, advance: Callable[[int], None] = lambda more: None) -> Proxy:
    """Read every prompt once, fit the plane to one half of either label, measure it on the other.

    Args:
        model: intact, in evaluation mode.
        prompts: of both labels.
        seed: decides which prompt is in which half.
        advance: is told how many more prompts were read.

    Raises:
        ConfigError: scikit-learn is missing.
        MoguError: the plane does not tell the labels apart, or a feature is not finite.
    """
    check_scikit_learn()
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split

    head = find_head(model)
    features = security_features(model, head, prompts, advance).numpy()
    truth = prompts.malicious.numpy()
    fitted, measured = train_test_split(range(len(truth)), test_size=0.5, stratify=truth, random_state=seed)
    plane = fitted_plane(features[fitted], truth[fitted])
    sides = plane.decision_function(features[measured])
    auroc = float(roc_auc_score(truth[measured], sides))
    proxy = Proxy(model, head, plane, prompts.some(measured), torch.from_numpy(sides), auroc)
    if auroc < LEAST_AUROC or proxy.margin <= 0:
        raise MoguError(
            f"The proxy does not tell malicious prompts from benign ones: its AUROC on the half that it was not fitted to is {auroc:.2f}",
            expected=f"at least {LEAST_AUROC}; 0.5 is chance, and what a proxy cannot see it cannot see suffer",
            action="check the records' labels and the chat template, or add records",
        )
    return proxy
