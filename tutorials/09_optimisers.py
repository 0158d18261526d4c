# %% [markdown]
# # 9. Optimisers
#
# **What you will be able to do.** Write SGD, momentum and Adam by hand, and say what each of them is
# for. You will choose a learning rate for a reason, let it follow a schedule, and read from one number,
# the ratio of update to weight, whether a training moves too fast or too slowly.
#
# **What you need.** Notebooks 1 to 7. Where eigenvalues and singular values come in, it says what they
# mean.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import minires as mr
from minires import plots
from minires.exercises import expect
from minires.ops import reference as ops


def descend(make, gradient, start, steps):
    """The path of an optimiser: (steps + 1, ...), the start first."""
    w = mr.Parameter(np.array(start, dtype=np.float64))
    optimizer = make([w])
    path = [w.value.copy()]
    for _ in range(steps):
        w.grad = gradient(w.value)
        optimizer.step()
        path.append(w.value.copy())
    return np.array(path)


# %% [markdown]
# `descend` drives minires' own optimisers, which read `w.grad` and change `w.value`, with any gradient
# that we like.
#
# ## The bowl
#
# Close to a minimum a smooth loss looks like a bowl, unless its second derivatives vanish there. Along suitable axes (the eigenvectors of the
# matrix of second derivatives) it is
#
# $$L(w) = \tfrac12 \sum_i \lambda_i w_i^2, \qquad g_i = \lambda_i w_i,$$
#
# with a **curvature** $\lambda_i > 0$ for each axis. Plain gradient descent, with the learning rate
# $\eta$, does the same to each coordinate in every step:
#
# $$w_i \leftarrow w_i - \eta \lambda_i w_i = (1 - \eta\lambda_i)\, w_i.$$
#
# So after $t$ steps $w_i$ has been multiplied by $(1 - \eta\lambda_i)^t$. It shrinks if
# $|1 - \eta\lambda_i| < 1$, that is, if $\eta < 2/\lambda_i$. The steepest axis sets the limit for all:

# %%
curvatures = np.array([1.0, 20.0])
start = [-1.0, 1.0]
for rate in (0.05, 0.095, 0.105):
    path = descend(lambda p, rate=rate: mr.SGD(p, rate), lambda w: curvatures * w, start, 40)
    print(f"rate {rate}: flat axis {path[-1, 0]:+.3f}, steep axis {path[-1, 1]:+.1e}")
    assert np.allclose(path[-1], (1 - rate * curvatures) ** 40 * start)
assert abs(path[-1, 1]) > 10  # 0.105 is above 2 / 20: the steep axis explodes

# %% [markdown]
# And the flat axis pays for it. The limit $2/\lambda_{\max}$ is a small step for an axis whose
# curvature is a twentieth. What counts is the **condition number**
# $\kappa = \lambda_{\max} / \lambda_{\min}$.
#
# ## Exercise 1: the best rate
#
# The slowest coordinate decides: the one with the largest $|1 - \eta\lambda_i|$. As $\eta$ grows,
# $1 - \eta\lambda_{\min}$ falls and $\eta\lambda_{\max} - 1$ rises. The best $\eta$ is where the two are
# equal. Which $\eta$ is that, and what is the factor by which the slowest coordinate then shrinks in
# each step?


# %% tags=["exercise-1"]
def best_rate(curvatures):
    """(rate, factor) for an array of positive curvatures; factor is the largest |1 - rate * c|."""
    ...


