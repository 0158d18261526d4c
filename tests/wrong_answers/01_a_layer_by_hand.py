"""Typical mistakes in the solutions of notebook 1, and what the learner is told."""

WRONG = [  # (exercise, line of the solution, line with a mistake, words of the message)
    (1, "dx = dy @ w.T", "dx = -dy @ w.T", "dx: The sign is the wrong way round"),
    (1, "dw = x.T @ dy", "dw = dy.T @ x", "dw: The numbers are right, transposed"),
    (1, "dw = x.T @ dy", "dw = x.T @ dy / len(x)", "the rows are averaged"),
    (1, "db = dy.sum(axis=0)", "db = dy.sum(axis=1)", "b is shared by the rows"),
    (1, "db = dy.sum(axis=0)", "db = dy", "db: The sum over the first axis is missing"),
    (1, "return dx, dw, db", "return dx, dw", "Expected 3 values, (dx, dw, db), got 2 values"),
    (2, "logits - logits.max(axis=1, keepdims=True)", "logits", "NaN or infinite"),
    (2, "shifted.sum(axis=1, keepdims=True)", "shifted.sum(axis=0)", "goes over the examples"),
    (2, "shifted / shifted.sum(axis=1, keepdims=True)", "shifted", "not divided by their sum"),
    (3, "return dlogits / len(labels)", "return dlogits", "a division by N = 4 is missing"),
    (3, "dlogits / len(labels)", "-dlogits / len(labels)", "sign is the wrong way round"),
    (3, "dlogits[np.arange(len(labels)), labels] -= 1", "pass", "the labels are missing"),
    (3, "dlogits[np.arange(len(labels)), labels] -= 1", "dlogits[:, labels] -= 1", "not yet"),
    (3, "probs.copy()", "probs", "leaves its argument as it was: not yet"),
]
