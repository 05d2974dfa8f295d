"""Scaling laws: a loss as a floor and falling powers of what was spent, by variable projection, with intervals over worlds.

    loss = E + sum over terms i of A_i * product over the term's axes j of x_j ** -e_ij,    A_i >= 0, e_ij > 0

With the exponents given, floor and factors follow by non-negative least squares, so that only the exponents are searched:
first on a grid, then downhill from its best points (variable projection, Golub & Pereyra 1973; for scaling laws Czech 2026).
Known laws are forms of this one: Ardalani et al. 2022 (one axis), Hoffmann et al. 2022, approach 3 (a term for the model and one
for its data).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from scipy.stats import t as student

from pipeline.statistics.interval import Interval
from pipeline.statistics.series import MIN_WORLDS

Array = NDArray[np.float64]
Points = Mapping[str, Array]
"""(K,) for each axis: where losses were measured, or are asked for."""

GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 1.8, 2.6)
"""Exponents from which the search begins."""
BOUNDS = (0.01, 5.0)
"""Exponents that a fit may have: outside, a term is a constant or a step."""
EDGE = 1.05
"""How near to a bound an exponent counts as lying at it."""
STARTS = 3
"""Best points of the grid from which it goes downhill."""
MIN_VALUES = 3
"""Different values of an axis that show how a power bends."""
INVERSE = "1/"
SPARE_POINTS = 2
"""Points beyond the number of parameters that a fit needs."""
APART = 0.05
"""Least spread of axes across their common direction, over that along it, in which each is seen for itself."""


class TooWeak(ValueError):
    """The points do not determine a law."""


@dataclass(frozen=True, slots=True)
class Form:
    """Which powers a law is made of."""

    name: str
    terms: tuple[tuple[str, ...], ...]
    """The axes of each term; each axis of a term has an exponent of its own. `1/model` is a term that rises with the model."""

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes, each once."""
        return tuple(dict.fromkeys(axis.removeprefix(INVERSE) for term in self.terms for axis in term))

    @property
    def num_exponents(self) -> int:
        """How many exponents it has."""
        return sum(map(len, self.terms))

    @property
    def num_parameters(self) -> int:
        """Exponents, factors and the floor."""
        return self.num_exponents + len(self.terms) + 1


@dataclass(frozen=True, slots=True)
class Law:
    """A form with its parameters; axes count in units of their geometric means over the fitted points."""

    form: Form
    exponents: tuple[float, ...]
    """In the order of the form's terms and of their axes."""
    factors: tuple[float, ...]
    """What each term adds at the geometric mean of its axes."""
    floor: float
    units: Mapping[str, float]
    """Geometric mean of each axis over the fitted points."""
    span: Mapping[str, tuple[float, float]]
    """Least and greatest fitted value of each axis: where the law was seen to hold."""

    def exponent(self, place: int) -> float:
        """An exponent; not a number where the points do not determine it: its term has no weight, or it lies at a bound."""
        term = [number for number, axes in enumerate(self.form.terms) for _ in axes][place]
        found, (least, most) = self.exponents[place], BOUNDS
        return found if self.factors[term] > 0 and least * EDGE < found < most / EDGE else math.nan

    def at(self, points: Points) -> Array:
        """(K,) the loss that it predicts."""
        terms = _terms(self.form, self.exponents, _scaled(points, self.units))
        losses: Array = self.floor + terms @ np.array(self.factors)
        return losses

    def document(self) -> dict[str, Any]:
        """As JSON, for programs."""
        return {
            "form": {"name": self.form.name, "terms": [list(term) for term in self.form.terms]},
            "exponents": list(self.exponents),
            "factors": list(self.factors),
            "floor": self.floor,
            "units": dict(self.units),
            "span": {axis: list(ends) for axis, ends in self.span.items()},
        }

    def beyond(self, points: Points) -> float:
        """By what factor points lie outside the fitted span, at most over axes; 1 inside."""
        worst = 1.0
        for axis, (low, high) in self.span.items():
            values = np.asarray(points[axis])
            worst = max(worst, float((values / high).max()), float((low / values).max()))
        return worst


