"""Makes the frozen answers of PyTorch, tests/oracles/*.npz; run by hand.

    pip install torch==2.13.0 && python tests/oracles/make_oracles.py [NAME ...]

An array is called case/name in its file. PyTorch computes in float64, and in float32 for one half
of the optimisers. Inputs are rounded to float32 first, so that float32 runs start from the very
same numbers. Leaves have minires' layout, images (N, H, W, C) and weights (KH, KW, C // groups, F),
and are turned to PyTorch's inside the graph, so that their gradients come back in minires' layout.
Imports nothing of minires: an oracle must not use the code that it judges.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

FOLDER = Path(__file__).parent
DOUBLE = torch.float64


def main():
    made = {make.__name__: make for make in (conv, pool, norm, loss, optimizers, schedules, resnet)}
    for make in [made[name] for name in sys.argv[1:] or made]:
        path = FOLDER / f"{make.__name__}.npz"
        cases = make(np.random.default_rng(0))
        arrays = {f"{case}/{name}": a for case, named in cases.items() for name, a in named.items()}
        np.savez_compressed(path, **{name: plain(a) for name, a in arrays.items()})
        print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size:,} bytes")


def normal(rng, *shape):
    """Standard normal numbers that float32 can hold, in float64."""
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def leaf(array, dtype=DOUBLE):
    return torch.tensor(array, dtype=dtype, requires_grad=True)


def plain(array):
    """Tensor, number or list as a NumPy array that owns its numbers."""
    if isinstance(array, torch.Tensor):
        array = array.detach().numpy()
    return np.array(array, order="C")


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def padded(x, padding, value=0.0):
    """NCHW with any ((top, bottom), (left, right)): PyTorch's ops pad both sides the same."""
    (top, bottom), (left, right) = padding
    return functional.pad(x, (left, right, top, bottom), value=value)


def with_gradients(y, dy, leaves):
    """The leaves, y, dy and the gradient of every leaf, dx for x."""
    y.backward(torch.tensor(dy, dtype=y.dtype))
    gradients = {f"d{name}": value.grad for name, value in leaves.items()}
    return {**leaves, "dy": dy, "y": y, **gradients}


# ---- convolution


def conv(rng):
    def case(x_shape, w_shape, stride=(1, 1), padding=((0, 0), (0, 0)), bias=True, **more):
        options = {"stride": stride, "dilation": (1, 1), "groups": 1} | more
        leaves = {"x": leaf(normal(rng, *x_shape)), "w": leaf(normal(rng, *w_shape))}
        if bias:
            leaves["b"] = leaf(normal(rng, w_shape[-1]))
        image, weight = padded(nchw(leaves["x"]), padding), leaves["w"].permute(3, 2, 0, 1)
        y = nhwc(functional.conv2d(image, weight, leaves.get("b"), **options))
        arrays = with_gradients(y, normal(rng, *y.shape), leaves)
        return {**arrays, **options, "padding": padding}

    one = ((1, 1), (1, 1))
    uneven = ((2, 0), (1, 3))
    return {
        "3x3": case((2, 5, 7, 3), (3, 3, 3, 4), padding=one),
        "3x3-stride-2": case((2, 7, 6, 3), (3, 3, 3, 4), (2, 2), one),
        "stride-3-by-2": case((2, 8, 9, 2), (3, 2, 2, 3), (3, 2), ((1, 1), (0, 0))),
        "stride-beyond-kernel": case((2, 8, 7, 2), (2, 1, 2, 3), (3, 3)),
        "1x1": case((2, 4, 3, 5), (1, 1, 5, 2)),
        "1x1-stride-2": case((2, 6, 5, 3), (1, 1, 3, 4), (2, 2)),
        "kernel-3-by-5": case((1, 5, 8, 2), (3, 5, 2, 3), padding=((1, 1), (2, 2))),
        "kernel-as-large-as-image": case((3, 4, 5, 2), (4, 5, 2, 6)),
        "asymmetric-padding": case((2, 5, 4, 2), (3, 3, 2, 3), padding=uneven),
        "7x7-stride-2-pads-2-and-3": case(
            (1, 10, 8, 3), (7, 7, 3, 2), (2, 2), padding=((2, 3), (2, 3))
        ),
        "dilation-2-by-3": case((2, 9, 10, 2), (3, 3, 2, 3), padding=one, dilation=(2, 3)),
        "two-groups": case((2, 5, 6, 4), (3, 3, 2, 6), padding=one, groups=2),
        "depthwise": case((2, 6, 5, 4), (3, 3, 1, 4), padding=one, groups=4),
        "depthwise-two-filters-a-channel": case((2, 5, 5, 3), (3, 3, 1, 6), (2, 1), one, groups=3),
        "no-bias": case((2, 5, 6, 3), (3, 3, 3, 4), padding=one, bias=False),
        "everything-at-once": case(
            (3, 9, 7, 6), (3, 2, 3, 4), (2, 3), uneven, dilation=(1, 2), groups=2
        ),
    }


