# %% [markdown]
# # 11. ResNet-20 on CIFAR-10
#
# **What you will be able to do.** Build ResNet-20 and say what it costs; prepare images so that a
# training can be repeated to the bit; read a recipe; stop a training, even by pulling the plug, and
# go on as if nothing had happened; say how far to trust a test error; read the record of a whole
# training.
#
# **What you need.** Notebooks 1 to 9. Notebook 7 has the residual block, notebook 9 the optimisers.
#
# CIFAR-10 is 60,000 photographs of 32x32 pixels in ten classes, 50,000 to train and 10,000 to test.
# The notebook uses it where you have it: set `MINIRES_DATA` to its folder, or call
# `mr.data.load_cifar10(download=True)` once (170 MB). Where it is missing, drawn shapes of the same
# size take its place. They are easier, and everything works in the same way. Here we train for
# seconds; the record of a whole training on CIFAR-10 stands at the end.

# %%
import csv
import json
import math
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import minires as mr
from minires import plots, runs
from minires.exercises import expect
from minires.history import Epoch
from minires.models.summary import summarize
from minires.state import model_state

one_thread = threadpool_limits(1)  # so that a training gives the same bits each time
mr.set_num_threads(1)

try:
    whole = mr.data.load_cifar10()
except FileNotFoundError:
    whole = mr.data.load_shapes(640, 500)
data = replace(
    whole,
    x_train=whole.x_train[:640],
    y_train=whole.y_train[:640],
    x_test=whole.x_test[:500],
    y_test=whole.y_test[:500],
)
print(data)

# %%
figure, axes = plt.subplots(2, 8, figsize=(8, 2.5), layout="constrained")
white = 255 if data.x_train.dtype == np.uint8 else 1
for ax, image, label in zip(axes.flat, data.x_train, data.y_train, strict=False):
    ax.imshow(np.clip(image / white, 0, 1), interpolation="nearest")
    ax.set_title(data.class_names[label], fontsize=8)
    ax.axis("off")
figure.suptitle("What the network is to tell apart", fontsize=10)
assert data.input_shape == (32, 32, 3)
assert data.num_classes == 10

# %% [markdown]
# ## The network
#
# He et al. (2015, section 4.2) built a family of networks for these images, with one number, $n$,
# to choose:
#
# | part | layers with weights | output |
# |---|---|---|
# | 3x3 convolution, batch norm, ReLU | 1 | 32x32x16 |
# | stage 1, $n$ blocks | $2n$ | 32x32x16 |
# | stage 2, $n$ blocks, the first with stride 2 | $2n$ | 16x16x32 |
# | stage 3, $n$ blocks, the first with stride 2 | $2n$ | 8x8x64 |
# | global average pooling, dense layer | 1 | 10 |
#
# That is $6n + 2$ layers; $n = 3$ is ResNet-20. A block has two 3x3 convolutions, each with a batch
# norm behind it, and a ReLU between them; the sum is followed by a ReLU.

# %%
model = mr.models.resnet20(rng=0)
x, shapes = np.zeros((1, 32, 32, 3), np.float32), {}
for name, layer in model.children():
    x = layer.forward(x)
    shapes[name] = x.shape[1:]
print(shapes)
assert shapes["conv"] == shapes["stage1"] == (32, 32, 16)
assert shapes["stage2"] == (16, 16, 32)
assert shapes["stage3"] == (8, 8, 64)
print(model.stage2.block0)

# %% [markdown]
# Where a stage halves the image and doubles the channels, the identity does not fit the sum. Here
# the shortcut takes every second pixel and adds channels of zeros ("option A" in the paper), which
# costs no parameter.
#
# What does the network cost? Count what it stores and what it computes:
#
# - A 3x3 convolution from $C$ to $F$ channels has $9CF$ weights. It has no bias, since batch norm
#   subtracts the mean right after it. For an output of $s \times s$ pixels it takes $9CF$
#   multiplications with addition, *multiply-adds*, for each pixel: $9CF s^2$.
# - Batch norm trains $\gamma$ and $\beta$, $2F$ numbers. Its running statistics are not trained.
#   Its arithmetic is small beside that of the convolution and is not counted, nor are sums, ReLU
#   and pooling.
# - The dense layer has $64 \cdot 10$ weights and 10 biases, and as many multiply-adds as weights.

# %% [markdown]
# ## Exercise 1: what a network of the family costs


# %% tags=["exercise-1"]
def cost(n, side):
    """(parameters, multiply-adds of an image) of the 6n + 2 layers, for images side x side x 3."""
    ...


# %% tags=["check-1"]
counted = summarize(mr.models.cifar_resnet(14, input_shape=(24, 24, 3), rng=0), (24, 24, 3))