# %% tags=["check-1"]
bowl = np.array([3.0, 0.5, 8.0, 2.0])
rate_right = 2 / 8.5
expect(
    "best_rate",
    best_rate(bowl.copy()),
    {"rate": rate_right, "factor": 7.5 / 8.5},
    mistakes={
        "this is the limit, at which the steepest axis jumps to and fro for ever": {"rate": 2 / 8},
        "this takes the steepest axis to 0 in one step; a larger rate serves the flattest": {
            "rate": 1 / 8
        },
        "the 2 is missing: solve 1 - rate * min = rate * max - 1": {"rate": 1 / 8.5},
        "all curvatures count; only the smallest and the largest do": {"rate": 1 / bowl.mean()},
        "all curvatures are added up; only the smallest and the largest count": {
            "rate": 2 / bowl.sum()
        },
        "the first and the last curvature are taken for the extremes; the array is not sorted": {
            "rate": 2 / 5.0
        },
        "min and max are subtracted; solve 1 - rate * min = rate * max - 1": {"rate": 2 / 7.5},
        "the factor has its sign; take the magnitude": {"factor": 1 - rate_right * 8},
        "the factor is turned over: it must be below 1": {"factor": 8.5 / 7.5},
        "there is one factor for each curvature; the largest of them is asked for": {
            "factor": np.abs(1 - rate_right * bowl)
        },
        "the factor is that of the rate 1 / max": {"factor": 1 - 0.5 / 8},
        "the factor is the smallest of all |1 - rate * c|; the slowest coordinate decides": {
            "factor": np.abs(1 - rate_right * bowl).min()
        },
    },
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# From $1 - \eta\lambda_{\min} = \eta\lambda_{\max} - 1$ follows
# $\eta = 2 / (\lambda_{\min} + \lambda_{\max})$, and the factor is
# $(\lambda_{\max} - \lambda_{\min}) / (\lambda_{\max} + \lambda_{\min}) = (\kappa - 1)/(\kappa + 1)$.
#
# ```python
# def best_rate(curvatures):
#     """(rate, factor) for an array of positive curvatures; factor is the largest |1 - rate * c|."""
#     low, high = curvatures.min(), curvatures.max()
#     rate = 2 / (low + high)
#     factor = (high - low) / (high + low)
#     return rate, factor
# ```
#
# </details>

# %% [markdown]
# For a large $\kappa$ the factor is about $1 - 2/\kappa$. To shrink an error to a millionth takes
# $\ln(10^6) \cdot \kappa / 2 \approx 7 \kappa$ steps. With $\kappa = 1000$ that is 7,000, with the best
# rate there is.
#
# ## Momentum
#
# The picture of the slow case is a zig-zag: across the valley the gradient changes its sign in every
# step, along the valley it keeps it. So *add the gradients up*. What changes its sign cancels, what
# keeps it grows:
#
# $$v \leftarrow \beta v + g, \qquad w \leftarrow w - \eta v.$$
#
# $v$ is the **velocity**, $\beta$ the **momentum**, such as 0.9. If $g$ stays the same, $v$ tends to
# $g\,(1 + \beta + \beta^2 + \dots) = g / (1 - \beta)$: with $\beta = 0.9$ the steps become ten times as
# long. This is PyTorch's form, and minires'. Others put $\eta$ inside,
# $v \leftarrow \beta v - \eta g$; as long as $\eta$ stays the same, the path is the same.
#
# How much does it help? For one coordinate, eliminate $v$ with $\eta v_t = w_{t-1} - w_t$:
#
# $$w_{t+1} = w_t - \eta\lambda w_t + \beta\,(w_t - w_{t-1}).$$
#
# Try $w_t = r^t$: it fits if $r^2 - (1 + \beta - \eta\lambda)\, r + \beta = 0$. The product of the two
# roots is $\beta$. As long as they are complex they have the same magnitude, so $|r| = \sqrt\beta$,
# *whatever the curvature*. They are complex for
#
# $$(1 - \sqrt\beta)^2 < \eta\lambda < (1 + \sqrt\beta)^2.$$
#
# Put $\lambda_{\min}$ at the left end and $\lambda_{\max}$ at the right end. Dividing one by the other,
# and taking the root, $\sqrt\kappa = (1 + \sqrt\beta) / (1 - \sqrt\beta)$, so
#
# $$\sqrt\beta = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}, \qquad
#   \eta = \frac{(1 + \sqrt\beta)^2}{\lambda_{\max}}.$$
#
# The factor has $\sqrt\kappa$ where plain descent has $\kappa$. (At the two ends the roots coincide, and
# the error falls as $t\, r^t$, a little more slowly than $r^t$.)


# %%
def best_momentum(curvatures):
    """(rate, momentum) with which every axis shrinks by the root of momentum."""
    root = math.sqrt(curvatures.max() / curvatures.min())
    root_beta = (root - 1) / (root + 1)
    return (1 + root_beta) ** 2 / curvatures.max(), root_beta**2


away = np.linalg.norm  # from the minimum, which is at 0
rate, beta = best_momentum(curvatures)
plain = descend(lambda p: mr.SGD(p, 2 / curvatures.sum()), lambda w: curvatures * w, start, 60)
heavy = descend(lambda p: mr.SGD(p, rate, momentum=beta), lambda w: curvatures * w, start, 60)
print(f"plain: rate {2 / curvatures.sum():.3f}, away from 0 after 60 steps: {away(plain[-1]):.1e}")
print(f"momentum {beta:.2f}: rate {rate:.3f}, away from 0 after 60 steps: {away(heavy[-1]):.1e}")
assert away(heavy[-1]) < 1e-4 * away(plain[-1])

# %%
figure, panels = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained", sharey=True)
across, up = np.meshgrid(np.linspace(-1.15, 0.45, 80), np.linspace(-1.9, 1.9, 80))
for axes, path, title in (
    (panels[0], plain, "Plain descent zig-zags"),
    (panels[1], heavy, "Momentum is there sooner"),
):
    heights = (across**2 + 20 * up**2) / 2
    axes.contour(across, up, heights, levels=np.geomspace(0.05, 30, 7), colors="0.85")
    axes.plot(*path[:31].T, color="tab:blue", marker="o", markersize=3, linewidth=1)
    axes.plot(0, 0, color="black", marker="+", markersize=12)
    axes.set(title=title, xlabel="flat axis (curvature 1)")
panels[0].set_ylabel("steep axis (curvature 20)")

# %% [markdown]
# Thirty steps each, from the left. Now the number of steps to a millionth, for bowls of other shapes.


# %%
def steps_to_a_millionth(make, curvatures):
    """How many steps it takes until the distance stays below a millionth of the first one."""
    path = descend(make, lambda w: curvatures * w, [1.0, 1.0], int(9 * curvatures.max()) + 100)
    far = np.flatnonzero(np.linalg.norm(path, axis=1) > 1e-6 * np.sqrt(2))
    return far[-1] + 1


kappas = [10, 30, 100, 300, 1000]
needed = {"plain": [], "momentum": []}
for kappa in kappas:
    bowl = np.array([1.0, kappa])
    rate, beta = best_momentum(bowl)
    needed["plain"].append(steps_to_a_millionth(lambda p, b=bowl: mr.SGD(p, 2 / b.sum()), bowl))
    needed["momentum"].append(
        steps_to_a_millionth(lambda p, r=rate, m=beta: mr.SGD(p, r, momentum=m), bowl)
    )
    print(
        f"condition {kappa:4}: plain {needed['plain'][-1]:5}, momentum {needed['momentum'][-1]:4}"
    )
assert abs(needed["plain"][-1] / 7000 - 1) < 0.1  # 7 kappa
assert 80 < needed["plain"][-1] / needed["plain"][0] < 120  # a hundredfold kappa: 100 times as many
assert 8 < needed["momentum"][-1] / needed["momentum"][0] < 14  # and with momentum about 10 times

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.loglog(kappas, needed["plain"], "o-", color="tab:red", label="plain descent")
axes.loglog(kappas, needed["momentum"], "s-", color="tab:blue", label="momentum")
axes.loglog(kappas, 7 * np.array(kappas), ":", color="black", label="7 times the condition number")
axes.set(xlabel="condition number", ylabel="steps to a millionth")
axes.set_title("Momentum needs the root of the steps")
axes.legend()

# %% [markdown]
# ## Nesterov: look ahead first
#
# Momentum will move the weights by $-\eta\beta v$ whatever the gradient says. So why not measure the
# gradient *there*? That is Nesterov's form (Sutskever et al. 2013): with $u = -\eta v$,
#
# $$u \leftarrow \beta u - \eta \nabla L(\theta + \beta u), \qquad \theta \leftarrow \theta + u.$$
#
# A framework computes the gradient at the weights that it has, so it keeps the point that was looked
# at, $w = \theta + \beta u$, as its weights. Put in $u = -\eta v$ and sort the terms; what is left is
#
# $$v \leftarrow \beta v + g, \qquad w \leftarrow w - \eta\,(g + \beta v).$$
#
# It looks like "one more step of momentum on top of the gradient". The cell shows that the two are the
# same path.

# %%
theta, u = np.array(start), np.zeros(2)
looked_at = []
for _ in range(30):
    looked_at.append(theta + 0.9 * u)
    u = 0.9 * u - 0.04 * curvatures * (theta + 0.9 * u)
    theta = theta + u
path = descend(
    lambda p: mr.SGD(p, 0.04, momentum=0.9, nesterov=True), lambda w: curvatures * w, start, 29
)
assert np.allclose(path, looked_at)

# %% [markdown]
# What it is good for: put $w_t = r^t$ into these two lines, and the product of the roots is
# $\beta\,(1 - \eta\lambda)$ where it was $\beta$. Steep axes, with $\eta\lambda$ near 1, lose their
# swings almost at once, and keep the speed along the flat ones.

# %%
swings = {}
for nesterov in (False, True):
    path = descend(
        lambda p, n=nesterov: mr.SGD(p, 0.045, momentum=0.9, nesterov=n),
        lambda w: curvatures * w,
        start,
        30,
    )
    swings[nesterov] = np.abs(path[20:, 1]).max()
    print(f"nesterov={nesterov}: steep axis after 20 steps within {swings[nesterov]:.0e}")
assert swings[True] < 1e-3 * swings[False]

# %% [markdown]
# ## Exercise 2: one step of SGD
#
# Write the step with momentum, with and without Nesterov's look ahead. Return new arrays, and leave the
# arguments as they are.


# %% tags=["exercise-2"]
def sgd_step(w, g, v, lr, momentum, nesterov):
    """(w, v) after one step: the new weights and the new velocity."""
    ...


# %% tags=["check-2"]
draw = np.random.default_rng(2)
w0, g0, v0 = draw.standard_normal((3, 4, 2))
for ahead in (False, True):
    given = mr.Parameter(w0)
    optimizer = mr.SGD([given], 0.3, momentum=0.8, nesterov=ahead)
    given.grad, optimizer.velocity[0][...] = g0, v0
    optimizer.step()
    v1 = 0.8 * v0 + g0
    mean, inside = 0.8 * v0 + 0.2 * g0, 0.8 * v0 - 0.3 * g0
    mistakes = {
        "the step is taken along the old velocity; update v first": {"w": w0 - 0.3 * v0},
        "the step goes uphill": {"w": w0 + 0.3 * v1},
        "the gradient is multiplied by 1 - momentum; here v is a sum and not a mean": {
            "w": w0 - 0.3 * (g0 + 0.8 * mean if ahead else mean)
        },
        "v holds the learning rate; here it does not": {"w": w0 + inside},
        "v holds the learning rate, as momentum v + lr g; here it does not": {
            "w": w0 - 0.8 * v0 - 0.3 * g0
        },
        "the momentum is left out": {"w": w0 - 0.3 * g0},
        "the learning rate is left out": {"w": w0 - (g0 + 0.8 * v1 if ahead else v1)},
    }
    if ahead:
        mistakes |= {
            "nesterov makes no difference; step along g + momentum v": {"w": w0 - 0.3 * v1},
            "the gradient is missing: step along g + momentum v": {"w": w0 - 0.3 * 0.8 * v1},
            "the look ahead went into the velocity; first v = momentum v + g, then the step": {
                "w": w0 - 0.3 * (0.8 * v0 + g0 + 0.8 * v0)
            },
            "the momentum is missing in the step: g + momentum v": {"w": w0 - 0.3 * (g0 + v1)},
            "the old velocity is used; v in g + momentum v is the new one": {
                "w": w0 - 0.3 * (g0 + 0.8 * v0)
            },
            "v stands in the place of g: step along g + momentum v": {"w": w0 - 0.3 * 1.8 * v1},
        }
    else:
        mistakes |= {
            "nesterov's step is taken without nesterov": {"w": w0 - 0.3 * (g0 + 0.8 * v1)},
        }
    copies = w0.copy(), g0.copy(), v0.copy()
    expect(
        f"sgd_step with nesterov={ahead}",
        sgd_step(*copies, 0.3, 0.8, ahead),
        {"w": given.value, "v": optimizer.velocity[0]},
        mistakes=mistakes
        | {
            "the old velocity is returned": {"v": v0},
            "the step is returned in place of the velocity": {"v": g0 + 0.8 * v1},
        },
    )
    same = all((a == b).all() for a, b in zip(copies, (w0, g0, v0), strict=True))
    expect(
        "sgd_step and its arguments",
        same,
        True,
        mistakes={
            "one was written to: v = momentum * v + g makes a new array, v += g does not": False
        },
    )

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def sgd_step(w, g, v, lr, momentum, nesterov):
#     """(w, v) after one step: the new weights and the new velocity."""
#     v = momentum * v + g
#     step = g + momentum * v if nesterov else v
#     return w - lr * step, v
# ```
#
# </details>

# %% [markdown]
# ## Adam: a rate for each number
#
# The bowl was hard because one learning rate had to serve axes of different steepness. Adam (Kingma
# and Ba 2015) gives each number its own: it keeps a running mean of the gradient, and one of its
# square, and divides,
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2,
#   \qquad w \leftarrow w - \eta\, \frac{m}{\sqrt v + \epsilon},$$
#
# all of it entry by entry, with $\beta_1 = 0.9$ and $\beta_2 = 0.999$. Where the gradient keeps its
# sign, $|m| \approx \sqrt v$, and the step has the length $\eta$, **however large the gradient is**.
# Where it changes its sign, $m$ is small against $\sqrt v$, and so is the step. $\epsilon$ only
# prevents a division by 0.
#
# ### The first steps
#
# $m$ and $v$ start at 0, and that is a problem. Unroll the running mean of a gradient that stays at
# $g$:
#
# $$m_t = (1 - \beta_1) \sum_{s=1}^{t} \beta_1^{t-s}\, g = (1 - \beta_1^t)\, g, \qquad\text{and also}
#   \qquad v_t = (1 - \beta_2^t)\, g^2.$$
#
# At the first step $m$ is a tenth of what it should be, and $v$ a thousandth. So Adam divides by what
# is missing:
#
# $$\hat m = \frac{m}{1 - \beta_1^t}, \qquad \hat v = \frac{v}{1 - \beta_2^t}, \qquad
#   w \leftarrow w - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon} \qquad (t = 1, 2, \dots).$$
#
# What would happen without? One might think that the first steps are too short, $m$ being too small.
# But $v$ lacks more than $m$ does, and it stands below:
# $\frac{1 - \beta_1}{\sqrt{1 - \beta_2}} = \frac{0.1}{\sqrt{0.001}} = 3.2$ at the first step. They are
# too **long**, and it gets worse before it gets better.


# %%
def uncorrected(parameters, lr):
    """Adam without the correction: it is told that it has made a million steps already."""
    optimizer = mr.Adam(parameters, lr)
    optimizer.steps = 10**6
    return optimizer


lengths = {}
for name, make in (("Adam", mr.Adam), ("without the correction", uncorrected)):
    path = descend(lambda p, make=make: make(p, 1.0), lambda w: np.ones(1), [0.0], 5000)
    lengths[name] = -np.diff(path[:, 0])
t = np.arange(1, 5001)
assert np.allclose(lengths["Adam"], 1)
assert np.allclose(lengths["without the correction"], (1 - 0.9**t) / np.sqrt(1 - 0.999**t))
worst = lengths["without the correction"].argmax()
print(
    f"without the correction: {lengths['without the correction'][0]:.2f} learning rates long at the "
    f"first step, {lengths['without the correction'][worst]:.2f} at step {worst + 1}"
)
assert abs(lengths["without the correction"][0] - math.sqrt(10)) < 1e-3
assert 6 < lengths["without the correction"].max() < 7

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.semilogx(t, lengths["without the correction"], color="tab:red", label="without the correction")
axes.semilogx(t, lengths["Adam"], color="tab:blue", linestyle="--", label="Adam")
axes.set(xlabel="step", ylabel="length / learning rate", ylim=(0, 7.5))
axes.set_title("Without its correction Adam begins with steps six times too long")
axes.legend()

# %% [markdown]
# ## Exercise 3: one step of Adam


# %% tags=["exercise-3"]
def adam_step(w, g, m, v, t, lr, betas, eps):
    """(w, m, v) after step number t, which is 1 for the first one."""
    ...


# %% tags=["check-3"]
draw = np.random.default_rng(3)
w0, g0, m0 = draw.standard_normal((3, 4, 2))
v0, (b1, b2), lr0, eps0, t0 = draw.random((4, 2)), (0.8, 0.9), 0.3, 0.05, 3
given = mr.Parameter(w0)
optimizer = mr.Adam([given], lr0, betas=(b1, b2), eps=eps0)
given.grad, optimizer.steps = g0, t0 - 1
optimizer.m[0][...], optimizer.v[0][...] = m0, v0
optimizer.step()
m1, v1 = b1 * m0 + (1 - b1) * g0, b2 * v0 + (1 - b2) * g0**2


def stepped(m, v, c1=1 - b1**t0, c2=1 - b2**t0):
    """The weights after a step along m / c1 over the root of v / c2."""
    return w0 - lr0 * (m / c1) / (np.sqrt(v / c2) + eps0)


expect(
    "adam_step",
    adam_step(w0.copy(), g0.copy(), m0.copy(), v0.copy(), t0, lr0, (b1, b2), eps0),
    {"w": given.value, "m": optimizer.m[0], "v": optimizer.v[0]},
    mistakes={
        "the correction is missing: divide m by 1 - b1^t and v by 1 - b2^t": {
            "w": stepped(m1, v1, 1, 1)
        },
        "the correction of m is missing": {"w": stepped(m1, v1, c1=1)},
        "the correction of v is missing": {"w": stepped(m1, v1, c2=1)},
        "t counts from 0 in the correction; it is 1 at the first step": {
            "w": stepped(m1, v1, 1 - b1 ** (t0 - 1), 1 - b2 ** (t0 - 1))
        },
        "t is one too large in the correction": {
            "w": stepped(m1, v1, 1 - b1 ** (t0 + 1), 1 - b2 ** (t0 + 1))
        },
        "the correction lacks the power of t": {"w": stepped(m1, v1, 1 - b1, 1 - b2)},
        "the correction is multiplied with; m is too small and has to be divided by 1 - b1^t": {
            "w": stepped(m1, v1, 1 / (1 - b1**t0), 1 / (1 - b2**t0))
        },
        "the step goes uphill": {"w": 2 * w0 - stepped(m1, v1)},
        "the learning rate is left out": {"w": w0 + (stepped(m1, v1) - w0) / lr0},
        "the correction of v stands outside the root; v / (1 - b2^t) belongs inside": {
            "w": stepped(m1, v1, c2=(1 - b2**t0) ** 2)
        },
        "the root is missing": {"w": w0 - lr0 * (m1 / (1 - b1**t0)) / (v1 / (1 - b2**t0) + eps0)},
        "eps stands under the root; Adam adds it to the root": {
            "w": w0 - lr0 * (m1 / (1 - b1**t0)) / np.sqrt(v1 / (1 - b2**t0) + eps0)
        },
        "eps is missing": {"w": w0 - lr0 * (m1 / (1 - b1**t0)) / np.sqrt(v1 / (1 - b2**t0))},
        "the step is along g, and not along its running mean m": {"w": stepped(g0, v1, c1=1)},
        "m and v are used as they were; update them first": {"w": stepped(m0, v0)},
        "the two betas have changed places": {
            "w": stepped(
                b2 * m0 + (1 - b2) * g0, b1 * v0 + (1 - b1) * g0**2, 1 - b2**t0, 1 - b1**t0
            )
        },
        "g has the weight 1 in m; it should be 1 - b1": {"w": stepped(b1 * m0 + g0, v1)},
        "v is the running mean of |g|; it should be that of g squared": {
            "w": stepped(m1, b2 * v0 + (1 - b2) * np.abs(g0))
        },
        "the corrected mean is kept; keep m as it is, and use a corrected copy for the step": {
            "m": m1 / (1 - b1**t0)
        },
        "the corrected mean square is kept; keep v, and use a corrected copy for the step": {
            "v": v1 / (1 - b2**t0)
        },
        "the old m is returned": {"m": m0},
        "the old v is returned": {"v": v0},
    },
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def adam_step(w, g, m, v, t, lr, betas, eps):
#     """(w, m, v) after step number t, which is 1 for the first one."""
#     b1, b2 = betas
#     m = b1 * m + (1 - b1) * g
#     v = b2 * v + (1 - b2) * g**2
#     mhat = m / (1 - b1**t)
#     vhat = v / (1 - b2**t)
#     return w - lr * mhat / (np.sqrt(vhat) + eps), m, v
# ```
#
# </details>

# %% [markdown]
# ### What Adam sees and what it does not see
#
# Multiply the gradient of each coordinate by any number: $m$ and $\sqrt v$ both take it, and it cancels.
# A badly scaled bowl is as easy as a round one, *if its valleys run along the axes*. Turn the same bowl
# by 30 degrees, and the steep and the flat direction are mixed in both coordinates. SGD does not notice
# a turn at all.

# %%
path = descend(lambda p: mr.Adam(p, 0.03), lambda w: curvatures * w, start, 200)
scaled = descend(lambda p: mr.Adam(p, 0.03), lambda w: [1e3, 1e-3] * curvatures * w, start, 200)
assert np.allclose(path, scaled, atol=1e-3)  # but for eps

bowl, soon = np.array([1.0, 1000.0]), {}
for angle in (0, 30):
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[c, -s], [s, c]])
    matrix = turn @ np.diag(bowl) @ turn.T
    for name, make in (
        ("SGD", lambda p: mr.SGD(p, 2 / 1001)),
        ("Adam", lambda p: mr.Adam(p, 0.03)),
    ):
        path = descend(make, lambda w, a=matrix: a @ w, turn @ [1.0, 1.0], 4000)
        near = np.flatnonzero(np.linalg.norm(path, axis=1) < 0.1)
        soon[name, angle] = near[0] if len(near) else np.inf
        print(f"{name}, turned by {angle:2} degrees: within 0.1 after {soon[name, angle]} steps")