@dataclass(frozen=True, slots=True)
class Fit:
    """A law fitted to the mean over seeds, and again without each seed."""

    law: Law
    without: tuple[Law, ...]
    """By the seed that was left out; none where seeds are too few, or no worlds of their own."""
    residuals: Array
    """(K,) measured means less what the law says."""

    def document(self) -> dict[str, Any]:
        """As JSON: the law, and those without each seed, by whose spread its intervals are taken."""
        return {"law": self.law.document(), "without_a_seed": [law.document() for law in self.without]}

    def interval(self, of: Callable[[Law], float]) -> Interval:
        """A number that follows from the law, with a t-interval by the jackknife's standard error over seeds (Tukey 1958).

        Without ends where there are too few seeds, or where the number is not one without some of them; open to a side on
        which it has no bound without some of them.
        """
        return _jackknife(of(self.law), np.array([of(law) for law in self.without]))

    def predicted(self, points: Points) -> list[Interval]:
        """The loss at each of K points, with its interval."""
        value, left_out = self.law.at(points), [law.at(points) for law in self.without]
        return [_jackknife(float(each), np.array([row[place] for row in left_out])) for place, each in enumerate(value)]

    def errors(self, points: Points, losses: Array) -> list[Interval]:
        """By how much the law misses losses (S, K) of the seeds that it was fitted to, at K points that it was not.

        What it predicts less the mean over seeds; with a t-interval by the jackknife over seeds, which law and mean share.

        Raises:
            ValueError: the losses are of more or of fewer seeds.
        """
        if self.without and len(losses) != len(self.without):
            raise ValueError(f"losses must be of the law's {len(self.without)} seeds, got {len(losses)}")
        value = self.law.at(points) - losses.mean(axis=0)
        left_out = [
            law.at(points) - np.delete(losses, seed, axis=0).mean(axis=0) for seed, law in enumerate(self.without)
        ]
        return [_jackknife(float(each), np.array([row[place] for row in left_out])) for place, each in enumerate(value)]


def _jackknife(value: float, left_out: Array) -> Interval:
    """A number with a t-interval by what it is without each seed in turn (Tukey 1958); without ends where that is not known."""
    num = len(left_out)
    if num == 0 or np.isnan([value, *left_out]).any():
        return Interval(value, math.nan, math.nan)
    if np.isinf([value, *left_out]).any():
        return Interval(value, float(min(value, left_out.min())), float(max(value, left_out.max())))
    error = math.sqrt((num - 1) / num * float(np.square(left_out - left_out.mean()).sum()))
    reach = float(student.ppf(0.975, num - 1)) * error
    return Interval(value, value - reach, value + reach)


def fit(form: Form, points: Points, losses: Array, *, independent: bool = True) -> Fit:
    """Fit a law to losses (S, K) of S seeds at K points.

    Args:
        form: which.
        points: the axes' values, above zero.
        losses: of each seed at each point, mostly percent of a reference that is common to all.
        independent: whether each seed is a world of its own; else, or with fewer than 8, intervals have no ends.

    Raises:
        TooWeak: there are too few points, or an axis has too few different values.
        ValueError: the shapes differ, or something is not finite or not above zero.
    """
    _check(form, points, losses)
    units = {axis: float(np.exp(np.log(points[axis]).mean())) for axis in form.axes}
    span = {axis: (float(np.min(points[axis])), float(np.max(points[axis]))) for axis in form.axes}
    scaled = _scaled(points, units)

    def fitted(mean: Array, starts: list[tuple[float, ...]]) -> Law:
        exponents = _search(form, scaled, mean, starts)
        solved = _projected(form, exponents, scaled, mean)[1]
        factors = tuple(map(float, solved[2:]))
        return Law(form, tuple(map(float, exponents)), factors, float(solved[0] - solved[1]), units, span)

    mean = losses.mean(axis=0)
    starts = _starts(form, scaled, mean)
    law = fitted(mean, starts)
    num = len(losses) if independent and len(losses) >= MIN_WORLDS else 0
    inside = np.clip(law.exponents, BOUNDS[0] * EDGE**2, BOUNDS[1] / EDGE**2)
    near = [tuple(map(float, inside)), starts[0]]
    without = tuple(fitted(np.delete(losses, seed, axis=0).mean(axis=0), near) for seed in range(num))
    return Fit(law, without, mean - law.at(points))


