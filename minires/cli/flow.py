"""record what flows through some models while they train, compare and draw it; or draw a log"""

import math
import warnings
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from minires.cli.arguments import OPS, add_ops, make_folder, non_negative, positive_int, seed
from minires.data import LOADERS, batches
from minires.finite import NonFiniteError
from minires.flow import FlowLog, FlowRecorder, diagnose
from minires.losses import SoftmaxCrossEntropy
from minires.models import BUILDERS, build
from minires.models.summary import align
from minires.optimizers import Adam
from minires.training import evaluate, train_step

EXAMPLE = "minires flow --models plain20,resnet20,plain56,resnet56 --steps 100 --out flow"
MODELS = "plain20,resnet20,plain56,resnet56"
RECORDED = 20  # steps, unless --every says otherwise
TRAINING = {  # options and defaults; argparse has None for all, to tell what was given
    "models": MODELS.split(","),
    "data": "digits",
    "steps": 100,
    "every": None,
    "batch_size": 64,
    "lr": 1e-3,
    "no_norm": False,
    "seed": 0,
    "ops": "fast",
}


class Run(NamedTuple):
    """One model: what was recorded, and what training came to.

    Attributes
    ----------
    log : FlowLog
    accuracy : float or None
        On the test images; None for a log from a file, or if training stopped.
    stopped : NonFiniteError or None
    """

    log: FlowLog
    accuracy: float | None = None
    stopped: Exception | None = None


def add_arguments(parser):
    """The options of the command."""
    add = parser.add_argument
    add("--models", type=names, metavar="A,B,...", help=f"default {MODELS}")
    add("--data", choices=LOADERS, help="default digits")
    add("--steps", type=positive_int, metavar="S", help="default 100")
    add("--every", type=positive_int, metavar="K", help=f"default: about {RECORDED} in all")
    add("--batch-size", type=positive_int, metavar="N", help="default 64")
    add("--lr", type=non_negative, metavar="LR", help="of Adam; default 0.001")
    add("--no-norm", action="store_const", const=True, help="leave out batch norm")
    add("--log", nargs="+", metavar="FILE", help="draw from these .csv or .jsonl logs instead")
    add("--out", default="minires_flow", metavar="DIR", help="default minires_flow")
    add("--seed", type=seed, metavar="S", help="default 0")
    add_ops(parser)
    parser.set_defaults(ops=None)


def names(text):
    """["plain20", "resnet20"] of "plain20,resnet20"."""
    return [name.strip() for name in text.split(",")]


def run(options):
    """Record or read, draw, print the comparison and what is wrong."""
    if options.log:
        expect_no_training(options)
        runs = read_all(options.log)
        figure = draw(runs)  # nothing is printed or written if there is nothing to draw
        folder = make_folder(options.out)
    else:
        fill_in(options)
        data, models = prepare(options)
        folder = make_folder(options.out)
        runs = train_all(data, models, options, folder)
        figure = draw(runs)
    save(figure, folder)
    print(table(runs))
    for name, result in runs.items():
        stopped = f"stopped: {result.stopped}\n" if result.stopped else ""
        print(f"\n{name}: {stopped}{diagnose(result.log)}")
    logs = "" if options.log else " and the log of each model, .csv and .jsonl,"
    print(f"\nwrote flow.png{logs} into {folder}")
    return 1 if any(result.stopped for result in runs.values()) else 0


def expect_no_training(options):
    """Refuse options that a log from a file cannot follow."""
    given = [name for name in TRAINING if getattr(options, name) is not None]
    if given:
        named = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"flow expects either {named} to train or --log to read, got both")


def fill_in(options):
    """Defaults for what was not given."""
    for name, value in TRAINING.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def read_all(files):
    """{name: Run} of log files; the name is the file's, without its suffix."""
    runs, seen = {}, set()
    for file in map(Path, files):
        if not file.is_file():
            raise ValueError(f"flow expects --log to be files, got {str(file)!r}, which is none")
        if file.resolve() in seen:
            raise ValueError(f"flow expects each --log once, got {str(file)!r} again")
        seen.add(file.resolve())
        log = FlowLog.read(file)
        if not len(log):
            raise ValueError(f"flow expects recorded steps in {str(file)!r}, got an empty log")
        name = file.stem if file.stem not in runs else str(file)
        runs[name] = Run(log)
    return runs


