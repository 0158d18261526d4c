"""Typical mistakes in the solutions of notebook 5, and what the learner is told."""

PICK = "row, column = np.unravel_index(window.argmax(), window.shape)"
ROUTE = "dx[n, top + row, left + column, c] += dy[n, i, j, c]"
TILE = "dx[n, top : top + kernel, left : left + kernel, c]"
ALL = "dx[:, top : top + kernel, left : left + kernel] += share[:, None, None]"
NORMS = "norms = 2 * (8 + 12 + 12)"
WIDTH = "1 + 2 * 1 + 2 * 1 + 1 * 1 + 2 * 2"

WRONG = [  # (exercise, line of the solution, line with a mistake, words of the message)
    (1, ROUTE, ROUTE.replace("+=", "="), "dy is assigned; where windows overlap"),
    (1, ROUTE, f"{TILE} += (window == window.max()) * dy[n, i, j, c]", "every pixel of a tie"),
    (
        1,
        ROUTE,
        f"tie = window == window.max(); {TILE} += tie / tie.sum() * dy[n, i, j, c]",
        "a tie shares dy",
    ),
    (1, ROUTE, f"{TILE} += dy[n, i, j, c]", "every pixel of the window gets dy"),
    (1, ROUTE, ROUTE.replace("+= dy", "-= dy"), "sign is the wrong way round"),
    (1, ROUTE, ROUTE + " * window.max()", "dy is multiplied by the pixel"),
    (1, "window.argmax()", "window.argmin()", "the smallest pixel gets dy"),
    (
        1,
        PICK,
        "row, column = np.argwhere(window == window.max())[-1]",
        "the last pixel of a tie gets dy",
    ),
    (1, "row, column = np", "column, row = np", "are exchanged"),
    (1, "i * stride, j * stride", "i, j", "begins at i; it should be i * stride"),
    (1, "top + row, left + column", "row, column", "is taken for the place in the image"),
    (2, "i * stride, j * stride", "i * kernel, j * kernel", "begins at i * kernel; it should"),
    (2, "share = dy[:, i, j] / kernel**2", "share = dy[:, i, j]", "not divided by the number of"),
    (2, "kernel**2", "kernel", "dy is divided by kernel; a window has kernel * kernel"),
    (2, "kernel**2", "(OH * OW)", "by the number of windows"),
    (2, "kernel**2", "(shape[1] * shape[2])", "by the number of pixels of the image"),
    (2, "kernel**2", "kernel**2 / N", "one division by N = 2 too many"),
    (2, ALL, ALL.replace("+=", "="), "dy is assigned; where windows overlap"),
    (2, ALL, "dx[:, top, left] += share", "only the first pixel of each window"),
    (2, "dy[:, i, j] / kernel**2", "-dy[:, i, j] / kernel**2", "sign is the wrong way round"),
    (2, "return dx", "return share", "The shape is wrong: expected shape (2, 9, 5, 3)"),
    (3, "KH * KW * C", "C", "fan-in is C"),
    (3, "KH * KW * C", "KH * KW", "each of the C channels is added up too"),
    (3, "KH * KW * C", "F", "how many outputs there are"),
    (3, "KH * KW * C", "KH * KW * F", "this is the fan-out"),
    (3, "KH * KW * C", "KH * KW * C * F", "those of its own filter only"),
    (3, "KH * KW * C", "KH * KW * (C + F)", "Glorot's rule"),
    (3, "2 / (KH", "1 / (KH", "the 2 is missing"),
    (3, "np.sqrt(2 / (KH * KW * C))", "2 / (KH * KW * C)", "the variance"),
    (3, "2 / (KH * KW * C)", "KH * KW * C / 2", "upside down"),
    (3, "2 / (KH * KW * C)", "2 / KH * KW * C", "the product needs brackets"),
    (4, NORMS, "norms = 4 * (8 + 12 + 12)", "the running statistics are counted"),
    (4, NORMS, "norms = 8 + 12 + 12", "it has gamma and beta"),
    (4, NORMS, "norms = 0", "the batch norms are missing"),
    (4, NORMS, NORMS + " + 8 + 12 + 12", "the convolutions have a bias"),
    (4, "12 * 10 + 10", "12 * 10", "the bias of the dense layer is missing"),
    (4, "3 * 3 * 8 * 12 + 3 * 3 * 12 * 12", "9 * 12 + 9 * 12", "it sees all C of them"),
    (4, "12 * 10 + 10", "4 * 4 * 12 * 10 + 10", "global average pooling leaves 12"),
    (4, WIDTH, "1 + 2 * 1 + 2 * 1 + 1 * 1 + 2 * 1", "the stride of the pooling is left out"),
    (4, WIDTH, "1 + 2 * 1 + 2 * 1 + 2 * 2", "the pooling's own window is left out"),
    (4, WIDTH, "1 + 2 * 1 + 2 * 1 + 1 * 2 + 2 * 2", "the jump is doubled before"),
    (4, WIDTH, "1 + 3 * 1 + 3 * 1 + 2 * 1 + 3 * 2", "larger by k; it is k - 1"),
    (4, WIDTH, "10 * 10", "the number is the area"),
]