assert soon["SGD", 0] == soon["SGD", 30]
assert soon["Adam", 0] < 0.1 * soon["SGD", 0]
assert soon["Adam", 30] > 20 * soon["Adam", 0]

# %% [markdown]
# ## Weight decay: pull the weights towards 0
#
# Add $\frac{\delta}{2}\|w\|^2$ to the loss, and $\delta w$ is added to the gradient. In plain SGD that
# is the same as shrinking: $w - \eta(g + \delta w) = (1 - \eta\delta)\, w - \eta g$. In Adam it is not.
# There $\delta w$ goes through the division by $\sqrt v$ with everything else, so a weight with large
# gradients is hardly pulled at all. AdamW (Loshchilov and Hutter 2019) shrinks the weights *beside* the
# step, all by the same factor $1 - \eta\delta$.
#
# Three groups of weights, all starting at 1, get gradients that are nothing but noise, of three sizes.
# Only the decay can move their mean.

# %%
sizes = np.array([[0.1], [1.0], [10.0]]) * np.ones((3, 500))
rng = np.random.default_rng(0)


def noise(w):
    """A gradient that knows nothing of w."""
    return sizes * rng.standard_normal(w.shape)


shrunk = {}
for name, kind in (("L2 in Adam", mr.Adam), ("AdamW", mr.AdamW)):
    path = descend(
        lambda p, kind=kind: kind(p, 0.01, weight_decay=0.01), noise, np.ones((3, 500)), 2000
    )
    shrunk[name] = path.mean(axis=2)  # over the 500 weights of a group
    print(f"{name:10}: mean weight after 2,000 steps {shrunk[name][-1].round(2)}")
