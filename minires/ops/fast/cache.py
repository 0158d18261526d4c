"""Compiled kernels on disk, in a form that can be neither stale nor dangerous.

Numba's own cache does not notice when an imported helper changes, raises when a file is damaged,
and trusts machine code in which a bit has flipped. Here one file holds one compiled signature:
its name is a hash of everything that the code depends on (the sources that the kernel's module
imports, the versions, the CPU, the signature), it begins with the hash of its name and bytes, and
whatever goes wrong with it means "compile again".
"""

import functools
import hashlib
import os
import pickle
import re
import sys
import tempfile
from pathlib import Path

import llvmlite
import numba
import numpy as np
from llvmlite import binding as llvm
from numba.core import compiler, config
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from minires.ops.fast.ahead import ahead

DIGEST = 32  # bytes of a sha256
loaded = []  # the names of the kernels that came from the disk


class DiskCache:
    """What a Numba dispatcher expects of its cache, for one function."""

    def __init__(self, function, parallel):
        self.module = function.__module__.rpartition(".")[2]
        self.name = f"{self.module}.{function.__name__}"
        parts = [cell.cell_contents for cell in function.__closure__ or ()]
        self.parts = [(part.__qualname__, closure_names(part)) for part in parts]
        self.modules = {self.module, *(part.__module__.rpartition(".")[2] for part in parts)}
        self.parallel = parallel
        self.cache_path = None

    def load_overload(self, signature, target_context):
        """The compiled function for `signature`, or None if it must be compiled."""
        try:
            path = self.path(signature, target_context)
        except Exception:  # a machine without a home
            return None
        found = self.read(path, target_context)
        return self.read(path, target_context) if found is None and ahead.makes(path) else found

    def read(self, path, target_context):
        """What a file holds, or None if it cannot be used.

        Compiled code calls Numba's runtime, which must be there; what else Numba sets up before it
        compiles (0.2 s) is not needed.
        """
        try:
            data = path.read_bytes()
            if seal(path, data[DIGEST:]) != data[:DIGEST]:
                return None
            rtsys.initialize(target_context)
            result = compiler.CompileResult._rebuild(target_context, *pickle.loads(data[DIGEST:]))
            loaded.append(self.name)
            return result
        except Exception:  # absent, damaged, unreadable, from another world: all the same to us
            return None

    def save_overload(self, signature, result):
        """Write to a file beside and rename, so that nobody ever reads half a file."""
        try:
            path = self.path(signature, result.target_context)
            data = dumps(machine_code_only(result._reduce()))
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(seal(path, data) + data)
                os.replace(beside, path)
            except BaseException:
                os.unlink(beside)
                raise
        except Exception:  # a full or read-only disk costs time, not the run
            return

    def path(self, signature, target_context):
        cpu = target_context.codegen().magic_tuple()
        key = repr((signature, self.parts, self.parallel, cpu, OPTIONS))
        name = f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.kernel"
        return Path(folder()) / version(*sorted(self.modules)) / name

    def enable(self):
        """Numba may call it; this cache is always on."""

    def disable(self):
        """Numba may call it; this cache is always on."""

    def flush(self):
        """Numba calls it on `recompile`; old files are simply overwritten."""


def machine_code_only(reduced):
    """What Numba would keep, with the names alone of LLVM's code, which is there to be inlined.

    Nobody inlines a kernel, and reading that code took a sixth of the first step of a process that
    finds all kernels on the disk.
    """
    (name, kind, (machine_code, bitcode)), *rest = reduced
    code = llvm.parse_bitcode(bitcode)
    defined = (s.name for s in (*code.functions, *code.global_variables) if not s.is_declaration)
    names = llvm.parse_assembly("\n".join(f'@"{name}" = global i8 0' for name in defined))
    return (name, kind, (machine_code, names.as_bitcode())), *rest


def seal(path, data):
    """The hash with which a file begins, name included: no kernel passes for another."""
    return hashlib.sha256("/".join(path.parts[-2:]).encode() + data).digest()


def closure_names(function):
    """The functions that an inlined part was made with, such as the `finish` of a batch norm."""
    cells = getattr(function, "py_func", function).__closure__ or ()
    return [cell.cell_contents.__qualname__ for cell in cells]


# what changes the machine code besides the sources
OPTIONS = (config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK)


@functools.cache
def version(*modules):
    """A hash of the sources behind `modules` and of the versions of all that compiles them."""
    digest = hashlib.sha256()
    for part in (sys.version, numba.__version__, llvmlite.__version__, np.__version__):
        digest.update(part.encode())
    for name in sorted(set().union(*map(sources, modules))):
        digest.update(name.encode() + source(name).read_bytes())
    return digest.hexdigest()[:24]


def source(name):
    """The file of a module of `ops/fast`."""
    return Path(__file__).with_name(f"{name}.py")


def sources(module):
    """The modules of `ops/fast` that `module` imports, itself included, however indirectly."""
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += imports(name)
    return found


@functools.cache
def imports(module):
    """The modules of `ops/fast` that the source of `module` names."""
    found = []
    for inside, names in IMPORT.findall(source(module).read_text()):
        found += [inside] if inside else re.findall(r"\w+", names)
    return [name for name in found if source(name).exists()]


# not by `ast`, which takes 0.1 s for all modules, a tenth of a first step
IMPORT = re.compile(r"^ *from minires\.ops\.fast(?:\.(\w+))? import (\([^)]*\)|.*)", re.MULTILINE)


def folder():
    """Where kernels are kept: NUMBA_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / "minires"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "minires" / "kernels"
