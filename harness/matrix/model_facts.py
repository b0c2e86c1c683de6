"""`ModelFacts`: what the MoE layer of a real model computes; shared by models.yaml and config.json.

Facts may say more than a case can: `harness.matrix.model_cases` turns them into cases.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from harness.matrix.axis import LARGEST, SMALLEST
from moe.quant import QUANT

Size = Annotated[int, Field(ge=1)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]  # part of a case id
Dtype = Literal["bf16", "fp16", "f32"]  # keys of moe.spec.DTYPE_BYTES
Line = Annotated[str, StringConstraints(min_length=1)]


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class RouterFacts(_Facts):
    """How a model chooses and weighs experts, after the logits."""

    scoring: Word = Field("softmax", description="function of the logits: a row of moe.routers")
    renormalize: bool = Field(True, description="a token's chosen weights are made to sum to one")
    bias: bool = Field(False, description="a bias is added to the scores for the choice")
    groups: Size = Field(1, description="groups of experts, of which some are chosen first")
    chosen_groups: Size = Field(1, description="groups that a token may use")
    scale: float = Field(1.0, ge=SMALLEST, le=LARGEST, description="factor on the weights")
    weights_input: bool = Field(False, description="weights multiply the experts' input")


class ModelFacts(_Facts):
    """The MoE layer of one model, with the source of the facts."""

    checkpoint: Line = Field(description="name of the published checkpoint")
    source: list[Line] = Field(min_length=1, description="where each figure was read")
    hidden: Size = Field(description="hidden size")
    intermediate: Size = Field(description="intermediate size of a routed expert")
    experts: Size = Field(description="routed experts of a layer")
    top_k: Size = Field(description="experts that a token is routed to")
    shared_experts: Annotated[int, Field(ge=0)] = Field(0, description="always-on experts")
    shared_intermediate: Size | None = Field(
        None, description="width of all shared experts together, if not shared_experts * that size"
    )
    shared_gate: bool = Field(False, description="a gate multiplies the shared experts' output")
    router: RouterFacts = RouterFacts()
    activation: Word = Field("silu", description="a row of moe.activations, or another name")
    gated: bool = Field(True, description="three matrices an expert: gate, up and down")
    expert_bias: bool = Field(False, description="experts add biases")
    latent: Size | None = Field(None, description="width on which the routed experts work")
    quant: Word = Field("none", description="of the checkpoint: a row of moe.quant, or a name")
    dtype: Dtype = "bf16"

    @field_validator("quant")
    @classmethod
    def _canonical(cls, name: str) -> str:
        return QUANT.canonical(name)

    @model_validator(mode="after")
    def _fits(self) -> ModelFacts:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} exceeds the number of experts, {self.experts}")
        if self.router.chosen_groups > self.router.groups:
            counts = f"{self.router.chosen_groups} exceeds router.groups, {self.router.groups}"
            raise ValueError(f"router.chosen_groups {counts}")
        if self.shared_experts == 0 and (self.shared_intermediate or self.shared_gate):
            raise ValueError("shared_experts is 0, but their width or gate is given; leave it out")
        return self

    @property
    def shared_width(self) -> int:
        """Return the columns of all shared experts together."""
        return self.shared_intermediate or self.shared_experts * self.intermediate

    def summary(self) -> str:
        """Return the facts as one line."""
        router = self.router
        parts = [
            f"hidden {self.hidden}",
            f"intermediate {self.intermediate}",
            f"{self.experts} experts, top-{self.top_k}",
            f"{router.scoring} router"
            + (", renormalised" if router.renormalize else "")
            + (", bias for the choice" if router.bias else "")
            + (f", {router.chosen_groups} of {router.groups} groups" if router.groups > 1 else "")
            + (f", weights times {router.scale:g}" if router.scale != 1.0 else "")
            + (" on the experts' input" if router.weights_input else ""),
            self.activation + ("" if self.gated else ", not gated"),
        ]
        if self.shared_experts:
            gate = ", gated" if self.shared_gate else ""
            parts.append(f"{self.shared_experts} shared ({self.shared_width} columns{gate})")
        parts += ["expert biases"] * self.expert_bias
        parts += [f"latent size {self.latent}"] * (self.latent is not None)
        parts.append("unquantized" if self.quant == "none" else f"quant {self.quant}")
        return "; ".join([*parts, self.dtype])
