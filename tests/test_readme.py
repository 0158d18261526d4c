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


def test_the_readme_counts_what_is_refused():
    from broken import BROKEN

    assert f"{len(BROKEN)} backward passes that are wrong on purpose" in README


def test_the_chinese_readme_has_the_same_code_links_pictures_and_figures():
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    for pattern in (r"```.*?```", r"\]\(([^)]+)\)", r"\d+(?:\.\d+)?", r"^#+ ", r"`[^`\n]+`"):
        ours, theirs = (
            sorted(set(re.findall(pattern, text, re.DOTALL | re.MULTILINE)))
            for text in (README, chinese)
        )
        ours = ["README.md" if found == "README.zh-CN.md" else found for found in ours]
        assert sorted(ours) == theirs, pattern


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


def test_the_changelog_knows_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {minires.__version__}" in changelog