def _check(form: Form, points: Points, losses: Array) -> None:
    for axis in form.axes:
        values = np.asarray(points.get(axis, ()), dtype=float)
        if losses.ndim != 2 or losses.shape[1:] != values.shape:
            raise ValueError(
                f"losses must be (seeds, points), got {losses.shape} for {values.shape} values of {axis!r}"
            )
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"values of {axis!r} must be finite and above zero, got {values}")
        different = len(np.unique(np.log(values).round(6)))
        if different < MIN_VALUES:
            raise TooWeak(
                f"a power of {axis!r} needs at least {MIN_VALUES} different values of it, got {different}: train more"
            )
    if not np.isfinite(losses).all():
        raise ValueError("losses must be finite, got others: train again what diverged")
    least = form.num_parameters + SPARE_POINTS
    if losses.shape[1] < least:
        raise TooWeak(
            f"a law of {form.name} has {form.num_parameters} parameters and needs at least {least} points, got "
            f"{losses.shape[1]}: train more"
        )
    logs = np.stack([np.log(points[axis]) for axis in form.axes])
    spread = np.linalg.svd(logs - logs.mean(axis=1, keepdims=True), compute_uv=False)
    if spread[-1] < APART * spread[0]:
        raise TooWeak(
            f"the axes {', '.join(form.axes)} moved together, so that none of them is seen alone: vary each beside the others"
        )


def _scaled(points: Points, units: Mapping[str, float]) -> Points:
    return {axis: np.asarray(points[axis], dtype=float) / unit for axis, unit in units.items()}


def _terms(form: Form, exponents: tuple[float, ...] | Array, scaled: Points) -> Array:
    """(K, T) each term at each point, its factor left out."""
    left = iter(exponents)
    columns = [np.prod([_power(scaled, axis, next(left)) for axis in term], axis=0) for term in form.terms]
    return np.stack(columns, axis=1)


def _power(scaled: Points, axis: str, exponent: float) -> Array:
    found: Array = scaled[axis.removeprefix(INVERSE)] ** (exponent if axis.startswith(INVERSE) else -exponent)
    return found


def _projected(form: Form, exponents: tuple[float, ...] | Array, scaled: Points, mean: Array) -> tuple[float, Array]:
    """Root of the squared residuals, and floor (as a difference of two) and factors, with the exponents given."""
    terms = _terms(form, exponents, scaled)
    ones = np.ones((len(mean), 1))
    solved, left = nnls(np.hstack([ones, -ones, terms]), mean)
    return float(left), solved


def _starts(form: Form, scaled: Points, mean: Array) -> list[tuple[float, ...]]:
    grid = list(product(GRID, repeat=form.num_exponents))
    return sorted(grid, key=lambda each: _projected(form, each, scaled, mean)[0])[:STARTS]


def _search(form: Form, scaled: Points, mean: Array, starts: list[tuple[float, ...]]) -> Array:
    """The best exponents, downhill from each start."""

    def left(logs: Array) -> float:
        return _projected(form, np.exp(logs), scaled, mean)[0]

    options = {"xatol": 1e-4, "fatol": 1e-10, "maxiter": 400 * form.num_exponents}
    bounds = [tuple(map(math.log, BOUNDS))] * form.num_exponents
    found = [minimize(left, np.log(start), method="Nelder-Mead", bounds=bounds, options=options) for start in starts]
    best: Array = np.exp(min(found, key=lambda each: each.fun).x)
    return best