# ---- pooling


def pool(rng):
    def case(function, x, kernel_size, stride, padding, **options):
        leaves = {"x": leaf(x)}
        options = {"kernel_size": kernel_size, "stride": stride} | options
        y = nhwc(function(nchw(leaves["x"]), padding, **options))
        return {
            **with_gradients(y, normal(rng, *y.shape), leaves),
            **options,
            "padding": padding,
        }

    def largest(x, padding, **options):
        return functional.max_pool2d(padded(x, padding, -torch.inf), **options)

    def mean(x, padding, count_include_pad, **options):
        """Both sides alike here: only so PyTorch knows which zeros are padding."""
        sides = tuple(before for before, _ in padding)
        return functional.avg_pool2d(
            x, padding=sides, count_include_pad=count_include_pad, **options
        )

    def global_mean():
        x = leaf(normal(rng, 2, 5, 3, 4))
        y = functional.adaptive_avg_pool2d(nchw(x), 1)[:, :, 0, 0]
        return with_gradients(y, normal(rng, 2, 4), {"x": x})

    x, wide, none = normal(rng, 2, 7, 8, 3), normal(rng, 2, 6, 9, 3), ((0, 0), (0, 0))
    one, uneven, tied = ((1, 1), (1, 1)), ((0, 1), (1, 0)), rng.integers(0, 3, (2, 6, 7, 3))
    include, exclude = {"count_include_pad": True}, {"count_include_pad": False}
    return {
        "max/2x2": case(largest, x, (2, 2), (2, 2), none),
        "max/3x3-stride-2-padded": case(largest, x, (3, 3), (2, 2), one),
        "max/3x2-stride-1-by-3": case(largest, wide, (3, 2), (1, 3), none),
        "max/asymmetric-padding": case(largest, wide, (3, 3), (2, 2), uneven),
        "max/ties": case(largest, tied, (3, 3), (2, 1), one),
        "average/2x2": case(mean, x, (2, 2), (2, 2), none, **include),
        "average/overlapping": case(mean, wide, (3, 2), (1, 1), none, **include),
        "average/padding-counted": case(mean, x, (3, 3), (2, 2), one, **include),
        "average/padding-not-counted": case(mean, x, (3, 3), (2, 2), one, **exclude),
        "average/3x5-padding-not-counted": case(
            mean, wide, (3, 5), (1, 3), ((1, 1), (2, 2)), **exclude
        ),
        "global/5x3": global_mean(),
    }


# ---- batch normalisation


def norm(rng):
    def case(x, eps=1e-5, momentum=0.1):
        C = x.shape[-1]
        gamma, beta, dy = normal(rng, C), normal(rng, C), normal(rng, *x.shape)
        mean, var = torch.zeros(C, dtype=DOUBLE), torch.ones(C, dtype=DOUBLE)

        def run(training):
            leaves = {"x": leaf(x), "gamma": leaf(gamma), "beta": leaf(beta)}
            image = leaves["x"].movedim(-1, 1)
            y = functional.batch_norm(
                image, mean, var, leaves["gamma"], leaves["beta"], training, momentum, eps
            )
            return with_gradients(y.movedim(1, -1), dy, leaves)

        results = run(training=True)  # moves mean and var
        results |= {"running_mean": mean, "running_var": var, "eps": eps, "momentum": momentum}
        inference = run(training=False)
        outputs = {name: inference[name] for name in ("y", "dx", "dgamma", "dbeta")}
        return results | {f"inference_{name}": array for name, array in outputs.items()}

    scaled = (3 * normal(rng, 4, 3, 5, 3) + np.array([0.5, -2, 1])).astype(np.float32)
    constant = normal(rng, 3, 4, 2, 2)
    constant[..., 1] = 0.5
    far = (normal(rng, 4, 4, 4, 3) + 1e4).astype(np.float32)
    return {
        "images": case(scaled),
        "rows": case(normal(rng, 9, 4)),
        "two-rows": case(normal(rng, 2, 5)),
        "eps-and-momentum": case(normal(rng, 2, 3, 4, 3), eps=1e-3, momentum=0.01),
        "constant-channel": case(constant),
        "mean-1e4": case(far),
    }


