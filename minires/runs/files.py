"""What people read in a run folder, written so that an error names the file."""

import contextlib
import json
import os


@contextlib.contextmanager
def writing(path):
    """An OSError meanwhile says that `path` could not be written, and why."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(error.errno, f"could not write {path} ({why})") from error


def write_text(path, text):
    """Write a file whole or not at all, by way of a temporary one beside it."""
    new = path.with_name(f".{path.name}.new")
    with writing(path):
        try:
            new.write_text(text, encoding="utf-8")
            os.replace(new, path)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()


def write_json(path, content):
    """Indented, with a line end."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path):
    """What a file holds; None if it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
