"""Put the figures of a finished run beside the notebooks: python tutorials/record.py RUN

RUN is the folder of a `minires train`. Its recipe's name is that of the two files in
`tutorials/recorded/`: NAME.csv, the run's history.csv as it is, and NAME.json, which notebook 11
reads. A record is made of figures only; neither images nor weights are kept.
"""

import json
import shutil
import sys
from datetime import date
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"
JPEG_COPY = "1d9c22b2ee34d765bcc39f8a1efeb3b5a293788dcce8e19465dcdab29607bf25"
IMAGES = {JPEG_COPY: "CIFAR-10, JPEG copy"}  # {fingerprint: see docs/results.md}


def record(run, recorded=RECORDED):
    """Write NAME.csv and NAME.json.

    Parameters
    ----------
    run : path
        Of the run folder.
    recorded : path
        Where the two files go; made if missing.

    Returns
    -------
    name : str
        Of the recipe.

    Raises
    ------
    ValueError
        If the run is not finished, or was made on somebody's own pictures.
    """
    run, recorded = Path(run), Path(recorded)
    if not (run / "results.json").is_file():
        raise ValueError(f"expected a finished run with a results.json, got {run} without one")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    progress = results["progress"]
    if progress["step"] < progress["total"]:
        raise ValueError(
            f"expected a finished run, got {run} after step {progress['step']} of "
            f"{progress['total']}"
        )
    if Path(results["settings"]["data"]).is_absolute():
        raise ValueError(
            f"expected a run on a data set with a name, got {results['settings']['data']}"
        )
    name = results["settings"]["recipe"]["name"].partition(",")[0]
    made = date.fromtimestamp((run / "checkpoint.npz").stat().st_mtime)
    text = json.dumps(facts(results) | {"date": made.isoformat()}, indent=2)
    recorded.mkdir(exist_ok=True)
    (recorded / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(run / "history.csv", recorded / f"{name}.csv")
    return name


def facts(results):
    """What the notebook says of the run."""
    settings, data, seconds = (results[name] for name in ("settings", "data", "seconds"))
    last = results["origins"][-1]  # of the process that finished it
    figures = ("test_error", "standard_error", "mirrored_test_error")
    return {
        "command": command(settings),
        "images": IMAGES.get(data["fingerprint"], data["name"]),
        "train_images": data["train"],
        "test_images": data["test"],
        **{name: results[name] for name in figures},
        "steps": results["progress"]["step"],
        "seconds": round(seconds["training"] + seconds["testing"], 1),
        "model": settings["model"],
        "seed": settings["seed"],
        "recipe": settings["recipe"],
        "machine": last["machine"],
        "versions": last["versions"],
    }


def command(settings):
    """The command line that began the run.

    Raises
    ------
    ValueError
        If the recipe was changed by more than numbers, or the model by options.
    """
    name, *changes = settings["recipe"]["name"].split(", ")
    if settings["model_options"] or any(change.startswith("flip=") for change in changes):
        raise ValueError("expected a run without --shortcut, --no-norm, --no-flip and the like")
    options = [f"--{change.replace('_', '-').replace('=', ' ')}" for change in changes]
    words = [f"--model {settings['model']}", f"--data {settings['data']}", f"--recipe {name}"]
    return " ".join(["minires train", *words, *options, f"--seed {settings['seed']} --out run"])


if __name__ == "__main__":
    try:
        print(f"recorded {record(sys.argv[1])} in {RECORDED.name}/")
    except IndexError:
        sys.exit("expected the folder of a run: python tutorials/record.py RUN")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
