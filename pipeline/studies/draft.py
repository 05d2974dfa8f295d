"""A study while it is written down: its variants, its cells, and what becomes of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.spec.config import (
    All,
    Continuous,
    Cutover,
    ModelConfig,
    NoTeacher,
    OptimizerConfig,
    Selection,
    Size,
    Variant,
)
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.lineup import LineUp
from pipeline.spec.study import Cell, Study, StudyError
from pipeline.spec.window import Window

BOTH = "both"
WIDTHS = tuple(range(4, 516, 4))
"""Of embedding rows, as studies vary them: tables take multiples of four."""


@dataclass
class Draft:
    """Variants and cells in the order in which a study names them."""

    reference: str
    """What cells are compared with unless they say otherwise."""
    judged: Window | None = None
    """First judged window; when not given, the field of the form, or else the first online window."""
    variants: list[Variant] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def train(self, variant: Variant) -> None:
        """Train a variant, once however many cells show it."""
        if all(known.name != variant.name for known in self.variants):
            self.variants.append(variant)

    def add(
        self,
        axis: str,
        label: str,
        variant: Variant,
        value: float | None = None,
        *,
        against: str | None = None,
        family: str | None = None,
    ) -> None:
        """Show a variant on an axis."""
        self.train(variant)
        against = against or self.reference
        self.cells.append(
            Cell(variant=variant.name, against=against, axis=axis, label=label, value=value, family=family)
        )

    def study(self, kind: str, question: str, base: LineUp, asked: StudyFields) -> Study:
        """The study that trains and compares them, with data and workers of a line-up.

        Raises:
            StudyError: it would go by that one's name.
        """
        if asked.study == base.name:
            raise StudyError(
                f"a study has a name of its own: {base.name!r} is the line-up's, whose chains it would take over"
            )
        lineup = LineUp(
            name=asked.study,
            dataset=base.dataset,
            variants=tuple(self.variants),
            reference=self.reference,
            online_start=asked.online_start,
            seeds=asked.seeds or base.seeds,
            workers=base.workers,
            evaluation=base.evaluation,
            checkpoint_every=base.checkpoint_every,
            tuned=base.tuned,
        )
        return Study(
            kind=kind,
            question=question,
            lineup=lineup,
            cells=tuple(self.cells),
            first=asked.first,
            last=asked.last,
            judged=self.judged or asked.judged or asked.online_start,
            asked=asked.model_dump(mode="json"),
        )


def plain(base: LineUp, name: str, size: Size) -> Variant:
    """A line-up's reference at another size, on all rows and without a teacher."""
    origin = base.variant(base.reference)
    model = origin.model.model_copy(update={"size": size})
    return tuned(base, Variant(name=name, model=model, optimizer=origin.optimizer))


def tuned(base: LineUp, arm: Variant) -> Variant:
    """An arm with the optimizer of a line-up's variant of its name and selection; as it is where there is none."""
    known = {variant.name: variant.optimizer for variant in base.variants if variant.selection == arm.selection}
    return arm.model_copy(update={"optimizer": known.get(arm.name, arm.optimizer)})


def at_width(base: LineUp, variant: Variant) -> Variant:
    """A variant with the learning rates of its embedding width: between those of the nearest widths that a line-up has.

    In proportion to the logarithms of the widths; beyond the widest and the narrowest the rates are theirs.
    """
    known, width = rates_by_width(base, variant), variant.model.widths.embedding_dim
    if not known:
        return variant
    rates = {
        name: _between({each: float(getattr(optimizer, name)) for each, optimizer in known.items()}, width)
        for name in ("embedding_lr", "dense_lr")
    }
    return variant.model_copy(update={"optimizer": variant.optimizer.model_copy(update=rates)})


