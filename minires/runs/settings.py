"""Everything that decides a run, as plain data, and what is made from it."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from minires import ops
from minires.checks import expect_choice, expect_int
from minires.data import FILE_LOADERS, LOADERS, load_image_folder
from minires.data.files import DamagedFileError
from minires.models import BUILDERS, build
from minires.runs.recipe import Recipe

OPS = {"fast": ops.fast, "reference": ops.reference}


@dataclass(frozen=True)
class Settings:
    """Two runs with equal settings on the same images end with the same bits.

    Attributes
    ----------
    model : str
        A name in `minires.models.BUILDERS`.
    data : str
        A name in `minires.data.LOADERS` or `FILE_LOADERS`, or the path of a folder of images.
    recipe : Recipe
    seed : int
        Of the weights, the order of the examples and their augmentation.
    ops : {"fast", "reference"}
    model_options : dict
        Such as {"shortcut": "B"}.
    root : str or None
        Where the files of the data are, for those that come from files; where a folder of images
        has been moved to.
    image_size : [H, W] or None
        What the images of a folder are resized to.
    """

    model: str
    data: str
    recipe: Recipe
    seed: int = 0
    ops: str = "fast"
    model_options: dict = field(default_factory=dict)
    root: str | None = None
    image_size: list | None = None

    def __post_init__(self):
        if self.model not in BUILDERS:
            names = ", ".join(BUILDERS)
            raise ValueError(f"expected --model to be one of {names}, got {self.model!r}")
        if not isinstance(self.data, str):
            raise ValueError(f"Settings expects data to be a name or a path, got {self.data!r}")
        if not isinstance(self.model_options, dict):
            raise ValueError(f"Settings expects model_options as a dict, got {self.model_options}")
        expect_choice("Settings", "ops", self.ops, OPS)
        expect_int("Settings", "seed", self.seed, at_least=0)
        for size in self.image_size or ():
            expect_int("Settings", "image_size", size)
        expect_options(self.model, self.model_options)

    def load_data(self, download=False):
        """The Dataset.

        Parameters
        ----------
        download : bool
            Whether files that are missing may be downloaded.

        Raises
        ------
        ValueError, OSError
            If there is no such data, or its files are missing or damaged.
        """
        named = self.data in LOADERS or self.data in FILE_LOADERS
        if self.image_size is not None and named:
            raise ValueError(f"expected --image-size for a folder of images, got {self.data!r}")
        if self.root is not None and self.data in LOADERS:
            raise ValueError(f"expected --data-root for data from files, got {self.data!r}")
        if self.root is not None and not download and not Path(self.root).is_dir():
            raise ValueError(f"expected --data-root to be a folder, got {self.root!r}")
        if download and self.data not in FILE_LOADERS:
            names = ", ".join(FILE_LOADERS)
            raise ValueError(f"expected --download for one of {names}, got {self.data!r}")
        if self.data in LOADERS:
            return LOADERS[self.data]()
        if self.data in FILE_LOADERS:
            try:
                return FILE_LOADERS[self.data](self.root, download=download)
            except (FileNotFoundError, DamagedFileError) as error:
                error.add_note("(on the command line: --download, or --data-root DIR)")
                raise
        return self.load_folder()

    def load_folder(self):
        """The Dataset of a folder of images."""
        folder = self.root or self.data
        if folder and Path(folder).is_dir():
            return load_image_folder(folder, size=self.image_size)
        if Path(self.data).is_absolute():  # as it is stored once it has been found
            raise FileNotFoundError(
                f"expected a folder of images for each class at {folder}, got none there: if it "
                f"has been moved, say by --data-root where it is now"
            )
        names = ", ".join([*LOADERS, *FILE_LOADERS])
        raise ValueError(
            f"expected --data to be one of {names}, or a folder with a sub-folder of images for "
            f"each class, got {self.data!r}"
        )

    def build_model(self, input_shape, num_classes):
        """The model with its first weights."""
        return build(
            self.model,
            num_classes=num_classes,
            input_shape=input_shape,
            rng=self.seed,
            ops=OPS[self.ops],
            **self.model_options,
        )

    def changed(self, **values):
        """A copy with other values."""
        return replace(self, **values)

    def as_dict(self):
        """Names and values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values):
        """The settings that `as_dict` wrote."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            came = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"Settings expects exactly {sorted(known)}, got {came}")
        return cls(**values | {"recipe": Recipe.from_dict(values["recipe"])})


def expect_options(model, options):
    """Refuse choices that a model does not have."""
    if options and model == "article_resnet":
        raise ValueError(
            "article_resnet is built in one way, so neither --shortcut nor --no-norm nor "
            f"--no-relu-after-add is expected beside it, got {', '.join(options)}"
        )
    if "shortcut" in options and model.startswith("plain"):
        raise ValueError(f"expected --shortcut for a residual network, got {model}")
    if "relu_after_add" in options and model not in WITH_RELU:
        raise ValueError(
            f"expected --no-relu-after-add for one of {', '.join(WITH_RELU)}, got {model}"
        )


# the networks of He et al. for small images, whose sums are followed by a ReLU
WITH_RELU = [f"resnet{depth}" for depth in (8, 20, 32, 44, 56, 110)]
