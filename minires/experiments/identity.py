"""The ledger of ResNet-110: the shortcut part of the gradient is dy itself, bit for bit.

At y = x + F(x) the gradient splits into dx = dy + F'(dy), whatever the branch does. That is no
approximation: in this code the ReLU stands behind the sum, outside of the block, and the identity
hands on what it is given. Of the 54 blocks of ResNet-110, two change the shape and have a shortcut
that subsamples and pads with zeros; the other 52 are identities.

At the start the weights of the branch are random and its part of the gradient points nowhere in
particular: the two parts are at right angles, so that |dx|^2 = |dy|^2 + |F'(dy)|^2. For the shares
of the two, and for the angles after training, there is no published figure; they are in the
pictures.

References
----------
He et al. (2016), arXiv:1603.05027, equation 5.
"""

from dataclasses import dataclass

import numpy as np

from minires.experiments.rows import row
from minires.experiments.trained import TRAINED, digits, network, streams, train
from minires.flow import residual_ledger
from minires.layers import Identity, Residual
from minires.losses import SoftmaxCrossEntropy
from minires.ops import default as default_ops

DEPTH, IMAGES, EPOCHS = 110, 64, 2


@dataclass(frozen=True, eq=False)
class Ledgers:
    """What `measure` saw, at the "start" of S seeds and "trained" of the first T of them.

    Attributes
    ----------
    identities : int
        Blocks whose shortcut is the identity.
    records : {"start" or "trained": list of lists of ResidualRecord}
        One list a seed, from the input to the output.
    exact : {"start" or "trained": (S,) or (T,) int}
        Blocks whose shortcut part has the bits of dy.
    mismatch : {"start" or "trained": (S,) or (T,) float}
        The largest |shortcut part + branch part - dx| of all blocks.
    """

    identities: int
    records: dict
    exact: dict
    mismatch: dict

    def of_blocks(self, name, when):
        """(seeds, blocks): one column of the records, such as "cosine"."""
        return np.array([[getattr(r, name) for r in records] for records in self.records[when]])


def measure(*, seeds=10, depth=DEPTH, images=IMAGES, epochs=EPOCHS, ops=default_ops):
    """The ledger of residual networks in float64, new and trained.

    Parameters
    ----------
    seeds : int
        S, new networks; at most two of them are trained.
    depth, images, epochs : int
        Of the networks, how many digits the ledger sees, and how long they are trained.
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    result : Ledgers
    """
    found = {"start": [], "trained": []}
    for seed in range(seeds):
        weights, order = streams(seed, 2)
        model = network("residual", depth, weights, ops)
        found["start"].append(audit(model, images, ops))
        if seed < TRAINED:
            found["trained"].append(audit(train(model, epochs, order, ops), images, ops))
    records, exact, mismatch = (
        {when: [audited[i] for audited in runs] for when, runs in found.items()} for i in range(3)
    )
    return Ledgers(identity_blocks(model), records, exact, mismatch)


def audit(model, images, ops):
    """(records, blocks whose shortcut part is dy, largest |shortcut + branch - dx|), in float64."""
    model, loss = model.astype(np.float64), SoftmaxCrossEntropy(ops=ops)
    given = {"loss": loss, "keep_arrays": True, "ops": ops}
    records, arrays = residual_ledger(model, *digits(images), **given)
    exact = sum(a.shortcut.tobytes() == a.dy.tobytes() for a in arrays.values())
    return records, exact, max(abs(a.shortcut + a.branch - a.dx).max() for a in arrays.values())


def identity_blocks(model):
    """How many blocks have the identity as their shortcut."""
    layers = (layer for _, layer in model.named_layers() if isinstance(layer, Residual))
    return sum(isinstance(layer.shortcut, Identity) for layer in layers)


def rows(result):
    """Expected and got.

    Parameters
    ----------
    result : Ledgers

    Returns
    -------
    rows : list of Row
        "Right angles" are a mean cosine of 0 over the blocks.
    """
    blocks, found = len(result.records["start"][0]), []
    for when, exact in result.exact.items():
        place = f"{when}, {len(exact)} seeds"
        part = f"blocks of {blocks} with shortcut part = dy, bit for bit, {place}"
        found.append(row(part, result.identities, 0, exact))
        found.append(row(f"largest |shortcut + branch - dx|, {place}", 0, 0, result.mismatch[when]))
    cosines = result.of_blocks("cosine", "start").mean(axis=1)
    return [*found, row("mean cosine of the two parts, start", 0, 0.02, cosines)]
