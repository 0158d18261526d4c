"""train a model: a recipe, checkpoints to resume from, a report"""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from minires.cli.arguments import add_data, make_folder, non_negative, positive_int, seed
from minires.cli.saved import claimed, opened, report
from minires.cli.streams import lenient
from minires.data import FILE_LOADERS, LOADERS
from minires.history import describe as line
from minires.runs import RECIPES, Settings, StopRequest, begin, resume
from minires.runs.lock import alone
from minires.runs.run import WRITTEN, origin
from minires.runs.settings import OPS

EXAMPLE = "minires train --model resnet20 --data cifar10 --recipe fast20 --out run"

OUT = "minires_run"
OPTIMIZERS = {  # learning rate and options where the recipe has those of another optimiser
    "adam": (1e-3, {}),
    "adamw": (1e-3, {}),
    "muon": (0.02, {}),
    "sgd": (0.1, {"momentum": 0.9}),
}
NAMED = *LOADERS, *FILE_LOADERS
SCHEDULES = "constant", "cosine", "one-cycle"
# options, and what they are called in Settings
PLAIN = {"model": "model", "data": "data", "seed": "seed", "ops": "ops", "image_size": "image_size"}
MACHINE = "processor", "compiled"  # what decides the last digits besides versions
MANY = 1000  # epochs
IN_RECIPE = "epochs", "batch_size", "lr", "label_smoothing"


def add_arguments(parser):
    """The options of the command; all are None unless given, so that a resumed run can tell."""
    parser.usage = "%(prog)s --model MODEL [option ...]\n       %(prog)s --resume [DIR]"
    add = parser.add_argument
    add("--model", metavar="MODEL", help="a name that `minires summary` knows")
    add_data(parser)
    add("--recipe", choices=RECIPES, help="default adam; what follows changes it")
    add("--epochs", type=positive_int, metavar="E")
    add("--batch-size", type=positive_int, metavar="N")
    add("--optimizer", choices=OPTIMIZERS)
    add("--lr", type=non_negative, metavar="LR", help="learning rate")
    add("--weight-decay", type=non_negative, metavar="WD", help="of all parameters")
    add("--label-smoothing", type=non_negative, metavar="S")
    add("--schedule", choices=SCHEDULES)
    add("--no-flip", action="store_true", help="no mirror images, as for digits and text")
    add("--shortcut", choices=("A", "B"), help="where a block changes shape: pad or project")
    add("--no-norm", action="store_true", help="leave out batch norm")
    add("--no-relu-after-add", action="store_true", help="as in the article's blocks")
    add("--ops", choices=OPS, help="fast: Numba, to run; reference: NumPy, to read")
    add("--seed", type=seed, metavar="S", help="default 0")
    add("--out", metavar="DIR", help=f"default {OUT}")
    add("--overwrite", action="store_true", help="replace the run that DIR holds")
    add("--resume", nargs="?", const=True, metavar="DIR", help="go on with the run in DIR")
    add("--save-every", type=positive_int, metavar="K", help="steps; default each epoch, 5 minutes")


def run(options):
    """Train, then write the report; the folder is held meanwhile."""
    for name in ("out", "resume"):
        if getattr(options, name) == "":
            raise ValueError(f"expected --{name} to name a folder, got ''")
    with lenient(), ExitStack() as stack:
        make = (begun if options.resume is None else resumed)(options, stack)
        return trained(make, options)


def trained(make, options):
    """Train the Run that `make` makes, then write its report."""
    going_on = options.resume is not None
    with StopRequest() as stop:
        this = make()
        print(introduction(this, going_on), flush=True)
        warn_of_late_steps(this.settings.recipe, this.trainer.total)
        warn_of_missing_warm_up(this.settings)
        warn_of_many_epochs(this.trainer)
        try:
            finished = this.train(
                save_every=options.save_every,
                stop=stop,
                on_epoch_end=lambda epoch: print(line(epoch), flush=True),
            )
        except (OSError, KeyboardInterrupt) as error:
            error.add_note(f"(go on with: minires train --resume {this.folder})")
            raise
    if stop or not finished:
        return stopped(this, stop)
    return report(this)