# ---- losses, and what else acts on rows


def loss(rng):
    def cross_entropy(logits, labels, smoothing=0.0):
        z = leaf(logits)
        target = torch.tensor(labels)
        value = functional.cross_entropy(z, target, label_smoothing=smoothing)
        value.backward()
        return {
            "logits": logits,
            "labels": labels,
            "label_smoothing": smoothing,
            "loss": value,
            "dlogits": z.grad,
        }

    def elementwise(function, x):
        x = leaf(x)
        return with_gradients(function(x), normal(rng, *x.shape), {"x": x})

    def dense(N, D, K, bias=True):
        leaves = {"x": leaf(normal(rng, N, D)), "w": leaf(normal(rng, D, K))}
        if bias:
            leaves["b"] = leaf(normal(rng, K))
        y = functional.linear(leaves["x"], leaves["w"].T, leaves.get("b"))
        return with_gradients(y, normal(rng, N, K), leaves)

    logits, labels = 3 * normal(rng, 6, 5), rng.integers(0, 5, 6)
    soft = rng.multinomial(64, np.ones(5) / 5, 6) / 64  # sums to 1 exactly, in float32 too
    huge = 1e4 * np.sign(normal(rng, 6, 5)) + normal(rng, 6, 5)
    huge = huge.astype(np.float32).astype(np.float64)
    with_zeros = normal(rng, 3, 4)
    with_zeros[0], with_zeros[1, 1] = 0.0, -0.0
    return {
        "cross-entropy/labels": cross_entropy(logits, labels),
        "cross-entropy/one-row": cross_entropy(logits[:1], labels[:1]),
        "cross-entropy/smoothed": cross_entropy(logits, labels, 0.1),
        "cross-entropy/soft-labels": cross_entropy(logits, soft),
        "cross-entropy/soft-labels-smoothed": cross_entropy(logits, soft, 0.1),
        "cross-entropy/logits-1e4": cross_entropy(huge, labels),
        "cross-entropy/logits-1e4-smoothed": cross_entropy(huge, labels, 0.1),
        "softmax/normal": elementwise(lambda x: x.softmax(dim=1), logits),
        "softmax/logits-1e4": elementwise(lambda x: x.softmax(dim=1), huge),
        "relu/with-zeros": elementwise(torch.relu, with_zeros),
        "dense/bias": dense(4, 7, 3),
        "dense/no-bias": dense(3, 2, 5, bias=False),
        "dense/one-row": dense(1, 6, 4),
    }


# ---- optimisers


STEPS = 20
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd-momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd-nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd-weight-decay": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam-weight-decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adam-eps-1e-7": (torch.optim.Adam, {"lr": 0.01, "eps": 1e-7}),
    "adam-betas": (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95)}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.01}),
}
DROPS = {"sgd-momentum-lr-drop": "sgd-momentum", "adam-lr-drop": "adam"}  # lr / 10 after 10 steps
WEIGHTS_ONLY = {"sgd-decay-weights": "sgd-weight-decay", "adamw-decay-weights": "adamw"}


def optimizers(rng):
    start = {"weight": normal(rng, 4, 3), "bias": normal(rng, 3)}
    scale = np.array([1e-6, 1e-2, 1.0])  # 1e-6: Adam's eps is felt there
    grads = {
        name: (normal(rng, STEPS, *w.shape) * scale).astype(np.float32).astype(np.float64)
        for name, w in start.items()
    }
    cases = {"start": start, "grads": grads}
    for dtype in ("float64", "float32"):
        for name in [*OPTIMIZERS, *DROPS, *WEIGHTS_ONLY]:
            cases[f"steps/{dtype}/{name}"] = trajectory(name, start, grads, getattr(torch, dtype))
        for max_norm in (0.5, 1e6):
            cases[f"clip/{dtype}/{max_norm:g}"] = clipped(grads, max_norm, getattr(torch, dtype))
    return cases


