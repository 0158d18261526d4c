"""copy the tutorial notebooks into a folder of yours"""

import filecmp
import importlib.util
import shlex
import shutil
import sys
from pathlib import Path

import minires
from minires.cli.arguments import make_folder

EXAMPLE = "minires tutorials --out course"

OUT = "minires_tutorials"
PACKAGE = Path(minires.__file__).parent
PLACES = PACKAGE / "tutorials", PACKAGE.parent / "tutorials"  # installed; in a checkout


def add_arguments(parser):
    """The options of the command."""
    add = parser.add_argument
    add("--out", default=OUT, metavar="DIR", help=f"default {OUT}")
    add("--overwrite", action="store_true", help="replace notebooks in DIR that you have changed")


def run(options):
    """Copy, unless something of the learner's would be lost, and say how to open them."""
    source = find()
    notebooks = sorted(source.glob("[0-9][0-9]_*.ipynb"))
    files = [*notebooks, *sorted((source / "recorded").glob("*.*"))]
    folder = make_folder(options.out)
    targets = {file: folder / file.relative_to(source) for file in files}
    changed = [
        target.name
        for file, target in targets.items()
        if target.exists() and not filecmp.cmp(file, target, shallow=False)
    ]
    if changed and not options.overwrite:
        raise ValueError(
            f"expected a folder without changed notebooks, got {str(folder)!r} with "
            f"{', '.join(changed)}: keep them by another --out, replace them by --overwrite"
        )
    for file, target in targets.items():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    print(f"{len(notebooks)} notebooks in {folder}; begin with {notebooks[0].name}")
    print(how_to_open(folder))
    return 0


def find():
    """The folder with the notebooks."""
    for place in PLACES:
        if any(place.glob("[0-9][0-9]_*.ipynb")):
            return place
    raise ValueError(f"expected the notebooks in {PLACES[0]}, got none: install minires again")


def how_to_open(folder):
    """The command that opens the notebooks, after the one that installs what opens them."""
    open_them = f"jupyter lab {shlex.quote(str(folder))}"
    if importlib.util.find_spec("jupyterlab"):
        return f"open them with: {open_them}"
    return (
        f"open them with: {shlex.quote(sys.executable)} -m pip install jupyterlab, then {open_them}"
    )
