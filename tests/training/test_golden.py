"""Golden losses: the same config and data train to what they always did, or the semantics version says otherwise."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.policies.odds import OddsProportional
from pipeline.spec.config import Continuous, Cutover, ModelConfig, Variant
from pipeline.storage.lake import Lake
from pipeline.training.chain.steps import SEMANTICS_VERSION
from tests.trained import DAY, STEPS, TINY, lineup, metrics, publish, train, variant, windows

FILE = Path(__file__).parent / "golden" / "losses.json"
NUM_WINDOWS = 4
REL = 1e-4
CROSS = ModelConfig(arch="dcnv2", size="tiny", prior=0.2)
CASES: list[Variant] = [
    variant("dlrm"),
    variant("dlrm_weight", selection=NegativeDownsampling(rate=0.3, correction="weight")),
    variant("dlrm_offset", selection=NegativeDownsampling(rate=0.3, correction="offset")),
    variant("dlrm_historical", selection=NegativeDownsampling(rate=0.3, scope="historical")),
    variant("dlrm_taught", distillation=Continuous(teacher="dcnv2")),
    variant(
        "dlrm_offset_taught",
        selection=NegativeDownsampling(rate=0.3, correction="offset"),
        distillation=Continuous(teacher="dcnv2", weight=0.5),
    ),
    variant("dlrm_cutover", distillation=Cutover(teacher="dcnv2", at="early")),
    variant("dlrm_older_ramp", distillation=Continuous(teacher="dcnv2", age=1, since=DAY.next(), ramp=1)),
    variant(
        "dlrm_auxiliary",
        model=TINY.model_copy(update={"distillation_head": "auxiliary"}),
        distillation=Continuous(teacher="dcnv2"),
    ),
    variant("dlrm_odds_weight", selection=OddsProportional(rate=0.3, pilot="dcnv2", correction="weight")),
    variant("dlrm_odds_offset", selection=OddsProportional(rate=0.3, pilot="dcnv2", correction="offset")),
    variant("dlrm_fading", optimizer=STEPS.model_copy(update={"accumulator_decay": 0.5})),
    variant("dlrm_blind", model=TINY.model_copy(update={"exclude": ("C1", "I1", "L1")})),
    variant("dcnv2", model=CROSS),
    variant("dcnv2_weight", model=CROSS, selection=NegativeDownsampling(rate=0.3, correction="weight")),
]


def losses(folder: Path) -> dict[str, dict[str, float]]:
    """Each case's losses in the last of its windows: before training on it, and while."""
    lake = Lake(str(folder))
    publish(lake, windows(NUM_WINDOWS))
    made = train(lake, lineup(*CASES, checkpoint_every=NUM_WINDOWS), NUM_WINDOWS)
    last = DAY.shift(NUM_WINDOWS - 1)
    return {
        each.name: {
            "log_loss": metrics(lake, made[each.name, last])["log_loss"],
            "progressive": made[each.name, last].progressive["log_loss"],
        }
        for each in CASES
    }


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    return losses(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FILE.read_text())
    return document


@pytest.mark.parametrize("name", [each.name for each in CASES])
def test_a_recipe_trains_to_what_it_always_did(
    now: dict[str, dict[str, float]], golden: dict[str, Any], name: str
) -> None:
    assert now[name] == pytest.approx(golden["losses"][name], rel=REL), (
        f"{name!r} trains to something else than steps in people's lakes did. If that is not intended, it is a bug. If it "
        "is, raise SEMANTICS_VERSION in pipeline/training/chain/steps.py, so that they are trained again, and write new golden losses "
        "with `python -m tests.training.test_golden`"
    )


def test_the_golden_losses_are_of_this_semantics_version(golden: dict[str, Any]) -> None:
    assert golden["semantics"] == SEMANTICS_VERSION, (
        "write new golden losses with `python -m tests.training.test_golden`"
    )
    assert set(golden["losses"]) == {each.name for each in CASES}


def test_the_cases_differ_by_more_than_the_tolerance(golden: dict[str, Any]) -> None:
    """Else a selection or a teacher that is ignored would go unseen."""
    found = [list(each.values()) for each in golden["losses"].values()]
    for one, other in itertools.combinations(found, 2):
        assert max(abs(a / b - 1) for a, b in zip(one, other, strict=True)) > 2 * REL


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        document = {"semantics": SEMANTICS_VERSION, "losses": losses(Path(folder))}
    FILE.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(FILE.read_text())