def tally(
    norms=2, biases=0, first=True, each=2, stem=True, halve=True, late=False, head=650, top=640
):
    """What comes out for n = 2 and 24x24 pixels if something is counted in another way."""
    convolutions = [(3, 16, 24)] if stem else []
    for C, F, s in ((16, 16, 24), (16, 32, 12), (32, 64, 6)):
        s = s if halve else 24
        first_side = 2 * s if late and C != F else s
        convolutions += [(C if first else F, F, first_side)] + [(F, F, s)] * (each * 2 - 1)
    parameters = sum(9 * C * F + (norms + biases) * F for C, F, _ in convolutions) + head
    return {
        "parameters": parameters,
        "multiply_adds": sum(9 * C * F * s * s for C, F, s in convolutions) + top,
    }


expect(
    "cost(2, 24)",
    cost(2, 24),
    {"parameters": counted.parameters, "multiply_adds": counted.multiply_adds},
    mistakes={
        "gamma and beta of batch norm are left out": tally(norms=0),
        "the running statistics are counted; they are not trained": tally(norms=4),
        "each convolution has a bias; batch norm would subtract it": tally(biases=1),
        "the first convolution of a stage has as many inputs as outputs": tally(first=False),
        "a block has one convolution; it has two": tally(each=1),
        "the convolution in front of the stages is left out": tally(stem=False),
        "the image keeps its size; stages 2 and 3 halve it": tally(halve=False),
        "stages 2 and 3 halve the image after their first convolution; it has stride 2": tally(
            late=True
        ),
        "the biases of the dense layer are left out": tally(head=640),
        "it is the cost of ResNet-20, whatever n and side are": {
            "parameters": 269_722,
            "multiply_adds": 40_551_040,
        },
        "the dense layer is left out": {"parameters": tally(head=0)["parameters"]},
        "the multiply-adds of the dense layer are left out": {
            "multiply_adds": tally(top=0)["multiply_adds"]
        },
    },
)
expect("cost(3, 32)", cost(3, 32), {"parameters": 269_722, "multiply_adds": 40_551_040})

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def cost(n, side):
#     """(parameters, multiply-adds of an image) of the 6n + 2 layers, for images side x side x 3."""
#     convolutions = [(3, 16, side)]  # channels in, channels out, side of the output
#     for C, F, s in ((16, 16, side), (16, 32, side // 2), (32, 64, side // 4)):
#         convolutions += [(C, F, s)] + [(F, F, s)] * (2 * n - 1)
#     parameters = 64 * 10 + 10
#     multiply_adds = 64 * 10
#     for C, F, s in convolutions:
#         parameters += 9 * C * F + 2 * F
#         multiply_adds += 9 * C * F * s * s
#     return parameters, multiply_adds
# ```
#
# </details>

# %%
resnet20, reduced = summarize(model, (32, 32, 3)), summarize(model, (24, 24, 3))
ratio = reduced.multiply_adds / resnet20.multiply_adds
print(f"ResNet-20: {resnet20.parameters:,} parameters, {resnet20.multiply_adds:,} multiply-adds")
print(f"on images of 24x24: the same parameters, {ratio:.4f} of the multiply-adds")
assert resnet20.parameters == reduced.parameters == 269_722  # the paper says 0.27 million
assert abs(ratio - (24 / 32) ** 2) < 1e-4

# %% [markdown]
# 0.27 million parameters, as table 6 of the paper has it. The cost of an image goes with its area,
# so training on smaller images saves time. We come back to this.
#
# ## From stored pixels to what the network sees
#
# Each channel is centred and scaled, by the mean and deviation of the training images. In training,
# images are changed at random as well, because a car a little further left, or seen from the other
# side, is a car. The network sees each image in many versions, and has a harder time learning it by
# heart.
#
# - **Crop**: 4 pixels of zeros on each side, then 32x32 cut out at a random place.
# - **Mirror**: left and right exchanged. With `flip="alternate"` a draw decides for the first
#   epoch, and from then on it alternates, so that any two epochs in a row see both (Jordan 2024).
# - **Cutout**: a square of zeros at a random place (DeVries and Taylor 2017).

# %%
preprocess = mr.data.Preprocess.of(data.x_train, pad=4, flip="alternate", cutout=8, seed=0)
plain = preprocess(data.x_train)
print("mean of each channel", abs(plain.mean(axis=(0, 1, 2))).round(4), "and deviation", end=" ")
print(plain.std(axis=(0, 1, 2)).round(4))
assert abs(plain.mean(axis=(0, 1, 2))).max() < 1e-3
assert abs(plain.std(axis=(0, 1, 2)) - 1).max() < 1e-3

