# %% [markdown]
# # 2. The gradient check
#
# **What you will be able to do.** Decide whether a backward pass is right, without knowing how it was
# derived. You will write a gradient check, choose its step and its tolerance for a reason, check
# 90,000 weights with two forward passes, and know five ways in which a check says "right" of
# something that is wrong.
#
# **What you need.** Notebook 1, and the first terms of a Taylor series.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires.exercises import expect
from minires.ops import reference as ops

# %% [markdown]
# ## A slope from two points
#
# A derivative is a slope: move the input by a little, see what the output does, divide. There are two
# ways to do it, and Taylor's series says how good they are:
#
# $$f(x + h) = f(x) + h f'(x) + \tfrac{h^2}{2} f''(x) + \tfrac{h^3}{6} f'''(x) + \dots$$
# $$f(x - h) = f(x) - h f'(x) + \tfrac{h^2}{2} f''(x) - \tfrac{h^3}{6} f'''(x) + \dots$$
#
# The **one-sided difference** takes the first line alone:
#
# $$\frac{f(x + h) - f(x)}{h} = f'(x) + \tfrac{h}{2} f''(x) + \dots$$
#
# The **central difference** subtracts the second line from the first. All even powers cancel:
#
# $$\frac{f(x + h) - f(x - h)}{2h} = f'(x) + \tfrac{h^2}{6} f'''(x) + \dots$$
#
# With $h = 10^{-5}$ that is the difference between five digits and ten. On paper, $x^3$ at $x = 1$,
# where the slope is 3:

# %%
h = 0.1
one_sided = ((1 + h) ** 3 - 1) / h
central = ((1 + h) ** 3 - (1 - h) ** 3) / (2 * h)
print(f"one-sided {one_sided:.4f}, central {central:.4f}")
assert abs(one_sided - 3.31) < 1e-9  # 3 + 3 h + h^2
assert abs(central - 3.01) < 1e-9  # 3 + h^2

# %% [markdown]
# ## Exercise 1: a gradient without a backward pass
#
# For an array, do this for each entry, and leave the others where they are. $f$ takes the whole array
# and returns one number. Put each entry back before you go on to the next one. `np.ndindex(x.shape)`
# goes through the indices of all entries.


# %% tags=["exercise-1"]
def numeric_gradient(f, x, h):
    """The central differences of f, one for each entry of x: an array of the shape of x."""
    ...


# %% tags=["check-1"]
sample = np.array([[0.5, -1.0, 2.0], [1.5, 1.0, -0.5]])
slants = np.array([[1.0, 2.0, -1.0], [3.0, 1.0, 2.0]])  # (sample * slants).sum() is 1
kept, step = sample.copy(), 0.25
before = (slants.cumsum() - slants.ravel()).reshape(2, 3)  # of the entries that came earlier
ahead, here, behind = (1 + step * slants) ** 3, 1.0, (1 - step * slants) ** 3
by_row = step * slants.sum(axis=1, keepdims=True) * np.ones((2, 3))
expect(
    "numeric_gradient",
    numeric_gradient(lambda x: (x * slants).sum() ** 3, sample, step),
    (ahead - behind) / (2 * step),
    mistakes={
        "f(x + h) - f(x - h) is divided by h; the points are 2 h apart": (ahead - behind) / step,
        "it is one-sided: f(x + h) - f(x), where f(x - h) belongs": (ahead - here) / step,
        "f(x + h) - f(x) is divided by 2 h: f(x - h) is missing": (ahead - here) / (2 * step),
        "an entry stays at x - h while the next one is moved: put it back first": (
            (1 + step * (slants - before)) ** 3 - (1 - step * (slants + before)) ** 3
        )
        / (2 * step),
        "an entry stays at x + h while the next one is moved: put it back first": (
            (1 + step * (slants + before)) ** 3 - (1 - step * (slants - before)) ** 3
        )
        / (2 * step),
        "a whole row is moved at once; np.ndindex gives single entries": (
            (1 + by_row) ** 3 - (1 - by_row) ** 3
        )
        / (2 * step),
        "a whole row is moved at once, and the old row is a view of x, which moves with it": (
            (1 + by_row) ** 3 - here
        )
        / (2 * step),
        "all entries are moved at once": np.full((2, 3), (3.0**3 - (-1.0) ** 3) / (2 * step)),
        "all entries are moved at once; move one at a time": (3.0**3 - (-1.0) ** 3) / (2 * step),
        "the numbers are right, but stand in one row; give them the shape of x": (
            (ahead - behind) / (2 * step)
        ).ravel(),
        "x[i] -= h leads from x + h back to x; x - h is another h away": (
            (1 + step * (slants + before)) ** 3 - (1 + step * before) ** 3
        )
        / (2 * step),
        "h is not divided by": ahead - behind,
    },
)
expect(
    "numeric_gradient and its argument",
    bool((sample == kept).all()),
    True,
    mistakes={"x is not as it was: put the entry back after the last move, too": False},
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def numeric_gradient(f, x, h):
#     """The central differences of f, one for each entry of x: an array of the shape of x."""
#     gradient = np.zeros(x.shape)
#     for i in np.ndindex(x.shape):
#         old = x[i]
#         x[i] = old + h
#         ahead = f(x)
#         x[i] = old - h
#         behind = f(x)
#         x[i] = old  # not x[i] + h, which may be off by a rounding
#         gradient[i] = (ahead - behind) / (2 * h)
#     return gradient
# ```
#
# </details>

# %% [markdown]
# ## From one number to a layer
#
# A layer returns an array and not a number. But remember what its backward pass is asked for: an
# upstream gradient $dy$ comes in, and $dx_i = \sum_j dy_j\, \partial y_j / \partial x_i$ goes out. That
# sum is the gradient of *one number*,
#
# $$L(x) = \langle y(x), dy \rangle = \sum_j y_j(x)\, dy_j \qquad\text{with } dy \text{ held fixed}.$$
#
# So draw a $dy$ at random, and compare `backward(dy)` with the central differences of $L$. The same
# function checks $dw$ and $db$: move $w$ or $b$ in place of $x$.


# %%
def central(f, x, h=1e-5):
    """Central differences of f at x; exercise 1, finished."""
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + h
        ahead = f(x)
        x[i] = old - h
        behind = f(x)
        x[i] = old
        gradient[i] = (ahead - behind) / (2 * h)
    return gradient


rng = np.random.default_rng(0)
x, w, b = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4)
dy = rng.standard_normal((5, 4))
dx, dw, db = ops.dense_backward(dy, ops.dense_forward(x, w, b)[1])
numeric = {
    "dx": central(lambda x: ((x @ w + b) * dy).sum(), x),
    "dw": central(lambda w: ((x @ w + b) * dy).sum(), w),
    "db": central(lambda b: ((x @ w + b) * dy).sum(), b),
}
for name, analytic in (("dx", dx), ("dw", dw), ("db", db)):
    away = np.abs(analytic - numeric[name]).max()
    print(f"{name}: largest entry {np.abs(analytic).max():.2f}, largest difference {away:.0e}")
    assert away < 1e-8

