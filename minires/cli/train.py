"""train a model: a recipe, checkpoints to resume from, a report"""

import sys
from pathlib import Path

from minires.checkpoint.reading import previous_path
from minires.cli.arguments import OPS, add_data, make_folder, non_negative, positive_int, seed
from minires.data import FILE_LOADERS, LOADERS
from minires.history import describe as line
from minires.runs import RECIPES, Settings, StopRequest, begin, open_saved, resume
from minires.runs.run import CHECKPOINT

EXAMPLE = "minires train --model resnet20 --data cifar10 --recipe fast20 --out run"

OUT = "minires_run"
OPTIMIZERS = {  # learning rate and options where the recipe has those of another
    "adam": (1e-3, {}),
    "adamw": (1e-3, {}),
    "muon": (0.02, {}),
    "sgd": (0.1, {"momentum": 0.9}),
}
NAMED = *LOADERS, *FILE_LOADERS
SCHEDULES = "constant", "cosine", "one-cycle"
# options, and what they are called in Settings
PLAIN = {"model": "model", "data": "data", "seed": "seed", "ops": "ops", "image_size": "image_size"}
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
    add("--weight-decay", type=non_negative, metavar="WD")
    add("--label-smoothing", type=non_negative, metavar="S")
    add("--schedule", choices=SCHEDULES)
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
    """Train, then write the report."""
    going_on = options.resume is not None
    this = resumed(options) if going_on else begun(options)
    print(introduction(this, going_on), flush=True)
    with StopRequest() as stop:
        finished = this.train(
            save_every=options.save_every,
            stop=stop,
            on_epoch_end=lambda epoch: print(line(epoch), flush=True),
        )
    if not finished:
        return stopped(this, stop)
    return report(this)


def begun(options):
    """A new Run in the folder `--out`."""
    if options.model is None:
        raise ValueError("expected --model, a name that `minires summary` knows, or --resume")
    settings = changed(Settings("resnet8", "digits", RECIPES["adam"]), options)
    folder = make_folder(options.out or OUT)
    saved = folder / CHECKPOINT
    if (saved.exists() or previous_path(saved).exists()) and not options.overwrite:
        raise ValueError(
            f"expected a folder without a run, got {str(folder)!r}: go on with it by --resume, "
            f"replace it by --overwrite, or give another --out"
        )
    this = begin(folder, settings, settings.load_data(options.download))
    warn_of_late_steps(settings.recipe, this.trainer.total)
    return this


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


def resumed(options):
    """The Run in the folder of `--resume`, if the other options do not contradict it."""
    folder = Path((options.out or OUT) if options.resume is True else options.resume)
    if options.resume is not True and options.out not in (None, options.resume):
        raise ValueError(f"expected one folder, got --resume {folder} and --out {options.out}")
    if options.overwrite:
        raise ValueError("expected either --resume or --overwrite, got both")
    saved = opened(folder)
    wanted = changed(saved.settings, options)
    if wanted != changed(saved.settings, None, root=wanted.root):
        raise ValueError(
            f"a run goes on as it was begun: expected {told(saved.settings)}, "
            f"got {told(wanted)}; begin another with another --out"
        )
    make_folder(folder)
    return resume(folder, saved._replace(settings=wanted), wanted.load_data(options.download))


def opened(folder):
    """What a run folder holds; a warning if the newest checkpoint is damaged."""
    saved = open_saved(folder)
    if saved.problem is not None:
        print(f"minires: warning: {saved.problem}; using {saved.path}", file=sys.stderr)
    return saved


def data_of(saved, options):
    """The settings of a run, with the files where they are now, and its Dataset."""
    settings = saved.settings
    if options.data_root is not None:
        settings = settings.changed(root=str(Path(options.data_root).absolute()))
    return settings, settings.load_data(options.download)


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


def report(this):
    """Write the report and print its first line."""
    tell(this.report())
    print(f"wrote report.md, its pictures, the history and the checkpoint into {this.folder}")
    return 0


def tell(results):
    """Print the error, and what it is with mirror images."""
    from minires.runs.report import MIRRORED, describe, percent  # matplotlib takes a second

    print(f"test error {describe(results)}")
    if results.mirrored is not None:
        print(f"{MIRRORED} {percent(results.mirrored_error, len(results.labels))}")


# ---- from options to settings


def changed(settings, options, **values):
    """Settings with what was asked for on the command line."""
    if options is not None:
        given = {name: getattr(options, name) for name in PLAIN}
        values |= {name: value for name, value in given.items() if value is not None}
        if "data" in values and Path(values["data"]).is_dir() and values["data"] not in NAMED:
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
        decay = {"decay": "weights"} if "weight_decay" not in held else {}  # not biases and norms
        values["optimizer_options"] = held | decay | {"weight_decay": options.weight_decay}
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