figure, axes = plt.subplots(2, 8, figsize=(8, 2.5), layout="constrained")
for row, number in zip(axes, (0, 5), strict=True):
    for epoch, ax in enumerate(row):
        image = plain[number : number + 1]
        if epoch:
            image = preprocess.training(data.x_train[number : number + 1], [number], epoch)
        pixels = image[0] / preprocess.scale + preprocess.mean  # back to colours
        ax.imshow(np.clip(pixels / white, 0, 1), interpolation="nearest")
        ax.set_title(f"epoch {epoch}" if epoch else "stored", fontsize=8)
        ax.axis("off")
figure.suptitle("Cropped, mirrored and covered anew in every epoch", fontsize=10)
mirrors = mr.data.Preprocess.of(data.x_train, flip="alternate", seed=0)
odd, even = (mirrors.training(data.x_train[:8], np.arange(8), epoch) for epoch in (1, 2))
assert (odd == even[:, :, ::-1]).all()  # two epochs see both

# %% [markdown]
# ## Random, and yet a function
#
# The usual way is to draw the next numbers of one generator, image by image. Then what becomes of
# an image depends on everything drawn before: on its batch, on the order, on the thread. After an
# interruption nobody can say what the rest would have looked like.
#
# The way out: what is drawn for an image is a **function of (seed, epoch, number of the image)**
# and of nothing else. NumPy makes a generator from a list of integers, so one line does it:

# %%
seed, epoch, number = 0, 3, 17
first = np.random.default_rng([seed, epoch, number]).integers(0, 9, size=2)
again = np.random.default_rng([seed, epoch, number]).integers(0, 9, size=2)
later = np.random.default_rng([seed, epoch + 1, number]).integers(0, 9, size=2)
print(f"image 17 in epoch 3: {first}, again: {again}; in epoch 4: {later}")
assert (first == again).all()
assert (first != later).any()

# %% [markdown]
# ## Exercise 2: the random crop
#
# Write it for a batch. `index[i]` is the number of `images[i]` in the training set. For each image
# make a generator as above, from `[seed, epoch, number]`; draw `down, right` with
# `.integers(0, 2 * pad + 1, size=2)`; pad the image with `pad` zeros on each side, and cut the
# original size out of it, from row `down` and column `right` on.


# %% tags=["exercise-2"]
def random_crop(images, index, epoch, seed, pad):
    """(N, H, W, C): each image moved at random, by a function of (seed, epoch, its number)."""
    ...


# %% tags=["check-2"]
batch, numbers = np.random.default_rng(0).random((6, 5, 4, 1)), np.array([40, 7, 23, 8, 11, 2])


def crops(seeds, pad=2, mode="constant", swapped=False, most=5):
    """The crops of the batch if the generators are made from `seeds`, or something else differs."""
    found = []
    for image, numbers_of_seed in zip(batch, seeds, strict=True):
        draw = numbers_of_seed
        if not isinstance(draw, np.random.Generator):
            draw = np.random.default_rng(draw)
        down, right = draw.integers(0, most, size=2)[:: -1 if swapped else 1]
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        found.append(padded[down : down + 5, right : right + 4])
    return np.stack(found)


keys = [[1, 3, number] for number in numbers]  # seed 1, epoch 3
moved = crops(keys)
expect(
    "random_crop",
    random_crop(batch.copy(), numbers, 3, 1, 2),
    moved,
    mistakes={
        "one generator serves the whole batch, so that an image depends on those before it": crops(
            [np.random.default_rng([1, 3])] * 6
        ),
        "all images of the batch are moved in the same way": crops([[1, 3]] * 6),
        "the epoch has no part in it: every epoch sees the same": crops([[1, n] for n in numbers]),
        "the seed has no part in it": crops([[3, n] for n in numbers]),
        "the place in the batch is used, and not the number of the image": crops(
            [[1, 3, i] for i in range(6)]
        ),
        "the generator is made from the seed, the number and the epoch in another order": crops(
            [[1, n, 3] for n in numbers]
        ),
        "the last offset, 2 * pad, is never drawn": crops(keys, most=4),
        "down and right have changed places": crops(keys, swapped=True),
        "the border is padded with pixels of the image, not with zeros": crops(keys, mode="edge"),
        "what leaves on one side comes in on the other; zeros should": crops(keys, mode="wrap"),
        "nothing is moved": batch,
    },
)
half = random_crop(batch[3:].copy(), numbers[3:], 3, 1, 2)
expect("random_crop of half of the batch", half, moved[3:])

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def random_crop(images, index, epoch, seed, pad):
#     """(N, H, W, C): each image moved at random, by a function of (seed, epoch, its number)."""
#     _, H, W, _ = images.shape
#     padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
#     moved = np.empty_like(images)
#     for i, number in enumerate(index):
#         rng = np.random.default_rng([seed, epoch, number])
#         down, right = rng.integers(0, 2 * pad + 1, size=2)
#         moved[i] = padded[i, down : down + H, right : right + W]
#     return moved
# ```
#
# </details>

