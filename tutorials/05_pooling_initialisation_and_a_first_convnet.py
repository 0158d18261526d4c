# %% [markdown]
# # 5. Pooling, initialisation and a first convolutional net
#
# **What you will be able to do.** Write the backward pass of max and average pooling. Say how large
# the first weights must be, derive it, and see what happens when they are not. Put a convolutional net
# together, count its parameters and what a pixel of it sees, train it, look inside, and find out what
# it can do that a dense net cannot.
#
# **What you need.** Notebooks 1 to 4: dense layers, the gradient check, convolution, batch norm.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires.exercises import expect
from minires.ops import reference as ops

# %% [markdown]
# ## Max pooling
#
# A pooling layer moves a window over each channel, as a convolution does, and takes one number from
# it. Max pooling takes the largest. With windows of 2x2 that lie side by side, an image of 4x4 becomes
# one of 2x2:

# %%
image = np.array([[1.0, 3, 2, 0], [4, 2, 1, 1], [0, 1, 5, 6], [2, 2, 7, 8]])
x = image.reshape(1, 4, 4, 1)  # (N, H, W, C)
y, cache = ops.maxpool2d_forward(x, kernel_size=2, stride=2)
print(y.reshape(2, 2))
assert y.reshape(2, 2).tolist() == [[4, 2], [2, 8]]

# %% [markdown]
# For the backward pass ask, for each window, how $y = \max(x_1, \dots, x_k)$ changes if one of the
# pixels moves a little. If the pixel is the largest, $y$ moves along with it: slope 1. If it is
# another, nothing happens: slope 0. So
#
# $$\frac{\partial y}{\partial x_i} = [\, x_i \text{ is the winner} \,],$$
#
# and the whole upstream gradient of a window goes to its winner. The other pixels get nothing.
#
# **Ties.** In the window at the bottom left the 2 stands twice. Here the maximum has a kink, and no
# slope: move either 2 up and $y$ follows, move one down and it does not. A convention has to decide,
# and it is: *the first one in reading order gets everything*. To give $dy$ to both would send twice as
# much back as came in.

# %%
dy = np.array([[10.0, 20], [30, 40]]).reshape(1, 2, 2, 1)
dx = ops.maxpool2d_backward(dy, cache)
print(dx.reshape(4, 4))
assert dx.reshape(4, 4).tolist() == [[0, 0, 20, 0], [10, 0, 0, 0], [0, 0, 0, 0], [30, 0, 0, 40]]

# %% [markdown]
# **Windows that overlap.** With a window of 3x3 and a stride of 2, a pixel lies in up to four windows
# and may win in all of them. By the chain rule its gradient is the sum.
#
# **Padding.** A border that is filled with zeros, as for a convolution, would win over every negative
# number. So max pooling fills it with $-\infty$, which never wins:

# %%
negative = np.full((1, 3, 3, 1), -1.0)
y, _ = ops.maxpool2d_forward(negative, kernel_size=3, stride=2, padding=1)
with_zeros = np.pad(negative[0, :, :, 0], 1)
print("padded with -inf:", y.ravel(), " with zeros the first would be", with_zeros[:3, :3].max())
assert (y == -1).all()
assert with_zeros[:3, :3].max() == 0

# %% [markdown]
# ## Exercise 1: the backward pass of max pooling
#
# Loops will do. Windows may overlap; the window of the output pixel $(i, j)$ begins at row $i \cdot$
# `stride` and column $j \cdot$ `stride`. There is no padding.


# %% tags=["exercise-1"]
def maxpool_backward(dy, x, kernel, stride):
    """dx of the shape of x, (N, H, W, C), from dy (N, OH, OW, C); ties go to the first pixel."""
    ...


# %% tags=["check-1"]
rng = np.random.default_rng(0)
x = rng.integers(-6, 0, (2, 7, 5, 3)).astype(float)  # with many ties, all negative
dy = rng.standard_normal((2, 3, 2, 3))
kernel, stride = 3, 2


def routed(share, add=True, step=2, dy=dy):
    """dx if a window gives share(its pixels) * dy; without add, later windows overwrite."""
    dx = np.zeros_like(x)
    for n, i, j, c in np.ndindex(dy.shape):
        at = n, slice(step * i, step * i + 3), slice(step * j, step * j + 3), c
        part = share(x[at])
        dx[at] = np.where(part != 0, part * dy[n, i, j, c] + add * dx[at], dx[at])
    return dx


def winner(window, place=0):
    """1 at the first (0) or last (-1) maximum."""
    one = np.zeros(window.size)
    one[np.flatnonzero(window == window.max())[place]] = 1
    return one.reshape(window.shape)


