"""The recipes that have a name. A change of a number is a new version."""

from minires.runs.recipe import Recipe

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="adam",
            version=1,
            source="Adam's defaults: Kingma and Ba (2015), arXiv:1412.6980, section 2",
            epochs=5,
            batch_size=64,
            optimizer="adam",
            lr=1e-3,
        ),
        Recipe(
            name="he2015",
            version=1,
            source="He et al. (2015), arXiv:1512.03385, section 4.2",
            steps=64_000,
            batch_size=128,
            optimizer="sgd",
            lr=0.1,
            optimizer_options={"momentum": 0.9, "weight_decay": 1e-4},
            schedule="step",
            schedule_options={"milestones": [32_000, 48_000], "factor": 0.1},
            normalize="pixels",
            pad=4,
            flip=True,
        ),
        Recipe(
            name="article",
            version=1,
            source="the Keras program that minires grew from: compile('adam'), batches of 32",
            epochs=10,
            batch_size=32,
            optimizer="adam",
            lr=1e-3,
            optimizer_options={"eps": 1e-7},
        ),
        Recipe(
            name="fast20",
            version=1,
            source="chosen for twenty minutes on two cores; see docs/results.md",
            epochs=32,
            batch_size=128,
            optimizer="muon",
            lr=0.02,
            optimizer_options={"momentum": 0.9, "weight_decay": 5e-3},
            schedule="one-cycle",
            schedule_options={"rise": 0.2},
            normalize="channels",
            pad=4,
            flip="alternate",
            progressive={"scale": 0.75, "share": 0.5},
            test_every=4,
        ),
    )
}
