"""Schemas: what they refuse, and that their key follows their meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Schema

MINIMAL: dict[str, Any] = {"label": "click", "event_time": {"column": "at"}, "dense": [{"name": "price"}]}


def document(**changes: Any) -> dict[str, Any]:
    return {**MINIMAL, **changes}


@pytest.mark.parametrize("name", ["criteo", "obd", "upworthy"])
def test_a_shipped_schema_survives_the_lake(name: str) -> None:
    schema = Schema.load(name)
    again = Schema.of(json.loads(json.dumps(schema.model_dump(mode="json"))), "the lake")
    assert again == schema
    assert again.key == schema.key


def test_a_field_that_came_later_changes_the_key_of_those_alone_who_use_it() -> None:
    keys = [Schema.load(name).key for name in ("criteo", "obd", "upworthy")]
    assert keys == ["52b73df32a36", "e5ee89285ffa", "5870a6bbdfa8"], "windows and steps in every lake are named by them"
    plain = Schema.of(document(), "x")
    local = Schema.of(document(event_time={"column": "at", "day": "local"}), "x")
    over_lines = Schema.of(document(text={"newlines_in_values": True}), "x")
    assert len({plain.key, local.key, over_lines.key}) == 3


def test_the_key_follows_the_meaning_and_not_the_layout(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("label: click\nevent_time: {column: at}\ndense: [{name: price}]\n")
    other.write_text("# the same\ndense:\n  - name: price\n    fill: 0.0\nevent_time:\n  column: at\nlabel: click\n")
    assert Schema.load(one).key == Schema.load(other).key
    assert Schema.of(document(dense=[{"name": "price", "transform": "log1p"}]), "x").key != Schema.load(one).key


@pytest.mark.parametrize("name", ["example_id", "event_time", "label", "cluster", "true_prob"])
def test_a_reserved_name_is_refused_and_its_way_out_works(name: str) -> None:
    with pytest.raises(BadInput, match=f"'{name}' is a reserved name.*column: {name}"):
        Schema.of(document(dense=[{"name": name}]), "x")
    assert Schema.of(document(dense=[{"name": "mine", "column": name}]), "x").dense[0].source == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": []}, "at least one dense, categorical or list column, got none"),
        ({"dense": [{"name": "a"}, {"name": "a"}]}, "occurs once, got a twice: rename"),
        ({"dense": [{"name": "click"}]}, "'click' gives the label away, got it as an input too: take it out"),
        ({"cluster": "click"}, "'click' gives the label away"),
        ({"id_columns": ["p"], "true_prob": "p"}, "'p' gives the label away"),
        ({"dense": [{"name": "a", "transform": "log"}]}, "dense.0.transform: .*'signed_log1p', got 'log'"),
        ({"dense": [{"name": "a", "fill": float("inf")}]}, "dense.0.fill: .* finite number, got inf"),
        ({"dense": [{"name": "../a"}]}, "letters, digits, '_' or '-', got '../a'"),
        ({"categorical": [{"name": "c", "hash_size": 0}]}, "categorical.0.hash_size: .*, got 0"),
        ({"event_time": {"column": "at", "zone": "Mars/Olympus"}}, "IANA name .* got 'Mars/Olympus'"),
        ({"event_time": {"column": "at", "format": "european"}}, "strptime pattern, got 'european'"),
        ({"lable": "click"}, "no field 'lable': did you mean 'label'"),
        ({"text": {"columns": ["at", "click"]}}, "must name every column used, got none called price"),
        ({"text": {"columns": ["at", "click", "price", "at"]}}, "holds each name once"),
        ({"text": {"delimiter": "¦"}}, "text.delimiter: one ASCII character that ends no line, got '¦'"),
        ({"event_time": {"column": "at", "day": "Berlin"}}, "'utc' or 'local', got 'Berlin'"),
    ],
)
def test_a_contradiction_is_named_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Schema.of(document(**changes), "x")


def test_what_is_no_schema_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one of criteo, ebnerd, obd, upworthy or the path of a YAML file, got 'nope'"):
        Schema.load("nope")
    for text, message in (("a: [", "is not YAML .line 2, column 1."), ("- a", "must map names to values")):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            Schema.load(path)


def test_a_column_may_be_category_and_cluster() -> None:
    schema = Schema.load("upworthy")
    assert schema.cluster == schema.categorical[0].source == "test_id"
    assert schema.source_columns.count("test_id") == 1
