"""Coreset: a few examples spread over the gradients of a window, weighted so that theirs sum up to those of all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.selection.policies.uniform import Uniform
from pipeline.selection.policy import Candidates, JointPolicy
from pipeline.spec.config import SKETCH_COLUMNS, Age, All, Policy, Rate, Read, Source
from pipeline.spec.window import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Exact = NDArray[np.float64]
    Places = NDArray[np.int64]

EASY = 0.25
"""What is added to each gradient's length, as a share of the mean: rows that hardly move the model are chosen too."""
FURTHEST = 2.0
"""By how much matching may multiply or divide a weight."""
ROUNDS = 5


class Coreset(JointPolicy):
    """Choose rows that are spread evenly over the last layer's gradients, weighted so that theirs sum up to those of all rows.

    Of each label, rows are put in an order in which neighbours have gradients alike: halves of halves, each cut in the middle of the
    column in which it is widest. Rows are then chosen along this order at equal steps of the summed gradient length (systematic sampling
    in proportion to size, spread over a space as in Stevens & Olsen 2004), so each stands for about the same length. Then the weights
    are moved as little as possible so that the weighted gradients sum up to those of all rows, which is what GradMatch asks of a
    coreset (Killamsetty et al. 2021, equation 3), and the weights to the rows of each label. None is negative.

    CRAIG (Mirzasoleiman, Bilmes & Leskovec 2020) and GradMatch choose greedily, by facility location and by matching pursuit. Of clicks
    most gradients are next to nothing: there one medoid stands for hundreds of rows, whose gradients differ in what no sketch shows.

    Gradients are those of `gradient_0` to `gradient_7`: the bias's, and seven random sums of the weights'. The labels share the `rate`
    in proportion to how long theirs are. A chosen row has no probability of its own: matching biases the sums of what gradients know
    nothing of, by `bias` at most. Memory is that of a part of the window, however large the window.
    """

    kind: Literal["coreset"] = "coreset"
    rows_at_once: ClassVar[int | None] = 1 << 16
    bias: ClassVar[float] = 0.01

    rate: Rate
    """Fraction of rows chosen, in (0, 1]."""
    pilot: Source
    """The variant of the line-up whose gradients are matched."""
    pilot_age: Age = 0
    """Age of the pilot's checkpoint, in windows; 0: the pilot's own training pass over the window."""
    since: Window | None = None
    """First window in which the pilot is asked; before it rows are kept uniformly at the same rate."""

    def reads(self) -> dict[str, Read]:
        """The columns of the sketched gradient."""
        names = [f"gradient_{place}" for place in range(SKETCH_COLUMNS)]
        return {name: Read(self.pilot, self.pilot_age, name) for name in names}

    def in_window(self, window: Window, *, online: bool) -> Policy:
        """All rows at a rate of one; without the pilot before `since`."""
        if self.rate == 1:
            return All()
        if self.since is not None and window < self.since:
            return Uniform(rate=self.rate, correction="weight").in_window(window, online=online)
        return self.anonymous().model_copy(update={"since": None})

    def share(self, click_rate: float) -> float:
        """The rate."""
        return self.rate

    def flops(self, num_rows: int) -> float:
        """Spreads of columns and comparisons in each of the halvings, and the products that match."""
        chosen = self.rate * num_rows
        part = max(2.0, min(num_rows, self.rows_at_once or num_rows))
        return (
            num_rows * math.log2(part) * (2.0 * SKETCH_COLUMNS + math.log2(part))
            + ROUNDS * 2 * chosen * (SKETCH_COLUMNS + 1) ** 2
        )

    def choose(self, rows: Candidates, label: NDArray[np.uint8], salt: int) -> tuple[Places, Floats]:
        """Rows that are spread over the gradients of each label, and their matched weights."""
        import numpy as np

        from pipeline.storage.hashing import keyed_uniform

        gradient = np.column_stack([rows.signals[f"gradient_{place}"] for place in range(SKETCH_COLUMNS)])
        draw = keyed_uniform(rows.example_id, salt)
        order = np.lexsort((rows.example_id, draw))
        parts = [order[label[order] == value] for value in (0, 1)]
        sizes = [np.linalg.norm(gradient[part].astype(np.float64), axis=1) for part in parts]
        weight = np.zeros(len(label), np.float32)
        counts = _shared(round(self.rate * len(label)), [float(size.sum()) for size in sizes], [*map(len, parts)])
        for part, size, count in zip(parts, sizes, counts, strict=True):
            if count:
                chosen, stands_for = spread(gradient[part], size, count, start=float(draw[part[0]]) * len(label) % 1)
                weight[part[chosen]] = matched(gradient[part], chosen, stands_for)
        index = np.flatnonzero(weight)
        return index, weight[index]


