"""classify the test images with a trained model"""

from minires.cli.saved import add_arguments, data_of, opened, tell
from minires.runs import measure, network_of
from minires.runs.run import describe_data

EXAMPLE = "minires evaluate run"
__all__ = ["EXAMPLE", "add_arguments", "run"]


def run(options):
    """Print the test error, its standard error, and what mirror images change."""
    from minires.fusion import fuse

    saved = opened(options.folder)
    settings, data = data_of(saved, options)
    model, preprocess, _ = network_of(saved)
    wanted, came = saved.checkpoint.meta["data"], describe_data(data)
    for what in ("input_shape", "class_names"):
        if came[what] != wanted[what]:
            raise ValueError(f"expected {what} {wanted[what]}, got {came[what]} in {data.name}")
    results = measure(fuse(model), data, preprocess, mirror=settings.recipe.flip)
    step = saved.checkpoint.meta["step"]
    print(f"{settings.model} after {step:,} steps on {len(results.labels):,} images of {data.name}")
    if came["fingerprint"] != wanted["fingerprint"]:
        print("not the files that it was trained beside: the fingerprints differ")
    tell(results)
    return 0
