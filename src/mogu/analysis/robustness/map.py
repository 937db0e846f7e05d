"""The robustness map: how much a proxy of safety loses through noise on each module alone, and on all of them together.

Knows the proxy, the noise and the cache of measurements; knows nothing of other files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.activation_cache import activations_fingerprint
from mogu.analysis.measurement_cache import MeasurementCache
from mogu.analysis.probing import ProgressCallback
from mogu.analysis.robustness.noise import perturbed, weight_of
from mogu.analysis.robustness.proxy import LabeledPrompts, Proxy, ProxyKind, fit_proxy
from mogu.data import Record
from mogu.errors import ArchitectureError, ConfigError
from mogu.modeling.architectures import Projection, find_linear_layers

STRENGTH, DRAWS, BATCH_SIZE = 1.0, 3, 32
"""Noise as large as the weights: from 0.1 to 1 the order of modules is the same on the lab (docs/results/analysis.md)."""


@dataclass(frozen=True)
class ModuleRobustness:
    """One linear module of a decoder layer.

    Args:
        layer: index of the decoder layer.
        module: path inside the decoder layer, such as ``"self_attn.q_proj"``.
        name: full module name in the model.
        parameters: number of its parameters.
        drop: how much the proxy loses when this module alone is perturbed; see :func:`measure_robustness`.
    """

    layer: int
    module: str
    name: str
    parameters: int
    drop: float


@dataclass(frozen=True)
class RobustnessMap:
    """How much a model's safety, as far as a proxy sees it, depends on each module.

    Args:
        modules: every linear module of the decoder layers, layer by layer.
        together: the drop when all of them are perturbed at once.
        intact: the proxy's mean margin on the held-out prompts with nothing perturbed.
        auroc: the proxy's AUROC on the held-out prompts with nothing perturbed.
        strength: norm of the noise, relative to the norm of the weight.
        draws: number of times noise was drawn for each module.
        seed: decides the noise, and which prompts the proxy is fitted to.
        prompts: number of prompts of each label; the proxy was fitted to half of them and measured on the other half.
        system_prompt: the system message of conversations that had none.
        proxy: what the proxy was fitted to.
    """

    modules: tuple[ModuleRobustness, ...]
    together: float
    intact: float
    auroc: float
    strength: float
    draws: int
    seed: int
    prompts: Mapping[str, int]
    system_prompt: str | None
    proxy: ProxyKind = "records"


class DropEstimator:
    """Estimate drops from a number of draws, each of which is cached.

    Args:
        proxy: a proxy that was fitted to the intact model.
        strength: see :class:`RobustnessMap`.
        draws: see :class:`RobustnessMap`.
        seed: see :class:`RobustnessMap`.
        cache: stores the draws, if given.
    """

    def __init__(self, proxy: Proxy, *, strength: float, draws: int, seed: int, cache: MeasurementCache | None) -> None:
        self._proxy, self._cache = proxy, cache
        self._strength, self._draws, self._seed = strength, draws, seed

    def drop(self, modules: Sequence[Projection]) -> float:
        """Return the drop when these modules are perturbed together."""
        return math.sqrt(math.fsum(self._shift(modules, draw) for draw in range(self._draws)) / self._draws) / self._proxy.margin

    def _shift(self, modules: Sequence[Projection], draw: int) -> float:
        key = (sorted(module.name for module in modules), self._strength, self._seed, draw)
        if self._cache is not None and (cached := self._cache.find(key)) is not None:
            return cached[0]
        with perturbed(modules, strength=self._strength, seed=self._seed, draw=draw):
            shift = self._proxy.shift()
        if self._cache is not None:
            self._cache.add([(key, (shift,))])
        return shift


def linear_modules(model: PreTrainedModel) -> list[tuple[str, Projection]]:
    """Return the linear layers that occur once in every decoder layer, with their path in it, layer by layer.

    Raises:
        ArchitectureError: there are none, or one is quantized or not in memory.
    """
    modules = [(path, module) for path, occurrences in find_linear_layers(model).items() for module in occurrences]
    if not modules:
        raise ArchitectureError(
            f"{type(model).__name__} has no linear layers in numbered decoder layers",
            expected="a transformer whose decoder layers hold linear layers",
            action="choose such a model",
        )
    for _, module in modules:
        weight_of(module)
    return sorted(modules, key=lambda path_and_module: path_and_module[1].layer)


def check_settings(*, strength: float, draws: int, batch_size: int) -> None:
    """Refuse settings that make no sense.

    Raises:
        ConfigError: one of them is out of range.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise ConfigError(f"The strength is {strength:g}", expected="a number above 0", action=f"give --strength {STRENGTH:g}")
    for count, name in ((draws, "draws"), (batch_size, "batch-size")):
        if count < 1:
            raise ConfigError(f"--{name} is {count}", expected="a whole number from 1", action="correct it")