print(f"(1 - 0.01 * 0.01)^2000 = {0.9999**2000:.2f}")
assert np.abs(shrunk["AdamW"][-1] - 0.9999**2000).max() < 0.1
assert shrunk["L2 in Adam"][-1, 0] < 0.3 < 0.9 < shrunk["L2 in Adam"][-1, 2]

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for k, (size, color) in enumerate(
    zip((0.1, 1, 10), ("tab:red", "tab:gray", "tab:blue"), strict=True)
):
    axes.plot(
        shrunk["L2 in Adam"][:, k], color=color, linestyle="--", label=f"L2 in Adam, {size:g}"
    )
    axes.plot(shrunk["AdamW"][:, k], color=color, label=f"AdamW, {size:g}")
axes.set(xlabel="step", ylabel="mean weight", ylim=(0, 1.55))
axes.set_title("L2 in Adam pulls least where gradients are largest")
axes.legend(fontsize=8, ncols=3, loc="upper right", title="decay, and size of the gradients")

# %% [markdown]
# minires has both: `mr.Adam(..., weight_decay=...)` and `mr.AdamW`. With `decay="weights"` biases and
# batch norm's gamma and beta are left out.
#
# For a convolution in front of a batch norm, decay has another meaning. Batch norm divides the size of
# its input out again, so twice the weights give the same output. By the chain rule the gradient is then
# half as large: large weights turn slowly. Decay keeps them from growing, and so keeps them moving.

