"""The schema of a log: which columns are the label, the time, the ids and the features, and how each becomes a number."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from pipeline.spec.documents import Flag, Frozen, Real, Whole, content_key, read_yaml
from pipeline.spec.errors import BadInput, asked, shown
from pipeline.spec.window import checked_zone

RESERVED = frozenset({"example_id", "event_time", "label", "cluster", "true_prob"})
FOLDER = Path(__file__).parent / "schemas"
SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""The schemas that go by a name."""

_FEATURE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")

Transform: TypeAlias = Literal["identity", "log1p", "signed_log1p"]
HashSize: TypeAlias = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


class _Feature(Frozen):
    name: str
    """The column's name in a published window."""
    column: str | None = None
    """The column's name in the log, where it differs."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(
                f"{name!r} is a reserved name: give the feature another name and the log's own as `column: {name}`"
            )
        if not _FEATURE_NAME.fullmatch(name):
            raise ValueError(
                f"a feature's name is 1 to 100 letters, digits, '_' or '-', got {name!r}: "
                f"give it such a name and the log's own as `column`"
            )
        return name

    @property
    def source(self) -> str:
        """The column's name in the log."""
        return self.name if self.column is None else self.column


class Dense(_Feature):
    """A number, published as float32."""

    transform: Transform = "identity"
    """Applied to each value; all are total. `log1p` takes negatives as 0, `signed_log1p` is sign(x) log(1 + |x|)."""
    fill: Annotated[Real, Field(ge=-3.4e38, le=3.4e38)] = 0.0
    """What a missing value becomes, in the units that the transform yields."""


class Categorical(_Feature):
    """One category, published as an int32 bucket; a missing value has a bucket like any other value."""

    hash_size: HashSize
    """Number of buckets."""


class ListColumn(_Feature):
    """Any number of categories (multi-hot), published as a list of int32 buckets; missing is the empty list."""

    hash_size: HashSize
    """Number of buckets."""
    pooling: Literal["sum", "mean"] = "mean"
    """How the embeddings of one example's entries become one."""
    max_length: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    """Entries kept from the front; all by default."""
    separator: Annotated[str, Field(min_length=1)] = "|"
    """What parts the entries in a text file; tables with real lists do not need it."""


class EventTime(Frozen):
    """When an example happened."""

    column: str
    """The column's name in the log."""
    zone: str = "UTC"
    """IANA zone for times without one. A time that occurs twice (clocks set back) is read as the earlier one."""
    format: str = "iso"
    """`iso`, `epoch_s`, `epoch_ms`, `epoch_us`, or a strptime pattern. Columns that hold real timestamps ignore it."""
    day: Literal["utc", "local"] = "utc"
    """Where windows are cut: at midnight UTC, or at the midnight of `zone`. With `local`, a
    window is one day in that zone and times are published as local clock times (both passes of the hour repeated in autumn get the
    same times)."""

    @field_validator("zone")
    @classmethod
    def _check_zone(cls, zone: str) -> str:
        return checked_zone(zone, "zone")

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        if value not in ("iso", "epoch_s", "epoch_ms", "epoch_us") and "%" not in value:
            raise ValueError(
                f"format must be 'iso', 'epoch_s', 'epoch_ms', 'epoch_us' or a strptime pattern, got {value!r}"
            )
        return value


class TextFormat(Frozen):
    """How a text file is laid out; tables in Parquet ignore it."""

    delimiter: str | None = None
    """What parts the columns; by default a tab in `.tsv` files and a comma in all others."""
    quote: str | None = '"'
    """What encloses a value that holds delimiters (or line ends, with `newlines_in_values`); None where nothing does."""
    newlines_in_values: Flag = False
    """Whether an enclosed value may go over several lines. By default every line is a record, and a stray quote spoils its own
    line alone; with true, one stray quote makes all lines up to the next one a single value."""
    columns: tuple[str, ...] = ()
    """The columns' names, for files without a header line; empty where there is one."""

    @field_validator("delimiter", "quote")
    @classmethod
    def _check_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n\0"):
            raise ValueError(f"one ASCII character that ends no line, got {value!r}")
        return value


