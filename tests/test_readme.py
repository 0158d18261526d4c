"""The README's code runs as it stands, and its commands are those of the package."""

import re
from pathlib import Path

import pytest

import minires
from minires.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
NAMED = re.findall(r"\| `minires (\w+)", PAGE)


def test_every_python_block_runs_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "epoch 2: loss" in out
    assert "conv.weight" in out


def test_every_python_block_of_the_page_on_flow_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "flow.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(compile(block, "flow.md", "exec"), names)
    assert "Healthy: nothing to report" in capsys.readouterr().out
    assert names["log"].records == names["recorded"].records


def test_the_python_block_of_the_page_on_training_runs():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1
    names = {}
    exec(compile(blocks[0], "training.md", "exec"), names)
    assert len(names["history"]) == 1


@pytest.mark.parametrize("name", ["data", "recipe"])
def test_the_page_on_training_names_every_choice(name):
    from minires.data import FILE_LOADERS, LOADERS
    from minires.runs import RECIPES

    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    choices = RECIPES if name == "recipe" else [*LOADERS, *FILE_LOADERS]
    table = page[page.index(f"| `--{name}`") :].split("\n\n")[0]
    for choice in choices:
        assert f"`{choice}`" in table


def test_the_readme_counts_what_is_refused():
    from broken import BROKEN

    assert f"{len(BROKEN)} backward passes that are wrong on purpose" in README


def test_the_two_commands_are_there_word_by_word():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert blocks == [
        "pip install . && minires demo\n",
        "minires tutorials && pip install jupyterlab && jupyter lab minires_tutorials\n",
        'pip install -e ".[test]" && pytest\n',
    ]


def test_the_page_on_the_command_line_names_all_commands():
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    assert sorted(NAMED) == sorted(names)


@pytest.mark.parametrize("command", NAMED)
def test_every_command_that_the_page_names_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: minires {command}" in capsys.readouterr().out


def test_every_local_link_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_path_that_the_docs_name_exists():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for path in re.findall(r"`((?:minires|tests|docs)/[\w/.]+)", page.read_text("utf-8")):
            if not path.startswith("minires_"):
                assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_changelog_knows_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {minires.__version__}" in changelog