# %%
data = mr.data.load_digits()
x, labels = data.x_train[:64], data.y_train[:64]
model, loss = mr.models.resnet8(input_shape=data.input_shape, rng=0), mr.SoftmaxCrossEntropy()
kernel = dict(model.named_parameters())["stage1.block0.sum.branch.conv1.weight"]
seen = []
for factor in (1, 2):
    kernel.value *= factor
    kernel.grad.fill(0)
    value = loss.forward(model.forward(x, training=True), labels)
    model.backward(loss.backward())
    seen.append((value, np.linalg.norm(kernel.grad)))
    print(f"weights times {factor}: loss {value:.4f}, length of the gradient {seen[-1][1]:.4f}")
assert abs(seen[0][0] - seen[1][0]) < 1e-3 * seen[0][0]
assert abs(seen[1][1] / seen[0][1] - 0.5) < 0.01

# %% [markdown]
# ## Noise, and why the rate has to fall
#
# So far every gradient was exact, but for the last picture. A mini-batch gives the gradient plus noise,
# $g = \lambda w + \sigma\xi$. That is the S, stochastic, in SGD. In one step the variance of $w$ becomes
#
# $$\text{Var} \leftarrow (1 - \eta\lambda)^2\, \text{Var} + \eta^2\sigma^2, \qquad\text{which settles at}
#   \qquad \text{Var} = \frac{\eta\,\sigma^2}{\lambda\,(2 - \eta\lambda)}.$$
#
# With a constant rate the weights never arrive. They hover in a cloud whose variance is proportional
# to $\eta$. A small rate makes the cloud small, and the way there long. So begin with a large rate and
# let it fall: that is a **schedule**. In minires a schedule is a function of the step.

# %%
steps = 600
by_name = {
    "constant 0.05": mr.schedules.Constant(0.05),
    "constant 0.005": mr.schedules.Constant(0.005),
    "step": mr.schedules.Step(0.05, (300, 450)),
    "cosine": mr.schedules.Cosine(0.05, steps),
    "one cycle": mr.schedules.OneCycle(0.08, steps),
}
squares = {}
for name, schedule in by_name.items():
    rng = np.random.default_rng(0)
    w = mr.Parameter(np.full((4000, 2), 10.0))  # 4,000 trainings at once
    optimizer = mr.SGD([w], 0.0)
    squares[name] = []
    for step in range(steps):
        w.grad = curvatures * w.value + rng.standard_normal(w.shape)
        optimizer.lr = schedule(step)
        optimizer.step()
        squares[name].append((w.value**2).mean(axis=0))
    squares[name] = np.array(squares[name])
    print(f"{name:14}: mean square distance at the end {squares[name][-1].sum():.4f}")
