# %% [markdown]
# # 6. Going deeper hurts
#
# **What you will be able to do.** Say how the gradient of a chain of layers grows or shrinks with its
# depth, before you run it: for He's and Glorot's weights, and with batch norm. Measure it in real
# networks. Show that a deep plain network fails on its *training* images, and that this is no
# overfitting.
#
# **What you need.** Notebooks 1 (the dense layer), 4 (batch norm) and 5 (first weights, convolutional
# networks).

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires.exercises import expect
from minires.ops import reference as ops

mr.set_num_threads(1)  # for small images a second thread costs more than it brings

# %% [markdown]
# ## A chain of layers is a product of matrices
#
# A **plain** network is a chain: each layer sees what the one before it has made, and nothing else.
#
# $$y = f_L(\dots f_2(f_1(x))).$$
#
# The backward pass goes through the chain from the last layer to the first. At layer $l$ it multiplies
# by that layer's **Jacobian** $J_l$, the matrix of all $\partial(\text{output } f) / \partial(\text{input }
# d)$. For one example, with gradients as rows,
#
# $$dx = dy\; J_L\, J_{L-1} \cdots J_2\, J_1.$$
#
# The gradient that reaches the input is a product of $L$ matrices. A product of many factors is
# seldom of moderate size. With numbers in place of the matrices:

# %%
for factor in (0.9, 1.0, 1.1):
    print(f"{factor} ** 100 = {factor**100:.3g}")
assert 0.9**100 < 1e-4
assert 1.1**100 > 1e4

# %% [markdown]
# A layer that takes away a tenth of the gradient looks harmless. A hundred of them leave nothing: the
# gradient **vanishes**. A hundred layers that add a tenth make it **explode**.
#
# Take the layer that this notebook measures most: a dense layer without bias, and a ReLU.
#
# $$x_l = m_l \circ (x_{l-1}\, w_l), \qquad m_l = [\,x_{l-1}\, w_l > 0\,].$$
#
# $m_l$ is the **mask** of the ReLU, 1 where the unit is on and 0 where it is off, and $\circ$ multiplies
# number by number.

# %% [markdown]
# ## Exercise 1: backward through a chain
#
# Given $dy$ behind the last layer, the weights and the masks of all layers, compute $dx$ in front of
# the first. Do what each layer did, in reverse.


# %% tags=["exercise-1"]
def chain_backward(dy, weights, masks):
    """dx from dy, both (N, D); weights[l] of shape (D, D), masks[l] (N, D), first layer first."""
    ...


# %% tags=["check-1"]
def chain_dx(dy, steps):
    """dy through functions that each take the upstream gradient."""
    for step in steps:
        dy = step(dy)
    return dy


rng = np.random.default_rng(0)
dy, layers = rng.standard_normal((5, 4)), []
for _ in range(3):
    w, m = rng.standard_normal((4, 4)), (rng.random((5, 4)) < 0.6).astype(float)
    layers.append((w, m))
