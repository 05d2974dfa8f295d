"""Chains are dealt to lanes: each to one, with what it shares and what it reads, and the rest evenly."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import All, Continuous, Cutover, Variant
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import LineUp, Workers
from pipeline.training.chain.lanes import BESIDE_TRAINING, deal
from tests.trained import DAY, lineup, variant

NUM_WINDOWS = 5


@st.composite
def jobs(draw: st.DrawFn) -> TrainJob:
    """Some of a line-up's variants, that may start late, keep some rows, learn from one another or only be named apart."""
    variants: list[Variant] = []
    for number in range(draw(st.integers(1, 8))):
        name = f"v{number}"
        choices: dict[str, object] = {}
        source = draw(st.sampled_from([v.name for v in variants])) if variants else None
        kind = draw(st.sampled_from(["all", "kept", "odds", "taught", "early"]))
        if kind == "kept":
            choices["selection"] = NegativeDownsampling(rate=draw(st.sampled_from([0.1, 0.5])))
        elif kind == "odds" and source is not None:
            choices["selection"] = OddsProportional(rate=0.3, pilot=source)
        elif kind == "taught" and source is not None:
            choices["distillation"] = Continuous(teacher=source)
        elif kind == "early" and source is not None:
            choices["distillation"] = Cutover(teacher=source, at="early")
        if draw(st.booleans()):
            choices["start"] = DAY.shift(draw(st.integers(0, NUM_WINDOWS)))
        variants.append(variant(name, **choices))
    chosen: LineUp = lineup(
        *variants, seeds=tuple(range(draw(st.integers(1, 3)))), workers=Workers(lanes=draw(st.integers(1, 4)))
    )
    names = draw(st.sets(st.sampled_from([v.name for v in variants])))
    return TrainJob(lineup=chosen, variants=tuple(names), first=DAY, last=DAY.shift(NUM_WINDOWS - 1), start="scratch")


@settings(max_examples=60, deadline=None)
@given(job=jobs())
def test_each_chain_is_in_one_lane_with_what_it_shares_and_behind_what_it_reads(job: TrainJob) -> None:
    lanes = deal(job)
    assert len(lanes) == job.lineup.workers.lanes
    order = [(seed, v.name) for seed in job.lineup.seeds for v in job.lineup.only(job.variants)]
    dealt = [[(seed, v.name) for seed, v in lane] for lane in lanes]
    assert sorted(chain for lane in dealt for chain in lane) == sorted(order)
    for lane in dealt:
        assert lane == [chain for chain in order if chain in lane], "a lane keeps the job's order, sources first"
    where = {chain: number for number, lane in enumerate(dealt) for chain in lane}
    begins: dict[str, int] = {}
    for lane in lanes:
        for seed, each in lane:
            for read in each.reads:
                if (seed, read.source) in where:
                    assert where[seed, read.source] == where[seed, each.name]
            first = DAY if each.start is None else each.start
            begin = f"{first} {job.lineup.resolved(each, first, seed).model_dump_json()}"
            assert begins.setdefault(begin, where[seed, each.name]) == where[seed, each.name]


def test_one_lane_trains_in_the_order_of_the_job() -> None:
    chosen = lineup(variant("student", distillation=Continuous(teacher="teacher")), variant("teacher"), seeds=(3, 1))
    (lane,) = deal(TrainJob(lineup=chosen, first=DAY, last=DAY, start="scratch"))
    assert [(seed, v.name) for seed, v in lane] == [(3, "teacher"), (3, "student"), (1, "teacher"), (1, "student")]


def test_the_longest_are_dealt_first_and_evenly() -> None:
    rates = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    kept = [variant(f"kept_{rate}", selection=NegativeDownsampling(rate=rate)) for rate in rates]
    chosen = lineup(*kept, variant("all"), workers=Workers(lanes=2))
    lanes = deal(TrainJob(lineup=chosen, first=DAY, last=DAY, start="scratch"))

    def load(lane: list[tuple[int, Variant]]) -> float:
        return sum(BESIDE_TRAINING + (1.0 if isinstance(v.selection, All) else v.selection.rate) for _, v in lane)

    assert abs(load(lanes[0]) - load(lanes[1])) < 0.3


def test_students_of_a_teacher_that_an_earlier_job_trained_are_free() -> None:
    students = [variant(f"s{n}", distillation=Continuous(teacher="teacher", weight=1.0 + n)) for n in range(4)]
    chosen = lineup(variant("teacher"), *students, workers=Workers(lanes=2))
    names = tuple(s.name for s in students)
    lanes = deal(TrainJob(lineup=chosen, variants=names, first=DAY, last=DAY, start="scratch"))
    assert [len(lane) for lane in lanes] == [2, 2]
    together = deal(TrainJob(lineup=chosen, first=DAY, last=DAY, start="scratch"))
    assert sorted(len(lane) for lane in together) == [0, 5]