settled = 0.05 / (curvatures * (2 - 0.05 * curvatures))
assert np.allclose(squares["constant 0.05"][-1], settled, rtol=0.15)
end = {name: curve[-1].sum() for name, curve in squares.items()}
assert end["constant 0.005"] > 5 * end["constant 0.05"]  # not there yet
assert max(end["step"], end["cosine"], end["one cycle"]) < 0.4 * end["constant 0.05"]

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3), layout="constrained")
looks = ("0.4", "-"), ("0.4", ":"), ("tab:red", "-."), ("tab:blue", "-"), ("tab:green", "--")
for (name, schedule), (color, line) in zip(by_name.items(), looks, strict=True):
    rates = [schedule(step) for step in range(steps)]
    panels[0].plot(rates, color=color, linestyle=line, label=name)
    panels[1].semilogy(squares[name].sum(axis=1), color=color, linestyle=line, label=name)
panels[0].set(xlabel="step", ylabel="learning rate", title="Schedules")
panels[1].set(xlabel="step", ylabel="mean square distance", title="Far first, then fine")
panels[0].legend(fontsize=8)

# %% [markdown]
# - `Step` divides the rate by ten at chosen steps. He et al. (2015) train ResNets on CIFAR-10 with 0.1,
#   a tenth of it from step 32,000 and a hundredth from 48,000, of 64,000 steps.
# - `Cosine` falls all the time, slowly at both ends (Loshchilov and Hutter 2017).
# - `OneCycle` first rises, then falls to nearly nothing (Smith and Topin 2018).
# - `WarmUp` puts a rising line in front of any of them. At the start the weights are random, the
#   curvature is unknown and Adam's means rest on a few gradients, so the first steps are taken with
#   care. He et al. found 0.1 slightly too large to start with for 110 layers, and used 0.01 for the
#   first 400 steps or so.
#
# ## Exercise 4: cosine with warm-up
#
# For the steps $0 \le s < S_w$ the rate rises in a line, $\eta\, s / S_w$. From $s = S_w$ on it falls
# along half a cosine, from $\eta$ at $s = S_w$ to 0 at $s = S$:
# $\frac{\eta}{2} (1 + \cos \pi p)$, where $p$ goes from 0 to 1 on the way.


# %% tags=["exercise-4"]
def warm_cosine(step, lr, warm, total):
    """The learning rate at a step: `warm` steps up to lr, then half a cosine down to 0 at `total`."""
    ...


# %% tags=["check-4"]
def rates_of(schedule, *settings):
    """The rates of all steps, or None where nothing was written."""
    found = [schedule(step, *settings) for step in range(settings[-1] + 1)]
    return None if any(rate is None or rate is ... for rate in found) else np.array(found, float)


def wave(p):
    """From 1 at p = 0 to 0 at p = 1."""
    return (1 + np.cos(np.pi * p)) / 2


