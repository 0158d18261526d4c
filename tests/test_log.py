"""Flow logs: what was written comes back, from either format, and damage is named."""

import csv
import json
import math

import pytest

from minires import Adam, SoftmaxCrossEntropy, train_step
from minires.data import load_digits
from minires.flow import (
    FlowLog,
    FlowRecorder,
    HistogramRecord,
    LayerRecord,
    ParameterRecord,
    ResidualRecord,
    gradient_norms,
)
from minires.models import resnet8

DIGITS = load_digits()
X, Y = DIGITS.x_train[:32], DIGITS.y_train[:32]

BY_HAND = [
    LayerRecord(1, "", "Sequential", *[0.1] * 12),
    LayerRecord(1, "relu", "ReLU", math.nan, math.inf, -math.inf, *[1e-300] * 9, dead=0.25),
    ParameterRecord(1, "fc.weight", "weight", 3, 1.0, 2.0, 3.0, 3.0),
    ParameterRecord(2, "fc.bias", "bias", None, 0.0, 2.0, 3.0, math.inf),
    ResidualRecord(2, "block, with a comma", *[1 / 3] * 9),
    HistogramRecord(2, "conv", "dy", -1.5, 2.5, (1, 0, 7)),
    HistogramRecord(2, "conv", "y", math.nan, math.nan, ()),
]


@pytest.fixture(scope="module")
def recorded():
    model = resnet8(input_shape=(8, 8, 1), rng=0)
    optimizer, loss = Adam(model.parameters()), SoftmaxCrossEntropy()
    with FlowRecorder(model, every=2, histograms=["conv"]) as flow:
        for _ in range(3):
            train_step(model, loss, optimizer, X, Y)
    return flow


def write(log, path):
    log.to_csv(path) if path.suffix == ".csv" else log.to_jsonl(path)
    return path


@pytest.mark.parametrize("name", ["flow.csv", "flow.jsonl"])
def test_what_was_written_comes_back(recorded, name, tmp_path):
    read = FlowLog.read(write(recorded, tmp_path / name))
    assert read.records == recorded.records
    assert read.steps == [1, 3]


@pytest.mark.parametrize("name", ["flow.csv", "flow.jsonl"])
def test_nan_infinity_and_nothing_come_back_as_what_they_were(name, tmp_path):
    read = FlowLog.read(str(write(FlowLog(BY_HAND), tmp_path / name)))
    assert repr(read.records) == repr(FlowLog(BY_HAND).records)  # NaN is not equal to itself


def test_one_header_and_one_line_a_record(recorded, tmp_path):
    with write(recorded, tmp_path / "flow.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:3] == ["kind", "step", "path"]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(rows) == len(recorded) + 1


def test_a_json_line_holds_its_own_fields_only(recorded, tmp_path):
    lines = write(recorded, tmp_path / "flow.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert set(first) == {"kind", *LayerRecord.__dataclass_fields__}
    assert len(lines) == len(recorded)


def test_one_step_can_be_taken_out(recorded):
    assert recorded.at(3).steps == [3]
    assert len(recorded.at(1)) + len(recorded.at(3)) == len(recorded)
    with pytest.raises(ValueError, match=r"a recorded step \(1, 3\), got 2"):
        recorded.at(2)


def test_gradient_norms_of_a_step_are_those_of_a_measurement(recorded):
    model = resnet8(input_shape=(8, 8, 1), rng=0)
    measured = gradient_norms(model, X, Y)
    logged = recorded.gradient_norms(1)
    assert [n[:2] for n in logged] == [n[:2] for n in measured]
    assert [n.norm for n in logged] == pytest.approx([n.norm for n in measured], rel=1e-5)


def test_the_repr_counts(recorded):
    assert repr(FlowLog(recorded.records)) == (
        "FlowLog(2 steps, 78 layer records, 46 parameter records, 6 residual records, "
        "6 histogram records)"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "expects a .csv or .jsonl file"),
        ("a.csv", "a,b\n1,2\n", r"line 1 of .*a header with a column kind, got \['a', 'b'\]"),
        ("a.csv", "kind,b\n1,2\n", "line 2 of .*expected a kind out of layer, parameter"),
        ("a.jsonl", '{"kind": "layer"}\n', "line 1 of .*expected step, path, layer, y_norm"),
        ("a.jsonl", "[1]\n", r"line 1 of .*expected an object, got \[1\]"),
        ("a.jsonl", "{", "line 1 of "),
        ("a.csv", "\x00\x01\x02", "line 1 of"),
        (
            "a.jsonl",
            '{"kind": "histogram", "step": 1, "path": "p", "array": "y", "low": "x", "high": 1, '
            '"counts": []}\n',
            "expected low to be float, got 'x'",
        ),
    ],
)
def test_what_is_no_log_is_refused_with_the_line(name, text, message, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        FlowLog.read(path)


@pytest.mark.parametrize(
    "damage",
    [
        ('"step": 1,', '"step": 1.5,'),
        ('"step": 1,', '"step": true,'),
        ('"step": 1,', '"step": 1e999,'),
        ('"step": 1,', '"step": [1],'),
        ('"path": ""', '"path": 3'),
        ('"kind": "layer"', '"kind": ["layer"]'),
        ('{"kind"', "[" * 100_000 + '{"kind"'),
    ],
    ids=lambda damage: damage[1][:20],
)
def test_a_damaged_value_is_refused_with_its_line(damage, recorded, tmp_path):
    path = write(recorded, tmp_path / "flow.jsonl")
    lines = path.read_text().splitlines()
    assert damage[0] in lines[0]
    path.write_text("\n".join(["", lines[1], lines[0].replace(*damage)]))
    with pytest.raises(ValueError, match="line 3 of"):
        FlowLog.read(path)


def test_what_editors_and_pandas_do_to_a_file_does_no_harm(recorded, tmp_path):
    path = write(recorded, tmp_path / "flow.CSV".lower())
    text = path.read_text()
    floats = text.replace(",weight,1,", ",weight,1.0,").replace("\n", "\n\n")
    (tmp_path / "saved.CSV").write_text(floats, encoding="utf-8-sig")
    assert FlowLog.read(tmp_path / "saved.CSV").records == recorded.records
    lines = write(FlowLog(BY_HAND), tmp_path / "flow.jsonl").read_text()
    (tmp_path / "nulls.jsonl").write_text(lines.replace("NaN", "null") + "\n\n")
    assert repr(FlowLog.read(tmp_path / "nulls.jsonl").records) == repr(FlowLog(BY_HAND).records)


def test_a_long_log_is_not_searched_again_for_every_step():
    records = [ParameterRecord(s, "w", "weight", 1, 1.0, 1.0, 1.0, 1.0) for s in range(20_000)]
    log = FlowLog(records)
    assert [log.at(step).parameters[0].step for step in log.steps] == list(range(20_000))
    log.add(ParameterRecord(20_000, "w", "weight", 1, 1.0, 1.0, 1.0, 1.0))
    assert log.steps[-1] == 20_000


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(ValueError, match=r"FlowLog.read: line 1 of .*a\.jsonl"):
        FlowLog.read(path)


def test_an_empty_file_is_an_empty_log(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert len(FlowLog.read(tmp_path / "a.jsonl")) == 0
    assert FlowLog.read(write(FlowLog(), tmp_path / "b.csv")).steps == []
