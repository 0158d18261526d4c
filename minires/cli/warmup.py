"""compile the kernels of the fast ops ahead of the first training step"""

import importlib
import time

import numpy as np
from tqdm import tqdm

from minires.fusion import fuse
from minires.losses import SoftmaxCrossEntropy
from minires.models import build
from minires.ops import fast
from minires.optimizers import SGD, Adam, gradient_norm

EXAMPLE = "minires warmup"
BATCH = 16  # enough for the ways that want many images or tiles

# between them they call every kernel that the models have; a test compares
NETWORKS = (
    ("resnet8", {}),
    ("resnet8", {"input_shape": (8, 8, 1)}),
    ("resnet8", {"shortcut": "B"}),
    ("plain8", {"norm": None}),
    ("preact_resnet20", {}),
    ("article_resnet", {"num_blocks": 1}),
    ("resnet18", {"input_shape": (64, 64, 3), "num_classes": 10}),
)


def add_arguments(parser):
    """The options of the command."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="float32 to train (default), float64 to check gradients",
    )


def run(options):
    """Take a step with each network, and say where its kernels came from."""
    if not fast.compiles():
        raise ValueError("warmup expects a Numba that may compile, got none: see NUMBA_DISABLE_JIT")
    cache = importlib.import_module("minires.ops.fast.cache")
    progress = importlib.import_module("minires.ops.fast.progress")
    start = time.perf_counter()
    form = "{desc}: {n} kernels compiled, {elapsed}{postfix}"
    with tqdm(bar_format=form, leave=False, disable=None) as bar:

        def tell(kernel):
            bar.set_postfix_str(kernel, refresh=False)
            bar.update()

        with progress.told_by(tell):
            for i, (name, more) in enumerate(NETWORKS, start=1):
                bar.set_description(f"{name} ({i} of {len(NETWORKS)})")
                model = build(name, rng=0, dtype=options.dtype, ops=fast, **more)
                rehearse(model, np.dtype(options.dtype))
                rehearse(fuse(model), np.dtype(options.dtype))
    compiled, loaded = len(progress.progress.compiled), len(cache.loaded)
    seconds = time.perf_counter() - start
    print(f"{compiled} kernels compiled, {loaded} from the disk, in {seconds:.1f} s")
    print(progress.where())
    return 0


def rehearse(model, dtype):
    """Inference on one image and on several, and a training step with each kind of optimiser."""
    x = np.random.default_rng(0).standard_normal((BATCH, *model.input_shape)).astype(dtype)
    loss = SoftmaxCrossEntropy(ops=fast)
    for images in (x[:1], x):
        model.forward(images)
    loss.forward(model.forward(x, training=True), np.zeros(BATCH, int))
    model.backward(loss.backward())
    parameters = model.parameters()
    gradient_norm(parameters, ops=fast)
    fast.statistics(x), fast.inner_product(x, x)  # what a recorder calls
    for optimizer in (Adam(parameters, ops=fast), SGD(parameters, 0.1, ops=fast)):
        optimizer.step()
