"""What a MoGU model is made of, as saved in ``mogu_config.json``.

Knows names and numbers; knows nothing of tensors, models or files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from mogu.errors import ConfigError
from mogu.files.text_files import parse_json
from mogu.recipes.settings import Quantization

logger = logging.getLogger(__name__)

FORMAT_VERSION = 5
"""Of the saved layout. Since version 3 a saved model carries its chat template, its system prompt and numbers of its base's weights;
version 4 has a gate; since version 5 the config lists the digests of the model's other files."""
WITH_DIGESTS = 5
"""The first version whose configs list digests."""

Method = Literal["v1", "v2", "gated"]
RouterKind = Literal["chain", "linear"]
Responder = Literal["unwill", "glad", "careful"]
Decision = Literal["refuse", "careful", "base"]
"""What follows from a gate's probability: ``unwill`` answers, the careful responder does, or the base model."""
Handoff = Literal["recompute", "continue"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in hexadecimal."""
RoutedTokens = Annotated[int, Field(ge=0)] | Literal["all"]
"""How many tokens of an answer are routed (``m``); ``"all"`` is every token."""


def text_fingerprint(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_model_name(value: str, where: str) -> str:
    """Return the name of a model, or its revision, once it cannot be taken for anything else.

    A saved model may come from anyone, and what it calls its base model ends on a command line and in a terminal.

    Args:
        value: a hub id, a folder or a revision.
        where: what holds it, for the error.

    Raises:
        ConfigError: it reads as a command-line option, is empty, begins or ends with a space, or has control characters.
    """
    if value.startswith("-"):
        problem = "which a command line would take for an option"
    elif value != value.strip() or not value:
        problem = "which is empty, or begins or ends with a space"
    elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        problem = "which has control characters in it"
    else:
        return value
    raise ConfigError(
        f"{where} is {value!r:.200}, {problem}",
        expected="a hub id, a folder or a revision, in printable characters",
        action="write a folder whose name begins with a dash as ./-name; do not use a saved model whose maker you do not trust",
    )


class BaseShape(BaseModel):
    """What a base model must look like for saved routers and responders to fit it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: str
    layers: int
    width: int


class BackboneConfig(BaseModel):
    """A LoRA on the decoder layers that are routed, active while they are routed (MoGU V2).

    Args:
        modules: paths of linear layers inside one decoder layer, or the ends of such paths (``"q_proj"``); ``None`` is all of
            them: q, k, v, o, gate, up and down in the manner of Llama.
        rank: of the LoRA.
        lora_alpha: its alpha; the scaling is ``lora_alpha / rank``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modules: list[str] | None = None
    rank: int = Field(default=1, ge=1)
    lora_alpha: float = Field(default=2.0, gt=0, allow_inf_nan=False)

    @property
    def scaling(self) -> float:
        """LoRA scaling ``lora_alpha / rank``."""
        return self.lora_alpha / self.rank


class GateConfig(BaseModel):
    """What follows from the probabilities of a prompt gate and a stream head, and where a prompt is read.

    Args:
        refuse: from this probability on, ``unwill`` answers.
        careful: from this probability on, below ``refuse``, the careful responder answers; ``None`` where there is none.
        listen: from this probability on, an answer is taken back and ``unwill`` goes on; ``None`` does not listen.
        hold_back: tokens that a streaming caller gets late, so that what is taken back was never shown.
        before: token ids right before a user's turn.
        after: token ids right behind it, up to the answer.
        header: token ids before any answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    refuse: float = Field(default=0.5, ge=0, le=1)
    careful: float | None = Field(default=None, ge=0, le=1)
    listen: float | None = Field(default=None, ge=0, le=1)
    hold_back: int = Field(default=16, ge=0)
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    header: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.careful is not None and self.careful > self.refuse:
            raise ValueError(f"careful answers begin at {self.careful:g}, above {self.refuse:g}, where refusals do")
        return self

    def decision(self, probability: float) -> Decision:
        """What follows from a prompt's probability; from one that is not a number, a refusal."""
        if not probability < self.refuse:
            return "refuse"
        return "base" if self.careful is None or probability < self.careful else "careful"


class MoguConfig(BaseModel):
    """Settings of one MoGU model. The defaults are the published ones (MoGU, NeurIPS 2024, section 4).

    Args:
        format_version: version of the saved layout.
        base_model: hub id or folder of the base model.
        base_revision: commit of the base model on the hub.
        base_sha256: digest of the GGUF file that the base model came from; ``None`` for other base models.
        base_quantization: the bits that the base model's linear layers were in when this model was made; ``None`` where they were not
            quantized. How a base model is loaded later does not depend on it, except in commands.
        base_shape: filled in when a model is wrapped, checked when it is loaded.
        output_projection: path, inside one decoder layer, of the attention output projection (``"self_attn.o_proj"``);
            ``None`` looks it up by architecture.
        layers: indices of the routed decoder layers; ``None`` is every layer.
        rank: LoRA rank ``r`` of each responder.
        lora_alpha: LoRA alpha of each responder; the scaling is ``s = lora_alpha / rank``.
        router: ``"chain"`` trains the published ``d → router_hidden → d → 1``, ``"linear"`` trains ``d → 1``.
            Both are saved folded to one vector and one scalar.
        router_hidden: width of the chain.
        backbone: the LoRA on the routed decoder layers that MoGU V2 has; ``None`` is V1, which has none.
        gate: the prompt gate of a gated model, which has no routers; ``None`` is V1 or V2.
        careful: of a gated model, the LoRA of its careful responder; ``None`` where it has none.
        routed_tokens: how many tokens of an answer are decoded with routing (``m``); ``"all"`` is every token.
        answer_marker: text that ends a reasoning block, such as ``"</think>"``: once it has been generated, the next ``m`` tokens
            are routed as well. ``None`` routes the first ``m`` tokens alone, whatever they are part of.
        handoff: how the base model goes on after them, see :meth:`mogu.MoguModel.generate`.
        dial: logit shift ``δ``: added to the unwill logit, subtracted from the glad logit. Positive refuses more.
        system_prompt: put before conversations that have no system message, as in training; ``None`` for none.
        chat_template: Jinja text of the template that the model was trained with, which writes the system prompt by itself where a
            conversation has none. Saved in a file of its own.
        chat_template_sha256: its fingerprint.
        tokenizer_sha256: fingerprint of the tokenizer's vocabulary.
        files: digests of the other files of a saved model, by name; ``None`` in formats 1 to 4, and where nothing is saved yet.
        settings_sha256: fingerprint of all the rest of a saved config, likewise.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    base_model: str | None = None
    base_revision: str | None = None
    base_sha256: str | None = None
    base_quantization: Quantization | None = None
    base_shape: BaseShape | None = None
    output_projection: str | None = None
    layers: list[int] | None = None
    rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    router: RouterKind = "chain"
    router_hidden: int = Field(default=512, ge=1)
    backbone: BackboneConfig | None = None
    gate: GateConfig | None = None
    careful: BackboneConfig | None = None
    routed_tokens: RoutedTokens = 5
    answer_marker: str | None = Field(default=None, min_length=1)
    handoff: Handoff = "recompute"
    dial: float = Field(default=0.0, allow_inf_nan=False)
    system_prompt: str | None = None
    chat_template: str | None = Field(default=None, exclude=True)
    chat_template_sha256: str | None = None
    tokenizer_sha256: str | None = None
    files: dict[str, Digest] | None = None
    settings_sha256: Digest | None = None

    @model_validator(mode="after")
    def _gated_or_routed(self) -> Self:
        if self.gate is None and self.careful is not None:
            raise ValueError("a careful responder is for models with a gate")
        if self.gate is not None and self.backbone is not None:
            raise ValueError("a model with a gate has no adapted backbone")
        if self.gate is not None and (self.gate.careful is None) != (self.careful is None):
            raise ValueError("a careful responder goes with a probability from which on it answers")
        return self

    @field_validator("routed_tokens", mode="before")
    @classmethod
    def _null_is_all(cls, value: Any) -> Any:
        return "all" if value is None else value  # formats 1 and 2 wrote null for every token

    @field_validator("base_model", "base_revision")
    @classmethod
    def _names_a_model(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None else check_model_name(value, str(info.field_name))

    @property
    def scaling(self) -> float:
        """LoRA scaling ``s = lora_alpha / rank``."""
        return self.lora_alpha / self.rank

    @property
    def method(self) -> Method:
        """How the model decides who answers, as a recipe calls it."""
        return "gated" if self.gate is not None else "v1" if self.backbone is None else "v2"

    @property
    def responders(self) -> tuple[Responder, ...]:
        """The responders that the model has."""
        if self.gate is None:
            return ("unwill", "glad")
        return ("unwill",) if self.careful is None else ("unwill", "careful")

    def with_chat_template(self, template: str, *, source: str) -> MoguConfig:
        """This config with the text of its chat template; ``source`` names it in errors.

        Raises:
            ConfigError: it is not the template that the fingerprint is of.
        """
        fingerprint = text_fingerprint(template)
        if self.chat_template_sha256 not in (None, fingerprint):
            raise ConfigError(
                f"{source} is not the chat template that the model was trained with: its fingerprint is {fingerprint[:12]}…",
                expected=f"the template of fingerprint {str(self.chat_template_sha256)[:12]}…",
                action="copy the folder again; to use another template on purpose, pass it with --chat-template FILE",
            )
        return self.model_copy(update={"chat_template": template, "chat_template_sha256": fingerprint})

    def to_json(self, files: Mapping[str, str]) -> str:
        """The text of a ``mogu_config.json``; the chat template has a file of its own.

        Args:
            files: digests of the other files of the saved model, by name.
        """
        update: dict[str, Any] = {"format_version": FORMAT_VERSION, "files": dict(files), "settings_sha256": None}
        settings = self.model_copy(update=update).model_dump(mode="json")
        return json.dumps(settings | {"settings_sha256": _settings_fingerprint(settings)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> MoguConfig:
        """Parse the text of a ``mogu_config.json``; ``source`` names it in errors.

        Raises:
            ConfigError: not JSON, an unknown or ill-typed field or one that is given twice, a base model that reads as a command-line
                option, or a format version that this release does not know.
        """
        try:
            config = cls.model_validate_json(text, strict=True)
            settings = parse_json(text)  # which, unlike pydantic, notices a field that is given twice
        except ConfigError as error:  # of `check_model_name`, which does not know the file
            raise ConfigError(f"{source}: {error.found}", expected=error.expected, action=error.action) from error
        except ValidationError as error:
            # A newer format may have fields that this release does not know: its version says more than they do.
            versions = [problem for problem in error.errors() if problem["loc"] == ("format_version",)]
            first = (versions or error.errors())[0]
            if first["type"] == "less_than_equal":
                raise ConfigError(
                    f"{source} has format version {first['input']}",
                    expected=f"a format version of at most {FORMAT_VERSION}",
                    action="upgrade mogu",
                ) from error
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ConfigError(
                f"{source} is not a valid MoGU config: {where}: {first['msg']}",
                expected="a mogu_config.json as save_pretrained writes it",
                action="copy the folder again, or save the model again",
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{source} {error}",
                expected="a mogu_config.json as save_pretrained writes it",
                action="copy the folder again; somebody may have changed it",
            ) from error
        if config.format_version >= WITH_DIGESTS and (config.files is None or config.settings_sha256 is None):
            raise ConfigError(
                f"{source} has no {'files' if config.files is None else 'settings_sha256'}",
                expected=f"both, as every config of format {WITH_DIGESTS} has them",
                action="copy the folder again; somebody may have changed it",
            )
        if config.settings_sha256 is not None and config.settings_sha256 != _settings_fingerprint(settings):
            logger.warning(
                "%s was changed after the model was saved: its settings are not those that were measured. "
                "Where the change is your own, `mogu verify DIR --accept` makes it the model's.",
                source,
            )
        return config


def _settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """Of what stands in a config, rather than of what it means, so that a later release with more fields finds the same."""
    return text_fingerprint(json.dumps({name: value for name, value in settings.items() if name != "settings_sha256"}, sort_keys=True))
