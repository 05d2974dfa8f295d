"""The reference pages, made from the models that check what people write: `python -m tests.docs.reference` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined, to_jsonable_python
from typer.cli import get_docs_for_click

from operators.form.questions import Ingest, Online, Select, Warmup
from pipeline.cli import app
from pipeline.spec.config import (
    MODELS,
    POLICIES,
    SIZES,
    Continuous,
    Cutover,
    EvaluationConfig,
    ModelConfig,
    NoTeacher,
    OptimizerConfig,
    Policy,
    Variant,
    Widths,
)
from pipeline.spec.extensions import extensions, load_extension
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Fields, worded
from pipeline.spec.lineup import DatasetConfig, LineUp, LogSource, SimulatedSource, Workers
from pipeline.spec.schema import SHIPPED, Categorical, Dense, EventTime, ListColumn, Schema, TextFormat
from pipeline.spec.settings import settings_table
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import Window
from pipeline.studies.kinds import kinds

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
MADE = "<!-- Made from the code: `python -m tests.docs.reference` writes this page. -->\n\n"


@dataclass(frozen=True)
class Part:
    """A model's section of a page."""

    title: str
    model: type[BaseModel]

    @property
    def anchor(self) -> str:
        """What its heading is called in an address."""
        return "".join(c for c in self.title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


SCHEMA = (
    Part("The schema", Schema),
    Part("Event time", EventTime),
    Part("A dense column", Dense),
    Part("A categorical column", Categorical),
    Part("A list column", ListColumn),
    Part("Text files", TextFormat),
)
LINEUP = (
    Part("The line-up", LineUp),
    Part("The data set", DatasetConfig),
    Part("A log", LogSource),
    Part("The simulator as a source", SimulatedSource),
    Part("The simulator's settings", SimulatorConfig),
    Part("A variant", Variant),
    Part("A model", ModelConfig),
    Part("Widths of a model", Widths),
    Part("An optimizer", OptimizerConfig),
    Part("No teacher", NoTeacher),
    Part("A teacher until a cutover", Cutover),
    Part("A continuous teacher", Continuous),
    Part("Workers", Workers),
    Part("Evaluation", EvaluationConfig),
)


def built_in_policies() -> dict[str, type[Policy]]:
    """Windrow's own selection policies, by kind."""
    own = {kind: point for kind, point in extensions(POLICIES).items() if point.value.startswith("pipeline.")}
    return {kind: load_extension(POLICIES, kind, "selection policy", Policy) for kind in sorted(own)}


def policies() -> tuple[Part, ...]:
    """A section for each of Windrow's own policies."""
    return tuple(Part(f"Selection {kind}", policy) for kind, policy in built_in_policies().items())


def is_a_kind(field: FieldInfo) -> bool:
    """Whether a field can only have one value: it says which of several a mapping is, and leaves nothing to choose."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


class _WithWindows(GenerateJsonSchema):
    """A window has no schema of its own: people write the name of its day."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """Make a day of a window, and of nothing else."""
        if getattr(schema.get("function", {}).get("function"), "__self__", None) is not Window:
            super().handle_invalid_for_json_schema(schema, error_info)
        return {"type": "string", "format": "date"}


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Mapping[str, Any]]]:
    """Each field that a person fills in, with its JSON schema."""
    schema = model.model_json_schema(schema_generator=_WithWindows)
    for name, field in model.model_fields.items():
        yield name, field, schema["properties"][name]


def taken(schema: Mapping[str, Any], parts: Mapping[str, Part]) -> str:
    """What a field takes, in words, with links to the sections of this page."""
    if "$ref" in schema:
        return linked(schema["$ref"].rpartition("/")[2], parts)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        found = dict.fromkeys(taken(branch, parts) for branch in branches)
        said = " or ".join(kind for kind in found if kind != "empty")
        return f"{said}, or empty" if "empty" in found else said
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array" if "prefixItems" not in schema["items"]:  # else pairs of a name and a value
            return f"a list: {taken(schema['items'], parts)}"
        case "null":
            return "empty"
        case "array" | "object":
            return "a mapping"
    return worded(schema)


def linked(model: str, parts: Mapping[str, Part]) -> str:
    """A mapping that has a section of its own."""
    if model == Policy.__name__:
        return "a mapping of one of the kinds below, *Selection ...*"
    return f"[{parts[model].title.lower()}](#{parts[model].anchor})"


def default(field: FieldInfo) -> str:
    """What a field is when it is left out."""
    if field.is_required():
        return "must be given"
    given = field.get_default(call_default_factory=True, validated_data={})
    if given is PydanticUndefined or given is None or given in ((), "", {}):
        return ""
    if isinstance(given, BaseModel):
        chosen = to_jsonable_python(given)
        return f"`{chosen['kind']}`" if "kind" in chosen else "its defaults"
    shown = given.name if isinstance(given, Window) else to_jsonable_python(given)
    return f"`{'true' if shown is True else 'false' if shown is False else shown}`"


def rows(table: Iterable[tuple[str, ...]]) -> str:
    """Lines of a table in markdown."""
    return "".join(
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |\n" for row in table
    )


def opened(model: type[BaseModel]) -> str:
    """A class's docstring up to its examples, if it is its own."""
    return " ".join((model.__dict__.get("__doc__") or "").partition(">>>")[0].split())


def section(part: Part, parts: Mapping[str, Part]) -> str:
    """A model's fields."""
    table = [
        (f"`{name}`", taken(schema, parts), default(field), field.description or "")
        for name, field, schema in fields_of(part.model)
        if not is_a_kind(field)
    ]
    kind = next((field for field in part.model.model_fields.values() if is_a_kind(field)), None)
    said = f"`kind: {get_args(kind.annotation)[0]}`. " if kind is not None else ""
    text = f"\n## {part.title}\n\n{said}{opened(part.model)}\n"
    return f"{text}\n| field | takes | default | meaning |\n|---|---|---|---|\n{rows(table)}" if table else text


def sections(parts: tuple[Part, ...]) -> str:
    """All models of a page."""
    by_name = {part.model.__name__: part for part in parts}
    return "".join(section(part, by_name) for part in parts)


def schema_page() -> str:
    """What a schema may say."""
    return (
        "# Schema\n\nWhat the columns of a log mean, as a YAML file. `windrow init` writes one from a sample of a log "
        f"([a log of one's own](../own_log.md)); {', '.join(f'`{name}`' for name in SHIPPED)} come with Windrow and go by name.\n"
        + sections(SCHEMA)
    )


def lineup_page() -> str:
    """What a line-up may say."""
    sizes = "".join(
        f"| `{name}` | {w.embedding_dim} | {list(w.bottom)} | {list(w.over)} | {w.cross_layers} of rank {w.cross_rank} |\n"
        for name, w in SIZES.items()
    )
    return (
        "# Line-up\n\nA data set, the variants trained on it and their workers, as a YAML file. What is left out has its default; "
        "a name that is not known is refused, with the nearest that is.\n"
        + sections((*LINEUP, *policies()))
        + "\n## Named sizes\n\n| size | embedding rows | layers below the interactions | layers above them | DCNv2's cross layers |\n"
        + f"|---|---|---|---|---|\n{sizes}\nModels: {', '.join(f'`{name}`' for name in sorted(extensions(MODELS)))}.\n"
    )


def form_rows(model: type[Fields], leave_out: Iterable[str] = ()) -> str:
    """A form's fields. What a form suggests by the line-ups that there are is no part of it."""
    table = []
    for name, schema in model.described().items():
        field = model.model_fields[name]
        if name in leave_out:
            continue
        suggested = callable(field.json_schema_extra)
        kept = {key: value for key, value in schema.items() if not (suggested and key in ("enum", "examples"))}
        given = "must be given" if field.is_required() else "" if suggested else str(default_of_form(schema))
        takes = "names" if suggested and "array" in str(schema["type"]) else worded(kept)
        table.append((f"`{name}`", schema["title"], takes, given, schema["description"]))
    return "\n| field | in the form | takes | default | meaning |\n|---|---|---|---|---|\n" + rows(table)


def default_of_form(schema: Mapping[str, Any]) -> str:
    """A field's default as a person would type it."""
    given = schema.get("default")
    if isinstance(given, list):
        return ", ".join(f"`{each}`" for each in given)
    return "" if given in (None, "") else f"`{'true' if given is True else 'false' if given is False else given}`"


def forms_page() -> str:
    """What every form asks."""
    shared = set(StudyFields.model_fields)
    text = (
        "# Forms\n\nThe fields of every DAG's form. A study's file (`windrow study FILE`) has the same fields, and `kind`; "
        "a run's conf has them, too. A form suggests dates and names from the line-up; in a file or a conf you must give them.\n"
    )
    text += "\n## Every study\n" + form_rows(StudyFields)
    for name, kind in kinds().items():
        if kind.is_built_in:
            own, common = kind.fields.model_fields, StudyFields.model_fields
            changed = {
                each
                for each in shared
                if (own[each].default, own[each].description) != (common[each].default, common[each].description)
            }
            text += f"\n## {name}\n\n{kind.question} Beside the fields of every study:\n"
            text += form_rows(kind.fields, shared - changed)
    daily = {"ingest_windows": Ingest, "select_windows": Select, "historical_warmup": Warmup, "online_training": Online}
    for title, model in daily.items():
        text += f"\n## {title}\n" + form_rows(model)
    return text


def settings_page() -> str:
    """The environment variables."""
    return (
        "# Settings\n\nEnvironment variables say where things are; none of them changes a result. `windrow settings` shows the "
        "value of each. Airflow reaches the cluster and the tracking server through its connections `windrow_ray` (host: Ray's dashboard, "
        "password: its token) and `windrow_mlflow`; `windrow up` provides both.\n"
        "\n| variable | default | meaning |\n|---|---|---|\n"
        + rows((f"`{name}`", given, meaning) for name, given, meaning in settings_table())
    )


def commands_page() -> str:
    """Every command and its options."""
    command = typer.main.get_command(app)
    made = get_docs_for_click(obj=command, ctx=typer.Context(command), name="windrow", title="Commands")
    return "\n".join(line.rstrip() for line in made.strip().splitlines()) + "\n"


PAGES = {
    "schema.md": schema_page,
    "lineup.md": lineup_page,
    "forms.md": forms_page,
    "settings.md": settings_page,
    "commands.md": commands_page,
}


def page(name: str) -> str:
    """A whole page as it should lie in `docs/reference`."""
    title, _, rest = PAGES[name]().partition("\n")
    return f"{title}\n\n{MADE.strip()}\n{rest}"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PAGES:
        (FOLDER / name).write_text(page(name))
