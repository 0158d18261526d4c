"""Typical mistakes in the solutions of notebook 12, and what the learner is told."""

ADD = "y[i : i + B, j : j + B] += a[i : i + B, k : k + B] @ b[k : k + B, j : j + B]"
BYTES = "4 * (N * H * W * C + 9 * C * F + N * H * W * F)"
LIMIT = '"memory" if by_memory < peak else "arithmetic"'

WRONG = [  # (exercise, line of the solution, line with a mistake, words of the message)
    (1, "+=", "=", "each block product overwrites the one before"),
    (1, "range(0, K, B)", "range(0, K - B + 1, B)", "block at the end of k is left out"),
    (1, "range(0, M, B)", "range(0, M - B + 1, B)", "at the end of the rows are left out"),
    (1, "range(0, K, B)", "range(1)", "only the first block along k is used"),
    (1, ADD, "y[i : i + B, j : j + B] = a[i : i + B] @ b[:, j : j + B]", "strips are multiplied"),
    (1, ADD, "y = np.asarray(a) @ b", "no two blocks were multiplied with @"),
    (1, ADD, "y = a @ b", "a and b are multiplied as a whole"),
    (1, "return y", "return -y", "The sign is the wrong way round"),
    (2, "((s + w[1]) / 2)", "(s + w[1])", "P + Q is not halved"),
    (2, "((s - w[1]) / 2)", "(s - w[1])", "P - Q is not halved"),
    (2, "s = w[0] + w[2]", "s = sum(w)", "w1 is part of s"),
    (2, "+ half_sum + half_difference", "+ half_sum - half_difference", "y0 gets Q"),
    (2, "(d[2] - d[1])", "(d[1] - d[2])", "the sign of P - Q is wrong"),
    (
        2,
        "half_sum - half_difference",
        "half_sum + half_difference",
        "y1 gets P",
    ),
    (2, "(d[3] - d[1])", "(d[1] - d[3])", "(d1 - d3) w2 is added to y1"),
    (2, "(s - w[1])", "(s + w[1])", "P - Q = (d2 - d1)(s - w1)"),
    (
        2,
        "y1 = (d[3]",
        "y1 = d[1] * w[0] + d[2] * w[1] + d[3] * w[2]; (d[3]",
        "it took 7 products",
    ),
    (3, "2 * N * H * W * F", "N * H * W * F", "a multiply-add is counted once"),
    (3, "F * 9 * C", "F * C", "the 9 taps are missing"),
    (3, "F * 9 * C", "F * 9", "each output adds up over all of them"),
    (3, "W * F * 9 * C", "W * 9 * C", "each of them gives an output"),
    (3, BYTES, BYTES.replace("4 * ", ""), "numbers are counted, not bytes"),
    (3, BYTES, BYTES.replace("4 * ", "8 * "), "numbers are taken to have 8 bytes"),
    (3, BYTES, BYTES.replace(" + N * H * W * F", ""), "it has to be written"),
    (3, BYTES, BYTES.replace(" + 9 * C * F", ""), "the weights are missing"),
    (3, BYTES, BYTES.replace("(N * H * W * C", "(9 * N * H * W * C"), "the columns are counted"),
    (4, "min(by_memory, peak)", "max(by_memory, peak)", "the smaller of two"),
    (4, "intensity * bandwidth", "bandwidth / intensity", "are divided by operations a byte"),
    (4, "min(by_memory, peak)", "peak", "memory is left out"),
    (4, "min(by_memory, peak)", "by_memory", "arithmetic is left out"),
    (4, "min(by_memory, peak)", "min(bandwidth, peak)", "multiply it by the intensity"),
    (4, LIMIT, LIMIT.replace("<", ">"), "the two words are exchanged"),
]