def trajectory(name, start, grads, dtype):
    """{parameter: its value after each step, (STEPS, ...)}, and the options."""
    base = DROPS.get(name) or WEIGHTS_ONLY.get(name) or name
    kind, options = OPTIMIZERS[base]
    weights = {key: leaf(value, dtype) for key, value in start.items()}
    groups = [{"params": [weights["weight"]]}, {"params": [weights["bias"]]}]
    if name in WEIGHTS_ONLY:
        groups[1]["weight_decay"] = 0.0
    optimizer = kind(groups, foreach=False, **options)
    values = {key: [] for key in weights}
    lrs = [options["lr"] / (10 if name in DROPS and step >= 10 else 1) for step in range(STEPS)]
    for step, lr in enumerate(lrs):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for key, w in weights.items():
            w.grad = torch.tensor(grads[key][step], dtype=dtype)
        optimizer.step()
        for key, w in weights.items():
            values[key].append(plain(w))
    return {**values, "lrs": lrs}


def clipped(grads, max_norm, dtype):
    """The gradients of the first step, clipped together."""
    weights = {key: leaf(np.zeros(g.shape[1:]), dtype) for key, g in grads.items()}
    for key, w in weights.items():
        w.grad = torch.tensor(grads[key][0], dtype=dtype)
    norm = torch.nn.utils.clip_grad_norm_(weights.values(), max_norm)
    return {key: w.grad for key, w in weights.items()} | {"norm": norm, "max_norm": max_norm}


# ---- learning rate schedules


def schedules(rng):
    def rates(kind, steps, lr, **options):
        optimizer = torch.optim.SGD([leaf(np.zeros(1))], lr=lr)
        schedule = kind(optimizer, **options)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return {"rates": found, "peak": lr}

    def one_cycle(lr, total_steps, **options):
        kind = torch.optim.lr_scheduler.OneCycleLR
        options |= {"max_lr": lr, "total_steps": total_steps, "cycle_momentum": False}
        return rates(kind, total_steps, lr, **options)

    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    multi_step = torch.optim.lr_scheduler.MultiStepLR
    return {
        "one-cycle": one_cycle(0.1, 100),
        "one-cycle-options": one_cycle(
            0.4, 37, pct_start=0.25, div_factor=10.0, final_div_factor=100.0
        ),
        "cosine": rates(cosine, 101, 0.1, T_max=100),
        "cosine-last": rates(cosine, 101, 0.1, T_max=100, eta_min=0.001),
        "multi-step": rates(multi_step, 100, 0.1, milestones=[30, 60, 80]),
        "multi-step-factor": rates(multi_step, 100, 0.2, milestones=[10, 11, 50], gamma=0.5),
    }


# ---- a residual network of 8 layers


STAGES = ((16, 16, 1), (16, 32, 2), (32, 64, 2))  # channels in, channels out, stride
CLASSES = 10


def resnet(rng):
    """One set of weights; option A leaves out those of the projection shortcuts."""
    weights = dict(draw_weights(rng))
    x, labels = normal(rng, 2, 8, 8, 3), rng.integers(0, CLASSES, 2)
    inputs = {"x": x, "labels": labels}
    cases = {"inputs": inputs, "weights": {path: as_int16(w) for path, w in weights.items()}}
    for shortcut in ("A", "B"):
        leaves = {
            path: leaf(w)
            for path, w in weights.items()
            if shortcut == "B" or "shortcut" not in path
        }
        image, running = leaf(x), {}
        seen = {}
        logits = network(leaves, running, image, shortcut, training=True, seen=seen)
        value = functional.cross_entropy(logits, torch.tensor(labels))
        value.backward()
        later = network(leaves, running, image, shortcut, training=False)
        results = {"logits": logits, "loss": value, "dx": image.grad, "inference_logits": later}
        gradients = {path: plain(w.grad) for path, w in leaves.items()}
        norms = {path: np.linalg.norm(g) for path, g in gradients.items()}
        cases[shortcut] = results
        cases[f"{shortcut}/gradients"] = {path: sample(g) for path, g in gradients.items()}
        cases[f"{shortcut}/norms"] = norms
        cases |= {f"{shortcut}/ledger/{block}": ledger(*parts) for block, parts in seen.items()}
    return cases


def fork(x, stored):
    """Two copies of x, one for each path of a block; hooks store their gradients, and that of x."""
    through_shortcut, through_branch = x.clone(), x.clone()
    for name, tensor in (("shortcut", through_shortcut), ("branch", through_branch), ("dx", x)):
        tensor.register_hook(lambda gradient, name=name: stored.__setitem__(name, gradient))
    return through_shortcut, through_branch


