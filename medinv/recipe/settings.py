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
from medinv.recipe.blocks import MOST
from medinv.solvers.base import DiffusionSolver

MEASUREMENT = "measurement"
"""As a solver's ``noise_std``: the noise that the measurement was simulated or estimated with."""
_SHOWN = 120
_LONGEST = 60  # of a label, in characters
_TAKEN = ("reconstruction", "one-sample", "metrics", "medinv-files", "unfinished")


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
            raise ValueError(f"expected {{name: ..., settings...}}, got {shown(value)}")
        own = {key: value[key] for key in ("name", "label") if key in value}
        settings = {key: item for key, item in value.items() if key not in own}
        _check_counts(own["name"], settings)
        solver = solver_class(own["name"])
        from_measurement = settings.get("noise_std") == MEASUREMENT
        trial = {**settings, "noise_std": 1.0} if from_measurement else settings
        try:
            model = fields_model(own["name"]).model_validate(trial)
            _construct(solver, model, noise_std=1.0)
        except ValidationError as error:
            raise ValueError(_explain(own["name"], error)) from None
        except InputError as error:
            raise ValueError(str(error)) from None
        checked = model.model_dump()
        return {**own, **checked, **({"noise_std": MEASUREMENT} if from_measurement else {})}

    @model_validator(mode="after")
    def _names_a_file(self) -> SolverSettings:
        good = self.label != "" and self.slug and self.title.isprintable()
        if not good or len(self.title) > _LONGEST:
            raise ValueError(f"label: expected at most {_LONGEST} printable characters with a "
                             f"letter or digit, got {shown(self.label)}")
        if self.slug in _TAKEN:
            raise ValueError(f"label: {shown(self.label)} is the name of another output; choose "
                             "another one")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One alternative per solver, with its own fields."""
        alternatives = []
        for name in solver_names():
            schema = _inlined(fields_model(name).model_json_schema())
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
    def slug(self) -> str:
        """The title as a part of a file's name."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")

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
        model = fields_model(self.name).model_validate(fields)
        return _construct(solver_class(self.name), model, noise_std)

    @property
    def steps(self) -> int | None:
        """The number of steps, of the wrapped solver where this one wraps another."""
        fields = self.fields
        inner = fields.get("solver")
        if inner is not None:
            return WrappedSolver.model_validate(inner).steps
        return fields.get("steps") or fields.get("max_iter")


class WrappedSolver(SolverSettings):
    """A solver inside another's settings, as ``{name: DDIP, solver: {name: DDS, steps: 50}}``."""

    @model_validator(mode="after")
    def _takes_a_prior(self) -> WrappedSolver:
        if not needs_prior(self):
            raise ValueError(f"{self.name} uses no prior; choose a solver that does, as DDS")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Any named block: its settings are those of the solver that it names."""
        return {"type": "object", "required": ["name"], "additionalProperties": True,
                "properties": {"name": {"enum": solver_names()}}}


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
        raise ValueError(f"no solver is called {shown(name)}{suggest(name, solver_names())}")
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
    fields = {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(solver)}
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    return model


def _field(field: dataclasses.Field[Any], hint: object) -> Any:  # noqa: ANN401  (pydantic's form)
    """Type and default of a field; a wrapped solver is written as its own block."""
    if hint is DiffusionSolver:
        make: Callable[[], Any] = field.default_factory  # type: ignore[assignment]
        default = {"name": type(make()).__name__}
        return WrappedSolver, Field(default_factory=lambda: WrappedSolver.model_validate(default))
    return hint, ... if field.default is dataclasses.MISSING else field.default


def _construct(solver: type[Any], model: BaseModel, noise_std: float) -> Callable[..., Any]:
    """The solver of these fields, and first the one that it wraps."""
    fields = {name: getattr(model, name) for name in type(model).model_fields}
    for name, value in fields.items():
        if isinstance(value, WrappedSolver):
            fields[name] = value.build(noise_std)
    built: Callable[..., Any] = solver(**fields)
    return built


def sample_titles(title: str, n_samples: int) -> tuple[str, str]:
    """How outputs call one sample and the mean of all.

    >>> sample_titles("DDS", 4)
    ('DDS, one sample', 'DDS, mean of 4')
    """
    return f"{title}, one sample", f"{title}, mean of {n_samples}"


def shown(value: object) -> str:
    """A wrong value in a message, at most 120 characters of it.

    >>> shown("a" * 1000)[-10:]
    'aaaaaaa...'
    """
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN - 3]}..."


def suggest(word: str, known: list[str]) -> str:
    """``; did you mean 'x'? Known: ...``, as the end of a message."""
    near = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} Known: {', '.join(sorted(known)) or 'none'}"


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema with its definitions written where they are used."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:  # noqa: ANN401  (any JSON)
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in node.items()}

    inlined: dict[str, Any] = resolve(schema)
    return inlined


def _check_counts(name: str, settings: dict[str, Any]) -> None:
    """Refuse steps and iterations that no run would see the end of."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_counts(f"{name}.{key}", value)
        if isinstance(value, int) and value > MOST:
            raise ValueError(f"{name}.{key}: expected at most {MOST:,}, got {value:,}")


def _is_solver(item: object) -> bool:
    return isinstance(item, type) and dataclasses.is_dataclass(item)


def _explain(name: str, error: ValidationError) -> str:
    known = list(fields_model(name).model_fields)
    parts = []
    for item in error.errors():
        field = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            parts.append(f"{name} has no setting {shown(field)}{suggest(field, known)}")
        elif item["type"] == "missing":
            parts.append(f"{name} needs the setting {field!r}; add it")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if isinstance(item["input"], dict) else f", got {shown(item['input'])}"
            parts.append(f"{name}.{field}: {message}{given}")
    return "; ".join(parts)
