"""The report of a run in Markdown, with its pictures."""

import json
import math

from minires import plots
from minires.runs.files import write_text, writing

MISTAKES = 32
MIRRORED = "with the mean over each image and its mirror image"


def write_report(folder, facts, history, results, data):
    """report.md, curves.png, confusion.png and mistakes.png.

    Parameters
    ----------
    folder : Path
    facts : dict
        What `Run.facts` gives.
    history : History
    results : Results
    data : Dataset
    """
    settings = facts["settings"]
    name = f"{settings['model']} on {facts['data']['name']}"
    if len(history):
        recipe = f"{name}, {settings['recipe']['name']}, seed {settings['seed']}"
        draw(plots.run_figure(recipe, history), folder / "curves.png", dpi=150)
    wrong = round(results.error * len(results.labels))
    title = f"{name}: {wrong:,} mistakes in {len(results.labels):,}"
    ax = plots.confusion_matrix(results.confusion, data.class_names, title=title)
    draw(ax.figure, folder / "confusion.png")
    if wrong:
        draw(draw_mistakes(results, data), folder / "mistakes.png")
    write_text(folder / "report.md", markdown(facts, history, results, wrong))


def draw(figure, path, dpi=110):
    """Write a picture."""
    with writing(path):
        figure.savefig(path, dpi=dpi)


def draw_mistakes(results, data):
    """The mistakes of which the model was surest."""
    chosen = results.mistakes(MISTAKES)
    captions = [
        f"{100 * results.probs[i, k]:.0f} % {data.class_names[k]}\n"
        f"true: {data.class_names[results.labels[i]]}"
        for i in chosen
        for k in [results.probs[i].argmax()]
    ]
    title = "Mistakes of which the model was surest: probability and class given, true class"
    return plots.labelled_images(data.x_test[chosen], captions, title=title)


def markdown(facts, history, results, wrong):
    """The text of the report."""
    settings, data = facts["settings"], facts["data"]
    parts = [
        f"# {settings['model']} on {data['name']}, recipe {settings['recipe']['name']}, "
        f"seed {settings['seed']}",
        headline(facts, results),
        table(["what", "value"], numbers(facts, history, results)),
        "![Loss and error of each epoch](curves.png)" if len(history) else "",
        "## Mistakes",
        "Rows are true classes, columns the class given by the model.",
        confusion_table(results),
        "![Confusion matrix](confusion.png)",
        "![Mistakes of which the model was surest](mistakes.png)" if wrong else "",
        "## What was run",
        "```json\n" + json.dumps(facts, indent=2) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def headline(facts, results):
    """The error with its standard error, in a sentence."""
    progress = facts["progress"]
    text = f"Test error **{describe(results)}**"
    if results.mirrored is not None:
        mirrored = percent(results.mirrored_error, len(results.labels))
        text += f"; {MIRRORED} {mirrored}"
    if progress["step"] < progress["total"]:
        done = f"step {progress['step']:,} of {progress['total']:,}"
        text += f". The training is not finished: {done}"
    return text + "."


def describe(results):
    """The error with its standard error and the number of images."""
    count = len(results.labels)
    return (
        f"{percent(results.error, count)} ± {percent(results.standard_error, count)} "
        f"(binomial standard error, {count:,} images)"
    )


def percent(share, count):
    """A share of `count` images, with no more digits than one image changes; two at most."""
    digits = min(max(math.ceil(math.log10(count)) - 2, 0), 2)
    return f"{100 * share:.{digits}f} %"


def numbers(facts, history, results):
    """Rows of the table at the top."""
    data, seconds, progress = facts["data"], facts["seconds"], facts["progress"]
    rows = [
        ["test accuracy", percent(1 - results.error, len(results.labels))],
        ["training images", f"{data['train']:,}"],
        ["steps", f"{progress['step']:,} of {progress['total']:,}"],
        ["epochs", f"{len(history)}"],
    ]
    if len(history):
        last = history[-1]
        each = sum(history.column("seconds")) / len(history)
        rows += [
            ["training loss, last epoch", f"{last.loss:.4f}"],
            ["training accuracy, last epoch", percent(last.accuracy, data["train"])],
            ["seconds an epoch, evaluation included", f"{each:.1f}"],
        ]
    if seconds["counted"]:
        sizes = " of both sizes" if facts["settings"]["recipe"]["progressive"] else ""
        rate = facts["images"] / seconds["counted"]
        rows.append([f"images{sizes} a second in training, after the first step", f"{rate:,.0f}"])
    total = seconds["training"] + seconds["testing"]
    rows.append(["steps and evaluations, without saving", f"{total:,.0f} s ({total / 60:.1f} min)"])
    memory = [origin["peak_memory"] for origin in facts["origins"] if origin["peak_memory"]]
    if memory:
        rows.append(["peak memory", f"{max(memory) / 1e6:,.0f} MB"])
    if data["verified"] is not None:
        rows.append(["image files", VERIFIED[data["verified"]]])
    return rows


VERIFIED = {
    True: "official, with the right checksum",
    False: "unpacked, which have no official checksum",
}


def confusion_table(results):
    """The confusion matrix as a table; nothing where it would be too wide."""
    names = results.class_names
    if len(names) > plots.classification.MANY:
        return ""
    rows = [[name, *row] for name, row in zip(names, results.confusion.tolist(), strict=True)]
    return table(["", *names], rows)


def table(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines)


def escape(cell):
    return str(cell).replace("|", r"\|")