# %% [markdown]
# ## How small is a small step?
#
# The formula says that the error falls as $h^2$, so a tiny $h$ should be best. But a computer rounds
# every number to a relative accuracy of $\varepsilon$, which is $2.2 \cdot 10^{-16}$ in float64 and
# $1.2 \cdot 10^{-7}$ in float32. $f(x+h)$ and $f(x-h)$ are nearly equal, each is off by about
# $\varepsilon |f|$, and their difference, with that error in it, is divided by $2h$. Together:
#
# $$\text{error}(h) \approx \underbrace{\frac{h^2}{6}\,|f'''|}_{\text{curvature}} +
#   \underbrace{\frac{\varepsilon\,|f|}{h}}_{\text{rounding}}.$$
#
# One term falls with $h$, the other one grows. On a log-log plot the sum is a V.


# %%
def error_of_step(h, dtype, two_sided=True):
    """The relative error of the slopes of a softmax, measured in one dtype with the step h."""
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    right = ops.softmax_backward(dy, ops.softmax_forward(x)[1])  # in float64

    def loss(x):
        return (ops.softmax_forward(x)[0] * dy.astype(dtype)).sum()

    x, h = x.astype(dtype), dtype(h)
    found = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = h
        behind = loss(x - e) if two_sided else loss(x)
        found[i] = (loss(x + e) - behind) / (2 * h if two_sided else h)
    return np.abs(found - right).max() / np.abs(right).max()


hs = 10.0 ** np.arange(-12, 0.1, 0.25)
curves = {
    "float32, central": [error_of_step(h, np.float32) for h in hs],
    "float64, one-sided": [error_of_step(h, np.float64, two_sided=False) for h in hs],
    "float64, central": [error_of_step(h, np.float64) for h in hs],
}
best = {name: hs[np.argmin(curve)] for name, curve in curves.items()}
least = {name: min(curve) for name, curve in curves.items()}
at_the_usual_step = {name: curve[np.abs(hs - 1e-5).argmin()] for name, curve in curves.items()}
for name in curves:
    print(
        f"{name:18}  best h {best[name]:.0e} (error {least[name]:.0e}), "
        f"error at h = 1e-5 {at_the_usual_step[name]:.0e}"
    )
assert 1e-7 < best["float64, central"] < 1e-3
assert least["float64, central"] < 1e-9
assert 1e-10 < best["float64, one-sided"] < 1e-6
assert 1e-9 < least["float64, one-sided"] < 1e-6
assert 1e-4 < best["float32, central"] < 1e-1
assert 1e-6 < least["float32, central"] < 1e-2
assert at_the_usual_step["float32, central"] > 1e-3
assert at_the_usual_step["float64, central"] < 1e-8
assert curves["float32, central"][0] == 1
tenth = {name: curve[-9] / curve[-13] for name, curve in curves.items()}  # from 1e-2 to 1e-3
assert 80 < tenth["float64, central"] < 125
assert 8 < tenth["float64, one-sided"] < 12.5

# %%
figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
styles = (("tab:red", "s"), ("tab:gray", "^"), ("tab:blue", "o"))
for (name, curve), (color, marker) in zip(curves.items(), styles, strict=True):
    axes.loglog(hs, curve, color=color, marker=marker, markersize=3, label=name)
axes.axvline(1e-5, color="black", linestyle=":", label="h = 1e-5")
axes.set(xlabel="step h", ylabel="relative error of the slopes", ylim=(1e-12, 1e3))
axes.set_title("Too small a step is as bad as too large a one")
axes.legend(loc="lower left", fontsize=8)

# %% [markdown]
# Read the picture from the right. Going down to a tenth of $h$ divides the error of the central
# difference by a hundred, and that of the one-sided one by ten, as Taylor said. Then the noise takes
# over and rises again as $1/h$. In float64 a central difference at $h = 10^{-5}$ sits near the bottom.
# In float32 the same step lies far up on the noisy arm: a digit or so is right. (At the far left
# $x + h$ is rounded to $x$, and the difference is 0: an error of 1.)
#
# ## Exercise 2: the best step
#
# Where is the bottom of the V? Differentiate $\frac{h^2}{6} |f'''| + \frac{\varepsilon |f|}{h}$ with
# respect to $h$, set the derivative to 0, and solve for $h$.


