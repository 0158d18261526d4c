# %% [markdown]
# # 1. A layer by hand
#
# **What you will be able to do.** Derive the backward pass of a dense layer and of softmax
# cross-entropy from the chain rule, write both in NumPy, and train a classifier of handwritten
# digits with nothing else.
#
# **What you need.** Matrix multiplication and the chain rule.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires.exercises import expect

# %% [markdown]
# ## The forward pass
#
# A dense layer takes $N$ examples of $D$ features, the rows of $x$, to $F$ outputs each:
#
# $$y_{nf} = \sum_d x_{nd}\, w_{df} + b_f, \qquad y = x w + b.$$
#
# On paper, with one example $x = (1, 2)$:

# %%
x = np.array([[1.0, 2.0]])  # (N, D) = (1, 2)
w = np.array([[3.0, 0.0, 1.0], [1.0, 2.0, 0.0]])  # (D, F) = (2, 3)
b = np.array([0.5, 0.0, 0.0])  # (F,)
y = x @ w + b  # (N, F) = (1, 3)
print(y)
assert y.tolist() == [[5.5, 4.0, 1.0]]  # 1 * 3 + 2 * 1 + 0.5, ...

# %% [markdown]
# ## The chain rule, index by index
#
# Somewhere behind the layer a loss $L$, one number, is computed from $y$. Training needs to know how
# $L$ changes when $w$ and $b$ change. The layer does not know $L$. All it gets is the **upstream
# gradient**
#
# $$dy_{nf} = \frac{\partial L}{\partial y_{nf}},$$
#
# an array of the shape of $y$. The chain rule says: to know how $L$ depends on one weight $w_{df}$, go
# through every output that the weight has a part in, and add up.
#
# $$\frac{\partial L}{\partial w_{df}} = \sum_{n}\sum_{f'}
#   \frac{\partial L}{\partial y_{nf'}}\,\frac{\partial y_{nf'}}{\partial w_{df}}.$$
#
# Look at the forward formula: $w_{df}$ occurs in $y_{nf}$ only, for each $n$, multiplied by $x_{nd}$.
# So the inner sum has one term left:
#
# $$dw_{df} = \sum_n x_{nd}\, dy_{nf}.$$
#
# The same question for $x_{nd}$, which occurs in $y_{nf}$ for each $f$, multiplied by $w_{df}$, and
# for $b_f$, which occurs in $y_{nf}$ for each $n$, multiplied by 1:
#
# $$dx_{nd} = \sum_f dy_{nf}\, w_{df}, \qquad db_f = \sum_n dy_{nf}.$$
#
# Now read the sums as matrix products. The index that is summed over has to stand in the middle:
#
# $$dw = x^\top dy, \qquad dx = dy\, w^\top, \qquad db = \text{sum of } dy \text{ over the rows}.$$
#
# You need not remember where the transposes go: $dw$ has the shape of $w$, and there is one product of
# $x$ and $dy$ that has it.

# %% [markdown]
# ## Exercise 1: the backward pass of a dense layer


# %% tags=["exercise-1"]
def dense_backward(dy, x, w):
    """dx, dw, db from dy of shape (N, F), x of shape (N, D) and w of shape (D, F)."""
    ...


