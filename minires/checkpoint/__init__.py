"""Checkpoint files: arrays and what JSON can say, which load whole or not at all.

`layout` is the format, `saving` writes it, `reading` reads it. What of a model and an optimiser
goes into a checkpoint: `minires.state`.
"""

from minires.checkpoint.layout import Checkpoint, CheckpointError, UnreadableError
from minires.checkpoint.reading import Found, load_checkpoint, load_newest
from minires.checkpoint.saving import save_checkpoint, sweep

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Found",
    "UnreadableError",
    "load_checkpoint",
    "load_newest",
    "save_checkpoint",
    "sweep",
]