def ledger(x, f, stored):
    """What `ResidualRecord` of minires holds, from the gradients that the hooks stored."""
    arrays = {name: plain(nhwc(gradient)) for name, gradient in stored.items()}
    norms = {f"{name}_norm": np.linalg.norm(array) for name, array in arrays.items()}
    s, b = arrays["shortcut"], arrays["branch"]
    cosine = (s * b).sum() / (norms["shortcut_norm"] * norms["branch_norm"])
    share = (s * arrays["dx"]).sum() / norms["dx_norm"] ** 2
    x_norm, f_norm = np.linalg.norm(plain(x)), np.linalg.norm(plain(f))
    more = {"cosine": cosine, "shortcut_share": share, "x_norm": x_norm, "f_norm": f_norm}
    parts = {name: array.ravel()[::23] for name, array in arrays.items()}
    return norms | more | {"branch_ratio": f_norm / x_norm} | parts


def draw_weights(rng):
    """(minires' path, array) of every parameter: multiples of 1/256, which take two bytes each."""

    def rounded(w):
        return np.round(256 * w) / 256

    def conv(path, K, C, F):
        yield f"{path}.weight", rounded(normal(rng, K, K, C, F) * np.sqrt(2 / (K * K * C)))

    def norm(path, C):
        yield f"{path}.gamma", rounded(rng.uniform(0.5, 1.5, C))
        yield f"{path}.beta", rounded(0.3 * normal(rng, C))

    yield from conv("conv", 3, 3, 16)
    yield from norm("norm", 16)
    for i, (C, F, _) in enumerate(STAGES):
        block = f"stage{i + 1}.block0.sum"
        yield from conv(f"{block}.branch.conv1", 3, C, F)
        yield from norm(f"{block}.branch.norm1", F)
        yield from conv(f"{block}.branch.conv2", 3, F, F)
        yield from norm(f"{block}.branch.norm2", F)
        if C != F:
            yield from conv(f"{block}.shortcut.conv", 1, C, F)
            yield from norm(f"{block}.shortcut.norm", F)
    yield "fc.weight", rounded(normal(rng, 64, CLASSES) / 8)
    yield "fc.bias", rounded(0.1 * normal(rng, CLASSES))


def as_int16(w):
    return (256 * w).astype(np.int16)


def sample(gradient):
    """All of a small array, every 23rd number of a large one; 23 divides no size."""
    return gradient if gradient.size <= 500 else gradient.ravel()[::23]


def network(leaves, running, x, shortcut, training, seen=None):
    """Logits of He et al. (2015), section 4.2, at n = 1; `running` is filled in training.

    `seen` is filled with {block: (x, F(x), gradients to come)}, if it is there.
    """

    def conv(path, x, stride=1):
        w = leaves[f"{path}.weight"]
        return functional.conv2d(x, w.permute(3, 2, 0, 1), stride=stride, padding=w.shape[0] // 2)

    def norm(path, x):
        gamma, beta = leaves[f"{path}.gamma"], leaves[f"{path}.beta"]
        start = torch.zeros_like(gamma).detach(), torch.ones_like(gamma).detach()
        mean, var = running.setdefault(path, start)
        return functional.batch_norm(x, mean, var, gamma, beta, training, momentum=0.1, eps=1e-5)

    def project(block, x, C, F, stride):
        if C == F:
            return x
        if shortcut == "A":
            return functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, F - C))
        return norm(f"{block}.shortcut.norm", conv(f"{block}.shortcut.conv", x, stride))

    x = torch.relu(norm("norm", conv("conv", nchw(x))))
    for i, (C, F, stride) in enumerate(STAGES):
        block = f"stage{i + 1}.block0.sum"
        start, stored = x, {}
        if seen is not None:
            x, start = fork(x, stored)
        y = torch.relu(norm(f"{block}.branch.norm1", conv(f"{block}.branch.conv1", start, stride)))
        y = norm(f"{block}.branch.norm2", conv(f"{block}.branch.conv2", y))
        total = project(block, x, C, F, stride) + y
        if seen is not None:
            seen[block] = start, y, stored
            total.register_hook(lambda gradient, stored=stored: stored.__setitem__("dy", gradient))
        x = torch.relu(total)
    return x.mean(dim=(2, 3)) @ leaves["fc.weight"] + leaves["fc.bias"]


if __name__ == "__main__":
    main()