def rates_by_width(base: LineUp, variant: Variant) -> dict[int, OptimizerConfig]:
    """The optimizers that a line-up has by embedding width, of variants like one: on all rows, without a teacher, of its batch size.

    Those of its architecture, if there are any; of one width its reference's first.
    """
    alike = [
        each
        for each in base.variants
        if each.selection == All()
        and isinstance(each.distillation, NoTeacher)
        and each.optimizer.batch_size == variant.optimizer.batch_size
    ]
    of_arch = [each for each in alike if each.model.arch == variant.model.arch] or alike
    found: dict[int, OptimizerConfig] = {}
    for each in sorted(of_arch, key=lambda each: each.name != base.reference):
        found.setdefault(each.model.widths.embedding_dim, each.optimizer)
    return found


def _between(known: dict[int, float], width: int) -> float:
    """A number at a width, straight between the nearest known ones on logarithmic axes."""
    below = max((each for each in known if each <= width), default=min(known))
    above = min((each for each in known if each >= width), default=max(known))
    if above <= below:
        return known[below] if below <= width else known[above]
    part = math.log(width / below) / math.log(above / below)
    return float(f"{known[below] ** (1 - part) * known[above] ** part:.4g}")


def lengths(longest: int, count: int) -> list[int]:
    """That many lengths of history in windows, evenly between none and the longest.

    Raises:
        StudyError: the history is too short for that many starts.
    """
    if longest <= count:
        raise StudyError(
            f"{count} starts need more than {count} windows before the first judged one, got {longest}: begin earlier, judge "
            "later or give fewer starts"
        )
    return [round(longest * place / (count + 1)) for place in range(1, count + 1)]


def taught(student: Variant, name: str, distillation: Cutover | Continuous) -> Variant:
    """A student that learns from a teacher."""
    return student.model_copy(update={"name": name, "distillation": distillation})


def both(base: LineUp, sample: Variant, schedule: Continuous) -> Variant:
    """The arm that trains on a sample and learns from a teacher throughout."""
    return tuned(base, taught(sample, BOTH, schedule))


def kept(base: LineUp, student: Variant, rate: float, centre: float | None = None) -> Variant:
    """A student on a fraction of the negatives, with a batch that shrinks with its rows.

    Args:
        base: may have its settings, and those of the centre.
        student: what trains on all of them.
        rate: the fraction.
        centre: a fraction whose learning rates it takes, and whose number of updates; the student's when not given.
    """
    origin, share = (student, 1.0) if centre is None else (kept(base, student, centre), centre)
    batch = shrunk(base, origin, rate, share)
    return tuned(base, with_batch(sampled(origin, kept_name(rate), NegativeDownsampling(rate=rate)), batch))


def shrunk(base: LineUp, variant: Variant, rate: float, share: float = 1.0) -> int:
    """Rows per update of a sample that takes as many updates as a variant; its model's prior stands for the click rate.

    Args:
        base: its workers share the batch.
        variant: what trains on the fraction `share` of the negatives.
        rate: the fraction that the sample keeps.
        share: see there.

    Raises:
        StudyError: the prior is the default, which is no click rate: the batch would shrink less than the rows.
    """
    prior, workers = variant.model.prior, base.workers.num_workers
    if prior == ModelConfig.model_fields["prior"].default:
        raise StudyError(
            f"a sample's batch shrinks with its rows, for which the click rate must be known; {variant.name!r} has the "
            f"default prior {prior}: write the log's share of positives as `model: {{prior: ...}}` into line-up {base.name!r}"
        )
    fewer = (prior + (1 - prior) * rate) / (prior + (1 - prior) * share)
    return workers * max(1, round(variant.optimizer.batch_size * fewer / workers))


def kept_name(rate: float) -> str:
    """What a model on a fraction of the negatives is called."""
    return f"kept_{100 * rate:g}"


def with_batch(variant: Variant, batch_size: int) -> Variant:
    """The variant with another batch."""
    return variant.model_copy(update={"optimizer": variant.optimizer.model_copy(update={"batch_size": batch_size})})


def sampled(student: Variant, name: str, selection: Selection) -> Variant:
    """A student that trains on a selection."""
    return student.model_copy(update={"name": name, "selection": selection})
