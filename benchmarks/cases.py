"""The ops and shapes of `python -m benchmarks.ops`: those of the networks, and a few odd ones."""

import math

import numpy as np

ARRAYS = ("x", "weight", "bias", "gamma", "beta", "dy")


def conv(N, H, W, C, F, K=3, stride=1):
    """A convolution that keeps the size at stride 1."""
    label = f"conv {K}x{K}/{stride}, {H}x{W}, {C}->{F}"
    given = {"x": [N, H, W, C], "weight": [K, K, C, F]}
    return {"label": label, "op": "conv2d", **given, "stride": stride, "padding": K // 2}


def norm(N, H, W, C):
    given = {"x": [N, H, W, C], "gamma": [C], "beta": [C]}
    return {"label": f"batch norm, {H}x{W}, {C}", "op": "batchnorm", **given}


def relu(N, H, W, C):
    return {"label": f"relu, {H}x{W}, {C}", "op": "relu", "x": [N, H, W, C]}


def maxpool(N, H, W, C):
    given = {"x": [N, H, W, C], "kernel_size": 3, "stride": 2, "padding": 1}
    return {"label": f"max pool 3x3/2, {H}x{W}, {C}", "op": "maxpool2d", **given}


def average(N, H, W, C):
    return {"label": f"average, {H}x{W}, {C}", "op": "global_avgpool2d", "x": [N, H, W, C]}


def dense(N, D, K):
    given = {"x": [N, D], "weight": [D, K], "bias": [K]}
    return {"label": f"dense, {D}->{K}", "op": "dense", **given}


def cases(N):
    """All cases, for `N` images of 32x32; larger images come in smaller batches."""
    few = max(1, N // 16)
    return [
        conv(N, 32, 32, 3, 16),
        conv(N, 32, 32, 16, 16),
        conv(N, 16, 16, 32, 32),
        conv(N, 8, 8, 64, 64),
        conv(N, 32, 32, 16, 32, stride=2),
        conv(N, 32, 32, 16, 32, K=1, stride=2),
        conv(few, 224, 224, 3, 64, K=7, stride=2),
        conv(few, 56, 56, 64, 64),
        conv(few, 14, 14, 256, 256),
        conv(few, 27, 31, 30, 50, K=5),
        norm(N, 32, 32, 16),
        norm(N, 8, 8, 64),
        relu(N, 32, 32, 16),
        maxpool(few, 112, 112, 64),
        average(N, 8, 8, 64),
        dense(N, 64, 10),
        dense(N, 1600, 10),
    ]


def arrays(case, dtype):
    """Random arrays of the shapes that a case names; float64 holds the same numbers as float32.

    Each name has a seed of its own: the gradient of a batch norm is next to 0 where dy equals x.
    """
    return {
        name: np.random.default_rng([3, seed]).standard_normal(case[name], np.float32).astype(dtype)
        for seed, name in enumerate(ARRAYS)
        if name in case
    }


def options(case):
    """The arguments of the op that are no arrays."""
    more = {"eps": 1e-5} if case["op"] == "batchnorm" else {}
    return more | {k: tuples(case[k]) for k in ("stride", "padding", "kernel_size") if k in case}


def tuples(value):
    """Lists, as they come through JSON, as the tuples that people write."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def work(case):
    """What a case must do at least, forward and backward.

    Returns
    -------
    unit : str
        "GF/s" where multiplications are the limit, "GB/s" where memory is.
    forward, backward : float
        Operations (a multiplication and an addition are two) or bytes in float32. Winograd needs
        fewer operations, so its GF/s, counted like this, may pass the ceiling.
    """
    x = math.prod(case["x"])
    if "weight" in case:
        pixels = x // case["x"][-1] / case.get("stride", 1) ** 2
        forward = 2 * pixels * math.prod(case["weight"])
        return "GF/s", forward, 2 * forward  # the gradients of x and of the weights
    y = {"maxpool2d": x // 4, "global_avgpool2d": math.prod(case["x"][::3])}.get(case["op"], x)
    reread = x if case["op"] in ("batchnorm", "relu") else 0  # x of a norm, y of a ReLU
    return "GB/s", 4 * (x + y), 4 * (x + y + reread)