reference = mr.schedules.WarmUp(mr.schedules.Cosine(0.4, 25), 5)
S, up = np.arange(31), np.arange(5) / 5
expect(
    "warm_cosine, steps 0 to 30 of warm_cosine(step, 0.4, 5, 30)",
    rates_of(warm_cosine, 0.4, 5, 30),
    np.array([reference(int(step)) for step in S]),
    mistakes={
        "p is step / total; on the way down it counts from warm, (step - warm) / (total - warm)": (
            0.4 * np.r_[up, wave(S[5:] / 30)]
        ),
        "p is (step - warm) / total, so that the rate is not yet 0 at total": (
            0.4 * np.r_[up, wave((S[5:] - 5) / 30)]
        ),
        "p is step / (total - warm): take warm off the step as well": (
            0.4 * np.r_[up, wave(S[5:] / 25)]
        ),
        "the cosine goes all the way round, with 2 pi": 0.4 * np.r_[up, wave(2 * (S[5:] - 5) / 25)],
        "the cosine is not halved: (1 + cos) goes from 2 to 0": (
            0.4 * np.r_[up, 2 * wave((S[5:] - 5) / 25)]
        ),
        "the 1 is missing: cos alone goes from 1 to -1": (
            0.4 * np.r_[up, np.cos(np.pi * (S[5:] - 5) / 25)]
        ),
        "the cosine is turned over: 1 - cos rises, 1 + cos falls": (
            0.4 * np.r_[up, 1 - wave((S[5:] - 5) / 25)]
        ),
        "p is 1 at step total - 1, and goes on; it should be 1 at total": (
            0.4 * np.r_[up, wave((S[5:] - 5) / 24)]
        ),
        "the first steps lie on the cosine, too: is there a return where step < warm?": (
            0.4 * wave((S - 5) / 25)
        ),
        "the cosine is given degrees; half a turn is pi": (
            0.4 * np.r_[up, (1 + np.cos(180 * (S[5:] - 5) / 25)) / 2]
        ),
        "it is a quarter of a cosine; half of one is (1 + cos(pi p)) / 2": (
            0.4 * np.r_[up, np.cos(np.pi / 2 * (S[5:] - 5) / 25)]
        ),
        "pi is missing in the cosine": 0.4 * np.r_[up, (1 + np.cos((S[5:] - 5) / 25)) / 2],
        "the line is one step early, (step + 1) / warm; at step 0 the rate is 0": (
            0.4 * np.r_[(S[:5] + 1) / 5, wave((S[5:] - 5) / 25)]
        ),
        "the rate is constant while it should rise": (
            0.4 * np.r_[np.ones(5), wave((S[5:] - 5) / 25)]
        ),
        "the line is missing its division by warm": (0.4 * np.r_[S[:5], wave((S[5:] - 5) / 25)]),
        "the learning rate itself is left out; the largest rate is lr": (
            np.r_[up, wave((S[5:] - 5) / 25)]
        ),
        "the way down is a line, too; it should be half a cosine": (
            0.4 * np.r_[up, 1 - (S[5:] - 5) / 25]
        ),
    },
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def warm_cosine(step, lr, warm, total):
#     """The learning rate at a step: `warm` steps up to lr, then half a cosine down to 0 at `total`."""
#     if step < warm:
#         return lr * step / warm
#     p = (step - warm) / (total - warm)
#     return lr * (1 + math.cos(math.pi * p)) / 2
# ```
#
# </details>

# %% [markdown]
# ## Muon: a step for a matrix
#
# Why should the step have the direction of the gradient $G$? A step $-\eta D$ lowers the loss by
# $\eta \langle G, D \rangle$, to first order. Which $D$ makes that largest? Without a limit on $D$ there
# is no answer, and each limit has its own:
#
# | limit on the step | best $D$ | optimiser |
# |---|---|---|
# | length, $\|D\| \le 1$ | $G / \|G\|$ | SGD |
# | largest entry, $\max |D_{ij}| \le 1$ | $\operatorname{sign}(G)$ | Adam's first step |
# | largest stretch, $\|D x\| \le \|x\|$ for every $x$ | $U V^\top$, for $G = U S V^\top$ | Muon |
#
# The third is about what a weight matrix does: it takes vectors to vectors. $G = U S V^\top$ is the
# singular value decomposition, and $\langle G, D \rangle = \sum_i s_i\, u_i^\top D v_i$. No term can be
# more than $s_i$, since $D$ stretches nothing, and $D = U V^\top$ reaches them all. So Muon (Jordan et
# al. 2024) keeps the singular vectors of the velocity and sets all singular values to 1. A rare
# direction, one with a small singular value, gets as large a step as a common one.
#
# Here is the gradient of a convolution in a ResNet, as the matrix that takes the numbers under a window
# to the outputs.

# %%
model = mr.models.resnet8(input_shape=data.input_shape, rng=0)
loss.forward(model.forward(x, training=True), labels)
model.backward(loss.backward())
kernel = dict(model.named_parameters())["stage3.block0.sum.branch.conv1.weight"]
G = kernel.grad.reshape(-1, kernel.shape[-1]).T.astype(np.float64)  # (F, KH KW C)
U, S, Vt = np.linalg.svd(G, full_matrices=False)

first = descend(lambda p: mr.Adam(p, 1.0, eps=1e-16), lambda w: G, np.zeros(G.shape), 1)[1]
assert np.allclose(first, -np.sign(G))
best = (G * (U @ Vt)).sum()  # <G, U V^T>
assert np.isclose(best, S.sum())
rng = np.random.default_rng(0)
for _ in range(100):
    other = rng.standard_normal(G.shape)
    other /= np.linalg.norm(other, ord=2)  # its largest singular value: it stretches nothing
    assert (G * other).sum() < best
assert best > 1.5 * (G * G).sum() / S[0]  # that of the gradient, at the same largest stretch

# %% [markdown]
# A decomposition in every step would be slow. Muon gets near it with matrix products alone. For any
# odd polynomial, $a X + b X X^\top X + c\, (X X^\top)^2 X$ has the singular vectors of $X$, and the
# singular values $a s + b s^3 + c s^5$. With the right $a, b, c$ five rounds of this take nearly all
# values near 1.

# %%
a, b, c = 3.4445, -4.7750, 2.0315
X = G / np.linalg.norm(G)
for _ in range(5):
    A = X @ X.T
    X = a * X + (b * A + c * A @ A) @ X
assert np.allclose(X, ops.orthogonalize(G), atol=1e-5)  # what minires does
values = np.linalg.svd(X, compute_uv=False)
share = S / np.linalg.norm(S)
print(
    f"singular values: {S[0] / S[-1]:.0f} times apart before, {values.max():.2f} to {values.min():.2f} after"
)
assert S[0] / S[-1] > 10
assert ((values > 0.6) & (values < 1.25))[share > 0.003].all()

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.semilogy(S / S[0], "o-", color="tab:red", markersize=4, label="gradient (largest is 1)")
axes.semilogy(np.sort(values)[::-1], "s-", color="tab:blue", markersize=4, label="Muon's step")
axes.set(xlabel="number of the singular value", ylabel="singular value")
axes.set_title("Muon steps as far in rare directions as in common ones")
axes.legend()

# %% [markdown]
# `mr.Muon` does this for convolutions, and takes SGD's step for everything else.
#
# ## One number to watch
#
# Is a step large or small? Compare it with what it changes: $\|\text{update}\| / \|w\|$ for each weight
# array. A common guide (the notes of CS231n) says about $10^{-3}$. `mr.FlowRecorder` measures it, around any training.

# %%
model = mr.models.resnet8(input_shape=data.input_shape, rng=0)
optimizer = mr.Adam(model.parameters())
epochs, batch_size = 4, 64
total = epochs * math.ceil(len(data.x_train) / batch_size)
schedule = mr.schedules.OneCycle(3e-3, total)
with mr.FlowRecorder(model, every=2) as flow:
    history = mr.fit(
        model,
        data,
        optimizer,
        epochs,
        batch_size=batch_size,
        schedule=schedule,
        rng=0,
        progress=False,
    )
print(history)
records = [record for record in flow.parameters if record.depth is not None]
middle = {
    step: np.median([r.update_ratio for r in records if r.step == step]) for step in flow.steps
}
top = max(middle.values())
print(
    f"update to weight: {middle[1]:.0e} at the first step, {top:.0e} at the top, {middle[total - 1]:.0e} near the end"
)
assert history[-1].test_accuracy > 0.9
assert 3e-3 < top < 3e-2
assert middle[1] < 0.2 * top
assert middle[total - 1] < 0.05 * top

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.5), layout="constrained")
plots.update_ratios(flow, ax=axes)
axes.legend(fontsize=8, loc="lower left")

# %% [markdown]
# The ratio follows the schedule, as it should with Adam, whose steps have the length of the rate. That
# explains the order of the lines, too. Every entry moves by about as much, but He's initialisation made
# the entries of size $\sqrt{2 / \text{fan-in}}$: 0.47 in the first convolution with its fan-in of 9, 0.06
# in the last one with 576. So the last one moves about eight times as fast.
#
# Layers within a factor of ten of each other are healthy. One that lies a hundred times below the
# others would hardly learn, one far above would hardly remember.