# %% tags=["exercise-2"]
def best_step(eps, size, third):
    """The h at which the error is smallest, for |f| = size and |f'''| = third."""
    ...


# %% tags=["check-2"]
expect(
    "best_step",
    best_step(2.0**-52, 5.0, 0.25),
    np.cbrt(3 * 2.0**-52 * 5.0 / 0.25),
    mistakes={
        "the two errors are set equal; the sum is least where its derivative is 0": np.cbrt(
            6 * 2.0**-52 * 5.0 / 0.25
        ),
        "the 3 is missing: the derivative of h^2 / 6 is h / 3": np.cbrt(2.0**-52 * 5.0 / 0.25),
        "the 3 is on the wrong side": np.cbrt(2.0**-52 * 5.0 / 0.25 / 3),
        "the root is a square root; h^2 times h is h^3": np.sqrt(3 * 2.0**-52 * 5.0 / 0.25),
        "Python reads ** 1 / 3 as a power of 1, divided by 3; write ** (1 / 3)": (
            2.0**-52 * 5.0 / 0.25
        ),
        "the root is missing: this is h^3": 3 * 2.0**-52 * 5.0 / 0.25,
        "|f| and |f'''| have changed places": np.cbrt(3 * 2.0**-52 * 0.25 / 5.0),
        "|f| and |f'''| are left out": np.cbrt(3 * 2.0**-52),
    },
)

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# The derivative is $\frac{h}{3} |f'''| - \frac{\varepsilon |f|}{h^2} = 0$, so
# $h^3 = 3 \varepsilon |f| / |f'''|$.
#
# ```python
# def best_step(eps, size, third):
#     """The h at which the error is smallest, for |f| = size and |f'''| = third."""
#     return (3 * eps * size / third) ** (1 / 3)
# ```
#
# </details>

# %% [markdown]
# Where $f$ and $f'''$ are of the order of 1, that is about $\sqrt[3]{\varepsilon}$, and the error there
# about $\varepsilon^{2/3}$:

# %%
for dtype in (np.float32, np.float64):
    eps = float(np.finfo(dtype).eps)
    print(f"{dtype.__name__}: best step about {np.cbrt(eps):.0e}, error {np.cbrt(eps) ** 2:.0e}")
    assert 0.05 < best[f"{dtype.__name__}, central"] / np.cbrt(eps) < 20
    assert 0.02 < least[f"{dtype.__name__}, central"] / np.cbrt(eps) ** 2 < 50

# %% [markdown]
# The picture agrees to within a factor of a few. Hence the numbers that `mr.check_gradients` starts
# from: float64, central, $h = 10^{-5}$. Training can stay in float32, since it takes no difference of
# nearly equal losses.
#
# ## Two forward passes, whatever the size
#
# Entry by entry, a check costs two forward passes for each number. ResNet-20 has 269,722 parameters:
# that would be more than half a million forward passes. Move all entries at once instead, along a
# direction $v$. The chain rule says
#
# $$\frac{d}{dt} L(x + t v)\Big|_{t=0} = \sum_i \frac{\partial L}{\partial x_i} v_i =
#   \langle dx, v \rangle,$$
#
# and the left side is a slope from two points.
#
# ## Exercise 3: a directional check


# %% tags=["exercise-3"]
def along_direction(f, x, dx, v, h):
    """(claimed, measured): the slope of f along v that dx claims, and the difference."""
    ...


# %% tags=["check-3"]
check_rng = np.random.default_rng(3)
spot, way, claim = (check_rng.standard_normal((3, 4)) for _ in range(3))
calls = []


def counted(x):
    """A smooth function that remembers how often it was called."""
    calls.append(1)
    return float((x**3).sum())


