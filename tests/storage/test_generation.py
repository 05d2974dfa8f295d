"""Attempts: what counts stands whole, whatever answers get lost, and what was given up leaves nothing behind."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

from pipeline.data.dataset import publish_window, read_manifest, require_whole
from pipeline.data.simulator import Simulator
from pipeline.spec.config import Continuous, OptimizerConfig
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage.lake import Conflict, Lake
from pipeline.storage.together import is_of_all
from pipeline.training.chain.engine import Diverged
from pipeline.training.chain.plan import OtherWorkers
from pipeline.training.chain.status import chain_statuses
from pipeline.training.chain.steps import MissingParent, StepManifest, StepStore
from pipeline.training.checkpoint import not_finite
from tests.object_lake import ObjectLake
from tests.trained import DATASET, DAY, engine, lineup, listing, publish, steps, train, variant, windows
from tests.training.chain.test_steps import Watcher, same

SIMULATOR = Simulator(SimulatorConfig.tiny(rows_per_window=300, num_lists=1, cluster=True))
OTHER = Simulator(SimulatorConfig.tiny(rows_per_window=300, num_lists=1, cluster=True, seed=7))
LATER = DAY.shift(1)


@pytest.fixture(params=["local", "object store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake of either kind."""
    return Lake(str(tmp_path / "lake")) if request.param == "local" else ObjectLake()


@pytest.fixture
def local(tmp_path: Path) -> Lake:
    """A lake on disk with three windows."""
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(3))
    return lake


def put(lake: Lake, simulator: Simulator = SIMULATOR, **options: Any) -> Any:
    rows = simulator.window(DAY)
    return publish_window(lake, DATASET, DAY, simulator.schema, rows, row_group_size=50, **options)


def files(lake: Lake, top: str = "windows") -> list[str]:
    return sorted(file.path for file in lake.files_below(top))


Fault = Callable[[Callable[[], Any]], Any]


def answered(error: Exception, *, done: bool) -> Fault:
    """A put that takes place or not, and is answered by an error."""

    def fault(real: Callable[[], Any]) -> Any:
        if done:
            real()
        raise error

    return fault


def break_puts(monkeypatch: pytest.MonkeyPatch, fault: Fault, name: str = "manifest.json") -> None:
    """The next put of a document of that name goes wrong."""
    real, left = obstore.put, [1]

    def faulty(store: Any, path: str, *rest: Any, **options: Any) -> Any:
        if not path.endswith(name) or not left:
            return real(store, path, *rest, **options)
        left.pop()
        return fault(lambda: real(store, path, *rest, **options))

    monkeypatch.setattr(obstore, "put", faulty)


LOST = [AlreadyExistsError("there"), PreconditionError("412"), GenericError("timed out"), TimeoutError("no answer")]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_a_publication_whose_answer_was_lost_stands(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, error: Exception, before: bool
) -> None:
    """As when the client asks again after a lost answer, and is refused since the first time went well."""
    if before:
        put(lake, OTHER)
    break_puts(monkeypatch, answered(error, done=True))
    made = put(lake)
    assert read_manifest(lake, DATASET, DAY) == made
    require_whole(lake, made)
    assert all(part.path in files(lake) for part in made.parts)


@pytest.mark.parametrize("error", [AlreadyExistsError("there"), PreconditionError("412")], ids=["exists", "changed"])
def test_a_refusal_is_a_conflict_and_leaves_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    if isinstance(error, PreconditionError):
        put(lake, OTHER)
    before = files(lake)
    break_puts(monkeypatch, answered(error, done=False))
    if isinstance(error, PreconditionError) is (len(before) > 0):
        with pytest.raises(Conflict, match=r"manifest.json"):
            put(lake)
    assert [path for path in files(lake) if "schema-" not in path] == [p for p in before if "schema-" not in p]


