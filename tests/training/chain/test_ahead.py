"""Selections that are stored ahead of training are those that training would have made, and training takes them."""

from __future__ import annotations

import pytest

from pipeline.data.dataset import require_manifest
from pipeline.selection.policies.distilled import Distilled
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.stored import SelectionStore
from pipeline.spec.errors import BadInput
from pipeline.spec.job import SelectJob
from pipeline.spec.lineup import LineUp
from pipeline.storage.lake import Lake
from pipeline.training.chain.selections import Made, made_ahead
from tests.trained import DATASET, DAY, alone, lineup, listing, train, variant, windows

TENTH = variant("tenth", selection=NegativeDownsampling(rate=0.1))
DISTILLED = variant("distilled", selection=Distilled(rate=0.2, pilot="plain"))


def ahead(lake: Lake, chosen: LineUp, num: int = 2, **options: object) -> list[Made]:
    """Run a job that selects over `num` windows in this process."""
    alone()
    job = SelectJob.model_validate({"lineup": chosen, "first": DAY, "last": DAY.shift(num - 1), **options})
    return list(made_ahead(lake, job))


def test_training_takes_what_was_selected_ahead(lake: Lake) -> None:
    chosen = lineup(variant("plain"), TENTH)
    made = ahead(lake, chosen)
    assert [(each.variant.name, each.window.window) for each in made] == [("tenth", day) for day in windows(2)]
    before = {path: digest for path, digest in listing(lake).items() if path.startswith("selections/")}
    assert before
    done = train(lake, chosen, 2)
    assert [done["tenth", day].selection for day in windows(2)] == [each.selection.key for each in made]
    after = {path: digest for path, digest in listing(lake).items() if path.startswith("selections/")}
    assert after == before, "and makes no other"


def test_it_is_stored_once_unless_it_is_forced(lake: Lake) -> None:
    chosen = lineup(variant("plain"), TENTH)
    (first,), (again,), (forced,) = ahead(lake, chosen, 1), ahead(lake, chosen, 1), ahead(lake, chosen, 1, force=True)
    assert again.selection == first.selection
    assert forced.selection.generation != first.selection.generation
    assert forced.selection.digest == first.selection.digest


def test_a_policy_reads_its_pilot_and_names_it_where_it_has_not_trained(lake: Lake) -> None:
    chosen = lineup(variant("plain"), DISTILLED)
    with pytest.raises(BadInput, match="'plain' .* has stored no logit .* which 'distilled' reads: train 'plain' on"):
        ahead(lake, chosen, 1)
    done = train(lake, chosen, 2, variants=("plain",))
    for made in ahead(lake, chosen):
        step = done["plain", made.window.window]
        assert {name: signal.producer for name, signal in made.signals.items()} == {"pilot": step.key}
        (stored,) = SelectionStore(lake, DATASET).of_window(require_manifest(lake, DATASET, made.window.window))
        assert stored == made.selection


def test_a_later_start_and_all_rows_leave_nothing_to_store(lake: Lake) -> None:
    later = variant("later", start=DAY.shift(1), selection=NegativeDownsampling(rate=0.1))
    online = variant("online", selection=NegativeDownsampling(rate=0.1, scope="historical"))
    made = ahead(lake, lineup(variant("plain"), later, online), 3)
    found = [(each.variant.name, each.window.window) for each in made]
    assert found == [("later", day) for day in windows(3)[1:]] + [("online", day) for day in windows(2)]


def test_a_job_without_a_policy_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match=r"none of \['plain'\] has a selection policy"):
        ahead(lake, lineup(variant("plain"), TENTH), variants=("plain",))
