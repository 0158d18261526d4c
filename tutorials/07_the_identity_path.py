# %% [markdown]
# # 7. The identity path: `y = x + F(x)`
#
# **What you will be able to do.** Derive and write the backward pass of a residual block, and avoid the
# mistake that nearly everybody makes once. Split the gradient at every block of a real network into what
# came through the shortcut and what came through the branch. Say what the identity path cures, what it
# does not cure, and what batch norm has to do with it.
#
# **What you need.** Notebook 6 (why plain chains vanish and explode), and what came before it.

# %%
import itertools
import math

import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires.exercises import expect, expect_gradients

mr.set_num_threads(1)  # for small images a second thread costs more than it brings

# %% [markdown]
# ## One plus
#
# A **residual block** adds its input to what its layers make of it:
#
# $$y = x + F(x).$$
#
# $F$ is the **branch**, any chain of layers whose output has the shape of $x$. The way around it is the
# **shortcut**. If $F$ has learnt nothing and gives 0, the block does nothing: $y = x$. That is what deep
# plain networks could not find (notebook 6); here it is where they start from.
#
# **Backward.** Ask as in notebook 1: where is the number $x_d$ used? In two places. Directly, in $y_d$,
# with the factor 1. And inside of $F$, where it has a part in every output $F_f$. The chain rule adds up
# over all places:
#
# $$dx_d = dy_d \cdot 1 + \sum_f dy_f\, \frac{\partial F_f}{\partial x_d},
#   \qquad dx = dy + J_F^\top dy.$$
#
# The second term is what the branch's own backward pass returns, given $dy$. The first is $dy$, **as it
# is**: not multiplied by any weight, mask or Jacobian. Whatever $F$ does, the gradient behind the block
# is a part of the gradient in front of it.

# The branches of the first examples are two dense layers with a ReLU in between:


# %%
def two_layers(rng, D=4):
    """A dense layer, a ReLU and a dense layer, in float64."""
    first, second = (mr.Dense(D, D, rng=rng, dtype=np.float64) for _ in range(2))
    return mr.Sequential(first=first, relu=mr.ReLU(), second=second)


# %% [markdown]
# ## Exercise 1: a residual block by hand
#
# `branch` is a minires layer: `branch.forward(x)` returns $F(x)$, and after it `branch.backward(dy)`
# returns the branch's part of the gradient. Leave the arrays that you are given as they are.


# %% tags=["exercise-1"]
def residual_forward(x, branch):
    """y = x + F(x)."""
    ...


def residual_backward(dy, branch):
    """dx, given dy."""
    ...


# %% tags=["check-1"]
class Mine(mr.Layer):
    """A residual block made of the two functions above."""

    def __init__(self, branch):
        self.branch = branch

    def _forward(self, x, training):
        return residual_forward(x, self.branch), ()

    def _backward(self, dy, cache):
        return residual_backward(dy, self.branch)


