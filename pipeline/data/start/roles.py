"""What the columns of a sample are: label, time, ids, numbers, categories, lists, and what gives the label away."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from pipeline.data.parsing import EARLIEST_US, LATEST_US
from pipeline.data.start.sample import Sample
from pipeline.spec.errors import BadInput, nearest, shown

Role = Literal["label", "time", "id", "cluster", "dense", "categorical", "list", "left out"]

LABELS = re.compile(r"(is_?)?(label|click(ed)?|target|y|converted|conversion|purchase(d)?|response)", re.IGNORECASE)
TIMES = re.compile(r"(event_?|impression_?|request_?|log_?)?(time(_?stamp)?|date(_?time)?|ts)", re.IGNORECASE)
IDS = re.compile(r".*(^|[^A-Za-z]|[a-z])(id|uid|uuid|guid|hash|key|code)s?$", re.IGNORECASE)
CLUSTERS = ("impression", "request", "query", "page", "session", "test", "user", "visitor", "device")
"""Words in the name of a column by which rows come together, the closest first."""
FEW = 50
"""Different whole numbers up to which they are taken for categories."""
GIVES_AWAY = 0.95
"""Area under the curve that a single column reaches on rows that it was not looked at on, from which it is suspected."""
SEEN_AGAIN = 0.02
"""Share of a later file's values that stood in an earlier one, below which a column's values do not come again."""
SKEWED = 20.0
"""99th over 50th percentile of a number's size from which it is taken by its logarithm."""
LARGE = 1e4
"""Greatest size of whole numbers up to which they are taken to count something."""
LARGEST_TABLE = 1 << 22


@dataclass(frozen=True)
class Column:
    """What a column is taken for, and why."""

    name: str
    role: Role
    why: str
    options: dict[str, object] = field(default_factory=dict)
    """What the schema says of it: transform, hash_size, zone and so on."""
    only_cluster: bool = False
    """Of a cluster: whether its values are no feature, since they do not come again."""
    rate: float = 0.0
    """Of the label: the share of positives."""
    span: tuple[datetime, datetime] | None = None
    """Of the time: the first and the last of the sample."""


@dataclass(frozen=True)
class Given:
    """What a person has said instead of letting it be guessed."""

    label: str | None = None
    time: str | None = None
    zone: str | None = None
    cluster: str | None = None
    leave_out: tuple[str, ...] = ()


def roles(sample: Sample, given: Given) -> list[Column]:
    """What each column of a sample is.

    Raises:
        BadInput: a column that was named is not there, or it is not clear which column is the label.
    """
    for name in filter(None, (given.label, given.time, given.cluster, *given.leave_out)):
        if name not in sample.columns:
            raise BadInput(f"the log has no column {shown(name)}: {nearest(name, sample.columns)}")
    label = given.label or _label(sample)
    clicks = _as_label(sample.column(label))
    if clicks is None:
        raise BadInput(
            f"a label is 0 or 1, or true and false, got others in column {label!r}: name another with --label"
        )
    time = given.time or _time(sample, label)
    cluster = given.cluster or _cluster(sample, {label, time})
    if cluster is not None and pa.types.is_nested(sample.column(cluster).type):
        raise BadInput(
            f"a cluster is one value a row, got lists or records in {cluster!r}: name another with --cluster"
        )
    found = [Column(label, "label", f"{clicks.mean():.2%} positive", rate=float(clicks.mean()))]
    if time is not None:
        found.append(_of_time(sample, time, given.zone))
    rest = (name for name in sample.columns if name not in (label, time))
    return [*found, *(_of_rest(sample, name, clicks, given, cluster) for name in rest)]


def _of_rest(sample: Sample, name: str, clicks: NDArray[np.float64], given: Given, cluster: str | None) -> Column:
    if name in given.leave_out:
        return Column(name, "left out", "as you said")
    return _of_feature(sample, name, clicks, is_cluster=name == cluster)


def _label(sample: Sample) -> str:
    binary = [name for name in sample.columns if _as_label(sample.column(name)) is not None]
    named = [name for name in binary if LABELS.fullmatch(name)]
    if not sample.has_header and binary[:1] == sample.columns[:1]:
        return binary[0]
    chosen = named if len(named) == 1 else binary if not named and len(binary) == 1 else []
    if not chosen:
        listed = ", ".join(named or binary) or "none"
        raise BadInput(
            f"it is not clear which column is the label; those of 0 and 1 are {listed}: name it with --label"
        )
    return chosen[0]


