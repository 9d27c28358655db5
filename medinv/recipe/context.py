"""The part of a recipe that tells its prior what the images show."""

from __future__ import annotations

from dataclasses import fields

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medinv.data import Metadata

_FIELDS = tuple(field.name for field in fields(Metadata))


class Context(BaseModel):
    """The prompt of a prior that takes prompts (ContextMRI).

    Anatomy, contrast and plane are those that the input tells of its acquisition; ``metadata``
    corrects and completes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | None = Field(None, description="one prompt for all slices, instead of metadata")
    metadata: dict[str, str | float] = Field(
        default_factory=dict, description="fields of medinv.data.Metadata, as {contrast: T2w}"
    )
    span: tuple[float, float] | None = Field(
        None, description="where the lowest slice begins and the highest ends along the whole "
        "anatomy, from 0 (feet, back, left) to 1; each slice is then told its place"
    )
    weight: float = Field(1.0, ge=0, description="guidance: 0 ignores the prompt, 1 is the prior "
                          "given it, more leans further towards it at twice the cost")

    @model_validator(mode="after")
    def _is_one_description(self) -> Context:
        if self.prompt is not None and (self.metadata or self.span):
            raise ValueError("expected a prompt or metadata and span, got both")
        if self.span is not None and not 0 <= self.span[0] < self.span[1] <= 1:
            raise ValueError(f"span: expected 0 <= start < stop <= 1, got {list(self.span)}")
        if unknown := sorted(set(self.metadata) - set(_FIELDS)):
            raise ValueError(f"metadata: no field {', '.join(unknown)}; known: "
                             f"{', '.join(_FIELDS)}")
        Metadata(**self.metadata)  # type: ignore[arg-type]  # its own checks follow
        return self
