"""Dropped and swapped blocks."""

import pickle
import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minires.core import Layer
from minires.flow.lesions import (
    blocks,
    kendall_tau,
    lesion_study,
    lesioned,
    multi_lesion_study,
    shuffle_study,
)
from minires.fusion import fuse
from minires.layers import Dense, Dropout, Identity, ReLU, Residual, Sequential, Softmax
from minires.losses import SoftmaxCrossEntropy
from minires.models import cifar_resnet
from minires.training import evaluate

X = np.random.default_rng(1).standard_normal((7, 8, 8, 1))
Y = np.array([0, 3, 2, 1, 1, 0, 2])
ROWS = np.random.default_rng(2).standard_normal((4, 5))
CLASSES = np.array([0, 1, 4, 2])


def network(depth=14, **options):
    """With batch statistics of its own, as if trained."""
    model = cifar_resnet(depth, 4, input_shape=(8, 8, 1), rng=0, dtype=np.float64, **options)
    model.forward(X, training=True)
    return model


def dense(seed, D=5, F=5):
    return Dense(D, F, rng=seed, dtype=np.float64)


def nested():
    """Two Residuals in the branch of a third, and one behind it."""
    return Sequential(
        outer=Residual(Sequential(a=Residual(dense(0)), b=Residual(dense(1)))),
        last=Residual(dense(2)),
    )


class Zero(Layer):
    """A branch that contributes nothing."""

    def __init__(self, inner):
        self.inner = inner

    def _forward(self, x, training):
        return 0 * self.inner.forward(x, training=training), ()


def test_the_blocks_are_the_residuals_in_order():
    assert blocks(network(8)) == [f"stage{i}.block0.sum" for i in (1, 2, 3)]
    assert blocks(network(14, kind="preactivation"))[:3] == [
        "stage1.block0",
        "stage1.block1",
        "stage2.block0",
    ]
    assert blocks(nested()) == ["outer", "outer.branch.a", "outer.branch.b", "last"]


def test_the_blocks_of_a_plain_network_go_by_their_name():
    assert blocks(network(8, kind="plain")) == [f"stage{i}.block0" for i in (1, 2, 3)]
    assert blocks(Sequential(dense(0))) == []


@pytest.mark.parametrize(
    "options",
    [{}, {"kind": "preactivation"}, {"shortcut": "B"}],
    ids=["residual", "preactivation", "projections"],
)
def test_dropping_a_block_is_a_branch_that_gives_zero(options):
    model = network(**options)
    intact = model.forward(X)
    for path in blocks(model):
        broken = network(**options)
        block = dict(broken.named_layers())[path]
        block.branch = Zero(block.branch)
        found = lesioned(model, drop=[path]).forward(X)
        assert_array_equal(found, broken.forward(X))
        assert (found != intact).any()
    assert_array_equal(model.forward(X), intact)


def test_dropping_a_plain_block_leaves_nothing_in_its_place():
    model = network(kind="plain")
    found = lesioned(model, drop=["stage2.block1"])
    assert isinstance(found.stage2.block1, Identity)
    model.stage2.block1 = Identity()
    assert_array_equal(found.forward(X), model.forward(X))


def test_several_changes_at_once_and_blocks_in_blocks():
    model = nested()
    a, b, last = (dense(seed).weight.value for seed in range(3))
    eye = np.eye(5)
    found = lesioned(model, drop=["outer.branch.b"], swap=[("outer.branch.a", "last")])
    expected = ROWS @ (eye + (eye + last)) @ (eye + a)
    np.testing.assert_allclose(found.forward(ROWS), expected, rtol=1e-12)
    assert_array_equal(lesioned(model, drop="outer").forward(ROWS), model.last.forward(ROWS))
    expected = ROWS @ (eye + (eye + a) @ (eye + b))
    np.testing.assert_allclose(lesioned(model, drop=["last"]).forward(ROWS), expected, rtol=1e-12)


def test_a_block_whose_name_begins_like_another_is_left_alone():
    model = Sequential(**{f"part{i}": Sequential(r=Residual(dense(i))) for i in (1, 10)})
    found = lesioned(model, drop=["part1.r"])
    assert found.part10 is model.part10
    assert isinstance(found.part1.r, Identity)


def test_the_lesioned_model_shares_parameters_and_the_original_is_left_as_it_was():
    model = network(20)
    before = pickle.dumps(model)
    names = blocks(model)
    found = lesioned(model, drop=names[:1], swap=[(names[4], names[5])])
    found.forward(X)
    assert pickle.dumps(model) == before
    assert {id(p) for p in found.parameters()} < {id(p) for p in model.parameters()}
    assert type(found) is type(model)
    assert found.stage3 is model.stage3  # only what is on the way to a change is copied
    assert len(lesioned(model).parameters()) == len(model.parameters())


