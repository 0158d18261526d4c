"""Ready-made networks; each function returns a Layer, freshly initialised.

`build(name, ...)` is the same by name, for the command line.
"""

from minires.checks import expect_choice
from minires.models.article import article_resnet
from minires.models.cifar import (
    cifar_resnet,
    plain8,
    plain20,
    plain32,
    plain44,
    plain56,
    plain110,
    preact_resnet20,
    preact_resnet32,
    preact_resnet44,
    preact_resnet56,
    preact_resnet110,
    resnet8,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)
from minires.models.imagenet import resnet18, resnet34, resnet50
from minires.models.summary import Summary, summarize

BUILDERS = {
    build.__name__: build
    for build in (
        resnet8,
        resnet20,
        resnet32,
        resnet44,
        resnet56,
        resnet110,
        plain8,
        plain20,
        plain32,
        plain44,
        plain56,
        plain110,
        preact_resnet20,
        preact_resnet32,
        preact_resnet44,
        preact_resnet56,
        preact_resnet110,
        resnet18,
        resnet34,
        resnet50,
        article_resnet,
    )
}


def build(name, **options):
    """The model called `name`, built with `options`.

    Raises
    ------
    ValueError
        If there is no such model; the message lists them.
    """
    return BUILDERS[expect_choice("build", "name", name, list(BUILDERS))](**options)


__all__ = [
    "BUILDERS",
    "Summary",
    "article_resnet",
    "build",
    "cifar_resnet",
    "plain8",
    "plain20",
    "plain32",
    "plain44",
    "plain56",
    "plain110",
    "preact_resnet20",
    "preact_resnet32",
    "preact_resnet44",
    "preact_resnet56",
    "preact_resnet110",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "summarize",
]
