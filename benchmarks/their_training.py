"""The PyTorch side of `cifar`: one recipe, step by step as a Trainer of minires takes it.

Imported inside worker processes only.
"""

from functools import partial

import torch

from benchmarks import peers, tasks
from benchmarks.theirs import their_path, to_torch
from minires.data import ahead, split
from minires.models import build
from minires.runs import Trainer
from minires.runs.trainer import order


def train_theirs(model, recipe, data, number, channels_last):
    """The same in PyTorch: its error on the test images, which are classified as often."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = trained_peer(model, recipe, data, number, layout)
    return error_on_test(net, recipe.make_preprocess(data.x_train, number), data, layout)


def trained_peer(model, recipe, data, number, layout):
    """PyTorch's network after the training of `train_ours`, step by step."""
    net = peer(model, number).to(memory_format=layout)
    optimizer = make_optimizer(net, recipe)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    # batches, sizes and rates are those of a Trainer that does not train
    guide = Trainer(build(model, rng=number), data, recipe, seed=number)
    step = 0
    for epoch in range(guide.epochs):
        todo = split(order(number, epoch, len(data.x_train)), recipe.batch_size)
        net.train()
        make = partial(guide.batch, epoch=epoch)
        for x, labels in ahead(make, todo[: guide.total - step]):
            optimizer.set_rate(guide.schedule(step))
            optimizer.zero_grad()
            loss_of(net(as_images(x, layout)), torch.from_numpy(labels)).backward()
            optimizer.step()
            step += 1
        if (epoch + 1) % recipe.test_every == 0 and epoch + 1 < guide.epochs:
            error_on_test(net, guide.preprocess, data, layout)
    return net


def peer(name, number):
    """The network with the first weights that minires gives it for this seed."""
    model = peers.build(name, {})
    state = tasks.state(build(name, rng=number))
    found = {their_path(path): to_torch(array) for path, array in state.items()}
    missing, unexpected = model.load_state_dict(found, strict=False)
    forgotten = [path for path in missing if not path.endswith("num_batches_tracked")]
    if forgotten or unexpected:
        raise ValueError(f"the networks differ: {forgotten} and {unexpected}")
    return model


def as_images(x, layout):
    """(N, H, W, C) as a tensor (N, C, H, W)."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def error_on_test(model, preprocess, data, layout, at_once=256):
    """Share of test images that are classified wrongly."""
    model.eval()
    wrong = 0
    with torch.inference_mode():
        for start in range(0, len(data.x_test), at_once):
            x = as_images(preprocess(data.x_test[start : start + at_once]), layout)
            labels = data.y_test[start : start + at_once]
            wrong += int((model(x).argmax(dim=1).numpy() != labels).sum())
    return wrong / len(data.x_test)


def make_optimizer(model, recipe):
    """PyTorch's optimiser of the recipe."""
    named = list(model.named_parameters())
    options = dict(recipe.optimizer_options)
    decay, apart = options.pop("weight_decay", 0.0), options.pop("decay", "all") == "weights"
    groups = [
        {"params": [p], "weight_decay": decay if p.ndim > 1 or not apart else 0.0} for _, p in named
    ]
    if recipe.optimizer == "muon":
        return Both(groups, recipe.lr, **options)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return Single(kinds[recipe.optimizer](groups, recipe.lr, **options))


class Single:
    """One of PyTorch's optimisers."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.zero_grad, self.step = optimizer.zero_grad, optimizer.step

    def set_rate(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr


class Both:
    """Muon for kernels, in float32 as in minires, and PyTorch's SGD for the rest.

    torch.optim.Muon takes matrices only and rounds to bfloat16.
    """

    def __init__(self, groups, lr, momentum=0.9, nesterov=True, rest=5.0, iterations=5):
        self.kernels = [g for g in groups if g["params"][0].ndim == 4]
        self.others = [g for g in groups if g["params"][0].ndim != 4]
        plain = [g | {"weight_decay": 0.0} for g in self.others]
        self.sgd = torch.optim.SGD(plain, rest * lr, momentum=momentum, nesterov=nesterov)
        self.momentum, self.nesterov = momentum, nesterov
        self.rest, self.iterations = rest, iterations
        self.velocity = [torch.zeros_like(g["params"][0]) for g in self.kernels]

    def set_rate(self, lr):
        self.lr = lr
        for group in self.sgd.param_groups:
            group["lr"] = self.rest * lr

    def zero_grad(self):
        for group in self.kernels + self.others:
            group["params"][0].grad = None

    def step(self):
        with torch.no_grad():
            for group in self.others:
                group["params"][0].mul_(1 - self.rest * self.lr * group["weight_decay"])
            for group, v in zip(self.kernels, self.velocity, strict=True):
                self.move(group["params"][0], v, group["weight_decay"])
        self.sgd.step()

    def move(self, w, v, decay):
        """One kernel (F, C, KH, KW)."""
        v.mul_(self.momentum).add_(w.grad)
        g = w.grad + self.momentum * v if self.nesterov else v
        step = newton_schulz(g.flatten(1), self.iterations)
        w.mul_(1 - self.lr * decay)
        longer = max(1, step.shape[0] / step.shape[1]) ** 0.5
        w.add_(step.view_as(w), alpha=-self.lr * longer)


def newton_schulz(g, iterations):
    """As `minires.ops.reference.orthogonalize`."""
    x = g if len(g) <= g.shape[1] else g.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        s = x @ x.T
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * (s @ s)) @ x
    return x if len(g) <= g.shape[1] else x.T
