"""Whatever is given to the installed command, what it cannot use is refused in a few lines that name place and cure."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import BAD_INPUT, app
from pipeline.spec.job import IngestJob, TrainJob
from pipeline.storage.lake import Lake
from tests.trained import DAY, lineup, listing, publish, variant

PROGRAM = Path(sys.executable).parent / "windrow"
LIMIT_S = 10
"""Of the processor; whoever takes more is killed."""
HANGS_S = 240
"""By the clock, which runs on while other work has the processor."""
MAX_LINES, MAX_CHARACTERS = 12, 2_400
LONG = "a" * 10_000
FIRST = ["--first", "2024-01-01"]
SCHEMA: dict[str, Any] = {
    "label": "click",
    "event_time": {"column": "at"},
    "dense": [{"name": "price"}],
    "categorical": [{"name": "item", "hash_size": 100}],
}
CSV = "at,click,item,price\n" + "".join(f"2024-01-01T{n % 24:02}:00:00,{n % 2},i{n},{n / 7:.3f}\n" for n in range(60))
LINEUP: dict[str, Any] = lineup(variant("plain"), variant("other")).model_dump(mode="json")
STUDY: dict[str, Any] = {
    "kind": "distillation",
    "first": "2024-01-01",
    "online_start": "2024-01-09",
    "last": "2024-01-20",
}
DEEP = "a: " + "[" * 5_000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
RUNS_CODE = "name: !!python/object/apply:os.system ['touch owned']\n"


@dataclass(frozen=True)
class Bad:
    """A call that must be refused."""

    call: list[str]
    """Arguments; `{home}` stands for the folder of the test."""
    words: list[str]
    """What the message says."""
    content: str | bytes | Callable[[Path], None] = ""
    """Of the file `bad.yaml`."""
    environ: dict[str, str] = field(default_factory=dict)


def from_lineup(words: list[str], command: str = "status", **changes: Any) -> Bad:
    """A line-up with some fields changed."""
    days = [] if command == "status" else FIRST
    return Bad([command, "-l", "{home}/bad.yaml", *days], ["bad.yaml", *words], yaml.safe_dump({**LINEUP, **changes}))


def from_text(content: str | bytes, *words: str) -> Bad:
    """A line-up's file that says something else."""
    return Bad(["status", "-l", "{home}/bad.yaml"], ["bad.yaml", *words], content)


def from_schema(content: str | dict[str, Any], *words: str) -> Bad:
    """A schema's file."""
    text = content if isinstance(content, str) else yaml.safe_dump({**SCHEMA, **content})
    return Bad([*INGEST, "--file", "{home}/good.csv", "--schema", "{home}/bad.yaml"], ["bad.yaml", *words], text)


def from_log(content: str | bytes, *words: str) -> Bad:
    """A log of its own."""
    return Bad([*INGEST, "--schema", "{home}/schema.yaml", "--file", "{home}/bad.yaml"], ["bad.yaml", *words], content)


def from_study(words: list[str], **changes: Any) -> Bad:
    """A study's file."""
    answers = {name: value for name, value in {**STUDY, **changes}.items() if value is not None}
    return Bad(["study", "{home}/bad.yaml", "--report-only"], ["bad.yaml", *words], yaml.safe_dump(answers))


def from_options(*options: str, words: list[str]) -> Bad:
    """Options of `ingest` beside a good log and a good schema; the later ones win."""
    return Bad([*INGEST, "--schema", "{home}/schema.yaml", "--file", "{home}/good.csv", *options], words)


def from_settings(words: list[str], call: list[str] | None = None, **environ: str) -> Bad:
    """An environment that cannot be used."""
    return Bad(call or ["status", "-l", "{home}/lineup.yaml"], words, environ=environ)