def begun(options, stack):
    """A function that makes the new Run in the folder `--out`, once all was found to be there.

    The folder is held until `stack`, an ExitStack, is closed.
    """
    if options.model is None:
        raise ValueError("expected --model, a name that `minires summary` knows, or --resume")
    settings = changed(Settings("resnet8", "digits", RECIPES["adam"]), options)
    expect_folders_apart(settings, options)
    folder = make_folder(options.out or OUT)
    stack.enter_context(alone(folder))  # before the look at what it holds
    held = [name for name in WRITTEN if (folder / name).exists()]
    if held and not options.overwrite:
        raise ValueError(
            f"expected a folder without a run, got {str(folder)!r} with {held[0]}: go on with it "
            f"by --resume, replace it by --overwrite, or give another --out"
        )
    return partial(begin, folder, settings, settings.load_data(options.download))


def expect_folders_apart(settings, options):
    """Refuse --data-root for a folder of images, and a run in the midst of the images."""
    if settings.data in NAMED:
        return
    if options.data_root is not None:
        raise ValueError(
            f"expected --data to be one of {', '.join(FILE_LOADERS)} where --data-root is given, "
            f"got {options.data!r}: a folder of images is named by --data alone"
        )
    images, out = Path(settings.data), Path(options.out or OUT)
    if settings.data and images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise ValueError(
            f"expected --out outside the folder of images {images}, where it would be taken for a "
            f"class, got {out}"
        )


def warn_of_late_steps(recipe, total):
    """Say so if the training ends before the learning rate has come down."""
    late = [step for step in recipe.schedule_options.get("milestones", ()) if step >= total]
    if late:
        print(
            f"minires: warning: the learning rate of {recipe.name} does not change at step "
            f"{' and '.join(map(str, late))}, since the training ends at {total}; in a shorter one "
            f"--schedule one-cycle lowers it",
            file=sys.stderr,
        )


def warn_of_many_epochs(trainer):
    """Say so where steps that were meant for many images are a great many epochs of few."""
    if trainer.recipe.steps is not None and trainer.epochs > MANY:
        print(
            f"minires: warning: {trainer.recipe.name} takes {trainer.total:,} steps, "
            f"{trainer.epochs:,} epochs of these {len(trainer.data.x_train):,} images; --epochs "
            f"makes it shorter",
            file=sys.stderr,
        )


def warn_of_missing_warm_up(settings):
    """Say so where the paper begins with another learning rate than its recipe."""
    he2015 = RECIPES["he2015"]
    name = settings.recipe.name.partition(",")[0]
    if (settings.model, name, settings.recipe.lr) == ("resnet110", he2015.name, he2015.lr):
        print(
            f"minires: warning: {he2015.name} has no warm-up: the paper trained ResNet-110 at a "
            f"learning rate of 0.01 first, for about 400 steps, before {he2015.lr}",
            file=sys.stderr,
        )


def resumed(options, stack):
    """The same for the Run in the folder of `--resume`; refuses options that contradict it."""
    folder = Path((options.out or OUT) if options.resume is True else options.resume)
    if options.out is not None and Path(options.out).resolve() != folder.resolve():
        raise ValueError(f"expected one folder, got --resume {folder} and --out {options.out}")
    if options.overwrite:
        raise ValueError("expected either --resume or --overwrite, got both")
    stack.enter_context(claimed(folder))
    saved = opened(folder)
    wanted = changed(saved.settings, options)
    if wanted != changed(saved.settings, None, root=wanted.root):
        raise ValueError(
            f"a run goes on as it was begun: expected {told(saved.settings)}, "
            f"got {told(wanted)}; begin another with another --out"
        )
    warn_of_other_machine(saved)
    data = wanted.load_data(options.download)
    return partial(resume, folder, saved._replace(settings=wanted), data)


