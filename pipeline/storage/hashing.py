"""Stable 64-bit hashes over arrays: the same on every machine and in every process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

GAMMA = 0x9E3779B97F4A7C15
"""The odd constant nearest to 2**64 over the golden ratio: its multiples are spread evenly."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key_of(*words: str | int) -> np.uint64:
    """A 64-bit key named by words, so that what is hashed under different names differs."""
    return np.uint64(xxhash.xxh3_64_intdigest("\0".join(str(word) for word in words).encode()))


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Each value mixed by the finaliser of SplitMix64, a bijection of 64-bit integers.

    Args:
        values: any shape; left as it is.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    mixed = values + np.uint64(GAMMA)
    mixed ^= mixed >> np.uint64(30)
    mixed *= _MIX_1
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MIX_2
    mixed ^= mixed >> np.uint64(31)
    return mixed


def bucket_of(hashes: npt.NDArray[np.uint64], num_buckets: int) -> npt.NDArray[np.int32]:
    """Each hash's bucket in `[0, num_buckets)`, by its upper half (multiply and shift: no division, no visible bias)."""
    return ((hashes >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)).astype(np.int32)


def keyed_uniform(example_id: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.float64]:
    """(N,) one number in [0, 1) per example: splitmix64 of its id under a key (Steele et al. 2014).

    Nothing else enters: neither the order of rows, nor the number of workers, nor a generator's state.
    """
    key = splitmix64(np.array([salt & 0xFFFFFFFFFFFFFFFF], np.uint64))
    return (splitmix64(example_id ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