rng = np.random.default_rng(0)
branch, x, dy = two_layers(rng), rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
branch_y, branch_dx = branch.forward(x), branch.backward(dy)
x_kept, dy_kept = x.copy(), dy.copy()
expect(
    "residual_forward",
    residual_forward(x, branch),
    x_kept + branch_y,
    mistakes={
        "the shortcut is missing: this is F(x)": branch_y,
        "the branch is missing: this is x": x_kept,
        "F(x) is subtracted": x_kept - branch_y,
        "the two are multiplied": x_kept * branch_y,
        "the two are averaged": (x_kept + branch_y) / 2,
    },
)
expect(
    "residual_forward leaves x as it was",
    bool((x == x_kept).all()),
    True,
    mistakes={"x was written to (x += ... does): make a new array": False},
)
branch.forward(x)
expect(
    "residual_backward",
    residual_backward(dy, branch),
    dy_kept + branch_dx,
    mistakes={
        "the part of the shortcut is missing: this is the branch's alone": branch_dx,
        "the part of the branch is missing: this is dy alone": dy_kept,
        "the two parts are multiplied; x is used in two places, so they add up": (
            dy_kept * branch_dx
        ),
        "the two parts are averaged; each counts in full": (dy_kept + branch_dx) / 2,
        "the part of the branch is subtracted": dy_kept - branch_dx,
        "the part of the shortcut is 1; it is dy times 1": 1 + branch_dx,
        "dy is multiplied once more; branch.backward(dy) has done that": (
            dy_kept * (1 + branch_dx)
        ),
    },
)
expect(
    "residual_backward leaves dy as it was",
    bool((dy == dy_kept).all()),
    True,
    mistakes={"dy was written to (dy += ... does, and so does dx = dy; dx += ...)": False},
)
inner = Mine(two_layers(rng))
expect_gradients(
    "a block in the branch of a block",
    Mine(mr.Sequential(dense=mr.Dense(4, 4, rng=rng, dtype=np.float64), inner=inner)),
    x,
    hint="The branch has to see the dy that the block has got.",
    tolerance=1e-6,
)
expect_gradients(
    "a block whose branch ends in a ReLU",
    Mine(mr.Sequential(mr.Dense(4, 4, rng=rng, dtype=np.float64), mr.ReLU())),
    x,
    hint="A ReLU keeps what it returned: y += x writes to it. Make a new array.",
    tolerance=1e-6,
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def residual_forward(x, branch):
#     """y = x + F(x)."""
#     y = x + branch.forward(x)
#     return y
#
#
# def residual_backward(dy, branch):
#     """dx, given dy."""
#     dx = dy + branch.backward(dy)
#     return dx
# ```
#
# </details>

# %% [markdown]
# ## The classic mistake
#
# The block of minires is `mr.Residual(branch)`, with the same two sums. Now look at a version that wants
# to save an array:


# %%
class InPlace(mr.Residual):
    """A residual block with a mistake."""

    def _backward(self, dy, cache):
        dx = self.shortcut.backward(dy)  # the identity hands on dy: the same array
        dx += self.branch.backward(dy)  # so this writes to dy
        return dx


def pair_of_blocks(kind, seed):
    """A block in the branch of a block."""
    rng = np.random.default_rng(seed)
    return kind(mr.Sequential(two_layers(rng), kind(two_layers(rng))))


rng = np.random.default_rng(1)
x, dy = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
gradients = {}
for kind in (mr.Residual, InPlace):
    single, nested = kind(two_layers(np.random.default_rng(2))), pair_of_blocks(kind, 3)
    for name, model in (("single", single), ("nested", nested)):
        model.forward(x)
        gradients[kind, name] = model.backward(dy.copy())
for name in ("single", "nested"):
    right, wrong = gradients[mr.Residual, name], gradients[InPlace, name]
    error = np.linalg.norm(wrong - right) / np.linalg.norm(right)
    print(f"{name}: relative error {error:.2g}")
    assert error == 0 if name == "single" else error > 0.1

# %% [markdown]
# One block alone gives the right `dx`, and a test of one block that looks at `dx` only is content. With
# a block in the branch of another, the inner block writes to the array that is the outer block's identity
# gradient: **one in-place add corrupts both**. The gradient checker of notebook 2 finds it, since it
# looks at `dy` after the backward pass, too:

# %%
report = mr.check_gradients(InPlace(two_layers(np.random.default_rng(2))), x)
print(report)
assert not report.ok
assert "backward wrote to dy" in str(report)
assert mr.check_gradients(pair_of_blocks(mr.Residual, 3), x, tolerance=1e-6).ok

# %% [markdown]
# ## Where the shape changes
#
# $x + F(x)$ needs both of one shape. At the start of a stage the branch halves the image and doubles the
# channels. The shortcut has to follow, and He et al. (2015, section 3.3) give two ways:
#
# - **A, zero padding:** take every second pixel in both directions, and fill the new channels with zeros.
#   No parameters.
# - **B, projection:** a 1x1 convolution with stride 2. It has weights, and a batch norm behind it.
#
# In general $y = s(x) + F(x)$ and $dx = J_s^\top dy + J_F^\top dy$.

# %% [markdown]
# ## Exercise 2: backward through zero padding
#
# Forward, with $C$ channels coming and $F \ge C$ leaving: `y = zeros((N, OH, OW, F))`, then
# `y[..., :C] = x[:, ::stride, ::stride]`. Which numbers of $x$ were used, and where did they go?


# %% tags=["exercise-2"]
def pad_backward(dy, shape, stride):
    """dx of shape (N, H, W, C), from dy of shape (N, OH, OW, F)."""
    ...


# %% tags=["check-2"]
rng = np.random.default_rng(0)
dy, shape = rng.standard_normal((2, 3, 3, 5)), (2, 6, 6, 2)
pixels = dy[..., :2].copy()
right, moved, last = np.zeros(shape), np.zeros(shape), np.zeros(shape)
right[:, ::2, ::2], moved[:, 1::2, 1::2], last[:, ::2, ::2] = pixels, pixels, dy[..., -2:]
spread = pixels.repeat(2, axis=1).repeat(2, axis=2)
expect(
    "pad_backward",
    pad_backward(dy, shape, 2),
    right,
    mistakes={
        "each gradient goes to all four pixels; only one of them was read": spread,
        "each gradient is shared among four pixels, as average pooling does": spread / 4,
        "the gradient goes to pixels 1, 3, 5; pixels 0, 2, 4 were read": moved,
        "the last channels of dy are taken; x went into the first C": last,
        "the gradient has still the size of the smaller image": pixels,
        "the gradient is divided by 4; nothing was averaged": right / 4,
    },
)
third = np.zeros(shape)
third[:, ::3, ::3] = pixels[:, :2, :2]
expect("pad_backward at stride 3", pad_backward(dy[:, :2, :2], shape, 3), third)
expect_gradients(
    "pad_backward as a shortcut",
    (
        lambda x: mr.ops.reference.pad_shortcut_forward(x, stride=(2, 2), channels=5),
        lambda dy, cache: pad_backward(dy, cache[0], 2),
    ),
    rng.standard_normal((2, 5, 6, 2)),
    hint="Here the image has 5 by 6 pixels: 3 by 3 of them were read.",
)

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def pad_backward(dy, shape, stride):
#     """dx of shape (N, H, W, C), from dy of shape (N, OH, OW, F)."""
#     C = shape[-1]
#     dx = np.zeros(shape, dy.dtype)
#     dx[:, ::stride, ::stride] = dy[..., :C]
#     return dx
# ```
#
# </details>

# %% [markdown]
# Both options in a network of 56 layers for the digits:

# %%
data = mr.data.load_digits()
sample = data.x_train[:256], data.y_train[:256]


def network(depth, kind, seed=0, **options):
    """A new network for the digits: He et al. (2015), section 4.2."""
    shape = data.input_shape
    return mr.models.cifar_resnet(depth, kind=kind, input_shape=shape, rng=seed, **options)


sizes = {
    name: sum(p.size for p in model.parameters())
    for name, model in {
        "plain": network(56, "plain"),
        "residual, A": network(56, "residual"),
        "residual, B": network(56, "residual", shortcut="B"),
    }.items()
}
for name, size in sizes.items():
    print(f"{name:12} {size} parameters")
assert sizes["plain"] == sizes["residual, A"]
assert sizes["residual, B"] - sizes["plain"] == 16 * 32 + 32 * 64 + 2 * (32 + 64)

# %% [markdown]
# A residual network with option A has **exactly** the parameters of the plain one. What follows is due to
# the plus signs alone.
#
# Only two of the 27 blocks change the shape. If *every* shortcut multiplied by something, we were back at
# the product of notebook 6. With a factor of 0.9 at each of 27 blocks the identity path would carry:

# %%
print(f"0.9 ** 27 = {0.9**27:.3f}")
assert 0.9**27 < 0.06

# %% [markdown]
# ## Unrolled: $2^L$ paths
#
# Take blocks in a chain and write their Jacobians $J_1, J_2, \dots$, gradients as rows. One block
# multiplies by $I + J_l$. Two of them:
#
# $$dx = dy\,(I + J_2)(I + J_1) = dy + dy\,J_2 + dy\,J_1 + dy\,J_2 J_1.$$
#
# The product has become a **sum**. Each term is a path through the network: at each block it takes
# either the shortcut or the branch. Two blocks have four paths, $L$ blocks $2^L$. Three blocks, all
# eight paths:

# %%
rng = np.random.default_rng(0)
dy, jacobians = rng.standard_normal(4), rng.standard_normal((3, 4, 4))
paths = {}
for taken in itertools.product((False, True), repeat=3):  # by the branch of block 3, 2, 1?
    gradient = dy
    for J, by_branch in zip(jacobians[::-1], taken, strict=True):
        gradient = gradient @ J if by_branch else gradient
    paths[taken] = gradient
J1, J2, J3 = jacobians
whole = dy @ (np.eye(4) + J3) @ (np.eye(4) + J2) @ (np.eye(4) + J1)
np.testing.assert_allclose(sum(paths.values()), whole, rtol=1e-10)
assert (paths[False, False, False] == dy).all()  # by identities alone: dy to the bit

print(f"3 blocks: {len(paths)} paths; the 27 blocks of 56 layers: {2**27:,}")
assert len(paths) == 2**3

# %% [markdown]
# A sum of many terms does not vanish because some of them do. Notebook 8 asks which paths carry the
# gradient.
#
# ## The ledger
#
# `mr.flow.residual_ledger` writes down, for each block of a real network, the norm of $dy$, of the
# shortcut's part and of the branch's part, and the cosine of the angle between the two. With
# `keep_arrays=True` it returns the gradients themselves, too. Is the identity's part really $dy$?

# %%
model = network(56, "residual")
ledger, arrays = mr.flow.residual_ledger(model, *sample, keep_arrays=True)
exact = [a.shortcut.tobytes() == a.dy.tobytes() for a in arrays.values()]
for block in ledger[:3] + ledger[-2:]:
    print(
        f"{block.path}: dy {block.dy_norm:.3f}, shortcut {block.shortcut_norm:.3f}, "
        f"branch {block.branch_norm:.3f}, cosine {block.cosine:+.3f}"
    )
print(f"{sum(exact)} of {len(exact)} shortcut parts have every bit of dy")
assert len(exact) == 27
assert sum(exact) == 25  # two blocks change the shape
for a in arrays.values():
    assert (a.dx == a.shortcut + a.branch).all()
for block in ledger:
    assert abs(block.cosine) < 0.2
    squares = block.shortcut_norm**2 + block.branch_norm**2
    assert abs(block.dx_norm**2 / squares - 1) < 0.2

# %% [markdown]
# Not nearly: **every bit**. And the two parts stand at right angles, as random vectors of many numbers
# do, so that Pythagoras holds: $\|dx\|^2 = \|dy\|^2 + \|J_F^\top dy\|^2$. A block can make the gradient longer. At
# the start of training it cannot make it vanish.
#
# How much of the gradient came by the shortcut? The lengths of the two parts do not add up to that of the
# sum. What adds up is how far each reaches **in the direction of the sum**. With $s$ and $b$ the two parts
# and $dx = s + b$,
#
# $$\frac{\langle s, dx\rangle}{\|dx\|^2} + \frac{\langle b, dx\rangle}{\|dx\|^2}
#   = \frac{\langle dx, dx\rangle}{\|dx\|^2} = 1.$$
#
# $\langle s, dx\rangle$ is the inner product: multiply number by number and add up. A share may be above 1;
# then the other is negative, and works against the sum.

# %% [markdown]
# ## Exercise 3: a line of the ledger
#
# From the two parts, arrays of any one shape, compute the share of each, and the cosine of the angle
# between them, $\langle s, b\rangle / (\|s\| \|b\|)$.


# %% tags=["exercise-3"]
def ledger_line(s, b):
    """The share of s, the share of b, and the cosine: three numbers."""
    ...


# %% tags=["check-3"]
rng = np.random.default_rng(0)
s = rng.standard_normal((3, 2, 2, 4))
b = 0.5 * rng.standard_normal(s.shape) - 0.3 * s
dx, s_norm, b_norm = s + b, np.linalg.norm(s), np.linalg.norm(b)
dx_norm = np.linalg.norm(dx)
expect(
    "ledger_line",
    ledger_line(s, b),
    {
        "share_s": np.sum(s * dx) / dx_norm**2,
        "share_b": np.sum(b * dx) / dx_norm**2,
        "cosine": np.sum(s * b) / (s_norm * b_norm),
    },
    mistakes={
        "the squares of the norms are compared; they add up at a right angle only": {
            "share_s": s_norm**2 / dx_norm**2,
            "share_b": b_norm**2 / dx_norm**2,
        },
        "the norms are compared, which do not add up to the norm of dx": {
            "share_s": s_norm / dx_norm,
            "share_b": b_norm / dx_norm,
        },
        "the norms are compared with their sum; parts may work against each other": {
            "share_s": s_norm / (s_norm + b_norm),
            "share_b": b_norm / (s_norm + b_norm),
        },
        "the inner product is divided by the norm of dx, and not by its square": {
            "share_s": np.sum(s * dx) / dx_norm,
            "share_b": np.sum(b * dx) / dx_norm,
        },
        "the inner product is not divided by the square of the norm of dx": {
            "share_s": np.sum(s * dx),
            "share_b": np.sum(b * dx),
        },
        "the shares are exchanged": {"share_s": np.sum(b * dx) / dx_norm**2},
        "dx is the difference of the parts; it is their sum": {
            "share_s": np.sum(s * (s - b)) / np.sum((s - b) ** 2),
        },
        "this is the inner product of the two parts; a share looks at dx": {
            "share_s": np.sum(s * b) / dx_norm**2,
            "share_b": np.sum(s * b) / dx_norm**2,
        },
        "it is not divided by both norms": {"cosine": np.sum(s * b)},
        "it is the angle between the shortcut's part and dx": {
            "cosine": np.sum(s * dx) / (s_norm * dx_norm)
        },
        "it is divided by the square of the norm of dx": {"cosine": np.sum(s * b) / dx_norm**2},
        "it is the angle, in radians": {"cosine": np.arccos(np.sum(s * b) / (s_norm * b_norm))},
        "it is the angle, in degrees": {
            "cosine": np.degrees(np.arccos(np.sum(s * b) / (s_norm * b_norm)))
        },
    },
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def ledger_line(s, b):
#     """The share of s, the share of b, and the cosine: three numbers."""
#     dx = s + b
#     square = np.sum(dx**2)
#     share_s = np.sum(s * dx) / square
#     share_b = np.sum(b * dx) / square
#     cosine = np.sum(s * b) / np.sqrt(np.sum(s**2) * np.sum(b**2))
#     return share_s, share_b, cosine
# ```
#
# </details>

# %% [markdown]
# `mr.plots.ledger` draws the shares and the angles of all blocks; read it from right to left, as the
# gradient travels.

# %%
for block in ledger:
    a = arrays[block.path]
    share = np.vdot(a.shortcut, a.dx) / np.vdot(a.dx, a.dx)
    assert abs(block.shortcut_share - share) < 1e-4

figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
mr.plots.ledger(ledger, ax=axes)
axes.set_title("At the start: most comes by the shortcut, but not in the first blocks")
plt.show()

start = np.array([block.shortcut_share for block in ledger])
print(f"share of the shortcut: first block {start[0]:.2f}, last {start[-1]:.2f}")
assert start[0] < 0.4 < 0.7 < start[-1]
assert (start > 0.5).mean() > 0.7

# %% [markdown]
# "The gradient flows through the identity" is true of most blocks, and not of the first ones. Why that is
# so comes out below, in the section on what grows.
#
# ## Shallow and deep, plain and residual
#
# The measurement of notebook 6 for all kinds of networks:


# %%
def names_and_norms(norm):
    """{name: gradient norms} of four new networks."""
    tail = "" if norm else " without norm"
    return {
        f"{kind}-{depth}{tail}": mr.flow.gradient_norms(network(depth, kind, norm=norm), *sample)
        for depth in (8, 56)
        for kind in ("plain", "residual")
    }


with_norm, without = names_and_norms("batch"), names_and_norms(None)
ends = {}
for name, norms in (with_norm | without).items():
    values = np.array([norm.norm for norm in norms[:-1]])  # without the dense layer
    ends[name] = values.min(), values.max()
    print(f"{name:25} smallest {values.min():8.2g}, largest {values.max():8.2g}")
for name, (smallest, largest) in ends.items():
    if "-8" in name or name == "residual-56":
        assert 0.01 < smallest < largest < 20  # well
assert ends["plain-56"][1] > 100 * ends["plain-56"][0]  # explodes
assert ends["plain-56 without norm"][1] < 1e-3  # vanishes
assert ends["residual-56 without norm"][0] > 100  # explodes

figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
mr.plots.gradient_norms(with_norm, ax=axes[0], title="With batch norm, plain-56 explodes")
mr.plots.gradient_norms(without, ax=axes[1], title="Without, one vanishes and one explodes")
plt.show()

# %% [markdown]
# Eight layers are well in every form. Of the four networks of 56 layers, one is well: residual, with
# batch norm. The identity path cures the vanishing gradient, with or without batch norm. But without
# batch norm all gradients of the residual network are hundreds of times too large. The next section
# says why.
#
# ## The other side: what is added, grows
#
# A chain multiplies, a sum adds. Let $x$ have the variance $E[x^2] = V$, and let the branch be a ReLU and
# a dense layer with He's weights. It keeps the mean square (notebook 6): $E[F^2] = V$. Its weights have
# mean 0, so the mean of $x \cdot F$ is 0, and
#
# $$E[y^2] = E[x^2] + E[F^2].$$
#
# Three ways to build the branch:
#
# - **without norm**, $F$ has the variance of its own input;
# - **with batch norm** in front of the ReLU, the input of the ReLU has variance 1, so that $F$ has
#   variance 1, however large $x$ is;
# - **scaled**, $y = x + \alpha F(x)$, without norm.

# %% [markdown]
# ## Exercise 4: the variance after 20 blocks
#
# $x$ has variance 1 in front of the first block. What is it after $L = 20$ blocks? For the scaled branch
# take $\alpha = 1/\sqrt{L}$. Write numbers or formulas.

# %% tags=["exercise-4"]
variance_without_norm = ...
variance_with_norm = ...
variance_scaled = ...

# %% tags=["check-4"]
expect(
    "variance_without_norm",
    variance_without_norm,
    2**20,
    mistakes={
        "each block adds 1; without norm it adds the variance that its input has": 21,
        "each block adds 2": 41,
        "there is one block too many": 2**21,
        "there is one block too few": 2**19,
        "this is the growth of the standard deviation": 2**10,
        "the branch alone is counted, and the shortcut is left out": 1,
    },
)
expect(
    "variance_with_norm",
    variance_with_norm,
    21,
    mistakes={
        "the variance of x itself is missing, 1 in front of the first block": 20,
        "each block doubles; with batch norm it adds 1": 2**20,
        "there is one block too many": 22,
        "batch norm is taken to act on y; it stands in the branch": 1,
        "this is the growth of the standard deviation": np.sqrt(21),
    },
)
expect(
    "variance_scaled",
    variance_scaled,
    (1 + 1 / 20) ** 20,
    mistakes={
        "each block adds 1/20; it adds 1/20 of what has grown so far": 2,
        "the variance grows with alpha; it grows with the square of alpha": (1 + 20**-0.5) ** 20,
        "1 + alpha is squared; the two parts are independent, so the squares add up": (
            (1 + 20**-0.5) ** 40
        ),
        "the whole sum is scaled, and not the branch only": (2 / 20) ** 20,
        "this is the limit for many blocks; write it for 20": np.e,
    },
    rtol=3e-3,
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# variance_without_norm = 2**20
# variance_with_norm = 1 + 20
# variance_scaled = (1 + 1 / 20) ** 20
# ```
#
# Without norm the variance doubles in every block; with it, each block adds 1; scaled, each block
# multiplies by $1 + \alpha^2 = 1 + 1/20$. For many blocks that tends to $e = 2.718$.
#
# </details>

# %% [markdown]
# De and Smith (2020) derive the first two. `minires.experiments.growth` measures them; the scaled branch
# is three lines more.

# %%
from minires.experiments import growth

BLOCKS, WIDTH = growth.BLOCKS, 256
grown = growth.measure(seeds=1, width=WIDTH)


def scaled(rng, shape, fan_in, fan_out, dtype):
    """He's weights times 1 / sqrt(L)."""
    return mr.initializers.he_normal(rng, shape, fan_in, fan_out, dtype) / math.sqrt(BLOCKS)


rng = np.random.default_rng(0)
layers = [
    mr.Residual(
        mr.Sequential(mr.ReLU(), mr.Dense(WIDTH, WIDTH, bias=False, initializer=scaled, rng=rng))
    )
    for _ in range(BLOCKS)
]
x = rng.standard_normal((64, WIDTH), np.float32)
variance = {
    "residual without norm": grown.variance["residual"][0],
    "residual, batch norm in the branch": grown.variance["residual, batch norm"][0],
    "residual without norm, branch / sqrt(20)": growth.there_and_back(layers, x, rng).variance,
}
predicted = dict(zip(variance, (2**20, 21, 1.05**20), strict=True))
for name, values in variance.items():
    print(f"{name:42} predicted {predicted[name]:9.6g}, measured {values[-1]:9.6g}")
    assert 0.4 < values[-1] / predicted[name] < 2.5
assert abs(variance["residual, batch norm in the branch"][-1] - 21) < 2

# %%
figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
curves = {name: (np.arange(BLOCKS + 1), values) for name, values in variance.items()}
mr.plots.variance_growth(curves, ax=axes)
axes.set_title("The variance doubles in every block, unless the branch is held down")
plt.show()

# %% [markdown]
# What goes up forward goes up backward. Without norm the branch returns as much of the squared gradient as
# the shortcut, so that it doubles in every block, too. That is the explosion in the figure above:
# small networks survive it, large ones do not.
#
# With batch norm in the branch, the backward pass divides by the variance of the block's input, which has
# grown. Block $l$ (counted from 0) has let $l$ branches before it add to the variance over the batch,
# each $1 - 1/\pi$ (that is $2\,\mathrm{Var}[\mathrm{relu}(z)]$ of notebook 6). So it multiplies the square of the
# gradient by $1 + 1/(1 + (1 - 1/\pi)\, l)$ only: much for the first blocks, hardly anything for the
# later ones. That is what the ledger showed: where the stream $x$ is still small, batch norm divides by
# little, and the branch returns much.

# %%
factors = [1 + 1 / (1 + (1 - 1 / np.pi) * block) for block in range(BLOCKS)]
measured = {kind: gradient[0, 0] ** 2 for kind, gradient in grown.gradient.items()}
plain_with_norm = (np.pi / (np.pi - 1)) ** BLOCKS
print("growth of the squared gradient through 20 blocks or layers:")
print(f"residual without norm  predicted {2**20:9.3g}, measured {measured['residual']:9.3g}")
print(
    f"residual, batch norm   predicted {np.prod(factors):9.3g}, "
    f"measured {measured['residual, batch norm']:9.3g}"
)
print(f"plain, batch norm      predicted {plain_with_norm:9.3g}  (notebook 6)")
assert 0.4 < measured["residual"] / 2**20 < 2.5
assert abs(measured["residual, batch norm"] / np.prod(factors) - 1) < 0.3
assert plain_with_norm > 30 * measured["residual, batch norm"]

# %% [markdown]
# Plain with batch norm, the gradient grows exponentially in the depth; residual with batch norm, it grows
# as a power of the depth. The identity path and batch norm need each other, unless the branch is held down
# in another way, such as a small $\alpha$. (Zhang et al., 2019, train residual networks without any norm;
# their branches begin small.)
#
# ## The ReLU after the sum
#
# He et al. (2015) put a ReLU behind each sum, $x_{l+1} = \mathrm{relu}(x_l + F(x_l))$. In minires it stands
# outside of the `Residual`, so that "the shortcut's part is $dy$" is exact. But between two blocks the
# gradient meets its mask, and the identity path of a whole stage is no longer clean. The network that
# minires grew from (notebook 10) has no ReLU there, and `relu_after_add=False` leaves it out.
#
# Without it the sums telescope. Over the blocks of a stage (He et al. 2016, equations 4 and 5)
#
# $$x_L = x_0 + \sum_l F_l(x_l), \qquad dx_0 = dx_L + \sum_l J_{F_l}^\top\, dx_{l+1}.$$
#
# The gradient behind the last block arrives in front of the first, whole, through nine blocks at once.
# Check that in both kinds of network, in the first stage, whose shortcuts are identities:

# %%
for relu in (True, False):
    model = network(56, "residual", relu_after_add=relu)
    arrays = mr.flow.residual_ledger(model, *sample, keep_arrays=True)[1]
    stage = [arrays[f"stage1.block{i}.sum"] for i in range(9)]
    total = stage[-1].dy + sum(a.branch for a in stage)
    missing = np.linalg.norm(total - stage[0].dx) / np.linalg.norm(stage[0].dx)
    print(
        f"ReLU after the sum: {relu!s:5}  |dx_L + sum of branches - dx_0| / |dx_0| = {missing:.2g}"
    )
    assert missing > 0.1 if relu else missing < 1e-4

# %% [markdown]
# With the ReLU, how much of the gradient reaches the first block of the stage by identities alone? What
# all the masks on the way let through:

# %%
model, loss = network(56, "residual"), mr.SoftmaxCrossEntropy()
relus = [f"stage1.block{i}.relu" for i in range(9)]
with mr.FlowRecorder(model, keep_arrays=relus) as flow:
    loss.forward(model.forward(sample[0], training=True), sample[1])
    model.backward(loss.backward())
kept = flow.arrays[1]
dy = kept[relus[-1]]["dy"]
open_to_all = np.all([kept[path]["y"] > 0 for path in relus], axis=0)
energy = np.sum(dy[open_to_all] ** 2) / np.sum(dy**2)
print(f"{open_to_all.mean():.0%} of the numbers pass all nine masks, {energy:.0%} of |dy|^2")
assert 0.1 < energy < 0.7
assert open_to_all.mean() > 10 * 0.5**9  # independent masks would leave one in 512

# %% [markdown]
# That is far from nothing, since a number that was positive stays so easily: each block adds to it, and
# most blocks add little beside what is there. So networks with the ReLU train well, too. He et al. (2016)
# moved it into the branch ("pre-activation", `kind="preactivation"`) and went up to 1,001 layers.
#
# ## Training
#
# Plain and residual, 8 and 56 layers, with Adam: one epoch of digits in batches of 32, which is 45 steps.
# The accuracy on the training images says who learns (notebook 6).

# %%
contestants = {
    "plain-8": network(8, "plain"),
    "residual-8": network(8, "residual"),
    "plain-56": network(56, "plain"),
    "residual-56": network(56, "residual"),
    "residual-56, no ReLU after the sum": network(56, "residual", relu_after_add=False),
}
losses, accuracy = {}, {}
for name, model in contestants.items():
    optimizer, loss = mr.Adam(model.parameters(), 1e-3), mr.SoftmaxCrossEntropy()
    losses[name] = []
    for x, labels in mr.data.batches(data.x_train, data.y_train, 32, rng=0):
        value, _ = mr.training.train_step(model, loss, optimizer, x, labels)
        losses[name].append(value)
    accuracy[name] = mr.evaluate(model, data.x_train, data.y_train).accuracy
    test = mr.evaluate(model, data.x_test, data.y_test).accuracy
    print(f"{name:35} {accuracy[name]:.3f} of the training images, {test:.3f} of the test images")
assert optimizer.steps == 45
assert accuracy["plain-56"] < 0.5
for name in ("plain-8", "residual-8", "residual-56", "residual-56, no ReLU after the sum"):
    assert accuracy[name] > 0.8

# %%
figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
styles = mr.plots.styles_of(losses)
styles["residual-56, no ReLU after the sum"] |= {"color": "tab:green", "linestyle": "-."}
for name, style in styles.items():
    smooth = np.convolve(losses[name], np.ones(5) / 5, mode="valid")
    look = style | {"markevery": 6, "markersize": 4}
    axes.plot(np.arange(3, 44), smooth, label=name, **look)
axes.set(xlabel="step", ylabel="loss, mean over five steps", yscale="log")
axes.set_title("56 layers learn if they are residual")
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# The same parameters, the same images, the same steps; the difference is 27 plus signs. With them 56
# layers learn like 8, with the ReLU after the sum and without.
#
# What does the ledger say of the trained network?

# %%
trained = mr.flow.residual_ledger(contestants["residual-56"], *sample)
figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
mr.plots.ledger(trained, ax=axes)
axes.set_title("After 45 steps: as at the start, the branch leads in the first blocks only")
plt.show()

share = np.array([block.shortcut_share for block in trained])
print(f"share of the shortcut, mean over the blocks: {start.mean():.2f} at the start, ", end="")
print(f"{share.mean():.2f} after training")
assert share[0] < 0.4
assert min(start.mean(), share.mean()) > 0.5

# %% [markdown]
# ## What to remember
#
# - $y = x + F(x)$ gives $dx = dy + J_F^\top dy$. The first term is $dy$ to the bit.
# - Never add to $dy$ in place: it is the identity gradient of somebody else.
# - Unrolled, $L$ blocks are a sum over $2^L$ paths, where a plain chain is one product.
# - The identity path cures the vanishing. Without a norm it explodes ($2^L$); batch norm in the branch,
#   or a small factor, makes the growth harmless ($L + 1$ forward).
# - With no ReLU after the sum, the identity path of a stage is clean from end to end.
#
# ## Where to read on
#
# - He et al. (2015), "Deep residual learning", arXiv:1512.03385, sections 3 and 4.2.
# - He et al. (2016), "Identity mappings in deep residual networks", arXiv:1603.05027, sections 2 and 3:
#   what happens if the shortcut is anything but the identity.
# - Veit et al. (2016), "Residual networks behave like ensembles of relatively shallow networks",
#   arXiv:1605.06431, section 3.
# - De and Smith (2020), "Batch normalization biases residual blocks towards the identity function",
#   arXiv:2002.10444. Zhang et al. (2019), "Fixup initialization", arXiv:1901.09321.
# - In minires: `Residual` in `minires/layers/containers.py`, `minires/flow/ledger.py`,
#   `minires/experiments/growth.py` and `identity.py`, and `docs/flow.md`.