# %% [markdown]
# A generator for each image is slow. `minires/data/augment.py` has the same idea in whole arrays:
# the numbers (seed, epoch, image) go through a hash function, whose output looks random. The batch
# in which an image is does not matter:

# %%
together = preprocess.training(data.x_train[:8], np.arange(8), epoch=1)
apart = preprocess.training(data.x_train[4:8], np.arange(4, 8), epoch=1)
assert (together[4:] == apart).all()

# %% [markdown]
# ## A recipe is data
#
# How a network is trained is a table of names and numbers. `minires` stores it with every training,
# in full, so that a training can be repeated years later. `fast20` is the recipe that was made for
# this network, these images and two processor cores:

# %%
recipe = runs.RECIPES["fast20"]
for field in fields(recipe):
    print(f"{field.name:18} {getattr(recipe, field.name)}")
assert recipe.optimizer == "muon"
assert recipe.schedule == "one-cycle"

# %% [markdown]
# - `optimizer`: Muon is momentum with one thing more. The step of a convolution, seen as a matrix
#   of $9C$ rows and $F$ columns, is replaced by the nearest matrix with orthonormal columns or
#   rows, so that it moves all directions by the same length. `lr` is the share of the weights by
#   which a step changes them.
# - `schedule`: one cycle, see below.
# - `label_smoothing`: the target of the right class is $1 - \varepsilon + \varepsilon/10$ and of
#   any other $\varepsilon / 10$. With $\varepsilon = 0$ it is what notebook 1 has.
# - `pad`, `flip`, `cutout`: as in the pictures; a cutout of 0 is none.
# - `progressive`: during the first `share` of the steps the images are scaled down. 0.75 makes
#   24x24 of 32x32, which costs 0.56 of the arithmetic, as you have counted.
# - `test_every`: the test images are only looked at after every so many epochs. Nothing is decided
#   by them during a training.
#
# One cycle (Smith and Topin 2018) goes up from a small rate to the largest, while the network is
# still in rough shape, and then down to nearly nothing. Both ways run along half a cosine: from $a$
# at $t = 0$ to $b$ at $t = 1$ it is
#
# $$b + (a - b)\,\frac{1 + \cos \pi t}{2}.$$
#
# It begins at `lr / start`, is at `lr` once `rise` of the steps are done, and ends at
# `lr / start / end` with the last step.
#
# Here is the recipe, cut down to a training of seconds: 6 epochs of 640 images in batches of 64.

