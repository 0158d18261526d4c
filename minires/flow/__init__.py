"""How the gradient flows through a model, as numbers. Drawing them is `minires.plots`' job."""

from minires.flow.guards import Diagnosis, Finding, diagnose
from minires.flow.ledger import LedgerArrays, residual_ledger
from minires.flow.log import FlowLog
from minires.flow.norms import GradientNorm, gradient_norms
from minires.flow.recorder import FlowRecorder
from minires.flow.records import HistogramRecord, LayerRecord, ParameterRecord, ResidualRecord

__all__ = [
    "Diagnosis",
    "Finding",
    "FlowLog",
    "FlowRecorder",
    "GradientNorm",
    "HistogramRecord",
    "LayerRecord",
    "LedgerArrays",
    "ParameterRecord",
    "ResidualRecord",
    "diagnose",
    "gradient_norms",
    "residual_ledger",
]