# %% tags=["check-1"]
rng = np.random.default_rng(0)
x, w, dy = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
dx, dw, db = mr.ops.reference.dense_backward(dy, mr.ops.reference.dense.DenseCache(x, w))
expect(
    "dense_backward",
    dense_backward(dy, x, w),
    {"dx": dx, "dw": dw, "db": db},
    mistakes={
        "the rows are averaged, where the chain rule adds": {"dw": dw / 5, "db": db / 5},
        "db adds up dy over its columns; b is shared by the rows": {"db": dy.sum(1)},
    },
    sizes={"N": 5, "F": 4},
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def dense_backward(dy, x, w):
#     """dx, dw, db from dy of shape (N, F), x of shape (N, D) and w of shape (D, F)."""
#     dx = dy @ w.T
#     dw = x.T @ dy
#     db = dy.sum(axis=0)
#     return dx, dw, db
# ```
#
# </details>

# %% [markdown]
# ## From logits to a loss
#
# The last layer gives each example $K$ numbers, the **logits** $z_{nk}$. Softmax turns them into
# probabilities, and the loss is the mean over the batch of minus the logarithm of the probability that
# the right class got:
#
# $$p_{nk} = \frac{e^{z_{nk}}}{\sum_j e^{z_{nj}}}, \qquad
#   L = -\frac1N \sum_n \log p_{n, \text{label}_n}.$$
#
# $e^{z}$ overflows for logits of a few hundred. Subtracting the largest logit of each row changes no
# probability, since it cancels in the fraction, and makes the largest exponent $e^0 = 1$.

# %%
with np.errstate(over="ignore"):
    print(np.exp(np.float32(100.0)))  # float32 ends at 3.4e38


# %% [markdown]
# ## Exercise 2: softmax that does not overflow


# %% tags=["exercise-2"]
def softmax(logits):
    """The probabilities, (N, K), of logits of any size."""
    ...


# %% tags=["check-2"]
logits = rng.standard_normal((4, 3))
raised = np.exp(logits - logits.max(axis=1, keepdims=True))
probs = raised / raised.sum(axis=1, keepdims=True)
expect(
    "softmax",
    softmax(logits),
    probs,
    mistakes={
        "the sum goes over the examples; each row should add up to 1": raised / raised.sum(0),
        "the sum goes over the whole array; each row should add up to 1": raised / raised.sum(),
        "the exponentials are not divided by their sum": raised,
    },
)
with np.errstate(all="ignore"):
    huge = softmax(np.array([[1000.0, 1000.0], [1000.0, -1000.0]]))
expect("softmax of logits of a thousand", huge, np.array([[0.5, 0.5], [1.0, 0.0]]))

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def softmax(logits):
#     """The probabilities, (N, K), of logits of any size."""
#     shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
#     return shifted / shifted.sum(axis=1, keepdims=True)
# ```
#
# </details>

# %% [markdown]
# ## Backward through both at once
#
# With $\log p_{nk} = z_{nk} - \log \sum_j e^{z_{nj}}$ the loss of one example whose label is $l$ is
# $-z_l + \log\sum_j e^{z_j}$. Differentiate with respect to $z_k$:
#
# - $-z_l$ gives $-1$ if $k = l$ and $0$ otherwise;
# - $\log\sum_j e^{z_j}$ gives $e^{z_k} / \sum_j e^{z_j} = p_k$.
#
# With the mean over the batch:
#
# $$\frac{\partial L}{\partial z_{nk}} = \frac{p_{nk} - [k = \text{label}_n]}{N}.$$
#
# The exponentials and logarithms have gone. "What the network said minus what was right", and each row
# adds up to $1 - 1 = 0$: pushing all logits up together changes nothing.

# %% [markdown]
# ## Exercise 3: the gradient of the loss


# %% tags=["exercise-3"]
def dlogits_of(probs, labels):
    """The gradient of the mean loss, (N, K), from probs (N, K) and labels (N,) of integers."""
    ...


# %% tags=["check-3"]
labels = np.array([2, 0, 1, 1])
onehot = np.eye(3)[labels]
kept, right = probs.copy(), (probs - onehot) / 4
expect(
    "dlogits_of",
    dlogits_of(probs, labels),
    right,
    mistakes={
        "the labels are missing: at the right class 1 is subtracted": kept / 4,
        "it is divided by the number of classes": (kept - onehot) / 3,
        "the gradient is that of -p and not of -log p": -onehot / 4,
        "1 is subtracted from all classes, and not from the right one only": (kept - 1) / 4,
    },
    sizes={"N": 4},
)
expect("dlogits_of leaves its argument as it was", bool((probs == kept).all()), True)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def dlogits_of(probs, labels):
#     """The gradient of the mean loss, (N, K), from probs (N, K) and labels (N,) of integers."""
#     dlogits = probs.copy()
#     dlogits[np.arange(len(labels)), labels] -= 1
#     return dlogits / len(labels)
# ```
#
# </details>

# %% [markdown]
# ## A network, trained
#
# Two dense layers with a ReLU, $\max(0, y)$, in between, whose gradient passes where its output is
# positive. The cell below uses minires' own functions, which hold the formulas that you have just
# written: `mr.ops.reference.dense_backward` is three lines.

# %%
from minires.ops import reference as ops

data = mr.data.load_digits()
x_train = data.x_train.reshape(len(data.x_train), -1).astype(np.float64)  # (N, 64)
x_test = data.x_test.reshape(len(data.x_test), -1).astype(np.float64)

rng = np.random.default_rng(0)
w1, b1 = rng.standard_normal((64, 32)) * np.sqrt(2 / 64), np.zeros(32)
w2, b2 = rng.standard_normal((32, 10)) * np.sqrt(2 / 32), np.zeros(10)


def forward(x):
    """Logits and what the backward pass needs."""
    hidden, cache1 = ops.dense_forward(x, w1, b1)
    active, cache_relu = ops.relu_forward(hidden)
    logits, cache2 = ops.dense_forward(active, w2, b2)
    return logits, (cache1, cache_relu, cache2)


def backward(dlogits, caches):
    """The gradients of w1, b1, w2, b2: each layer hands dx to the one before it."""
    cache1, cache_relu, cache2 = caches
    dactive, dw2, db2 = ops.dense_backward(dlogits, cache2)
    dhidden = ops.relu_backward(dactive, cache_relu)
    _, dw1, db1 = ops.dense_backward(dhidden, cache1)
    return dw1, db1, dw2, db2


losses = []
for epoch in range(12):
    for rows in np.split(rng.permutation(len(x_train)), range(64, len(x_train), 64)):
        logits, caches = forward(x_train[rows])
        targets = np.eye(10)[data.y_train[rows]]
        loss, cache = ops.softmax_cross_entropy_forward(logits, targets)
        losses.append(loss)
        gradients = backward(ops.softmax_cross_entropy_backward(cache), caches)
        for parameter, gradient in zip((w1, b1, w2, b2), gradients, strict=True):
            parameter -= 0.2 * gradient  # downhill

accuracy = (forward(x_test)[0].argmax(axis=1) == data.y_test).mean()
print(
    f"loss {losses[0]:.2f} at the start, {losses[-1]:.2f} at the end; test accuracy {accuracy:.3f}"
)
assert 2 < losses[0] < 4  # not far from log(10) = 2.3, what guessing costs
assert accuracy > 0.93

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(losses, color="tab:blue")
axes.axhline(np.log(10), color="gray", linestyle=":", label="guessing: log 10")
axes.set(xlabel="step", ylabel="loss", yscale="log", title="Two dense layers read digits")
axes.legend()
# %% [markdown]
# ## Is the gradient right?
#
# It trained, but a network often trains with a wrong gradient, only worse. To *know*, move one weight by
# a little in both directions and see what the loss does.

# %%
rows = slice(0, 8)
targets = np.eye(10)[data.y_train[rows]]


def loss_now():
    """The loss of the first eight images with the weights as they are."""
    return ops.softmax_cross_entropy_forward(forward(x_train[rows])[0], targets)[0]


logits, caches = forward(x_train[rows])
cache = ops.softmax_cross_entropy_forward(logits, targets)[1]
dw1 = backward(ops.softmax_cross_entropy_backward(cache), caches)[0]
at, h = np.unravel_index(np.abs(dw1).argmax(), dw1.shape), 1e-5
kept = w1[at]
w1[at] = kept + h
above = loss_now()
w1[at] = kept - h
below = loss_now()
w1[at] = kept
numeric = (above - below) / (2 * h)
print(f"backward pass {dw1[at]:.10f}, difference {numeric:.10f}")
assert abs(dw1[at] - numeric) < 1e-6 * abs(numeric)

# %% [markdown]
# The next notebook makes a tool of these lines, and shows how it can be fooled.
#
# ## What to remember
#
# - A layer gets $dy$ and gives $dx$ (the shape of $x$), $dw$ (the shape of $w$), $db$ (the shape of
#   $b$). It needs to know nothing of what stands before or behind it.
# - The chain rule adds up over every place where a number is used. The bias is used by every
#   example, so its gradient is a sum over examples.
# - Softmax and cross-entropy together have the gradient $(p - \text{onehot})/N$. The $1/N$ of the mean
#   enters here, once, and every gradient behind it carries it.
#
# ## Where to read on
#
# - Rumelhart, Hinton and Williams (1986), "Learning representations by back-propagating errors",
#   Nature 323.
# - Goodfellow, Bengio and Courville (2016), *Deep Learning*, sections 6.2.2 (softmax) and 6.5
#   (back-propagation).
# - In minires: `minires/ops/reference/dense.py` and `softmax_cross_entropy.py`.
