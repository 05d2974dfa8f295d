"""Bit rot and malice: a file of the lake that is not what was written is refused by name, and its cure works."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError
from typer.testing import CliRunner

from pipeline.cli import BAD_INPUT, app
from pipeline.data.dataset import manifest_path, publish_window, read_manifest, require_manifest
from pipeline.data.simulator import Simulator, simulate
from pipeline.reporting.comparison import VariantComparison, compare
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import Continuous
from pipeline.spec.documents import content_key
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import Workers
from pipeline.spec.simulated import SimulatorConfig
from pipeline.storage import parquet
from pipeline.storage.damage import Damaged
from pipeline.storage.lake import MAX_DOCUMENT_BYTES, Conflict, Lake, LakeError
from pipeline.storage.paths import head_path
from pipeline.training import workers
from pipeline.training.chain.status import chain_statuses
from pipeline.training.chain.steps import StepManifest, StepStore
from pipeline.training.upkeep.verify import Fault, documents, verify
from tests.trained import (
    DATASET,
    DAY,
    STEPS,
    evaluation,
    lineup,
    listing,
    metrics,
    predictions,
    publish,
    train,
    variant,
    windows,
)
from tests.training.chain.test_steps import weights

LINEUP = lineup(
    variant("teacher"),
    variant("student", distillation=Continuous(teacher="teacher"), selection=NegativeDownsampling(rate=0.5)),
)
PLAIN = lineup(variant(optimizer=STEPS.model_copy(update={"dense_lr": 0.01})), name="plain")
NUM_WINDOWS = 2
LAST = DAY.shift(NUM_WINDOWS - 1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A trained lake: windows, signals, predictions, checkpoints and all documents."""
    lake = Lake(str(tmp_path_factory.mktemp("sound") / "lake"))
    publish(lake, windows(NUM_WINDOWS), group=60, rows_per_window=150)
    train(lake, LINEUP, NUM_WINDOWS)
    return lake


@pytest.fixture
def lake(sound: Lake, tmp_path: Path) -> Lake:
    """A copy of it."""
    return copy(sound, tmp_path / "lake")


def copy(sound: Lake, to: Path) -> Lake:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(sound.root, to)
    parquet.forget()  # the files of the copy before, of the same names, may still be open
    return Lake(str(to))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


Outcome = tuple[list[VariantComparison], dict[str, Any]]


def use(lake: Lake) -> Outcome:
    """What every reader of the lake makes of it: what is done is looked at and compared, and all is trained once more."""
    done = train(lake, LINEUP, NUM_WINDOWS)  # skips it
    chain_statuses(lake, LINEUP)
    compared = compare(lake, LINEUP, (), DAY, LAST)
    made = {f"{name} {day}, as it was": learned(lake, step) for (name, day), step in done.items()}
    again = train(lake, LINEUP, 1, first=LAST, start="parent", force=True)
    again |= train(lake, LINEUP, 1, variants=("student",), force=True)
    return compared, made | {f"{name} {day}": learned(lake, step) for (name, day), step in again.items()}


def learned(lake: Lake, step: StepManifest) -> Any:
    """A step's weights, optimizer state, predictions and metrics."""
    return step.key, weights(lake, step), predictions(lake, step).to_pylist(), metrics(lake, step), step.progressive


