"""Everything that `import pymultiling as pml` reaches: names, functions, classes and their methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pymultiling as pml

MODULES = {"pml": pml, "pml.ops": pml.ops, "pml.tasks": pml.tasks, "pml.pmi": pml.pmi, "pml.demo_model": pml.demo_model}


@dataclass(frozen=True)
class PublicFunction:
    """A function, constructor or method.

    Attributes:
        name: how users write it, for example "pml.NeuronSet.count".
        function: what is called.
        owner: the class that it constructs or belongs to; None for a function.
        kind: "function", "constructor", "method" or "property".
    """

    name: str
    function: Callable[..., object]
    owner: type | None = None
    kind: str = "function"

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The parameters without self. Constructors of subclasses of dict and of exceptions count as having none."""
        if self.kind == "constructor" and issubclass(self.owner, (dict, BaseException)):
            return []
        parameters = list(inspect.signature(self.function).parameters.values())
        return parameters[1:] if parameters and parameters[0].name in ("self", "cls") else parameters


def public_objects() -> dict[str, object]:
    """Returns {name as users write it: object} of all public modules."""
    return {
        f"{module_name}.{name}": getattr(module, name)
        for module_name, module in MODULES.items()
        for name in module.__all__
        if not inspect.ismodule(getattr(module, name))
    }


def public_functions() -> list[PublicFunction]:
    """Returns all public functions, constructors of classes, and their public methods and properties."""
    functions: dict[str, PublicFunction] = {}
    for name, value in public_objects().items():
        if inspect.isclass(value):
            functions |= {function.name: function for function in _functions_of_class(name, value)}
        elif callable(value):
            functions[name] = PublicFunction(name, value)
    return list(functions.values())


def _functions_of_class(class_name: str, cls: type) -> Iterator[PublicFunction]:
    """Yields the constructor of a class, and the public methods and properties that the package defines for it."""
    yield PublicFunction(class_name, cls, cls, "constructor")
    for owner in cls.__mro__:
        if not owner.__module__.startswith("pymultiling"):
            continue
        for name, value in vars(owner).items():
            if name.startswith("_") or name in getattr(cls, "__dataclass_fields__", ()):
                continue
            function = inspect.unwrap(getattr(value, "__func__", value)) if callable(getattr(cls, name)) else value
            if isinstance(function, property) or hasattr(function, "func"):
                getter = function.fget if isinstance(function, property) else function.func
                yield PublicFunction(f"{class_name}.{name}", getter, cls, "property")
            elif inspect.isfunction(function):
                yield PublicFunction(f"{class_name}.{name}", getattr(cls, name), cls, "method")