INGEST = ["ingest", *FIRST, "--dataset", "mine"]
SHUT = ["--last", "2024-01-02"]
VARIANT = LINEUP["variants"][0]
CASES: dict[str, Bad] = {
    # options
    "a data set with an umlaut": from_options("--dataset", "dätä", words=["--dataset", "letters", "'dätä'"]),
    "a data set outside the lake": from_options("--dataset", "../x", words=["--dataset", "letters", "'../x'"]),
    "a data set of 10,000 letters": from_options("--dataset", LONG, words=["--dataset", "1 to 63 letters", "aaa..."]),
    "a schema that is not shipped": from_options("--schema", "nope", words=["criteo, ebnerd, obd, upworthy", "'nope'"]),
    "a schema that is not there": from_options(
        "--schema", "{home}/no.yaml", words=["no.yaml", "No such file", "check"]
    ),
    "a source that is not there": from_options("--file", "{home}/no.csv", words=["no.csv", "check the path"]),
    "a source of an unknown scheme": from_options(
        "--file", "ftp://a/b.csv", words=["ftp://a/b.csv", "check the address"]
    ),
    "a source of 10,000 letters": from_options("--file", LONG, words=["at most 4,096 characters", "check the path"]),
    "a source in an unset variable": from_options("--file", "$NO/a.csv", words=["not set", "$NO/a.csv", "set them"]),
    "a day in another order": from_options("--first", "01.01.2024", words=["YYYY-MM-DD", "'01.01.2024'"]),
    "a week": from_options("--first", "2024-W01-1", words=["YYYY-MM-DD", "'2024-W01-1'"]),
    "a span that runs backward": from_options("--last", "2023-12-31", words=["runs forward", "2023-12-31"]),
    "a span of 2,000 years": from_options(
        "--last", "4024-01-01", words=["3,660 windows", "got 730,486", "check the dates"]
    ),
    "the last day of all": from_options("--last", "9999-12-31", words=["between", "9999-12-31", "check the year"]),
    "an unknown cut": from_options("--cut", "by_moon", words=["--cut", "'event_time'", "'by_moon'"]),
    "a pipe as a source": Bad(
        [*INGEST, "--schema", "{home}/schema.yaml", "--file", "{home}/bad.yaml"],
        ["bad.yaml", "a pipe", "to a file"],
        os.mkfifo,
    ),
    "no --first": Bad(["train"], ["--first", "windrow train --help"]),
    "an option that is none": Bad(["train", *FIRST, "--varient", "x"], ["--varient", "windrow train --help"]),
    "a command that is none": Bad(["trian", LONG], ["'trian'", "windrow --help"]),
    "workers that are no number": Bad(["train", *FIRST, "--workers", LONG], ["--workers", "integer", "--help"]),
    "a variant that is none": Bad(
        ["train", *FIRST, "-l", "{home}/lineup.yaml", "-v", "plane"], ["'plane'", "did you mean 'plain'?"]
    ),
    "workers that do not divide the batch": Bad(
        ["train", *FIRST, "-l", "{home}/lineup.yaml", "--workers", "3"], ["--workers", "3 workers", "choose a multiple"]
    ),
    "more workers than cores": Bad(
        ["train", *FIRST, "-l", "{home}/lineup.yaml", "--workers", "128"],
        ["128 workers need 128 cores", "this machine", "--workers"],
        environ={"RAY_ADDRESS": "local"},
    ),
    # line-ups
    "a line-up that is not there": Bad(["status", "-l", "{home}/no.yaml"], ["no.yaml", "No such file", "--lineup"]),
    "a pipe as a line-up": Bad(["status", "-l", "{home}/bad.yaml"], ["bad.yaml", "a pipe", "name the file"], os.mkfifo),
    "a device as a line-up": Bad(["status", "-l", "/dev/zero"], ["/dev/zero", "a device", "name the file"]),
    "a folder as a line-up": Bad(["status", "-l", "{home}"], ["{home}", "a folder", "name the file"]),
    "a line-up in Latin-1": from_text("name: dätä".encode("latin-1"), "byte 0xe4 at position 7", "save it as UTF-8"),
    "a line-up that is empty": from_text("", "a mapping of names to values", "None"),
    "a line-up that is a list": from_text("- a\n- b\n", "a mapping of names to values"),
    "a line-up that is no YAML": from_text("name: [a\n", "line 2, column 1"),
    "two documents": from_text("a: 1\n---\na: 2\n", "line 2", "single document"),
    "YAML nested 5,000 deep": from_text(DEEP, "at most 32 deep", "write it flatter"),
    "a YAML bomb": from_text(BOMB, "at most 100,000 values", "write less"),
    "a YAML file of 2 MB": from_text("a: " + "x" * 2_000_000, "1,048,576 bytes", "right file"),
    "YAML inside itself": from_text("a: &a [*a]\n", "*a", "write the value out"),
    "YAML that runs code": from_text(RUNS_CODE, "line 1", "python/object"),
    "a name given twice": from_text("name: a\nname: b\n", "line 2", "'name' twice", "take one out"),
    "a thirteenth month": from_text("online_start: 2024-13-01\n", "month must be in 1..12"),
    "a field that is none": from_lineup(["no field 'seed'", "did you mean 'seeds'?"], seed=[1]),
    "a seed past 63 bits": from_lineup(["seeds.0", "at most 9223372036854775807", str(2**70)], seeds=[2**70]),
    "a seed that is a word of truth": from_lineup(["seeds.0", "a whole number", "True"], seeds=[True]),
    "a thousand and one seeds": from_lineup(["seeds", "at most 1000 entries"], seeds=list(range(1001))),
    "a rate that is no number": from_lineup(
        ["variants.0.optimizer.dense_lr", "finite", "nan"],
        variants=[{**VARIANT, "optimizer": {"dense_lr": float("nan")}}],
    ),
    "a size that is none": from_lineup(
        ["variants.0.model.size", "'medium'", "'vast'"], variants=[{**VARIANT, "model": {"size": "vast"}}]
    ),
    "a variant of 10,000 letters": from_lineup(["variants.0.name", "1 to 63", "aaa..."], variants=[{"name": LONG}]),
    "a teacher that is none": from_lineup(
        ["'ghost'", "it has plain"], variants=[{**VARIANT, "distillation": {"kind": "continuous", "teacher": "ghost"}}]
    ),
    "no workers": from_lineup(["workers.num_workers", "at least 1", "got 0"], workers={"num_workers": 0}),
    "a simulator of no rows": from_lineup(
        ["rows_per_window", "at least 1", "got -5"],
        "ingest",
        dataset={
            "name": "sim",
            "source": {"kind": "simulated", "origin": "2024-01-01", "settings": {"rows_per_window": -5}},
        },
    ),
    "a simulator's setting that is none": from_lineup(
        ["'rows'", "rows_per_window"],
        "ingest",
        dataset={"name": "sim", "source": {"kind": "simulated", "origin": "2024-01-01", "settings": {"rows": 5}}},
    ),
    "a line-up's schema that is not there": from_lineup(
        ["/schemas/mine.yaml", "No such file", "check the path"],
        "ingest",
        dataset={"name": "a", "source": {"kind": "log", "schema_file": "schemas/mine.yaml", "files": ["a.csv"]}},
    ),
    # schemas and logs
    "a bucket count that is a word of truth": from_schema(
        {"categorical": [{"name": "item", "hash_size": True}]}, "categorical.0.hash_size", "a whole number", "True"
    ),
    "a misspelt field of a schema": from_schema({"densse": []}, "'densse'", "did you mean 'dense'?"),
    "the label as an input": from_schema({"dense": [{"name": "c", "column": "click"}]}, "'click'", "take it out"),
    "a schema nested 5,000 deep": from_schema(DEEP, "at most 32 deep"),
    "a log without a column": from_log(CSV.replace("price", "cost", 1), "'price'", "name the right column"),
    "a log that is empty": from_log("", "an empty file", "leave it out"),
    "a gzip cut short": from_log(gzip.compress(CSV.encode() * 500)[:-100], "truncated", "write the file again"),
    # studies and specs
    "a study without its kind": from_study(["`kind`", "distillation"], kind=None),
    "a study's line-up by its path": from_study(["without folder and ending", "WINDROW_LINEUP"], lineup="/a/b.yaml"),
    "a study's field that is none": from_study(["'axis'", "did you mean 'axes'?"], axis=["start"]),
    "a study without its days": from_study(["first", "YYYY-MM-DD"], first=None),
    "a study's share above one": from_study(["negative_rate", "at most 1", "2.0"], negative_rate=2.0),
    "a study on no known hardware": from_study(["hardware", "'GPU'", "'TPU'"], hardware="TPU"),
    "a spec that is no JSON": Bad(["run", "{home}/bad.yaml"], ["document", "JSON"], "{"),
    "a spec nested 5,000 deep": Bad(["run", "{home}/bad.yaml"], ["document", "JSON", "recursion"], "[" * 5_000),
    "a spec of an unknown kind": Bad(["run", "{home}/bad.yaml"], ["'ingest'", "'bake'"], '{"kind": "bake"}'),
    # settings
    "a port past the last": from_settings(["WINDROW_AIRFLOW_PORT", "at most 65535"], WINDROW_AIRFLOW_PORT="99999"),
    "a lake that is a file": from_settings(["{home}/good.csv", "WINDROW_LAKE"], WINDROW_LAKE="{home}/good.csv"),
    "a lake nobody can write": from_settings(["/proc/lake", "set WINDROW_LAKE"], WINDROW_LAKE="/proc/lake"),
    "a lake of an unknown scheme": from_settings(["'ftp://a/b'", "s3://", "WINDROW_LAKE"], WINDROW_LAKE="ftp://a/b"),
    "a home that is a file": from_settings(["good.csv", "WINDROW_HOME"], ["up"], WINDROW_HOME="{home}/good.csv"),
    "a Ray address that is none": from_settings(["RAY_ADDRESS", "host:port", "'nowhere'"], RAY_ADDRESS="nowhere"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good log, schema, line-up, and a lake that holds a window."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "good.csv").write_text(CSV)
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    (folder / "lineup.yaml").write_text(yaml.safe_dump(LINEUP))
    publish(Lake(str(folder / "home" / "lake")), [DAY])
    return folder


def refuse(home: Path, number: int, bad: Bad) -> subprocess.CompletedProcess[str]:
    """Run one bad call through the installed program."""
    own = home / str(number)
    own.mkdir()
    path = own / "bad.yaml"
    if callable(bad.content):
        bad.content(path)
    else:
        path.write_bytes(bad.content.encode() if isinstance(bad.content, str) else bad.content)

    def here(text: str) -> str:
        return text.replace("{home}/bad.yaml", str(path)).replace("{home}", str(home))

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WINDROW_", "RAY_", "MLFLOW_"))}
    environ = {**clean, "WINDROW_HOME": str(home / "home")} | {name: here(value) for name, value in bad.environ.items()}
    call = ["prlimit", f"--cpu={LIMIT_S}", str(PROGRAM), *map(here, bad.call)]
    return subprocess.run(call, env=environ, cwd=own, capture_output=True, text=True, timeout=HANGS_S, check=False)


@pytest.fixture(scope="module")
def refused(home: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """What became of every case, run several at a time; the lake is as it was."""
    lake = Lake(str(home / "home" / "lake"))
    before = listing(lake), sorted(path.name for path in home.iterdir())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ran = list(pool.map(refuse, [home] * len(CASES), range(len(CASES)), CASES.values()))
    names = sorted(path.name for path in home.iterdir() if not path.name.isdecimal())
    assert (listing(lake), names) == before
    assert not list(home.rglob("owned")), "nothing that was read ran"
    return dict(zip(CASES, ran, strict=True))


def check_told(status: int, said: str) -> None:
    """A refusal as a person can read it."""
    assert status == BAD_INPUT, said
    assert said.startswith("windrow: "), said
    assert len(said.splitlines()) <= MAX_LINES, said
    assert len(said) <= MAX_CHARACTERS, said
    assert not any(noise in said for noise in ("Traceback", "pydantic", "https://", "[type=")), said


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_used_is_refused_in_a_few_lines(
    refused: dict[str, subprocess.CompletedProcess[str]], home: Path, case: str
) -> None:
    ran = refused[case]
    said = ran.stdout + ran.stderr
    check_told(ran.returncode, said)
    words = [word.replace("{home}", str(home)) for word in CASES[case].words]
    assert [word for word in words if word not in said] == [], said


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**70, -(2**70), 1e308, float("nan"), float("inf"), -0.0, 0.5),
    *("", " ", "a", LONG, "../x", "\0", "\x1b[31m", "ä", "{date}", "$X", "2024-02-30", "9999-12-31", "0001-01-01"),
    *([], {}, [[]], [None], {"a": 1}, {1: 2}, [1, 1], ["a", "a"], "true", "1e3", "local", "*", "?"),
]
"""Values that somebody may write anywhere."""


def mutated(document: Any, chance: random.Random) -> Any:
    """A document with one value changed, one name changed, one part left out or one given again."""
    found = deepcopy(document)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                visit(node[key])

    visit(found)
    node, key = chance.choice(places)
    kind = chance.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[chance.choice(ODD[14:27])] = node.pop(key)
    elif kind == 2 and isinstance(node, list):
        node.append(deepcopy(node[key]))
    else:
        node[key] = deepcopy(chance.choice(ODD))
    return found


def torn(text: bytes, chance: random.Random, num_values: int = 256) -> bytes:
    """A file with a stretch of bytes changed (to one of the first `num_values`), cut out or given again."""
    start = chance.randrange(len(text))
    end = min(len(text), start + chance.choice([1, 1, 2, 40, 4_000]))
    between = [
        b"",
        bytes(chance.randrange(num_values) for _ in range(end - start)),
        text[start:end] * chance.choice([2, 50]),
    ]
    return text[:start] + chance.choice(between) + text[end:]


SPECS = [
    {**TrainJob(lineup=LINEUP, first=DAY, last=DAY, start="scratch").model_dump(mode="json"), "kind": "compare"},
    IngestJob(
        dataset={
            "name": "mine",
            "source": {"kind": "log", "schema_file": "criteo", "files": ["none.tsv"], "first": DAY.name},
        },
        first=DAY,
        last=DAY,
    ).model_dump(mode="json"),
]
for spec in SPECS[:1]:
    del spec["start"], spec["force"]


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Path]:
    """A home of one's own for calls in this process."""
    with mock.patch.dict(os.environ, {"WINDROW_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}):
        for name in ("WINDROW_LAKE", "WINDROW_LINEUP", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        (tmp_path / "good.csv").write_text(CSV)
        (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
        yield tmp_path


def mutants(folder: Path, chance: random.Random) -> list[str]:
    """Write a mutant of one of the documents that people write; the call that reads it."""
    path = folder / "mutant.yaml"
    ingest = ["-q", "ingest", *FIRST, "--dataset", "mine"]
    good: list[tuple[Any, list[str]]] = [
        (LINEUP, ["-q", "status", "-l", str(path), "--json"]),
        (SCHEMA, [*ingest, "--schema", str(path), "--file", str(folder / "good.csv"), "--json"]),
        (STUDY | {"axes": ["start"], "seeds": [1, 2], "epsilons": [0.1]}, ["-q", "study", str(path), "--report-only"]),
        (chance.choice(SPECS), ["-q", "run", str(path)]),
        (CSV, [*ingest, "--schema", str(folder / "schema.yaml"), "--file", str(path), "--json"]),
    ]
    document, call = chance.choice(good)
    if isinstance(document, str):
        path.write_bytes(torn(document.encode(), chance, num_values=128))
    elif chance.random() < 0.3:
        path.write_bytes(torn(yaml.safe_dump(document).encode(), chance))
    else:
        path.write_text(yaml.safe_dump(mutated(document, chance), allow_unicode=True))
    return call


def run_mutants(folder: Path, seeds: range) -> None:
    """Each is accepted, or refused as a person can read it; none ends in a traceback."""
    for seed in seeds:
        call = mutants(folder, random.Random(seed))
        ran = CliRunner().invoke(app, call)
        if ran.exit_code != 0:
            try:
                check_told(ran.exit_code, ran.output)
            except AssertionError as error:
                mutant = (folder / "mutant.yaml").read_bytes()
                raise AssertionError(
                    f"mutant {seed}, {call}: {ran.exception!r} {error}\n{mutant[:2_000]!r}"
                ) from ran.exception


def test_mutants_of_good_documents_are_accepted_or_refused(runner: Path) -> None:
    run_mutants(runner, range(60))


@pytest.mark.long
@pytest.mark.parametrize("first", range(1_000, 2_000, 100))
def test_many_mutants_of_good_documents_are_accepted_or_refused(runner: Path, first: int) -> None:
    run_mutants(runner, range(first, first + 100))
