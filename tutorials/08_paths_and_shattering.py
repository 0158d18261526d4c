# %% [markdown]
# # 8. Paths and shattering
#
# **What you will be able to do.** Split the gradient of a residual network, exactly, by the number
# of branches that it came through; count the paths; put a number to how much the gradients at
# neighbouring inputs resemble each other, and say why that number falls with depth; take blocks out
# of a trained network and predict what happens.
#
# **What you need.** Notebooks 1 to 7. From notebook 7: at $y = x + F(x)$ the gradient splits into
# the part of the identity, $dy$, and the part of the branch.

# %%
import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import minires as mr
from minires import flow, plots
from minires.exercises import expect
from minires.experiments import shattering
from minires.experiments.path_lengths import single_paths

mr.set_num_threads(1)  # for images of 8x8 pixels one thread is the fastest
one_thread = threadpool_limits(1)

# %% [markdown]
# ## A chain of blocks, multiplied out
#
# Let $J$ be the Jacobian of a branch at the $x$ of the forward pass, the matrix of all
# $\partial F_i / \partial x_j$. The backward pass of the block is
#
# $$dx = dy + J^\top dy = (1 + J^\top)\,dy.$$
#
# For two blocks, block 1 next to the input and block 2 next to the loss:
#
# $$dx = (1 + J_1^\top)(1 + J_2^\top)\,dy
#      = dy + J_1^\top dy + J_2^\top dy + J_1^\top J_2^\top dy.$$
#
# Four terms, and each is a **path**: at every block the gradient either takes the shortcut or goes
# through the branch. $L$ blocks have $2^L$ paths. The number of branches that a path passes is its
# **length**. Here is the definition as code: every path by itself, for blocks with the linear
# branch $F(x) = xA$. With one example a row, the backward pass of this branch takes $g$ to
# $gA^\top$ (notebook 1).


# %%
def path_by_path(dy, weights):
    """(L + 1, N, D): what comes to the input by paths of length 0..L, walking all 2^L of them.

    Block l is y = x + x @ weights[l]; weights[0] is the block next to the input.
    """
    L = len(weights)
    parts = np.zeros((L + 1, *dy.shape))
    for taken in itertools.product([False, True], repeat=L):  # taken[l]: through the branch?
        gradient = dy
        for weight, through_branch in zip(weights[::-1], taken[::-1], strict=True):
            if through_branch:
                gradient = gradient @ weight.T
        parts[sum(taken)] += gradient
    return parts


def backward_chain(dy, weights):
    """The ordinary backward pass through the same chain."""
    for weight in weights[::-1]:
        dy = dy + dy @ weight.T
    return dy


rng = np.random.default_rng(0)
L, N, D = 6, 4, 3
weights = [0.5 * rng.standard_normal((D, D)) for _ in range(L)]  # float64
dy = rng.standard_normal((N, D))
parts = path_by_path(dy, weights)
print(f"{2**L} paths of {L + 1} lengths")
assert np.allclose(parts.sum(axis=0), backward_chain(dy, weights), rtol=1e-12)
assert (parts[0] == dy).all()  # the one path of length 0

# %% [markdown]
# ## The same without walking $2^L$ paths
#
# For 54 blocks, a ResNet-110, $2^{54}$ is $1.8 \cdot 10^{16}$: nobody walks them. But paths of one
# length can be gathered on the way. Put a marker $t$ in front of every Jacobian and multiply out:
#
# $$(1 + tJ_1^\top)(1 + tJ_2^\top)\cdots(1 + tJ_L^\top)\,dy = \sum_{k=0}^{L} t^k\, G_k .$$
#
# Each branch on the way puts one more $t$ to a path, so $G_k$ is the sum of all paths of length
# $k$. The marker only keeps the books: at $t = 1$ it is gone, and the sum is the gradient.
#
# With one number for each Jacobian this is a polynomial as in school. Three blocks with $J = 0.5$:

# %%
factor = np.polynomial.Polynomial([1, 0.5])  # 1 + 0.5 t
print((factor**3).coef)
assert (factor**3).coef.tolist() == [1, 1.5, 0.75, 0.125]  # the paths of length 0, 1, 2, 3
assert sum((factor**3).coef) == 1.5**3  # t = 1

