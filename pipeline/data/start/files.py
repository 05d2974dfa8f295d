"""The schema and the line-up that a sample suggests, as YAML with the reason beside each line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pipeline.data.start.roles import Column, of_role
from pipeline.data.start.sample import Sample
from pipeline.spec.schema import RESERVED
from pipeline.spec.window import Window

UPDATES_A_WINDOW = 100
SMALLEST_BATCH, LARGEST_BATCH = 256, 8192
HISTORY = 2 / 3
"""Share of the log's windows that the proposed historical phase has."""
WINDOWS_WITHOUT_TIMES = 10


@dataclass(frozen=True)
class Proposed:
    """Two files, and what to do with them."""

    schema: str
    lineup: str
    first: Window
    last: Window


def proposed(name: str, sample: Sample, columns: list[Column]) -> Proposed:
    """The files for a log.

    Args:
        name: of the line-up and of the data set; the schema lies beside the line-up as `NAME.schema.yaml`.
        sample: what was looked at.
        columns: what its columns are.
    """
    time = next(of_role(columns, "time"), None)
    first, last = _span(sample, time)
    return Proposed(
        _schema(name, sample, columns, time), _lineup(name, sample, columns, time, first, last), first, last
    )


def _span(sample: Sample, time: Column | None) -> tuple[Window, Window]:
    if sample.days:
        return Window.of(sample.days[0]), Window.of(sample.days[-1])
    if time is None:
        first = Window.of("2024-01-01")
        return first, first.shift(WINDOWS_WITHOUT_TIMES - 1)
    if time.span is None:
        raise ValueError("a column of times has a span")
    start, end = time.span
    if not sample.seen_to_end:
        seen = sum(map(len, sample.tables)) / max(1.0, sample.num_rows)
        end = start + (end - start) / max(seen, 1e-6)
    return Window.of(f"{start:%Y-%m-%d}"), Window.of(f"{max(end, start + timedelta(days=1)):%Y-%m-%d}")


def _schema(name: str, sample: Sample, columns: list[Column], time: Column | None) -> str:
    label = next(of_role(columns, "label"))
    lines = [
        f"# What the columns of {name} mean, as a sample of {sum(map(len, sample.tables)):,} rows suggests: read it, and change what is wrong.",
        f"label: {_text(label.name)}  # {label.why}",
    ]
    if time is None:
        lines.append("event_time: synthetic  # no column holds times: rows are spread over windows in the log's order")
    else:
        said = "".join(f", {name}: {value}" for name, value in time.options.items())
        lines.append(f"event_time: {{column: {_text(time.name)}{said}}}  # {time.why}")
    ids = [column.name for column in of_role(columns, "id")]
    if ids:
        lines.append(f"id_columns: [{_text(ids[0])}]  # another value in every row")
    cluster = next(of_role(columns, "cluster"), None)
    if cluster is not None:
        lines.append(f"cluster: {_text(cluster.name)}  # rows of one value are resampled together; {cluster.why}")
    taken: set[str] = set()
    lines += _features("dense", of_role(columns, "dense"), taken)
    lines += _features(
        "categorical", (c for c in of_role(columns, "categorical", "cluster") if not c.only_cluster), taken
    )
    lines += _features("lists", of_role(columns, "list"), taken)
    lines += _layout(sample)
    left = [
        *of_role(columns, "left out"),
        *(Column(name, "left out", "another value in every row, too") for name in ids[1:]),
    ]
    left += [Column(name, "left out", "some files lack it") for name in sample.partly if name]
    lines += [f"# left out: {_text(column.name)}, {column.why}" for column in left]
    return "\n".join([*lines, ""])


def _features(kind: str, columns: Iterable[Column], taken: set[str]) -> Iterator[str]:
    rows = list(columns)
    if rows:
        yield f"{kind}:"
    for column in rows:
        name = _feature_name(column.name, taken)
        given: dict[str, Any] = {"name": name} | ({} if name == column.name else {"column": column.name})
        given |= {key: value for key, value in column.options.items() if (key, value) != ("transform", "identity")}
        yield f"  - {{{', '.join(f'{key}: {_text(value)}' for key, value in given.items())}}}  # {column.why}"


def _feature_name(column: str, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", column).strip("_-")[:90] or "feature"
    name = f"{plain}_" if plain in RESERVED else plain
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _layout(sample: Sample) -> Iterator[str]:
    if sample.delimiter is None and sample.has_header:
        return
    yield "text:"
    if sample.delimiter is not None:
        yield f"  delimiter: {_text(sample.delimiter)}"
    if not sample.has_header:
        yield f"  columns: [{', '.join(map(_text, sample.columns))}]  # the files have no header"


def _lineup(name: str, sample: Sample, columns: list[Column], time: Column | None, first: Window, last: Window) -> str:
    label = next(of_role(columns, "label"))
    prior = float(f"{min(0.5, max(1e-6, label.rate)):.2g}")
    num_windows = last.days_since(first) + 1
    rows = sample.num_rows / num_windows
    batch = min(LARGEST_BATCH, max(SMALLEST_BATCH, 2 ** round(math.log2(max(1.0, rows / UPDATES_A_WINDOW)))))
    online = first.shift(max(1, min(num_windows - 1, round(HISTORY * num_windows))))
    cut = "" if time is not None else f"\n    cut: equal\n    first: {first}\n    count: {num_windows}"
    return f"""\
# Variants to begin with on {name}: about {sample.num_rows:,.0f} rows in {sample.num_files} file{"s" if sample.num_files > 1 else ""}, {rows:,.0f} a window.
name: {name}
dataset:
  name: {name}
  source:
    kind: log
    schema_file: {name}.schema.yaml
    files: [{", ".join(map(_text, sample.patterns))}]{cut}
online_start: {online}  # after two thirds of the log
reference: baseline
seeds: [0]
variants:
  # Batch: about {UPDATES_A_WINDOW} updates a window. Learning rates to begin with: tuning_study finds yours.
  - name: teacher
    model: {{size: small, prior: {prior}}}
    optimizer: &optimizer {{batch_size: {batch}, embedding_lr: 0.08, dense_lr: 0.04}}
  - name: baseline
    model: &model {{size: tiny, prior: {prior}}}
    optimizer: *optimizer
  - name: continuous
    model: *model
    optimizer: *optimizer
    distillation: {{kind: continuous, teacher: teacher}}
  - name: kept_10
    model: *model
    optimizer: *optimizer
    selection: {{kind: negatives, rate: 0.1}}
workers: {{num_workers: 1}}
"""


def _text(value: object) -> str:
    """A value as YAML that means just that."""
    if isinstance(value, int | float):
        return str(value)
    plain = str(value)
    return (
        plain
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_/.-]*", plain) and plain.lower() not in _WORDS
        else json.dumps(plain)
    )


_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""What YAML takes for something else than text."""
