"""minires against PyTorch 2.13, whose answers `oracles/make_oracles.py` has frozen."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minires.core import Parameter
from minires.layers import BatchNorm2d
from minires.losses import SoftmaxCrossEntropy
from minires.models import resnet8
from minires.ops import fast, reference
from minires.optimizers import SGD, Adam, AdamW, clip_gradients
from minires.schedules import Cosine, OneCycle, Step
from minires.testing import assert_within_rounding

OPS = {"reference": reference, "fast": fast}


@pytest.fixture(params=OPS)
def ops(request):
    """Each implementation of the ops."""
    return OPS[request.param]


def load(name):
    """{case: {array name: array}} of a frozen file, in which they are called case/name."""
    cases = {}
    with np.load(Path(__file__).parent / "oracles" / f"{name}.npz", allow_pickle=False) as file:
        for key in file.files:
            case, _, array = key.rpartition("/")
            cases.setdefault(case, {})[array] = file[key]
    return cases


def under(prefix, named):
    """What is called prefix..., without the prefix."""
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def numbers(case, *names):
    """Options as Python numbers and lists."""
    return {name: case[name].tolist() for name in names}


def assert_agrees(found, oracle):
    """Within 1e-12 of the array's largest number, gradients (d...) within 1e-10."""
    for name, array in found.items():
        tolerance = 1e-10 if name.startswith("d") else 1e-12
        atol = tolerance * np.abs(oracle[name]).max()
        assert_allclose(array, oracle[name], rtol=0, atol=atol, err_msg=name, strict=True)


# ---- each op as a function (ops, case) -> what it gives, by the oracle's names


def conv2d(ops, case):
    how = numbers(case, "stride", "padding", "dilation", "groups")
    y, cache = ops.conv2d_forward(case["x"], case["w"], case.get("b"), **how)
    return {"y": y, **weight_gradients(case, ops.conv2d_backward(case["dy"], cache))}


def dense(ops, case):
    y, cache = ops.dense_forward(case["x"], case["w"], case.get("b"))
    return {"y": y, **weight_gradients(case, ops.dense_backward(case["dy"], cache))}


def weight_gradients(case, gradients):
    """By name; PyTorch has no db where there is no bias."""
    found = dict(zip(("dx", "dw", "db"), gradients, strict=True))
    return found if "b" in case else {"dx": found["dx"], "dw": found["dw"]}


def maxpool2d(ops, case):
    how = numbers(case, "kernel_size", "stride", "padding")
    y, cache = ops.maxpool2d_forward(case["x"], **how)
    return {"y": y, "dx": ops.maxpool2d_backward(case["dy"], cache)}


def avgpool2d(ops, case):
    how = numbers(case, "kernel_size", "stride", "padding", "count_include_pad")
    y, cache = ops.avgpool2d_forward(case["x"], **how)
    return {"y": y, "dx": ops.avgpool2d_backward(case["dy"], cache)}


def global_avgpool2d(ops, case):
    y, cache = ops.global_avgpool2d_forward(case["x"])
    return {"y": y, "dx": ops.global_avgpool2d_backward(case["dy"], cache)}


def relu(ops, case):
    y, cache = ops.relu_forward(case["x"])
    return {"y": y, "dx": ops.relu_backward(case["dy"], cache)}


def softmax(ops, case):
    y, cache = ops.softmax_forward(case["x"])
    return {"y": y, "dx": ops.softmax_backward(case["dy"], cache)}


def softmax_cross_entropy(ops, case):
    loss = SoftmaxCrossEntropy(**numbers(case, "label_smoothing"), ops=ops)
    value = loss.forward(case["logits"], case["labels"])
    return {"loss": case["logits"].dtype.type(value), "dlogits": loss.backward()}


def batchnorm_training(ops, case):
    how = numbers(case, "eps", "momentum")
    layer = BatchNorm2d(len(case["gamma"]), **how, dtype=case["x"].dtype, ops=ops)
    return through_batchnorm(layer, case, training=True)