def test_a_put_that_nobody_answers_leaves_its_files_where_it_may_still_take_place(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to an object store can be on its way when its sender has given up; a disk has answered by then."""
    break_puts(monkeypatch, answered(TimeoutError("no answer"), done=False))
    with pytest.raises(TimeoutError, match="no answer"):
        put(lake)
    left = [path for path in files(lake) if "/gen-" in path]
    assert bool(left) is not lake.is_local


def test_a_lake_that_is_gone_after_the_put_keeps_what_its_manifest_names(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise OSError("unreachable")

    with monkeypatch.context() as patch:

        def lost(real: Callable[[], Any]) -> Any:
            real()
            patch.setattr(obstore, "get", silent)
            raise TimeoutError("no answer")

        break_puts(patch, lost)
        with pytest.raises(TimeoutError, match="no answer"):
            put(lake)
    made = read_manifest(lake, DATASET, DAY)
    assert made is not None
    require_whole(lake, made)


def test_a_step_whose_answer_was_lost_stands(local: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    break_puts(monkeypatch, answered(AlreadyExistsError("there"), done=True))
    train(local, lineup(), 1)
    assert len(train(local, lineup(), 1, first=LATER, start="parent")) == 1


def test_a_step_on_an_object_store_goes_on_from_its_checkpoint(local: Lake) -> None:
    remote = ObjectLake()
    publish(remote, windows(2))
    for lake in (local, remote):
        train(lake, lineup(), 1)
        train(lake, lineup(), 1, first=LATER, start="parent")
    ours, theirs = (steps(lake, lineup(), 2)["plain", LATER] for lake in (local, remote))
    assert (ours.key, ours.progressive) == (theirs.key, theirs.progressive)
    drop = {"index.json"}
    assert {n: d for n, d in ours.checkpoint_files.items() if n not in drop} == {
        n: d for n, d in theirs.checkpoint_files.items() if n not in drop
    }


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From the file of that name on, nothing can be written."""
    whole, is_full = Lake.put_bytes, []

    def put_bytes(self: Lake, path: str, content: bytes) -> None:
        if name in path or is_full:
            is_full.append(path)
            raise full()
        whole(self, path, content)

    monkeypatch.setattr(Lake, "put_bytes", put_bytes)


@pytest.mark.parametrize("name", ["worker-00000", "shards-", "index.json", "predictions.parquet"])
def test_a_step_that_cannot_be_written_leaves_no_file(local: Lake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    student = variant("student", distillation=Continuous(teacher="plain"))
    before = listing(local)
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        with pytest.raises(OSError, match="No space left") as caught:
            train(local, lineup(variant(), student), 1)
        assert is_of_all(caught.value)
    assert listing(local) == before
    assert len(train(local, lineup(variant(), student), 1)) == 2


def test_two_who_publish_one_step_leave_one(local: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(local, lineup(), 1)
    publish_step = StepStore.publish

    def beaten(self: StepStore, manifest: StepManifest, *rest: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(StepStore, "publish", publish_step)
            train(local, lineup(), 1)
        publish_step(self, manifest, *rest)

    monkeypatch.setattr(StepStore, "publish", beaten)
    with pytest.raises(Conflict, match="changed while this job ran"):
        made.run()
    (step,) = steps(local, lineup(), 1).values()
    assert {path.split("/")[3] for path in files(local, "steps")} == {f"gen-{step.generation}", "manifest.json"}


@pytest.mark.parametrize("what", ["window", "step"])
def test_a_cleanup_that_fails_hides_no_error(
    local: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("cannot remove")

    monkeypatch.setattr(Lake, "remove", fail)
    if what == "step":
        fill_disk(monkeypatch, "index.json")
        with pytest.raises(OSError, match="No space left"):
            train(local, lineup(), 1)
    else:
        fill_disk(monkeypatch, "part-00001")
        with pytest.raises(OSError, match="No space left"):
            put(local, part_rows=50)
    assert "could not be removed (cannot remove): `windrow gc` does" in caplog.text


def test_nothing_is_removed_while_another_worker_may_write(local: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that this worker alone has seen, such as another's death."""

    def lost(self: Any, *_: Any, **__: Any) -> None:
        raise ConnectionError("worker 1 is gone")

    monkeypatch.setattr("pipeline.training.chain.engine.save_checkpoint", lost)
    student = variant("student", distillation=Continuous(teacher="plain"))
    with pytest.raises(ConnectionError):
        train(local, lineup(variant(), student), 1)
    assert any("signals/logit-age-0/worker-00000" in path for path in files(local, "steps"))


def test_a_last_update_that_leaves_no_number_is_not_published(local: Lake) -> None:
    """Each window is one batch: its only loss is from before the update, and finite."""
    wild = variant(optimizer=OptimizerConfig(batch_size=1000, embedding_lr=1e39, dense_lr=0.01))
    before = listing(local)
    made = engine(local, lineup(wild), 1)
    losses = []
    check = type(made)._check_finite

    def watch(self: Any, plan: Any, name: str, predicted: Any, trained: Any, trainer: Any) -> None:
        losses.append((predicted.metrics["log_loss"], trained.sums.loss))
        assert not_finite(trainer.model, trainer.optimizer) is not None
        check(self, plan, name, predicted, trained, trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made), "_check_finite", watch)
        message = "'plain' diverged in 2024-01-01: its model.*table.*is not finite with learning rates 1e\\+39"
        with pytest.raises(Diverged, match=message) as caught:
            made.run()
    assert all(0 < value < 1e9 for pair in losses for value in pair)
    assert is_of_all(caught.value)
    assert listing(local) == before


def as_if_by(lake: Lake, step: StepManifest, num_workers: int, **changes: Any) -> None:
    """Let a step be one that so many workers trained."""
    path = StepStore(lake, DATASET).path(step.key)
    changed = step.model_copy(update={"num_workers": num_workers, **changes})
    lake.replace(path, changed.model_dump(mode="json"), lake.read(path))


def test_what_other_workers_trained_again_makes_its_children_stale_until_they_are_trained(local: Lake) -> None:
    chosen = lineup()
    first = train(local, chosen, 3)
    again = train(local, chosen, 1, force=True)
    assert all(not each.stale for each in chain_statuses(local, chosen)), "the same workers make the same bits"
    as_if_by(local, again["plain", DAY], 2)
    (status,) = chain_statuses(local, chosen)
    assert {day.name: why for day, why in status.stale.items()} == {
        "2024-01-02": "the step before it (2024-01-01) was trained again by another number of workers",
        "2024-01-03": "the step before it (2024-01-02) is stale",
    }
    watcher = Watcher()
    made = train(local, chosen, 3, recorder=watcher)
    assert watcher.trained == ["plain 2024-01-02", "plain 2024-01-03"]
    for place, step in made.items():
        assert step.key == first[place].key, "how many workers is no part of a key"
        assert (step.generation != first[place].generation) is (place[1] != DAY or step.num_workers == 2)
    assert all(not each.stale for each in chain_statuses(local, chosen))
    watcher = Watcher()
    train(local, chosen, 3, recorder=watcher)
    assert watcher.trained == []


def test_a_step_is_trained_again_by_as_many_workers_as_then_or_not_at_all(local: Lake) -> None:
    far = DAY.shift(30)
    chosen = lineup(online_start=far, checkpoint_every=10)
    made = train(local, chosen, 3)
    assert made["plain", LATER].checkpoint is None
    last = DAY.shift(2)
    (local.root / StepStore(local, DATASET).path(made["plain", last].key)).unlink()
    as_if_by(local, made["plain", LATER], 2)
    message = (
        "only 2 workers, as then, train it again bit for bit, got 1: run this with `--workers 2`, or train .*`--force`"
    )
    with pytest.raises(OtherWorkers, match=message) as caught:
        train(local, chosen, 3)
    assert is_of_all(caught.value)
    forced = train(local, chosen, 3, force=True)
    assert same(local, forced["plain", last], local, made["plain", last]), "the cure works"


def test_an_ancestor_of_other_bits_is_not_gone_on_from(local: Lake) -> None:
    chosen = lineup(online_start=DAY.shift(30), checkpoint_every=10)
    made = train(local, chosen, 3)
    last = DAY.shift(2)
    (local.root / StepStore(local, DATASET).path(made["plain", last].key)).unlink()
    as_if_by(local, made["plain", DAY], 2)
    with pytest.raises(MissingParent, match="2024-01-01 was trained again by 2 workers.*train the whole span again"):
        train(local, chosen, 1, first=last, start="parent")
