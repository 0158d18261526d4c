"""SGD, Adam, AdamW and Muon: state per Parameter, updates in the order of operations of PyTorch's.

An optimiser reads `parameter.grad` and changes `parameter.value` in place; `optimizer.lr` may be
set between steps.
"""

import math

import numpy as np

from minires.checks import expect_choice, expect_int, expect_number
from minires.copyable import Copyable
from minires.core import Parameter
from minires.ops import default as default_ops
from minires.ops import fast


class Optimizer(Copyable):
    """What the optimisers share: the Parameters, the learning rate and weight decay.

    Parameters
    ----------
    parameters : iterable of Parameter
        `model.parameters()`.
    lr : float
        Learning rate.
    weight_decay : float
    decay : {"all", "weights"}
        Which Parameters decay: all of them, as in PyTorch, or only those with the role "weight",
        which leaves out biases and batch norm's gamma and beta.
    ops : module
        The implementation, such as `minires.ops.reference`.
    """

    def __init__(self, parameters, lr, weight_decay, decay, ops=default_ops):
        name = type(self).__name__
        self.ops = ops
        self.parameters = as_parameters(name, parameters)
        self.lr = lr
        self.weight_decay = expect_number(name, "weight_decay", weight_decay, at_least=0)
        self.decay = expect_choice(name, "decay", decay, ("all", "weights"))
        self.steps = 0
        values = [parameter.value for parameter in self.parameters]
        if ops is fast and any(v.ndim == 4 and v.dtype == np.float32 for v in values):
            fast.expect("training")

    @property
    def lr(self):
        """Learning rate, a float >= 0; may be set between steps."""
        return self._lr

    @lr.setter
    def lr(self, lr):
        self._lr = expect_number(type(self).__name__, "lr", lr, at_least=0)

    def zero_grad(self):
        """Set every gradient to 0; backward passes add to them."""
        for parameter in self.parameters:
            parameter.grad.fill(0)

    def step(self):
        """Update every Parameter once from its gradient."""
        self.steps += 1
        self._update([p.value for p in self.parameters], [p.grad for p in self.parameters])
        fast.step_taken()

    def _update(self, values, gradients):
        """Change each of `values` in place."""
        raise NotImplementedError

    def _weight_decays(self):
        """One number a Parameter."""
        everywhere = self.decay == "all"
        return [
            self.weight_decay if everywhere or p.role == "weight" else 0.0 for p in self.parameters
        ]

    def _zeros(self):
        return [np.zeros(p.shape, p.dtype) for p in self.parameters]

    def __repr__(self):
        count = sum(p.size for p in self.parameters)
        held = ("parameters", "steps", "decay", "ops")
        settings = {k: v for k, v in vars(self).items() if k not in held and not is_state(v)}
        more = ", ".join(f"{name.lstrip('_')}={value!r}" for name, value in settings.items())
        return f"{type(self).__name__}({count:,} parameters, {more}, decay={self.decay!r})"


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + g, w -= lr v.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        Learning rate.
    momentum : float
        In [0, 1). The first v is g itself.
    nesterov : bool
        Step along g + momentum v instead of v.
    weight_decay : float
        Added to the gradient: g + weight_decay w.
    decay : {"all", "weights"}
        "weights" leaves out biases and batch norm's gamma and beta.
    ops : module
        The implementation, such as `minires.ops.reference`.

    References
    ----------
    Sutskever et al. (2013), ICML, section 2, in PyTorch's form, in which v does not hold lr.
    """

    def __init__(
        self,
        parameters,
        lr,
        *,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        decay="all",
        ops=default_ops,
    ):
        super().__init__(parameters, lr, weight_decay, decay, ops)
        self.momentum = expect_number("SGD", "momentum", momentum, at_least=0, below=1)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD expects a momentum > 0 with nesterov=True, got 0")
        self.velocity = self._zeros()

    def _update(self, values, gradients):
        settings = {"lr": self.lr, "momentum": self.momentum, "nesterov": self.nesterov}
        decays = self._weight_decays()
        self.ops.sgd_steps(values, gradients, self.velocity, **settings, weight_decay=decays)


class Adam(Optimizer):
    """Adam: step along the mean gradient over the root of the mean squared gradient.

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
        w -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        Learning rate.
    betas : (float, float)
        b1 and b2, each in [0, 1).
    eps : float
        PyTorch's default; Keras' is 1e-7.
    weight_decay : float
        Added to the gradient, and so divided by the root with it; see AdamW.
    decay : {"all", "weights"}
        "weights" leaves out biases and batch norm's gamma and beta.
    ops : module
        The implementation, such as `minires.ops.reference`.

    References
    ----------
    Kingma and Ba (2015), arXiv:1412.6980, algorithm 1.
    """

    def __init__(
        self,
        parameters,
        lr=1e-3,
        *,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decay="all",
        ops=default_ops,
    ):
        super().__init__(parameters, lr, weight_decay, decay, ops)
        name = type(self).__name__
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"{name} expects betas to be a pair of numbers, got {betas!r}")
        self.betas = tuple(expect_number(name, "betas", b, at_least=0, below=1) for b in betas)
        self.eps = expect_number(name, "eps", eps, above=0)
        self.m, self.v = self._zeros(), self._zeros()

    def _update(self, values, gradients):
        self._descend(values, gradients, self._weight_decays())

    def _descend(self, values, gradients, decays):
        settings = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "step": self.steps}
        given = values, gradients, self.m, self.v
        self.ops.adam_steps(*given, **settings, weight_decay=decays)


class AdamW(Adam):
    """Adam with decoupled weight decay: w *= 1 - lr weight_decay before the step.

    Parameters
    ----------
    parameters, lr, betas, eps, decay, ops
        As for Adam.
    weight_decay : float
        PyTorch's default.

    References
    ----------
    Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        parameters,
        lr=1e-3,
        *,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        decay="all",
        ops=default_ops,
    ):
        super().__init__(
            parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay, decay=decay, ops=ops
        )

    def _update(self, values, gradients):
        for value, decay in zip(values, self._weight_decays(), strict=True):
            if decay:
                value *= 1 - self.lr * decay
        self._descend(values, gradients, [0.0] * len(values))


