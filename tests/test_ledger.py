"""The residual ledger: the identity's part is dy to the bit, and the parts are the whole."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minires import Dense, Layer, PadShortcut, Residual, SoftmaxCrossEntropy, fuse, ops
from minires.data import load_digits
from minires.flow import FlowRecorder, residual_ledger
from minires.models import article_resnet, cifar_resnet, resnet8, resnet110

DIGITS = load_digits(dtype=np.float64)
X, Y = DIGITS.x_train[:8], DIGITS.y_train[:8]


class Times(Layer):
    def __init__(self, factor):
        self.factor = factor

    def _forward(self, x, training):
        return self.factor * x, ()

    def _backward(self, dy, cache):
        return self.factor * dy


class Sum:
    """loss = <dy, y>."""

    def forward(self, y, dy):
        self.dy = dy
        return float((y * dy).sum())

    def backward(self):
        return self.dy


def test_a_block_on_paper():
    x, dy = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]])
    (record,), arrays = residual_ledger(Residual(Times(-2.0)), x, dy, loss=Sum(), keep_arrays=True)
    assert (record.dy_norm, record.shortcut_norm, record.branch_norm) == (1, 1, 2)
    assert (record.dx_norm, record.cosine) == (1, -1)
    assert record.shortcut_share == -1  # 1 of -1: the branch wins and turns the gradient round
    assert (record.x_norm, record.f_norm, record.branch_ratio) == (5, 10, 2)
    assert arrays[""].dx.tolist() == [[-1, 0]]


@pytest.mark.parametrize("kit", [ops.fast, ops.reference])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_on_every_block_of_a_resnet110_the_identity_part_is_dy_and_the_parts_add_up(kit, dtype):
    model = resnet110(input_shape=(8, 8, 1), rng=0, dtype=dtype, ops=kit)
    records, arrays = residual_ledger(model, X.astype(dtype), Y, keep_arrays=True)
    shortcuts = [(path, layer) for path, layer in model.named_layers() if type(layer) is Residual]
    assert len(records) == len(arrays) == len(shortcuts) == 54
    identities = 0
    for path, block in shortcuts:
        parts = arrays[path]
        if not isinstance(block.shortcut, PadShortcut):
            assert parts.shortcut.tobytes() == parts.dy.tobytes()
            identities += 1
        assert (parts.shortcut + parts.branch).tobytes() == parts.dx.tobytes()
        assert np.abs(parts.branch).max() > 0
    assert identities == 52


def test_where_the_channels_grow_the_shortcut_part_is_dy_on_the_old_channels():
    model = resnet8(input_shape=(8, 8, 1), rng=0, dtype=np.float64)
    _, arrays = residual_ledger(model, X, Y, keep_arrays=True)
    parts = arrays["stage2.block0.sum"]
    assert parts.shortcut[:, ::2, ::2].tobytes() == parts.dy[..., :16].tobytes()
    assert not parts.shortcut[:, 1::2].any()


# ---- PyTorch

ORACLE = np.load(Path(__file__).parent / "oracles" / "resnet.npz", allow_pickle=False)


@pytest.mark.parametrize("kit", [ops.fast, ops.reference])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_ledger_agrees_with_pytorch_and_its_hooks_to_1e_10(kit, shortcut):
    model = resnet8(input_shape=(8, 8, 3), shortcut=shortcut, dtype=np.float64, rng=0, ops=kit)
    for path, parameter in model.named_parameters():
        parameter.value = ORACLE[f"weights/{path}"] / 256
    x, labels = ORACLE["inputs/x"], ORACLE["inputs/labels"]
    records, arrays = residual_ledger(model, x, labels, keep_arrays=True)
    assert [record.path for record in records] == [f"stage{i}.block0.sum" for i in (1, 2, 3)]
    for record in records:
        case = f"{shortcut}/ledger/{record.path}"
        for name in record.__dataclass_fields__:
            if name not in ("step", "path"):
                wanted = ORACLE[f"{case}/{name}"]
                assert_allclose(getattr(record, name), wanted, rtol=1e-10, err_msg=name)
        for name in ("dy", "shortcut", "branch", "dx"):
            found, wanted = getattr(arrays[record.path], name), ORACLE[f"{case}/{name}"]
            atol = 1e-10 * np.abs(wanted).max()
            assert_allclose(found.ravel()[::23], wanted, rtol=0, atol=atol, err_msg=name)


# ---- beside other measurements


def test_the_norms_and_shares_follow_from_the_arrays():
    model = cifar_resnet(20, kind="preactivation", input_shape=(8, 8, 1), rng=0, dtype=np.float64)
    records, arrays = residual_ledger(model, X, Y, keep_arrays=True)
    assert list(arrays) == [record.path for record in records]
    for record in records:
        parts = arrays[record.path]
        for name in ("dy", "shortcut", "branch", "dx"):
            norm = np.linalg.norm(getattr(parts, name))
            assert getattr(record, f"{name}_norm") == pytest.approx(norm, rel=1e-12)
        share = (parts.shortcut * parts.dx).sum() / (parts.dx**2).sum()
        assert record.shortcut_share == pytest.approx(share, rel=1e-9)
        cosine = (parts.shortcut * parts.branch).sum()
        cosine /= np.linalg.norm(parts.shortcut) * np.linalg.norm(parts.branch)
        assert record.cosine == pytest.approx(cosine, rel=1e-9, abs=1e-12)


def test_a_recorder_writes_the_same_ledger():
    model = article_resnet(8, 3, input_shape=(16, 16, 1), rng=0, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 1))
    alone = residual_ledger(model, x, Y[:4])
    loss = SoftmaxCrossEntropy()
    with FlowRecorder(model) as flow:
        loss.forward(model.forward(x, training=True), Y[:4])
        model.backward(loss.backward())
    assert len(alone) == 3
    for one, other in zip(alone, flow.residuals, strict=True):
        assert (one.step, other.step) == (0, 1)
        assert vars(one) | {"step": 1} == vars(other)


def test_measuring_leaves_the_model_as_it_was():
    model = resnet8(input_shape=(8, 8, 1), rng=0, dtype=np.float64)
    model.conv.weight.grad[...] = 7
    before = pickle.dumps(model)
    residual_ledger(model, X, Y)
    with pytest.raises(ValueError, match="labels"):
        residual_ledger(model, X, Y[:3])
    assert pickle.dumps(model) == before
    assert not any(layer.observers for _, layer in model.named_layers())


def test_a_share_keeps_its_digits_where_the_parts_all_but_cancel():
    block = Residual(Times(-1 + 1e-9))
    (record,) = residual_ledger(block, np.ones((1, 2)), np.ones((1, 2)), loss=Sum())
    assert record.shortcut_share == pytest.approx(1e9, rel=1e-6)


def test_a_branch_that_gives_nothing_has_no_angle():
    (record,) = residual_ledger(Residual(Times(0.0)), np.ones((1, 2)), np.ones((1, 2)), loss=Sum())
    assert np.isnan(record.cosine)
    assert (record.shortcut_share, record.branch_ratio) == (pytest.approx(1), 0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="expects a model with Residual blocks, got none"):
        residual_ledger(Dense(2, 2, rng=0), np.ones((1, 2), np.float32), [0])
    with pytest.raises(RuntimeError, match="record the model that `fuse` was given"):
        residual_ledger(fuse(resnet8(input_shape=(8, 8, 1))), X.astype(np.float32), Y)