# %%
short = recipe.changed(epochs=6, batch_size=64, test_every=2)
print(f"name: {short.name}")
total = short.total_steps(640 // 64)
schedule = short.make_schedule(total)
rates = np.array([schedule(step) for step in range(total)])
sides = [short.image_size(epoch, 6, (32, 32))[0] for epoch in range(6)]

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(rates, "o-", markersize=3)
ax.set(xlabel="step", ylabel="learning rate", title="One cycle, and the size of the images")
for epoch, side in enumerate(sides):
    ax.axvline(10 * epoch, color="0.85", zorder=0)
    ax.text(10 * epoch + 5, 1.06 * rates.max(), f"{side}x{side}", ha="center", fontsize=8)
ax.set_ylim(0, 1.15 * rates.max())

rise, start, end = (short.schedule_options[name] for name in ("rise", "start", "end"))
top, last = rise * total - 1, total - 1  # the steps are counted from 0
assert math.isclose(rates[0], short.lr / start)
assert math.isclose(rates[round(top)], short.lr)
assert math.isclose(rates[last], short.lr / start / end)
for step in (4, 40):
    going_up = step <= top
    t = step / top if going_up else (step - top) / (last - top)
    a, b = (short.lr / start, short.lr) if going_up else (short.lr, short.lr / start / end)
    assert math.isclose(rates[step], b + (a - b) * (1 + math.cos(math.pi * t)) / 2)

# %% [markdown]
# ## Train it
#
# `Settings` says everything that decides a training; `begin` makes a folder for it and saves a
# checkpoint before the first step; `train` goes to the end. On the command line this is
# `minires train`.

# %%
folder = tempfile.TemporaryDirectory()
settings = runs.Settings(model="resnet20", data=data.name, recipe=short, seed=0)
run = runs.begin(folder.name, settings, data)
run.train(progress=False)
print(run.trainer.history)
results = run.report()
print(sorted(path.name for path in Path(folder.name).iterdir()))
print(f"test error {results.error:.3f}")
assert run.trainer.finished
assert results.error < (0.6 if data.name == "shapes" else 0.88)  # guessing has 0.9

# %% [markdown]
# The folder has the figures of each epoch, a checkpoint to go on from, and a report for people to
# read, with its pictures.
#
# ## Stop and go on
#
# A training of an hour gets interrupted: someone needs the machine, or the plug is pulled. To go on
# as if nothing had happened, to the last bit, a checkpoint must hold **everything that the steps to
# come depend on**. Here is a training in miniature. Look for what changes from step to step.


# %%
class Miniature:
    """Gradients with noise, momentum, a falling rate, and a running mean like batch norm's."""

    def __init__(self, seed):
        self.seed, self.step = seed, 0
        self.w, self.velocity, self.mean = np.array([4.0, -2.0, 1.0]), np.zeros(3), np.zeros(3)

    def train(self, steps):
        """Some steps; the arrays are changed in place."""
        for _ in range(steps):
            noise = np.random.default_rng([self.seed, self.step]).standard_normal(3)
            self.velocity *= 0.9
            self.velocity += self.w + noise
            self.w -= 0.1 / (1 + self.step) * self.velocity
            self.mean += 0.1 * (self.w - self.mean)
            self.step += 1
        return self


# %% [markdown]
# ## Exercise 3: a checkpoint
#
# `checkpoint` returns a dict of what has to be kept. The training it was taken from may go on
# afterwards, which must not change it. `go_on` makes a new `Miniature` that stands where the other
# one stood.


# %% tags=["exercise-3"]
def checkpoint(training):
    """A dict with all that the steps to come depend on."""
    ...


def go_on(saved):
    """A Miniature that goes on from what `checkpoint` returned."""
    ...


# %% tags=["check-3"]
def if_lost(steps=5, **lost):
    """Where the miniature ends after 5 steps and 5 more, if the second five begin with `lost`."""
    other = Miniature(7).train(steps)
    for name, value in lost.items():
        setattr(other, name, value)
    other.train(5)
    return {"w": other.w, "mean": other.mean}


never_stopped = Miniature(7).train(10)
interrupted = Miniature(7).train(5)
saved = checkpoint(interrupted)
interrupted.train(5)  # and then the power went
resumed = None if saved is None or saved is ... else go_on(saved)
if resumed is not None and resumed is not ...:
    resumed.train(5)
    resumed = resumed.w, resumed.mean
expect(
    "checkpoint and go_on",
    resumed,
    {"w": never_stopped.w, "mean": never_stopped.mean},
    mistakes={
        "the velocity was not kept: the first steps after the stop have no momentum": if_lost(
            velocity=np.zeros(3)
        ),
        "the number of the step was not kept: rate and noise begin anew": if_lost(step=0),
        "the weights were not kept": if_lost(w=np.array([4.0, -2.0, 1.0])),
        "the running mean was not kept": if_lost(mean=np.zeros(3)),
        "the seed was not kept": if_lost(seed=0),
        "the checkpoint holds the arrays and no copies, so that it changed with them": if_lost(
            steps=10, step=5
        ),
        "the checkpoint holds w itself and no copy, so that it changed with it": if_lost(
            w=never_stopped.w.copy()
        ),
        "the checkpoint holds the velocity itself and no copy": if_lost(
            velocity=never_stopped.velocity.copy()
        ),
        "nothing was kept: the training began anew": if_lost(steps=0),
        "the model was kept, but neither velocity nor step": if_lost(velocity=np.zeros(3), step=0),
        "the checkpoint is the training's own dict, which went on with it": if_lost(steps=10),
    },
    rtol=1e-12,
)
second_start = go_on(saved)
second_start.train(5)
expect(
    "go_on, a second time from the same checkpoint",
    (second_start.w, second_start.mean),
    {"w": never_stopped.w, "mean": never_stopped.mean},
    mistakes={
        "go_on uses the saved arrays themselves, and training changed them: copy": if_lost(
            steps=10, step=5
        )
    },
    rtol=1e-12,
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def checkpoint(training):
#     """A dict with all that the steps to come depend on."""
#     return {
#         "seed": training.seed,
#         "step": training.step,
#         "w": training.w.copy(),
#         "velocity": training.velocity.copy(),
#         "mean": training.mean.copy(),
#     }
#
#
# def go_on(saved):
#     """A Miniature that goes on from what `checkpoint` returned."""
#     training = Miniature(saved["seed"])
#     training.step = saved["step"]
#     training.w = saved["w"].copy()
#     training.velocity = saved["velocity"].copy()
#     training.mean = saved["mean"].copy()
#     return training
# ```
#
# </details>

# %% [markdown]
# Noise and rate need not be kept, since they are functions of seed and step. In `minires` the order
# of the images is a function of (seed, epoch), their augmentation of (seed, epoch, number), the
# learning rate of the step. What is left for the checkpoint: weights, running statistics, the
# optimiser's memory, the step, the figures so far.
#
# Now for real, with a ResNet-8. The power fails in the middle of the second epoch, three steps
# after the last checkpoint. They are lost, and done again.


# %%
class PowerError(Exception):
    """Ends the training without a word of farewell."""


class Plug:
    """Looked at after every step by `train(stop=...)`; fails after some."""

    def __init__(self, steps):
        self.left = steps

    def __bool__(self):
        self.left -= 1
        if not self.left:
            raise PowerError
        return False


few = replace(data, x_train=data.x_train[:320], y_train=data.y_train[:320])
tiny = runs.Settings("resnet8", data.name, recipe.changed(epochs=3, batch_size=32), seed=1)
with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as cut:
    whole_run = runs.begin(alone, tiny, few)
    whole_run.train(progress=False)

    doomed = runs.begin(cut, tiny, few)
    try:
        doomed.train(save_every=5, stop=Plug(19), progress=False)
    except PowerError:
        print(f"power failure after step {doomed.trainer.step}")
    del doomed

    found = runs.open_saved(cut)
    print(f"the checkpoint is of step {found.checkpoint.meta['step']}")
    second = runs.resume(cut, found, few)
    second.train(progress=False)

ends = [model_state(finished.trainer.model) for finished in (whole_run, second)]
assert found.checkpoint.meta["step"] == 15
assert whole_run.trainer.step == second.trainer.step == 30
assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])  # every bit
for column in ("loss", "accuracy", "test_loss", "test_accuracy", "lr"):
    histories = [finished.trainer.history.column(column) for finished in (whole_run, second)]
    assert histories[0] == histories[1]