class Muon(Optimizer):
    """Muon for convolutions: the step is the nearest orthogonal matrix to the momentum.

        v = momentum v + g,  w -= lr sqrt(max(1, F / (KH KW C))) orthogonalize(v)

    All else (dense layers, biases, batch norm) takes SGD's step with the same momentum. Every
    Parameter is first multiplied by 1 - (its learning rate) weight_decay, as in AdamW.

    With a `radius`, each kernel is scaled before its step, so that every step starts on a sphere:

        w *= radius sqrt(min(F, KH KW C)) / |w|

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        Learning rate of the convolutions. Since every step has the same length, it is a share of
        the weights that changes: 0.02 is a good peak at batch 128.
    momentum : float
        In [0, 1).
    nesterov : bool
        Orthogonalise g + momentum v instead of v.
    rest : float
        The learning rate of all else is rest * lr.
    weight_decay : float
        Decoupled.
    decay : {"all", "weights"}
        "weights" leaves out biases and batch norm's gamma and beta.
    radius : float, optional
        Root mean square of a kernel's singular values, for networks with a batch norm behind every
        convolution: there the length of a kernel changes no output, but decides how far a step of
        a given length turns it. From the sphere that is about lr / radius, in the first step as in
        the last; without, the length drifts until weight decay and steps are in balance.
    iterations : int
        Rounds of Newton-Schulz.
    ops : module
        The implementation, such as `minires.ops.reference`.

    References
    ----------
    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks". PyTorch's
    torch.optim.Muon takes matrices only, in bfloat16. The radius: Jordan's airbench94 scales each
    kernel to a fixed norm at every step; the balance: Kosson et al. (2023), arXiv:2305.17212.
    """

    def __init__(
        self,
        parameters,
        lr=0.02,
        *,
        momentum=0.9,
        nesterov=True,
        rest=5.0,
        weight_decay=0.0,
        decay="all",
        radius=None,
        iterations=5,
        ops=default_ops,
    ):
        super().__init__(parameters, lr, weight_decay, decay, ops)
        self.radius = radius
        if radius is not None:
            self.radius = expect_number("Muon", "radius", radius, above=0)
        self.momentum = expect_number("Muon", "momentum", momentum, at_least=0, below=1)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("Muon expects a momentum > 0 with nesterov=True, got 0")
        self.rest = expect_number("Muon", "rest", rest, at_least=0)
        self.iterations = expect_int("Muon", "iterations", iterations)
        self.velocity = self._zeros()

    def _update(self, values, gradients):
        settings = {"momentum": self.momentum, "nesterov": self.nesterov}
        kernels = [i for i, value in enumerate(values) if value.ndim == 4]
        others = [i for i, value in enumerate(values) if value.ndim != 4]
        decays = self._weight_decays()
        for chosen, lr in ((kernels, self.lr), (others, self.rest * self.lr)):
            for i in chosen:
                if decays[i]:
                    values[i] *= 1 - lr * decays[i]
        w, g, v = ([part[i] for i in kernels] for part in (values, gradients, self.velocity))
        for kernel in w if self.radius is not None else ():
            put_on_sphere(kernel, self.radius, self.ops)
        self.ops.muon_steps(w, g, v, lr=self.lr, **settings, iterations=self.iterations)
        w, g, v = ([part[i] for i in others] for part in (values, gradients, self.velocity))
        if others:
            zeros = [0.0] * len(others)
            self.ops.sgd_steps(w, g, v, lr=self.rest * self.lr, **settings, weight_decay=zeros)


