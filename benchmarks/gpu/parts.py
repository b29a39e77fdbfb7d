"""The parts of the GPU benchmark. Each is a module of this folder with a function `measure` and runs in a process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        name: name of the part, which is also that of its module.
        seconds: time limit.
        needs_build: whether it waits for the build that runs in the background.
        package: package of the module.
    """

    name: str
    seconds: float
    needs_build: bool = False
    package: str = "benchmarks.gpu"

    @property
    def module(self) -> str:
        """The part's module, with a function `measure` and often a function `kernel_calls`."""
        return f"{self.package}.{self.name}"


# In the order in which they run: the most informative first, because a call has a time limit too.
FIRST = (
    Part("ceilings", 40),
    Part("correctness", 40),
    Part("operators", 60),
    Part("qk_variants", 40, needs_build=True),
    Part("model", 100, needs_build=True),
    Part("detection", 30),
    Part("errors", 40),
    Part("counters", 50, needs_build=True),
    Part("sanitizer", 50, needs_build=True),
)
SECOND = (
    Part("rivals", 110),
    Part("suite", 230, needs_build=True),
)
