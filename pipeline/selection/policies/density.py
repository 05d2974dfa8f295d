"""Density: examples whose features are common are kept seldom, rare ones often, by hashed sketches of the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from pipeline.selection.policy import AtRate, Candidates, FeaturePolicy
from pipeline.selection.scale import clipped, scale_for
from pipeline.spec.documents import Real, Whole
from pipeline.spec.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

NUM_SKETCHES = 8
BUCKETS = 1 << 14


class Density(AtRate, FeaturePolicy):
    """Keep examples in inverse proportion to how many of the window are alike (Sachdeva et al. 2024, density sampling).

    Alike are examples that a hash of some features puts into one bucket. There are eight sketches, each of half of the features,
    chosen by hash; an example of a bucket of n is kept with clip(c n^-power, floor, 1), c such that `rate` of the window is kept,
    and its probability is the mean over the sketches. Memory is that of the sketches, however large the window.
    """

    kind: Literal["density"] = "density"
    features: tuple[str, ...] = Field(min_length=2)
    """Categorical columns of the window that say how alike two examples are."""
    power: Real = Field(default=0.5, gt=0, le=1)
    """1 keeps as many of every bucket; less keeps more of the common ones."""
    sketch: Whole = Field(default=0, ge=0)
    """Seed of the hashes."""

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The features."""
        return self.features

    @property
    def least(self) -> float:
        """Least probability in a sketch."""
        return self.rate / 10

    def tally(self, rows: Candidates) -> NDArray[np.int64]:
        """(NUM_SKETCHES, BUCKETS) how many rows each bucket has."""
        import numpy as np

        return np.stack([np.bincount(buckets, minlength=BUCKETS) for buckets in self._buckets(rows)])

    def summarize(self, tally: NDArray[np.int64]) -> Any:
        """(NUM_SKETCHES, BUCKETS) the probability of each bucket in its sketch."""
        import numpy as np

        found = np.zeros(tally.shape)
        for sketch, counts in zip(found, tally, strict=True):
            places = np.flatnonzero(counts)
            logs = -self.power * np.log(counts[places])
            scale = scale_for(self.rate, logs, counts[places], self.least)
            sketch[places] = clipped(logs, scale, self.least)
        return found

    def keep_probabilities(self, rows: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean of the sketches, for either label."""
        import numpy as np

        pi = np.mean(
            [sketch[buckets] for sketch, buckets in zip(rows.summary, self._buckets(rows), strict=True)], axis=0
        )
        return pi, pi

    def _buckets(self, rows: Candidates) -> list[NDArray[np.int64]]:
        """(N,) each: the bucket of every row, in each sketch."""
        import numpy as np
        import pyarrow as pa

        from pipeline.storage.hashing import bucket_of, key_of, splitmix64

        table = cast("pa.Table", rows.columns)
        if other := [name for name in self.features if not pa.types.is_integer(table.column(name).type)]:
            raise BadInput(f"density is of categorical columns, got {', '.join(other)}: leave them out")
        hashed = [splitmix64(table.column(name).to_numpy().astype(np.uint64)) for name in self.features]
        num_hashed = max(1, len(hashed) // 2)
        found = []
        for place in range(NUM_SKETCHES):
            salts = np.array([key_of("density", self.sketch, place, name) for name in self.features])
            mixed = np.zeros(len(rows.example_id), np.uint64)
            for number in np.argsort(salts)[:num_hashed]:
                mixed ^= splitmix64(hashed[number] ^ salts[number])
            found.append(bucket_of(splitmix64(mixed), BUCKETS).astype(np.int64))
        return found
