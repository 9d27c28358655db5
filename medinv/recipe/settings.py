"""A solver as a recipe writes it: its name and the fields of its dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from medinv.errors import InputError

MEASUREMENT = "measurement"
"""As a solver's ``noise_std``: the noise that the measurement was simulated or estimated with."""


class SolverSettings(BaseModel):
    """``{name: DDS, steps: 50}``: a solver of `medinv.solvers` and its fields, all filled."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="see `medinv solvers`")
    label: str | None = Field(None, description="how outputs call it; the name if null")

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: object) -> object:
        """Validate the fields against the dataclass and fill in its defaults."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected {{name: ..., settings...}}, got {value!r}")
        own = {key: value[key] for key in ("name", "label") if key in value}
        settings = {key: item for key, item in value.items() if key not in own}
        solver = solver_class(own["name"])
        from_measurement = settings.get("noise_std") == MEASUREMENT
        trial = {**settings, "noise_std": 1.0} if from_measurement else settings
        try:
            checked = fields_model(own["name"]).model_validate(trial).model_dump()
            solver(**checked)
        except ValidationError as error:
            raise ValueError(_explain(own["name"], error)) from None
        except InputError as error:
            raise ValueError(str(error)) from None
        return {**own, **checked, **({"noise_std": MEASUREMENT} if from_measurement else {})}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One alternative per solver, with its own fields."""
        alternatives = []
        for name in solver_names():
            schema = fields_model(name).model_json_schema()
            schema["properties"] = {
                "name": {"const": name}, "label": {"type": "string"}, **schema["properties"]
            }
            schema["required"] = ["name", *schema.get("required", [])]
            alternatives.append(schema)
        return {"oneOf": alternatives}

    @property
    def title(self) -> str:
        """How outputs call the solver."""
        return self.label or self.name

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the dataclass."""
        return dict(self.model_extra or {})

    def build(self, noise_std: float) -> Callable[..., Any]:
        """The solver itself.

        Args:
            noise_std: noise of the measurement, for a field ``noise_std: measurement``.
        """
        fields = self.fields
        if fields.get("noise_std") == MEASUREMENT:
            fields["noise_std"] = noise_std
        built: Callable[..., Any] = solver_class(self.name)(**fields)
        return built


def solver_names() -> list[str]:
    """Names of all solvers, sorted."""
    from medinv import solvers

    return sorted(name for name in solvers.__all__ if _is_solver(getattr(solvers, name)))


def solver_class(name: str) -> type[Any]:
    """The solver called ``name``.

    Raises:
        ValueError: there is none; the nearest name is suggested.
    """
    from medinv import solvers

    if name not in solver_names():
        raise ValueError(f"no solver is called {name!r}{suggest(name, solver_names())}")
    found: type[Any] = getattr(solvers, name)
    return found


def needs_prior(settings: SolverSettings) -> bool:
    """Whether the solver is called with a prior."""
    return "prior" in inspect.signature(solver_class(settings.name).__call__).parameters


@cache
def fields_model(name: str) -> type[BaseModel]:
    """A pydantic model with the fields of the solver's dataclass, for checks and schemas."""
    solver = solver_class(name)
    hints = typing.get_type_hints(solver)
    fields: dict[str, Any] = {
        field.name: (
            hints[field.name], ... if field.default is dataclasses.MISSING else field.default
        )
        for field in dataclasses.fields(solver)
    }
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    return model


def suggest(word: str, known: list[str]) -> str:
    """``; did you mean 'x'? Known: ...``, as the end of a message."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} Known: {', '.join(sorted(known)) or 'none'}"


def _is_solver(item: object) -> bool:
    return isinstance(item, type) and dataclasses.is_dataclass(item)


def _explain(name: str, error: ValidationError) -> str:
    known = list(fields_model(name).model_fields)
    parts = []
    for item in error.errors():
        field = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            parts.append(f"{name} has no setting {field!r}{suggest(field, known)}")
        elif item["type"] == "missing":
            parts.append(f"{name} needs the setting {field!r}; add it")
        else:
            parts.append(f"{name}.{field}: {item['msg']}, got {item['input']!r}")
    return "; ".join(parts)