def put_on_sphere(kernel, radius, ops):
    """Scale a kernel (KH, KW, C, F), so that the mean square of its singular values is radius^2."""
    F = kernel.shape[-1]
    length = math.sqrt(ops.squared_norm([kernel]))
    if 0 < length < math.inf:
        kernel *= radius * math.sqrt(min(F, kernel.size // F)) / length


def clip_gradients(parameters, max_norm, *, ops=default_ops):
    """Scale all gradients by one factor so that their joint norm is at most `max_norm`.

    Parameters
    ----------
    parameters : iterable of Parameter
    max_norm : float
    ops : module
        The implementation, such as `minires.ops.reference`.

    Returns
    -------
    norm : float
        The joint Euclidean norm before.

    Notes
    -----
    As in PyTorch, the factor is max_norm / (norm + 1e-6) where that is below 1. If the norm is not
    finite, nothing is changed.
    """
    parameters = as_parameters("clip_gradients", parameters)
    max_norm = expect_number("clip_gradients", "max_norm", max_norm, above=0)
    norm = gradient_norm(parameters, ops=ops)
    factor = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and factor < 1:
        for parameter in parameters:
            parameter.grad *= factor
    return norm


def gradient_norm(parameters, *, ops=default_ops):
    """The joint Euclidean norm of all gradients, a float, added in float64."""
    return math.sqrt(ops.squared_norm([parameter.grad for parameter in parameters]))


def is_state(value):
    """Whether an attribute is no setting, but one array a Parameter."""
    return isinstance(value, list)


def as_parameters(owner, parameters):
    """A list of distinct Parameters.

    Raises
    ------
    TypeError
        If something else is among them.
    ValueError
        If there are none, or one comes twice.
    """
    hint = ": pass model.parameters()"
    try:
        parameters = list(parameters)
    except TypeError:
        raise TypeError(
            f"{owner} expects a list of Parameters, got {type(parameters).__name__}{hint}"
        ) from None
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"{owner} expects Parameters, got {type(parameter).__name__}{hint}")
    if not parameters:
        raise ValueError(f"{owner} expects at least one Parameter, got none")
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError(f"{owner} expects each Parameter once, got one twice")
    return parameters
