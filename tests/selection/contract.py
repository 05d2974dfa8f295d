"""The contract of every selection policy, as checks that a test runs: what a policy of any package has to hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.selection.policy import Candidates, FeaturePolicy, JointPolicy, LabelPolicy, ThinningPolicy
from pipeline.selection.sampling import Selected, keep_probabilities, select, selection_salt
from pipeline.spec.config import All, Policy
from pipeline.spec.window import Window
from pipeline.storage.hashing import keyed_uniform

Ids = NDArray[np.uint64]
Labels = NDArray[np.uint8]
NUM_ROWS = 20_000
DAY = Window.of("2024-01-01")
VARIANTS = {"my_pilot", "one_of_mine", "other_of_mine"}
"""What the tests call the variants that a policy reads from; a policy's own fields have other names."""


def rows(kind: str = "random", seed: int = 0, count: int = NUM_ROWS) -> tuple[Ids, Labels]:
    """Ids as users have them, and labels."""
    random = np.random.default_rng(seed)
    ids = {
        "random": lambda: random.integers(0, 2**64, count, dtype=np.uint64),
        "counted": lambda: np.arange(count, dtype=np.uint64),
        "strided": lambda: np.arange(count, dtype=np.uint64) << np.uint64(40),
    }[kind]()
    return ids, (random.random(count) < 0.2).astype(np.uint8)


def pilot_logits(ids: Ids) -> NDArray[np.float32]:
    """What a pilot says of the examples: odds that spread over four orders of magnitude."""
    return (10 * keyed_uniform(ids, salt=12345) - 7).astype(np.float32)


def signals(policy: Policy, ids: Ids, labels: Labels) -> dict[str, NDArray[np.float32]]:
    """What a policy reads: functions of the ids, and of the label where the signal is."""
    found = {}
    for place, (name, read) in enumerate(policy.reads().items()):
        logit = pilot_logits(ids ^ np.uint64(place << 7))
        click = 1 / (1 + np.exp(-logit.astype(np.float64)))
        known = {
            "logit": logit,
            "error": np.abs(labels - click),
            "gradient_norm": np.abs(labels - click) * (1 + keyed_uniform(ids, salt=321 + place)),
            "loss": -np.log(np.where(labels > 0, click, 1 - click)),
        }
        if read.signal.startswith("forgetting_"):
            passes = int(read.signal.removeprefix("forgetting_"))
            known[read.signal] = np.floor(passes * keyed_uniform(ids, salt=654 + place) ** 3)
        if read.signal.startswith("gradient_") and read.signal not in known:  # of one pilot, whatever its columns
            click = 1 / (1 + np.exp(-pilot_logits(ids).astype(np.float64)))
            column = int(read.signal.removeprefix("gradient_"))
            hidden = 1 if column == 0 else 2 * keyed_uniform(ids, salt=900 + column) - 1
            known[read.signal] = (click - labels) * hidden
        found[name] = known[read.signal].astype(np.float32)
    return found


def columns(policy: Policy, ids: Ids, labels: Labels) -> pa.Table | None:
    """Columns of some rows: a few values of each, the first of them common."""
    names = getattr(policy, "columns", ())
    drawn = {
        name: (20 * keyed_uniform(ids, salt=1000 + place) ** 3).astype(np.int64) for place, name in enumerate(names)
    }
    if "label" in drawn:
        drawn["label"] = labels
    return pa.table(drawn) if names else None


def looked_at(policy: Policy, ids: Ids, labels: Labels, seed: int = 0) -> Candidates:
    """Some rows, before the whole window is known."""
    return Candidates(ids, signals(policy, ids, labels), columns(policy, ids, labels), salt=selection_salt(seed))


