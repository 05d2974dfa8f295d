"""What one example costs a model, by arithmetic: operations, and bytes of embedding rows."""

from __future__ import annotations

from itertools import pairwise

from pipeline.spec.config import ModelConfig
from pipeline.spec.lineup import LineUp, SimulatedSource
from pipeline.spec.schema import Schema


def shape_of(lineup: LineUp, model: ModelConfig | None = None) -> tuple[float | None, int, int]:
    """Rows of a window, where the log is simulated, and the numbers and ids of a row.

    Args:
        lineup: whose log.
        model: leaves features out; without one all count.

    Raises:
        BadInput: the log's schema or the simulator's settings cannot be used.
    """
    source, hidden = lineup.dataset.source, () if model is None else model.exclude
    if isinstance(source, SimulatedSource):
        drawn = source.simulator(lineup.seeds[0])
        rows: float | None = drawn.rows_per_window
        kinds = [
            [f"{letter}{place + 1}" for place in range(many)]
            for letter, many in (("I", drawn.num_dense), ("C", drawn.num_categorical), ("L", drawn.num_lists))
        ]
    else:
        schema, rows = Schema.load(source.schema_file), None
        kinds = [[each.name for each in kind] for kind in (schema.dense, schema.categorical, schema.lists)]
    dense, categorical, lists = (sum(name not in hidden for name in kind) for kind in kinds)
    return rows, dense, categorical + lists


def forward_flops(model: ModelConfig, num_dense: int, num_sparse: int) -> float | None:
    """Floating-point operations of one example's forward pass, as PyTorch counts them; None for architectures from outside.

    Args:
        model: its widths and architecture.
        num_dense: numbers of an example that it sees.
        num_sparse: categorical and list features that it sees.

    >>> forward_flops(ModelConfig(size="tiny"), 4, 10)
    4368.0
    """
    widths = model.widths
    dim, fields = widths.embedding_dim, num_sparse + 1
    bottom = (max(1, num_dense), *widths.bottom, dim)
    match model.arch:
        case "dlrm":
            mixed, width = 2 * fields * fields * dim, dim + fields * (fields - 1) // 2
        case "dcnv2":
            width = fields * dim
            mixed = widths.cross_layers * 4 * width * widths.cross_rank
        case _:
            return None
    over = (width, *widths.over, 1)
    return float(mixed + sum(2 * a * b for layers in (bottom, over) for a, b in pairwise(layers)))


def embedding_bytes(model: ModelConfig, num_sparse: int) -> float:
    """Bytes of embedding rows that one example's forward pass reads, as PyTorch's profiler sees them; a list counts as one id.

    Training moves them three times: read forward, read and written backward.

    Args:
        model: its embedding dimension; tables hold float32 whatever the dense layers compute in.
        num_sparse: categorical and list features that it sees.

    >>> embedding_bytes(ModelConfig(size="tiny"), 10)
    320.0
    """
    return 4.0 * model.widths.embedding_dim * num_sparse
