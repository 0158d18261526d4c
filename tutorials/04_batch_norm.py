# %% [markdown]
# # 4. Batch norm
#
# **What you will be able to do.** Derive the backward pass of batch normalisation with its two
# subtracted paths, write it, and say what it implies before you run it. Keep the running statistics
# and use the layer in both of its modes. Measure what it buys, and what it costs.
#
# **What you need.** Notebooks 1 to 3: the backward pass of a dense layer, the gradient check, images
# of shape (N, H, W, C).

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires.exercises import expect
from minires.ops import reference as ops

# %% [markdown]
# ## The forward pass
#
# Batch norm looks at one channel at a time. A channel of a batch of images has $M = N \cdot H \cdot W$
# numbers $x_1, \dots, x_M$ (behind a dense layer, $M = N$). It shifts and scales them to mean 0 and
# variance 1, and then lets the network choose another mean and scale:
#
# $$\mu = \frac1M \sum_i x_i, \qquad v = \frac1M \sum_i (x_i - \mu)^2, \qquad
#   r = \frac{1}{\sqrt{v + \varepsilon}},$$
# $$\hat x_i = (x_i - \mu)\, r, \qquad y_i = \gamma\, \hat x_i + \beta.$$
#
# In code $\mu$ is `mean`, $v$ is `var`, $r$ is `rstd` and $\hat x$ is `xhat`. Each channel has a
# $\gamma$ and a $\beta$ of its own, which are trained. $\varepsilon$, as a rule $10^{-5}$, keeps the
# root away from 0. On paper, with the four numbers 0, 0, 2, 2, whose mean and variance are 1:

# %%
x = np.array([[0.0], [0.0], [2.0], [2.0]])  # (N, C) = (4, 1)
y, cache = ops.batchnorm_forward(x, np.array([3.0]), np.array([10.0]), eps=0)
print("mean", cache.mean, "var", cache.var, "y", y.ravel())
assert y.ravel().tolist() == [7, 7, 13, 13]  # xhat = -1, -1, 1, 1; gamma = 3, beta = 10

# %% [markdown]
# ## Exercise 1: the forward pass


# %% tags=["exercise-1"]
def batchnorm_forward(x, gamma, beta, eps):
    """y of shape (N, H, W, C), xhat of the same shape and rstd of shape (C,)."""
    ...


# %% tags=["check-1"]
rng = np.random.default_rng(0)
N, H, W, C = 4, 2, 3, 5
x = rng.standard_normal((N, H, W, C)) * [0.5, 1, 1, 2, 3] + [1, 2, 0, -1, 5]
gamma, beta, eps = rng.uniform(1, 2, C), rng.standard_normal(C), 0.1


def normalised(axes=(0, 1, 2), ddof=0, scale=lambda var: 1 / np.sqrt(var + eps)):
    """What comes out with statistics over these axes."""
    mean, var = x.mean(axes, keepdims=True), x.var(axes, ddof=ddof, keepdims=True)
    rstd = scale(var)
    xhat = (x - mean) * rstd
    return {"y": gamma * xhat + beta, "xhat": xhat, "rstd": rstd.squeeze()}