def _as_label(values: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """(N,) 0 and 1, where a column holds nothing else."""
    kind = values.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = numbers[~np.isnan(numbers)]
    return numbers if len(known) == len(numbers) and len(known) and set(np.unique(known)) == {0.0, 1.0} else None


def _time(sample: Sample, label: str) -> str | None:
    candidates = [name for name in sample.columns if name != label and _time_format(sample.column(name)) is not None]
    typed = [name for name in candidates if pa.types.is_temporal(sample.column(name).type)]
    named = [name for name in candidates if TIMES.fullmatch(name)]
    for found in (named, typed):
        if len(found) == 1:
            return found[0]
    if len(named) > 1 or len(typed) > 1:
        raise BadInput(
            f"it is not clear when an example happened; {', '.join(named or typed)} hold times: name one with --time, and leave "
            "out with --leave-out what is known only after the click"
        )
    return None


def _time_format(values: pa.ChunkedArray) -> str | None:
    """How a schema calls the times of a column; None where it holds none."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return "iso"
    known = values.drop_null()
    if not len(known):
        return None
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = known.cast(pa.float64()).to_numpy()
        for name, unit in (("epoch_s", 1e6), ("epoch_ms", 1e3), ("epoch_us", 1.0)):
            if ((numbers * unit >= EARLIEST_US) & (numbers * unit < LATEST_US)).all():
                return name
        return None
    if not pa.types.is_string(values.type):
        return None
    return "iso" if all(_is_iso(text) for text in known.slice(0, 50).to_pylist()) else None


def _is_iso(text: str) -> bool:
    try:
        return len(text) > 8 and datetime.fromisoformat(text.strip()) is not None
    except ValueError:
        return False


def _of_time(sample: Sample, name: str, zone: str | None) -> Column:
    values = sample.column(name)
    form = _time_format(values)
    if form is None:
        raise BadInput(
            f"times are timestamps, ISO text or epochs from 1990 to 2099, got others in {name!r}: name another with --time"
        )
    first, last = (_moment(each, form) for each in (pc.min(values), pc.max(values)))
    carries = form != "iso" or getattr(values.type, "tz", None) is not None or _offset(values)
    why = (
        "an instant"
        if carries
        else f"taken for {zone or 'UTC'}; --zone says another"
        if zone is None
        else f"clock of {zone}"
    )
    options: dict[str, object] = {"zone": "UTC" if carries else zone or "UTC"}
    if form != "iso":
        options["format"] = form
    if not carries and zone not in (None, "UTC"):
        options["day"] = "local"
        why += ", at whose midnight windows are cut"
    return Column(name, "time", why, options, span=(first, last))


def _offset(values: pa.ChunkedArray) -> bool:
    if not pa.types.is_string(values.type):
        return False
    return all(
        datetime.fromisoformat(text.strip()).tzinfo is not None for text in values.drop_null().slice(0, 50).to_pylist()
    )


def _moment(value: pa.Scalar, form: str) -> datetime:
    found = value.as_py()
    if isinstance(found, str):
        found = datetime.fromisoformat(found.strip())
    if isinstance(found, int | float):
        found = datetime.fromtimestamp(found / {"epoch_s": 1, "epoch_ms": 1e3, "epoch_us": 1e6}[form], UTC)
    if not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _cluster(sample: Sample, taken: set[str | None]) -> str | None:
    """The column by which rows come together: several rows of each value, and many values."""
    for word in CLUSTERS:
        for name in sample.columns:
            values = sample.column(name)
            if (
                name not in taken
                and word in name.lower()
                and IDS.fullmatch(name)
                and not pa.types.is_nested(values.type)
            ):
                distinct = pc.count_distinct(values).as_py()
                if 20 <= distinct < 0.9 * len(values):
                    return name
    return None


def _of_feature(sample: Sample, name: str, clicks: NDArray[np.float64], *, is_cluster: bool) -> Column:
    values = sample.column(name)
    known = values.drop_null()
    missing = f", {1 - len(known) / len(values):.0%} missing" if len(known) < len(values) else ""
    if why := _unusable(values, known):
        return Column(name, "left out", why)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return _of_list(name, pc.list_flatten(known), sample, missing)
    is_id, distinct = bool(IDS.fullmatch(name)), int(pc.count_distinct(known).as_py())
    if distinct == len(values) and (is_id or pa.types.is_string(values.type)) and not is_cluster:
        return Column(name, "id" if is_id else "left out", "another value in every row")
    auc = _auc(values, clicks)
    if auc > GIVES_AWAY:
        return Column(
            name, "left out", f"suspected to give the label away: alone it ranks clicks with an AUC of {auc:.3f}"
        )
    if not is_id and not is_cluster and _is_number(values.type, distinct):
        if not _are_ids(known):
            return _of_number(name, known, missing)
        missing += ", large whole numbers that seem to be ids"
    return _of_category(sample, name, distinct, missing, is_cluster=is_cluster)


def _unusable(values: pa.ChunkedArray, known: pa.ChunkedArray) -> str | None:
    """Why a column can be no feature at all."""
    is_list = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    if not len(known):
        return "always missing"
    if pa.types.is_binary(values.type) or (pa.types.is_nested(values.type) and not is_list):
        return f"of type {values.type}, which no feature can have"
    if pa.types.is_temporal(values.type):
        return "another time: what it says of the past must be a number, such as an age in hours"
    if not is_list and pc.count_distinct(known).as_py() == 1:
        return f"always {known[0].as_py()!r}"
    return None


def _is_number(kind: pa.DataType, distinct: int) -> bool:
    """Whether a column counts or measures; few whole numbers are taken for categories."""
    measures = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(measures or (pa.types.is_integer(kind) and distinct > FEW))


def _are_ids(known: pa.ChunkedArray) -> bool:
    """Whether whole numbers count nothing: what counts or measures begins near zero, and ids do not."""
    if not pa.types.is_integer(known.type):
        return False
    numbers = known.cast(pa.float64()).to_numpy()
    sizes = np.abs(numbers[numbers != 0])
    return bool(len(sizes) and sizes.max() > LARGE and np.percentile(sizes, 10) > sizes.max() / 20)


def _of_category(sample: Sample, name: str, distinct: int, missing: str, *, is_cluster: bool) -> Column:
    known = sample.column(name).drop_null()
    role: Role = "cluster" if is_cluster else "categorical"
    options: dict[str, object] = {"hash_size": _hash_size(known, sample)}
    if distinct > FEW and _seen_again(sample, name) < SEEN_AGAIN:
        why = f"{distinct:,} values in the sample, which do not come again"
        return Column(name, "cluster" if is_cluster else "left out", why, options, only_cluster=True)
    if separator := _separator(known):
        parts = pc.list_flatten(pc.split_pattern(known.cast(pa.string()), separator))
        found = _of_list(name, parts, sample, missing)
        return Column(name, "list", found.why, found.options | {"separator": separator})
    return Column(name, role, f"{distinct:,} values in the sample{missing}", options)


def _of_list(name: str, entries: pa.ChunkedArray, sample: Sample, missing: str) -> Column:
    distinct = int(pc.count_distinct(entries).as_py()) if len(entries) else 0
    if not distinct:
        return Column(name, "left out", "lists without entries")
    return Column(
        name,
        "list",
        f"{distinct:,} entries in the sample{missing}",
        {"hash_size": _hash_size(entries, sample), "pooling": "mean"},
    )


def _of_number(name: str, known: pa.ChunkedArray, missing: str) -> Column:
    numbers = known.cast(pa.float64()).to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    sizes = np.abs(numbers)
    half, most = np.percentile(sizes[sizes > 0], [50, 99]) if (sizes > 0).any() else (1.0, 1.0)
    skewed = bool(most / half > SKEWED or most > 1e3)
    transform = "identity" if not skewed else "signed_log1p" if numbers.min() < 0 else "log1p"
    return Column(name, "dense", f"from {numbers.min():g} to {numbers.max():g}{missing}", {"transform": transform})


def _separator(known: pa.ChunkedArray) -> str | None:
    """What parts the entries of lists written as text, if most values seem to be some."""
    if not pa.types.is_string(known.type):
        return None
    for mark in ("|", ";", ","):
        if pc.mean(pc.match_substring(known, mark).cast(pa.float64())).as_py() > 0.5:
            return mark
    return None


def _hash_size(values: pa.ChunkedArray, sample: Sample) -> int:
    """Twice the values that the whole log may have, as a power of two: those seen, and by Chao's estimate those that were not."""
    counts = np.array(pc.value_counts(values.combine_chunks()).field("counts"))
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    unseen = once * max(0, once - 1) / (2 * (twice + 1))
    share = sum(len(table) for table in sample.tables) / max(1.0, sample.num_rows)
    expected = len(counts) + (unseen if share < 1 else 0)
    return int(min(LARGEST_TABLE, max(16, 2 ** math.ceil(math.log2(2 * max(1.0, expected))))))


def _seen_again(sample: Sample, name: str) -> float:
    """Share of the last file's rows whose value stood in an earlier file, or in an earlier half of a single one."""
    tables = list(sample.tables)
    if len(tables) == 1:
        middle = len(tables[0]) // 2
        tables = [tables[0].slice(0, middle), tables[0].slice(middle)]
    before = pa.concat_tables(tables[:-1]).column(name)
    return float(pc.mean(pc.is_in(tables[-1].column(name), before.unique()).cast(pa.float64())).as_py() or 0.0)


def _auc(values: pa.ChunkedArray, clicks: NDArray[np.float64]) -> float:
    """How well a column alone ranks the clicks of one half of the rows by their rate in the other."""
    codes = values.combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if len(np.unique(codes)) > FEW:
            edges = np.nanquantile(numbers, np.linspace(0, 1, FEW + 1)[1:-1])
            codes = np.where(np.isnan(numbers), FEW, np.searchsorted(edges, numbers))
    half = np.arange(len(codes)) % 2 == 0
    total = np.bincount(codes[half], minlength=codes.max() + 1)
    rate = (np.bincount(codes[half], clicks[half], minlength=codes.max() + 1) + clicks.mean()) / (total + 1)
    return area(rate[codes[~half]], clicks[~half])


def area(score: NDArray[np.float64], label: NDArray[np.float64]) -> float:
    """The share of pairs of a positive and a negative in which the positive scores higher; a half where one kind is missing."""
    positive, negative = score[label > 0], score[label == 0]
    if not len(positive) or not len(negative):
        return 0.5
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def of_role(columns: list[Column], *wanted: Role) -> Iterator[Column]:
    """Those of some roles, in order."""
    return (column for column in columns if column.role in wanted)
