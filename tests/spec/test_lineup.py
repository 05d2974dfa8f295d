"""Line-ups: read from YAML, refused with the place of the fault, teachers before their students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.config import Continuous, Cutover, Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUp, LineUpError, load_lineup, teachers_first
from pipeline.spec.window import Window
from tests.planned import planned

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {
    "name": "mine",
    "dataset": {"name": "sim", "source": {"kind": "simulated", "origin": "2024-01-01"}},
    "online_start": "2024-01-03",
    "reference": "plain",
    "variants": [
        {"name": "student", "distillation": {"kind": "continuous", "teacher": "plain"}},
        {"name": "plain"},
    ],
}


def load(tmp_path: Path, text: str) -> LineUp:
    path = tmp_path / "lineup.yaml"
    path.write_text(text)
    return load_lineup(path)


def test_a_lineup_reads_the_same_as_yaml_and_as_json(tmp_path: Path) -> None:
    read = load(tmp_path, yaml.safe_dump(GOOD))
    assert LineUp.model_validate_json(read.model_dump_json()) == read
    unquoted = yaml.safe_dump(GOOD).replace("'2024-01-03'", "2024-01-03")
    assert load(tmp_path, unquoted) == read, "YAML reads a bare day as a date"


@pytest.mark.parametrize("path", sorted((ROOT / "dags" / "lineups").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_lineup_of_the_repository_can_be_run_and_studied(path: Path) -> None:
    lineup = load_lineup(path)
    online = lineup.online_start
    study = planned(
        "distillation", lineup, first=online.shift(-3), online_start=online, last=online.shift(4), negative_rate=0.1
    )
    assert study.lineup.dataset == lineup.dataset
    assert len(study.lineup.variants) == 6
    assert study.lineup.teachers == {"teacher"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "none"}, "the reference must be one of the variants, got 'none': it has student, plain"),
        (
            {"variants": [{"name": "plain"}, {"name": "plain"}]},
            "every variant has a name of its own, got 'plain' twice",
        ),
        ({"variants": []}, "variants: must have 1 or more entries, got 0"),
        ({"seeds": [1, 1]}, "seeds are distinct, at least one, got [1, 1]"),
        ({"seeds": []}, "seeds are distinct, at least one, got []"),
        ({"seeds": [-1]}, "seeds.0: must be at least 0, got -1"),
        ({"name": "../elsewhere"}, "name: a name is 1 to 63 letters"),
        ({"dataset": {**GOOD["dataset"], "name": "/etc"}}, "dataset.name: a name is 1 to 63 letters"),
        ({"online_start": "soon"}, "online_start: a window is named YYYY-MM-DD, got 'soon'"),
        ({"workers": {"num_workers": 3}}, "which cannot be dealt to 3 workers: choose a multiple"),
        ({"workers": {"num_workers": 0}}, "workers.num_workers: must be at least 1, got 0"),
        ({"worker": {}}, "there is no field 'worker': did you mean 'workers'?"),
        (
            {"variants": [{"name": "plain", "model": {"size": "vast"}}]},
            "variants.0.model.size: must be one of 'tiny', 'small', 'medium' or 'large', got 'vast'",
        ),
        (
            {"variants": [{"name": "plain", "distillation": {"kind": "continuous", "teacher": "ghost"}}]},
            "'plain' reads the logit of 'ghost', got no such variant: it has plain",
        ),
        (
            {"variants": [{"name": "plain", "selection": {"kind": "odds", "rate": 0.1, "pilot": "ghost"}}]},
            "'plain' reads the logit of 'ghost', got no such variant: it has plain",
        ),
    ],
)
def test_a_malformed_lineup_names_file_place_and_fault(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        load(tmp_path, yaml.safe_dump({**GOOD, **change}))
    assert message in str(refused.value)
    assert str(tmp_path / "lineup.yaml") in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("", "must be a mapping of names to values"),
        ("- a\n- b\n", "must be a mapping of names to values"),
    ],
)
def test_what_is_no_lineup_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(tmp_path, text)


def test_a_missing_lineup_says_where_it_was_sought_and_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match="cannot read a line-up .--lineup or WINDROW_LINEUP. at .*none.yaml: No such file"
    ):
        load_lineup(tmp_path / "none.yaml")


def test_an_unknown_variant_is_named_beside_the_known() -> None:
    lineup = LineUp.model_validate(GOOD)
    with pytest.raises(LineUpError, match="line-up 'mine' has no variant 'gone': it has student, plain"):
        lineup.only(("plain", "gone"))


def test_asking_for_students_first_still_trains_their_teacher_first() -> None:
    lineup = LineUp.model_validate(GOOD)
    assert [v.name for v in lineup.only(("student", "plain"))] == ["plain", "student"]
    assert [v.name for v in lineup.only(())] == ["plain", "student"]
    assert [v.name for v in lineup.only(("student",))] == ["student"], "only the requested one"


@given(st.permutations(range(7)), st.data())
def test_teachers_come_before_their_students_and_the_rest_keeps_its_order(
    order: list[int], data: st.DataObject
) -> None:
    taught = {i: data.draw(st.sampled_from([None, *range(i)])) for i in range(7)}
    variants = tuple(
        Variant(name=f"v{i}")
        if taught[i] is None
        else Variant(name=f"v{i}", distillation=Continuous(teacher=f"v{taught[i]}"))
        for i in order
    )
    placed = teachers_first(variants)
    assert sorted(v.name for v in placed) == sorted(v.name for v in variants)
    place = {v.name: index for index, v in enumerate(placed)}
    assert all(v.teacher is None or place[v.teacher] < place[v.name] for v in placed)
    if all(teacher is None for teacher in taught.values()):
        assert placed == variants


def test_variants_that_teach_each_other_are_refused(tmp_path: Path) -> None:
    circle = [
        Variant(name="a", distillation=Continuous(teacher="b")),
        Variant(name="b", distillation=Cutover(teacher="a", at=Window.of("2024-01-05"))),
    ]
    document = {**GOOD, "variants": [v.model_dump(mode="json") for v in circle], "reference": "a"}
    with pytest.raises(BadInput, match="learn from each other in a circle: .'a', 'b'."):
        load(tmp_path, yaml.safe_dump(document))