ahead, here, behind = (counted(spot + s * 0.25 * way) for s in (1, 0, -1))
calls.clear()
expect(
    "along_direction",
    along_direction(counted, spot.copy(), claim.copy(), way.copy(), 0.25),
    {"claimed": (claim * way).sum(), "measured": (ahead - behind) / 0.5},
    mistakes={
        "the products of dx and v are not added up": {"claimed": claim * way},
        "dx @ v is a matrix product; multiply entry by entry, and add up": {
            "claimed": claim @ way.T
        },
        "they are averaged, where the chain rule adds": {"claimed": (claim * way).mean()},
        "v is left out: dx is only added up": {"claimed": claim.sum()},
        "the two have changed places": {"claimed": (ahead - behind) / 0.5},
        "f(x + h v) - f(x - h v) is divided by h; the points are 2 h v apart": {
            "measured": (ahead - behind) / 0.25
        },
        "it is one-sided: f(x + h v) - f(x), where f(x - h v) belongs": {
            "measured": (ahead - here) / 0.25
        },
        "f(x + h v) - f(x) is divided by 2 h: f(x - h v) is missing": {
            "measured": (ahead - here) / 0.5
        },
        "v is left out: x + h moves all entries by the same h": {
            "measured": ((spot + 0.25) ** 3 - (spot - 0.25) ** 3).sum() / 0.5
        },
        "each entry is moved on its own; move all of them along v at once": {
            "measured": (way * ((spot + 0.25) ** 3 - (spot - 0.25) ** 3)).sum() / 0.5
        },
        "v was scaled to length 1; take it as it is": {
            "claimed": (claim * way).sum() / np.linalg.norm(way)
        },
    },
)
expect(
    "the number of forward passes",
    len(calls),
    2,
    mistakes={
        "every entry is moved on its own; move all of them along v at once": 2 * spot.size,
        "f(x) is computed as well; the central difference has no use for it": 3,
    },
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def along_direction(f, x, dx, v, h):
#     """(claimed, measured): the slope of f along v that dx claims, and the difference."""
#     claimed = (dx * v).sum()
#     measured = (f(x + h * v) - f(x - h * v)) / (2 * h)
#     return claimed, measured
# ```
#
# </details>

# %% [markdown]
# Can one direction see *one* wrong entry of 90,000? If $e$ is the error of the claimed
# gradient, the check sees $\langle e, v \rangle$. With a random $v$ this is 0 with probability 0. It is
# of the order of $\|e\|$, and the slope itself of the order of $\|dx\|$, both for a $v$ of entries near
# 1. So the relative error is about $\|e\| / \|dx\|$: small, but far above that of a right one.


# %%
def relative(claimed, measured):
    """The difference of two slopes, relative to the larger one."""
    return abs(claimed - measured) / max(abs(claimed), abs(measured))


def slopes_along(f, x, dx, v, h=1e-5):
    """Exercise 3, finished."""
    return (dx * v).sum(), (f(x + h * v) - f(x - h * v)) / (2 * h)


rng = np.random.default_rng(2)
x, w, dy = (rng.standard_normal(s) for s in ((20, 300), (300, 300), (20, 300)))
hidden = np.tanh(x @ w / 20)
dw = x.T @ (dy * (1 - hidden**2)) / 20  # tanh' is 1 - tanh^2


def loss(w):
    """<y, dy> of a layer with tanh."""
    return (np.tanh(x @ w / 20) * dy).sum()


one_wrong = dw.copy()
one_wrong[17, 23] += np.abs(dw).max()
typical = {}
for name, claim in (("right", dw), ("one entry wrong", one_wrong)):
    draws = [rng.standard_normal(w.shape) for _ in range(9)]
    typical[name] = np.median([relative(*slopes_along(loss, w, claim, v)) for v in draws])
    print(f"{name:15} of {dw.size:,}: relative error {typical[name]:.0e}, median of 9 directions")
print(f"the error is {np.linalg.norm(one_wrong - dw) / np.linalg.norm(dw):.0e} of the gradient")
assert typical["right"] < 1e-8
assert 1e-4 < typical["one entry wrong"] < 0.3

# %% [markdown]
# The direction must be random. All ones look innocent, but along them only the *sum* of the gradient
# is tested, and a transposed gradient has the right sum:

# %%
ones = np.ones(w.shape)
blind = relative(*slopes_along(loss, w, dw.T, ones))
seeing = relative(*slopes_along(loss, w, dw.T, rng.standard_normal(w.shape)))
print(f"dw transposed: relative error {blind:.0e} along ones, {seeing:.1f} along a random v")
assert blind < 1e-6
assert seeing > 1e-2

# %% [markdown]
# ## How much may they differ?
#
# A number for the difference first. Three choices:
#
# - The absolute difference means nothing without a scale. Gradients may be $10^{3}$ or $10^{-9}$.
# - The difference of each entry relative to that entry cries wolf: an entry that is 0 by chance is
#   never right to seven digits.
# - The largest difference, relative to the **largest entry of the array**, needs no exception. This is
#   what minires takes.
#
# Then a limit. Measure backward passes that are known to be right, and typical mistakes:


# %%
def compared(forward, backward, x, dy):
    """What backward claims, and the central differences."""
    claimed = backward(dy, forward(x)[1])
    return claimed, central(lambda x: (forward(x)[0] * dy).sum(), x.copy())


def error(claimed, measured):
    """The largest difference, relative to the largest entry."""
    return np.abs(claimed - measured).max() / max(np.abs(claimed).max(), np.abs(measured).max())


w = np.random.default_rng(4).standard_normal((6, 6))
dense = (lambda x: (x @ w, x)), (lambda dy, x: dy @ w.T)
relu = (lambda x: (np.maximum(x, 0), x)), (lambda dy, x: dy * (x > 0))
softmax = ops.softmax_forward, ops.softmax_backward
candidates = {
    "dense": dense,
    "ReLU": relu,
    "softmax": softmax,
    "dense, rounded to float32": (dense[0], lambda dy, x: (dy @ w.T).astype("f4").astype("f8")),
    "dense, one weight off by 1 %": (
        dense[0],
        lambda dy, x: dy @ np.where(w == w.max(), 1.01 * w, w).T,
    ),
    "softmax, the diagonal only": (softmax[0], lambda dy, p: dy * p * (1 - p)),
    "dense, not transposed": (dense[0], lambda dy, x: dy @ w),
    "ReLU, sign": (relu[0], lambda dy, x: -dy * (x > 0)),
}
found = {name: [] for name in candidates}
for seed in range(10):
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((7, 6)), rng.standard_normal((7, 6))
    x = np.where(np.abs(x) < 1e-3, 0.1, x)  # away from the kink of ReLU; see below
    for name, (forward, backward) in candidates.items():
        found[name].append(error(*compared(forward, backward, x, dy)))
right, wrong = list(found)[:3], list(found)[3:]
assert max(max(found[name]) for name in right) < 1e-8
assert min(min(found[name]) for name in wrong[1:]) > 5e-4
assert 1e-9 < max(found["dense, rounded to float32"]) < 1e-7
report = mr.check_gradients(candidates["dense, rounded to float32"], x)
assert "not linear in dy" in report["x"].note

# %%
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for name in found:
    style = {"color": "tab:blue", "marker": "o"} if name in right else {"color": "tab:red"}
    axes.scatter(found[name], [name] * len(found[name]), **({"marker": "x", "s": 25} | style))
axes.axvline(1e-7, color="black", linestyle=":", label="tolerance of minires: 1e-7")
axes.set(xscale="log", xlabel="error relative to the largest entry (10 samples each)")
axes.set_title("Between right and wrong there is room for a limit")
axes.invert_yaxis()
axes.legend(loc="upper right", fontsize=8)

# %% [markdown]
# Right ones (blue) end below $10^{-8}$; mistakes (red) begin at about a thousandth. One thing sits in
# between: a backward pass whose numbers were rounded to float32 somewhere. It is as wrong as float32 is
# coarse, which is less than the limit. minires finds it in another way: a gradient must be linear in
# $dy$, to the last digit, and rounding is not.
#
# Now for five checks that look like this one, and let through what is wrong.
#
# ## First fool: the upstream gradient of ones
#
# The shortest check there is: take `y.sum()` for the loss, that is, $dy = 1$. Two functions, softmax
# and one that takes from each column its mean and divides by its standard deviation (batch
# normalisation, notebook 4), each with a backward pass that **returns zeros**:


# %%
def normalise(x):
    """Columns of mean 0 and standard deviation 1."""
    return (x - x.mean(axis=0)) / x.std(axis=0), x


def zeros(dy, cache):
    """As wrong as can be."""
    return np.zeros_like(dy)


rng = np.random.default_rng(0)
x = rng.standard_normal((6, 5))
refused = {}  # what each fool is told by minires' own checker
for forward in (ops.softmax_forward, normalise):
    claimed, measured = compared(forward, zeros, x, np.ones_like(x))
    print(f"{forward.__name__}: largest difference {np.abs(claimed - measured).max():.0e}")
    assert np.allclose(claimed, measured)  # the naive check is content
    refused[f"zeros through {forward.__name__}"] = mr.check_gradients((forward, zeros), x)

# %% [markdown]
# It passes because it is right! The probabilities of a row always add up to 1, and a normalised column
# always adds up to 0. Their *sum* does not depend on $x$, so its gradient is 0. The check was
# **vacuous**: both sides are 0, and nothing has been shown. $dy = y$, which comes from the loss
# $\frac12 \sum y^2$, is no better for the second one, since the squares of a normalised column always
# add up to $N$:

# %%
claimed, measured = compared(normalise, zeros, x, normalise(x)[0])
assert np.allclose(claimed, measured)
claimed, measured = compared(normalise, zeros, x, rng.standard_normal(x.shape))
assert not np.allclose(claimed, measured)  # a random dy sees it
print(refused["zeros through normalise"])
assert refused["zeros through normalise"].verdicts == {"x": "fail"}

# %% [markdown]
# `mr.check_gradients` takes a pair (forward, backward), or a layer, and draws $dy$ itself. Where the
# true gradient is 0 for any $dy$, it says so instead of passing:

# %%
total = (lambda x: (ops.softmax_forward(x)[0].sum(), x)), (lambda dy, x: np.zeros_like(x))
report = mr.check_gradients(total, x)
print(report)
assert report.verdicts == {"x": "vacuous"}
assert not report.ok

# %% [markdown]
# ## Second fool: float32
#
# A network is in float32, so its check is done in float32. The function below takes off the mean of
# each row of 200. Its true gradient has a second term, the path through the mean, and somebody forgot
# it:


# %%
def centre(x):
    """Take off the mean of each row."""
    return x - x.mean(axis=1, keepdims=True), x


def right_backward(dy, x):
    """The straight path, and the one through the mean."""
    return dy - dy.mean(axis=1, keepdims=True)


def forgets_the_mean(dy, x):
    """The straight path alone."""
    return dy.copy()


rng = np.random.default_rng(0)
x64, dy64 = rng.standard_normal((12, 200)), rng.standard_normal((12, 200))
errors = {}
for backward in (right_backward, forgets_the_mean):
    for dtype in (np.float32, np.float64):
        x, dy = x64.astype(dtype), dy64.astype(dtype)
        errors[backward, dtype] = error(*compared(centre, backward, x, dy))
        print(f"{backward.__name__:17} {dtype.__name__}: {errors[backward, dtype]:.0e}")
assert errors[right_backward, np.float32] > 1e-2
assert errors[forgets_the_mean, np.float32] < 2 * errors[right_backward, np.float32]
assert errors[right_backward, np.float64] < 1e-8
assert errors[forgets_the_mean, np.float64] > 1e6 * errors[right_backward, np.float64]

# %% [markdown]
# In float32 the right one fails every strict limit. So the limit is raised until it passes, and the
# wrong one passes, too. With $h = 10^{-5}$ there is no limit that tells them apart. (With
# $h = 10^{-2}$ there is, as the V says, but only for mistakes that show in the first three digits.) In
# float64 more than six orders of magnitude lie between them. minires refuses to judge in float32, also
# where only something *inside* is float32:

# %%
print(mr.check_gradients((centre, right_backward), x64.astype(np.float32)))
rounded = (lambda x: (centre(x)[0].astype("f4").astype("f8"), x)), right_backward
inside = mr.check_gradients(rounded, x64)
refused["forgets the mean"] = mr.check_gradients((centre, forgets_the_mean), x64)
assert inside.verdicts == {"y": "not float64"}
assert mr.check_gradients((centre, right_backward), x64).ok
assert refused["forgets the mean"].verdicts == {"x": "fail"}

# %% [markdown]
# ## Third fool: kinks
#
# ReLU has no derivative at 0. A central difference there gives the mean of the slopes of both sides,
# $\frac12$, and if 0 lies anywhere between $x - h$ and $x + h$, a number between 0 and 1. So a check
# refuses a *right* ReLU where a sample comes too near to 0. Blank pixels are exactly 0.

# %%
h = 0.5
at = np.linspace(-1, 1, 401)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(at, at > 0, color="tab:blue", label="what ReLU's backward pass says")
slope = (np.maximum(at + h, 0) - np.maximum(at - h, 0)) / (2 * h)
axes.plot(at, slope, color="tab:red", linestyle="--", label=f"central difference, h = {h}")
slope = (np.maximum(at + h, 0) - np.maximum(at, 0)) / h
axes.plot(at, slope, color="tab:gray", linestyle="-.", label=f"one-sided difference, h = {h}")
axes.set(xlabel="x", ylabel="slope of max(0, x)")
axes.set_title("Near a kink, no difference is the derivative")
axes.legend(fontsize=8)
kink = central(lambda x: np.maximum(x, 0).sum(), np.array([0.0, 4e-6, 1.0]))
print("slopes at 0, 4e-6 and 1 with h = 1e-5:", kink)
assert np.allclose(kink, [0.5, 0.7, 1.0])

# %% [markdown]
# What people do about it is where the fooling begins.
#
# *Take positive samples only.* Then ReLU is the identity, and a backward pass that is the identity
# passes. *Use one-sided differences.* Then a tie fools the check. Take the largest number of each row
# (max pooling, notebook 5, does that). The gradient belongs to *the* largest. A backward pass that
# hands it to every number that is as large gives too much where several are equal, as on a blank part
# of an image:


# %%
def largest(x):
    """The largest number of each row."""
    return x.max(axis=1), x


def to_every_tie(dy, x):
    """dy for each number that equals the largest."""
    return (x == x.max(axis=1, keepdims=True)) * dy[:, None]


def to_the_first(dy, x):
    """dy for the first of the largest."""
    return np.eye(x.shape[1])[x.argmax(axis=1)] * dy[:, None]


positive = rng.random((6, 5))
assert np.allclose(*compared(relu[0], lambda dy, x: dy, positive, np.ones((6, 5))))
signed = rng.standard_normal((6, 5))
refused["identity for ReLU"] = mr.check_gradients((relu[0], lambda dy, x: dy.copy()), signed)

blank = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.2], [0.5, 0.5, 0.1, 0.5]])
dy = rng.standard_normal(3)
now = largest(blank)[0] @ dy
steps = 1e-6 * np.eye(blank.size).reshape(-1, *blank.shape)
one_sided = np.reshape([(largest(blank + e)[0] @ dy - now) / 1e-6 for e in steps], blank.shape)
assert np.allclose(one_sided, to_every_tie(dy, blank))  # the naive check is content
assert not np.allclose(one_sided, to_the_first(dy, blank))  # and refuses what is right
refused["dy to every tie"] = mr.check_gradients((largest, to_every_tie), blank)
print(refused["dy to every tie"])
print(mr.check_gradients((largest, to_the_first), blank))