print(f"{len(ends[0])} arrays of weights and running statistics agree to the bit")

# %% [markdown]
# A process that is killed while it writes a checkpoint does no harm: the file is written beside the
# old one and takes its place when it is complete. `minires train --resume run` is the same on the
# command line.
#
# ## What it gets wrong
#
# Back to the ResNet-20 of above. Rows of the confusion matrix are true classes, columns what the
# network said.

# %%
figure, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
plots.confusion_matrix(
    results.confusion, data.class_names, ax=ax, title="Which classes are confused?"
)
assert results.confusion.sum() == len(data.y_test)
assert math.isclose(1 - np.trace(results.confusion) / len(data.y_test), results.error)

# %% [markdown]
# The mistakes of which it was surest say most: sometimes about the network, sometimes about the
# image.

# %%
figure, axes = plt.subplots(1, 6, figsize=(8, 2), layout="constrained")
for i, ax in zip(results.mistakes(6), axes, strict=True):
    said = results.probs[i].argmax()
    ax.imshow(np.clip(data.x_test[i] / white, 0, 1), interpolation="nearest")
    name, true = data.class_names[said], data.class_names[data.y_test[i]]
    ax.set_title(f"{name} ({results.probs[i, said]:.0%})\ntrue: {true}", fontsize=8)
    ax.axis("off")
figure.suptitle("The surest mistakes", fontsize=10)
assert (results.probs[results.mistakes(6)].argmax(axis=1) != data.y_test[results.mistakes(6)]).all()

# %% [markdown]
# **Mirror images.** The network was trained on both versions of an image, and answers differently
# for each. The mean of the two answers is a small committee: its squared error is never larger than
# the mean squared error of its members, since a square is convex. The share of *mistakes* usually
# falls as well, though nothing guarantees it.

# %%
onehot = np.eye(10)[data.y_test]
mirror_probs = 2 * results.mirrored - results.probs  # of the mirror images alone
members = [((p - onehot) ** 2).sum(axis=1).mean() for p in (results.probs, mirror_probs)]
committee = ((results.mirrored - onehot) ** 2).sum(axis=1).mean()
print(f"squared error: {members[0]:.4f} and {members[1]:.4f}, of the mean {committee:.4f}")
print(f"share of mistakes: {results.error:.3f}, with mirror images {results.mirrored_error:.3f}")
assert committee <= np.mean(members)

