"""The robustness map: how much a proxy of safety suffers from noise on each module alone, and on all of them together.

Knows the proxy and the noise; knows nothing of files but the one that keeps what was measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.activation_cache import fingerprint
from mogu.analysis.measurement_cache import Measured
from mogu.analysis.probing import Progress
from mogu.analysis.robustness.noise import perturbed, weight_of
from mogu.analysis.robustness.proxy import Prompts, Proxy, fit_proxy
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
        parameters: how many it has.
        drop: how much the proxy suffers when this module alone is perturbed; see :func:`measure_robustness`.
    """

    layer: int
    module: str
    name: str
    parameters: int
    drop: float


@dataclass(frozen=True)
class RobustnessMap:
    """How much a model's safety, as far as a proxy sees it, hangs on each module.

    Args:
        modules: every linear module of the decoder layers, layer by layer.
        together: the drop when all of them are perturbed at once.
        intact: the proxy's mean margin on the held-out prompts with nothing perturbed.
        auroc: of the proxy on those, with nothing perturbed.
        strength: norm of the noise, relative to the weight's.
        draws: how many times noise was drawn for each module.
        seed: decided the noise, and which prompts the proxy was fitted to.
        prompts: of each label; half of them fitted the proxy, half measured it.
        system_prompt: the system message put before conversations that had none.
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


class Suffering:
    """Measures drops, and keeps every draw that it has measured.

    Args:
        proxy: fitted to the intact model.
        strength: see :class:`RobustnessMap`.
        draws: see there.
        seed: see there.
        measured: the file that keeps the draws, if any.
    """

    def __init__(self, proxy: Proxy, *, strength: float, draws: int, seed: int, measured: Measured | None) -> None:
        self._proxy, self._measured = proxy, measured
        self._strength, self._draws, self._seed = strength, draws, seed

    def drop(self, modules: Sequence[Projection]) -> float:
        """The drop when these modules are perturbed together."""
        return math.sqrt(math.fsum(self._shift(modules, draw) for draw in range(self._draws)) / self._draws) / self._proxy.margin

    def _shift(self, modules: Sequence[Projection], draw: int) -> float:
        key = (sorted(module.name for module in modules), self._strength, self._seed, draw)
        if self._measured is not None and (kept := self._measured.find(key)) is not None:
            return kept[0]
        with perturbed(modules, strength=self._strength, seed=self._seed, draw=draw):
            shift = self._proxy.shift()
        if self._measured is not None:
            self._measured.add([(key, (shift,))])
        return shift


def linear_modules(model: PreTrainedModel) -> list[tuple[str, Projection]]:
    """The linear layers that occur once in every decoder layer, with their path in it, layer by layer.

    Raises:
        ArchitectureError: there are none, or one is quantized or not in memory.
    """
    found = [(path, module) for path, modules in find_linear_layers(model).items() for module in modules]
    if not found:
        raise ArchitectureError(
            f"{type(model).__name__} has no linear layers in numbered decoder layers",
            expected="a transformer whose decoder layers hold linear layers",
            action="choose such a model",
        )
    for _, module in found:
        weight_of(module)
    return sorted(found, key=lambda one: one[1].layer)


def check_settings(*, strength: float, draws: int, batch_size: int) -> None:
    """Refuse numbers that cannot be meant.

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
    strength: float = STRENGTH,
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    measured: Measured | None = None,
    progress: Progress = lambda what, done, total: None,
) -> RobustnessMap:
    """Perturb every linear module of the decoder layers in turn, and see how much a proxy of safety suffers.

    The proxy is a logistic regression on the model's security feature (see :mod:`mogu.analysis.robustness.proxy`), fitted to one half
    of the records on the intact model, then fixed. On a prompt ``x`` of the other half let ``f(x)`` be its signed distance to the
    plane, malicious positive, in the intact model, and ``f_d(x)`` the same with noise of draw ``d`` on the module's weight:

    .. code-block:: text

        W_d    = W + strength · ‖W‖ · E_d / ‖E_d‖                     E_d normal, norms Frobenius'
        intact = mean over x of ±f(x)                                 the mean margin, + for malicious, − for benign prompts
        drop   = sqrt( mean over d and x of (f_d(x) − f(x))² ) / intact

    Means over ``x`` are taken by label first, so that neither label outweighs the other. A drop of 0 says that the module has no say,
    one of 1 that the noise throws prompts about as far as the plane holds them from its edge. It is the size of the change, not the
    margin that is lost on the mean: noise is as likely to push one way as the other, so over a few draws the loss is mostly the luck of
    the sign, and AUROC and accuracy hardly leave 1 at all (docs/results/analysis.md has the numbers).

    Args:
        model: in memory as a whole, not quantized; it is put into evaluation mode, and has the same weights afterwards, bit for bit.
        tokenizer: with a chat template.
        records: benign and malicious ones; their answers are not looked at.
        system_prompt: a system message put before conversations that have none.
        strength: norm of the noise, relative to the weight's.
        draws: how many times noise is drawn for each module.
        seed: decides the noise, and which records the proxy is fitted to.
        batch_size: prompts a pass.
        measured: keeps each draw as it comes; what it holds is not measured again. It is for one model and one list of records:
            see :func:`made_with`.
        progress: is told how far things are.

    Raises:
        ArchitectureError: the model has no linear modules, or they are quantized or not in memory.
        ConfigError: a setting is out of range, or scikit-learn is missing.
        DataError: a label has too few records, or a prompt is longer than the model's context.
        MoguError: the proxy does not tell the labels apart.
    """
    check_settings(strength=strength, draws=draws, batch_size=batch_size)
    modules = linear_modules(model)
    prompts = Prompts.of(model, tokenizer, records, system_prompt=system_prompt, batch_size=batch_size)
    proxy = proxy_of(model, prompts, seed, progress)
    suffering = Suffering(proxy, strength=strength, draws=draws, seed=seed, measured=measured)
    total = len(modules) + 1
    found = []
    for place, (path, module) in enumerate(modules):
        parameters = sum(parameter.numel() for parameter in module.module.parameters())
        found.append(ModuleRobustness(module.layer, path, module.name, parameters, suffering.drop([module])))
        progress("perturbing modules", place + 1, total)
    together = suffering.drop([module for _, module in modules])
    progress("perturbing modules", total, total)
    labels: Mapping[str, int] = Counter(record.label for record in records)
    return RobustnessMap(tuple(found), together, proxy.margin, proxy.auroc, strength, draws, seed, labels, system_prompt)


def proxy_of(model: PreTrainedModel, prompts: Prompts, seed: int, progress: Progress) -> Proxy:
    """The proxy of a model, which is put into evaluation mode, with progress by prompts.

    Raises:
        MoguError: see :func:`~mogu.analysis.robustness.proxy.fit_proxy`.
    """
    model.train(False)
    read = 0

    def advance(more: int) -> None:
        nonlocal read
        read += more
        progress("reading prompts", read, len(prompts.ids))

    return fit_proxy(model, prompts, seed=seed, advance=advance)


def made_with(model: PreTrainedModel, prompts: Prompts) -> str:
    """What tells the draws of one model and one list of prompts from those of another; settings stand beside each draw."""
    modules = [module for _, module in linear_modules(model)]
    labeled = json.dumps([fingerprint(model, modules, prompts.ids), prompts.malicious.tolist()])
    return hashlib.sha256(labeled.encode()).hexdigest()