# %% [markdown]
# minires notices a kink by comparing the slopes ahead and behind. It then checks what can be checked
# there (if all numbers of a row rise together, the largest one rises by as much, and this has no kink),
# moves the sample off the kink, and checks again. The verdict *kink* is a pass that says so.

# %%
assert refused["dy to every tie"].verdicts == {"x": "fail"}
assert mr.check_gradients((largest, to_the_first), blank).verdicts == {"x": "kink"}
assert mr.check_gradients(relu, np.array([[0.0, 1.0, -1.0]])).verdicts == {"x": "kink"}

# %% [markdown]
# ## Fourth fool: the formula for the error
#
# Four ways to write the comparison, and a wrong gradient that each of them takes for right.

# %%
rng = np.random.default_rng(0)
tolerance = 1e-7

# 1. |a - n| / (a + n): negative wherever the gradient is, and a negative number is below any limit
falls = (lambda x: (np.exp(-x), x)), (lambda dy, x: -2 * np.exp(-x) * dy)  # twice too steep
x = rng.standard_normal(8)
a, n = compared(*falls, x, np.ones(8))
assert (np.abs(a - n) / (a + n)).max() < tolerance
refused["twice, all negative"] = mr.check_gradients(falls, x)


# 2. if error > tolerance: fail. One NaN makes the error NaN, and NaN > anything is False
def divides_by_zero(dy, x):
    """The gradient of |x|, but twice too large, and 0 / 0 where x is 0."""
    with np.errstate(invalid="ignore"):
        return 2 * dy * x / np.abs(x)