def seen(
    policy: Policy, ids: Ids, labels: Labels, window: tuple[Ids, Labels] | None = None, seed: int = 0
) -> Candidates:
    """What a policy sees of some rows of a window."""
    found = looked_at(policy, ids, labels, seed)
    if isinstance(policy, ThinningPolicy) and policy.looks_at_all:
        # As workers do: row group by row group, and then the sum.
        whole_ids, whole_labels = window or (ids, labels)
        cuts = np.array_split(np.arange(len(whole_ids)), 3)
        parts = [looked_at(policy, whole_ids[cut], whole_labels[cut], seed) for cut in cuts]
        for _ in range(policy.num_looks):
            tallies = [policy.tally(replace(part, summary=found.summary)) for part in parts]
            found = replace(found, summary=policy.after_look(np.sum(tallies, axis=0), found.summary))
    return found


def kept(policy: Policy, ids: Ids, labels: Labels, seed: int = 0, window: tuple[Ids, Labels] | None = None) -> Selected:
    """What a policy keeps of some rows of a window."""
    return select(policy, seen(policy, ids, labels, window, seed), labels, salt=selection_salt(seed))


def probability(policy: Policy, ids: Ids, labels: Labels) -> NDArray[np.float64]:
    """(N,) that with which each row is kept."""
    if isinstance(policy, LabelPolicy):
        return np.broadcast_to(policy.keep_probability(seen(policy, ids, labels), labels), len(ids))
    pi_0, pi_1 = keep_probabilities(policy, seen(policy, ids, labels))
    return np.where(labels > 0, pi_1, pi_0)


def gives_every_row_a_chance(policy: Policy) -> None:
    """A row that is never kept is stood for by no other."""
    if isinstance(policy, JointPolicy):
        return
    ids, labels = rows(count=100)
    pi = probability(policy, ids, labels)
    assert pi.shape == (100,)
    assert ((pi > 0) & (pi <= 1)).all()


def keeps_the_share_that_it_says(policy: Policy) -> None:
    """Whatever the ids look like, as many rows as the probabilities sum up to."""
    if isinstance(policy, JointPolicy):
        return
    for kind in ("random", "counted", "strided"):
        ids, labels = rows(kind)
        pi = probability(policy, ids, labels)
        noise = math.sqrt((pi * (1 - pi)).sum())
        assert abs(len(kept(policy, ids, labels).index) - pi.sum()) <= 4.5 * noise + 1e-9, kind


def is_blind_to_order_and_workers(policy: Policy) -> None:
    """Neither the order of rows nor their cut into workers' parts decides what is kept, and with which correction."""
    for seed in range(5):
        ids, labels = rows(count=300, seed=seed)
        order = np.random.default_rng(seed).permutation(300)
        edges = [0, *sorted(np.random.default_rng(seed).choice(np.arange(1, 300), 3, replace=False)), 300]
        whole, moved = kept(policy, ids, labels, seed), kept(policy, ids[order], labels[order], seed)
        assert _by_row(moved, order) == _by_row(whole, np.arange(300))
        if isinstance(policy, JointPolicy):
            continue
        parts = [a + kept(policy, ids[a:b], labels[a:b], seed, (ids, labels)).index for a, b in zip(edges, edges[1:], strict=False)]  # fmt: skip
        assert np.array_equal(np.concatenate(parts), whole.index), "as many workers as one likes"


def _by_row(found: Selected, rows_of: NDArray[Any]) -> dict[int, tuple[float, float, float]]:
    values = zip(found.index, found.weight, found.offset, found.importance, strict=True)
    return {int(rows_of[place]): (float(w), float(o), float(p)) for place, w, o, p in values}