def _shared(count: int, lengths: list[float], most: list[int]) -> list[int]:
    """How many rows of each label are chosen: in proportion to their gradients' lengths, at least one of each that there is."""
    least = [min(1, each) for each in most]
    clicks = round(count * lengths[1] / sum(lengths)) if sum(lengths) > 0 else count // 2
    clicks = min(most[1], max(least[1], clicks, count - most[0]))
    return [min(most[0], max(least[0], count - clicks)), clicks]


def spread(points: Floats, size: Exact, count: int, *, start: float) -> tuple[Places, Exact]:
    """Points chosen in proportion to their sizes, evenly over space.

    Args:
        points: (N, D)
        size: (N,) at least zero.
        count: K, from 1 to N.
        start: in [0, 1), the only source of chance.

    Returns:
        (K,) places of the chosen ones, and (K,) how many points each stands for: one over its probability.
    """
    import numpy as np

    probability = _probabilities(size + EASY * size.mean() + 1e-30, count)
    order = neighbours(points, count)
    edges = np.concatenate([[0.0], np.cumsum(probability[order])])
    edges *= count / edges[-1]
    # A point is chosen where a whole number and the start lie within its stretch, which is never longer than one.
    passed = np.floor(edges - start)
    chosen = np.sort(order[np.diff(passed) > 0])
    return chosen, 1 / probability[chosen]


def _probabilities(size: Exact, count: int) -> Exact:
    """(N,) in proportion to the sizes, none above one, K in sum."""
    import numpy as np

    sure = np.zeros(len(size), np.bool_)
    while True:
        left = count - int(sure.sum())
        found = np.where(sure, 1.0, size * (left / max(size[~sure].sum(), 1e-300)))
        over = found > 1
        if not over.any():
            return found
        sure |= over


def neighbours(points: Floats, count: int) -> Places:
    """(N,) an order of points (N, D) in which neighbours lie close: halved about log2 K times where they are widest.

    Points of one place stay in the order in which they come.
    """
    import numpy as np

    # Written out, and no library's tree: what is chosen must be the same to the bit under any version of one.
    num = len(points)
    halvings = min(math.ceil(math.log2(max(1, count))), int(math.log2(max(1, num))))
    length = -(-num // (1 << halvings))
    order = np.minimum(np.arange(length << halvings), num - 1)[None, :]  # the last one again, until it can be halved
    for _ in range(halvings):
        here = points[order]
        widest = (here.max(axis=1) - here.min(axis=1)).argmax(axis=1)
        column = np.take_along_axis(here, widest[:, None, None], axis=2)[:, :, 0]
        order = np.take_along_axis(order, np.argsort(column, axis=1, kind="stable"), axis=1)
        order = order.reshape(2 * len(order), -1)
    flat = order.ravel()
    first = np.zeros(len(flat), np.bool_)
    first[np.unique(flat, return_index=True)[1]] = True
    return flat[first]


def matched(points: Floats, chosen: Places, stands_for: Exact) -> Floats:
    """(K,) weights near those given, none negative, with which the chosen points sum up to all N, and the weights to N.

    The least change by chi-squared distance (Deville & Särndal 1992), no weight further than `FURTHEST` times from its first.

    Args:
        points: (N, D)
        chosen: (K,) places.
        stands_for: (K,) above zero.
    """
    import numpy as np

    ours = np.column_stack([np.ones(len(chosen)), points[chosen].astype(np.float64)])
    wanted = np.concatenate([[len(points)], points.sum(axis=0, dtype=np.float64)])
    scale = np.sqrt((np.square(ours) * stands_for[:, None]).sum(axis=0)) + 1e-12
    ours, wanted, factor = ours / scale, wanted / scale, np.ones(len(chosen))
    for _ in range(ROUNDS):
        free = (factor > 1 / FURTHEST) & (factor < FURTHEST)
        missing = wanted - (stands_for * factor) @ ours
        moved = (ours * (stands_for * free)[:, None]).T @ ours
        step = ours @ np.linalg.lstsq(moved, missing, rcond=1e-9)[0]
        factor = np.clip(factor + free * step, 1 / FURTHEST, FURTHEST)
    found: Floats = (stands_for * factor * (len(points) / (stands_for @ factor))).astype(np.float32)
    return found
