"""What each op means, in loops; the tests hold the ops against these. Imports only NumPy."""

import numpy as np


def sides(padding, size, kernel, stride, dilation):
    """Padding of one axis as (before, after); "same" is worked out pixel by pixel."""
    reach = dilation * (kernel - 1) + 1
    if padding != "same":
        return padding
    out = -(-size // stride)
    total = 0
    while (size + total - reach) // stride + 1 < out or size + total < reach:
        total += 1
    return total // 2, total - total // 2


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def both_sides(padding, size, kernel, stride, dilation):
    """((top, bottom), (left, right)) of any accepted form of padding."""
    if padding == "valid":
        padding = 0
    forms = ("same", "same") if padding == "same" else pair(padding)
    forms = [f if f == "same" else pair(f) for f in forms]
    axes = zip(forms, size, kernel, stride, dilation, strict=True)
    return tuple(sides(*axis) for axis in axes)


def window_cells(x_shape, kernel, stride, padding, dilation=(1, 1)):
    """For each output pixel, the cells of its window that lie on the image.

    Yields ((i, j), [(kh, kw, h, w)]), and first the output size.
    """
    _, H, W, _ = x_shape
    stride, dilation = pair(stride), pair(dilation)
    (top, bottom), (left, right) = both_sides(padding, (H, W), kernel, stride, dilation)
    OH = (H + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    OW = (W + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    cells = {}
    for i in range(OH):
        for j in range(OW):
            inside = []
            for kh in range(kernel[0]):
                for kw in range(kernel[1]):
                    h = i * stride[0] + kh * dilation[0] - top
                    w = j * stride[1] + kw * dilation[1] - left
                    if 0 <= h < H and 0 <= w < W:
                        inside.append((kh, kw, h, w))
            cells[i, j] = inside
    return (OH, OW), cells


def conv2d(x, w, b, stride, padding, dilation, groups):
    """Every output number is a sum over the taps and the channels of its group."""
    (OH, OW), cells = window_cells(x.shape, w.shape[:2], stride, padding, dilation)
    per_group, F = w.shape[2:]
    y = np.zeros((len(x), OH, OW, F), x.dtype)
    for (i, j), inside in cells.items():
        for kh, kw, h, v in inside:
            for f in range(F):
                first = f // (F // groups) * per_group
                for c in range(per_group):
                    y[:, i, j, f] += x[:, h, v, first + c] * w[kh, kw, c, f]
    return y + b


def conv2d_gradients(x, w, dy, stride, padding, dilation, groups):
    """Each product x * w of the forward pass sends dy * w to x and dy * x to w."""
    _, cells = window_cells(x.shape, w.shape[:2], stride, padding, dilation)
    per_group, F = w.shape[2:]
    dx, dw = np.zeros_like(x, order="C"), np.zeros_like(w, order="C")
    for (i, j), inside in cells.items():
        for kh, kw, h, v in inside:
            for f in range(F):
                first = f // (F // groups) * per_group
                for c in range(per_group):
                    dx[:, h, v, first + c] += dy[:, i, j, f] * w[kh, kw, c, f]
                    dw[kh, kw, c, f] += (dy[:, i, j, f] * x[:, h, v, first + c]).sum()
    return dx, dw, dy.sum(axis=(0, 1, 2))


def maxpool2d(x, kernel_size, stride, padding):
    """The largest number of each window, and for each output the pixel that it came from."""
    (OH, OW), cells = window_cells(x.shape, kernel_size, stride, padding)
    N, _, _, C = x.shape
    y = np.zeros((N, OH, OW, C), x.dtype)
    source = {}
    for (i, j), inside in cells.items():
        for n in range(N):
            for c in range(C):
                best = None
                for _, _, h, w in inside:
                    if best is None or x[n, h, w, c] > x[n, best[0], best[1], c]:
                        best = h, w
                source[n, i, j, c] = best
                y[n, i, j, c] = x[n, best[0], best[1], c]
    return y, source


def maxpool2d_gradient(x_shape, dy, source):
    dx = np.zeros(x_shape, dy.dtype)
    for (n, i, j, c), (h, w) in source.items():
        dx[n, h, w, c] += dy[n, i, j, c]
    return dx


def avgpool2d(x, kernel_size, stride, padding, count_include_pad):
    (OH, OW), cells = window_cells(x.shape, kernel_size, stride, padding)
    y = np.zeros((len(x), OH, OW, x.shape[3]), x.dtype)
    for (i, j), inside in cells.items():
        count = kernel_size[0] * kernel_size[1] if count_include_pad else len(inside)
        for _, _, h, w in inside:
            y[:, i, j] += x[:, h, w] / count
    return y


def avgpool2d_gradient(x_shape, dy, kernel_size, stride, padding, count_include_pad):
    _, cells = window_cells(x_shape, kernel_size, stride, padding)
    dx = np.zeros(x_shape, dy.dtype)
    for (i, j), inside in cells.items():
        count = kernel_size[0] * kernel_size[1] if count_include_pad else len(inside)
        for _, _, h, w in inside:
            dx[:, h, w] += dy[:, i, j] / count
    return dx


def batchnorm(x, gamma, beta, eps):
    """One channel at a time, from the formulas of the paper."""
    y = np.zeros_like(x, order="C")
    for c in range(x.shape[-1]):
        values = x[..., c]
        mean = values.sum() / values.size
        var = ((values - mean) ** 2).sum() / values.size
        y[..., c] = gamma[c] * (values - mean) / np.sqrt(var + eps) + beta[c]
    return y


def batchnorm_gradients(x, gamma, dy, eps):
    """The chain rule of Ioffe and Szegedy (2015), section 3, line by line, a channel at a time."""
    dx = np.zeros_like(x, order="C")
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    for c in range(x.shape[-1]):
        v, g = x[..., c], dy[..., c]
        m = v.size
        mean, var = v.mean(), v.var()
        xhat = (v - mean) / np.sqrt(var + eps)
        dxhat = g * gamma[c]
        dvar = (dxhat * (v - mean)).sum() * -0.5 * (var + eps) ** -1.5
        dmean = -dxhat.sum() / np.sqrt(var + eps) + dvar * (-2 * (v - mean)).sum() / m
        dx[..., c] = dxhat / np.sqrt(var + eps) + dvar * 2 * (v - mean) / m + dmean / m
        dgamma[c], dbeta[c] = (g * xhat).sum(), g.sum()
    return dx, dgamma, dbeta


def dense(x, w, b):
    y = np.zeros((len(x), w.shape[1]), x.dtype)
    for n in range(len(x)):
        for f in range(w.shape[1]):
            for d in range(w.shape[0]):
                y[n, f] += x[n, d] * w[d, f]
            y[n, f] += b[f]
    return y


def dense_gradients(x, w, dy):
    dx, dw = np.zeros_like(x, order="C"), np.zeros_like(w, order="C")
    for n in range(len(x)):
        for f in range(w.shape[1]):
            for d in range(w.shape[0]):
                dx[n, d] += dy[n, f] * w[d, f]
                dw[d, f] += dy[n, f] * x[n, d]
    return dx, dw, dy.sum(axis=0)


def softmax(x):
    p = np.zeros_like(x, order="C")
    for n in range(len(x)):
        total = sum(np.exp(v - max(x[n])) for v in x[n])
        for k in range(x.shape[1]):
            p[n, k] = np.exp(x[n, k] - max(x[n])) / total
    return p


def softmax_gradient(p, dy):
    """The whole Jacobian of each row: dp_i / dx_j = p_i (1[i = j] - p_j)."""
    dx = np.zeros_like(p)
    for n in range(len(p)):
        for j in range(p.shape[1]):
            for i in range(p.shape[1]):
                dx[n, j] += dy[n, i] * p[n, i] * ((i == j) - p[n, j])
    return dx


def softmax_cross_entropy(logits, targets):
    """Loss and gradient, a row at a time."""
    loss, dlogits = 0.0, np.zeros_like(logits, order="C")
    N, K = logits.shape
    for n in range(N):
        row = logits[n] - max(logits[n])
        total = sum(np.exp(v) for v in row)
        for k in range(K):
            loss -= targets[n, k] * (row[k] - np.log(total)) / N
            dlogits[n, k] = (np.exp(row[k]) / total - targets[n, k]) / N
    return loss, dlogits