def is_seeded(policy: Policy) -> None:
    """The same seed keeps the same rows, ascending and none twice; another seed others, unless all are kept."""
    ids, labels = rows()
    one, again, other = (kept(policy, ids, labels, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.index, again.index)
    assert (np.diff(one.index) > 0).all()
    assert len(one.index) == len(ids) or not np.array_equal(one.index, other.index)


def hides_the_label(policy: Policy) -> None:
    """What a feature policy says of a row is the same at either label: an offset that differs tells the model the label."""
    ids, labels = rows(count=2_000)
    if isinstance(policy, LabelPolicy | JointPolicy):
        assert not kept(policy, ids, labels).offset.any(), "what looks at labels is corrected by weight"
        return
    window = (ids, labels)
    ours, theirs = (keep_probabilities(policy, seen(policy, ids, each, window)) for each in (labels, 1 - labels))
    assert np.array_equal(ours[0], theirs[0])
    assert np.array_equal(ours[1], theirs[1])


def corrects_once(policy: Policy) -> None:
    """By weight, what a row stands for, or by offset, the log-ratio of both labels' probabilities; never both."""
    ids, labels = rows()
    found = kept(policy, ids, labels)
    if isinstance(policy, FeaturePolicy) and policy.correction == "offset":
        pi_0, pi_1 = keep_probabilities(policy, seen(policy, ids, labels))
        assert (found.weight == 1).all()
        assert np.allclose(found.offset, np.log(pi_1[found.index]) - np.log(pi_0[found.index]), atol=1e-6)
    else:
        assert not found.offset.any()
        assert np.array_equal(found.weight, found.importance)
    if not isinstance(policy, All | JointPolicy):
        assert np.allclose(found.importance, 1 / probability(policy, ids, labels)[found.index])


def stands_for_all_rows(policy: Policy) -> None:
    """Horvitz and Thompson: the mean over salts of a weighted sum is the sum over all rows; of a joint policy but for its bias."""
    ids, labels = rows(count=2_000)
    figure = np.where(labels > 0, 3.0, 1.0) + np.sin(np.arange(2_000))
    estimates = []
    for seed in range(300):
        found = kept(policy, ids, labels, seed)
        estimates.append(float(found.importance @ figure[found.index]))
    error = np.std(estimates) / math.sqrt(len(estimates))
    allowed = policy.bias * figure.sum() if isinstance(policy, JointPolicy) else 0.0
    assert allowed <= 0.05 * figure.sum(), "a bias of more is no sample of the window"
    assert abs(np.mean(estimates) - figure.sum()) < 4.5 * error + allowed + 1e-3


def asks_no_later_model(policy: Policy) -> None:
    """Signals come from a model that has seen nothing after the window; if rows keep their labels, nor the window before it was scored.

    What chose rows by a model that has fitted their labels would keep those that it fitted badly, label noise first. A policy that
    puts the model's own predictions in the place of the labels sums the window up, and may know all of it.
    """
    oldest = -1 if isinstance(policy, ThinningPolicy) and policy.softens else 0
    assert all(read.age >= oldest for read in policy.reads().values())


def softens_within_reason(policy: Policy) -> None:
    """Labels stay, or become probabilities that do not look at the row's own label."""
    ids, labels = rows(count=2_000)
    found = kept(policy, ids, labels)
    if not (isinstance(policy, ThinningPolicy) and policy.softens):
        assert found.label is None
        return
    assert found.label is not None
    assert found.label.shape == found.index.shape
    assert ((found.label >= 0) & (found.label <= 1)).all()
    ours, theirs = (policy.soft_label(seen(policy, ids, each)) for each in (labels, 1 - labels))
    assert np.array_equal(ours, theirs)


def is_what_it_is_in_each_window(policy: Policy) -> None:
    """In a window it is what it is there for good: no names of variants, the same signals, and so from JSON and back."""
    for days, online in product((0, 400), (False, True)):
        here = policy.in_window(DAY.shift(days), online=online)
        assert here.in_window(DAY.shift(days), online=online) == here
        assert here.reads().keys() <= policy.reads().keys()
        assert not {read.source for read in here.reads().values()} & VARIANTS
        assert type(here).model_validate_json(here.model_dump_json()) == here


CONTRACT: tuple[Callable[[Policy], None], ...] = (
    gives_every_row_a_chance,
    keeps_the_share_that_it_says,
    is_blind_to_order_and_workers,
    is_seeded,
    hides_the_label,
    corrects_once,
    stands_for_all_rows,
    asks_no_later_model,
    softens_within_reason,
    is_what_it_is_in_each_window,
)
"""All of it."""