def batchnorm_inference(ops, case):
    layer = BatchNorm2d(len(case["gamma"]), **numbers(case, "eps"), dtype=case["x"].dtype, ops=ops)
    layer.running_mean, layer.running_var = case["running_mean"], case["running_var"]
    return through_batchnorm(layer, case, training=False)


def through_batchnorm(layer, case, training):
    layer.gamma.value, layer.beta.value = case["gamma"], case["beta"]
    y = layer.forward(case["x"], training=training)
    dx = layer.backward(case["dy"])
    gradients = {"dx": dx, "dgamma": layer.gamma.grad, "dbeta": layer.beta.grad}
    running = {"running_mean": layer.running_mean, "running_var": layer.running_var}
    return {"y": y, **gradients, **running}


# ---- for each op, how large the terms are that each number is a sum of


def absolute(arrays):
    return {name: np.abs(array) for name, array in arrays.items()}


def one_term(run, ops, case):
    """Each number is one of the input's."""
    return absolute(run(ops, case))


def products(run, ops, case):
    """A sum of products of the inputs: the same op on absolute values."""
    return run(ops, absolute(case))


def sums_of_dy(run, ops, case):
    """A number of the input, and in dx sums of dy."""
    return absolute(run(ops, case | {"dy": np.abs(case["dy"])}))


def batchnorm_training_terms(run, ops, case):
    x, dy = case["x"], np.abs(case["dy"])
    axes, M = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean = np.abs(x).mean(axes)
    off_mean = np.abs(x) + mean
    var = (np.abs(x - x.mean(axes)) * off_mean).mean(axes)  # not x.var: that subtracts
    rstd = 1 / np.sqrt(x.var(axes) + case["eps"])
    terms = batchnorm_terms(case, off_mean * rstd)
    dxhat = dy + (terms["dbeta"] + off_mean * rstd * terms["dgamma"]) / M
    keep, momentum = 1 - case["momentum"], case["momentum"]
    running = {"running_mean": momentum * mean, "running_var": keep + momentum * var * M / (M - 1)}
    return terms | {"dx": np.abs(case["gamma"]) * rstd * dxhat} | running


def batchnorm_inference_terms(run, ops, case):
    mean, var = np.abs(case["running_mean"]), case["running_var"]
    rstd = 1 / np.sqrt(var + case["eps"])
    terms = batchnorm_terms(case, (np.abs(case["x"]) + mean) * rstd)
    dx = np.abs(case["gamma"] * case["dy"]) * rstd
    return terms | {"dx": dx, "running_mean": mean, "running_var": var}


def batchnorm_terms(case, xhat):
    """What both modes share."""
    gamma, beta, dy = (np.abs(case[name]) for name in ("gamma", "beta", "dy"))
    axes = tuple(range(dy.ndim - 1))
    return {
        "y": gamma * xhat + beta,
        "dgamma": (dy * xhat).sum(axes),
        "dbeta": dy.sum(axes),
    }


def log_softmax_terms(x):
    """Softmax p of x, and the terms of log p: those of its shift and of its log sum."""
    shift = x.max(axis=1, keepdims=True) - x
    total = np.exp(-shift).sum(axis=1, keepdims=True)
    p = np.exp(-shift) / total
    return p, 1 + shift + np.log(total) + (p * shift).sum(axis=1, keepdims=True)


def softmax_terms(run, ops, case):
    p, log_terms = log_softmax_terms(case["x"])
    y, dy = p * log_terms, np.abs(case["dy"])  # log_terms >= 1
    return {"y": y, "dx": y * (dy + (dy * y).sum(axis=1, keepdims=True))}


def softmax_cross_entropy_terms(run, ops, case):
    p, log_terms = log_softmax_terms(case["logits"])
    N, K = p.shape
    targets = case["labels"] if case["labels"].ndim == 2 else np.eye(K)[case["labels"]]
    targets = (1 - case["label_smoothing"]) * targets + case["label_smoothing"] / K
    return {"loss": (targets * log_terms).sum() / N, "dlogits": (p * log_terms + targets) / N}


