"""Copies and pickles of objects that hold a module, such as a layer its `ops`."""

import importlib
import types


class Copyable:
    """What can be copied and pickled though it holds a module as `ops`, without what is passing."""

    passing = ()  # attributes that a copy starts without

    def __getstate__(self):
        """Modules go by name."""
        return {
            name: ModuleName(value.__name__) if isinstance(value, types.ModuleType) else value
            for name, value in vars(self).items()
            if name not in self.passing
        }

    def __setstate__(self, state):
        for name, value in state.items():
            module = isinstance(value, ModuleName)
            vars(self)[name] = importlib.import_module(value) if module else value


class ModuleName(str):
    """The name of a module, in the state of a pickled or copied layer."""