def measure_robustness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    system_prompt: str | None = None,
    proxy: ProxyKind = "records",
    strength: float = STRENGTH,
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    cache: MeasurementCache | None = None,
    progress: ProgressCallback = lambda step, done, total: None,
) -> RobustnessMap:
    """Perturb every linear module of the decoder layers in turn, and measure how much a proxy of safety loses.

    The proxy is a logistic regression on the model's security feature (see :mod:`mogu.analysis.robustness.proxy`), fitted to one half
    of the records on the intact model, then fixed. For a prompt ``x`` of the other half, let ``f(x)`` be its signed distance to the
    decision boundary in the intact model, malicious positive, and ``f_d(x)`` the same with noise of draw ``d`` on the module's weight:

    .. code-block:: text

        W_d    = W + strength · ‖W‖ · E_d / ‖E_d‖                     E_d normal, Frobenius norms
        intact = mean over x of ±f(x)                                 the mean margin, + for malicious, − for benign prompts
        drop   = sqrt( mean over d and x of (f_d(x) − f(x))² ) / intact

    Means over ``x`` are taken by label first, so that neither label outweighs the other. A drop of 0 means that the module has no
    influence; a drop of 1 means that noise moves prompts about as far as they are from the decision boundary. The drop measures the
    size of the change rather than the mean loss of margin: noise pushes one way as often as the other, so over a few draws the mean
    loss is mostly luck, and AUROC and accuracy hardly leave 1 at all (docs/results/analysis.md has the numbers).

    Args:
        model: in memory as a whole, not quantized; it is put into evaluation mode, and its weights are restored bit for bit.
        tokenizer: a tokenizer with a chat template.
        records: benign and malicious ones; their answers are ignored.
        system_prompt: a system message for conversations that have none.
        proxy: ``"twins"`` fits it to the malicious records that have a benign twin, and to their twins, instead of to all records.
        strength: norm of the noise, relative to the norm of the weight.
        draws: number of times noise is drawn for each module.
        seed: decides the noise, and which records the proxy is fitted to.
        batch_size: number of prompts in one forward pass.
        cache: stores each draw as it comes; draws that it holds already are not measured again. It belongs to one model and one list
            of records: see :func:`robustness_fingerprint`.
        progress: called as the measurement advances.

    Raises:
        ArchitectureError: the model has no linear modules, or they are quantized or not in memory.
        ConfigError: a setting is out of range, or scikit-learn is missing.
        DataError: a label has too few records, or a prompt is longer than the model's context.
        MoguError: the proxy does not separate the labels.
    """
    check_settings(strength=strength, draws=draws, batch_size=batch_size)
    modules = linear_modules(model)
    prompts = LabeledPrompts.of(model, tokenizer, records, system_prompt=system_prompt, batch_size=batch_size, kind=proxy)
    fitted = proxy_of(model, prompts, seed, progress)
    estimator = DropEstimator(fitted, strength=strength, draws=draws, seed=seed, cache=cache)
    total = len(modules) + 1
    measured = []
    for index, (path, module) in enumerate(modules):
        parameters = sum(parameter.numel() for parameter in module.module.parameters())
        measured.append(ModuleRobustness(module.layer, path, module.name, parameters, estimator.drop([module])))
        progress("perturbing modules", index + 1, total)
    together = estimator.drop([module for _, module in modules])
    progress("perturbing modules", total, total)
    labels: Mapping[str, int] = Counter("malicious" if malicious else "benign" for malicious in prompts.malicious.tolist())
    return RobustnessMap(tuple(measured), together, fitted.margin, fitted.auroc, strength, draws, seed, labels, system_prompt, proxy)


def proxy_of(model: PreTrainedModel, prompts: LabeledPrompts, seed: int, progress: ProgressCallback) -> Proxy:
    """Fit the proxy of a model, which is put into evaluation mode, and report progress by prompts.

    Raises:
        MoguError: see :func:`~mogu.analysis.robustness.proxy.fit_proxy`.
    """
    model.train(False)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("reading prompts", done, len(prompts.ids))

    return fit_proxy(model, prompts, seed=seed, advance=advance)


def robustness_fingerprint(model: PreTrainedModel, prompts: LabeledPrompts) -> str:
    """Return a fingerprint of a model and a list of prompts, for a cache of draws; each draw is stored with its settings."""
    modules = [module for _, module in linear_modules(model)]
    kind = [] if prompts.kind == "records" else [prompts.kind]  # which divides the same prompts in another way
    labeled = json.dumps([activations_fingerprint(model, modules, prompts.ids), prompts.malicious.tolist(), *kind])
    return hashlib.sha256(labeled.encode()).hexdigest()