# ---- the ops


CONV, POOL, NORM, ROWS = load("conv"), load("pool"), load("norm"), load("loss")
INFERENCE = {name: case | under("inference_", case) for name, case in NORM.items()}
CASES = [
    pytest.param(run, terms, case, id=f"{run.__name__}-{name}")
    for run, terms, cases in (
        (conv2d, products, CONV),
        (dense, products, under("dense/", ROWS)),
        (maxpool2d, sums_of_dy, under("max/", POOL)),
        (avgpool2d, products, under("average/", POOL)),
        (global_avgpool2d, products, under("global/", POOL)),
        (relu, one_term, under("relu/", ROWS)),
        (softmax, softmax_terms, under("softmax/", ROWS)),
        (softmax_cross_entropy, softmax_cross_entropy_terms, under("cross-entropy/", ROWS)),
        (batchnorm_training, batchnorm_training_terms, NORM),
        (batchnorm_inference, batchnorm_inference_terms, INFERENCE),
    )
    for name, case in cases.items()
]


@pytest.mark.parametrize(("run", "terms", "case"), CASES)
def test_op_agrees_with_pytorch(ops, run, terms, case):
    assert_agrees(run(ops, case), case)


@pytest.mark.parametrize(("run", "terms", "case"), CASES)
def test_op_in_float32_is_within_8_roundings_of_pytorchs_float64(ops, run, terms, case):
    found, sizes = run(ops, in_float32(case)), terms(run, ops, case)
    for name, array in found.items():
        assert array.dtype == np.float32, name
        assert_within_rounding(array, case[name], sizes[name], units=8)


def in_float32(case):
    """The case in float32, which can hold its inputs; options (0-d) stay as they are."""
    floats = {name for name, a in case.items() if a.ndim and a.dtype == np.float64}
    return {name: a.astype(np.float32) if name in floats else a for name, a in case.items()}


# ---- optimisers


OPTIMIZERS = load("optimizers")
KINDS = {
    "sgd": partial(SGD, lr=0.1),
    "sgd-momentum": partial(SGD, lr=0.1, momentum=0.9),
    "sgd-momentum-lr-drop": partial(SGD, lr=0.1, momentum=0.9),
    "sgd-nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    "sgd-weight-decay": partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-3),
    "sgd-decay-weights": partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-3, decay="weights"),
    "adam": partial(Adam, lr=0.01),
    "adam-lr-drop": partial(Adam, lr=0.01),
    "adam-betas": partial(Adam, lr=0.01, betas=(0.8, 0.95)),
    "adam-eps-1e-7": partial(Adam, lr=0.01, eps=1e-7),
    "adam-weight-decay": partial(Adam, lr=0.01, weight_decay=0.01),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.01),
    "adamw-decay-weights": partial(AdamW, lr=0.01, weight_decay=0.01, decay="weights"),
}


def parameters(dtype):
    """{"weight": Parameter, "bias": Parameter} at the common start, roles as named."""
    return {role: Parameter(w.astype(dtype), role) for role, w in OPTIMIZERS["start"].items()}


def set_gradients(trained, step):
    for role, parameter in trained.items():
        parameter.grad = OPTIMIZERS["grads"][role][step].astype(parameter.dtype)


@pytest.mark.parametrize("name", under("steps/float64/", OPTIMIZERS))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_optimizer_is_within_4_roundings_of_pytorchs_path_after_every_step(dtype, name):
    """Roundings of |start| + |updates|, the terms that a value is the sum of."""
    oracle, trained = OPTIMIZERS[f"steps/{dtype}/{name}"], parameters(dtype)
    optimizer = KINDS[name](trained.values())
    path = {role: np.abs(w) for role, w in OPTIMIZERS["start"].items()}
    last = OPTIMIZERS["start"]
    for step, lr in enumerate(oracle["lrs"].tolist()):
        set_gradients(trained, step)
        optimizer.lr = lr
        optimizer.step()
        now = {role: oracle[role][step] for role in trained}
        for role, parameter in trained.items():
            path[role] = path[role] + np.abs(now[role] - last[role])
            assert_within_rounding(parameter.value, now[role], path[role], units=4)
        last = now


