"""Published figures about gradients in deep nets, measured again.

Each module has `measure(...)`, which returns a frozen dataclass with all numbers, for each seed
where there are several, and `rows(result)`, which puts what is expected beside what came.
`minires reproduce` prints them.
"""

from minires.experiments.rows import Row, mean_and_error, row

__all__ = ["Row", "mean_and_error", "row"]
