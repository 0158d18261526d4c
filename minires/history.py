"""What training measured, epoch by epoch; written as CSV and as JSON lines."""

import csv
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set.

    Attributes
    ----------
    epoch : int
        From 1.
    step : int
        Updates done since training began.
    loss, accuracy : float
        Means over the examples of the epoch, each measured before the update it led to.
    test_loss, test_accuracy : float or None
        After the epoch, in inference mode; None without test images.
    lr : float
        Learning rate of the last step.
    seconds : float
        Wall-clock time of the epoch, evaluation included.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    lr: float
    seconds: float


class History:
    """The epochs of a training run, in order; `len`, indexing and iteration give `Epoch`s."""

    def __init__(self, epochs=()):
        self.epochs = list(epochs)

    def column(self, name):
        """One number of each epoch, such as `history.column("loss")`.

        Raises
        ------
        ValueError
            If there is no such number; the message lists them.
        """
        names = [field.name for field in fields(Epoch)]
        if name not in names:
            raise ValueError(f"History expects a column out of {names}, got {name!r}")
        return [getattr(epoch, name) for epoch in self.epochs]

    def rows(self):
        """[{name: number}], one an epoch."""
        return [asdict(epoch) for epoch in self.epochs]

    def to_csv(self, path):
        """Write a header and one line an epoch; what was not measured stays empty."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
            writer.writeheader()
            writer.writerows(self.rows())

    def to_jsonl(self, path):
        """Write one JSON object a line."""
        lines = [json.dumps(row) + "\n" for row in self.rows()]
        Path(path).write_text("".join(lines), encoding="utf-8")

    def __len__(self):
        return len(self.epochs)

    def __getitem__(self, index):
        return self.epochs[index]

    def __iter__(self):
        return iter(self.epochs)

    def __repr__(self):
        return "\n".join(describe(epoch) for epoch in self.epochs) or "History()"


def describe(epoch):
    """One epoch as a line of text."""
    test = ""
    if epoch.test_accuracy is not None:
        test = f", test loss {epoch.test_loss:.4f}, test accuracy {epoch.test_accuracy:.3f}"
    return (
        f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.3f}{test}, "
        f"{epoch.seconds:.1f} s"
    )
