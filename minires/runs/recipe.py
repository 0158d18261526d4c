"""A training recipe as plain data: it can be printed, stored, compared and run again."""

from dataclasses import asdict, dataclass, field, fields, replace

from minires.checks import expect_choice, expect_int, expect_number
from minires.data import Preprocess
from minires.data.preprocess import expect_flip
from minires.losses import CategoricalCrossEntropy, SoftmaxCrossEntropy, default_loss
from minires.ops import default as default_ops
from minires.optimizers import SGD, Adam, AdamW, Muon
from minires.schedules import Constant, Cosine, OneCycle, Step

OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "muon": Muon, "sgd": SGD}
SCHEDULES = {
    "constant": lambda lr, steps, **options: Constant(lr, **options),
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "step": lambda lr, steps, **options: Step(lr, **options),
}
LENGTHS = ("epochs", "steps")


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
        Such as {"momentum": 0.9, "weight_decay": 1e-4}; see `minires.optimizers`.
    schedule : {"constant", "cosine", "one-cycle", "step"}
    schedule_options : dict
        Such as {"milestones": [32000, 48000]}, in steps; see `minires.schedules`.
    label_smoothing : float
        In [0, 1); of the training loss only.
    clip_norm : float or None
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
    clip_norm: float | None = None
    normalize: str | None = None
    pad: int = 0
    flip: bool = False
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
        if self.clip_norm is not None:
            expect_number("Recipe", "clip_norm", self.clip_norm, above=0)
        if self.progressive is not None:
            expect_progressive(self.progressive)
        expect_choice("Recipe", "optimizer", self.optimizer, OPTIMIZERS)
        expect_choice("Recipe", "schedule", self.schedule, SCHEDULES)
        expect_choice("Recipe", "normalize", self.normalize, ("channels", "pixels", None))

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
        return SCHEDULES[self.schedule](self.lr, steps=total, **self.schedule_options)

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
        new = {name: v for name, v in values.items() if v != getattr(self, name)}
        if not new:
            return self
        flat = {name: v for name, v in new.items() if not isinstance(v, dict)}
        for options in new.values():
            flat |= options if isinstance(options, dict) else {}
        said = [f"{name}={v}" for name, v in flat.items() if v is not None]
        return replace(self, **new, name=", ".join([self.name, *said]))

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


def expect_progressive(progressive):
    """Refuse what is no scale and share."""
    if not isinstance(progressive, dict) or set(progressive) != {"scale", "share"}:
        raise ValueError(
            f"Recipe expects progressive as {{'scale': s, 'share': t}}, got {progressive!r}"
        )
    for name, value in progressive.items():
        expect_number("Recipe", f"progressive {name}", value, above=0, at_most=1)