size = (lambda x: (np.abs(x), x)), divides_by_zero
x[0] = 0
a, n = compared(*size, x, np.ones(8))
assert not error(a, n) > tolerance
refused["NaN"] = mr.check_gradients(size, x)

# 3. np.allclose allows 1e-8 whatever the size: four layers of small weights have smaller gradients
w1, w2, w3, w4 = (1e-3 * rng.standard_normal((6, 6)) for _ in range(4))
chain = (lambda x: (x @ w1 @ w2 @ w3 @ w4, x)), zeros
x = rng.standard_normal((4, 6))
a, n = compared(*chain, x, rng.standard_normal((4, 6)))
print(f"largest gradient through four small layers: {np.abs(n).max():.0e}")
assert np.abs(n).max() < 1e-8
assert np.allclose(a, n)
refused["zeros for tiny gradients"] = mr.check_gradients(chain, x)

# 4. a mean of differences, without np.abs: here the order is wrong, and the shape as well, which
# NumPy does not mind: (8, 1) - (8,) is (8, 8)
square = (lambda x: (x**2, x)), (lambda dy, x: (2 * x * dy)[::-1, None])
x, dy = rng.standard_normal(8), rng.standard_normal(8)
a, n = compared(*square, x, dy)
assert (a - n).shape == (8, 8)
assert abs((a - n).mean()) < tolerance
refused["another order and shape"] = mr.check_gradients(square, x)

