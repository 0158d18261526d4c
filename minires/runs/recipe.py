"""A training recipe as plain data: it can be printed, stored, compared and run again."""

import dataclasses
import inspect
from dataclasses import asdict, dataclass, field, fields

from minires.checks import expect_choice, expect_int, expect_number
from minires.data import Preprocess
from minires.data.preprocess import expect_flip
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy, default_loss
from minires.ops import default as default_ops
from minires.optimizers import SGD, Adam, AdamW, Muon
from minires.schedules import Constant, Cosine, OneCycle, Step

OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "muon": Muon, "sgd": SGD}
SCHEDULES = {"constant": Constant, "cosine": Cosine, "one-cycle": OneCycle, "step": Step}
LENGTHS = ("epochs", "steps")
GIVEN = "parameters", "lr", "ops", "steps"  # what a recipe does not leave to the options


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever the network and the images are.

    Attributes
    ----------
    name : str
    version : int
        Goes up whenever a number changes.
    source : str
        The paper, or what the numbers were chosen for.
    epochs, steps : int or None
        The length of the training, in one of the two.
    batch_size : int
    optimizer : {"adam", "adamw", "muon", "sgd"}
    lr : float
        The learning rate that the schedule starts from, or peaks at.
    optimizer_options : dict
        Such as {"momentum": 0.9, "weight_decay": 1e-4}; see `minires.optimizers`. What is left out
        is filled in, so that a stored recipe does not depend on anybody's defaults.
    schedule : {"constant", "cosine", "one-cycle", "step"}
    schedule_options : dict
        Such as {"milestones": [32000, 48000]}, in steps; see `minires.schedules`. Filled in, too.
    label_smoothing : float
        In [0, 1); of the training loss only.
    normalize : {"channels", "pixels", None}
    pad, flip, cutout : int, bool or "alternate", int
        See `minires.data.Preprocess`.
    progressive : dict or None
        {"scale": s, "share": t}: during the first share t of the steps, whole epochs of them, the
        images are scaled to s times their height and width, which costs about s^2 of the time.
        Progressive resizing: Howard (2018) in the DAWNBench contest; Tan and Le (2021),
        arXiv:2104.00298, section 4.2.
    test_every : int
        Epochs from one evaluation on the test images to the next; after the last there is one too.
    """

    name: str
    version: int
    source: str
    batch_size: int
    optimizer: str
    lr: float
    epochs: int | None = None
    steps: int | None = None
    optimizer_options: dict = field(default_factory=dict)
    schedule: str = "constant"
    schedule_options: dict = field(default_factory=dict)
    label_smoothing: float = 0.0
    normalize: str | None = None
    pad: int = 0
    flip: bool | str = False
    cutout: int = 0
    progressive: dict | None = None
    test_every: int = 1

    def __post_init__(self):
        lengths = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(lengths) != 1:
            raise ValueError(f"Recipe expects either epochs or steps, got {lengths or 'neither'}")
        for name in (*lengths, "batch_size", "test_every", "version"):
            expect_int("Recipe", name, getattr(self, name))
        for name in ("pad", "cutout"):
            expect_int("Recipe", name, getattr(self, name), at_least=0)
        expect_flip("Recipe", self.flip)
        expect_number("Recipe", "lr", self.lr, at_least=0)
        expect_number("Recipe", "label_smoothing", self.label_smoothing, at_least=0, below=1)
        if self.progressive is not None:
            expect_progressive(self.progressive)
        expect_choice("Recipe", "optimizer", self.optimizer, OPTIMIZERS)
        expect_choice("Recipe", "schedule", self.schedule, SCHEDULES)
        expect_choice("Recipe", "normalize", self.normalize, ("channels", "pixels", None))
        for name, kinds in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            kind, options = kinds[getattr(self, name)], getattr(self, f"{name}_options")
            object.__setattr__(self, f"{name}_options", filled_in(name, kind, options))

    # ---- what it makes

    def total_steps(self, steps_per_epoch):
        """Updates from the first to the last."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def image_size(self, epoch, epochs, full):
        """Height and width of the training images.

        Parameters
        ----------
        epoch : int
            From 0.
        epochs : int
            Of the whole training.
        full : (H, W)
            Of the images as they are.
        """
        if self.progressive is None or epoch >= int(self.progressive["share"] * epochs):
            return full
        return tuple(max(1, round(self.progressive["scale"] * side)) for side in full)

    def make_optimizer(self, model, ops=default_ops):
        """The optimiser of a model's Parameters."""
        kind = OPTIMIZERS[self.optimizer]
        return kind(model.parameters(), self.lr, **self.optimizer_options, ops=ops)

    def make_schedule(self, total):
        """step -> learning rate, for `total` steps."""
        kind = SCHEDULES[self.schedule]
        if kind is OneCycle and total < 2:
            raise ValueError(
                f"recipe {self.name!r} expects at least 2 steps to go up and down, got {total}: "
                f"take more epochs or smaller batches"
            )
        length = {"steps": total} if "steps" in inspect.signature(kind).parameters else {}
        return kind(self.lr, **length, **self.schedule_options)

    def make_loss(self, model, ops=default_ops):
        """The training loss."""
        if not isinstance(default_loss(model), CategoricalCrossEntropy):
            return SoftmaxCrossEntropy(self.label_smoothing, ops=ops)
        if self.label_smoothing:
            raise ValueError(
                f"Recipe {self.name!r} expects a model that gives logits, since it smooths labels, "
                f"got one that ends in a Softmax"
            )
        return CategoricalCrossEntropy()

    def make_preprocess(self, images, seed=0):
        """The Preprocess measured on training images."""
        changes = {name: getattr(self, name) for name in ("pad", "flip", "cutout")}
        return Preprocess.of(images, normalize=self.normalize, seed=seed, **changes)

    # ---- as data

    def changed(self, **values):
        """A copy with other values, whose name says which, such as "fast20, epochs=3"."""
        if "epochs" in values:
            values |= {"steps": None}
        new = dataclasses.replace(self, **values)
        old, now = flat(self), flat(new)
        said = [f"{k}={v}" for k, v in now.items() if k != "steps" and old.get(k, v) != v]
        return dataclasses.replace(new, name=", ".join([self.name, *said])) if said else self

    def as_dict(self):
        """Names and values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values):
        """The recipe that `as_dict` wrote.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a value does not fit.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            came = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"Recipe expects exactly {sorted(known)}, got {came}")
        return cls(**values)


def filled_in(what, kind, options):
    """Options with the defaults of a class for what they leave out; lists for tuples, as in JSON.

    Raises
    ------
    ValueError
        If the class does not know an option, or one without a default is missing.
    """
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in GIVEN
    }
    missing = [name for name, v in (known | options).items() if v is inspect.Parameter.empty]
    unknown = [name for name in options if name not in known]
    if missing or unknown:
        raise ValueError(
            f"Recipe expects {what}_options of {kind.__name__} out of {list(known)}, "
            f"got {list(options)}"
        )
    return {k: list(v) if isinstance(v, tuple) else v for k, v in (known | options).items()}


def flat(recipe):
    """{name: value} with the options among the others."""
    values = recipe.as_dict()
    options = values.pop("optimizer_options") | values.pop("schedule_options")
    return values | options


def expect_progressive(progressive):
    """Refuse what is no scale and share."""
    if not isinstance(progressive, dict) or set(progressive) != {"scale", "share"}:
        raise ValueError(
            f"Recipe expects progressive as {{'scale': s, 'share': t}}, got {progressive!r}"
        )
    for name, value in progressive.items():
        expect_number("Recipe", f"progressive {name}", value, above=0, at_most=1)
