"""Random first weights whose variance keeps the signal, or the gradient, at the same size.

Each is a function (rng, shape, fan_in, fan_out, dtype) -> array. A sum of fan_in products has the
variance fan_in * var(w) * E[x^2]; a ReLU in front halves E[x^2]. He's rule, var(w) = 2 / fan_in,
keeps the forward signal for ReLU networks; Glorot's, 2 / (fan_in + fan_out), is the compromise
between forward and backward for layers that are linear around 0.

References
----------
He et al. (2015), arXiv:1502.01852, section 2.2. Glorot and Bengio (2010), AISTATS, equation 12.
"""

import math


def he_normal(rng, shape, fan_in, fan_out, dtype):
    """Normal with standard deviation sqrt(2 / fan_in); not truncated, unlike Keras' he_normal."""
    return normal(rng, shape, math.sqrt(2 / fan_in), dtype)


def he_uniform(rng, shape, fan_in, fan_out, dtype):
    """Uniform in +-sqrt(6 / fan_in): the same variance as `he_normal`."""
    return uniform(rng, shape, math.sqrt(6 / fan_in), dtype)


def glorot_normal(rng, shape, fan_in, fan_out, dtype):
    """Normal with standard deviation sqrt(2 / (fan_in + fan_out))."""
    return normal(rng, shape, math.sqrt(2 / (fan_in + fan_out)), dtype)


def glorot_uniform(rng, shape, fan_in, fan_out, dtype):
    """Uniform in +-sqrt(6 / (fan_in + fan_out)), the default of Keras."""
    return uniform(rng, shape, math.sqrt(6 / (fan_in + fan_out)), dtype)


def small_normal(rng, shape, fan_in, fan_out, dtype):
    """Normal with standard deviation 0.01, whatever the fans: what was usual before Glorot.

    A signal through it shrinks from layer to layer. Krizhevsky et al. (2012), NeurIPS, section 5.
    """
    return normal(rng, shape, 0.01, dtype)


def normal(rng, shape, std, dtype):
    """Normal with mean 0, drawn in float64 so that both dtypes get the same numbers."""
    return (rng.standard_normal(shape) * std).astype(dtype)


def uniform(rng, shape, limit, dtype):
    """Uniform in [-limit, limit), drawn in float64 so that both dtypes get the same numbers."""
    return rng.uniform(-limit, limit, shape).astype(dtype)
