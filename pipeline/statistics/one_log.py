"""Regression over the windows of a single log, whose errors are autocorrelated: every plausible noise counts by its likelihood.

Neighbouring days share their luck, and twenty days do not show how much. Plugging in one estimate of the noise gives
intervals that are too narrow. Here the restricted likelihood (Patterson & Thompson 1971; Harville 1974) weighs a grid of
noises, AR(1) times a scale per window, and what is concluded is a mixture over them, as in Bayesian regression with a flat
prior on the coefficients, 1 / sigma on the scale and flat ones on the grid. The coefficients are those of plain least
squares: every window counts alike, and the noise says only how sure that is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.known import Known

Array = NDArray[np.float64]

CORRELATIONS = (-0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.88, 0.94, 0.97)
POWERS = (0.0, 0.5, 1.0)
"""How far a window's error follows the sampling error of its rows: not at all, by its root, in proportion."""
MIN_WEIGHT = 0.02
"""A noise less likely than this share of the likeliest is left out."""
NO_ERROR = 1e-6
"""A sampling error below this share of the largest is that of a window with one cluster, which cannot show any, but for rounding."""


def known_of_windows(values: Array, design: Array, sampling_error: Array) -> Callable[[Array, float, float], Known]:
    """Least squares of values (W,) on a design (W, p): what is known of a direction (p,), given a variance to be added and the least.

    Args:
        values: one a window.
        design: with fewer columns than there are windows.
        sampling_error: (W,) of the values, 0 where it is not known.
    """
    num, width = design.shape
    known = bool((sampling_error > NO_ERROR * sampling_error.max()).all())
    shape = np.log(sampling_error) if known else np.zeros(num)
    grid = np.array(list(product(CORRELATIONS, POWERS if np.ptp(shape) > 0 else (0.0,))))
    rho = grid[:, 0]
    scale = np.exp(grid[:, 1, None] * (shape - shape.mean()))
    apart = np.abs(np.subtract.outer(np.arange(num), np.arange(num)))
    covariance = rho[:, None, None] ** apart * scale[:, :, None] * scale[:, None, :]
    x = _whitened(np.broadcast_to(design, (len(grid), *design.shape)), rho, scale)
    y = _whitened(np.broadcast_to(values[:, None], (len(grid), num, 1)), rho, scale)[..., 0]
    normal = np.einsum("kwi,kwj->kij", x, x)
    fitted = np.linalg.solve(normal, np.einsum("kwi,kw->ki", x, y)[..., None])
    squares = np.maximum(((y - (x @ fitted)[..., 0]) ** 2).sum(axis=1), 1e-300)
    degrees = num - width
    determinant = 2 * np.log(scale).sum(axis=1) + (num - 1) * np.log(1 - rho**2)
    likelihood = -0.5 * (determinant + np.linalg.slogdet(normal)[1] + degrees * np.log(squares))
    weight = np.exp(likelihood - likelihood.max())
    kept = weight >= MIN_WEIGHT
    weight = weight[kept] / weight[kept].sum()
    solved = np.linalg.pinv(design)
    coefficients = solved @ values
    independent = np.maximum(degrees * ((1 - rho) / (1 + rho))[kept], 2.0)
    """Degrees of freedom of a mean of so correlated errors."""
    spread = np.einsum("iw,kwv,jv->kij", solved, covariance[kept], solved) * (squares[kept] / degrees)[:, None, None]

    def along(direction: Array, more: float, least: float) -> Known:
        variance = np.maximum(np.einsum("i,kij,j->k", direction, spread, direction) + more, least)
        return Known(weight, np.full(len(weight), float(coefficients @ direction)), np.sqrt(variance), independent)

    return along


def _whitened(columns: Array, rho: Array, scale: Array) -> Array:
    """(K, W, p) what columns become under the inverse root of each of K noises."""
    scaled = columns / scale[:, :, None]
    later = (scaled[:, 1:] - rho[:, None, None] * scaled[:, :-1]) / np.sqrt(1 - rho[:, None, None] ** 2)
    return np.concatenate([scaled[:, :1], later], axis=1)