# %% [markdown]
# Now one factor at a time, from the loss to the input. Say that behind a block the parts are
# $G_0, G_1, \dots$. The block multiplies by $1 + tJ^\top$:
#
# $$(1 + tJ^\top)\sum_k t^k G_k = \sum_k t^k\, G_k + \sum_k t^{k+1} J^\top G_k
#   = \sum_k t^k \left(G_k + J^\top G_{k-1}\right).$$
#
# So the whole method is one line, with $G_{-1} = 0$:
#
# $$G_k \leftarrow G_k + J^\top G_{k-1}.$$
#
# In words: a path has passed $k$ branches if it had passed $k$ and takes the shortcut, or had
# passed $k - 1$ and takes the branch. In front of the first block there is one part, $G_0 = dy$;
# every block adds one.

# %% [markdown]
# ## Exercise 1: the gradient by path length
#
# The same chain as above. Walk through the blocks once, with a list of parts.


# %% tags=["exercise-1"]
def parts_by_length(dy, weights):
    """(L + 1, N, D) as `path_by_path`, with at most L products for each block."""
    ...


# %% tags=["check-1"]
rng = np.random.default_rng(1)
chain, upstream = [0.5 * rng.standard_normal((3, 3)) for _ in range(4)], rng.standard_normal((2, 3))
right = path_by_path(upstream, chain)


def overwritten(dy, weights):
    """The recursion with k going up, in one list: G_{k-1} is the new one already."""
    parts = [dy, *[np.zeros_like(dy) for _ in weights]]
    for weight in weights[::-1]:
        for k in range(1, len(parts)):
            parts[k] = parts[k] + parts[k - 1] @ weight.T
    return np.stack(parts)


def one_array(dy, weights):
    """The recursion with all parts but the first in one and the same array."""
    parts = [dy.copy(), *[np.zeros_like(dy)] * len(weights)]
    for weight in weights[::-1]:
        for k in range(len(weights), 0, -1):
            parts[k] += parts[k - 1] @ weight.T
    return np.stack(parts)


