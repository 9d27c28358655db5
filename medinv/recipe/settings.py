"""A solver as a recipe writes it: its name and the fields of its dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

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

from medinv.catalogue import Kind, find, names
from medinv.errors import InputError
from medinv.guidance import Guidance
from medinv.problem import Problem
from medinv.recipe.blocks import MOST
from medinv.solvers.diffusion import Diffusion

_SHOWN = 120
_LONGEST = 60  # of a label, in characters
_TAKEN = ("reconstruction", "one-sample", "metrics", "medinv-files", "unfinished")


class Named(BaseModel):
    """``{name: ..., settings...}``: a block of the catalogue and its fields, all filled."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: ClassVar[Kind]
    own: ClassVar[tuple[str, ...]] = ("name",)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: object) -> object:
        """Validate the fields against the dataclass and fill in its defaults."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected {{name: ..., settings...}}, got {shown(value)}")
        own = {key: value[key] for key in cls.own if key in value}
        settings = {key: item for key, item in value.items() if key not in own}
        _check_counts(own["name"], settings)
        block = block_class(cls.kind, own["name"])
        if "noise_std" in settings:
            raise ValueError(f"{own['name']} has no setting 'noise_std': the noise belongs to the "
                             "measurement; write `noise_aware: true` for DDS to use it")
        try:
            model = fields_model(own["name"], cls.kind).model_validate(settings)
            _construct(block, model)
        except ValidationError as error:
            raise ValueError(_explain(own["name"], cls.kind, error)) from None
        except InputError as error:
            raise ValueError(str(error)) from None
        return {**own, **model.model_dump()}

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the dataclass."""
        return dict(self.model_extra or {})

    def build(self) -> Any:  # noqa: ANN401  (a class of the catalogue)
        """The block itself."""
        model = fields_model(self.name, self.kind).model_validate(self.fields)
        return _construct(block_class(self.kind, self.name), model)


class GuidanceSettings(Named):
    """``{name: MMPS, cg_iter: 3}``: a rule of `medinv.guidance`."""

    kind = "guidance"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One alternative per rule, with its own fields."""
        return {"oneOf": [_schema(name, "guidance", {}) for name in names("guidance")]}


class SolverSettings(Named):
    """``{name: DDS, steps: 50}``: a solver of `medinv.solvers`."""

    kind = "solver"
    own = ("name", "label")

    name: str = Field(description="see `medinv solvers`")
    label: str | None = Field(None, description="how outputs call it; the name if null")

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
        label = {"label": {"type": "string"}}
        return {"oneOf": [_schema(name, "solver", label) for name in solver_names()]}

    @property
    def title(self) -> str:
        """How outputs call the solver."""
        return self.label or self.name

    @property
    def slug(self) -> str:
        """The title as a part of a file's name."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")

    def check(self, problem: Problem) -> None:
        """Raise `InputError` where the problem is not what the solver needs."""
        solver = self.build()
        if isinstance(solver, Diffusion):
            solver.check(problem)

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
    return names("solver")


def solver_class(name: str) -> type[Any]:
    """The solver called ``name``."""
    return block_class("solver", name)


def block_class(kind: Kind, name: str) -> type[Any]:
    """The block of a kind called ``name``.

    Raises:
        ValueError: there is none; the nearest name is suggested.
    """
    if name not in names(kind):
        raise ValueError(f"no {kind} is called {shown(name)}{suggest(name, names(kind))}")
    return find(kind, name)


def needs_prior(settings: SolverSettings) -> bool:
    """Whether the solver is called with a prior."""
    return "prior" in inspect.signature(solver_class(settings.name).__call__).parameters


@cache
def fields_model(name: str, kind: Kind = "solver") -> type[BaseModel]:
    """A pydantic model with the fields of a block's dataclass, for checks and schemas."""
    block = block_class(kind, name)
    hints = typing.get_type_hints(block)
    fields = {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(block)}
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    return model


def _field(field: dataclasses.Field[Any], hint: object) -> Any:  # noqa: ANN401  (pydantic's form)
    """Type and default of a field; a solver or a rule inside is written as its own block."""
    inner: type[Named] | None = (
        WrappedSolver if hint is Diffusion else GuidanceSettings if hint is Guidance else None)
    if inner is not None:
        make: Callable[[], Any] = field.default_factory  # type: ignore[assignment]
        default = {"name": type(make()).__name__}
        return inner, Field(default_factory=lambda: inner.model_validate(default))
    return hint, ... if field.default is dataclasses.MISSING else field.default


def _construct(block: type[Any], model: BaseModel) -> Any:  # noqa: ANN401  (any block)
    """The block of these fields, and first the one inside it."""
    fields = {name: getattr(model, name) for name in type(model).model_fields}
    return block(**{name: value.build() if isinstance(value, Named) else value
                    for name, value in fields.items()})


def _schema(name: str, kind: Kind, more: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of one block, by its name."""
    schema = _inlined(fields_model(name, kind).model_json_schema())
    schema["properties"] = {"name": {"const": name}, **more, **schema["properties"]}
    schema["required"] = ["name", *schema.get("required", [])]
    return schema


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


def _explain(name: str, kind: Kind, error: ValidationError) -> str:
    known = list(fields_model(name, kind).model_fields)
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