# %%
at_the_top = {record.path: record.update_ratio for record in records if middle[record.step] == top}
first, last = at_the_top["conv.weight"], at_the_top["stage3.block0.sum.branch.conv2.weight"]
expected = math.sqrt(2 / 9) / math.sqrt(2 / 576)
print(f"last convolution / first one: {last / first:.1f}; from the initialisation: {expected:.1f}")
assert expected / 3 < last / first < 3 * expected
assert max(at_the_top.values()) < 30 * min(at_the_top.values())

# %% [markdown]
# ## Is it 1e-3?
#
# Four optimisers, five learning rates each, 25 steps on the digits. The left panel shows the loss over
# the learning rate, the right one shows the *same* trainings over the ratio that came out.


# %%
def short_training(make, steps=25, batch_size=64, seed=0):
    """(mean loss of the last 6 steps, median of update to weight)."""
    rng = np.random.default_rng(seed)
    model = mr.models.resnet8(input_shape=data.input_shape, rng=seed)
    optimizer, losses = make(model.parameters()), []
    with mr.FlowRecorder(model, every=4) as flow:
        for _ in range(steps):
            rows = rng.choice(len(data.x_train), batch_size, replace=False)
            batch = data.x_train[rows], data.y_train[rows]
            losses.append(mr.train_step(model, mr.SoftmaxCrossEntropy(), optimizer, *batch)[0])
    ratios = [r.update_ratio for r in flow.parameters if r.depth is not None]
    return np.mean(losses[-6:]), np.median(ratios)


makers = {
    "SGD": (lambda p, lr: mr.SGD(p, lr), 0.01 * 5.0 ** np.arange(5)),
    "momentum": (lambda p, lr: mr.SGD(p, lr, momentum=0.9), 0.001 * 5.0 ** np.arange(5)),
    "Adam": (lambda p, lr: mr.Adam(p, lr), 0.0001 * 5.0 ** np.arange(5)),
    "Muon": (lambda p, lr: mr.Muon(p, lr), 0.0004 * 5.0 ** np.arange(5)),
}
table = {
    name: [(rate, *short_training(lambda p, m=make, r=rate: m(p, r))) for rate in rates]
    for name, (make, rates) in makers.items()
}
GOAL = 0.5
reached = {}  # the learning rate and the ratio with which the loss gets to 0.5
for name, rows in table.items():
    rates, values, ratios = np.log(rows).T
    falling = slice(values.argmin(), None, -1)  # from the best rate to smaller ones
    reached[name] = [
        math.exp(np.interp(math.log(GOAL), values[falling], x[falling])) for x in (rates, ratios)
    ]
    rate, ratio = reached[name]
    best = np.exp(ratios[values.argmin()])
    print(
        f"{name:8}: loss {GOAL} takes the rate {rate:.1g} and the ratio {ratio:.1e}; "
        f"least loss {np.exp(values.min()):.2f}, at the ratio {best:.1e}"
    )
    assert 5e-3 < best < 0.1
rates, ratios = np.array(list(reached.values())).T
assert rates.max() / rates.min() > 30
assert ratios.max() / ratios.min() < 4
slow = [value for rows in table.values() for _, value, ratio in rows if ratio < 1.5e-3]
assert min(slow) > 1

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.1), layout="constrained", sharey=True)
looks = ("tab:red", "o"), ("tab:orange", "s"), ("tab:blue", "^"), ("tab:green", "D")
for (name, rows), (color, marker) in zip(table.items(), looks, strict=True):
    rates, values, ratios = np.array(rows).T
    panels[0].loglog(rates, values, color=color, marker=marker, label=name)
    panels[1].loglog(ratios, values, color=color, marker=marker, label=name)
for axes in panels:
    axes.axhline(GOAL, color="0.8", linewidth=1, zorder=0)
panels[1].axvline(1e-3, color="black", linestyle=":", label="guide: 1e-3")
panels[0].set(
    xlabel="learning rate", ylabel="loss after 25 steps", title="Each has a rate of its own ..."
)
panels[1].set(xlabel="median of update to weight", title="... but much the same ratio")
panels[1].legend(fontsize=8)

# %% [markdown]
# To reach a loss of 0.5 (the gray line), the four need learning rates that are a hundred times apart.
# The ratios are nearly the same, about half a percent. A rate means nothing without the optimiser that
# it belongs to; a ratio does.
#
# And the guide? These trainings have 25 steps. With a ratio of $10^{-3}$ the weights can move by 2.5
# percent of their size in all, and at that ratio the loss stays above 1. The best ones took two to five
# percent. A training of ten thousand steps can afford smaller steps, and has to end with still smaller
# ones, as the one above did. So take $10^{-3}$ for what it is, the order of magnitude of long trainings:
# with $10^{-6}$ throughout nothing will move, and with $10^{-1}$ the weights are replaced every ten
# steps.
#
# ## What to remember
#
# - The steepest direction limits the rate, the flattest one sets the time: $\kappa$ steps for plain
#   descent, $\sqrt\kappa$ with momentum.
# - Adam divides each entry by the size of its own gradients. Its steps have the length of the learning
#   rate. Without the correction the first ones are three to six times too long.
# - In Adam, decay belongs beside the step (AdamW) and not into the gradient.
# - With noisy gradients a constant rate ends in a cloud. Begin large, end small; warm up if the start is
#   rough.
# - When a training does not work, look at $\|\text{update}\| / \|w\|$ of each layer before anything else.
#
# ## Where to read on
#
# - Sutskever, Martens, Dahl and Hinton (2013), "On the importance of initialization and momentum in deep
#   learning", ICML, section 2.
# - Kingma and Ba (2015), "Adam", arXiv:1412.6980, algorithm 1 and section 3 (the correction).
# - Loshchilov and Hutter (2019), "Decoupled weight decay regularization", arXiv:1711.05101, section 2;
#   (2017), "SGDR", arXiv:1608.03983, equation 5 (the cosine).
# - Smith and Topin (2018), "Super-convergence", arXiv:1708.07120 (one cycle); He et al. (2015),
#   arXiv:1512.03385, section 4.2 (steps, and warm-up for 110 layers).
# - Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; Bernstein and
#   Newhouse (2024), "Old optimizer, new norm", arXiv:2409.20325 (the table of limits).
# - Karpathy, notes of CS231n, "Neural networks, part 3": the ratio of updates to weights, "somewhere
#   around 1e-3".
# - Goh (2017), "Why momentum really works", Distill: the roots of the bowl, to play with.
# - In minires: `minires/optimizers.py`, `minires/ops/reference/optimizer.py` and `muon.py`,
#   `minires/schedules.py`, `minires/flow/recorder.py`.
