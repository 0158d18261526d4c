"""The minires side of `cifar`: what `minires train` does, without its files."""

from threadpoolctl import threadpool_limits

from minires.models import build
from minires.runs import Trainer


class Training:
    """A Trainer.

    Parameters
    ----------
    name : str
        The contender's; PyTorch's side needs it.
    model : str
    recipe : Recipe
    data : Dataset
    seed : int
        Of the first weights, the order and the augmentation.

    Attributes
    ----------
    error : float or None
        Share of the test images that are classified wrongly, after `run`.
    """

    def __init__(self, name, model, recipe, data, seed):
        self.trainer = Trainer(build(model, rng=seed), data, recipe, seed=seed)
        self.error = None

    def run(self):
        """Train to the end, with one thread for NumPy's BLAS, as `minires train` has it."""
        with threadpool_limits(limits=1, user_api="blas"):
            while not self.trainer.finished:
                for _ in self.trainer.steps():
                    pass
                self.trainer.end_epoch()
        self.error = 1 - self.trainer.history[-1].test_accuracy
