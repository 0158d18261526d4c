"""The PyTorch side of `cifar`: one recipe, step by step as a Trainer of minires takes it.

Imported inside worker processes only.
"""

from functools import partial

import torch

from benchmarks import peers, tasks
from benchmarks.theirs import their_path, to_torch
from minires.data import ahead, split
from minires.models import build
from minires.ops import reference
from minires.runs import Trainer
from minires.runs.trainer import order


class Training:
    """PyTorch's network and what it is trained with; arguments as in `our_training.Training`.

    Batches, sizes and rates are those of a Trainer that does not train.
    """

    def __init__(self, name, model, recipe, data, seed):
        eager = name == "torch-eager"
        self.layout = torch.contiguous_format if eager else torch.channels_last
        self.net = peer(model, seed).to(memory_format=self.layout)
        self.optimizer = make_optimizer(self.net, recipe)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        # the reference: Numba and its threads stay away from PyTorch's
        plain = build(model, rng=seed, ops=reference)
        self.guide = Trainer(plain, data, recipe, seed=seed, ops=reference)
        self.step, self.error = 0, None

    def run(self):
        """What `our_training.Training.run` does, step by step, with as many evaluations."""
        guide, every = self.guide, self.guide.recipe.test_every
        for epoch in range(guide.epochs):
            self.epoch(epoch)
            if (epoch + 1) % every == 0 or epoch + 1 == guide.epochs:
                self.error = error_on_test(self.net, guide.preprocess, guide.data, self.layout)

    def epoch(self, epoch):
        """One pass over the training images, or what is left of the steps."""
        guide, count = self.guide, len(self.guide.data.x_train)
        todo = split(order(guide.seed, epoch, count), guide.recipe.batch_size)
        self.net.train()
        for x, labels in ahead(partial(guide.batch, epoch=epoch), todo[: guide.total - self.step]):
            self.optimizer.set_rate(guide.schedule(self.step))
            self.optimizer.zero_grad()
            logits = self.net(as_images(x, self.layout))
            self.loss(logits, torch.from_numpy(labels)).backward()
            self.optimizer.step()
            self.step += 1


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
    """PyTorch's optimiser of the recipe, the fastest on a CPU."""
    options = dict(recipe.optimizer_options)
    decay, apart = options.pop("weight_decay", 0.0), options.pop("decay", "all") == "weights"
    groups = by_kind(list(model.parameters()), decay, 0.0 if apart else decay)
    if recipe.optimizer == "muon":
        return Both(groups, recipe.lr, **options)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return Single(kinds[recipe.optimizer](groups, recipe.lr, **options, fused=True))


def by_kind(parameters, decay, decay_of_vectors):
    """Kernels, matrices, vectors: a group each, for PyTorch updates a group in one call."""
    kinds = {4: decay, 2: decay, 1: decay_of_vectors}
    found = {ndim: [p for p in parameters if p.ndim == ndim] for ndim in kinds}
    return [{"params": found[n], "weight_decay": kinds[n]} for n in kinds if found[n]]


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

    def __init__(self, groups, lr, **options):
        (kernels,) = (g for g in groups if g["params"][0].ndim == 4)
        self.kernels, self.decay = kernels["params"], kernels["weight_decay"]
        self.others = [g for g in groups if g is not kernels]
        plain = [p for g in self.others for p in g["params"]]
        self.momentum, self.nesterov = options["momentum"], options["nesterov"]
        self.rest, self.iterations = options["rest"], options["iterations"]
        self.radius = options["radius"]
        how = {"momentum": self.momentum, "nesterov": self.nesterov, "fused": True}
        self.sgd = torch.optim.SGD(plain, self.rest * lr, **how)
        self.velocity = [torch.zeros_like(w) for w in self.kernels]

    def set_rate(self, lr):
        self.lr = lr
        for group in self.sgd.param_groups:
            group["lr"] = self.rest * lr

    def zero_grad(self):
        self.sgd.zero_grad()
        for w in self.kernels:
            w.grad = None

    def step(self):
        with torch.no_grad():
            for group in self.others:
                for w in group["params"]:
                    w.mul_(1 - self.rest * self.lr * group["weight_decay"])
            for w, v in zip(self.kernels, self.velocity, strict=True):
                self.move(w, v)
        self.sgd.step()

    def move(self, w, v):
        """One kernel (F, C, KH, KW)."""
        v.mul_(self.momentum).add_(w.grad)
        g = w.grad + self.momentum * v if self.nesterov else v
        step = newton_schulz(g.flatten(1), self.iterations)
        w.mul_(1 - self.lr * self.decay)
        if self.radius is not None and w.any():
            w.mul_(self.radius * min(step.shape) ** 0.5 / w.norm())
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