def flipped(sound: Lake, folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Flip so many bits, each in a lake of its own that is used afterwards.

    Returns:
        How many flips were refused by name, and how many were harmless.
    """
    random = np.random.default_rng(seed)
    expected = use(copy(sound, folder / "lake"))
    paths = sorted(listing(sound))
    refused = 0
    for number in range(count):
        lake = copy(sound, folder / "lake")
        path = (
            lake.root / paths[number % len(paths)]
        )  # each file alike: by size, nearly all flips would hit checkpoints
        bit = int(random.integers(8 * path.stat().st_size))
        flip(path, bit)
        try:
            found = use(lake)
        except BadInput as error:
            said = str(error)
            assert str(path) in said, f"bit {bit} of {path} is refused without the file's name: {said}"
            refused += 1
        else:
            assert found == expected, f"bit {bit} of {path} is trained on"
    return refused, count - refused


def test_a_flipped_bit_is_refused_by_name_or_harmless(sound: Lake, tmp_path: Path) -> None:
    refused, harmless = flipped(sound, tmp_path, 25, seed=0)
    assert refused > 3 * harmless


@pytest.mark.long
def test_many_flipped_bits_are_refused_by_name_or_harmless(sound: Lake, tmp_path: Path) -> None:
    refused, harmless = flipped(sound, tmp_path, 1000, seed=1)
    assert refused > harmless


def spoil(path: Path) -> None:
    """Damage the middle of a file, whatever it is."""
    flip(path, 8 * (path.stat().st_size // 2) + 3)


def broken(lake: Lake, **scope: Any) -> dict[str, Fault]:
    parquet.forget()
    chosen = scope["lineup"].evaluation if "lineup" in scope else None
    return verify(lake, documents(lake, **scope), lambda line: None, chosen).faults


def test_verify_finds_every_damaged_and_every_missing_file(sound: Lake, lake: Lake) -> None:
    assert broken(lake) == {}
    for name in listing(sound):
        path = lake.root / name
        spoil(path)
        found = broken(lake)
        assert list(found) == [str(path)], name
        assert found[str(path)].cure.split()[0] in ("publish", "train"), name
        path.unlink()
        listed = ("windows/", "evaluations/", "selections/")
        unnamed = name.startswith("chains/") or name.endswith("manifest.json") and name.startswith(listed)
        assert list(broken(lake)) == ([] if unnamed else [str(path)]), name
        shutil.copy(sound.root / name, path)
    assert broken(lake) == {}


def test_verify_reads_what_it_is_asked_for_and_tells_how_far_it_is(lake: Lake) -> None:
    other = simulate(lake, "other", SimulatorConfig.tiny(rows_per_window=50), [DAY])[0]
    train(lake, PLAIN, 1)
    said: list[str] = []
    found = verify(lake, documents(lake), said.append)
    assert (found.num_documents, found.faults) == (len(said), {})
    assert found.num_documents == sum(name.endswith(".json") and "checkpoint" not in name for name in listing(lake))
    assert found.num_files == sum("checkpoint" in name or name.endswith(".parquet") for name in listing(lake))
    assert all("sound" in line for line in said)
    spoil(lake.root / other.parts[0].path)
    step = StepStore(lake, DATASET).head("plain", "plain", 0, DAY)
    assert step is not None
    spoiled = evaluation(lake, step).predictions.path
    spoil(lake.root / spoiled)
    assert {name for name in (DATASET, "other") if broken(lake, dataset=name)} == {DATASET, "other"}
    assert broken(lake, lineup=LINEUP) == {}
    assert list(broken(lake, lineup=PLAIN)) == [lake.address(spoiled)]
    with pytest.raises(LakeError, match="holds nothing of nowhere: ingest it, or name another"):
        documents(lake, dataset="nowhere")


def test_verify_follows_steps_to_those_before_them(lake: Lake) -> None:
    """A replay reads what no chain points to any more."""
    (lake.root / head_path(DATASET, "test", "teacher", 0, DAY)).unlink()
    first = StepStore(lake, DATASET).head("test", "teacher", 0, LAST)
    assert first is not None
    assert first.parent is not None
    (lake.root / StepStore(lake, DATASET).path(first.parent)).unlink()
    assert [address for address in broken(lake, lineup=LINEUP) if first.parent[:16] in address]


def test_the_command_lists_each_broken_file_with_its_cure(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDROW_LAKE", str(lake.root))
    ran = CliRunner().invoke(app, ["verify"])
    assert (ran.exit_code, "all sound" in ran.stdout) == (0, True), ran.output
    part = require_manifest(lake, DATASET, DAY).parts[0].path
    spoil(lake.root / part)
    ran = CliRunner().invoke(app, ["verify", "--dataset", DATASET, "--json"])
    said = json.loads(ran.stdout)
    assert ran.exit_code == BAD_INPUT
    assert [each["file"] for each in said["broken"]] == [str(lake.root / part)]
    ran = CliRunner().invoke(app, ["verify"])
    assert ran.exit_code == BAD_INPUT
    assert f"cure: publish window {DAY} of data set 'sim' again with `windrow ingest --force`" in ran.stdout
    assert CliRunner().invoke(app, ["verify", "--dataset", "nowhere"]).exit_code == BAD_INPUT


def published(lake: Lake) -> None:
    publish(lake, windows(NUM_WINDOWS), group=60, rows_per_window=150)


def published_by_force(lake: Lake) -> None:
    simulator = Simulator(SimulatorConfig.tiny(rows_per_window=150, num_lists=1, cluster=True))
    for day in windows(NUM_WINDOWS):
        rows = simulator.window(day)
        publish_window(lake, DATASET, day, simulator.schema, rows, row_group_size=60, force=True)


CURES: dict[str, Callable[[Lake], Any]] = {
    "publish": published_by_force,
    "train": lambda lake: train(lake, LINEUP, NUM_WINDOWS, force=True),
}


def test_the_cure_that_is_named_works_for_every_file(sound: Lake, tmp_path: Path) -> None:
    expected = use(copy(sound, tmp_path / "lake"))
    kinds = {re.sub(r"[0-9a-f]{6,}|\d", "", name.rpartition("sim/")[2]): name for name in listing(sound)}
    of_cure: dict[str, list[str]] = {}
    lake = copy(sound, tmp_path / "lake")
    for name in kinds.values():
        spoil(lake.root / name)
        (fault,) = broken(lake).values()
        shutil.copy(sound.root / name, lake.root / name)
        of_cure.setdefault(fault.cure.split()[0], []).append(name)
    assert set(of_cure) == set(CURES)
    for cure, names in of_cure.items():
        lake = copy(sound, tmp_path / "lake")
        for name in names:
            spoil(lake.root / name)
        CURES[cure](lake)
        assert broken(lake) == {}, cure
        assert use(lake) == expected, cure


def test_without_force_a_damaged_window_is_no_reason_to_publish_it_again(lake: Lake) -> None:
    spoil(lake.root / manifest_path(DATASET, DAY))
    before = listing(lake)
    with pytest.raises(Damaged, match="manifest.json is damaged.*publish window 2024-01-01 of data set 'sim' again"):
        published(lake)
    assert listing(lake) == before


def test_a_document_that_was_read_torn_is_read_once_more(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, torn = Lake._get, []

    def tear(self: Lake, path: str, *rest: Any) -> Any:
        found = whole(self, path, *rest)
        if path in torn or found is None:
            return found
        torn.append(path)
        return found[0][:-20], found[1]

    monkeypatch.setattr(Lake, "_get", tear)
    assert read_manifest(lake, DATASET, DAY) is not None
    assert torn == [manifest_path(DATASET, DAY)]


def test_a_damaged_document_is_replaced_only_by_who_did_not_read_it(lake: Lake) -> None:
    path = manifest_path(DATASET, DAY)
    document = lake.read(path)
    spoil(lake.root / path)
    assert lake.sound(path) is None
    with pytest.raises(Conflict):
        lake.replace(path, {}, document)
    lake.replace(path, {"x": float("nan"), "y": (1, 2)}, None)
    assert str(lake.read(path)) == "{'x': nan, 'y': [1, 2]}"


def lay(lake: Lake, path: str, document: Any) -> None:
    """Put a document under a digest that fits, as whoever means harm would."""
    text = json.dumps({"document": document, "sha256": content_key(document, allow_nan=True)})
    (lake.root / path).write_text(text)


OUTSIDE = "../../outside.parquet"
WINDOW_HARM: dict[str, Any] = {
    "a path above the lake": {"parts": [{"path": OUTSIDE}]},
    "an absolute path": {"parts": [{"path": "/etc/passwd"}]},
    "another window's file": {"parts": [{"path": "windows/sim/window=2024-01-02/x.parquet"}]},
    "a generation that is a path": {"generation": "../../.."},
    "no parts": {"parts": []},
    "rows without end": {"num_rows": 10**18},
    "rows without end in a part": {"num_rows": 10**18, "parts": [{"num_rows": 10**18}]},
    "row groups without end": {"parts": [{"num_row_groups": 10**12}]},
    "row groups of one row": {"row_group_size": 1, "num_rows": 10**9, "parts": [{"num_rows": 10**9, "num_row_groups": 10**9}]},
    "row groups of none": {"row_group_size": 0},
    "a file without end": {"parts": [{"num_bytes": 10**18, "tail_bytes": 10**18}]},
    "fewer bytes than none": {"parts": [{"num_bytes": -1}]},
    "a word for a number": {"num_rows": "many"},
    "a number for a list": {"parts": 5},
    "a list for a name": {"dataset": ["sim"]},
    "nothing for a day": {"window": None},
    "another data set": {"dataset": "other"},
    "code": {"__reduce__": ["os.system", ["touch ran"]]},
    "a schema elsewhere": {"schema_key": "../../../outside"},
}  # fmt: skip


@pytest.mark.parametrize("harm", WINDOW_HARM.values(), ids=WINDOW_HARM.keys())
def test_a_malicious_window_is_refused_by_name(
    lake: Lake, harm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manifest_path(DATASET, DAY)
    document = lake.read(path) or {}
    parts = harm.get("parts")
    if isinstance(parts, list):
        harm = harm | {"parts": [document["parts"][0] | part for part in parts]}
    lay(lake, path, document | harm)
    opened = watched(monkeypatch)
    with pytest.raises(BadInput, match="windows/sim/window=2024-01-01/|a name is 1 to 100 letters"):
        train(lake, LINEUP, 1, force=True)
    assert all(file.is_relative_to(lake.root) and ".." not in file.parts for file in opened)
    assert broken(lake)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are opened from now on."""
    opened: list[Path] = []
    whole = open

    def watch(path: Any, *rest: Any, **options: Any) -> Any:
        opened.append(Path(path))
        return whole(path, *rest, **options)

    monkeypatch.setattr(parquet, "open", watch, raising=False)
    return opened


STEP_HARM: dict[str, Any] = {
    "signals outside": ("signals", {"files": [{"path": "/etc/passwd"}]}),
    "signals of other places": ("signals", {"places": [[10**9, 0]]}),
    "places below zero": ("signals", {"places": [[-1, -1]]}),
    "no step": ("config", 7),
    "a path for a key": ("key", OUTSIDE),
}


@pytest.mark.parametrize("harm", STEP_HARM.values(), ids=STEP_HARM.keys())
def test_a_malicious_step_is_refused_by_name(
    lake: Lake, harm: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StepStore(lake, DATASET).head("test", "teacher", 0, DAY)
    assert step is not None
    path = StepStore(lake, DATASET).path(step.key)
    document = lake.read(path) or {}
    name, changes = harm
    if name == "signals":
        signal = document["signals"][0]
        if "files" in changes:
            changes = {"files": [signal["files"][0] | changes["files"][0]]}
        changes = [signal | changes]
    lay(lake, path, document | {name: changes})
    opened = watched(monkeypatch)
    for read in (lambda: train(lake, LINEUP, NUM_WINDOWS), lambda: compare(lake, LINEUP, (), DAY, LAST)):
        with pytest.raises(Damaged, match=f"{path} is damaged: it is no StepManifest"):
            read()
    assert all(file.is_relative_to(lake.root) and ".." not in file.parts for file in opened)
    assert list(broken(lake)) == [lake.address(path)]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 100,
        b"[]",
        b"null",
        b'{"step": 1}',
        b'{"document": [], "sha256": ""}',
        b'{"document": {"step": "../../../x", "generation": ""}, "sha256": "0"}',
        b"[" * 100_000,
        b"1" * 10_000,
        b"\xff\xfe",
        b'cos\nsystem\n(S"touch ran"\ntR.',
        pickle.dumps({"step": "x"}),
    ],
    ids=range(12),
)
def test_what_is_no_document_is_refused_by_name(lake: Lake, text: bytes) -> None:
    path = head_path(DATASET, "test", "teacher", 0, DAY)
    (lake.root / path).write_bytes(text)
    with pytest.raises(Damaged, match=f"{path} is damaged: .*train variant 'teacher' on window 2024-01-01 again"):
        train(lake, LINEUP, 1, first=LAST, start="parent")


