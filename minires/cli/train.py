"""train a model and write its history and curves into a folder"""

import json

import numpy as np

from minires import __version__
from minires.cli.arguments import OPS, add_ops, make_folder, non_negative, positive_int, seed
from minires.data import LOADERS, count_batches
from minires.history import describe
from minires.losses import SoftmaxCrossEntropy
from minires.models import BUILDERS, build
from minires.optimizers import SGD, Adam, AdamW
from minires.schedules import Constant, Cosine, OneCycle
from minires.training import fit

EXAMPLE = "minires train --model resnet20 --data digits --epochs 5 --out run"

OPTIMIZERS = {
    "adam": (Adam, 1e-3, {}),
    "adamw": (AdamW, 1e-3, {}),
    "sgd": (SGD, 0.1, {"momentum": 0.9}),
}
SCHEDULES = {
    "constant": lambda lr, steps: Constant(lr),
    "cosine": Cosine,
    "one-cycle": OneCycle,
}


def add_arguments(parser):
    """The options of the command."""
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help="a name that `minires summary` knows")
    add("--data", choices=LOADERS, default="digits", help="default digits")
    add("--out", default="minires_run", metavar="DIR", help="default minires_run")
    add("--epochs", type=positive_int, default=5, metavar="E", help="default 5")
    add("--batch-size", type=positive_int, default=64, metavar="N", help="default 64")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="default adam; sgd has momentum .9")
    add("--lr", type=non_negative, metavar="LR", help="learning rate; 0.001, for sgd 0.1")
    add("--weight-decay", type=non_negative, metavar="WD", help="not for biases and norms")
    add("--schedule", choices=SCHEDULES, default="constant", help="default constant")
    add("--shortcut", choices=("A", "B"), help="where a block changes shape: pad or project")
    add("--no-norm", action="store_true", help="leave out batch norm")
    add_ops(parser)
    add("--seed", type=seed, default=0, metavar="S", help="default 0")


def run(options):
    """Train, then write the run folder."""
    data, model, optimizer = prepare(options)
    folder = make_folder(options.out)
    steps = options.epochs * count_batches(len(data.x_train), options.batch_size)
    schedule = SCHEDULES[options.schedule](optimizer.lr, steps)
    print(f"{options.model} on {data}: {optimizer!r}, {schedule!r}")
    history = fit(
        model,
        data,
        optimizer,
        options.epochs,
        batch_size=options.batch_size,
        loss=SoftmaxCrossEntropy(ops=OPS[options.ops]),
        schedule=schedule,
        rng=options.seed,
        on_epoch_end=lambda epoch: print(describe(epoch), flush=True),
    )
    write(folder, options, history, optimizer=repr(optimizer), schedule=repr(schedule))
    print(f"wrote recipe.json, history.csv, history.jsonl and curves.png into {folder}")
    return 0


def prepare(options):
    """The data, the model and the optimiser that the options ask for."""
    if options.model not in BUILDERS:
        names = ", ".join(BUILDERS)
        raise ValueError(f"expected --model to be one of {names}, got {options.model!r}")
    choices = {} if options.shortcut is None else {"shortcut": options.shortcut}
    if options.no_norm:
        choices["norm"] = None
    if choices and options.model == "article_resnet":
        raise ValueError("article_resnet expects neither --shortcut nor --no-norm, got one")
    data = LOADERS[options.data]()
    model = build(
        options.model,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        rng=options.seed,
        ops=OPS[options.ops],
        **choices,
    )
    kind, lr, more = OPTIMIZERS[options.optimizer]
    more = more | {"ops": OPS[options.ops]}
    lr = lr if options.lr is None else options.lr
    if options.weight_decay is not None:
        more = more | {"weight_decay": options.weight_decay, "decay": "weights"}
    return data, model, kind(model.parameters(), lr, **more)


def write(folder, options, history, **resolved):
    """The run folder: what was asked for, what was measured, and the curves."""
    from minires import plots  # matplotlib takes a second to import

    recipe = {name: value for name, value in vars(options).items() if name != "run"}
    recipe |= resolved | {"minires": __version__, "numpy": np.__version__}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    history.to_csv(folder / "history.csv")
    history.to_jsonl(folder / "history.jsonl")
    plots.training_figure({options.model: history}).savefig(folder / "curves.png", dpi=150)
