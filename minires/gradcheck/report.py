"""What the gradient checker found: one row an array, printed as a table."""

from dataclasses import dataclass

GOOD = ("pass", "kink")


@dataclass(frozen=True)
class GradientRow:
    """One array and the gradient of <y, dy> with respect to it.

    Attributes
    ----------
    name : str
        Of the input, or the path of the Parameter.
    verdict : {"pass", "fail", "kink", "vacuous", "not float64", "random", "unchecked"}
        "kink" is a pass: the sample stood where the function has no derivative and was moved.
        "vacuous" is not: both sides are about 0, so nothing was shown. "unchecked": y depends on
        an array of somebody's layer for which no gradient was found.
    how : str
        "every entry", or how many directions and entries.
    analytic, numeric : float or None
        The two values where they differ most.
    error : float or None
        Their difference over the largest gradient of the array.
    index : tuple or str
        Where they differ most: an entry, or a direction.
    note : str
        Why, in words.
    """

    name: str
    verdict: str
    how: str = ""
    analytic: float | None = None
    numeric: float | None = None
    error: float | None = None
    index: object = ""
    note: str = ""

    @property
    def ok(self):
        """Whether this gradient was shown to be right."""
        return self.verdict in GOOD


@dataclass(frozen=True)
class GradientReport:
    """The rows of one check; `print(report)` draws the table.

    Attributes
    ----------
    subject : str
        What was checked.
    rows : list of GradientRow
    tolerance : float
        Largest relative error of a pass.
    """

    subject: str
    rows: list
    tolerance: float

    @property
    def ok(self):
        """Whether every gradient was shown to be right."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def verdicts(self):
        """{name: verdict}."""
        return {row.name: row.verdict for row in self.rows}

    def __getitem__(self, name):
        """The row of that name."""
        return {row.name: row for row in self.rows}[name]

    def __str__(self):
        header = ("name", "analytic", "numeric", "rel. error", "worst at", "checked", "verdict")
        cells = [header] + [row_cells(row) for row in self.rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(c, widths, strict=True)).rstrip()
            for c in cells
        ]
        notes = [f"{row.name}: {row.note}" for row in self.rows if row.note]
        title = f"gradients of {self.subject}: {'right' if self.ok else 'NOT SHOWN TO BE RIGHT'}"
        return "\n".join([f"{title} (tolerance {self.tolerance:g})", *lines, *notes])

    __repr__ = __str__


def row_cells(row):
    """The cells of one row as text."""
    return (
        row.name,
        show_number(row.analytic, "+.6e"),
        show_number(row.numeric, "+.6e"),
        show_number(row.error, ".1e"),
        str(row.index),
        row.how,
        row.verdict,
    )


def show_number(value, form):
    """A number in a format, or a dash."""
    return "-" if value is None else format(value, form)
