"""train plain and residual networks on digits and draw what happened to their gradients"""

import csv
import dataclasses
from typing import NamedTuple

from minires.cli.arguments import OPS, add_ops, make_folder, positive_int, seed
from minires.data import load_digits
from minires.flow import gradient_norms, residual_ledger
from minires.history import History
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet
from minires.models.summary import align
from minires.optimizers import Adam
from minires.training import fit

EXAMPLE = "minires demo --out demo"
SHALLOW, DEEP = 8, 56


class Run(NamedTuple):
    """One network: gradient norms before and after training, what training measured, the ledger."""

    start: list
    end: list
    history: History
    ledger: list = ()


def add_arguments(parser):
    """The options of the command."""
    add = parser.add_argument
    add("--out", default="minires_demo", metavar="DIR", help="default minires_demo")
    add("--epochs", type=positive_int, default=8, metavar="E", help="default 8, a minute or so")
    add("--seed", type=seed, default=0, metavar="S", help="default 0")
    add_ops(parser)


def run(options):
    """Train four networks, measure two more, write and say what was seen."""
    folder = make_folder(options.out)
    data = load_digits()
    print(f"{data}; Adam 1e-3, batch 64, {options.epochs} epochs, seed {options.seed}")
    runs = {
        f"{kind}-{depth}": train(kind, depth, data, options)
        for depth in (SHALLOW, DEEP)
        for kind in ("plain", "residual")
    }
    bare = {
        f"{kind}-{DEEP} without norm": gradient_norms(
            network(kind, DEEP, data, options, norm=None), *sample(data)
        )
        for kind in ("plain", "residual")
    }
    write(folder, runs, bare)
    print(table(runs, bare))
    print(sentence(runs, bare))
    print(f"wrote gradient_norms.png, ledger.png, training.png and history.csv into {folder}")
    return 0


def network(kind, depth, data, options, norm="batch"):
    """A fresh network for the images of `data`."""
    given = {"rng": options.seed, "ops": OPS[options.ops]}
    return cifar_resnet(depth, kind=kind, norm=norm, input_shape=data.input_shape, **given)


def sample(data):
    """The images on which gradients are measured."""
    return data.x_train[:256], data.y_train[:256]


def train(kind, depth, data, options):
    """Train one network and measure its gradients before and after."""
    ops = OPS[options.ops]
    model = network(kind, depth, data, options)
    start = gradient_norms(model, *sample(data))
    optimizer, loss = Adam(model.parameters(), 1e-3, ops=ops), SoftmaxCrossEntropy(ops=ops)
    history = fit(model, data, optimizer, options.epochs, loss=loss, rng=options.seed)
    seconds = sum(history.column("seconds"))
    accuracy = history[-1].test_accuracy
    print(f"{kind}-{depth}: test accuracy {accuracy:.3f} after {seconds:.0f} s", flush=True)
    ledger = residual_ledger(model, *sample(data), ops=ops) if kind == "residual" else ()
    return Run(start, gradient_norms(model, *sample(data)), history, ledger)


def ends(norms):
    """Gradient norms of the first, the middle and the last convolution; the dense layer is last."""
    convolutions = [norm.norm for norm in norms[:-1]]
    return convolutions[0], convolutions[len(convolutions) // 2], convolutions[-1]


def table(runs, bare):
    """All networks with their gradient norms and accuracies, as text."""
    head = "gradient norm, first / middle / last convolution"
    rows = [("network", f"{head}: initial", "trained", "test accuracy")]
    for name, result in runs.items():
        accuracy = f"{result.history[-1].test_accuracy:.3f}"
        rows.append((name, show(result.start), show(result.end), accuracy))
    rows += [(name, show(norms), "-", "-") for name, norms in bare.items()]
    return align(rows, left=3)


def show(norms):
    return " / ".join(f"{value:.2g}" for value in ends(norms))


def sentence(runs, bare):
    """What was seen, in one sentence, from the numbers and not from the textbook."""
    plain, residual = (ends(runs[f"{kind}-{DEEP}"].start) for kind in ("plain", "residual"))
    plain_bare, residual_bare = (
        ends(bare[f"{kind}-{DEEP} without norm"]) for kind in ("plain", "residual")
    )
    accuracy = {
        kind: runs[f"{kind}-{DEEP}"].history[-1].test_accuracy for kind in ("plain", "residual")
    }
    vanishes, explodes = max(plain_bare) < 1e-3, plain[0] > 10 * plain[-1]
    cured = max(residual) < 10 * min(residual) and min(residual_bare) > 1e-3
    numbers = (
        f"first convolution of {DEEP} layers: plain {plain_bare[0]:.1e} without and {plain[0]:.3g} "
        f"with batch norm, residual {residual_bare[0]:.3g} and {residual[0]:.3g}; test accuracy "
        f"plain {accuracy['plain']:.3f}, residual {accuracy['residual']:.3f}"
    )
    if vanishes and explodes and cured and accuracy["residual"] > accuracy["plain"]:
        claim = "Batch norm turns vanishing into exploding, and the identity path cures both"
        return f"{claim} ({numbers})."
    seen = [
        f"without batch norm the plain gradient {'vanishes' if vanishes else 'does not vanish'}",
        f"with it the plain gradient {'explodes' if explodes else 'does not explode'}",
        f"the identity path {'cures' if cured else 'does not cure'} both",
    ]
    return f"Not the textbook's picture this time: {', '.join(seen)} ({numbers})."


def write(folder, runs, bare):
    """Three figures, and the history of all networks in one file."""
    from minires import plots  # matplotlib takes a second to import

    start = {name: result.start for name, result in runs.items()} | bare
    end = {name: result.end for name, result in runs.items()}
    plots.gradient_norm_figure({"at initialisation": start, "after training": end}).savefig(
        folder / "gradient_norms.png", dpi=150
    )
    histories = {name: result.history for name, result in runs.items()}
    ledger = plots.ledger(runs[f"residual-{DEEP}"].ledger)
    ledger.set_title(f"Where the gradient of residual-{DEEP} comes from, after training")
    ledger.figure.savefig(folder / "ledger.png", dpi=150)
    plots.training_figure(histories).savefig(folder / "training.png", dpi=150)
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [
            {"network": name} | dataclasses.asdict(epoch)
            for name, history in histories.items()
            for epoch in history
        ]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