right = normalised()
expect(
    "batchnorm_forward",
    batchnorm_forward(x.copy(), gamma.copy(), beta.copy(), eps),
    right,
    mistakes={
        "mean and variance go over the examples only; a channel has one mean and one variance, "
        "over N, H and W": normalised(axes=0),
        "mean and variance go over the pixels of each image, and not over the batch": normalised(
            axes=(1, 2)
        ),
        "mean and variance go over the channels of each pixel": normalised(axes=3),
        "there is one mean and one variance for each image, and not for each channel": (
            normalised(axes=(1, 2, 3))
        ),
        "the mean is that of the whole array; each channel has its own": {
            "y": gamma * ((x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean((0, 1, 2)) + eps))
            + beta
        },
        "there is one mean for the whole array, and not one for each channel": normalised(
            axes=(0, 1, 2, 3)
        ),
        "the variance is divided by M - 1; the batch is normalised with the one divided by M": (
            normalised(ddof=1)
        ),
        "eps is missing": normalised(scale=lambda var: 1 / np.sqrt(var)),
        "eps is added behind the root; it belongs under it": normalised(
            scale=lambda var: 1 / (np.sqrt(var) + eps)
        ),
        "the root is missing: x - mean is divided by the variance": normalised(
            scale=lambda var: 1 / (var + eps)
        ),
        "x - mean is multiplied by the root, and not divided by it": {
            "y": normalised(scale=lambda var: np.sqrt(var + eps))["y"]
        },
        "the root is taken twice: x.std() is the root of x.var()": normalised(
            scale=lambda var: 1 / np.sqrt(np.sqrt(var) + eps)
        ),
        "the variance is the mean of x**2; the mean has to be subtracted before squaring": {
            "y": gamma * (x - x.mean((0, 1, 2))) / np.sqrt((x**2).mean((0, 1, 2)) + eps) + beta
        },
        "beta is multiplied by gamma too": {"y": gamma * (right["xhat"] + beta)},
        "gamma and beta are exchanged": {"y": beta * right["xhat"] + gamma},
        "gamma is missing": {"y": right["xhat"] + beta},
        "beta is missing": {"y": gamma * right["xhat"]},
        "gamma and beta are missing": {"y": right["xhat"]},
        "this is the standard deviation; rstd is one over it": {"rstd": 1 / right["rstd"]},
    },
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def batchnorm_forward(x, gamma, beta, eps):
#     """y of shape (N, H, W, C), xhat of the same shape and rstd of shape (C,)."""
#     mean = x.mean(axis=(0, 1, 2))
#     var = ((x - mean) ** 2).mean(axis=(0, 1, 2))
#     rstd = 1 / np.sqrt(var + eps)
#     xhat = (x - mean) * rstd
#     y = gamma * xhat + beta
#     return y, xhat, rstd
# ```
#
# </details>

# %% [markdown]
# ## The backward pass, path by path
#
# Start at the end. $y_i = \gamma \hat x_i + \beta$ is a dense layer with one weight, so by the rules of
# notebook 1
#
# $$d\gamma = \sum_i dy_i\, \hat x_i, \qquad d\beta = \sum_i dy_i, \qquad d\hat x_i = \gamma\, dy_i.$$
#
# Now from $\hat x$ to $x$. The chain rule adds up over every place where $x_i$ is used, and $x_i$ is
# used in three: in its own $\hat x_i$; in the mean, and so in *every* $\hat x_j$; in the variance, and
# so again in every $\hat x_j$. From $\hat x_j = (x_j - \mu)\, r$:
#
# $$\frac{\partial \hat x_j}{\partial x_i} =
#   \underbrace{r\, [i = j]}_{\text{itself}}
#   \;\underbrace{-\; r\, \frac{\partial \mu}{\partial x_i}}_{\text{through the mean}}
#   \;\underbrace{+\; (x_j - \mu)\, \frac{\partial r}{\partial x_i}}_{\text{through the variance}}.$$
#
# **The mean.** $\partial \mu / \partial x_i = 1 / M$.
#
# **The variance**, in two steps. First, with $\partial (x_j - \mu) / \partial x_i = [i = j] - 1/M$,
#
# $$\frac{\partial v}{\partial x_i} = \frac{2}{M} \sum_j (x_j - \mu) \Big([i = j] - \frac1M\Big)
#   = \frac{2}{M} (x_i - \mu),$$
#
# because the distances from the mean add up to 0: the mean *inside* the variance has no part in the
# gradient. Then, with $r = (v + \varepsilon)^{-1/2}$,
#
# $$\frac{\partial r}{\partial x_i} = -\tfrac12 (v + \varepsilon)^{-3/2}\, \frac{\partial v}{\partial x_i}
#   = -\tfrac12\, r^3\, \frac{2}{M} (x_i - \mu) = -\frac{r^2}{M}\, \hat x_i .$$
#
# Put both in, and $(x_j - \mu)\, r = \hat x_j$:
#
# $$\frac{\partial \hat x_j}{\partial x_i} =
#   r \Big( [i = j] - \frac1M - \frac{\hat x_i \hat x_j}{M} \Big).$$
#
# Multiply by $d\hat x_j$ and add up over $j$. The sums divided by $M$ are means:
#
# $$\boxed{\;dx = r\,\big(\, d\hat x \;-\; \text{mean}(d\hat x)
#   \;-\; \hat x \cdot \text{mean}(d\hat x \cdot \hat x)\,\big)\;}$$
#
# Three terms, three paths. In numbers, with the matrix of all $\partial \hat x_j / \partial x_i$
# measured by moving each of five numbers a little:

# %%
rng = np.random.default_rng(1)
M, h, eps = 5, 1e-5, 0.1
x = rng.standard_normal(M)


def xhat_of(x):
    """xhat of one channel, (M,)."""
    return (x - x.mean()) / np.sqrt(x.var() + eps)


numeric = np.stack(
    [(xhat_of(x + h * e) - xhat_of(x - h * e)) / (2 * h) for e in np.eye(M)]
)  # row i: what x_i does to every xhat_j
xhat, rstd = xhat_of(x), 1 / np.sqrt(x.var() + eps)
itself = rstd * np.eye(M)
through_mean = -rstd * np.ones((M, M)) / M
through_variance = -rstd * np.outer(xhat, xhat) / M
np.testing.assert_allclose(itself + through_mean + through_variance, numeric, atol=1e-8)
print(np.round(numeric, 2))  # not diagonal: every number moves every other

# %% [markdown]
# There is a picture behind the formula. Plot $d\hat x$ against $\hat x$ and draw the line of least
# squares through the points. Since $\hat x$ has mean 0 and variance 1, the height of that line is
# $\text{mean}(d\hat x)$ and its slope is $\text{mean}(d\hat x \cdot \hat x)$. The two subtracted terms
# take the line away, and what passes is what is left over: the part of the gradient that neither a
# shift nor a scaling of the channel could follow.

# %%
x = rng.standard_normal((60, 1))
dy = 1.0 + 0.8 * x + 0.5 * rng.standard_normal((60, 1))
y, cache = ops.batchnorm_forward(x, np.ones(1), np.zeros(1), eps=1e-12)
dx, _, _ = ops.batchnorm_backward(dy, cache)
dxhat, xhat = dy, y  # gamma is 1, beta is 0
steps = {
    "itself": dxhat,
    "less the path through the mean": dxhat - dxhat.mean(),
    "less the path through the variance": dx / cache.rstd,
}
figure, axes = plt.subplots(1, 3, figsize=(8, 3), sharey=True, layout="constrained")
for ax, (title, values) in zip(axes, steps.items(), strict=True):
    slope, height = np.polyfit(xhat[:, 0], values[:, 0], 1)
    ends = np.array([xhat.min(), xhat.max()])
    ax.axhline(0, color="gray", linewidth=0.8)
    ax.plot(xhat, values, ".", color="tab:blue")
    ax.plot(ends, height + slope * ends, color="tab:red", label=f"slope {abs(slope):.2f}")
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel("xhat")
    ax.legend(loc="upper left")
axes[0].set_ylabel("gradient / rstd")
figure.suptitle("The backward pass takes the line of least squares away")
assert max(abs(slope), abs(height)) < 1e-9  # in the last picture

# %% [markdown]
# ## Exercise 2: the backward pass


# %% tags=["exercise-2"]
def batchnorm_backward(dy, xhat, rstd, gamma):
    """dx (N, H, W, C), dgamma (C,), dbeta (C,) from dy and xhat (N, H, W, C), rstd, gamma (C,)."""
    ...


# %% tags=["check-2"]
rng = np.random.default_rng(2)
N, H, W, C = 4, 2, 3, 5
x = rng.standard_normal((N, H, W, C)) * [0.5, 1, 1, 2, 3] + [1, 2, 0, -1, 5]
gamma, beta = rng.uniform(1, 2, C), rng.standard_normal(C)
dy = rng.standard_normal((N, H, W, C)) + 0.5
cache = ops.batchnorm_forward(x, gamma, beta, eps=1e-5)[1]
rstd, xhat = cache.rstd, (x - cache.mean) * cache.rstd


def paths(mean, variance, axes=(0, 1, 2), average=np.mean, dxhat=dy * gamma):
    """dx with the paths as given, 0 or 1 of each."""
    through_mean = average(dxhat, axis=axes, keepdims=True)
    through_variance = xhat * average(dxhat * xhat, axis=axes, keepdims=True)
    return rstd * (dxhat - mean * through_mean - variance * through_variance)


dx, dgamma, dbeta = ops.batchnorm_backward(dy, cache)
expect(
    "batchnorm_backward",
    batchnorm_backward(dy.copy(), xhat.copy(), rstd.copy(), gamma.copy()),
    {"dx": dx, "dgamma": dgamma, "dbeta": dbeta},
    mistakes={
        "the path through the mean is missing": {"dx": paths(0, 1)},
        "the path through the variance is missing": {"dx": paths(1, 0)},
        "both subtracted paths are missing": {"dx": paths(0, 0)},
        "the two paths are added, and not subtracted": {"dx": paths(-1, -1)},
        "the path through the variance is added, and not subtracted": {"dx": paths(1, -1)},
        "the path through the mean is added, and not subtracted": {"dx": paths(-1, 1)},
        "the means go over the examples only, and not over N, H and W": {"dx": paths(1, 1, 0)},
        "sums stand where the two means belong": {"dx": paths(1, 1, average=np.sum)},
        "gamma is missing: dxhat = dy * gamma": {"dx": paths(1, 1, dxhat=dy)},
        "rstd is missing in front": {"dx": dx / rstd},
        "the factor xhat in front of the second mean is missing": {
            "dx": rstd * (dy * gamma - dbeta * gamma / (N * H * W) - dgamma * gamma / (N * H * W))
        },
        "gamma is used twice": {"dx": dx * gamma},
        "dxhat is dy / gamma; it should be dy * gamma": {"dx": paths(1, 1, dxhat=dy / gamma)},
        "the second mean is that of dy * xhat; it should be dxhat * xhat": {
            "dx": rstd * (paths(1, 0) / rstd - xhat * (dy * xhat).mean((0, 1, 2)))
        },
        "the means go over the whole array; each channel has its own": {
            "dx": paths(1, 1, (0, 1, 2, 3))
        },
        "rstd stands in front twice": {"dx": dx * rstd},
        "it is divided by rstd; it should be multiplied": {"dx": dx / rstd**2},
        "the sums are divided by N; a channel has M = N * H * W numbers": {
            "dx": rstd * gamma * (dy - dbeta / N - xhat * dgamma / N)
        },
        "dy is multiplied by y or x; it should be xhat": {"dgamma": (dy * x).sum((0, 1, 2))},
        "dgamma and dbeta are exchanged": {"dgamma": dbeta, "dbeta": dgamma},
        "dgamma is the sum of dxhat * xhat; it should be dy * xhat": {"dgamma": dgamma * gamma},
        "dbeta is the sum of dxhat; it should be dy": {"dbeta": dbeta * gamma},
        "the sum goes over the examples only, and not over N, H and W": {
            "dgamma": (dy * xhat).sum(0),
            "dbeta": dy.sum(0),
        },
    },
    sizes={"M": N * H * W},
)

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def batchnorm_backward(dy, xhat, rstd, gamma):
#     """dx (N, H, W, C), dgamma (C,), dbeta (C,) from dy and xhat (N, H, W, C), rstd, gamma (C,)."""
#     axes = (0, 1, 2)
#     dgamma = (dy * xhat).sum(axis=axes)
#     dbeta = dy.sum(axis=axes)
#     dxhat = dy * gamma
#     dx = rstd * (dxhat - dxhat.mean(axis=axes) - xhat * (dxhat * xhat).mean(axis=axes))
#     return dx, dgamma, dbeta
# ```
#
# </details>

# %% [markdown]
# ## What follows exactly
#
# Batch norm forgets where its input was and how large it was: $x + b$ and $a x$ (with $a > 0$) have
# the same $\hat x$ as $x$. Moving along these directions changes nothing, so the gradient has no part
# in them:
#
# - in each channel, $\sum_i dx_i = 0$;
# - in each channel, $\sum_i dx_i\, \hat x_i = 0$.
#
# Both can be read from the formula: take the mean of $dx$, or of $dx \cdot \hat x$, and use that
# $\hat x$ has mean 0 and mean square 1. These tests need no finite difference and no tolerance but that
# of rounding. The second holds as far as $\varepsilon$ is small beside the variance, because the mean
# square of $\hat x$ is really $v / (v + \varepsilon)$.

# %%
rng = np.random.default_rng(3)
x = rng.standard_normal((8, 4, 4, 6)) * 2 + 1
gamma, beta, dy = rng.uniform(1, 2, 6), rng.standard_normal(6), rng.standard_normal(x.shape)
for eps, sees_scale in (0, False), (1e-5, False), (1.0, True):
    y, cache = ops.batchnorm_forward(x, gamma, beta, eps=eps)
    dx, dgamma, dbeta = ops.batchnorm_backward(dy, cache)
    xhat, lengths = (x - cache.mean) * cache.rstd, np.abs(dx).sum(axis=(0, 1, 2))
    shift = np.abs(dx.sum(axis=(0, 1, 2)) / lengths).max()
    scale = np.abs((dx * xhat).sum(axis=(0, 1, 2)) / lengths).max()
    print(f"eps {eps:7}: shift {shift:.0e}, scale {scale:.0e}")
    assert shift < 1e-12
    assert (scale > 1e-4) == sees_scale

moved = ops.batchnorm_forward(3 * x + 7, gamma, beta, eps=0)[0]
np.testing.assert_allclose(moved, ops.batchnorm_forward(x, gamma, beta, eps=0)[0], atol=1e-12)

# %% [markdown]
# A corollary: a bias in front of a batch norm is the shift of a channel. Its gradient is the sum of
# $dx$, which is 0; it would never move. That is why the convolutions of residual networks have none.

# %%
model = mr.Sequential(
    conv=mr.Conv2d(2, 4, 3, padding=1, rng=0, dtype=np.float64),
    norm=mr.BatchNorm2d(4, dtype=np.float64),
)
y = model.forward(rng.standard_normal((8, 6, 6, 2)), training=True)
model.backward(rng.standard_normal(y.shape))
print("bias gradient", np.abs(model.conv.bias.grad).max())
assert np.abs(model.conv.bias.grad).max() < 1e-10 < 1e-2 < np.abs(model.conv.weight.grad).max()

# %% [markdown]
# ## A backward pass with a path missing
#
# What if somebody forgets a path? The layer below is minires' own with the two terms as options. We
# ask three questions: does a check with $dy = 1$ see it, does a check with random $dy$ see it, and does
# the network train?


# %%
class Incomplete(mr.BatchNorm2d):
    """Batch norm behind a dense layer, whose backward pass may lack paths.

    mean and variance are 1, or 0 to leave the path out.
    """

    def __init__(self, num_features, mean=1, variance=1):
        super().__init__(num_features)
        self.mean, self.variance = mean, variance

    def _backward(self, dy, cache):
        _, (x, gamma, mean, _, rstd) = cache
        xhat, dxhat = (x - mean) * rstd, dy * gamma
        self.gamma.grad += (dy * xhat).sum(axis=0)
        self.beta.grad += dy.sum(axis=0)
        through_mean = self.mean * dxhat.mean(axis=0)
        through_variance = self.variance * xhat * (dxhat * xhat).mean(axis=0)
        return rstd * (dxhat - through_mean - through_variance)


kinds = {
    "complete": {},
    "no variance path": {"variance": 0},
    "no mean path": {"mean": 0},
    "neither path": {"mean": 0, "variance": 0},
}
x = rng.standard_normal((8, 3))
for name, options in kinds.items():
    layer = Incomplete(3, **options).astype(np.float64)
    layer.forward(x, training=True)
    of_ones = np.abs(layer.backward(np.ones_like(x))).max()
    verdict = mr.check_gradients(layer, x).verdicts["x"]
    print(f"{name:17} gradient of the plain sum {of_ones:.0e}, random dy: {verdict}")
    assert (of_ones < 1e-12) == ("mean" not in options)
    assert verdict == ("fail" if options else "pass")

# %% [markdown]
# The sum of all outputs is $M \beta$, whatever $x$ is, so its true gradient is 0. With $dy = 1$ the
# path through the variance is 0 too, and a backward pass without it looks right. So would one that
# returns zeros. A check with random $dy$, such as `check_gradients`, refuses all three.
#
# Now the training. Six dense layers with batch norm read digits. The loop is that of notebook 1, with
# the layers as objects.

# %%
mr.set_num_threads(1)  # these nets are small: a second thread would cost more than it brings
data = mr.data.load_digits()
x_train = data.x_train.reshape(-1, 64)  # (N, D)
x_test = data.x_test.reshape(-1, 64)


def dense_net(depth, norm, seed):
    """`depth` dense layers of width 64, each with norm and ReLU, and one to the ten classes."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(depth):
        layers += [mr.Dense(64, 64, bias=norm is None, rng=rng)]
        layers += [] if norm is None else [norm(64)]
        layers += [mr.ReLU()]
    return mr.Sequential(*layers, mr.Dense(64, 10, rng=rng))


def train(model, lr, epochs, seed, batch_size=64, optimizers=None):
    """Train on the digits; the losses, up to the first that is not finite."""
    loss, losses, rng = mr.SoftmaxCrossEntropy(), [], np.random.default_rng(seed)
    optimizers = optimizers or [mr.SGD(model.parameters(), lr)]
    for _ in range(epochs):
        for x, labels in mr.data.batches(x_train, data.y_train, batch_size, rng):
            logits = model.forward(x, training=True)
            losses.append(loss.forward(logits, labels))
            if not np.isfinite(losses[-1]):
                return losses
            for optimizer in optimizers:
                optimizer.zero_grad()
            model.backward(loss.backward())
            for optimizer in optimizers:
                optimizer.step()
    return losses


def accuracy(model):
    """The share of the test digits that it reads, in evaluation mode."""
    return mr.evaluate(model, x_test, data.y_test).accuracy


def distance(model):
    """How far from 0 the inputs of the first norm lie: |mean| / standard deviation, on average."""
    x = model[0].forward(x_train)
    return np.mean(np.abs(x.mean(axis=0)) / x.std(axis=0))


found, networks = {}, {}
for name, options in kinds.items():
    runs, networks[name] = [], []
    for seed in range(3):
        model = dense_net(6, lambda C, options=options: Incomplete(C, **options), seed)
        losses = train(model, 0.1, 4, seed)
        runs.append((accuracy(model), np.mean(losses[-23:]), distance(model)))
        networks[name].append(model)
    found[name] = np.array(runs)  # (seed, 3)
    mean = found[name].mean(axis=0)
    print(f"{name:17} test accuracy {mean[0]:.3f}, loss {mean[1]:.2f}, |mean|/std {mean[2]:.1f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for ax, column, label in (axes[0], 0, "test accuracy"), (axes[1], 2, "|mean| / standard deviation"):
    for row, runs in enumerate(found.values()):
        ax.plot(runs[:, column], [row] * len(runs), "o", color="tab:blue", alpha=0.6)
    ax.set_yticks(range(len(found)), found if ax is axes[0] else [""] * len(found))
    ax.set_ylim(3.5, -0.5)
    ax.set_xlabel(label)
    ax.grid(axis="x", alpha=0.3)
axes[0].set_title("What the network reads")
axes[1].set_title("What enters the first norm")

mean = {name: runs.mean(axis=0) for name, runs in found.items()}
assert min(found["complete"][:, 0].min(), found["no variance path"][:, 0].min()) > 0.9
assert abs(mean["complete"][0] - mean["no variance path"][0]) < 0.03
assert max(mean["no mean path"][0], mean["neither path"][0]) < mean["complete"][0] - 0.01
assert min(mean["no mean path"][2], mean["neither path"][2]) > 1.5 * mean["complete"][2]

# %% [markdown]
# The answer is mixed. **Without the path through the variance the network trains as well as ever**: no
# curve and no accuracy tells you that your gradient is wrong; only a check does. Without the path
# through the mean it reads visibly fewer digits. The right-hand picture says what happens: the
# gradient keeps pushing all values of a channel to one side. The norm takes the shift out again, so
# the push never has the effect that it promises, and goes on. The channel wanders away from 0. We
# come back to what that does.

# %% [markdown]
# ## Running statistics
#
# In training, what the network says about one image depends on the others in its batch. When it is
# used, there may be one image only. So batch norm keeps a memory of the means and variances it has
# seen, the **running statistics**, and uses these in **evaluation mode**. After each training batch
#
# $$\text{running} \mathrel{+}= m \cdot (\text{batch} - \text{running}).$$
#
# Two conventions need care.
#
# - **Momentum.** Here and in PyTorch the momentum $m = 0.1$ is the weight of the *new* value. In Keras
#   it is the weight of the old one: its 0.99 is 0.01 here.
# - **Biased or unbiased.** The batch is normalised with the variance divided by $M$, which makes the
#   variance of $\hat x$ exactly 1. But on average that is smaller than the variance of all data, by the
#   factor $(M - 1)/M$, since the mean was fitted to the same numbers. So the running variance takes
#   $\frac{M}{M - 1} v$, as in PyTorch. (Keras keeps $v$.)

# %%
rng = np.random.default_rng(4)
sample = rng.standard_normal((100_000, 4))  # 100,000 batches of M = 4 numbers with variance 1
biased, unbiased = sample.var(axis=1).mean(), sample.var(axis=1, ddof=1).mean()
print(f"divided by M: {biased:.3f}, by M - 1: {unbiased:.3f}")
assert abs(biased - 3 / 4) < 0.01
assert abs(unbiased - 1) < 0.01

# %% [markdown]
# ## Exercise 3: the running statistics after one batch


# %% tags=["exercise-3"]
def updated(running_mean, running_var, x, momentum):
    """The new running mean and running variance, (C,) each, after a batch x (N, H, W, C)."""
    ...


# %% tags=["check-3"]
rng = np.random.default_rng(5)
N, H, W, C = 4, 2, 3, 5
x = rng.standard_normal((N, H, W, C)) * [0.5, 1, 1, 2, 3] + [1, 2, 0, -1, 5]
running_mean, running_var, momentum = rng.standard_normal(C), rng.uniform(1, 2, C), 0.3


def followed(m=momentum, ddof=1, axes=(0, 1, 2), root=1):
    """Both, with the batch weighed by m."""
    mean, var = x.mean(axis=axes), x.var(axis=axes, ddof=ddof) ** root
    new_mean = running_mean + m * (mean - running_mean)
    new_var = running_var + m * (var - running_var)
    return {"running_mean": new_mean, "running_var": new_var}


right = followed()
given = running_mean.copy(), running_var.copy()
expect(
    "updated",
    updated(*given, x.copy(), momentum),
    right,
    mistakes={
        "momentum weighs the old value; here it weighs the new one": followed(m=1 - momentum),
        "the old values are gone: only a part of the way is made": followed(m=1),
        "the variance of the batch is divided by M; this one is divided by M - 1": followed(ddof=0),
        "the standard deviation is averaged; it should be the variance": followed(root=0.5),
        "the factor is (M - 1) / M; it should be M / (M - 1)": {
            "running_var": running_var
            + momentum * (x.var((0, 1, 2)) * (1 - 1 / (N * H * W)) - running_var)
        },
        "the factor is N / (N - 1); the channel has M = N * H * W values": {
            "running_var": running_var + momentum * (x.var((0, 1, 2)) * N / (N - 1) - running_var)
        },
        "mean and variance go over the examples only": followed(axes=0),
        "mean and variance go over the whole array; each channel has its own": followed(
            axes=(0, 1, 2, 3)
        ),
        "the step goes away from the batch: the sign of momentum is wrong": followed(m=-momentum),
        "the old value is not weighed with 1 - momentum": {
            "running_mean": right["running_mean"] + momentum * running_mean,
            "running_var": right["running_var"] + momentum * running_var,
        },
        "mean and variance are exchanged": {
            "running_mean": right["running_var"],
            "running_var": right["running_mean"],
        },
    },
)
expect(
    "updated leaves its arguments as they were",
    bool((given[0] == running_mean).all() and (given[1] == running_var).all()),
    True,
    mistakes={"it writes into the arrays that it was given; make new ones": False},
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def updated(running_mean, running_var, x, momentum):
#     """The new running mean and running variance, (C,) each, after a batch x (N, H, W, C)."""
#     mean = x.mean(axis=(0, 1, 2))
#     var = x.var(axis=(0, 1, 2), ddof=1)
#     new_mean = running_mean + momentum * (mean - running_mean)
#     new_var = running_var + momentum * (var - running_var)
#     return new_mean, new_var
# ```
#
# `ddof=1` divides by $M - 1$. Writing `running_mean += ...` would change the caller's array.
#
# </details>

# %% [markdown]
# The running statistics start at mean 0 and variance 1, and those numbers fade: after $t$ batches they
# still have the weight $(1 - m)^t$. An epoch of the digits has 23 batches of 64. With $m = 0.1$ what is
# left is $0.9^{23} = 9\,\%$; with Keras' $m = 0.01$ it is $0.99^{23} = 79\,\%$. The same network, the
# same training, the loss on the test digits in both modes:

# %%
assert (round(0.9**23, 2), round(0.99**23, 2)) == (0.09, 0.79)


def loss_in_batches(model, x, labels, batch_size, rng=None, shuffle=True):
    """Loss and accuracy in training mode, each batch with its own statistics."""
    before, loss, total = model.snapshot(), mr.SoftmaxCrossEntropy(), np.zeros(2)
    for xb, yb in mr.data.batches(x, labels, batch_size, rng, shuffle=shuffle):
        logits = model.forward(xb, training=True)
        right = (logits.argmax(axis=1) == yb).mean()
        total += len(xb) * np.array([loss.forward(logits, yb), right])
    model.restore(before)  # the running statistics as they were
    return total / len(x)


gaps = {}
for momentum in 0.1, 0.01:
    model = dense_net(2, lambda C, m=momentum: mr.BatchNorm2d(C, momentum=m), 0)
    train(model, 0.3, 1, 0)
    evaluation = mr.evaluate(model, x_test, data.y_test)
    batch_loss, batch_accuracy = loss_in_batches(model, x_test, data.y_test, 360)
    gaps[momentum] = evaluation.loss / batch_loss
    print(
        f"momentum {momentum:4}: batch statistics {batch_accuracy:.3f} right, loss {batch_loss:.2f}"
        f"; running statistics {evaluation.accuracy:.3f} right, loss {evaluation.loss:.2f}"
    )
assert gaps[0.1] < 1.7 < 2 < gaps[0.01]

# %% [markdown]
# A network that seems to read well in training and badly in evaluation may need more steps for its
# running statistics, and not more steps for its weights.
#
# This also explains the network without the path through the mean. Its channels wander, and the running
# statistics run after them. With the statistics of the batch it reads many more digits. (Without *both*
# paths it is the other way round, and the loss is several times as high: there more has gone wrong than
# the running statistics.)

# %%
batch = {
    name: np.mean([loss_in_batches(model, x_test, data.y_test, 360)[1] for model in models])
    for name, models in networks.items()
}
for name, runs in found.items():
    print(f"{name:17} batch statistics {batch[name]:.3f}, running {runs[:, 0].mean():.3f}")
assert batch["no mean path"] > mean["no mean path"][0] + 0.03
assert mean["neither path"][1] > 2 * mean["complete"][1]
assert abs(batch["complete"] - mean["complete"][0]) < 0.03

# %% [markdown]
# ## Evaluation mode is an affine map
#
# With running statistics, mean and variance are constants. Nothing that happens to $x_i$ reaches
# another $\hat x_j$: two of the three paths are gone. With $r = 1 / \sqrt{\text{running variance} +
# \varepsilon}$
#
# $$y = \gamma\, r\, x + (\beta - \gamma\, r\, \text{running mean}),$$
#
# a slope and an intercept for each channel. Its backward pass is not the one above.

# %% [markdown]
# ## Exercise 4: the backward pass of evaluation mode


# %% tags=["exercise-4"]
def evaluation_backward(dy, x, gamma, running_mean, running_var, eps):
    """dx (N, H, W, C), dgamma (C,), dbeta (C,) where the statistics are constants."""
    ...


# %% tags=["check-4"]
rng = np.random.default_rng(6)
N, H, W, C = 4, 2, 3, 5
x = rng.standard_normal((N, H, W, C)) * [0.5, 1, 1, 2, 3] + [1, 2, 0, -1, 5]
dy = rng.standard_normal((N, H, W, C)) + 0.5
gamma, beta, eps = rng.uniform(1, 2, C), rng.standard_normal(C), 0.1
running_mean, running_var = rng.standard_normal(C), rng.uniform(1, 2, C)
cache = ops.batchnorm_inference_forward(x, gamma, beta, running_mean, running_var, eps=eps)[1]
dx, dgamma, dbeta = ops.batchnorm_inference_backward(dy, cache)
in_training = ops.batchnorm_backward(dy, cache)[0]  # the formula of training mode, same xhat
of_batch = ops.batchnorm_backward(dy, ops.batchnorm_forward(x, gamma, beta, eps=eps)[1])
rstd = cache.rstd
expect(
    "evaluation_backward",
    evaluation_backward(dy.copy(), x.copy(), gamma.copy(), running_mean.copy(), running_var, eps),
    {"dx": dx, "dgamma": dgamma, "dbeta": dbeta},
    mistakes={
        "the terms of training mode are subtracted, but mean and variance are constants here": {
            "dx": in_training
        },
        "the statistics of the batch are used, and the paths through them": dict(
            zip(("dx", "dgamma", "dbeta"), of_batch, strict=True)
        ),
        "the statistics of the batch are used, and not the running ones": {
            "dx": dy * gamma / np.sqrt(x.var((0, 1, 2)) + eps),
            "dgamma": of_batch[1],
        },
        "gamma is missing: y has the slope gamma * rstd in x": {"dx": dy * rstd},
        "rstd is missing: y has the slope gamma * rstd in x": {"dx": dy * gamma},
        "the root is missing: dx is divided by the variance": {"dx": dy * gamma * rstd**2},
        "dx is divided by rstd; it should be multiplied": {"dx": dy * gamma / rstd},
        "dx is multiplied by xhat; the slope of y in x is gamma * rstd": {
            "dx": dy * gamma * (x - running_mean) * rstd
        },
        "the sum holds gamma; it should be dy * xhat": {"dgamma": dgamma * gamma},
        "xhat is made with the mean of the batch; it should be the running mean": {
            "dgamma": (dy * (x - x.mean((0, 1, 2))) * rstd).sum((0, 1, 2))
        },
        "eps is missing": {
            "dx": dy * gamma / np.sqrt(running_var),
            "dgamma": (dy * (x - running_mean)).sum((0, 1, 2)) / np.sqrt(running_var),
        },
        "dy is multiplied by x, where it should be xhat": {"dgamma": (dy * x).sum((0, 1, 2))},
        "dy is multiplied by x - mean, where it should be xhat: rstd is missing": {
            "dgamma": dgamma / rstd
        },
        "the sum goes over the examples only, and not over N, H and W": {
            "dgamma": (dy * (x - running_mean) * rstd).sum(0),
            "dbeta": dy.sum(0),
        },
    },
    sizes={"M": N * H * W},
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def evaluation_backward(dy, x, gamma, running_mean, running_var, eps):
#     """dx (N, H, W, C), dgamma (C,), dbeta (C,) where the statistics are constants."""
#     rstd = 1 / np.sqrt(running_var + eps)
#     xhat = (x - running_mean) * rstd
#     dx = dy * gamma * rstd
#     dgamma = (dy * xhat).sum(axis=(0, 1, 2))
#     dbeta = dy.sum(axis=(0, 1, 2))
#     return dx, dgamma, dbeta
# ```
#
# </details>

# %% [markdown]
# An affine map behind a convolution is a convolution: multiply filter $f$ by $\gamma_f r_f$ and use the
# intercept as its bias. Whoever runs a trained network can leave out its batch norms.

# %%
conv = mr.Conv2d(2, 4, 3, padding=1, bias=False, rng=0, dtype=np.float64)
norm = mr.BatchNorm2d(4, dtype=np.float64)
rng = np.random.default_rng(7)
norm.gamma.value, norm.beta.value = rng.uniform(1, 2, 4), rng.standard_normal(4)
for _ in range(20):  # so that there are running statistics
    norm.forward(conv.forward(rng.standard_normal((8, 6, 6, 2)) + 1), training=True)

slope = norm.gamma.value / np.sqrt(norm.running_var + norm.eps)
folded = mr.Conv2d(2, 4, 3, padding=1, rng=0, dtype=np.float64)
folded.weight.value = conv.weight.value * slope  # (KH, KW, C, F) times (F,)
folded.bias.value = norm.beta.value - slope * norm.running_mean
x = rng.standard_normal((3, 6, 6, 2))
np.testing.assert_allclose(folded.forward(x), norm.forward(conv.forward(x)), atol=1e-12)

# %% [markdown]
# ## Two modes, two functions: the gap
#
# In training mode the network is a function of the batch, in evaluation mode of one image. How far
# apart they are depends on the size of the batch: a mean over four images is a poor guess. Here is one
# network, trained with batches of 64, that reads the test digits with batch statistics, in batches of
# different sizes; and then several networks, each trained with another batch size, the learning rate
# lowered in proportion below 16.

# %%
model = dense_net(2, mr.BatchNorm2d, 0)
train(model, 0.3, 8, 0)
running = accuracy(model)
sizes = (2, 4, 8, 16, 32, 64, 128)
read = []  # by the one network in training mode
for size in sizes:
    runs = [loss_in_batches(model, x_test, data.y_test, size, seed) for seed in range(3)]
    read.append(np.mean(runs, axis=0)[1])

trained = {}  # batch size: accuracy of its own network, with running and with batch statistics
for size in sizes:
    own = dense_net(2, mr.BatchNorm2d, 0)
    train(own, 0.1 * min(1, size / 16), 4, 0, batch_size=size)
    trained[size] = accuracy(own), loss_in_batches(own, x_test, data.y_test, size, 0)[1]
    print(f"batches of {size:3}: running {trained[size][0]:.3f}, batch {trained[size][1]:.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
left.plot(sizes, read, "o-", color="tab:red", label="statistics of the batch")
left.axhline(running, color="tab:blue", label="running statistics")
left.set_title("One network, trained with 64")
left.set_ylabel("test accuracy")
right.plot(sizes, [batch for _, batch in trained.values()], "o-", color="tab:red")
right.plot(sizes, [running for running, _ in trained.values()], "s-", color="tab:blue")
right.set_title("Each trained with its own batch size")
for ax in left, right:
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.set_xlabel("batch size")
    ax.grid(alpha=0.3)
left.legend(loc="lower right")

assert running > 0.94
assert abs(read[-1] - running) < 0.03
assert read[0] < 0.7 < read[1] < 0.87 < read[4]
assert trained[2][0] < 0.85 < 0.9 < min(trained[size][0] for size in (4, 8, 16, 32))
assert all(trained[size][1] < trained[size][0] - 0.05 for size in (2, 4))

# %% [markdown]
# Left: the smaller the batches in which the network reads, the more it misreads, because the mean and the
# variance of a few images are mostly noise. With batches of 128 the two modes agree. Right: a network that
# was trained on small batches reads better with running statistics than with the noise it was trained in,
# and from four images on it has learnt as well as the others. Only batches of two leave a lasting damage.
#
# They are a case of their own. Behind a dense layer a channel then has two numbers, and unless they are
# equal, $\hat x$ is $-1$ and $+1$: training sees only *which of the two was larger*. In evaluation mode the
# network gets numbers of a kind that it has never met.

# %%
pair = np.array([[0.3], [0.1]])
print(ops.batchnorm_forward(pair, np.ones(1), np.zeros(1), eps=1e-12)[0].ravel())
tens = ops.batchnorm_forward(10 * pair, np.ones(1), np.zeros(1), eps=1e-12)[0]
np.testing.assert_allclose(tens.ravel(), [1, -1], atol=1e-6)

# %% [markdown]
# Behind a convolution $M = N H W$ is larger than $N$, but the pixels of one image resemble each other,
# so small batches are a problem there too. Wu and He (2018) trained a ResNet-50 on ImageNet with 32
# images a worker and with 2: with batch norm the error rose from 23.6 to 34.7 %.
#
# Size is not all: a batch has to be a fair sample. Leave the network in training mode by mistake, and show
# it the test digits in order, first all zeros, then all ones. What makes them zeros is the same in the
# whole batch, so the mean takes it out:

# %%
order = np.argsort(data.y_test, kind="stable")
in_order = x_test[order], data.y_test[order]
sorted_batches = loss_in_batches(model, *in_order, 36, shuffle=False)[1]
mixed_batches = loss_in_batches(model, x_test, data.y_test, 36, 0)[1]
print(f"batches of 36: mixed {mixed_batches:.2f} right, one class each {sorted_batches:.2f}")
assert sorted_batches < 0.3 < 0.92 < mixed_batches

# %% [markdown]
# ## Why it helps: the length of the weights stops mattering
#
# Let a layer with weights $w$ stand in front of a batch norm. Its output is linear in $w$, batch norm
# forgets scale, so for $a > 0$ the loss does not see the factor:
#
# $$L(a w) = L(w).$$
#
# Differentiate this with respect to $a$ at $a = 1$, and with respect to $w$:
#
# $$\langle w, \nabla L(w) \rangle = 0, \qquad \nabla L(a w) = \frac1a \nabla L(w).$$
#
# The gradient is orthogonal to the weights, and weights that are ten times as long get a gradient that
# is ten times as short. Both to rounding, in float64 and with $\varepsilon$ next to nothing:

# %%
images, labels = x_train[:64].astype(np.float64), data.y_train[:64]
wide = dense_net(2, lambda C: mr.BatchNorm2d(C, eps=1e-12), 0).astype(np.float64)
loss = mr.SoftmaxCrossEntropy()


def loss_and_gradient(model):
    """The loss of 64 digits and the gradient of the first weights."""
    value = loss.forward(model.forward(images, training=True), labels)
    model[0].weight.grad.fill(0)
    model.backward(loss.backward())
    return value, model[0].weight.grad.copy()


value, gradient = loss_and_gradient(wide)
w = wide[0].weight.value
cosine = np.vdot(w, gradient) / (np.linalg.norm(w) * np.linalg.norm(gradient))
wide[0].weight.value = 10 * w
value_of_10w, gradient_of_10w = loss_and_gradient(wide)
print(f"loss {value:.6f} and {value_of_10w:.6f}, cosine of w and gradient {cosine:.0e}")
assert max(abs(value - value_of_10w), abs(cosine)) < 1e-8
np.testing.assert_allclose(10 * gradient_of_10w, gradient, atol=1e-7 * np.abs(gradient).max())

# %% [markdown]
# Now take a step of gradient descent. By Pythagoras the weights get longer, whatever the learning rate
# $\eta$:
#
# $$|w - \eta \nabla L|^2 = |w|^2 + \eta^2 |\nabla L|^2 .$$
#
# Longer weights have a shorter gradient, and a step turns them by a smaller angle. A learning rate that
# is much too large makes *one* wild step; then $|w|$ is so large that the next ones are small. The
# layer chooses its own pace. So it should train with almost any learning rate. We measure it: the
# weights in front of the norms get a rate between 0.01 and 1000; all else ($\gamma$, $\beta$ and the
# last layer, which has no norm behind it) keeps 0.1.

# %%
rates = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def train_with_rate(model, rate, seed):
    """Accuracy after training all dense weights but the last with `rate`; |w| before and after."""
    hidden = [layer.weight for layer in list(model)[:-1] if isinstance(layer, mr.Dense)]
    others = [p for p in model.parameters() if all(p is not weight for weight in hidden)]
    before = np.linalg.norm(hidden[0].value)
    with np.errstate(over="ignore", invalid="ignore"):  # without a norm it will overflow
        train(model, None, 4, seed, optimizers=[mr.SGD(hidden, rate), mr.SGD(others, 0.1)])
        return accuracy(model), before, np.linalg.norm(hidden[0].value)


results = {}
for label, norm in ("batch norm", mr.BatchNorm2d), ("no norm", None):
    for rate in rates:
        runs = [train_with_rate(dense_net(2, norm, seed), rate, seed) for seed in range(3)]
        results[label, rate] = np.array(runs)
        if norm:
            _, before, after = results[label, rate].mean(axis=0)
            print(f"rate {rate:6}: |w| from {before:.0f} to {after:.0f}")

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for label, marker in ("batch norm", "o-"), ("no norm", "s--"):
    ax.plot(rates, [results[label, r][:, 0].mean() for r in rates], marker, label=label)
ax.axhline(0.1, color="gray", linestyle=":", label="guessing")
ax.set(xscale="log", ylim=(0, 1.02), xlabel="learning rate of the hidden weights")
ax.set(ylabel="test accuracy", title="With batch norm, rates from 0.1 to 1000 train")
ax.legend()

reads = {key: runs[:, 0].mean() for key, runs in results.items()}
assert min(reads["batch norm", r] for r in rates[1:]) > 0.9
assert max(reads["no norm", r] for r in rates[3:]) < 0.2 < 0.8 < reads["no norm", 0.1]
assert results["batch norm", 1000.0][:, 2].min() > 200  # from about 11

# %% [markdown]
# Ioffe and Szegedy (2015) saw something like it on ImageNet: with batch norm their Inception network
# could be trained with a rate 5 or 30 times as large, and with the first of them reached the accuracy
# of the original in 14 times fewer steps. They give two reasons. One is the scale invariance above
# (their section 3.3), which is exact. The other, in the title of their paper, is that batch norm
# reduces "internal covariate shift". Santurkar et al. (2018) added random shifts and scales *behind*
# batch norm, and it trained as well as before, so that reason does not hold. Arora, Li and Lyu (2019)
# prove a theorem about your picture: whatever fixed rate the scale-invariant weights get, gradient descent
# comes to a point where the gradient is 0.
#
# The first weights matter less too, for a factor on $w$ is what batch norm forgets. It is not quite the
# same training: a factor $a$ on the weights is a learning rate divided by $a^2$.

# %%
for factor in 0.1, 1, 10:
    row = []
    for norm in mr.BatchNorm2d, None:
        model = dense_net(2, norm, 0)
        for layer in list(model)[:-1]:
            if isinstance(layer, mr.Dense):
                layer.weight.value = layer.weight.value * np.float32(factor)
        train(model, 0.1, 4, 0)
        row.append(accuracy(model))
    print(f"weights times {factor:4}: batch norm {row[0]:.3f}, no norm {row[1]:.3f}")
    assert row[0] > 0.6
    assert factor != 0.1 or row[0] > row[1] + 0.2

# %% [markdown]
# What batch norm does *not* do: it does not keep gradients level in deep plain networks. There it makes
# them explode, as notebook 6 measures. And it ties the images of a batch together, with all that
# follows from it above.
#
# ## What to remember
#
# - Each of the $M$ numbers of a channel acts on all others, through the mean and through the variance.
#   Hence $dx = r\,(d\hat x - \text{mean}(d\hat x) - \hat x\, \text{mean}(d\hat x\, \hat x))$: what is
#   left of $d\hat x$ when its line of least squares on $\hat x$ is taken away.
# - $dx$ adds up to 0 and is orthogonal to $\hat x$ in each channel. Test that.
# - A backward pass without the path through the variance passes a check with ones and trains. Check
#   with random $dy$.
# - Training mode uses the batch, evaluation mode the running statistics: two functions, two backward
#   passes. Momentum is the weight of the new value here, of the old one in Keras.
# - Small batches, unfair batches and running statistics that are not there yet open a gap between the
#   two.
# - Weights in front of a norm have no scale: their gradient is orthogonal to them and shrinks as they
#   grow. Here they trained with rates from 0.1 to 1000.
#
# ## Where to read on
#
# - Ioffe and Szegedy (2015), "Batch normalization", arXiv:1502.03167: section 3 (the algorithm and its
#   backward pass), 3.3 (learning rates), 4.2.2 (the figures above).
# - Santurkar, Tsipras, Ilyas and Madry (2018), "How does batch normalization help optimization?",
#   arXiv:1805.11604, section 2.
# - Wu and He (2018), "Group normalization", arXiv:1803.08494, section 4.1 (small batches).
# - Arora, Li and Lyu (2019), "Theoretical analysis of auto rate-tuning by batch normalization",
#   arXiv:1812.03981.
# - In minires: `minires/ops/reference/batchnorm.py` (both modes), `minires/layers/batchnorm.py` (the
#   running statistics), `minires/ops/fast/batchnorm.py` (the same with Numba).
