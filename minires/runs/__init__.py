"""Training runs as `minires train` makes them: a recipe, a folder, checkpoints, a report.

Read `recipe`, then `trainer`, which trains, then `run`, which saves and goes on, then `saved`.
"""

from minires.runs.recipe import Recipe
from minires.runs.recipes import RECIPES
from minires.runs.results import Results, measure
from minires.runs.run import Run, begin, resume
from minires.runs.saved import network_of, open_saved
from minires.runs.settings import Settings
from minires.runs.stop import StopRequest
from minires.runs.trainer import Trainer

__all__ = [
    "RECIPES",
    "Recipe",
    "Results",
    "Run",
    "Settings",
    "StopRequest",
    "Trainer",
    "begin",
    "measure",
    "network_of",
    "open_saved",
    "resume",
]