in_the_corner = np.zeros_like(x)
for n, i, j, c in np.ndindex(dy.shape):
    window = x[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
    in_the_corner[n, :3, :3, c] += winner(window) * dy[n, i, j, c]
right = ops.maxpool2d_backward(dy, ops.maxpool2d_forward(x, kernel_size=3, stride=2)[1])
expect(
    "maxpool_backward",
    maxpool_backward(dy.copy(), x.copy(), kernel, stride),
    right,
    mistakes={
        "every pixel of a tie gets dy; only the first should": routed(lambda w: w == w.max()),
        "the last pixel of a tie gets dy; the first should": routed(lambda w: winner(w, -1)),
        "a tie shares dy; the first pixel should get all of it": routed(
            lambda w: (w == w.max()) / (w == w.max()).sum()
        ),
        "dy is assigned; where windows overlap it has to be added": routed(winner, add=False),
        "every pixel of the window gets dy; only the winner should": routed(np.ones_like),
        "the window's dy is spread over its pixels, as in average pooling": routed(
            lambda w: np.ones_like(w) / w.size
        ),
        "the smallest pixel gets dy; the largest should": routed(lambda w: winner(-w)),
        "dy is multiplied by the pixel; the slope of the winner is 1": routed(
            lambda w: winner(w) * w
        ),
        "row and column of the winner inside the window are exchanged": routed(
            lambda w: winner(w).T
        ),
        "a window begins at i; it should be i * stride": routed(winner, step=1),
        "a window begins at i * kernel; it should be i * stride": routed(winner, step=3),
        "the winner gets 1, and not dy": routed(winner, dy=np.ones_like(dy)),
        "the winner gets its own value, and not dy": routed(
            lambda w: winner(w) * w, dy=np.ones_like(dy)
        ),
        "the place inside the window is taken for the place in the image": in_the_corner,
    },
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def maxpool_backward(dy, x, kernel, stride):
#     """dx of the shape of x, (N, H, W, C), from dy (N, OH, OW, C); ties go to the first pixel."""
#     dx = np.zeros_like(x)
#     for n, i, j, c in np.ndindex(dy.shape):
#         top, left = i * stride, j * stride
#         window = x[n, top : top + kernel, left : left + kernel, c]
#         row, column = np.unravel_index(window.argmax(), window.shape)  # argmax takes the first
#         dx[n, top + row, left + column, c] += dy[n, i, j, c]
#     return dx
# ```
#
# </details>

# %% [markdown]
# Two properties that need no finite difference: the winners hand on all that came in, so
# $\sum dx = \sum dy$; and the layer moves along with its input, so that pooling $x + b$ gives $y + b$. A
# gradient check has to know about ties: minires' own finds them, says so, and moves the sample away.

# %%
rng = np.random.default_rng(1)
x, dy = rng.standard_normal((2, 8, 8, 3)), rng.standard_normal((2, 4, 4, 3))
pool = mr.MaxPool2d(2)
y = pool.forward(x)
dx = pool.backward(dy)
np.testing.assert_allclose(dx.sum(), dy.sum())
np.testing.assert_allclose(pool.forward(x + 5), y + 5)
assert np.count_nonzero(dx) == dy.size  # one pixel of four gets a gradient

report = mr.check_gradients(pool, image.reshape(1, 4, 4, 1))
print(report)
assert report.verdicts["x"] == "kink"

# %% [markdown]
# ## Average pooling
#
# The mean of a window of $k \times k$ pixels is linear in them, each with the weight $1 / k^2$. So each
# pixel of the window gets $dy / k^2$, and where windows overlap the parts add up:
#
# $$y = \frac{1}{k^2} \sum_i x_i, \qquad \frac{\partial y}{\partial x_i} = \frac{1}{k^2}.$$
#
# With a window as large as the image, one number is left of each channel. This is **global average
# pooling**, (N, H, W, C) to (N, C), which stands at the end of residual networks: it has no parameters,
# takes images of any size, and does not care where in the image something was seen. Its backward pass
# is $dx = dy / (H W)$, the same for every pixel.

# %% [markdown]
# ## Exercise 2: the backward pass of average pooling


# %% tags=["exercise-2"]
def avgpool_backward(dy, shape, kernel, stride):
    """dx of shape (N, H, W, C), given as `shape`, from dy (N, OH, OW, C)."""
    ...


# %% tags=["check-2"]
rng = np.random.default_rng(2)
shape, kernel, stride = (2, 9, 5, 3), 3, 2
dy = rng.standard_normal((2, 4, 2, 3))


def spread(weight, add=True, step=2):
    """dx if each pixel of a window gets dy * weight; without add, later windows overwrite."""
    dx = np.zeros(shape)
    for i, j in np.ndindex(dy.shape[1:3]):
        at = (slice(None), slice(step * i, step * i + 3), slice(step * j, step * j + 3))
        dx[at] = dy[:, i : i + 1, j : j + 1] * weight + (dx[at] if add else 0)
    return dx


right = ops.avgpool2d_backward(
    dy, ops.avgpool2d_forward(np.zeros(shape), kernel_size=3, stride=2)[1]
)
one_each = np.zeros(shape)
one_each[:, 0:7:2, 0:3:2] = dy / 9
expect(
    "avgpool_backward",
    avgpool_backward(dy.copy(), shape, kernel, stride),
    right,
    mistakes={
        "dy is not divided by the number of pixels in a window, kernel * kernel": spread(1),
        "dy is divided by kernel; a window has kernel * kernel pixels": spread(1 / 3),
        "dy is divided by the number of windows, not of pixels in a window": spread(1 / 8),
        "dy is divided by the number of pixels of the image": spread(1 / 45),
        "dy is divided by kernel * stride; a window has kernel * kernel pixels": spread(1 / 6),
        "a window begins at i; it should be i * stride": spread(1 / 9, step=1),
        "a window begins at i * kernel; it should be i * stride": spread(1 / 9, step=3),
        "dy is assigned; where windows overlap it has to be added": spread(1 / 9, add=False),
        "only the first pixel of each window gets a gradient; all of them should": one_each,
    },
    sizes={"N": 2, "C": 3},
)

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def avgpool_backward(dy, shape, kernel, stride):
#     """dx of shape (N, H, W, C), given as `shape`, from dy (N, OH, OW, C)."""
#     dx = np.zeros(shape)
#     N, OH, OW, C = dy.shape
#     for i, j in np.ndindex(OH, OW):
#         top, left = i * stride, j * stride
#         share = dy[:, i, j] / kernel**2  # (N, C)
#         dx[:, top : top + kernel, left : left + kernel] += share[:, None, None]
#     return dx
# ```
#
# </details>

# %% [markdown]
# Average pooling is a linear map $A$, so its backward pass is the transpose, and
# $\langle A x, g \rangle = \langle x, A^\top g \rangle$ holds for any $x$ and $g$. The picture shows what the
# two kinds of pooling make of a digit, and which pixels hear of a gradient that comes back.

# %%
x, g = rng.standard_normal((2, 7, 5, 3)), rng.standard_normal((2, 3, 2, 3))
y, cache = ops.avgpool2d_forward(x, kernel_size=3, stride=2)
np.testing.assert_allclose((y * g).sum(), (x * ops.avgpool2d_backward(g, cache)).sum())

data = mr.data.load_digits()
digit = data.x_train[2:3]  # (1, 8, 8, 1)
figure, axes = plt.subplots(1, 5, figsize=(8, 2.2), layout="constrained")
shown = {"a digit": digit}
for name, layer in ("max", mr.MaxPool2d(2)), ("average", mr.AvgPool2d(2)):
    shown[f"{name}, 2x2"] = layer.forward(digit)
    shown[f"{name}, 2x2: gradient"] = layer.backward(np.ones((1, 4, 4, 1), np.float32))
for ax, (title, pixels) in zip(axes, shown.items(), strict=True):
    ax.imshow(pixels[0, :, :, 0], cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize="small")
    ax.axis("off")
figure.suptitle("Max pooling sends the gradient to one pixel of four, average pooling to all")
for gradient, pixels in ("max, 2x2: gradient", 16), ("average, 2x2: gradient", 64):
    assert np.count_nonzero(shown[gradient]) == pixels

# %% [markdown]
# In the black corners of the digit all four pixels of a window are 0. That is a tie, and the first of
# them, at the top left, gets the gradient.
#
# ## How large must the first weights be?
#
# Before training the weights are random. Why random, if nobody knows the right ones? Because equal
# weights stay equal: two filters that start with the same numbers see the same, get the same gradient,
# and remain one filter for ever.

# %%
x = rng.standard_normal((16, 8))
twins = mr.Sequential(mr.Dense(8, 4, dtype=np.float64), mr.ReLU(), mr.Dense(4, 3, dtype=np.float64))
for layer in twins[0], twins[2]:
    layer.weight.value = np.full(layer.weight.shape, 0.1)
twins.forward(x)
twins.backward(rng.standard_normal((16, 3)))
gradient = twins[0].weight.grad  # (D, F) = (8, 4)
np.testing.assert_allclose(
    gradient, np.repeat(gradient[:, :1], 4, axis=1), rtol=1e-12
)  # one column
assert gradient.any()

# %% [markdown]
# How large, then? Follow the variance of the signal. One output of a dense layer is a sum of $D$
# products, $y_f = \sum_d x_d w_{df}$. Call $D$ the **fan-in**. Let the weights be independent, with mean
# 0 and variance $\text{Var}(w)$. Then the products are uncorrelated, with mean 0, and their variances add:
#
# $$\text{Var}(y) = \text{fan-in} \cdot \text{Var}(w) \cdot E[x^2].$$
#
# Now $x$ is what a ReLU made of the output of the layer before. That output is as often positive as
# negative, and the ReLU sets one half of it to 0, so $E[x^2] = \tfrac12 \text{Var}(y_{\text{before}})$. From
# layer to layer
#
# $$\text{Var}(y) = \underbrace{\tfrac12\, \text{fan-in} \cdot \text{Var}(w)}_{\text{one factor a layer}} \cdot
#   \text{Var}(y_{\text{before}}).$$
#
# The factor must be 1, or the signal shrinks or grows exponentially with depth. **He's rule**:
#
# $$\text{Var}(w) = \frac{2}{\text{fan-in}}, \qquad \text{std}(w) = \sqrt{\frac{2}{\text{fan-in}}} .$$
#
# The way back is the same with other letters: $dx_d = \sum_f dy_f w_{df}$ has $F$ terms, the **fan-out**,
# and the ReLU lets one half through, so the factor is $\tfrac12\, \text{fan-out} \cdot \text{Var}(w)$. Where
# layers have equally many inputs and outputs, one rule serves both directions.
#
# **Glorot's rule** is older: $\text{Var}(w) = 2 / (\text{fan-in} + \text{fan-out})$. It has no $\tfrac12$ of a
# ReLU in it, because it was made for layers that are linear near 0, such as tanh, and it is a compromise
# between the two directions. With a ReLU, and equal fans, it leaves the factor $\tfrac12$ a layer.
#
# We measure it: 30 layers of 256 units, each a ReLU and a dense layer. Noise goes in at the front, and
# noise comes back from the end. The factors should be $\tfrac12$, 1, and 2 for a variance of
# $4 / \text{fan-in}$. A standard deviation of 0.01, once a common choice, should make
# $\tfrac12 \cdot 256 \cdot 0.01^2 = 0.0128$.

# %%
from minires.experiments.growth import there_and_back
from minires.initializers import glorot_normal, he_normal, normal, small_normal

mr.set_num_threads(1)  # what follows is small: a second thread would cost more than it brings


def too_large(rng, shape, fan_in, fan_out, dtype):
    """Twice the variance of He's rule."""
    return normal(rng, shape, np.sqrt(4 / fan_in), dtype)


def stack(initializer, rng, depth=30, width=256):
    """`depth` blocks of ReLU and dense layer."""
    options = {"bias": False, "initializer": initializer, "rng": rng, "dtype": np.float64}
    return [mr.Sequential(mr.ReLU(), mr.Dense(width, width, **options)) for _ in range(depth)]


rules = {
    "too large, 4/fan-in": (too_large, 2),
    "He, 2/fan-in": (he_normal, 1),
    "Glorot, 1/fan-in here": (glorot_normal, 1 / 2),
    "std 0.01": (small_normal, 0.0128),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for (name, (rule, factor)), marker in zip(rules.items(), "^os.", strict=True):
    rng = np.random.default_rng(0)
    seen = there_and_back(stack(rule, rng), rng.standard_normal((64, 256)), rng)
    left.semilogy(seen.variance, marker=marker, markevery=5, label=name)
    right.semilogy((seen.gradient / seen.gradient[-1]) ** 2, marker=marker, markevery=5)
    forward = (seen.variance[-1] / seen.variance[0]) ** (1 / 30)
    backward = (seen.gradient[0] / seen.gradient[-1]) ** (2 / 30)
    print(f"{name:22} expected factor {factor:6.4f}, forward {forward:.4f}, back {backward:.4f}")
    assert abs(forward / factor - 1) < 0.1
    assert abs(backward / factor - 1) < 0.1
left.set(title="The signal, forward", xlabel="behind layer", ylabel="mean square")
right.set(
    title="The gradient, backward", xlabel="behind layer", ylabel="squared norm, 1 at the end"
)
for ax in left, right:
    ax.set_ylim(1e-20, 1e12)
    ax.grid(alpha=0.3)
left.legend(fontsize="small", loc="lower right")

# %% [markdown]
# Thirty factors of $\tfrac12$ are $10^{-9}$, thirty factors of 2 are $10^9$. "Close to right" is not a
# thing in a product of thirty. Does it matter for training? Eight dense layers, with the standard
# deviation of He's rule, half of it and twice of it, without and with batch norm, 92 steps:

# %%
flat = mr.data.load_digits().x_train.reshape(-1, 64), data.y_train


def loss_after_training(scale, norm):
    """The mean loss of the fourth epoch, or None if it is no number any more."""
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(8):
        dense = mr.Dense(64, 64, rng=rng)  # He's rule is the default
        dense.weight.value = dense.weight.value * np.float32(scale)
        layers += [dense, mr.BatchNorm2d(64), mr.ReLU()] if norm else [dense, mr.ReLU()]
    model = mr.Sequential(*layers, mr.Dense(64, 10, rng=rng))
    try:
        optimizer = mr.SGD(model.parameters(), 0.05)
        return mr.fit(model, flat, optimizer, 4, rng=0, progress=False)[-1].loss
    except mr.NonFiniteError as error:
        print(str(error).splitlines()[0])
        return None


bare, normed = (
    {scale: loss_after_training(scale, norm) for scale in (0.5, 1, 2)} for norm in (False, True)
)
print("without norm:", bare)
print("with norm:   ", normed)
print("guessing:    ", np.log(10))
assert bare[2] is None
assert bare[1] < 1.2 < 2.2 < bare[0.5]
assert max(normed.values()) < 1.6

# %% [markdown]
# With half the standard deviation nothing is learnt in this time: eight halvings leave a 256th of the
# signal, and of the gradient, and the network can only guess. With twice, the steps are so large that
# the numbers leave the range of float32. With batch norm all three train, for the reason that notebook 4
# gave; but not equally well.

# %% [markdown]
# ## Exercise 3: He's rule for a convolution
#
# How many products does one output number of a convolution add up?


# %% tags=["exercise-3"]
def he_std(KH, KW, C, F):
    """The standard deviation of weights (KH, KW, C, F) by He's rule."""
    ...


# %% tags=["check-3"]
expect(
    "he_std",
    he_std(3, 5, 6, 11),
    np.sqrt(2 / (3 * 5 * 6)),
    mistakes={
        "fan-in is C; an output adds up KH * KW * C products": np.sqrt(2 / 6),
        "fan-in is KH * KW; each of the C channels is added up too": np.sqrt(2 / 15),
        "fan-in is F; that is how many outputs there are, not how many products one adds up": (
            np.sqrt(2 / 11)
        ),
        "this is the fan-out, KH * KW * F": np.sqrt(2 / (15 * 11)),
        "fan-in is KH * KW * C * F; each output adds up those of its own filter only": np.sqrt(
            2 / (15 * 66)
        ),
        "this is the variance; the standard deviation is its root": 2 / 90,
        "the 2 is missing: the ReLU sets half of its input to 0": np.sqrt(1 / 90),
        "2 / KH * KW * C is (2 / KH) * KW * C: the product needs brackets": np.sqrt(2 / 3 * 5 * 6),
        "this is Glorot's rule": np.sqrt(2 / (90 + 165)),
        "the fraction is upside down": np.sqrt(90 / 2),
    },
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def he_std(KH, KW, C, F):
#     """The standard deviation of weights (KH, KW, C, F) by He's rule."""
#     return np.sqrt(2 / (KH * KW * C))
# ```
#
# One output number is $\sum_{kh, kw, c} x\, w$: the window has KH * KW * C numbers.
#
# </details>

# %% [markdown]
# It is a common mistake to take the number of channels for the fan-in. With filters of 3x3 the variance
# is then 9 times too large, in every layer:


# %%
def fan_is_channels(rng, shape, fan_in, fan_out, dtype):
    """He's rule with C in the place of KH * KW * C."""
    return normal(rng, shape, np.sqrt(2 / shape[2]), dtype)


variance = {}
for name, rule in ("KH * KW * C", he_normal), ("C", fan_is_channels):
    rng = np.random.default_rng(0)
    options = {"padding": 1, "bias": False, "initializer": rule, "rng": rng}
    convs = [mr.Sequential(mr.ReLU(), mr.Conv2d(32, 32, 3, **options)) for _ in range(8)]
    images = rng.standard_normal((4, 16, 16, 32)).astype(np.float32)
    variance[name] = there_and_back(convs, images, rng).variance
    print(
        f"fan-in {name:11} after 1 layer {variance[name][1]:5.2f}, 8 layers {variance[name][8]:.3g}"
    )
assert 0.7 < variance["KH * KW * C"][1] < 1.1
assert 0.02 < variance["KH * KW * C"][8] < 3
np.testing.assert_allclose(variance["C"] / variance["KH * KW * C"], 9.0 ** np.arange(9), rtol=0.01)

# %% [markdown]
# (With the right fan-in the variance need not stay at exactly 1. 32 channels leave room for chance, and at
# the border zeros of the padding take part in the sums.)
#
# ## A convolutional net
#
# Now everything is there. The network below has three convolutions. The first two work on 8x8 pixels,
# max pooling halves the image, the third works on 4x4. Global average pooling leaves 12 numbers for
# each image, and a dense layer turns them into ten logits. No convolution has a bias, since a batch norm
# follows.


# %%
def conv_net(seed):
    """Three convolutions, one max pooling, global average pooling, one dense layer."""
    rng = np.random.default_rng(seed)
    return mr.Sequential(
        conv1=mr.Conv2d(1, 8, 3, padding=1, bias=False, rng=rng),
        norm1=mr.BatchNorm2d(8),
        relu1=mr.ReLU(),
        conv2=mr.Conv2d(8, 12, 3, padding=1, bias=False, rng=rng),
        norm2=mr.BatchNorm2d(12),
        relu2=mr.ReLU(),
        pool=mr.MaxPool2d(2),
        conv3=mr.Conv2d(12, 12, 3, padding=1, bias=False, rng=rng),
        norm3=mr.BatchNorm2d(12),
        relu3=mr.ReLU(),
        mean=mr.GlobalAvgPool2d(),
        dense=mr.Dense(12, 10, rng=rng),
    )


# %% [markdown]
# ## Exercise 4: two numbers on paper
#
# - How many **parameters** does it have? A batch norm has two a channel. Running statistics are not
#   trained, so they do not count.
# - The **receptive field** of a number is the part of the input that it depends on. How many pixels wide
#   is that of a number behind `conv3`, in the middle of a large image? Walk from the input to the output
#   and keep two things: the width $r$, at first 1, and the distance in the input between neighbours, the
#   *jump*, at first 1. A layer with a window of $k$ and a stride of $s$ first makes $r$ larger by
#   $(k - 1) \cdot$ jump, and then multiplies the jump by $s$.

# %% tags=["exercise-4"]
number_of_parameters = ...
receptive_field = ...

# %% tags=["check-4"]
expect(
    "number_of_parameters",
    number_of_parameters,
    2426,
    mistakes={
        "the running statistics are counted": 2490,
        "the convolutions have a bias; here a batch norm follows, and there is none": 2458,
        "the batch norms are missing": 2362,
        "the bias of the dense layer is missing": 2416,
        "a batch norm has one parameter a channel; it has gamma and beta": 2394,
        "the batch norms and the bias of the dense layer are missing": 2352,
        "only the convolutions are counted": 2232,
        "a filter sees one channel; it sees all C of them": 9 * (8 + 12 + 12) + 64 + 130,
        "the dense layer sees 4x4x12 numbers; global average pooling leaves 12": 2426 + 15 * 120,
    },
)
expect(
    "receptive_field",
    receptive_field,
    10,
    mistakes={
        "the stride of the pooling is left out: behind it the jump is 2": 8,
        "each 3x3 layer makes r larger by 1; it is k - 1 = 2": 1 + 1 + 1 + 1 + 2,
        "the pooling's own window is left out: it makes r larger by 1": 9,
        "the jump is doubled before the pooling's own window is added": 11,
        "the pooling is left out": 7,
        "a window of k makes r larger by k; it is k - 1": 1 + 3 + 3 + 2 + 6,
        "the jump behind the pooling is 4; its stride is 2": 14,
        "the number is the area; asked is the width": 100,
    },
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# convolutions = 3 * 3 * 1 * 8 + 3 * 3 * 8 * 12 + 3 * 3 * 12 * 12
# norms = 2 * (8 + 12 + 12)
# number_of_parameters = convolutions + norms + (12 * 10 + 10)
# receptive_field = 1 + 2 * 1 + 2 * 1 + 1 * 1 + 2 * 2
# ```
#
# conv1 and conv2 add 2 each at a jump of 1, the pooling adds 1 and doubles the jump, conv3 adds 2 at a
# jump of 2.
#
# </details>

# %% [markdown]
# `mr.summary` counts for us. And the receptive field can be measured: send a gradient back from one
# number and see which pixels it reaches. In the middle of an image of 24x24, with average pooling in
# the place of max pooling and no ReLU, so that no path is shut:

# %%
model = conv_net(0)
mr.summary(model, data.input_shape)
assert sum(parameter.size for parameter in model.parameters()) == 2426

rng = np.random.default_rng(3)
open_paths = mr.Sequential(
    mr.Conv2d(1, 8, 3, padding=1, rng=rng),
    mr.Conv2d(8, 12, 3, padding=1, rng=rng),
    mr.AvgPool2d(2),
    mr.Conv2d(12, 12, 3, padding=1, rng=rng),
)
y = open_paths.forward(rng.standard_normal((1, 24, 24, 1)).astype(np.float32))
dy = np.zeros_like(y)
dy[0, 6, 6, 0] = 1
reached = open_paths.backward(dy)[0, :, :, 0] != 0
print("rows reached:", np.flatnonzero(reached.any(axis=1)))
assert reached.any(axis=1).sum() == reached.any(axis=0).sum() == 10

# %% [markdown]
# Ten pixels are more than the image has: behind `conv3` a number in the middle sees the whole digit. With
# three layers of 3x3 alone it would be 7; it is the pooling that lets `conv3` look further.
#
# ## Training it
#
# The loop has six lines that do something, and every training in this course does the same. The
# learning rate falls from 1 to 0 on a straight line; notebook 9 says why that helps.

# %%
epochs, batch_size, highest = 20, 64, 1.0
loss = mr.SoftmaxCrossEntropy()
optimizer = mr.SGD(model.parameters(), highest)
steps = epochs * mr.data.count_batches(len(data.x_train), batch_size)
losses = []
rng = np.random.default_rng(0)
for _ in range(epochs):
    for x, labels in mr.data.batches(data.x_train, data.y_train, batch_size, rng):
        optimizer.lr = highest * (1 - len(losses) / steps)
        logits = model.forward(x, training=True)
        value = loss.forward(logits, labels)
        optimizer.zero_grad()
        model.backward(loss.backward())
        optimizer.step()
        losses.append(value)

accuracy = mr.evaluate(model, data.x_test, data.y_test).accuracy
print(f"loss of the last epoch {np.mean(losses[-23:]):.3f}, test accuracy {accuracy:.3f}")
assert accuracy > 0.96

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.semilogy(losses, color="tab:blue", linewidth=0.8)
ax.axhline(np.log(10), color="gray", linestyle=":", label="guessing: log 10")
ax.set(xlabel="step", ylabel="loss of the batch", title="A convolutional net learns the digits")
ax.legend()

# %% [markdown]
# ## A look inside
#
# The filters of `conv1` are 3x3 numbers each, and can be looked at. Below each is what it makes of a
# digit behind batch norm and ReLU: where the picture is bright, the pixels below looked like the filter.

# %%
digit = data.x_test[data.y_test == 3][:1]
behind_relu1 = model[:3].forward(digit)[0]  # (8, 8, 8): H, W, F
filters = model.conv1.weight.value[:, :, 0]  # (3, 3, 8)
limit = np.abs(filters).max()
figure, axes = plt.subplots(2, 9, figsize=(8, 2.4), layout="constrained")
axes[0, 0].axis("off")
axes[1, 0].imshow(digit[0, :, :, 0], cmap="gray")
axes[1, 0].set_ylabel("output", fontsize="small")
for f in range(8):
    axes[0, f + 1].imshow(filters[:, :, f], cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[1, f + 1].imshow(behind_relu1[:, :, f], cmap="gray", vmin=0, vmax=behind_relu1.max())
for ax in axes.ravel():
    ax.set(xticks=[], yticks=[])
axes[1, 0].set_ylabel("")
axes[1, 0].set_xlabel("the digit", fontsize="small")
figure.suptitle("The eight filters of conv1 (red +, blue -) and what they see in a 3")

# %% [markdown]
# And here are the test digits to whose class the network gave the least probability. Where another class
# got more, it made a mistake:

# %%
logits = mr.predict(model, data.x_test)
probs = np.exp(logits - logits.max(axis=1, keepdims=True))
probs /= probs.sum(axis=1, keepdims=True)
of_label = probs[np.arange(len(probs)), data.y_test]
hardest = np.argsort(of_label)[:8]
captions = [
    f"{data.y_test[i]}, read as {probs[i].argmax()}\np = {of_label[i]:.2f}" for i in hardest
]
wrong = (probs.argmax(axis=1) != data.y_test).sum()
assert wrong < 15
mr.plots.labelled_images(
    data.x_test[hardest],
    captions,
    columns=4,
    title=f"The eight hardest ({wrong} of 360 are misread)",
)

# %% [markdown]
# ## Against a dense net with as many parameters
#
# The net of notebook 1, 64 numbers to 32 to 10, has 2,410 parameters; ours has 2,426. We train both in
# the same way, three times each. So that nobody can say it was the batch norm, a third competitor
# has one behind its first layer: 2,442 parameters.
#
# They are tested twice: on the test digits, and on the test digits **moved by one pixel** up, down, left
# or right, with zeros coming in at the other side. And they are trained twice: on the digits as they
# are, and on digits moved at random by up to one pixel in each epoch.

# %%
from minires.data.augment import crop


def dense_net(seed, norm=False):
    """The net of notebook 1, or the same with a batch norm."""
    rng = np.random.default_rng(seed)
    if norm:
        return mr.Sequential(
            mr.Flatten(),
            mr.Dense(64, 32, bias=False, rng=rng),
            mr.BatchNorm2d(32),
            mr.ReLU(),
            mr.Dense(32, 10, rng=rng),
        )
    return mr.Sequential(
        mr.Flatten(), mr.Dense(64, 32, rng=rng), mr.ReLU(), mr.Dense(32, 10, rng=rng)
    )


nets = {
    "convolutions": conv_net,
    "dense": dense_net,
    "dense, batch norm": lambda seed: dense_net(seed, norm=True),
}
summaries = {name: mr.models.summarize(build(0), data.input_shape) for name, build in nets.items()}
for name, summary in summaries.items():
    print(f"{name:18} {summary.parameters:,} parameters, {summary.multiply_adds:,} multiply-adds")
assert [summary.parameters for summary in summaries.values()] == [2426, 2410, 2442]


def train(model, moving, seed):
    """The loop from above; if moving, the digits are moved at random in each epoch."""
    optimizer, step = mr.SGD(model.parameters(), highest), 0
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        images = data.x_train
        if moving:
            down, right = rng.integers(0, 3, (2, len(images)))
            images = crop(images, 1, down, right)
        for x, labels in mr.data.batches(images, data.y_train, batch_size, rng):
            optimizer.lr = highest * (1 - step / steps)
            mr.train_step(model, loss, optimizer, x, labels)  # the other five lines
            step += 1


def moved(images, down, right):
    """All images moved by the same number of pixels, -1 to 1."""
    ones = np.ones(len(images), int)
    return crop(images, 1, (1 - down) * ones, (1 - right) * ones)


directions = (1, 0), (-1, 0), (0, 1), (0, -1)
accuracies = {}  # (net, moving): (seed, 2), as they are and moved
for moving in False, True:
    for name, build in nets.items():
        rows = []
        for seed in range(3):
            net = build(seed)
            train(net, moving, seed)
            still = mr.evaluate(net, data.x_test, data.y_test).accuracy
            shifted = [
                mr.evaluate(net, moved(data.x_test, *by), data.y_test).accuracy for by in directions
            ]
            rows.append((still, np.mean(shifted)))
        accuracies[name, moving] = np.array(rows)
        still, shifted = accuracies[name, moving].mean(axis=0)
        trained = "trained on moved digits" if moving else "trained on the digits  "
        print(f"{trained}  {name:18} test digits {still:.3f}, moved {shifted:.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharex=True, sharey=True, layout="constrained")
for ax, moving in zip(axes, (False, True), strict=True):
    for row, name in enumerate(nets):
        still, shifted = accuracies[name, moving].T
        ax.plot(still, [row - 0.12] * 3, "o", color="tab:blue", label="as they are")
        ax.plot(shifted, [row + 0.12] * 3, "s", color="tab:red", label="moved by a pixel")
    ax.set_yticks(range(len(nets)), nets)
    ax.set_ylim(len(nets) - 0.5, -0.5)
    ax.set_title("Trained on moved digits" if moving else "Trained on the digits as they are")
    ax.set_xlabel("test accuracy")
    ax.grid(axis="x", alpha=0.3)
handles, names = axes[0].get_legend_handles_labels()
axes[0].legend(handles[:2], names[:2], fontsize="small", loc="lower center")

mean = {key: rows.mean(axis=0) for key, rows in accuracies.items()}
conv, dense, normed = (mean[name, False] for name in nets)
assert min(conv[0], dense[0], normed[0]) > 0.95
assert abs(conv[0] - dense[0]) < 0.03
assert 0.9 > conv[1] > 0.7 > 0.5 > max(dense[1], normed[1])
conv, dense, normed = (mean[name, True] for name in nets)
assert conv.min() > 0.95
assert max(dense[1], normed[1]) < conv[1] - 0.015
assert dense[0] < mean["dense", False][0] - 0.01
assert all(mean[name, True][1] > mean[name, False][1] + 0.05 for name in nets)

# %% [markdown]
# What came out is worth reading slowly.
#
# - **On the test digits as they are the dense net is nearly as good.** They are centred and of one size.
#   A pixel means the same in each of them, and a weight for each pixel is no bad idea.
# - **Moved by one pixel, the dense nets read less than half of the digits,** with batch norm or without.
#   To a dense layer a moved digit is a vector of 64 other numbers. The convolutional net reads about four
#   of five: its filters find the same edge one pixel further on, and global average pooling does not ask
#   where. Two things can cost it the rest: moved digits are cut off at the border, and windows of 2x2 that
#   stay where they are hold other pixels of a digit that has moved by one.
# - **Trained on moved digits,** all of them read moved digits better, and the convolutional net stays
#   ahead. The dense net pays for it on the digits as they are: the same weights now have to serve several
#   positions.
#
# Sharing a filter over all positions is a statement about images: what is worth seeing is worth seeing
# anywhere. The price is work. At equal parameters the convolutional net takes more than thirty times as
# many multiplications, because each weight is used at every pixel.

# %%
times = summaries["convolutions"].multiply_adds / summaries["dense"].multiply_adds
print(f"{times:.0f} times as many")
assert times > 30

# %% [markdown]
# ## What to remember
#
# - Max pooling sends $dy$ to the winner, the first one at a tie; average pooling sends $dy / k^2$ to all;
#   global average pooling $dy / (H W)$. Where windows overlap, add.
# - Max pooling pads with $-\infty$, not with 0.
# - One factor a layer: $\tfrac12\, \text{fan-in} \cdot \text{Var}(w)$ with a ReLU. It must be 1: He's rule,
#   $\text{std}(w) = \sqrt{2 / \text{fan-in}}$.
# - The fan-in of a convolution is KH * KW * C.
# - Parameters of a convolution: KH * KW * C * F, whatever the size of the image. The receptive field grows
#   by $(k - 1) \cdot$ jump, and a stride multiplies the jump.
# - A convolutional net is not better because it has more parameters. It is better where things move.
#
# ## Where to read on
#
# - LeCun, Bottou, Bengio and Haffner (1998), "Gradient-based learning applied to document recognition",
#   Proceedings of the IEEE 86, section II: convolution, shared weights, pooling.
# - Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks",
#   AISTATS, section 4.2.
# - He, Zhang, Ren and Sun (2015), "Delving deep into rectifiers", arXiv:1502.01852, section 2.2.
# - Lin, Chen and Yan (2014), "Network in network", arXiv:1312.4400, section 3.2: global average pooling.
# - Araujo, Norris and Sim (2019), "Computing receptive fields of convolutional neural networks", Distill.
# - In minires: `minires/ops/reference/pool.py`, `minires/initializers.py`, `minires/layers/pool.py`,
#   `minires/experiments/growth.py` (the measurement above).