@pytest.mark.parametrize("max_norm", under("clip/float64/", OPTIMIZERS))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_clipping_is_within_4_roundings_of_pytorchs(dtype, max_norm):
    oracle, trained = OPTIMIZERS[f"clip/{dtype}/{max_norm}"], parameters(dtype)
    set_gradients(trained, step=0)
    norm = clip_gradients(trained.values(), float(max_norm))
    rtol = 4 * np.finfo(dtype).eps
    assert_allclose(norm, oracle["norm"], rtol=rtol)
    for role, parameter in trained.items():
        assert_allclose(parameter.grad, oracle[role], rtol=rtol, err_msg=role, strict=True)


# ---- schedules


SCHEDULES = load("schedules")
RULES = {
    "one-cycle": OneCycle(0.1, 100),
    "one-cycle-options": OneCycle(0.4, 37, rise=0.25, start=10.0, end=100.0),
    "cosine": Cosine(0.1, 100),
    "cosine-last": Cosine(0.1, 100, last=0.001),
    "multi-step": Step(0.1, (30, 60, 80)),
    "multi-step-factor": Step(0.2, (10, 11, 50), factor=0.5),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_within_4_roundings_of_pytorchs_peak_at_every_step(name):
    """Of the peak: PyTorch's cosine multiplies the rate before it, and its roundings add up."""
    rates, peak = SCHEDULES[name]["rates"], SCHEDULES[name]["peak"]
    found = np.array([RULES[name](step) for step in range(len(rates))])
    assert_within_rounding(found, rates, peak, units=4)


# ---- a network


RESNET = load("resnet")


@pytest.fixture(params=["A", "B"])
def shortcut(request):
    """Zero-padded channels, or a projection with batch norm."""
    return request.param


def trained_once(ops, shortcut):
    """resnet8 with the oracle's weights after one training pass, and what came out of it."""
    model = resnet8(input_shape=(8, 8, 3), shortcut=shortcut, dtype=np.float64, rng=0, ops=ops)
    for path, parameter in model.named_parameters():
        parameter.value = RESNET["weights"][path] / 256
    x, labels = RESNET["inputs"]["x"], RESNET["inputs"]["labels"]
    loss = SoftmaxCrossEntropy(ops=ops)
    logits = model.forward(x, training=True)
    value = np.float64(loss.forward(logits, labels))
    dx = model.backward(loss.backward())
    return model, {"logits": logits, "loss": value, "dx": dx}


def test_resnet8_agrees_with_pytorch_in_logits_loss_and_dx(ops, shortcut):
    _, found = trained_once(ops, shortcut)
    assert_agrees(found, RESNET[shortcut])


def test_resnet8_agrees_with_pytorch_in_every_parameter_gradient(ops, shortcut):
    model, _ = trained_once(ops, shortcut)
    found = {path: parameter.grad for path, parameter in model.named_parameters()}
    gradients, norms = RESNET[f"{shortcut}/gradients"], RESNET[f"{shortcut}/norms"]
    assert set(found) == set(gradients)
    for path, gradient in found.items():
        kept, atol = stored_part(gradient), 1e-10 * np.abs(gradients[path]).max()
        assert_allclose(kept, gradients[path], rtol=0, atol=atol, err_msg=path, strict=True)
        assert_allclose(np.linalg.norm(gradient), norms[path], rtol=1e-10, err_msg=path)


def stored_part(gradient):
    """What `make_oracles.py` keeps: a small array whole, every 23rd number of a large one."""
    return gradient if gradient.size <= 500 else gradient.ravel()[::23]


def test_resnet8_agrees_with_pytorch_in_inference_with_the_running_statistics(ops, shortcut):
    model, _ = trained_once(ops, shortcut)
    logits = model.forward(RESNET["inputs"]["x"])
    assert_agrees({"inference_logits": logits}, RESNET[shortcut])
