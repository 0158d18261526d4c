"""Records kept together, written as CSV or JSON lines and read back, without the model."""

import csv
import json
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
        return sorted({record.step for record in self.records})

    def at(self, step):
        """A FlowLog of one step.

        Raises
        ------
        ValueError
            If the step was not recorded; the message lists those that were.
        """
        steps = self.steps
        if step not in steps:
            shown = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
            raise ValueError(f"FlowLog expects a recorded step ({shown or 'none'}), got {step!r}")
        return FlowLog(record for record in self.records if record.step == step)

    def gradient_norms(self, step):
        """[GradientNorm] of the weights at a recorded step, for `plots.gradient_norms`."""
        found = [p for p in self.at(step).parameters if p.depth is not None]
        return [GradientNorm(p.depth, p.path, p.grad_norm) for p in found]

    def to_csv(self, path):
        """Write one line a record: its kind, then the columns of all kinds, most of them empty.

        `pandas.read_csv` reads it; `frame[frame.kind == "residual"]` are the residual blocks.
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
        if path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"FlowLog.read expects a .csv or .jsonl file, got {str(path)!r}")
        log = FlowLog()
        with path.open(newline="", encoding="utf-8") as file:
            try:
                rows = csv_rows(file) if path.suffix == ".csv" else map(json_row, file)
                for row in rows:
                    log.add(as_record(row))
            except (ValueError, csv.Error) as error:
                line = len(log) + 1 + (path.suffix == ".csv" and "header" not in str(error))
                raise ValueError(f"FlowLog.read: line {line} of {path}: {error}") from None
        return log

    def __len__(self):
        return len(self.records)

    def __repr__(self):
        counts = ", ".join(
            f"{len(records)} {name} records"
            for name, records in zip(KINDS, self._lists().values(), strict=True)
        )
        return f"{type(self).__name__}({len(self.steps)} steps, {counts})"


def csv_rows(file):
    """The dicts of a file with a header."""
    rows = csv.DictReader(file)
    if rows.fieldnames and "kind" not in rows.fieldnames:
        raise ValueError(f"expected a header with a column kind, got {rows.fieldnames[:3]}")
    return rows


def json_row(line):
    """The dict of one line."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {line.strip()[:40]}")
    return row


def as_record(row):
    """The record of a dict, in which numbers may be text.

    Raises
    ------
    ValueError
        If its kind is unknown, or a field is missing or of another type.
    """
    kind = KINDS.get(row.get("kind"))
    if kind is None:
        raise ValueError(f"expected a kind out of {', '.join(KINDS)}, got {row.get('kind')!r}")
    hints = typing.get_type_hints(kind)
    missing = [name for name in hints if name not in row]
    if missing:
        raise ValueError(f"expected {', '.join(missing)} in a {row['kind']} record, got none")
    return kind(**{name: as_type(name, row[name], hint) for name, hint in hints.items()})


def as_type(name, value, hint):
    """`value`, read from a file, as what a record holds."""
    if isinstance(hint, types.UnionType):  # float | None
        if value in (None, ""):
            return None
        hint = typing.get_args(hint)[0]
    try:
        if typing.get_origin(hint) is tuple:
            return tuple(int(v) for v in (value.split() if isinstance(value, str) else value))
        if hint is str and not isinstance(value, str):
            raise TypeError
        return hint(value)
    except (TypeError, ValueError, AttributeError):
        raise ValueError(f"expected {name} to be {hint.__name__}, got {value!r}") from None