@pytest.mark.parametrize("document", [{"step": 5, "generation": ""}, {"step": "../../x", "generation": ""}, {}])
def test_a_malicious_head_is_refused_by_name(lake: Lake, document: dict[str, Any]) -> None:
    path = head_path(DATASET, "test", "teacher", 0, DAY)
    lay(lake, path, document)
    with pytest.raises(Damaged, match=f"{path} is damaged: it is no Pointer"):
        train(lake, LINEUP, 1, first=LAST, start="parent")


def test_a_document_without_end_is_not_read(lake: Lake) -> None:
    path = lake.root / manifest_path(DATASET, DAY)
    with path.open("r+b") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(Damaged, match="larger than any document"):
        read_manifest(lake, DATASET, DAY)


def test_workers_can_tell_each_other_of_damage() -> None:
    error = Damaged("/lake/windows/sim/window=2024-01-01/x", "it is short", "windows/sim/window=2024-01-01/x")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_one_of_several_workers_meets_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying again does not help; Ray wraps the error."""
    error = Damaged("/lake/x", "it is short", "windows/sim/window=2024-01-01/x")

    def fit(trainer: Any) -> None:
        raise WorkerGroupError("", {1: UserExceptionWithTraceback(error, "Traceback")})

    monkeypatch.setattr(workers, "_join", lambda address, workers: None)
    monkeypatch.setattr(workers.TorchTrainer, "fit", fit)
    with pytest.raises(BadInput, match="^/lake/x is damaged: it is short"):
        workers.run_on_workers(print, {}, Workers(num_workers=2), address="", name="x", storage="/tmp/x")
