"""Records kept together, written as CSV or JSON lines and read back, without the model."""

import csv
import json
import math
import types
import typing
from dataclasses import asdict, fields
from pathlib import Path

from minires.flow.norms import GradientNorm
from minires.flow.records import KINDS

COLUMNS = list(dict.fromkeys(field.name for kind in KINDS.values() for field in fields(kind)))


class FlowLog:
    """Records of some training steps; the plots of `minires.plots` draw from it.

    Attributes
    ----------
    layers, parameters, residuals, histograms : list of records
        In the order of the steps, and within a step in that of the model. See `flow.records`.
    """

    def __init__(self, records=()):
        self.layers, self.parameters, self.residuals, self.histograms = [], [], [], []
        self._steps = 0, {}  # how many records there were, and those of each step
        for record in records:
            self.add(record)

    def add(self, record):
        """Append a record to the list of its kind."""
        self._lists()[type(record)].append(record)

    def _lists(self):
        lists = self.layers, self.parameters, self.residuals, self.histograms
        return dict(zip(KINDS.values(), lists, strict=True))

    @property
    def records(self):
        """All of them in one list."""
        return [record for records in self._lists().values() for record in records]

    @property
    def steps(self):
        """The recorded steps, each once, in order."""
        return sorted(self._by_step())

    def _by_step(self):
        """{step: its records}, sorted out anew when records have come."""
        if self._steps[0] != len(self):
            by_step = {}
            for record in self.records:
                by_step.setdefault(record.step, []).append(record)
            self._steps = len(self), by_step
        return self._steps[1]

    def at(self, step):
        """A FlowLog of one step.

        Raises
        ------
        ValueError
            If the step was not recorded; the message lists those that were.
        """
        if step not in self._by_step():
            steps = self.steps
            shown = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
            raise ValueError(f"FlowLog expects a recorded step ({shown or 'none'}), got {step!r}")
        return FlowLog(self._by_step()[step])

    def gradient_norms(self, step):
        """[GradientNorm] of the weights at a recorded step, for `plots.gradient_norms`."""
        found = [p for p in self.at(step).parameters if p.depth is not None]
        return [GradientNorm(p.depth, p.path, p.grad_norm) for p in found]

    def to_csv(self, path):
        """Write one line a record: its kind, then the columns of all kinds, most of them empty.

        `pandas.read_csv` reads it; `frame[frame.kind == "residual"]` are the residual blocks. The
        path of the model itself is empty, which pandas takes for missing.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["kind", *COLUMNS])
            writer.writeheader()
            for row in self._rows():
                if "counts" in row:
                    row["counts"] = " ".join(map(str, row["counts"]))
                writer.writerow(row)

    def to_jsonl(self, path):
        """Write one JSON object a record. Not-a-number and infinity are NaN and Infinity, unquoted.

        `pandas.read_json(path, lines=True)` reads it.
        """
        with Path(path).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in self._rows())

    def _rows(self):
        names = {kind: name for name, kind in KINDS.items()}
        return ({"kind": names[type(record)]} | asdict(record) for record in self.records)

    @classmethod
    def read(cls, path):
        """The FlowLog that `to_csv` or `to_jsonl` wrote; the file's suffix says which.

        Raises
        ------
        ValueError
            If the suffix is neither .csv nor .jsonl, or a line is no record; names file and line.
        OSError
            If the file cannot be read.
        """
        path = Path(path)
        if path.suffix.lower() not in (".csv", ".jsonl"):
            raise ValueError(f"FlowLog.read expects a .csv or .jsonl file, got {str(path)!r}")
        rows = csv_rows if path.suffix.lower() == ".csv" else json_rows
        log = FlowLog()
        with path.open(newline="", encoding="utf-8-sig") as file:  # with a BOM or without
            lines = Counted(file)
            try:
                for row in rows(lines):
                    log.add(as_record(row))
            except (ValueError, RecursionError, csv.Error) as error:
                line = max(lines.read, 1)
                raise ValueError(f"FlowLog.read: line {line} of {path}: {error}") from None
        return log

    def __len__(self):
        return sum(map(len, self._lists().values()))

    def __repr__(self):
        counts = ", ".join(
            f"{len(records)} {name} records"
            for name, records in zip(KINDS, self._lists().values(), strict=True)
        )
        return f"{type(self).__name__}({len(self.steps)} steps, {counts})"


class Counted:
    """The lines of a file; `read` is how many of them were."""

    def __init__(self, file):
        self.file, self.read = file, 0

    def __iter__(self):
        for line in self.file:
            self.read += 1
            yield line


def csv_rows(lines):
    """The dicts of a file with a header."""
    rows = csv.DictReader(iter(lines))
    if rows.fieldnames and "kind" not in rows.fieldnames:
        raise ValueError(f"expected a header with a column kind, got {rows.fieldnames[:3]}")
    yield from rows


def json_rows(lines):
    """The dicts of a file with one JSON object a line."""
    for line in lines:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, got {line.strip()[:40]}")
            yield row


def as_record(row):
    """The record of a dict, in which numbers may be text.

    Raises
    ------
    ValueError
        If its kind is unknown, or a field is missing or of another type.
    """
    name = row.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"expected a kind out of {', '.join(KINDS)}, got {name!r}")
    hints = typing.get_type_hints(KINDS[name])
    missing = [field for field in hints if field not in row]
    if missing:
        raise ValueError(f"expected {', '.join(missing)} in a {name} record, got none")
    return KINDS[name](**{field: as_type(field, row[field], hints[field]) for field in hints})


def as_type(name, value, hint):
    """`value`, read from a file, as what a record holds."""
    if isinstance(hint, types.UnionType):  # float | None
        if value in (None, ""):
            return None
        hint = typing.get_args(hint)[0]
    try:
        return READ[hint](value)
    except (TypeError, ValueError, OverflowError):
        wanted = getattr(hint, "__name__", hint)
        raise ValueError(f"expected {name} to be {wanted}, got {value!r}") from None


def whole(value):
    """An int, also from 3.0 or "3.0", as pandas writes a column in which some are missing."""
    number = float(value)
    if isinstance(value, bool) or not number.is_integer():
        raise ValueError
    return int(number)


def number(value):
    """A float; missing is NaN, as pandas writes it."""
    return math.nan if value in (None, "") else float(value)


def text(value):
    if not isinstance(value, str):
        raise TypeError
    return value


def several(value):
    """Counts, from a list or from "1 0 7"."""
    return tuple(whole(v) for v in (value.split() if isinstance(value, str) else value))


READ = {int: whole, float: number, str: text, tuple[int, ...]: several}