def warn_of_other_machine(saved):
    """Say so if another program or processor is to go on, which may round otherwise."""
    before = rounds_by(saved.checkpoint.meta["origins"][-1])
    now = rounds_by(origin(saved.settings.ops))
    names = before.keys() | now.keys()
    names -= {name for name in MACHINE if before.get(name) is None}  # not recorded at the time
    names = sorted(name for name in names if before.get(name) != now.get(name))
    if names:
        was, is_now = ({name: found.get(name) for name in names} for found in (before, now))
        print(
            f"minires: warning: trained so far with {was}, now {is_now}: the last digits may "
            f"come out otherwise than without the interruption",
            file=sys.stderr,
        )


def rounds_by(origin):
    """What of an origin decides the last digits, {name: value}."""
    found = {"processor": origin.get("machine", {}).get("processor")}
    return found | {"compiled": origin.get("compiled")} | origin["versions"]


def introduction(this, going_on):
    """What is about to happen, in a line."""
    trainer, settings = this.trainer, this.settings
    text = (
        f"{settings.model} on {this.data}: recipe {settings.recipe.name}, "
        f"{trainer.total:,} steps, {trainer.optimizer!r}, {trainer.schedule!r}"
    )
    return f"{text}; from step {trainer.step:,}" if going_on else text


def stopped(this, stop):
    """Say how to go on; the exit code is the shell's for the signal."""
    print(
        f"minires: interrupted at step {this.trainer.step:,} of {this.trainer.total:,}, saved; "
        f"go on with: minires train --resume {this.folder}",
        file=sys.stderr,
    )
    return 128 + stop.signal


# ---- from options to settings


def changed(settings, options, **values):
    """Settings with what was asked for on the command line."""
    if options is not None:
        given = {name: getattr(options, name) for name in PLAIN}
        values |= {name: value for name, value in given.items() if value is not None}
        data = values.get("data")
        if data and Path(data).is_dir() and data not in NAMED:
            values["data"] = str(Path(values["data"]).absolute())  # to go on from anywhere
        values |= {"recipe": changed_recipe(settings.recipe, options)}
        if options.data_root is not None:
            values |= {"root": str(Path(options.data_root).absolute())}
        values |= {"model_options": settings.model_options | model_options(options)}
    return settings.changed(**values)


def model_options(options):
    """Arguments of the model's builder."""
    found = {} if options.shortcut is None else {"shortcut": options.shortcut}
    if options.no_norm:
        found["norm"] = None
    if options.no_relu_after_add:
        found["relu_after_add"] = False
    return found


def changed_recipe(recipe, options):
    """The recipe asked for, or `recipe`, with what was asked to be otherwise."""
    recipe = recipe if options.recipe is None else RECIPES[options.recipe]
    values = {}
    if options.optimizer not in (None, recipe.optimizer):
        lr, more = OPTIMIZERS[options.optimizer]
        values = {"optimizer": options.optimizer, "lr": lr, "optimizer_options": more}
    if options.schedule not in (None, recipe.schedule):
        values |= {"schedule": options.schedule, "schedule_options": {}}
    if options.weight_decay is not None:
        held = values.get("optimizer_options", recipe.optimizer_options)
        values["optimizer_options"] = held | {"weight_decay": options.weight_decay}
    if options.no_flip:
        values["flip"] = False
    given = {name: getattr(options, name) for name in IN_RECIPE}
    return recipe.changed(**values | {k: v for k, v in given.items() if v is not None})


def told(settings):
    """Settings in a few words."""
    options = "".join(f", {name}={value}" for name, value in settings.model_options.items())
    size = "" if settings.image_size is None else " {}x{}".format(*settings.image_size)
    return (
        f"{settings.model}{options} on {settings.data}{size}, recipe {settings.recipe.name} "
        f"(version {settings.recipe.version}), seed {settings.seed}, ops {settings.ops}"
    )
