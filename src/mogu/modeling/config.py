"""What a MoGU model is made of, as saved in ``mogu_config.json``.

Knows names and numbers; knows nothing of tensors, models or files.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mogu.errors import ConfigError

FORMAT_VERSION = 2
"""Of the newest saved layout. Models with neither an adapted backbone nor an answer marker are version 1, which older releases read."""

RouterKind = Literal["chain", "linear"]
Handoff = Literal["recompute", "continue"]


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
    lora_alpha: float = Field(default=2.0, gt=0)

    @property
    def scaling(self) -> float:
        """LoRA scaling ``lora_alpha / rank``."""
        return self.lora_alpha / self.rank


class MoguConfig(BaseModel):
    """Settings of one MoGU model. The defaults are the published ones (MoGU, NeurIPS 2024, section 4).

    Args:
        format_version: version of the saved layout.
        base_model: hub id or folder of the base model.
        base_revision: commit of the base model on the hub.
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
        routed_tokens: how many tokens of an answer are decoded with routing (``m``); ``None`` is every token.
        answer_marker: text that ends a reasoning block, such as ``"</think>"``: once it has been generated, the next ``m`` tokens
            are routed as well. ``None`` routes the first ``m`` tokens alone, whatever they are part of.
        handoff: how the base model goes on after them, see :meth:`mogu.MoguModel.generate`.
        dial: logit shift ``δ``: added to the unwill logit, subtracted from the glad logit. Positive refuses more.
        chat_template_sha256: fingerprint of the chat template that the model was trained with.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    format_version: int = Field(default=1, ge=1, le=FORMAT_VERSION)
    base_model: str | None = None
    base_revision: str | None = None
    base_shape: BaseShape | None = None
    output_projection: str | None = None
    layers: list[int] | None = None
    rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    router: RouterKind = "chain"
    router_hidden: int = Field(default=512, ge=1)
    backbone: BackboneConfig | None = None
    routed_tokens: int | None = Field(default=5, ge=0)
    answer_marker: str | None = Field(default=None, min_length=1)
    handoff: Handoff = "recompute"
    dial: float = Field(default=0.0, allow_inf_nan=False)
    chat_template_sha256: str | None = None

    @property
    def scaling(self) -> float:
        """LoRA scaling ``s = lora_alpha / rank``."""
        return self.lora_alpha / self.rank

    def to_json(self) -> str:
        """The text of a ``mogu_config.json``: of version 1, without what that does not know, where older releases can read it."""
        version = 1 if self.backbone is None and self.answer_marker is None else FORMAT_VERSION
        unknown = {"backbone", "answer_marker"} if version == 1 else set()
        return self.model_copy(update={"format_version": version}).model_dump_json(indent=2, exclude=unknown) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> MoguConfig:
        """Parse the text of a ``mogu_config.json``; ``source`` names it in errors.

        Raises:
            ConfigError: not JSON, an unknown or ill-typed field, or a format version that this release does not know.
        """
        try:
            config = cls.model_validate_json(text)
        except ValidationError as error:
            # A newer format may have fields that this release does not know: its version says more than they do.
            versions = [one for one in error.errors() if one["loc"] == ("format_version",)]
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
        return config