def test_swapping_twins_changes_nothing_and_swapping_others_does():
    model = Sequential(*[Residual(dense(seed)) for seed in (7, 7, 8)])
    intact = model.forward(ROWS)
    assert_array_equal(lesioned(model, swap=[("0", "1")]).forward(ROWS), intact)
    swapped = lesioned(model, swap=[("0", "2")])
    assert swapped[0] is model[2]
    assert swapped[2] is model[0]
    expected = Sequential(*[Residual(dense(seed)) for seed in (8, 7, 7)]).forward(ROWS)
    assert_array_equal(swapped.forward(ROWS), expected)
    assert (expected != intact).any()


def test_a_lesion_study_evaluates_the_model_without_each_block():
    model = network()
    found = lesion_study(model, X, Y, batch_size=4)
    assert [lesion.path for lesion in found] == ["", *blocks(model)]
    assert found[0][1:] == evaluate(model, X, Y, batch_size=4)
    for lesion in found[1:]:
        assert lesion[1:] == evaluate(lesioned(model, drop=[lesion.path]), X, Y, batch_size=4)


def test_plain_blocks_that_change_the_shape_are_left_out():
    found = lesion_study(network(kind="plain"), X, Y)
    paths = [lesion.path for lesion in found]
    assert paths == ["", "stage1.block0", "stage1.block1", "stage2.block1", "stage3.block1"]
    # also where the layer behind it would not have complained
    model = Sequential(block0=dense(0, 5, 3), relu=ReLU())
    assert [lesion.path for lesion in lesion_study(model, ROWS, np.zeros(4, int))] == [""]


def test_several_blocks_are_dropped_at_random():
    model = network()
    found = multi_lesion_study(model, X, Y, counts=[0, 2, 6], repeats=3, rng=0)
    assert [lesion[:2] for lesion in found] == [(n, r) for n in (0, 2, 6) for r in range(3)]
    assert all(lesion[2:] == evaluate(model, X, Y) for lesion in found[:3])
    assert len({lesion.loss for lesion in found[3:6]}) > 1
    everything = evaluate(lesioned(model, drop=blocks(model)), X, Y)
    assert all(lesion[2:] == everything for lesion in found[6:])
    assert multi_lesion_study(model, X, Y, counts=[0, 2, 6], repeats=3, rng=0) == found


def test_blocks_inside_blocks_are_not_drawn():
    model = nested()
    (found,) = multi_lesion_study(model, ROWS, CLASSES, counts=[2], repeats=1)
    assert found.loss == evaluate(Sequential(), ROWS, CLASSES).loss
    with pytest.raises(ValueError, match=r"expects counts of at most 2, the blocks .*, got 3"):
        multi_lesion_study(model, ROWS, CLASSES, counts=[3])


def test_blocks_are_shuffled_among_those_of_equal_shapes():
    model = network(20)
    found = shuffle_study(model, X, Y, swaps=[0, 1, 4], repeats=4, rng=0)
    assert [shuffle[:2] for shuffle in found] == [(n, r) for n in (0, 1, 4) for r in range(4)]
    assert all(s.kendall_tau == 1 and s[3:] == evaluate(model, X, Y) for s in found[:4])
    assert all(-1 <= s.kendall_tau < 1 for s in found[4:8])
    assert shuffle_study(model, X, Y, swaps=[0, 1, 4], repeats=4, rng=0) == found


def test_one_swap_of_the_only_pair_is_that_swap():
    model = Sequential(Residual(dense(0)), Residual(dense(1)), head=dense(3))
    (found,) = shuffle_study(model, ROWS, CLASSES, swaps=[1], repeats=1)
    swapped = lesioned(model, swap=[("0", "1")])
    assert found == (1, 0, -1.0, *evaluate(swapped, ROWS, CLASSES))
    twice = shuffle_study(model, ROWS, CLASSES, swaps=[2], repeats=1)
    assert twice[0][2:] == (1.0, *evaluate(model, ROWS, CLASSES))


def test_studies_leave_the_model_as_it_was():
    model = Sequential(Dropout(0.5, rng=0), Residual(dense(0)), Residual(dense(1)))
    model[1].branch.weight.grad[...] = 7
    before = pickle.dumps(model)
    model.forward(ROWS)
    lesion_study(model, ROWS + 1, CLASSES)
    multi_lesion_study(model, ROWS + 1, CLASSES, counts=[1], repeats=1)
    shuffle_study(model, ROWS + 1, CLASSES, swaps=[1], repeats=1)
    assert pickle.dumps(model) == before
    model.backward(ROWS)  # the forward pass from before still has its caches