# %% [markdown]
# ## How far to trust a test error
#
# The test images are a sample. Say that the network is wrong with probability $p$ on an image drawn
# from all images of this kind. Each of $N$ test images then is a draw, 1 (wrong) with probability
# $p$, with the variance $p(1-p)$. Variances of independent draws add up, so the *number* of
# mistakes has the variance $N p (1-p)$; the *share* is that number over $N$, which divides the
# variance by $N^2$:
#
# $$\text{standard error of the test error} = \sqrt{\frac{p\,(1-p)}{N}}.$$

# %% [markdown]
# ## Exercise 4: the test error and its standard error


# %% tags=["exercise-4"]
def error_with_uncertainty(probs, labels):
    """(error, standard error) from probs (N, K) and labels (N,)."""
    ...


# %% tags=["check-4"]
draw = np.random.default_rng(4)
guesses, truths = draw.random((60, 3)), draw.integers(0, 3, 60)
p = float((guesses.argmax(axis=1) != truths).mean())
expect(
    "error_with_uncertainty",
    error_with_uncertainty(guesses, truths),
    {"error": p, "standard_error": math.sqrt(p * (1 - p) / 60)},
    mistakes={
        "it is the accuracy, the share that is right": {"error": 1 - p},
        "it is the number of mistakes; the share was asked for": {"error": 60 * p},
        "the most improbable class is taken for the answer": {
            "error": float((guesses.argmin(axis=1) != truths).mean())
        },
        "the root is missing: that is the variance": {"standard_error": p * (1 - p) / 60},
        "the division by N is missing: that is the deviation of one image": {
            "standard_error": math.sqrt(p * (1 - p))
        },
        "it is the deviation of the number of mistakes, not of their share": {
            "standard_error": math.sqrt(60 * p * (1 - p))
        },
        "the division by N stands outside the root": {
            "standard_error": math.sqrt(p * (1 - p)) / 60
        },
        "1 - p is missing": {"standard_error": math.sqrt(p / 60)},
        "it is divided by N - 1; p (1 - p) is the variance, not an estimate from a sum of squares": {
            "standard_error": math.sqrt(p * (1 - p) / 59)
        },
    },
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def error_with_uncertainty(probs, labels):
#     """(error, standard error) from probs (N, K) and labels (N,)."""
#     wrong = probs.argmax(axis=1) != labels
#     p = wrong.mean()
#     return p, np.sqrt(p * (1 - p) / len(labels))
# ```
#
# </details>

# %% [markdown]
# Is it true? Draw 20,000 test sets of 500 images for a network that is wrong on 12 % of all.

# %%
drawn = np.random.default_rng(5).binomial(500, 0.12, 20_000) / 500
predicted = math.sqrt(0.12 * 0.88 / 500)
print(f"deviation of the test error {drawn.std():.4f}, predicted {predicted:.4f}")
print(f"within two standard errors: {(abs(drawn - 0.12) < 2 * predicted).mean():.1%}")
assert abs(drawn.std() / predicted - 1) < 0.03
assert (abs(drawn - 0.12) < 2 * predicted).mean() > 0.93
print(f"with 10,000 images: {100 * math.sqrt(0.12 * 0.88 / 10_000):.2f} percentage points")

# %% [markdown]
# With 10,000 test images and an error near 12 %, the standard error is a third of a percentage point.
# "11.9 against 12.1" says nothing. It says nothing either about another seed: another start gives
# another network, and the spread between seeds comes on top. To know it, train several.
#
# ## The record of a whole training
#
# What follows was not run here: it is the record of a training with all 50,000 images, kept in two
# small files beside this notebook. `python tutorials/record.py RUN` makes them from the folder of a
# run.

# %%
facts = json.loads(Path("recorded/fast20.json").read_text(encoding="utf-8"))
with open("recorded/fast20.csv", newline="", encoding="utf-8") as file:
    lines = list(csv.DictReader(file))
integers = ("epoch", "step")
history = mr.History(
    Epoch(**{k: None if v == "" else (int if k in integers else float)(v) for k, v in line.items()})
    for line in lines
)
count, error = facts["test_images"], facts["test_error"]
print(facts["command"])
print(f"{facts['images']}: {facts['train_images']:,} images to train, {count:,} to test")
print(f"{facts['machine']['processor']}, {facts['machine']['cores']} cores, {facts['date']}")
print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
print(
    f"{facts['steps']:,} steps, {facts['seconds'] / 60:.0f} minutes, "
    f"threads: {facts['machine']['threads']}"
)
print(f"test error {error:.2%} ± {facts['standard_error']:.2%} (binomial), ", end="")
print(f"with mirror images {facts['mirrored_test_error']:.2%}")
assert math.isclose(facts["standard_error"], math.sqrt(error * (1 - error) / count))
assert math.isclose(1 - error, history[-1].test_accuracy)
assert history[-1].step == facts["steps"]
assert error < 0.5

# %% [markdown]
# Look at the name of the images. "CIFAR-10, JPEG copy" is CIFAR-10 after strong JPEG compression,
# which is harder than the official files (`docs/results.md`). Such a figure can stand beside others
# of minires, and not beside those of papers. On the official images He et al. report 8.75 % for
# ResNet-20 (table 6), after 64,000 steps. The time is by the clock on the wall; what else the
# machine did meanwhile is not in the record.
#
# The recipe is in the record, too. Did the training follow it? The history has the learning rate of
# the last step of each epoch:

# %%
recorded_recipe = runs.Recipe.from_dict(facts["recipe"])
recorded_schedule = recorded_recipe.make_schedule(facts["steps"])
for epoch in history:
    assert math.isclose(epoch.lr, recorded_schedule(epoch.step - 1))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
epochs = history.column("epoch")
tested = [epoch for epoch in history if epoch.test_accuracy is not None]
axes[0].semilogy(epochs, history.column("loss"), "o--", markersize=3, label="training")
axes[0].semilogy([e.epoch for e in tested], [e.test_loss for e in tested], "s-", label="test")
axes[0].set(xlabel="epoch", ylabel="mean cross-entropy", title="Loss")
wrong = [100 * (1 - accuracy) for accuracy in history.column("accuracy")]
axes[1].plot(epochs, wrong, "o--", markersize=3, label="training, augmented images")
axes[1].plot(
    [e.epoch for e in tested], [100 * (1 - e.test_accuracy) for e in tested], "s-", label="test"
)
axes[1].set(xlabel="epoch", ylabel="error, %", ylim=(0, None), title="Error")
for ax in axes:
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=8)
figure.suptitle(
    f"{facts['model']} on {facts['images']}, recipe {recorded_recipe.name}", fontsize=10
)