def prepare(options):
    """The data, and {name: model}."""
    wanted = options.models
    for name in wanted:
        if name not in BUILDERS:
            known = ", ".join(BUILDERS)
            raise ValueError(f"flow expects --models to be out of {known}, got {name!r}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"flow expects each of --models once, got {','.join(wanted)}")
    if options.no_norm and "article_resnet" in wanted:
        raise ValueError("flow expects no --no-norm with article_resnet, got both")
    data = LOADERS[options.data]()
    given = {
        "num_classes": data.num_classes,
        "input_shape": data.input_shape,
        "rng": options.seed,
        "ops": OPS[options.ops],
    }
    given |= {"norm": None} if options.no_norm else {}
    return data, {name: build(name, **given) for name in wanted}


def train_all(data, models, options, folder):
    """Train and record one model after the other, and write each one's log, whatever happens."""
    every = options.every or max(1, options.steps // RECORDED)
    print(
        f"{data}; Adam {options.lr:g}, batch {options.batch_size}, {options.steps} steps, "
        f"recorded every {every}, seed {options.seed}",
        flush=True,
    )
    runs, written = {}, []
    try:
        for name, model in models.items():
            recorder = FlowRecorder(model, every=every, ops=OPS[options.ops])
            try:
                runs[name] = train(name, recorder, data, options)
            finally:
                written += write(recorder, folder, name)
    except KeyboardInterrupt:
        print(f"\nwrote {', '.join(written)} into {folder}" if written else "\nwrote nothing")
        raise
    return runs


def write(log, folder, name):
    """A log in both formats, if there is anything in it; returns the names of the files."""
    if not len(log):
        return []
    files = [f"{name}.csv", f"{name}.jsonl"]
    log.to_csv(folder / files[0])
    log.to_jsonl(folder / files[1])
    return files


def train(name, recorder, data, options):
    """Some steps of training with a recorder around them."""
    model, ops = recorder.model, OPS[options.ops]
    optimizer, loss = Adam(model.parameters(), options.lr, ops=ops), SoftmaxCrossEntropy(ops=ops)
    steps = islice(endless(data, options.batch_size, options.seed), options.steps)
    with recorder:
        bar = tqdm(steps, name, total=options.steps, unit="step", disable=None, leave=False)
        try:
            for x, labels in bar:
                value, _ = train_step(model, loss, optimizer, x, labels)
                bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
        except NonFiniteError as error:
            return Run(recorder, stopped=error)
        finally:
            bar.close()
    accuracy = evaluate(model, data.x_test, data.y_test, loss=loss).accuracy
    return Run(recorder, accuracy)


def endless(data, batch_size, rng):
    """Batches, epoch after epoch, each in a new order."""
    epoch = 0
    while True:
        yield from batches(data.x_train, data.y_train, batch_size, [rng, epoch])
        epoch += 1


def table(runs):
    """The models side by side, at the first and the last recorded step."""
    rows = [("model", "step", "gradient norm first / middle / last", "through identity", "test")]
    for name, result in runs.items():
        log = result.log
        for step in dict.fromkeys((log.steps[0], log.steps[-1])):
            accuracy = result.accuracy if step == log.steps[-1] else None
            shown = "-" if accuracy is None else f"{accuracy:.3f}"
            rows.append((name, str(step), show_norms(log, step), show_share(log, step), shown))
    return align(rows, left=1)


def show_norms(log, step):
    """Gradient norms of three weights."""
    norms = [norm.norm for norm in log.gradient_norms(step)]
    chosen = (norms[0], norms[len(norms) // 2], norms[-1]) if norms else ()
    return " / ".join(f"{norm:.2g}" for norm in chosen) or "-"


def show_share(log, step):
    """The share of the gradient that came through the shortcuts, from the first to the last."""
    shares = [r.shortcut_share for r in log.at(step).residuals if math.isfinite(r.shortcut_share)]
    return f"{shares[0]:.0%} first block, {shares[-1]:.0%} last" if shares else "-"


def draw(runs):
    """The comparison as a figure."""
    from minires import plots  # matplotlib takes a second to import

    return plots.flow_figure({name: result.log for name, result in runs.items()})


def save(figure, folder):
    """Write the figure; letters of file names that its font lacks become boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(folder / "flow.png", dpi=150)
