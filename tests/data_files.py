"""Small files in the formats of the data sets, written byte by byte, and their server."""

import gzip
import hashlib
import io
import struct
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from minires.data.files import OfficialFile
from minires.data.mnist import MNIST, Part


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def official(name, data):
    return OfficialFile(name, md5(data), len(data))


def idx(array):
    """The bytes of an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_mnist(rng, counts=(6, 4)):
    """(IdxSet of as many images, {file name: bytes}, {part: (x, y)})."""
    files, arrays, parts = {}, {}, {}
    for (key, part), count in zip(MNIST.parts.items(), counts, strict=True):
        x = rng.integers(0, 256, (count, 28, 28), np.uint8)
        y = rng.integers(0, 10, count, np.uint8)
        images, labels = (gzip.compress(idx(array), mtime=0) for array in (x, y))
        files |= {part.images.name: images, part.labels.name: labels}
        arrays[key] = x[..., None], y
        parts[key] = Part(
            official(part.images.name, images), official(part.labels.name, labels), count
        )
    return MNIST._replace(parts=parts), files, arrays


def small_cifar(rng, layout, count=3):
    """(Layout of as many records a file, {file name: bytes}, {file name: (x, label bytes)})."""
    files, arrays = {}, {}
    for name in (*layout.train, *layout.test):
        x = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = np.stack([rng.integers(0, len(n), count, np.uint8) for n in layout.label_bytes], 1)
        planes = x.transpose(0, 3, 1, 2).reshape(count, -1)
        files[name] = np.concatenate([labels, planes], axis=1).tobytes()
        arrays[name] = x, labels
    train, test = (dict.fromkeys(names, count) for names in (layout.train, layout.test))
    return replace(layout, train=train, test=test), files, arrays


def cifar_archive(layout, files, extra=()):
    """The layout with the checksum of an archive of `files`, and the archive's bytes."""
    members = [(tarfile.TarInfo(f"{layout.folder}/{name}"), data) for name, data in files.items()]
    data = tar_gz([*members, *extra])
    return replace(layout, archive=official(layout.archive.name, data)), data


def tar(members):
    """The bytes of a tar archive of (TarInfo, bytes); sizes are set where there are bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            if data:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_gz(members):
    return gzip.compress(tar(members), mtime=0)


@contextmanager
def serving(answers):
    """The address of a server that gives {file name: bytes, or function of the request}."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer = answers.get(self.path.removeprefix("/"))
            if answer is None:
                self.send_error(404)
            elif callable(answer):
                answer(self)
            else:
                give(self, answer, len(answer))

        def log_message(self, *_):
            pass

    asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


def give(request, data, announced):
    """Send `data` and hang up, having announced so many bytes."""
    request.send_response(200)
    request.send_header("Content-Length", str(announced))
    request.end_headers()
    request.wfile.write(data)