for name in list(refused)[-4:]:
    assert not refused[name].ok
    print(f"{name}: {refused[name]['x'].note or 'fail'}")

# %% [markdown]
# ## Exercise 4: a comparison that is not fooled
#
# Write the comparison so that each of these gets the right answer. True only if shapes are equal,
# everything is finite, and the largest difference is at most `tolerance` times the largest entry of
# both. If both are all zero, nothing was shown: False.


# %% tags=["exercise-4"]
def agrees(analytic, numeric, tolerance=1e-7):
    """Whether two gradients agree, True or False."""
    ...


# %% tags=["check-4"]
def asked(analytic, numeric, **options):
    """The answer as a bool, if it is one."""
    answer = agrees(analytic.copy(), numeric.copy(), **options)
    return bool(answer) if isinstance(answer, np.bool_) else answer


g = np.array([[0.5, -2.0, 1.0], [3.0, 1e-9, -1.0]])
hole, pole, shift = g.copy(), g.copy(), np.zeros_like(g)
hole[0, 0], pole[0, 0], shift[1, 1] = np.nan, np.inf, 1e-10
with np.errstate(all="ignore"):
    expect(
        "agrees, of equal gradients, all of them negative",
        asked(-np.abs(g), -np.abs(g)),
        True,
        mistakes={
            "the largest number counts; take the largest magnitude, np.abs(...).max()": False
        },
    )
    expect(
        "agrees, where a tiny entry beside large ones is off by a rounding",
        asked(g + shift, g),
        True,
        mistakes={"each entry is compared with itself; divide by the largest of the array": False},
    )
    expect(
        "agrees, where all entries are negative and one side is twice the other",
        asked(-2 * np.abs(g), -np.abs(g)),
        False,
        mistakes={"signs enter: take np.abs of the difference, and of what divides it": True},
    )
    expect(
        "agrees, where the gradient has the wrong sign",
        asked(-g, g),
        False,
        mistakes={"the differences cancel: take np.abs before the maximum": True},
    )
    expect(
        "agrees, where one entry of the backward pass is NaN",
        asked(hole, g),
        False,
        mistakes={"a NaN passes: comparisons with NaN are False; test np.isfinite": True},
    )
    expect(
        "agrees, where one entry of the backward pass is infinite",
        asked(pole, g),
        False,
        mistakes={"infinity passes, being at most the limit infinity; test np.isfinite": True},
    )
    expect(
        "agrees, of tiny gradients, one twice the other",
        asked(2e-12 * g, 1e-12 * g),
        False,
        mistakes={"the difference is not taken relative to the size of the gradient": True},
    )
    expect(
        "agrees, of equal numbers in another shape",
        asked(np.ones((3, 1)), np.ones(3)),
        False,
        mistakes={"shapes are not compared, so NumPy broadcasts (3, 1) and (3,)": True},
    )
    nearly = g.copy()
    nearly[0, 0] += 1e-6  # 3.3e-7 of the largest entry
    expect(
        "agrees, where one entry of six is off by three times the limit",
        asked(nearly, g),
        False,
        mistakes={"the mean is compared, or the limit is not 1e-7; take the largest": True},
    )
    expect(
        "agrees, of the same with tolerance=1e-6",
        asked(nearly, g, tolerance=1e-6),
        True,
        mistakes={"tolerance is not used": False},
    )
    expect(
        "agrees, of zeros and zeros",
        asked(0 * g, 0 * g),
        False,
        mistakes={"two gradients of zeros pass, and show nothing": True},
    )

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def agrees(analytic, numeric, tolerance=1e-7):
#     """Whether two gradients agree, True or False."""
#     if analytic.shape != numeric.shape:
#         return False
#     if not (np.isfinite(analytic).all() and np.isfinite(numeric).all()):
#         return False
#     size = max(np.abs(analytic).max(), np.abs(numeric).max())
#     return size > 0 and np.abs(analytic - numeric).max() <= tolerance * size
# ```
#
# </details>

# %% [markdown]
# ## Fifth fool: the call that was checked is not the call that trains
#
# **Memory.** This ReLU keeps its mask from the first call. A check builds a new layer, calls it around
# one sample, and is content. In training, every later batch gets the mask of the first one.


# %%
class FirstMask:
    """A ReLU whose mask is that of the first x it sees."""

    def __init__(self):
        self.mask = None

    def forward(self, x):
        self.mask = x > 0 if self.mask is None else self.mask
        return x * self.mask

    def backward(self, dy):
        return dy * self.mask


def check_object(layer, x, dy, **options):
    """The naive check of an object with forward and backward."""
    layer.forward(x, **options)
    claimed = layer.backward(dy)
    measured = central(lambda x: (layer.forward(x, **options) * dy).sum(), x.copy())
    return claimed, measured


rng = np.random.default_rng(0)
x, dy = rng.standard_normal((6, 5)), rng.standard_normal((6, 5))
assert np.allclose(*check_object(FirstMask(), x, dy))  # the naive check is content
layer = FirstMask()
layer.forward(x)
second = rng.standard_normal((6, 5))
assert not np.allclose(layer.forward(second), np.maximum(second, 0))  # the next batch is wrong
refused["mask of the first call"] = mr.check_gradients(FirstMask(), x)
print(refused["mask of the first call"])

# %% [markdown]
# The same happens with a cache that all layers share, such as one dictionary at the top of a file: a
# single layer passes, two in a row do not. minires lets another input, and another copy of the layer,
# go through in between, and wants to see no difference.