through = {
    "right": [lambda g, w=w, m=m: (g * m) @ w.T for w, m in layers[::-1]],
    "first": [lambda g, w=w, m=m: (g * m) @ w.T for w, m in layers],
    "late": [lambda g, w=w, m=m: (g @ w.T) * m for w, m in layers[::-1]],
    "bare": [lambda g, w=w: g @ w.T for w, _ in layers[::-1]],
    "forward": [lambda g, w=w, m=m: (g * m) @ w for w, m in layers[::-1]],
    "mixed": [
        lambda g, w=w, m=m: (g * m) @ w.T
        for (w, _), (_, m) in zip(layers[::-1], layers, strict=True)
    ],
}
found = {name: chain_dx(dy, steps) for name, steps in through.items()}
kept = dy.copy()
expect(
    "chain_backward",
    chain_backward(dy, [w for w, _ in layers], [m for _, m in layers]),
    found["right"],
    mistakes={
        "the first layer comes first; the gradient meets the last one first": found["first"],
        "the mask acts on dx; the ReLU stands behind the product, so its mask meets dy": (
            found["late"]
        ),
        "the masks are missing: a unit that is off passes nothing": found["bare"],
        "the weights are not transposed; dx = dy w^T": found["forward"],
        "only the last layer was passed": through["right"][0](dy),
        "the weights are turned round and the masks are not": found["mixed"],
    },
)
expect(
    "chain_backward leaves dy as it was",
    bool((dy == kept).all()),
    True,
    mistakes={"dy was written to (dy *= m does): make a new array": False},
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def chain_backward(dy, weights, masks):
#     """dx from dy, both (N, D); weights[l] of shape (D, D), masks[l] (N, D), first layer first."""
#     for w, m in zip(weights[::-1], masks[::-1]):
#         dy = (dy * m) @ w.T
#     return dy
# ```
#
# </details>

# %% [markdown]
# The loop never builds a Jacobian. That it computes the product of the Jacobians is a claim, so here it
# is checked: the Jacobian of one layer is $J_l = \mathrm{diag}(m_l)\, w_l^\top$, and
# `mr.flow.dense_jacobian` finds the Jacobian of the whole chain, one backward pass a row.

# %%
rng = np.random.default_rng(0)
chain = mr.Sequential()
for i in range(3):
    setattr(chain, f"dense{i}", mr.Dense(4, 4, bias=False, rng=rng, dtype=np.float64))
    setattr(chain, f"relu{i}", mr.ReLU())
x = rng.standard_normal((1, 4))
value, product = x, np.eye(4)
for layer in chain:
    value = layer.forward(value)
    if isinstance(layer, mr.Dense):
        w = layer.weight.value
    else:
        product = np.diag(value[0] > 0) @ w.T @ product  # J_l times what came before
whole = mr.flow.dense_jacobian(chain, x).reshape(4, 4)
print(whole.round(3))
assert whole.any()
np.testing.assert_allclose(product, whole, atol=1e-12)

# %% [markdown]
# ## How large is the product?
#
# Notebook 5 followed the mean square through one layer with random weights of mean 0 and variance
# $v = \mathrm{Var}(w)$, $D$ inputs and $F$ outputs. Forward an output adds up $D$ products, and backward
# $dx$ adds up $F$; in both directions the ReLU lets through one half:
#
# $$E[y^2] = \tfrac12 D v\, E[x^2], \qquad E[dx^2] = \tfrac12 F v\, E[dy^2].$$
#
# (For the second we assume that the mask knows nothing about the gradient. That is not quite so; the
# measurement below will say whether it matters.) In a chain these factors are multiplied.

# %% [markdown]
# ## Exercise 2: growth through a chain
#
# $L$ layers, all with $D = F$ inputs and outputs. By which factor does the **norm** of the gradient grow
# on its way through all of them?


# %% tags=["exercise-2"]
def growth(v, F, L):
    """||dx|| in front of L layers of width F, over ||dy|| behind them; v is the weights' variance."""
    ...


# %% tags=["check-2"]
v, F, L = 0.03, 50, 6
expect(
    "growth",
    growth(v, F, L),
    (v * F / 2) ** (L / 2),
    mistakes={
        "this is the growth of the square; the norm is its root": (v * F / 2) ** L,
        "this is the growth of the square, and the ReLU is missing": (v * F) ** L,
        "the ReLU is missing: in every layer it lets half of the square through": (
            (v * F) ** (L / 2)
        ),
        "the half is counted once; every layer has a ReLU": (v * F) ** (L / 2) / 2,
        "this is the growth in one layer": np.sqrt(v * F / 2),
        "the factors of the layers are added up; a chain multiplies them": L * np.sqrt(v * F / 2),
        "L is a factor; every layer multiplies, so it is an exponent": np.sqrt(L * v * F / 2),
        "v is taken for a standard deviation; it is the variance already": (v**2 * F / 2)
        ** (L / 2),
        "the ReLU takes half of the norm; it takes half of the square": np.sqrt(v * F) ** L / 2**L,
        "the fraction is upside down": (v * F / 2) ** (-L / 2),
        "the width is missing: dx adds up F products": (v / 2) ** (L / 2),
    },
)

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def growth(v, F, L):
#     """||dx|| in front of L layers of width F, over ||dy|| behind them; v is the weights' variance."""
#     square_per_layer = v * F / 2
#     return square_per_layer ** (L / 2)
# ```
#
# </details>

# %% [markdown]
# For the rules of notebook 5, with $D = F$:
#
# | rule | $v$ | factor of the square, a layer | norm through $L$ layers |
# |---|---|---|---|
# | He | $2/F$ | 1 | 1 |
# | Glorot | $2/(D+F) = 1/F$ | 1/2 | $2^{-L/2}$ |
#
# Measured in nets of 56 layers, two widths, several random nets each:

# %%
LAYERS = 56


def chain_gradient(v, width, seed):
    """RMS of the gradient behind layer 0 (the input) ... L of a random net, over that at its end."""
    rng = np.random.default_rng(seed)
    x, caches = rng.standard_normal((16, width)), []
    for _ in range(LAYERS):
        active, cache_relu = ops.relu_forward(x)
        x, cache = ops.dense_forward(active, np.sqrt(v) * rng.standard_normal((width, width)), None)
        caches.append((cache_relu, cache))
    dy = rng.standard_normal(x.shape)
    found = [np.sqrt(np.mean(dy**2))]
    for cache_relu, cache in caches[::-1]:
        dactive, _, _ = ops.dense_backward(dy, cache)
        dy = ops.relu_backward(dactive, cache_relu)
        found.append(np.sqrt(np.mean(dy**2)))
    return np.array(found[::-1]) / found[0]


nets = {
    "He, width 256": [chain_gradient(2 / 256, 256, seed) for seed in range(4)],
    "Glorot, width 256": [chain_gradient(1 / 256, 256, seed) for seed in range(4)],
    "He, width 16": [chain_gradient(2 / 16, 16, seed) for seed in range(8)],
}
predicted = {"He, width 256": 1, "Glorot, width 256": 2 ** (-LAYERS / 2), "He, width 16": 1}
for name, curves in nets.items():
    ends = np.sort([curve[0] for curve in curves])
    print(f"{name:18} predicted {predicted[name]:7.2g}, nets from {ends[0]:.2g} to {ends[-1]:.2g}")
    if "256" in name:
        assert (ends / predicted[name] > 0.2).all()
        assert (ends / predicted[name] < 5).all()
    else:
        assert np.median(ends) < 0.6
        assert ends[-1] > 20 * ends[0]

# %%
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
depth = np.arange(LAYERS + 1)
colors = {
    "He, width 16": "tab:gray",
    "He, width 256": "tab:blue",
    "Glorot, width 256": "tab:orange",
}
for name, color in colors.items():
    for i, curve in enumerate(nets[name]):
        axes.plot(depth, curve, color=color, linewidth=1, label=None if i else name)
axes.plot(depth, 2 ** ((depth - LAYERS) / 2), "k:", label="predicted: 1 and $2^{-L/2}$")
axes.axhline(1, color="k", linestyle=":")
axes.set(
    xlabel="layer, 0 = input",
    ylabel="gradient / gradient at the end",
    yscale="log",
    title="Glorot's weights lose the gradient of a ReLU chain, He's keep it if it is wide",
)
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# 56 layers with Glorot's weights divide the gradient by about $2^{28}$, 270 million. The assumption about
# the mask did no harm. With He's weights the wide nets stay within a factor of a few of 1.
#
# The narrow ones do not, although they obey the same rule. The rule is about the *mean* over many random
# nets. A product of many random factors strays far from its mean, and mostly downwards: a few nets
# with large gradients make up for many with small ones. Hanin (2018) shows that the spread grows with
# depth over width. Depth hurts even where the rule is right.
#
# ## Real networks
#
# `mr.models.cifar_resnet(depth, kind="plain")` builds the plain networks of He et al. (2015): 3x3
# convolutions with ReLUs in three stages with 16, 32 and 64 channels; the second and the third halve the
# image.
# First without batch norm, with He's weights, on the 8x8 digits.
#
# `mr.flow.gradient_norms` makes one forward and one backward pass and returns the norm of the
# gradient of every weight.

# %%
data = mr.data.load_digits()
sample = data.x_train[:256], data.y_train[:256]


def plain(depth, norm, seed=0, **options):
    """A new plain network for the digits."""
    shape = options.pop("input_shape", data.input_shape)
    given = {"kind": "plain", "norm": norm, "rng": seed, "input_shape": shape}
    return mr.models.cifar_resnet(depth, **given, **options)


bare = {
    f"plain-{depth} without norm": mr.flow.gradient_norms(plain(depth, None), *sample)
    for depth in (8, 20, 56)
}
for name, norms in bare.items():
    first, middle, last = (norms[i].norm for i in (0, len(norms) // 2, -2))
    print(f"{name}: first {first:.2g}, middle {middle:.2g}, last convolution {last:.2g}")
firsts = [norms[0].norm for norms in bare.values()]
assert firsts[0] > 1e-2
assert 1e-4 < firsts[1] < 1e-2
assert firsts[2] < 1e-5

# %% [markdown]
# The deeper the net, the smaller the gradient of its first layer; with 56 layers its norm is about two
# millionths. But look at the last column. The *last* convolution of the deep net has a vanishing
# gradient too, although only the dense layer stands behind it. How?
#
# The gradient of a weight is a product, $dw_l = x_{l-1}^\top\, dy_l$ (notebook 1): what comes from the
# front times what comes from behind. A `FlowRecorder` writes down all three.


# %%
def recorded(model):
    """What flows through a new network in one forward and one backward pass."""
    loss = mr.SoftmaxCrossEntropy()
    with mr.FlowRecorder(model) as flow:
        loss.forward(model.forward(sample[0], training=True), sample[1])
        model.backward(loss.backward())
    return flow


vanishing = recorded(plain(56, None))
convolutions = [r for r in vanishing.layers if r.layer == "Conv2d"]
signal = np.array([r.y_norm for r in convolutions])
upstream = np.array([r.dy_norm for r in convolutions])
dw = np.array([norm.norm for norm in bare["plain-56 without norm"][:-1]])
assert signal[-1] < 1e-4 * signal[0]
assert upstream[0] < 1e-4 * upstream[-1]
assert dw.max() < 1e-3  # all of them vanish,
assert dw.max() < 20 * dw.min()  # and about equally

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
layer = np.arange(1, len(dw) + 1)
axes.plot(layer, signal, "o-", markersize=3, label="signal: output of the layer")
axes.plot(layer, upstream, "s-", markersize=3, label="upstream gradient dy")
axes.plot(layer, dw, "^-", markersize=3, label="gradient of the weight")
axes.set(
    xlabel="convolution, 1 = next to the input",
    ylabel="norm",
    yscale="log",
    title="Plain-56 without norm: the signal dies forward, the gradient backward",
)
axes.legend()
plt.show()
# %% [markdown]
# Forward the signal loses more than four orders of magnitude, backward the gradient does the same, and
# their product is small *everywhere*. A look at the weight gradients alone would find them nearly level, and
# miss that nothing arrives at either end.
#
# ### But He's rule was to keep the size?
#
# In the wide dense chain it did. Here something else takes its share: the **border**. A 3x3 convolution
# with zero padding has 9 taps, and He's rule counts on all of them: $v = 2/(9C)$. At the border some
# of the taps read zeros. On an image of $H$ by $H$ pixels $(3H-2)^2$ of the $(3H)^2$ taps fall inside,
# so that the square shrinks by about
#
# $$\left(\frac{3H-2}{3H}\right)^{2} = 0.84,\; 0.69,\; 0.44 \qquad\text{for } H = 8, 4, 2$$
#
# in every layer, forward and backward. Each stage of plain-56 has 18 such layers:

# %%
gradient = {r.path: r for r in vanishing.layers}
for stage, H in ((1, 8), (2, 4), (3, 2)):
    first, last = (gradient[f"stage{stage}.block{i}"] for i in (1, 8))
    measured = (first.dx_norm / last.dy_norm) ** (2 / 16)  # of the square, 16 layers
    predicted = ((3 * H - 2) / (3 * H)) ** 2
    print(f"{H}x{H} images: predicted {predicted:.2f} a layer, measured {measured:.2f}")
    assert abs(measured - predicted) < 0.15

# %% [markdown]
# The estimate is a little low where the image has a middle: what is left gathers there, and the middle
# loses nothing. The remedy suggests itself. On larger images there is less border, so the same network
# must lose less:

# %%
for size in (8, 32):
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((8, size, size, 1), np.float32), np.arange(8)
    model, loss = plain(56, None, input_shape=(size, size, 1)), mr.SoftmaxCrossEntropy()
    with mr.FlowRecorder(model) as flow:
        loss.forward(model.forward(x, training=True), labels)
        model.backward(loss.backward())
    found = {r.path: r for r in flow.layers}
    lost = found["stage3"].dy_norm / found["stage1"].dx_norm
    print(f"{size}x{size} noise: the gradient is divided by {lost:.2g}")
    assert lost > 1e3 if size == 8 else lost < 100

# %% [markdown]
# So "plain networks vanish" has more than one cause, and it pays to know which: weights of the wrong
# size, and borders. On images of the size of CIFAR-10's (32x32), He's weights keep the gradient of 56
# plain layers within two orders of magnitude, while Glorot's would still lose a factor of $2^{27}$.
#
# ## Batch norm: from vanishing to exploding
#
# Batch norm makes the variance of each channel 1, whatever the weights. The signal cannot vanish any
# more. The gradient? Take wide layers of dense, batch norm and ReLU, and go back through one of them.
#
# - The ReLU lets through half of the square of the gradient, as before: factor $1/2$.
# - Batch norm multiplies by $\mathrm{rstd} = 1/\sqrt{\mathrm{var}}$ (notebook 4; the two terms that are
#   subtracted take away little where the batch is large): factor $1/\mathrm{var}$, where var is the
#   variance of the dense layer's output over the batch.
# - The dense layer multiplies by $w^\top$: factor $F v$, which we call $c$.
#
# And var? The dense layer adds up $D = F$ numbers that have just left a ReLU behind a batch norm, so
# that each of them is $\mathrm{relu}(z)$ with a $z$ of mean 0 and variance 1, about normal. The variance
# of the sum is $c\,\mathrm{Var}[\mathrm{relu}(z)]$. The $c$ cancels: *no choice of the weights can help.*
#
# What is left is $\mathrm{Var}[\mathrm{relu}(z)] = E[\mathrm{relu}(z)^2] - E[\mathrm{relu}(z)]^2$. The first is
# $1/2$ by symmetry. The mean is an integral over the half of the bell that is left:
#
# $$E[\mathrm{relu}(z)] = \int_0^\infty z\, \frac{e^{-z^2/2}}{\sqrt{2\pi}}\, dz = \frac{1}{\sqrt{2\pi}}.$$

# %% [markdown]
# ## Exercise 3: growth with batch norm
#
# Put the pieces together: first the variance of $\mathrm{relu}(z)$, then the factor by which the *square*
# of the gradient grows in one layer.

# %% tags=["exercise-3"]
variance_of_relu = ...
growth_with_norm = ...

# %% tags=["check-3"]
expect(
    "variance_of_relu",
    variance_of_relu,
    0.5 - 0.5 / np.pi,
    mistakes={
        "this is the mean of the square; the square of the mean is to be subtracted": 0.5,
        "the mean is subtracted, and not its square": 0.5 - 1 / np.sqrt(2 * np.pi),
        "the square of the mean is added": 0.5 + 0.5 / np.pi,
        "the square of 1/sqrt(2 pi) is 1/(2 pi)": 0.5 - 1 / np.pi,
        "E[relu(z)^2] is that of z; half of it is gone": 1 - 0.5 / np.pi,
        "this is the standard deviation": np.sqrt(0.5 - 0.5 / np.pi),
    },
    rtol=3e-3,  # for answers that are rounded
)
expect(
    "growth_with_norm",
    growth_with_norm,
    np.pi / (np.pi - 1),
    mistakes={
        "it is divided by E[relu(z)^2]: batch norm subtracts the mean before it divides": 1.0,
        "the half that the ReLU lets through is missing": 2 * np.pi / (np.pi - 1),
        "this is the growth of the norm; the square is asked for": np.sqrt(np.pi / (np.pi - 1)),
        "it is multiplied by the variance, where batch norm divides": 0.25 - 0.25 / np.pi,
        "the fraction is upside down": 1 - 1 / np.pi,
    },
    rtol=3e-3,
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# variance_of_relu = 1 / 2 - 1 / (2 * np.pi)
# growth_with_norm = 1 / 2 / variance_of_relu
# ```
#
# That is $\pi/(\pi-1) = 1.467$.
#
# </details>

# %% [markdown]
# Yang et al. (2019) proved this number for wide nets and large batches. `minires.experiments.explosion`
# measures it; here with 20 layers of width 512 and a batch of 512:

# %%
from minires.experiments import explosion

squares = explosion.wide_net(seed=0, layers=20, width=512, batch=512, ops=mr.ops.fast)[1:] ** 2
factors = squares[:-1] / squares[1:]
print(f"growth of the squared norm: {factors.mean():.3f} a layer, Yang et al. 1.467")
print(f"growth of the norm through 54 layers: {factors.mean() ** 27:.0f}")
assert abs(factors.mean() - np.pi / (np.pi - 1)) < 0.04
assert factors.mean() ** 27 > 10_000

# %% [markdown]
# And the real networks, whose convolutions have 16 to 64 channels only, on the digits:

# %%
normed = {
    f"plain-{depth}": mr.flow.gradient_norms(plain(depth, "batch"), *sample)
    for depth in (8, 20, 56)
}
for name, norms in normed.items():
    convs = np.array([norm.norm for norm in norms[:-1]])
    print(f"{name}: first / last convolution = {convs[0] / convs[-1]:.3g}")
    spread = convs.max() / convs.min()
    assert spread > 100 if name == "plain-56" else spread < 30

glorot = plain(56, "batch", initializer=mr.initializers.glorot_uniform)
norms = mr.flow.gradient_norms(glorot, *sample)
print(f"plain-56 with Glorot's weights: {norms[0].norm / norms[-2].norm:.3g}")
assert norms[0].norm > 50 * norms[-2].norm

mr.plots.gradient_norm_figure({"without norm: vanishing": bare, "with batch norm": normed})

# %% [markdown]
# Batch norm cures what it was made to cure, and gives depth another illness: plain-56 explodes, with
# He's weights and with Glorot's. At 8 and 20 layers it does little harm. He et al. (2015, section 4.1)
# report that the gradients of their plain networks with batch norm have "healthy norms"; those had 18
# and 34 layers.
#
# ## Let the machine say it
#
# `mr.flow.diagnose` reads a recording and names what is wrong, layer by layer.

# %%
print(mr.flow.diagnose(vanishing), "\n")
exploding = recorded(plain(56, "batch"))
print(mr.flow.diagnose(exploding), "\n")
shallow = recorded(plain(8, "batch"))
print(mr.flow.diagnose(shallow))
assert {f.kind for f in mr.flow.diagnose(vanishing).findings} == {"vanishing"}
assert {f.kind for f in mr.flow.diagnose(exploding).findings} == {"exploding"}
assert mr.flow.diagnose(shallow).ok

# %% [markdown]
# ## The degradation problem
#
# Does it matter for learning? Three plain networks, all with batch norm, trained alike with Adam for
# three epochs. A larger network can overfit: learn its training images by heart and fail on new ones.
# To tell, look at the accuracy on the **training** images.

# %%
histories, trained, accuracy = {}, {}, {}
for depth in (8, 20, 56):
    model = plain(depth, "batch")
    optimizer = mr.Adam(model.parameters(), 1e-3)
    name = f"plain-{depth}"
    histories[name] = mr.fit(model, data, optimizer, epochs=3, rng=0, progress=False)
    trained[name] = model
    in_training, in_test = (
        mr.evaluate(model, *part).accuracy
        for part in ((data.x_train, data.y_train), (data.x_test, data.y_test))
    )
    accuracy[name] = in_training
    print(f"{name}: {in_training:.3f} of the training images, {in_test:.3f} of the test images")
assert optimizer.steps == 69
assert accuracy["plain-8"] > 0.9
assert accuracy["plain-56"] < 0.5

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
mr.plots.training_curves(histories, ax=left, column="loss", title="Training loss")
mr.plots.training_curves(
    histories, ax=right, column="accuracy", title="56 layers fail on the training images"
)
right.set_ylim(0, 1.02)
plt.show()
# %% [markdown]
# The network with 56 layers cannot read the images that it is *trained* on. That is no overfitting.
# Nor is it a lack of room:

# %%
for name, model in trained.items():
    print(name, sum(p.size for p in model.parameters()), "parameters")

# %% [markdown]
# He et al. (2015, figure 1) saw the same on CIFAR-10: 56 plain layers have a higher training error than
# 20, to the end of a training of 64,000 steps. Here, after three epochs of digits, the gap is much
# wider; the networks have had 69 steps.
#
# ## A deeper network can do no worse
#
# Here is the puzzle. Take the trained shallow network and put layers in between that do nothing. The
# result is deep, and exactly as good. So good weights for the deep network *exist*. To build them we
# need a convolution that returns its input. A ReLU behind it changes nothing either, if that input comes
# from a ReLU: it is not negative.
#
# ## Exercise 4: a convolution that does nothing
#
# minires' weights have the shape $(KH, KW, C, F)$ and $y$ is, with a padding of 1,
#
# $$y_{hwf} = \sum_{i=0}^{2}\sum_{j=0}^{2}\sum_c x_{h+i-1,\, w+j-1,\, c}\; w_{ijcf}.$$


# %% tags=["exercise-4"]
def identity_kernel(C):
    """Weights of shape (3, 3, C, C) with which the convolution returns its input."""
    ...


# %% tags=["check-4"]
kernel, corner, mixing = (np.zeros((3, 3, 4, 4)) for _ in range(3))
kernel[1, 1] = corner[0, 0] = np.eye(4)
mixing[1, 1] = 1
expect(
    "identity_kernel",
    identity_kernel(4),
    kernel,
    mistakes={
        "the ones stand in the corner of the window; (h, w) itself is its middle": corner,
        "every output channel adds up all input channels; channel c is to give channel c": mixing,
        "the ones stand at every place of the window, so y adds up nine pixels": (
            np.zeros((3, 3, 4, 4)) + np.eye(4)
        ),
        "the weights are laid out as in PyTorch, (F, C, KH, KW); here it is (KH, KW, C, F)": (
            kernel.transpose(3, 2, 0, 1)
        ),
        "all weights are 1": np.ones((3, 3, 4, 4)),
    },
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def identity_kernel(C):
#     """Weights of shape (3, 3, C, C) with which the convolution returns its input."""
#     w = np.zeros((3, 3, C, C))
#     w[1, 1] = np.eye(C)
#     return w
# ```
#
# </details>

# %% [markdown]
# Now plain-8, which has just been trained, grows to 56 layers: 16 such convolutions behind each stage.


# %%
def idle(C):
    """A convolution that returns its input, and a ReLU."""
    conv = mr.Conv2d(C, C, 3, padding=1, bias=False, rng=0)
    conv.weight.value[...] = 0
    conv.weight.value[1, 1] = np.eye(C)
    return mr.Sequential(conv=conv, relu=mr.ReLU())


parts = {}
for path, layer in trained["plain-8"].children():
    parts[path] = layer
    if path.startswith("stage"):
        C = {"stage1": 16, "stage2": 32, "stage3": 64}[path]
        parts |= {f"idle_{path}_{i}": idle(C) for i in range(16)}
deepened = mr.Sequential(**parts)

kinds = mr.Conv2d, mr.Dense
count = sum(isinstance(layer, kinds) for _, layer in deepened.named_layers())
before, after = (net.forward(data.x_test) for net in (trained["plain-8"], deepened))
print(f"{count} layers; largest change of a logit: {np.abs(after - before).max():.1g}")
assert count == 56
np.testing.assert_allclose(after, before, atol=1e-2)
assert mr.evaluate(deepened, data.x_train, data.y_train).accuracy > accuracy["plain-56"] + 0.3

# %% [markdown]
# A network of 56 plain layers *can* read the digits; training from random weights does not get there.
# What fails is the search. He et al. drew the conclusion that gave residual networks their name: if
# doing nothing is so hard to learn for a stack of layers, let doing nothing be where it starts from.
# Write $y = x + F(x)$, and a block that has learnt nothing harms nothing. The next notebook does that.
#
# One caution. All networks above were trained with Adam, which divides each gradient by its own size.
# It does not mind that a gradient is some hundred times too large, and still plain-56 does not learn. The size
# of a gradient is one thing, what it says another: notebook 8 shows that the gradient of a deep
# plain network is close to noise ("shattered").
#
# ## What to remember
#
# - The gradient of a chain is a product of Jacobians, so its size is about exponential in the depth.
# - A ReLU halves the square. He's weights ($2/D$) make up for it, Glorot's do not: $2^{-L/2}$.
# - The gradient of a weight is signal times upstream gradient. Look at both.
# - Batch norm keeps the signal, and multiplies the squared gradient of a plain chain by up to
#   $\pi/(\pi-1) = 1.467$ a layer, whatever the weights.
# - Degradation is a failure on the training images. The deep network has the room; the search fails.
#
# ## Where to read on
#
# - Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural
#   networks", AISTATS, section 4.2.
# - He et al. (2015), "Delving deep into rectifiers", arXiv:1502.01852, section 2.2.
# - Hanin (2018), "Which neural net architectures give rise to exploding and vanishing gradients?",
#   arXiv:1801.03744.
# - Yang et al. (2019), "A mean field theory of batch normalization", arXiv:1902.08129.
# - He et al. (2015), "Deep residual learning", arXiv:1512.03385, section 1 and figure 1, section 4.1.
# - In minires: `minires/initializers.py`, `minires/flow/norms.py` and `guards.py`,
#   `minires/experiments/growth.py`, `explosion.py` and `grid.py`, and `docs/flow.md`.
