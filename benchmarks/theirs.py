"""The PyTorch side of a worker: the same network and the same ops, converted and converted back.

minires is NHWC with weights (KH, KW, C, F) and (D, K); PyTorch NCHW with (F, C, KH, KW) and (K, D).
"""

import torch
from torch.nn import functional

from benchmarks import cases, peers

RENAMED = {"gamma": "weight", "beta": "bias"}


def their_path(path):
    """minires' path of an array as PyTorch's."""
    owner, _, name = path.replace(".sum.", ".").rpartition(".")
    return f"{owner}.{RENAMED.get(name, name)}"


def to_torch(array):
    """A tensor in PyTorch's layout, of a weight or of images alike."""
    tensor = torch.from_numpy(array.copy())
    if tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
    return (tensor.T if tensor.ndim == 2 else tensor).contiguous()


def to_ours(tensor):
    """An array in minires' layout, of a weight."""
    tensor = tensor.detach()
    if tensor.ndim == 4:
        tensor = tensor.permute(2, 3, 1, 0)
    return (tensor.T if tensor.ndim == 2 else tensor).contiguous().numpy()


class Network:
    """A network with its batch and Adam; arguments as in `ours.Network`.

    With `own_weights` it keeps PyTorch's initialisation and minires is not imported, so that a
    measurement of memory or of the first step sees PyTorch alone.
    """

    def __init__(self, name, model, options, batch, own_weights=False):
        torch.manual_seed(0)
        self.model = peers.build(model, options)
        if own_weights:
            H, W, C = options.get("input_shape", peers.default_shape(model))
            x = torch.randn(batch, C, H, W)
            self.paths, self.labels = {}, torch.zeros(batch, dtype=torch.long)
        else:
            x = self.take_over(model, options, batch)
        layout = torch.contiguous_format if name == "torch-eager" else torch.channels_last
        self.model = self.model.to(memory_format=layout)
        self.x = x.contiguous(memory_format=layout)
        # the fastest of PyTorch's Adams on a CPU
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3, fused=True)
        self.call = torch.compile(self.model) if name == "torch-compile" else self.model

    def take_over(self, model, options, batch):
        """Load minires' weights, and return the images of its batch."""
        from benchmarks import tasks

        ours = tasks.network(model, options)
        state = tasks.state(ours)
        theirs = {their_path(path): to_torch(array) for path, array in state.items()}
        missing, unexpected = self.model.load_state_dict(theirs, strict=False)
        forgotten = [name for name in missing if not name.endswith("num_batches_tracked")]
        if forgotten or unexpected:
            raise ValueError(f"the networks differ: {forgotten} and {unexpected}")
        self.paths = {their_path(path): path for path in state}
        x, labels = tasks.batch(ours, batch)
        self.labels = torch.from_numpy(labels)
        return torch.from_numpy(x).permute(0, 3, 1, 2)

    def mode(self, training):
        """Walk through the modules only if it changes anything: that takes time."""
        if self.model.training != training:
            self.model.train(training)

    def gradients(self):
        """Forward, loss and backward of a training step."""
        self.mode(training=True)
        self.optimizer.zero_grad()
        logits = self.call(self.x)
        loss = functional.cross_entropy(logits, self.labels)
        loss.backward()
        return logits, loss

    def train(self):
        self.gradients()
        self.optimizer.step()

    def infer(self):
        self.mode(training=False)
        with torch.inference_mode():
            return self.call(self.x)

    def results(self, what):
        """What one pass computes, as {name: array} in minires' layout; weights stay."""
        if what == "infer":
            return {"logits": self.infer().numpy()}
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        logits, loss = self.gradients()
        for name, buffer in self.model.named_buffers():
            buffer.copy_(kept[name])
        named = {
            f"grad:{self.paths[path]}": to_ours(parameter.grad)
            for path, parameter in self.model.named_parameters()
        }
        return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **named}


def conv2d(x, weight, stride, padding):
    """PyTorch pads both sides alike; where they differ, the zeros are added before."""
    if isinstance(padding, tuple):
        (top, bottom), (left, right) = padding
        if (top, left) == (bottom, right):
            padding = top, left
        else:
            x, padding = functional.pad(x, (left, right, top, bottom)), 0
    return functional.conv2d(x, weight, stride=stride, padding=padding)


OPS = {
    "conv2d": conv2d,
    "batchnorm": lambda x, gamma, beta, eps: functional.batch_norm(
        x, None, None, gamma, beta, training=True, eps=eps
    ),
    "relu": functional.relu,
    "maxpool2d": functional.max_pool2d,
    "global_avgpool2d": lambda x: x.mean((2, 3)),
    "dense": functional.linear,
}


class Op:
    """One op with its arrays; see `cases`."""

    def __init__(self, name, case):
        self.call, self.options = OPS[case["op"]], cases.options(case)
        eager = name == "torch-eager"
        self.layout = torch.contiguous_format if eager else torch.channels_last
        given = cases.arrays(case, "float32")
        x = self.images(given.pop("x"))
        self.given = {"x": x} | {key: to_torch(array) for key, array in given.items()}
        for tensor in self.given.values():
            tensor.requires_grad_()
        self.y = self.forward()
        shape = self.y.shape
        nhwc = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)
        self.dy = self.images(cases.arrays({"dy": nhwc}, "float32")["dy"])

    def images(self, array):
        """A tensor of images, or of features."""
        tensor = torch.from_numpy(array)
        if tensor.ndim == 4:
            tensor = tensor.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        return tensor

    def forward(self):
        return self.call(*self.given.values(), **self.options)

    def backward(self):
        given = list(self.given.values())
        return torch.autograd.grad(self.y, given, self.dy, retain_graph=True)

    def results(self, what):
        named = dict(zip(self.given, self.backward(), strict=True))
        x = as_nhwc(named.pop("x"))
        gradients = {f"grad:{name}": to_ours(gradient) for name, gradient in named.items()}
        return {"y": as_nhwc(self.y.detach()), "grad:x": x} | gradients


def as_nhwc(tensor):
    """Images as minires has them."""
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).contiguous().numpy()


def product(size):
    """A function that multiplies two square matrices."""
    a = torch.ones(size, size)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, a, out=out)
