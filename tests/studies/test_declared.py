"""A study from a file of answers or from a form that names one: seeds that are given, and presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.reporting.study_page import again
from pipeline.spec.documents import as_yaml, parse_yaml
from pipeline.spec.errors import BadInput
from pipeline.studies.declared import conf, declared, of_form, presets, read
from pipeline.studies.kinds import kind_of
from tests.conftest import ROOT

STUDY = ROOT / "dags" / "studies" / "distillation_drift.yaml"
DAYS = {"online_start": "2030-01-10", "last": "2030-01-20"}


def test_seeds_that_are_given_replace_the_files_in_the_study_and_in_its_dags_conf() -> None:
    assert declared(STUDY, "3-5, 9").lineup.seeds == (3, 4, 5, 9)
    assert conf(STUDY, "3-5, 9")[1]["seeds"] == [3, 4, 5, 9]
    with pytest.raises(BadInput, match="seeds"):
        declared(STUDY, "none")


def test_a_preset_of_a_form_is_a_file_beside_the_dags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = kind_of("distillation")
    asked = of_form(
        kind, {"study": "mine", "first": "2030-01-01", **DAYS, "preset": "distillation_published"}, "the form"
    )
    assert asked == read(STUDY.with_name("distillation_published.yaml"))[1]
    assert of_form(kind, {"study": "mine", "first": "2030-01-01", **DAYS}, "the form").study == "mine"
    with pytest.raises(BadInput, match=r"the form: no preset 'tuning_drift': .*distillation_first_look"):
        of_form(kind, {"study": "mine", "first": "2030-01-01", **DAYS, "preset": "tuning_drift"}, "the form")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "whole.yaml").write_text("kind: tuning\n")
    (tmp_path / "studies" / "broken.yaml").write_text("kind: [\n")
    monkeypatch.setenv("WINDROW_DAGS", str(tmp_path))
    assert presets("distillation") == {}
    assert list(presets("tuning")) == ["whole"]


def test_a_file_names_no_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY.read_text() + "preset: distillation_published\n")
    with pytest.raises(BadInput, match="got 'distillation_published' in it: leave it out"):
        read(path)


@pytest.mark.parametrize("path", sorted((ROOT / "dags" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_is_run_again_from_what_its_page_shows(path: Path, tmp_path: Path) -> None:
    """Written as the page writes it, and read as `windrow study` reads it: every preset comes back as it was."""
    study = declared(path)
    copy = tmp_path / "study.yaml"
    copy.write_text(again(study))
    found = declared(copy)
    assert found.model_dump(exclude={"asked"}) == study.model_dump(exclude={"asked"})
    copy.write_text(again(study).replace(study.name, "1e3").replace("study: 1e3", "study: '1e3'"))
    assert declared(copy).name == "1e3"
    some = study.under(study.lineup.seeds[:1])
    copy.write_text(again(some))
    assert declared(copy).lineup.seeds == some.lineup.seeds, "a page of some seeds is of these"


def test_a_name_that_reads_like_a_number_stays_a_name() -> None:
    for name in ("1e3", "1e-3", "12", "on", "null", "2024-01-01", "0x1F", "a: b"):
        assert parse_yaml(as_yaml({"study": name}), "a test") == {"study": name}
