"""Typical mistakes in the solutions of notebook 2, and what the learner is told."""

FINITE = "not (np.isfinite(analytic).all() and np.isfinite(numeric).all())"
WITHIN = "size > 0 and np.abs(analytic - numeric).max() <= tolerance * size"

WRONG = [  # (exercise, line of the solution, line with a mistake, words of the message)
    (1, "/ (2 * h)", "/ h", "the points are 2 h apart"),
    (1, "/ (2 * h)", "/ 2 * h", "times what it should be"),
    (1, "(ahead - behind) / (2 * h)", "ahead - behind", "h is not divided by"),
    (1, "x[i] = old - h", "x[i] = old", "f(x - h) is missing"),
    (1, "ahead - behind", "behind - ahead", "The sign is the wrong way round"),
    (1, "x[i] = old  #", "pass  #", "stays at x - h while the next one is moved: put it back"),
    (1, "np.ndindex(x.shape)", "range(len(x))", "the old row is a view of x"),
    (1, "old = x[i]", "old = x.copy()\n        i = ...", "all entries are moved at once"),
    (1, "gradient = np.zeros(x.shape)", "gradient = np.zeros((2, 4))", "expected shape (2, 3)"),
    (2, "** (1 / 3)", "** (1 / 2)", "h^2 times h is h^3"),
    (2, "** (1 / 3)", "** 1 / 3", "Python reads ** 1 / 3 as a power of 1"),
    (2, "** (1 / 3)", "", "the root is missing"),
    (2, "3 * eps", "6 * eps", "the two errors are set equal"),
    (2, "3 * eps", "eps", "the 3 is missing"),
    (2, "size / third", "third / size", "have changed places"),
    (
        3,
        "(dx * v).sum()",
        "dx * v",
        "claimed: It looks as if the products of dx and v are not added",
    ),
    (3, "(dx * v).sum()", "(dx * v).mean()", "averaged, where the chain rule adds"),
    (3, "(dx * v).sum()", "dx.sum()", "v is left out"),
    (3, "/ (2 * h)", "/ h", "measured: It looks as if f(x + h v) - f(x - h v) is divided by h"),
    (3, "f(x - h * v)", "f(x)", "f(x - h v) is missing"),
    (3, "f(x - h * v)", "f(x - h * v) + 0 * f(x)", "no use for it"),
    (3, "return claimed, measured", "return measured, claimed", "have changed places"),
    (3, "return claimed, measured", "return claimed", "Expected 2 values, (claimed, measured)"),
    (4, FINITE, "False", "infinity passes"),
    (
        4,
        WITHIN,
        "size == size and not np.abs(analytic - numeric).max() > tolerance * size",
        "two gradients of zeros pass",
    ),
    (4, "tolerance * size", "tolerance", "not taken relative to the size"),
    (4, "size > 0 and ", "", "two gradients of zeros pass"),
    (4, "analytic.shape != numeric.shape", "False", "NumPy broadcasts (3, 1) and (3,)"),
    (4, "np.abs(analytic).max(), np.abs(numeric).max()", "analytic.max(), numeric.max()", "np.abs"),
    (4, "np.abs(analytic - numeric).max()", "(analytic - numeric).max()", "signs enter"),
    (
        4,
        WITHIN,
        "np.all(np.abs(analytic - numeric) <= tolerance * np.abs(numeric))",
        "each entry is compared with itself",
    ),
]