only_branches = np.zeros_like(right)
only_branches[-1] = right[-1]
unmarked = np.zeros_like(right)
unmarked[0] = right.sum(axis=0)
expect(
    "parts_by_length",
    parts_by_length(upstream.copy(), chain),
    right,
    mistakes={
        "the blocks are taken from the input on; backward begins at the last one": path_by_path(
            upstream, chain[::-1]
        ),
        "a transpose is missing: backward through x @ A is g @ A.T": path_by_path(
            upstream, [weight.T for weight in chain]
        ),
        "G_{k-1} was overwritten before G_k had used it": overwritten(upstream, chain),
        "the part G_k that takes the shortcut is left out": only_branches,
        "the parts stay where they are: what passes a branch has its length plus 1": unmarked,
        "the list is the wrong way round: parts[k] passes k branches, not k shortcuts": right[::-1],
        "the parts are added up already, to the ordinary gradient": right.sum(axis=0),
        "[zeros] * L is one array L times, so that adding to one part adds to all": one_array(
            upstream, chain
        ),
        "the part of the branch is subtracted": path_by_path(
            upstream, [-weight for weight in chain]
        ),
        "the block next to the input is left out": path_by_path(upstream, chain[1:]),
    },
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def parts_by_length(dy, weights):
#     """(L + 1, N, D) as `path_by_path`, with at most L products for each block."""
#     parts = [dy]
#     for weight in reversed(weights):
#         by_branch = [part @ weight.T for part in parts]
#         nothing = np.zeros_like(dy)
#         shortcut, branch = [*parts, nothing], [nothing, *by_branch]
#         parts = [a + b for a, b in zip(shortcut, branch, strict=True)]
#     return np.stack(parts)
# ```
#
# </details>

# %% [markdown]
# The branches here are linear. Those of a network are not, but the *backward* pass is linear in
# $dy$, whatever the layer: ReLU masks and batch statistics are those of the one forward pass, and
# held. That is all that the recursion uses. A shortcut that changes the shape is linear too; with
# $S$ its Jacobian, $G_k \leftarrow S^\top G_k + J^\top G_{k-1}$.
#
# ## How many paths are there?
#
# Take 1 for $dy$ and 1 for every Jacobian, and the recursion counts: $(1 + t)^L$. To get a path of
# length $k$, choose the $k$ blocks out of $L$ whose branch it takes:
#
# $$\text{paths of length } k = \binom{L}{k} = \frac{L!}{k!\,(L-k)!}.$$
#
# `math.comb(L, k)` is this number, exact.

# %% [markdown]
# ## Exercise 2: which share of the paths has a length in between?


# %% tags=["exercise-2"]
def share(blocks, shortest, longest):
    """The share of all paths through `blocks` blocks of length shortest..longest, both included."""
    ...


# %% tags=["check-2"]
counts = [math.comb(7, k) for k in range(8)]
expect(
    "share(7, 2, 4)",
    share(7, 2, 4),
    sum(counts[2:5]) / 2**7,
    mistakes={
        "the longest length is left out; range() ends one before": sum(counts[2:4]) / 2**7,
        "the shortest length is left out": sum(counts[3:5]) / 2**7,
        "it is the number of paths, where their share is asked for": sum(counts[2:5]),
        "it is divided by 2 L, and not by 2^L": sum(counts[2:5]) / (2 * 7),
        "it is a share of the lengths, as if all were equally frequent": 3 / 8,
        "it is divided by the paths of these lengths, and not by all 2^L paths": 1.0,
        "only the paths of the longest length are counted": counts[4] / 2**7,
    },
)
expect("share(54, 19, 35)", share(54, 19, 35), flow.share_of_paths(54, 19, 35))

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def share(blocks, shortest, longest):
#     """The share of all paths through `blocks` blocks of length shortest..longest, both included."""
#     lengths = range(shortest, longest + 1)
#     return sum(math.comb(blocks, k) for k in lengths) / 2**blocks
# ```
#
# </details>

# %%
middle, short = flow.share_of_paths(54, 19, 35), flow.share_of_paths(54, 5, 17)
print(f"54 blocks, {2.0**54:.1e} paths: 19 to 35 branches {middle:.1%}, 5 to 17 {short:.2%}")
assert round(100 * middle, 1) == 98.0
assert round(100 * short, 2) == 0.45
assert flow.path_counts(54) == [math.comb(54, k) for k in range(55)]

# %% [markdown]
# Veit et al. (2016) say of a ResNet-110 that more than 95 % of its paths pass 19 to 35 branches; it
# is 98.0 %. Then they measured, in a trained network, which lengths the *gradient* comes by: almost
# all of it by 5 to 17 branches, and those are 0.45 % of the paths. Their gradient is an estimate
# from single paths, drawn at random. The recursion needs no estimate.
#
# ## A real network
#
# A residual network with 15 blocks that reads digits. It is the pre-activation kind, whose norm and
# ReLU stand in front of the convolutions inside the branch, so that nothing comes after the sum and
# the shortcuts are clean from end to end (He et al. 2016). We measure it as it is born and after
# five epochs. `flow.gradient_by_path_length` is the recursion of exercise 1, through any layers.

# %%
data = mr.data.load_digits()
residual = mr.models.preact_resnet32(input_shape=data.input_shape, rng=0)
images, labels = data.x_train[:16].astype(np.float64), data.y_train[:16]


def trained(model):
    """Five epochs of Adam."""
    optimizer = mr.Adam(model.parameters(), lr=2e-3)
    mr.fit(model, data, optimizer, epochs=5, batch_size=64, rng=0, progress=False)
    return model


models = [residual.astype(np.float64)]  # a copy
trained(residual)
models.append(residual.astype(np.float64))
spectra = {
    when: flow.gradient_by_path_length(model, images, labels)
    for when, model in zip(("at the start", "after five epochs"), models, strict=True)
}

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for (when, paths), ax in zip(spectra.items(), axes, strict=True):
    plots.path_spectrum(paths, ax=ax, title=f"Gradient by path length, {when}")

# %% [markdown]
# Bars: the norm $\lVert G_k\rVert$ of each part, as a share of the sum of these norms. Squares: the
# share of the $2^{15}$ paths. Crosses: the share of the gradient in its own direction,
# $\langle G_k, dx\rangle / \lVert dx\rVert^2$, which adds up to 1. First of all: do the parts add
# up to the gradient of the ordinary backward pass? To the rounding of float64.

# %%
mean_lengths = {}
for when, paths in spectra.items():
    mismatch = abs(paths.parts.sum(axis=0) - paths.total).max() / abs(paths.total).max()
    norms = paths.norms / paths.norms.sum()
    mean = {"paths": paths.path_shares @ paths.lengths, "gradient": norms @ paths.lengths}
    long = {"paths": paths.path_shares[9:].sum(), "gradient": norms[9:].sum()}
    print(f"{when}: |sum of parts - dx| / |dx| = {mismatch:.0e}")
    print(
        f"  mean length: {mean['paths']:.1f} of the paths, {mean['gradient']:.1f} of the gradient"
    )
    print(f"  9 branches or more: {long['paths']:.0%} of the paths, {long['gradient']:.0%}")
    mean_lengths[when] = mean["gradient"]
    assert mismatch < 1e-12
    assert sum(paths.counts) == 2**15
    assert mean["gradient"] < mean["paths"] - 0.4
    assert abs(paths.shares.sum() - 1) < 1e-12
assert long["gradient"] < 0.25 < 0.3 < long["paths"]  # trained

# %% [markdown]
# The gradient is made of shorter paths than the network is. To see why, walk single paths at
# random, a few of each length, and take the mean norm of what each carries to the input. This is
# what the paper did; `single_paths` is minires' version of it.

# %%
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
singles, together = {}, {}
for (when, paths), model, style in zip(spectra.items(), models, ("--x", "-o"), strict=True):
    norms = single_paths(
        model, images, labels, mr.SoftmaxCrossEntropy(), 8, np.random.default_rng(0)
    )
    slope, straight = np.polyfit(paths.lengths, np.log(norms), 1)[0], np.log(norms)
    ax.semilogy(paths.lengths, norms / norms[0], style, label=when)
    r = math.exp(slope)
    singles[when] = r
    together[when] = paths.norms[5] / (norms[5] * math.sqrt(paths.counts[5]))
    print(
        f"{when}: each branch multiplies a path by {r:.2f} = r; 15 r / (1 + r) = {15 * r / (1 + r):.1f}"
    )
    assert np.corrcoef(paths.lengths, straight)[0, 1] < -0.9
    assert r < 0.95
    assert abs(15 * r / (1 + r) - mean_lengths[when]) < 1.2
ax.set(
    xlabel="path length, branches passed",
    ylabel="norm of one path / length 0",
    title="Each branch more makes a path weaker by the same factor",
)
ax.legend()
assert singles["after five epochs"] < singles["at the start"]

# %% [markdown]
# A branch passes on a little less gradient than its shortcut does. On a log scale the line is
# nearly straight: a path of length $k$ carries about $r^k$. The number of paths times the strength
# of each is $\binom{L}{k} r^k$, and that is the polynomial $(1 + rt)^L$ again. Its mean length is
#
# $$\frac{\sum_k k \binom{L}{k} r^k}{\sum_k \binom{L}{k} r^k}
#   = \left.\frac{d}{dt} \log (1 + rt)^L\right|_{t=1} = \frac{L\,r}{1 + r},$$
#
# which is $L/2$ for $r = 1$ and less for weaker branches. It comes out close to the mean lengths
# above, though it adds up norms as if all paths pointed the same way. How much do they? $n$ vectors
# of one norm that point the same way add up to $n$ times that norm, and $n$ vectors at right angles
# to $\sqrt n$ times.

# %%
for when, ratio in together.items():
    print(
        f"{when}: the {math.comb(15, 5)} paths of length 5 add up to {ratio:.1f} sqrt(n) times one"
    )
assert together["at the start"] < 1.8 < 2.2 < together["after five epochs"]
assert together["after five epochs"] < 0.5 * math.sqrt(math.comb(15, 5))

# %% [markdown]
# At the start paths of one length are as good as unrelated. Training lines some of them up.
#
# With 15 blocks the effect is smaller than in the paper with 54. With 54 blocks,
# `minires reproduce paths` finds about nine tenths of the gradient of a trained network in paths of
# 5 to 17 branches.
#
# ## Shattering: what the gradient here says about the gradient next door
#
# A step that is good for one image should be good for images like it. That takes gradients that
# change slowly from input to input. To see whether they do, take networks from one number $x$ to
# one number $y$, 200 units wide, not trained, and draw $dy/dx$ along a line of 256 points.
#
# The plain networks here are centred: every layer subtracts the mean of its units over the line,
# which is batch norm without the division. The residual one has 48 blocks
# $x + \text{Dense}(\text{ReLU}(\text{BatchNorm}(x)))$. Below them, for comparison, noise: *white*
# noise is numbers that do not know of each other, *brown* noise is the running sum of white noise,
# each number a small step from the last.

# %%
nets = shattering.measure(seeds=2, depths=(2, 10, 24, 50), scales=(1, 0.1))

rows = ["plain, depth 2", "plain, depth 10", "plain, depth 50"]
rows += ["residual, depth 50, scale 1", "brown noise", "white noise"]
figure, axes = plt.subplots(2, 3, figsize=(8, 3.5), sharex=True, sharey=True, layout="constrained")
for name, ax in zip(rows, axes.flat, strict=True):
    gradient = nets.gradients[name]
    ax.plot(nets.x, (gradient - gradient.mean()) / gradient.std(), linewidth=0.7)
    ax.set_title(name, fontsize=10)
    ax.set(xlabel="x", ylabel="dy/dx")
    ax.label_outer()
title = "dy/dx along a line, less its mean, over its deviation: the deep plain net looks like white noise"
figure.suptitle(title, fontsize=10)
assert len(nets.x) == 256

# %% [markdown]
# In the plain net of depth 50 the gradient at one point tells nothing of the gradient at the next,
# though the points are about 1/64 apart. This is what Balduzzi et al. (2017) call **shattered**.
#
# To put a number to it, correlate the gradients with themselves, shifted. With $g_i$ the gradient
# at point $i$ of $P$, a vector in general, and $\bar g$ the mean over the points, for each
# component by itself:
#
# $$R(k) = \frac{\sum_{i=1}^{P-k} \langle g_i - \bar g,\; g_{i+k} - \bar g\rangle}
#               {\sum_{i=1}^{P} \lVert g_i - \bar g\rVert^2}.$$
#
# The sum above has $k$ terms less than the one below; it is not divided by their number.
# $R(0) = 1$; white noise has $R(k)$ near 0 from $k = 1$ on.

# %% [markdown]
# ## Exercise 3: the autocorrelation


# %% tags=["exercise-3"]
def autocorrelation(gradients, max_lag):
    """R(0), R(1), ... R(max_lag), (max_lag + 1,), of gradients of shape (P, D)."""
    ...


# %% tags=["check-3"]
walk = np.random.default_rng(2).standard_normal((9, 2)).cumsum(axis=0) + np.array([3.0, -1.0])
R = flow.autocorrelation(walk, 3)


def sums(g, wrap=False):
    """The sums of the products for lags 0 to 3; with `wrap`, the first point follows the last."""
    return np.array(
        [(g * np.roll(g, -k, 0))[: len(g) if wrap else len(g) - k].sum() for k in range(4)]
    )


centred, terms = walk - walk.mean(axis=0), 9 - np.arange(4)
lengths = [np.sqrt((centred[: 9 - k] ** 2).sum() * (centred[k:] ** 2).sum()) for k in range(4)]
expect(
    "autocorrelation",
    autocorrelation(walk.copy(), 3),
    R,
    mistakes={
        "the mean over the points is not subtracted": sums(walk) / sums(walk)[0],
        "one mean is taken of all components; each has its own": sums(walk - walk.mean())
        / sums(walk - walk.mean())[0],
        "the mean goes over the components of a point, and not over the points": sums(
            walk - walk.mean(axis=1, keepdims=True)
        )
        / sums(walk - walk.mean(axis=1, keepdims=True))[0],
        "the sums are divided by their numbers of terms": R * 9 / terms,
        "there is a mean above the line and a sum below it": R / (2 * terms),
        "the sums are not divided by the one for k = 0": sums(centred),
        "each component has its own R; their products are added up too": np.stack(
            [(centred[: 9 - k] * centred[k:]).sum(0) / (centred**2).sum(0) for k in range(4)]
        ),
        "each lag has means and denominator of its own, as np.corrcoef has it": [
            np.corrcoef(walk[: 9 - k].ravel(), walk[k:].ravel())[0, 1] for k in range(4)
        ],
        "lag 0 is missing": R[1:],
        "it ends one lag too early: R(max_lag) is asked for too": R[:-1],
        "the first point follows the last, as np.roll has it": sums(centred, wrap=True)
        / sums(centred)[0],
        "each lag has a denominator of its own; all have the one of k = 0": sums(centred) / lengths,
    },
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def autocorrelation(gradients, max_lag):
#     """R(0), R(1), ... R(max_lag), (max_lag + 1,), of gradients of shape (P, D)."""
#     g = gradients - gradients.mean(axis=0)
#     P = len(g)
#     products = [np.sum(g[: P - k] * g[k:]) for k in range(max_lag + 1)]
#     return np.array(products) / np.sum(g**2)
# ```
#
# </details>

# %%
lags = np.arange(16)
shown = [name for name in nets.correlations if "not centred" not in name]
curves = {name: (lags, nets.correlations[name].mean(axis=0), None) for name in shown}
figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
plots.autocorrelation(curves, ax=ax)
ax.set_title("Deep plain nets forget at the next point, residual nets later")

R1 = {name: found[:, 1].mean() for name, found in nets.correlations.items()}
for name, value in R1.items():
    print(f"{name:30} R(1) = {value:5.2f}")
for name, (least, most) in {
    "plain, depth 2": (0.95, 1),
    "plain, depth 10": (0.6, 0.95),
    "plain, depth 24": (-0.25, 0.25),
    "plain, depth 50": (-0.25, 0.25),
    "residual, depth 50, scale 1": (0.45, 0.9),
    "residual, depth 50, scale 0.1": (0.7, 1),
    "brown noise": (0.8, 1),
    "white noise": (-0.25, 0.25),
}.items():
    assert least < R1[name] < most, name

# %% [markdown]
# Balduzzi et al. show these curves in their figure 1, without numbers: brown noise for shallow
# nets, white noise for a plain net of 24 layers, and a residual net of 50 layers in between. So it
# is here. "Scale 0.1" multiplies every branch by 0.1, which keeps gradients alike still longer.
#
# There is a condition. The same plain nets *without* centring do not shatter like that:

# %%
for depth in (24, 50):
    print(f"depth {depth}, not centred: R(1) = {R1[f'not centred, depth {depth}']:.2f}")
    assert R1[f"not centred, depth {depth}"] > 0.4

# %% [markdown]
# Without centring, most units are on for all of the line or off for all of it, and a net whose
# units do not switch is a straight line. Batch norm centres; it is what lets units switch, and in
# deep plain nets it shatters the gradients too.
#
# ## Why: a factor for each layer
#
# Take two inputs so far apart that their ReLU masks $m$ and $m'$ have nothing to do with each
# other: each unit is on with probability 1/2, for each input by itself. The loss gives both the
# same upstream gradient. One plain layer with weights of variance $2/D$ (He) takes $g$ to
# $W(m \odot g)$, and the other one, $g'$, to $W(m' \odot g')$. What becomes of the inner product
# $\langle g, g'\rangle$, on average?
#
# - The weights multiply every expected inner product of what they are given by $D \cdot 2/D = 2$.
# - The masks keep of $\langle g, g'\rangle$ what is on in both:
#   $\tfrac12 \cdot \tfrac12 = \tfrac14$.
# - They keep of $\lVert g\rVert^2$ what is on: $\tfrac12$.
#
# So $\langle g, g'\rangle$ is multiplied by $2 \cdot \tfrac14 = \tfrac12$, the squared norms by
# $2 \cdot \tfrac12 = 1$, and the correlation by
#
# $$\frac{1/2}{1} = \frac12 \qquad\text{for each plain layer: } 2^{-L}\text{ after } L.$$
#
# A residual block adds the gradient itself: $g + s\,W(m \odot g)$, with $s$ the scale of the
# branch. Products of $g$ with $W(\cdot)$ average to 0, since weights are as often positive as
# negative.

# %% [markdown]
# ## Exercise 4: the factor of a residual block
#
# By what is the correlation multiplied in one residual block whose branch is scaled by $s$? On
# paper first.


# %% tags=["exercise-4"]
def kept(s):
    """What one block g + s * W (m * g) leaves of the correlation, a number from 1/2 to 1."""
    ...


# %% tags=["check-4"]
for scale in (1, 0.1, 3):
    s2 = scale**2
    expect(
        f"kept({scale})",
        kept(scale),
        (1 + s2 / 2) / (1 + s2),
        mistakes={
            "the identity is forgotten, which leaves a plain layer": 0.5,
            "the scale is not squared; it is in both gradients": (1 + scale / 2) / (1 + scale),
            "the norms are forgotten, which grow as well": 1 + s2 / 2,
            "the weights are forgotten, which double each inner product": (1 + s2 / 4)
            / (1 + s2 / 2),
            "the identity stands above the line only": (1 + s2 / 2) / s2,
            "the identity stands below the line only": s2 / 2 / (1 + s2),
            "a root is taken of the norms; both gradients have one, and the product has none": (
                (1 + s2 / 2) / math.sqrt(1 + s2)
            ),
            "s has no part in it: this is the factor for s = 1": 3 / 4,
            "the fraction is upside down": (1 + s2) / (1 + s2 / 2),
        },
    )

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# The identity keeps $\langle g, g'\rangle$ as it is. The branch adds $s^2$ times what a plain layer
# gives, $\tfrac12$ of $\langle g, g'\rangle$ and all of $\lVert g\rVert^2$:
# $(1 + s^2/2) / (1 + s^2)$, which is $3/4$ for $s = 1$.
#
# ```python
# def kept(s):
#     """What one block g + s * W (m * g) leaves of the correlation, a number from 1/2 to 1."""
#     inner_product = 1 + s**2 / 2
#     squared_norm = 1 + s**2
#     return inner_product / squared_norm
# ```
#
# </details>


# %%
def correlations(shortcut, scale, *, L=12, D=200, rng):
    """Correlation of two gradients after 0..L layers with masks that do not know of each other."""
    g = rng.standard_normal(D)
    pair, found = [g, g], [1.0]
    for _ in range(L):
        W = rng.standard_normal((D, D)) * np.sqrt(2 / D)
        pair = [shortcut * g + scale * W @ (rng.integers(0, 2, D) * g) for g in pair]
        found.append(pair[0] @ pair[1] / np.sqrt((pair[0] @ pair[0]) * (pair[1] @ pair[1])))
    return np.array(found)


rng, layers = np.random.default_rng(0), np.arange(13)
figure, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
for name, shortcut, scale, factor in (
    ("residual, s = 0.3", 1, 0.3, 1.045 / 1.09),
    ("residual, s = 1", 1, 1, 3 / 4),
    ("plain", 0, 1, 1 / 2),
):
    got = np.mean([correlations(shortcut, scale, rng=rng) for _ in range(30)], axis=0)
    (line,) = ax.plot(layers, got, "o", markersize=4, label=f"{name}, measured")
    ax.plot(layers, factor**layers, color=line.get_color(), label=rf"${factor:.3f}^{{\ layers}}$")
    assert abs(got - factor**layers).max() < 0.1, name
ax.set(xlabel="layers", ylabel="correlation", title="Each layer keeps its share of the correlation")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
assert ax.lines
# %% [markdown]
# $2^{-L}$ against $(3/4)^L$ are the results of Balduzzi et al. for networks without batch norm.
# With batch norm in the branch the residual net does better by far. The signal grows by one unit of
# variance with every block, so in front of branch $l$ batch norm divides by about $\sqrt l$ (a little
# less: of each unit only $1 - 1/\pi$ is variance over the batch, notebook 7). Leave its
# two subtracted paths aside (notebook 4): then the scale of the branch is in effect $s^2 = 1/l$,
# and the block keeps $(1 + \tfrac1{2l})/(1 + \tfrac1l)$. The later a block, the closer to 1.

# %%
blocks = np.arange(1, 49)
left = {
    "plain": 0.5**48,
    "residual": 0.75**48,
    "residual with batch norm": np.prod((1 + 0.5 / blocks) / (1 + 1 / blocks)),
}
for name, value in left.items():
    print(f"{name:26} keeps {value:.1e} after 48 layers")
assert left["plain"] < 1e-14
assert left["residual"] < 1e-5
assert abs(left["residual with batch norm"] * np.sqrt(48) - 2 / np.sqrt(np.pi)) < 0.02

# %% [markdown]
# The product falls like $1/\sqrt L$, and no longer exponentially. This holds for two *unrelated*
# inputs; those in the pictures are neighbours, whose masks are nearly the same, and keep more.
#
# ## Lesions: a trained network without a block
#
# If a residual network is a sum over many paths, no block should be indispensable. Without one
# block, half of the paths are left: those that took its shortcut. A plain network is one single
# path, and every block lies on it. Veit et al. tried it: they took blocks out of *trained*
# networks, without training further.
#
# `flow.lesioned` makes the network without a block. It copies the containers on the way to the
# block; all weights are the very same objects.

# %%
without = flow.lesioned(residual, drop=["stage1.block2"])
shortcut, block = without.stage1.block2, residual.stage1.block2
print(f"{type(block).__name__} was replaced by {type(shortcut).__name__}")
assert shortcut is block.shortcut
assert without.fc.weight is residual.fc.weight  # shared, not copied

# %% [markdown]
# Now each block in turn, in the residual network that we have trained and in a plain one of the
# same depth. Of the plain one the two blocks that change the shape cannot be left out.

# %%
plain = trained(mr.models.plain32(input_shape=data.input_shape, rng=0))
test = data.x_test, data.y_test
kept_bits = [parameter.value.tobytes() for parameter in residual.parameters()]
studies = {
    "residual-32": flow.lesion_study(residual, *test, progress=False),
    "plain-32": flow.lesion_study(plain, *test, progress=False),
}
assert kept_bits == [parameter.value.tobytes() for parameter in residual.parameters()]

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
plots.lesions(studies, ax=ax)
ax.set_title("Without one block: the residual network hardly notices, the plain one is lost")

accuracy = {
    name: np.array([lesion.accuracy for lesion in study]) for name, study in studies.items()
}
for name, values in accuracy.items():
    print(f"{name}: {values[0]:.2f} whole, {np.median(values[1:]):.2f} without one block (median)")
assert accuracy["residual-32"][0] > 0.9
assert accuracy["plain-32"][0] > 0.3
assert np.median(accuracy["residual-32"][1:]) > accuracy["residual-32"][0] - 0.1
assert np.median(accuracy["plain-32"][1:]) < accuracy["plain-32"][0] - 0.1  # guessing has 0.1
assert accuracy["residual-32"][1] < np.median(accuracy["residual-32"][1:]) - 0.1

# %% [markdown]
# Look at the exceptions as well: the first two blocks matter in the residual network too, and, less,
# blocks 6 and 11, which begin a stage. Early in the network the branch changes the signal by much, where
# later ones add a little to what is there already.
#
# Several blocks at once, drawn at random ten times; and random pairs of blocks of the same shape in
# each other's place:

# %%
options = {"repeats": 10, "rng": 0, "progress": False}
several = flow.multi_lesion_study(residual, *test, counts=range(8), **options)
swapped = flow.shuffle_study(residual, *test, swaps=(0, 1, 2, 4), **options)
swapped_plain = flow.shuffle_study(plain, *test, swaps=(0, 1), **options)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
plots.multi_lesions({"residual-32": several}, ax=axes[0])
plots.shuffles({"residual-32": swapped, "plain-32": swapped_plain}, ax=axes[1])


def median_accuracy(records, column, value):
    """Of the records of one count."""
    return np.median([record.accuracy for record in records if getattr(record, column) == value])


one_swap = median_accuracy(swapped, "swaps", 1), median_accuracy(swapped_plain, "swaps", 1)
print(f"one swap, median accuracy: residual {one_swap[0]:.2f}, plain {one_swap[1]:.2f}")
assert one_swap[0] > one_swap[1] + 0.15
assert median_accuracy(several, "count", 7) < 0.5 < 0.8 < median_accuracy(several, "count", 0)

# %% [markdown]
# The points are medians, the bars reach from the best draw to the worst. The error grows with the
# number of blocks that are gone; the bars are long, since much depends on whether one of the first
# two is among them. A layer of a plain network in another's place sees what it has never seen. The
# blocks of a residual network can rather trade places, since each adds its part to the same running
# sum. Veit et al. found both curves to rise smoothly, with 54 blocks. With 15, each is a larger
# part of the whole, and without half of them little is left.
#
# What this does *not* show: that a residual network *is* an ensemble of independent networks. Its
# paths share all their weights, and they were trained together.
#
# ## What to remember
#
# - A chain of $L$ residual blocks is a sum over $2^L$ paths. Backward is linear, so the gradient
#   splits exactly by path length: $G_k \leftarrow G_k + J^\top G_{k-1}$, one line.
# - Most paths have about $L/2$ branches. The gradient comes by shorter ones, since every branch
#   more weakens a path.
# - In deep plain nets with centred units the gradients of neighbouring inputs are unrelated. A
#   plain layer halves the correlation of unrelated inputs, a residual block keeps three quarters,
#   and with batch norm in the branch nearly all.
# - A trained residual network can do without most of its blocks, one at a time; a plain one cannot.
#
# ## Where to read on
#
# - Veit, Wilber and Belongie (2016), "Residual networks behave like ensembles of relatively shallow
#   networks", arXiv:1605.06431: sections 4 (lesions) and 5 (path lengths), figures 3, 5 and 6.
# - Balduzzi et al. (2017), "The shattered gradients problem: if resnets are the answer, then what
#   is the question?", arXiv:1702.08591: figure 1 and section 3.
# - He et al. (2016), "Identity mappings in deep residual networks", arXiv:1603.05027, section 2.
# - In minires: `minires/flow/paths.py`, `shattering.py` and `lesions.py`; the full measurements are
#   `minires reproduce paths`, `shattering` and `lesions`, and what came out stands in
#   `docs/flow.md`.
