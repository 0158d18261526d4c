"""What a benchmark leaves: a table to read, and JSON with everything that was measured."""

import dataclasses
import json
import os
import platform
import time

from minires.models.summary import align


@dataclasses.dataclass
class Report:
    """One run.

    Attributes
    ----------
    title : str
    header : tuple of str
    body : list of tuple of str
        The table; the first `left` columns are words, the others numbers.
    records : list of dict
        The same as numbers, in seconds and bytes, with every timing.
    notes : list of str
    versions, skipped, failed : dict
    left : int
    """

    title: str
    header: tuple
    body: list
    records: list
    notes: list = dataclasses.field(default_factory=list)
    versions: dict = dataclasses.field(default_factory=dict)
    skipped: dict = dataclasses.field(default_factory=dict)
    failed: dict = dataclasses.field(default_factory=dict)
    left: int = 1

    def join(self, field):
        """Take over who dropped out of a field."""
        self.skipped |= field.skipped
        self.failed |= field.failed

    def __str__(self):
        parts = [self.title, ""]
        parts += [align([self.header, *self.body], self.left)] if self.body else ["no timings"]
        parts += ["", *self.notes]
        parts += [f"{name}: skipped, {why}" for name, why in self.skipped.items()]
        parts += [f"{name}: FAILED, {why}" for name, why in self.failed.items()]
        return "\n".join([*parts, machine_line(machine()), versions_line(self.versions)]).rstrip()

    def write(self, file, name, command, options):
        """All of it as one JSON object."""
        content = {
            "benchmark": name,
            "command": command,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": machine(),
            "versions": self.versions,
            "options": options,
            "rows": self.records,
            "notes": self.notes,
            "skipped": self.skipped,
            "failed": self.failed,
        }
        text = json.dumps(content, indent=1) + "\n"  # whole before the file is emptied
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)


def machine():
    """What the run ran on."""
    load = getattr(os, "getloadavg", lambda: (None,))()[0]
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": load,
    }


def cpu():
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def machine_line(machine):
    load = "" if machine["load"] is None else f", load {machine['load']:.1f}"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}{load}"
    )


def busy():
    """A warning if other programs kept the machine busy when we started, or nothing."""
    load, cores = machine()["load"] or 0, os.cpu_count() or 1
    if load < cores / 4:
        return []
    return [f"CAREFUL: a load of {load:.1f} on {cores} cores before the run; expect noise"]


def versions_line(versions):
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def milliseconds(seconds):
    """Three digits or so."""
    ms = seconds * 1e3
    return f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"


def error_pair(errors):
    """The errors of outputs and of gradients, the latter where there are any."""
    return " / ".join("-" if error is None else f"{error:.0e}" for error in errors)


def megabytes(size):
    return f"{size / 1e6:.0f}"