smoothing = recorded_recipe.label_smoothing
targets = np.full(10, smoothing / 10) + (1 - smoothing) * np.eye(10)[0]
floor = sum(t * math.log(1 / t) for t in targets if t > 0)
print(f"label smoothing {smoothing:g}: the training loss cannot fall below {floor:.3f}")
print(
    f"the last epochs: training loss {history[-1].loss:.3f}, test loss {history[-1].test_loss:.3f}"
)
print(f"error in training {1 - history[-1].accuracy:.2%}, on the test images {error:.2%}")
assert min(history.column("loss")) > floor
assert wrong[-1] == min(wrong)
assert tested[-1].test_accuracy == max(epoch.test_accuracy for epoch in tested)

# %% [markdown]
# How to read it:
#
# - The training loss is of augmented images and, where the recipe smooths labels, of smoothed
#   labels, whose cross-entropy cannot fall to 0: even a perfect answer has the entropy of the
#   target. The test loss is of plain images and plain labels. The two lines are not the same
#   measure; the errors are closer to it.
# - The error is smallest at the end, where the learning rate goes to zero. The steps before have
#   found the region; the last ones stop jumping around in it. A test in the middle of a training
#   says little about how it will end.
# - If the error on the test images is well above that in training, the network has learned things
#   about the training images that hold for them only. More augmentation and regularisation make the
#   distance smaller. With much of both, or a short training, the error in training may even be the
#   larger one, since augmented images are harder than plain ones.
#
# ## What to remember
#
# - ResNet-20 has 269,722 parameters and takes 40.6 million multiply-adds an image. The second
#   number goes with the area of the image.
# - Make randomness a function of (seed, epoch, number of the image), and a training can be
#   repeated, split and resumed to the bit.
# - A checkpoint holds what the steps to come depend on: weights, running statistics, the
#   optimiser's memory, the step. Copies, written beside the old file.
# - An error on $N$ test images has the standard error $\sqrt{p(1-p)/N}$, and the seeds vary on top
#   of it.
# - State a figure with its images, recipe, seed, machine, versions, date and command.
#
# ## Where to read on
#
# - He et al. (2015), "Deep residual learning for image recognition", arXiv:1512.03385, section 4.2
#   and table 6.
# - Smith and Topin (2018), arXiv:1708.07120: one cycle. Jordan (2024), arXiv:2404.00498:
#   alternating flips, and how to train on CIFAR-10 in seconds, on a GPU. DeVries and Taylor (2017),
#   arXiv:1708.04552: cutout. Szegedy et al. (2016), arXiv:1512.00567, section 7: label smoothing.
#   Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks". Tan and Le
#   (2021), arXiv:2104.00298, section 4.2: growing images.
# - In minires: `docs/training.md` and `docs/results.md`; `minires/runs/recipes.py`, `trainer.py`
#   and `run.py`; `minires/data/augment.py`; `minires/checkpoint/`.
