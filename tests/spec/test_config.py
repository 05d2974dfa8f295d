"""Configs: wrong values are refused at birth, and what a variant does in a window is the content of its choices alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import (
    LATE_CUTOVER_WINDOWS,
    SIZES,
    All,
    Continuous,
    Cutover,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    StepConfig,
    Variant,
    resolve,
)
from pipeline.spec.documents import canonical_json, content_key
from pipeline.spec.window import Window

ONLINE = Window.of("2024-01-10")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def at(variant: Variant, days: int) -> StepConfig:
    """What a variant does so many days after the online phase began."""
    return resolve(variant, ONLINE.shift(days), online_start=ONLINE, seed=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NegativeDownsampling(rate=0), "greater than 0"),
        (lambda: NegativeDownsampling(rate=1.1), "less than or equal to 1"),
        (lambda: NegativeDownsampling(rate=float("nan")), "rate"),
        (lambda: NegativeDownsampling(rate=0.1, correction="both"), "'weight' or 'offset'"),
        (lambda: OptimizerConfig(batch_size=0), "batch_size"),
        (lambda: OptimizerConfig(embedding_lr=0), "embedding_lr"),
        (lambda: OptimizerConfig(accumulator_decay=1.1), "less than or equal to 1"),
        (lambda: OptimizerConfig(accumulator_decay=-0.1), "greater than or equal to 0"),
        (lambda: ModelConfig(distillation_head="other"), "'serving' or 'auxiliary'"),
        (lambda: Continuous(teacher="t", ramp=3), "say `since` which, got ramp 3 and every 1 without"),
        (lambda: Continuous(teacher="t", every=2), "say `since` which, got ramp 0 and every 2 without"),
        (lambda: Continuous(teacher="t", every=2, since=ONLINE, age=-1), "in hindsight .*, got every 2: leave it out"),
        (lambda: Cutover(teacher="t", age=-2), "greater than or equal to -1"),
        (lambda: OddsProportional(rate=0.1, pilot="p", floor=0.2), "the floor cannot exceed the rate 0.1, got 0.2"),
        (lambda: OddsProportional(rate=0.1, pilot="p", floor=0), "greater than 0"),
        (lambda: OddsProportional(rate=0.1), "pilot"),
        (lambda: ModelConfig(size="huge"), "size"),
        (lambda: ModelConfig(prior=1), "prior"),
        (lambda: ModelConfig(widht=8), "there is no field 'widht': it has arch"),
        (lambda: Continuous(teacher="../teacher"), "a name is 1 to 63 letters"),
        (lambda: Variant(name="a/b"), "a name is 1 to 63 letters"),
        (lambda: Variant(name=""), "a name is 1 to 63 letters"),
        (lambda: Variant(name="a\n"), "a name is 1 to 63 letters"),
        (lambda: EvaluationConfig(max_rows=0), "max_rows"),
    ],
)
def test_wrong_values_are_refused_and_named(build: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build()


@pytest.mark.parametrize("size", SIZES)
def test_a_soft_loss_of_infinite_weight_is_refused(size: Any) -> None:
    with pytest.raises(ValidationError, match="weight\n  Input should be a finite number"):
        Variant(name="s", model=ModelConfig(size=size), distillation=Continuous(teacher="t", weight=float("inf")))


def test_configs_cannot_be_changed_after_birth() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Variant(name="a").name = "b"  # type: ignore[misc]


@settings(max_examples=30, deadline=None)
@given(values)
def test_equal_content_has_one_key(value: Any) -> None:
    def shuffled(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {name: shuffled(inner[name]) for name in reversed(list(inner))}
        return [shuffled(each) for each in inner] if isinstance(inner, list) else inner

    assert content_key(shuffled(value)) == content_key(value)
    assert len(content_key(value)) == 64


def test_what_has_no_spelling_has_no_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"lr": float("nan")})


def test_names_and_spellings_do_not_enter_what_a_step_is() -> None:
    plain = at(Variant(name="a", model=ModelConfig(size="tiny")), 0)
    assert at(Variant(name="b", model=ModelConfig(size=SIZES["tiny"])), 0) == plain
    assert at(Variant(name="c", model=ModelConfig(size="tiny"), selection=NegativeDownsampling(rate=1)), 0) == plain


def test_a_cutover_learns_from_its_teacher_until_its_window_and_not_in_it() -> None:
    for where, first_without in (("early", 0), ("late", LATE_CUTOVER_WINDOWS), (ONLINE.shift(-3), -3)):
        student = Variant(name="s", distillation=Cutover(teacher="t", at=where, weight=0.5))
        weights = [at(student, days).soft_weight for days in (first_without - 1, first_without, first_without + 1)]
        assert weights == [0.5, None, None]
    always = Variant(name="s", distillation=Continuous(teacher="t", weight=0.5))
    assert {at(always, days).soft_weight for days in (-9, 0, 9)} == {0.5}


def test_schedules_that_agree_in_a_window_are_equal_there() -> None:
    students = [
        Variant(name=name, distillation=distillation)
        for name, distillation in [
            ("early", Cutover(teacher="t", at="early")),
            ("late", Cutover(teacher="t", at="late")),
            ("continuous", Continuous(teacher="t")),
        ]
    ]
    for days in range(-3, 9):
        early, late, continuous = (at(student, days) for student in students)
        assert (early == late) == (days < 0 or days >= LATE_CUTOVER_WINDOWS)
        assert (late == continuous) == (days < LATE_CUTOVER_WINDOWS)
    assert at(students[0], 0) == at(Variant(name="without"), 0)


def test_historical_sampling_ends_where_the_online_phase_begins() -> None:
    past = Variant(name="p", selection=NegativeDownsampling(rate=0.1, scope="historical"))
    ever = Variant(name="e", selection=NegativeDownsampling(rate=0.1, scope="continuous"))
    assert at(past, -1) == at(ever, -1)
    assert at(past, 0).selection == All()
    assert at(ever, 0).selection == NegativeDownsampling(rate=0.1)


def test_a_student_learns_since_a_window_and_the_weight_ramps_up_from_there() -> None:
    since = ONLINE.shift(-4)
    student = Variant(
        name="s", distillation=Cutover(teacher="t", at=ONLINE.shift(2), weight=2.0, age=3, since=since, ramp=3)
    )
    found = {days: at(student, days) for days in range(-6, 4)}
    assert [found[days].soft_weight for days in range(-6, 4)] == [None, None, 0.5, 1, 1.5, 2, 2, 2, None, None]
    assert [found[days].soft_age for days in range(-6, 4)] == [0, 0, 3, 3, 3, 3, 3, 3, 0, 0]
    assert found[-5] == found[2] == at(Variant(name="without"), 0), "without a teacher an age says nothing"
    never = Variant(name="s", distillation=Cutover(teacher="t", at=since, since=ONLINE, age=1))
    assert {at(never, days).soft_weight for days in range(-9, 9)} == {None}


def test_between_two_updates_a_student_learns_from_one_checkpoint() -> None:
    since = ONLINE.shift(-2)
    student = Variant(name="s", distillation=Continuous(teacher="t", age=1, every=3, since=since))
    assert [at(student, days).soft_age for days in range(-3, 5)] == [0, 1, 2, 3, 1, 2, 3, 1]
    assert {read.age for read in student.reads} == {1, 2, 3}


def test_odds_decide_since_a_window_and_uniformly_before_it() -> None:
    policy = OddsProportional(rate=0.1, pilot="p", correction="weight", since=ONLINE.shift(-2), scope="historical")
    sampled = Variant(name="s", selection=policy)
    assert at(sampled, -3).selection == NegativeDownsampling(rate=0.1, correction="weight")
    assert at(sampled, 0).selection == All()
    resolved = at(sampled, -1).selection
    renamed = policy.model_copy(update={"pilot": "q", "floor": 0.01, "since": None, "scope": "continuous"})
    assert resolved == at(Variant(name="r", selection=renamed), -1).selection, "neither names nor defaults decide"
    assert at(Variant(name="all", selection=OddsProportional(rate=1, pilot="p")), 0).selection == All()


def test_a_variant_names_all_that_it_reads() -> None:
    policy = OddsProportional(rate=0.1, pilot="p", pilot_age=2)
    both = Variant(name="s", selection=policy, distillation=Continuous(teacher="t", age=1))
    assert both.reads == {("t", 1, "logit"), ("p", 2, "logit")}
    assert Variant(name="s").reads == set()


def test_choices_left_at_their_neutral_values_are_not_spelled_in_a_steps_identity() -> None:
    """So steps that were done before the choice existed keep their keys."""
    spelled = at(Variant(name="s", distillation=Continuous(teacher="t")), 0).model_dump_json(exclude_defaults=True)
    for name in ("distillation_head", "accumulator_decay", "soft_age", "pilot"):
        assert name not in spelled