STUDIES = {
    "one block": (lesion_study, {}),
    "several blocks": (multi_lesion_study, {"counts": [0, 2], "repeats": 2, "rng": 0}),
    "shuffled": (shuffle_study, {"swaps": [0, 2], "repeats": 2, "rng": 0}),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_takes_the_loss_that_fits_the_model_or_the_one_given(name):
    study, options = STUDIES[name]
    logits = network()
    expected = [result.loss for result in study(logits, X, Y, **options)]
    probs = Sequential(net=logits, softmax=Softmax())
    np.testing.assert_allclose([r.loss for r in study(probs, X, Y, **options)], expected)
    smooth = SoftmaxCrossEntropy(0.1)
    found = study(logits, X, Y, loss=smooth, **options)[0]
    assert found.loss == evaluate(logits, X, Y, loss=smooth).loss != expected[0]


@pytest.mark.parametrize("name", STUDIES)
def test_a_model_without_blocks_is_refused(name):
    study, options = STUDIES[name]
    words = (
        f"{study.__name__} expects a model with Residual blocks, or with layers called block0, "
        f"block1, ... in its Sequentials, got a "
    )
    model = Sequential(part1=dense(0), part2=dense(1))
    with pytest.raises(ValueError, match=re.escape(f"{words}Sequential of ['part1', 'part2']")):
        study(model, ROWS, CLASSES, **options)
    with pytest.raises(ValueError, match=re.escape(f"{words}Dense")):
        study(dense(0), ROWS, CLASSES, **options)


def test_kendalls_tau_on_paper():
    assert kendall_tau([0, 1, 2, 3]) == 1
    assert kendall_tau([3, 2, 1, 0]) == -1
    assert kendall_tau([1, 0, 2]) == pytest.approx(1 / 3)  # one of three pairs descends
    assert kendall_tau([2, 0, 1]) == pytest.approx(-1 / 3)
    assert kendall_tau([0.5, -1, 7, 3]) == pytest.approx(1 / 3)
    for wrong in ([1], [1, 1], [[0, 1], [2, 3]]):
        with pytest.raises(ValueError, match="kendall_tau expects two or more different numbers"):
            kendall_tau(wrong)


def test_lesions_that_make_no_sense_are_refused():
    model = nested()
    with pytest.raises(ValueError, match=r"expects paths out of \['outer', .*, got 'stage9'"):
        lesioned(model, drop=["stage9"])
    with pytest.raises(ValueError, match="each block in one change, got 'last' twice"):
        lesioned(model, drop=["last", "last"])
    with pytest.raises(ValueError, match="each block in one change, got 'last' twice"):
        lesioned(model, drop=["last"], swap=[("last", "outer")])
    with pytest.raises(ValueError, match=r"side by side, got 'outer\.branch\.a' and 'outer'"):
        lesioned(model, drop=["outer.branch.a"], swap=[("outer", "last")])
    with pytest.raises(ValueError, match="expects swap to hold pairs of paths, got 'outer'"):
        lesioned(model, swap=("outer", "last"))
    with pytest.raises(ValueError, match="blocks expects no fused model"):
        lesioned(fuse(network(8)), drop=["stage1.block0"])
    with pytest.raises(TypeError, match="expects model to be a Layer, got str"):
        blocks("resnet20")


def test_studies_that_make_no_sense_are_refused():
    model = network(8)
    with pytest.raises(ValueError, match="counts to be an integer >= 0, got -1"):
        multi_lesion_study(model, X, Y, counts=[-1])
    with pytest.raises(TypeError, match="expects counts to be several integers, got 3"):
        multi_lesion_study(model, X, Y, counts=3)
    with pytest.raises(ValueError, match="repeats to be an integer >= 1, got 0"):
        multi_lesion_study(model, X, Y, counts=[1], repeats=0)
    with pytest.raises(ValueError, match=r"two blocks of equal shapes, got none among \['stage1"):
        shuffle_study(model, X, Y, swaps=[1])
    with pytest.raises(ValueError, match="shuffle_study expects rng to be None"):
        shuffle_study(network(14), X, Y, swaps=[1], rng="seed")
    with pytest.raises(TypeError, match="lesion_study expects model to be a Layer, got NoneType"):
        lesion_study(None, X, Y)
