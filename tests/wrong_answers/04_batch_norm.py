"""Typical mistakes in the solutions of notebook 4, and what the learner is told."""

VAR = "var = ((x - mean) ** 2).mean(axis=(0, 1, 2))"
RSTD = "rstd = 1 / np.sqrt(var + eps)"
DX = "dx = rstd * (dxhat - dxhat.mean(axis=axes) - xhat * (dxhat * xhat).mean(axis=axes))"
EVAL = "rstd = 1 / np.sqrt(running_var + eps)"

WRONG = [  # (exercise, line of the solution, line with a mistake, words of the message)
    (1, "axis=(0, 1, 2)", "axis=0", "mean and variance go over the examples only"),
    (1, "axis=(0, 1, 2)", "axis=(1, 2), keepdims=True", "over the pixels of each image"),
    (1, VAR, "var = x.var(axis=(0, 1, 2), ddof=1)", "the variance is divided by M - 1"),
    (1, RSTD, "rstd = 1 / np.sqrt(var)", "eps is missing"),
    (1, RSTD, "rstd = 1 / (np.sqrt(var) + eps)", "eps is added behind the root"),
    (1, RSTD, "rstd = 1 / (var + eps)", "divided by the variance"),
    (1, "gamma * xhat + beta", "gamma * xhat", "beta is missing"),
    (1, "gamma * xhat + beta", "xhat + beta", "gamma is missing"),
    (1, "return y, xhat, rstd", "return y, xhat, 1 / rstd", "this is the standard deviation"),
    (1, "return y, xhat, rstd", "return y", "Expected 3 values, (y, xhat, rstd), got ndarray"),
    (2, DX, "dx = rstd * dxhat", "both subtracted paths are missing"),
    (2, " - dxhat.mean(axis=axes)", "", "the path through the mean is missing"),
    (2, " - xhat * (dxhat * xhat).mean(axis=axes)", "", "the path through the variance is missing"),
    (2, DX, DX.replace(" - ", " + "), "the two paths are added, and not subtracted"),
    (2, DX, DX.replace("xhat * (", "("), "the factor xhat in front of the second mean is missing"),
    (2, DX, DX.replace(".mean(", ".sum("), "sums stand where the two means belong"),
    (2, DX, DX.replace("mean(axis=axes)", "sum(axis=axes) / len(dy)"), "divided by N;"),
    (2, DX, DX.replace("rstd * ", ""), "rstd is missing in front"),
    (2, DX, DX.replace("=axes", "=0"), "the means go over the examples only"),
    (2, "dxhat = dy * gamma", "dxhat = dy", "gamma is missing: dxhat = dy * gamma"),
    (2, DX, "dx = -" + DX[5:], "dx: The sign is the wrong way round"),
    (2, ".sum(axis=axes)\n    dbeta", ".mean(axis=axes)\n    dbeta", "division by M = 24 too many"),
    (2, "dbeta = dy.sum(axis=axes)", "dbeta = dy.sum(axis=0)", "goes over the examples only"),
    (2, "return dx, dgamma, dbeta", "return dx, dbeta, dgamma", "dgamma and dbeta are exchanged"),
    (3, "ddof=1", "ddof=0", "the variance of the batch is divided by M; this one"),
    (3, "ddof=1", "ddof=1) ** 0.5 * (1", "it should be the variance"),
    (
        3,
        "running_mean + momentum * (mean",
        "running_mean + (1 - momentum) * (mean",
        "weighs the old",
    ),
    (3, "running_mean + momentum * (mean - running_mean)", "mean", "only a part of the way"),
    (3, " - running_mean)", ")", "the old value is not weighed with 1 - momentum"),
    (3, "new_mean, new_var", "new_var, new_mean", "mean and variance are exchanged"),
    (3, "new_mean = running_mean +", "new_mean = running_mean; new_mean +=", "make new ones"),
    (4, "dx = dy * gamma * rstd", "dx = dy * gamma", "rstd is missing: y has the slope"),
    (4, "dx = dy * gamma * rstd", "dx = dy * rstd", "gamma is missing: y has the slope"),
    (4, "dx = dy * gamma * rstd", "dx = -dy * gamma * rstd", "sign is the wrong way round"),
    (4, EVAL, "rstd = 1 / (running_var + eps)", "the root is missing"),
    (4, EVAL, "rstd = 1 / np.sqrt(running_var)", "eps is missing"),
    (4, EVAL, "rstd = 1 / np.sqrt(x.var((0, 1, 2)) + eps)", "and not the running ones"),
    (4, "(dy * xhat).sum", "(dy * x).sum", "dy is multiplied by x, where it should be xhat"),
    (4, "(dy * xhat).sum(axis=(0, 1, 2))", "(dy * xhat).sum(axis=0)", "goes over the examples"),
    (
        4,
        "dx = dy * gamma * rstd",
        "d = dy * gamma\n    m = d.mean((0, 1, 2)), (d * xhat).mean((0, 1, 2))\n"
        "    dx = rstd * (d - m[0] - xhat * m[1])",
        "the terms of training mode are subtracted",
    ),
]
