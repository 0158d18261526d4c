"""How the gradient flows through a model, as numbers. Drawing them is `minires.plots`' job.

Around a training loop: `FlowRecorder`, and `diagnose` for what it found. For one batch:
`gradient_norms`, `residual_ledger`, `gradient_by_path_length`, `jacobian_singular_values`. Of a
trained model: `lesion_study` and its kin, `loss_surface`. Along a line of inputs:
`input_gradients` and their `autocorrelation`.
"""

from minires.flow.guards import Diagnosis, Finding, diagnose
from minires.flow.jacobian import dense_jacobian, jacobian_singular_values, jvp
from minires.flow.ledger import LedgerArrays, residual_ledger
from minires.flow.lesions import (
    Lesion,
    MultiLesion,
    Shuffle,
    blocks,
    kendall_tau,
    lesion_study,
    lesioned,
    multi_lesion_study,
    shuffle_study,
)
from minires.flow.log import FlowLog
from minires.flow.norms import GradientNorm, gradient_norms
from minires.flow.paths import PathGradients, gradient_by_path_length, path_counts, share_of_paths
from minires.flow.recorder import FlowRecorder
from minires.flow.records import HistogramRecord, LayerRecord, ParameterRecord, ResidualRecord
from minires.flow.shattering import autocorrelation, input_gradients, line
from minires.flow.surface import LossSurface, filter_normalised_direction, loss_surface

__all__ = [
    "Diagnosis",
    "Finding",
    "FlowLog",
    "FlowRecorder",
    "GradientNorm",
    "HistogramRecord",
    "LayerRecord",
    "LedgerArrays",
    "Lesion",
    "LossSurface",
    "MultiLesion",
    "ParameterRecord",
    "PathGradients",
    "ResidualRecord",
    "Shuffle",
    "autocorrelation",
    "blocks",
    "dense_jacobian",
    "diagnose",
    "filter_normalised_direction",
    "gradient_by_path_length",
    "gradient_norms",
    "input_gradients",
    "jacobian_singular_values",
    "jvp",
    "kendall_tau",
    "lesion_study",
    "lesioned",
    "line",
    "loss_surface",
    "multi_lesion_study",
    "path_counts",
    "residual_ledger",
    "share_of_paths",
    "shuffle_study",
]