class Schema(Frozen):
    """What the columns of a log mean.

    >>> Schema.load("criteo").key == Schema.load("criteo").key
    True
    """

    label: str
    """The log's column with 0 or 1 (or false and true)."""
    event_time: EventTime | Literal["synthetic"]
    """The event time, or `synthetic` for a log without one: its rows are spread over windows in the order of the log."""
    id_columns: tuple[str, ...] = ()
    """Columns that together name an example. Empty: an example is named by all the columns below, without the label."""
    dense: tuple[Dense, ...] = ()
    """The numbers, in the order in which a model sees them."""
    categorical: tuple[Categorical, ...] = ()
    """The categories, in the order in which a model sees them."""
    lists: tuple[ListColumn, ...] = ()
    """The lists of categories, in the order in which a model sees them."""
    cluster: str | None = None
    """The log's column whose equal values must be resampled together; it may also be a feature."""
    true_prob: str | None = None
    """The log's column with the probability that drew the label. Known for simulated logs only, and never an input."""
    text: TextFormat = TextFormat()
    """How the log's text files are laid out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [feature.name for feature in self.features]
        if not names:
            raise ValueError("a schema names at least one dense, categorical or list column, got none")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a feature's name occurs once, got {', '.join(repeated)} twice: rename with `column`")
        for secret in filter(None, (self.label, self.true_prob)):
            if secret in self._inputs():
                raise ValueError(f"column {secret!r} gives the label away, got it as an input too: take it out")
        if self.true_prob == self.label:
            raise ValueError(f"true_prob is a column of its own, got the label's {self.label!r}")
        self._check_headerless()
        return self

    def _check_headerless(self) -> None:
        columns = self.text.columns
        if len(set(columns)) != len(columns):
            raise ValueError("text.columns holds each name once: name the unused ones apart too")
        if columns and (unknown := [name for name in self.source_columns if name not in columns]):
            raise ValueError(f"text.columns must name every column used, got none called {', '.join(unknown)}")

    def _inputs(self) -> list[str]:
        time = [] if self.event_time == "synthetic" else [self.event_time.column]
        cluster = [] if self.cluster is None else [self.cluster]
        return [*time, *self.id_columns, *cluster, *(feature.source for feature in self.features)]

    @property
    def features(self) -> tuple[Dense | Categorical | ListColumn, ...]:
        """Dense, then categorical, then list columns."""
        return (*self.dense, *self.categorical, *self.lists)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The log's columns that this schema reads, each once."""
        secrets = [self.label, *([] if self.true_prob is None else [self.true_prob])]
        return tuple(dict.fromkeys([*secrets, *self._inputs()]))

    @property
    def has_true_prob(self) -> bool:
        """Whether published windows carry the probability that drew the label."""
        return self.true_prob is not None

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of a published window, in order."""
        optional = [name for name, given in (("cluster", self.cluster), ("true_prob", self.true_prob)) if given]
        return ("example_id", "event_time", "label", *optional, *(feature.name for feature in self.features))

    @property
    def key(self) -> str:
        """Twelve hex digits that change whenever the meaning of a column does."""
        document = self.model_dump(mode="json")
        # Fields that came later leave the key of a schema that does not use them as it was: steps are named by it.
        if not self.text.newlines_in_values:
            del document["text"]["newlines_in_values"]
        if isinstance(self.event_time, EventTime) and self.event_time.day == "utc":
            del document["event_time"]["day"]
        return content_key(document)[:12]

    @classmethod
    def load(cls, source: str | Path) -> Schema:
        """The schema shipped under a name (`criteo`, `obd`, `upworthy`), or read from a YAML file.

        Raises:
            BadInput: there is no such schema, or it is not one.
        """
        if str(source) in SHIPPED:
            source = FOLDER / f"{source}.yaml"
        elif not Path(source).suffix and not os.path.exists(source):
            raise BadInput(
                f"a schema is one of {', '.join(SHIPPED)} or the path of a YAML file, got {shown(str(source))}: "
                "check the name, or write the path with its .yaml"
            )
        document = read_yaml(source, f"a schema ({', '.join(SHIPPED)} or a YAML file)")
        return cls.of(document, str(source))

    @classmethod
    def of(cls, document: Any, where: str) -> Schema:
        """The schema in a parsed document.

        Args:
            document: what YAML or JSON said.
            where: what errors call it.

        Raises:
            BadInput: it is not a schema; each fault is named with its place and its cure.
        """
        if not isinstance(document, dict):
            raise BadInput(f"{where} must map names to values (label, event_time, dense, ...), got {shown(document)}")
        with asked(f"{where} is not a schema"):
            return cls.model_validate(document)
