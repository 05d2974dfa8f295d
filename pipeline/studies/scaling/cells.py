"""The cells of a scaling study: one thing larger or smaller at a time, around the present point."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.spec.config import Variant, Widths
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import StudyError
from pipeline.studies.draft import WIDTHS, Draft, at_width, lengths, plain
from pipeline.studies.scaling.fields import Fields, Scheme

PRESENT = "present"
DEPTHS = (1, 2, 3, 4, 6, 8)
TABLE_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
MIN_POINTS = 5
"""A power with its floor has three parameters, and two points more show whether it fits."""

Made = Iterator[tuple[str, float, Variant]]
"""What a scheme calls a point, its place relative to the present one, and its variant."""


def draft(base: LineUp, asked: Fields) -> Draft:
    """The present point, and for each scheme the points beside it.

    Paper: Ardalani et al. 2022, "Understanding Scaling Laws for Recommendation Models": loss against data, parameters and
    compute, the parameters by five schemes. Its finding to be tested: data and compute still pay, parameters do not.

    Cost: a pass over all windows for each point; with `data` parts of one.

    Args:
        base: gives the data set, the workers, the evaluation slice, and of its reference variant all but the size.
        asked: the form's answers.
    """
    found = Draft(PRESENT)
    present = at_width(base, plain(base, PRESENT, asked.size))
    found.train(present)
    for scheme in asked.schemes:
        points = {1.0: ("as it is", present)}
        for label, value, variant in MAKERS[scheme](base, present, asked):
            points.setdefault(value, (label, variant))
        if len(points) < MIN_POINTS:
            raise StudyError(
                f"a curve of {scheme!r} needs at least {MIN_POINTS} different points, got {sorted(points)} after rounding to layers "
                "and tables that there are: give more factors, or begin with a larger size"
            )
        for value, (label, variant) in sorted(points.items()):
            found.add(scheme, label, variant, value)
    return found


def _data(base: LineUp, present: Variant, asked: Fields) -> Made:
    judged = asked.judged or asked.online_start
    longest = judged.days_since(asked.first)
    judged_windows = asked.last.days_since(judged) + 1
    for length in lengths(longest, asked.num_starts):
        start = judged.shift(-length)
        # Counted to the middle of the judged windows, since students go on learning there.
        value = (length + (judged_windows - 1) / 2) / (longest + (judged_windows - 1) / 2)
        name = f"data_{length}_windows"
        yield f"{length} windows of history", value, present.model_copy(update={"name": name, "start": start})


def _rows(base: LineUp, present: Variant, asked: Fields) -> Made:
    for share in TABLE_SHARES:
        model = present.model.model_copy(update={"table_share": share})
        variant = present.model_copy(update={"name": f"embedding_rows_{share:g}", "model": model})
        yield f"{share:g} of the rows", share, variant


def _of_widths(
    scheme: Scheme, changed: Callable[[Widths, float], Widths], size: Callable[[Widths], float], unit: str
) -> Callable[..., Made]:
    def made(base: LineUp, present: Variant, asked: Fields) -> Made:
        own = present.model.widths
        for factor in asked.factors:
            widths = changed(own, factor)
            model = present.model.model_copy(update={"size": widths})
            variant = present.model_copy(update={"name": f"{scheme}_{factor:g}", "model": model})
            yield f"{size(widths):g} {unit}", size(widths) / size(own), at_width(base, variant)

    return made


def _dim(own: Widths, factor: float) -> Widths:
    width = min(WIDTHS, key=lambda each: abs(each - own.embedding_dim * factor))
    return own.model_copy(update={"embedding_dim": width})


def _scaled(layers: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(max(1, round(width * factor)) for width in layers)


def _over(own: Widths, factor: float) -> Widths:
    return own.model_copy(update={"over": _scaled(own.over, factor)})


def _dense(own: Widths, factor: float) -> Widths:
    return own.model_copy(update={"bottom": _scaled(own.bottom, factor)})


def _all(own: Widths, factor: float) -> Widths:
    return _dim(_over(_dense(own, factor), factor), factor).model_copy(
        update={"cross_rank": max(1, round(own.cross_rank * factor))}
    )


def _depths(base: LineUp, present: Variant, asked: Fields) -> Made:
    own = present.model.widths
    for depth in DEPTHS:
        widths = own.model_copy(update={"over": (own.over[0],) * (depth - 1) + own.over[-1:]})
        model = present.model.model_copy(update={"size": widths})
        variant = present.model_copy(update={"name": f"over_depth_{depth}", "model": model})
        if depth != len(own.over):
            yield f"{depth} layer{'s' if depth > 1 else ''}", depth / len(own.over), variant


MAKERS: dict[Scheme, Callable[[LineUp, Variant, Fields], Made]] = {
    "data": _data,
    "embedding_dim": _of_widths("embedding_dim", _dim, lambda widths: widths.embedding_dim, "wide"),
    "embedding_rows": _rows,
    "over_width": _of_widths("over_width", _over, lambda widths: sum(widths.over), "units"),
    "over_depth": _depths,
    "dense_arch": _of_widths("dense_arch", _dense, lambda widths: sum(widths.bottom), "units"),
    "compute": _of_widths("compute", _all, lambda widths: sum(widths.over), "units above, all else in proportion"),
}
"""What each scheme makes."""