# %%
store = {}


class Shared:
    """y = x^2, with a cache that all instances write to."""

    def forward(self, x):
        store["x"] = x
        return x**2

    def backward(self, dy):
        return 2 * store["x"] * dy


class TwoOfThem:
    """y = (x^2)^2 by two Shared layers."""

    def __init__(self):
        self.first, self.second = Shared(), Shared()

    def forward(self, x):
        return self.second.forward(self.first.forward(x))

    def backward(self, dy):
        return self.first.backward(self.second.backward(dy))


assert np.allclose(*check_object(Shared(), x, dy))  # one alone is right
assert not np.allclose(*check_object(TwoOfThem(), x, dy))
refused["a cache that all share"] = mr.check_gradients(Shared(), x)
assert not refused["a cache that all share"].ok

# %% [markdown]
# **Chance.** Dropout sets a random share of its input to 0 in training, and scales the rest up so that
# the mean stays. Two forward passes draw two masks, so their difference is no slope at all. An easy way
# out is to check in inference mode, where dropout does nothing. There, a backward pass that forgets the
# scale passes. (`mr.Dropout` is a layer; its `_backward` holds the formula.)


# %%
class Unscaled(mr.Dropout):
    """Dropout whose backward pass forgets to divide by 1 - rate."""

    def _backward(self, dy, mask):
        return dy if mask is None else dy * (mask > 0)


claimed, measured = check_object(mr.Dropout(0.4, rng=0), x, dy, training=True)
print(f"a right dropout in training mode: error {error(claimed, measured):.1f}")
assert error(claimed, measured) > 0.5  # the noise of the masks over 2 h
assert np.allclose(*check_object(Unscaled(0.4, rng=0), x, dy, training=False))
refused["dropout without its scale"] = mr.check_gradients(Unscaled(0.4, rng=0), x)
print(refused["dropout without its scale"])
assert mr.check_gradients(mr.Dropout(0.4, rng=0), x).ok

# %% [markdown]
# minires winds the random numbers of its own layers back before every forward pass, so that all of
# them draw the same mask. Of somebody's layer whose chance it cannot wind back it says *random*, and
# judges no further. Running statistics, the averages that batch normalisation keeps for inference, are
# wound back in the same way.

# %%
luck = np.random.default_rng(0)
chance = (lambda x: (x * (luck.random(x.shape) > 0.4), None)), (lambda dy, cache: dy)
assert mr.check_gradients(chance, x).verdicts == {"y": "random"}
for training in (True, False):
    assert mr.check_gradients(mr.BatchNorm2d(5, dtype=np.float64), x, training=training).ok

# %% [markdown]
# **Symmetry.** The last fool no checker can see for you, since the checker judges the sample that it
# is given. With a square, symmetric $x$, a forgotten transpose makes no difference:


# %%
def not_transposed(dy, cache):
    """dx is right; dw is x dy, where x^T dy belongs."""
    x, w = cache
    return dy @ w.T, x @ dy


product = (lambda x, w: (x @ w, (x, w))), not_transposed
symmetric, w = np.eye(4) + 1.0, rng.standard_normal((4, 4))
assert mr.check_gradients(product, symmetric, w).ok  # fooled, by the sample
x = rng.standard_normal((4, 4))
refused["not transposed"] = mr.check_gradients(product, x, w)
assert refused["not transposed"].verdicts == {"x": "pass", "w": "fail"}

# %% [markdown]
# So: random numbers, sizes that all differ, height unlike width, stride unlike 1, more than one
# example, values of both signs.
#
# ## The fools, and what minires says of each

# %%
for name, report in refused.items():
    verdict = next(row.verdict for row in report.rows if not row.ok)
    print(f"{name:30} {verdict}")
    assert not report.ok
assert len(refused) == 13

# %% [markdown]
# And of what is right. A whole network is checked like a layer; all that it asks for is float64:

# %%
model = mr.Sequential(
    mr.Dense(64, 32, rng=0, dtype=np.float64),
    mr.ReLU(),
    mr.Dense(32, 10, rng=1, dtype=np.float64),
)
x = mr.data.load_digits(dtype=np.float64).x_train[:6].reshape(6, 64)
report = mr.check_gradients(model, x)
print(report)
assert report.ok

# %% [markdown]
# 2,048 weights are more than it takes one by one, so they went along eight random directions, and 64
# of them on their own as well.
#
# ## What to remember
#
# - Compare `backward(dy)` with central differences of $\langle y, dy \rangle$: in float64, with
#   $h = 10^{-5}$, and with a **random** $dy$.
# - The step has a best size, about $\sqrt[3]{\varepsilon}$. Below it the noise grows as $1/h$, above
#   it the curvature as $h^2$.
# - $\langle dx, v \rangle$ against one difference along a random $v$ checks any number of entries with
#   two forward passes.
# - Divide the largest difference by the largest entry, and write the test so that a NaN fails it.
# - A check that passes shows something only if a wrong backward pass would have failed. Break yours on
#   purpose once, and see.
#
# ## Where to read on
#
# - Baydin, Pearlmutter, Radul and Siskind (2018), "Automatic differentiation in machine learning: a
#   survey", JMLR 18, section 2.1 and figure 3: the V.
# - Press, Teukolsky, Vetterling and Flannery, *Numerical Recipes*, section 5.7 (numerical
#   derivatives): the best step.
# - In minires: `minires/gradcheck/check.py` holds the questions in their order, `numeric.py` the
#   differences, `conditions.py` what has to hold before a slope means anything;
#   `tests/test_gradcheck_fooling.py` and `tests/broken.py` hold more fools.
