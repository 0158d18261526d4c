"""The ops in NumPy, written to be read. Start with `dense`, then `conv`, then `batchnorm`."""

from minires.ops.reference.add import add_backward, add_forward
from minires.ops.reference.batchnorm import (
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference_backward,
    batchnorm_inference_forward,
)
from minires.ops.reference.conv import conv2d_backward, conv2d_forward, conv2d_weight_backward
from minires.ops.reference.dense import dense_backward, dense_forward
from minires.ops.reference.dropout import dropout_backward, dropout_forward
from minires.ops.reference.fused import (
    batchnorm_add_relu_backward,
    batchnorm_add_relu_forward,
    batchnorm_inference_add_relu_backward,
    batchnorm_inference_add_relu_forward,
    batchnorm_inference_relu_backward,
    batchnorm_inference_relu_forward,
    batchnorm_relu_backward,
    batchnorm_relu_conv2d_forward,
    batchnorm_relu_forward,
    conv2d_add_backward,
    conv2d_add_relu_forward,
    conv2d_batchnorm_add_relu_backward,
    conv2d_batchnorm_relu_backward,
    conv2d_moments_forward,
    prepare_conv2d_add_relu,
)
from minires.ops.reference.measure import inner_product, statistics
from minires.ops.reference.muon import muon_steps, orthogonalize
from minires.ops.reference.optimizer import (
    adam_step,
    adam_steps,
    sgd_step,
    sgd_steps,
    squared_norm,
)
from minires.ops.reference.pool import (
    avgpool2d_backward,
    avgpool2d_forward,
    global_avgpool2d_backward,
    global_avgpool2d_forward,
    maxpool2d_backward,
    maxpool2d_forward,
)
from minires.ops.reference.relu import relu_backward, relu_forward
from minires.ops.reference.shortcut import (
    pad_shortcut_backward,
    pad_shortcut_backward_onto,
    pad_shortcut_forward,
)
from minires.ops.reference.softmax import softmax_backward, softmax_forward
from minires.ops.reference.softmax_cross_entropy import (
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)

__all__ = [
    "adam_step",
    "adam_steps",
    "add_backward",
    "add_forward",
    "avgpool2d_backward",
    "avgpool2d_forward",
    "batchnorm_add_relu_backward",
    "batchnorm_add_relu_forward",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference_add_relu_backward",
    "batchnorm_inference_add_relu_forward",
    "batchnorm_inference_backward",
    "batchnorm_inference_forward",
    "batchnorm_inference_relu_backward",
    "batchnorm_inference_relu_forward",
    "batchnorm_relu_backward",
    "batchnorm_relu_conv2d_forward",
    "batchnorm_relu_forward",
    "conv2d_add_backward",
    "conv2d_add_relu_forward",
    "conv2d_backward",
    "conv2d_batchnorm_add_relu_backward",
    "conv2d_batchnorm_relu_backward",
    "conv2d_forward",
    "conv2d_moments_forward",
    "conv2d_weight_backward",
    "dense_backward",
    "dense_forward",
    "dropout_backward",
    "dropout_forward",
    "global_avgpool2d_backward",
    "global_avgpool2d_forward",
    "inner_product",
    "maxpool2d_backward",
    "maxpool2d_forward",
    "muon_steps",
    "orthogonalize",
    "pad_shortcut_backward",
    "pad_shortcut_backward_onto",
    "pad_shortcut_forward",
    "prepare_conv2d_add_relu",
    "relu_backward",
    "relu_forward",
    "sgd_step",
    "sgd_steps",
    "softmax_backward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "squared_norm",
    "statistics",
]
