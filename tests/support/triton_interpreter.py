"""Makes Triton's interpreter faster, without changing what it computes.

The interpreter replaces the functions of `triton.language` by ones that compute with NumPy. It does so for a module
that defines kernels at the launch, and again in every call of a function that a kernel calls, which takes half of the
time of a kernel with many such functions. Here it does so once for each module and launch.
"""

import importlib.util
import os


def replace_the_language_once_per_launch() -> None:
    """Changes the interpreter for the rest of the process, if kernels run in it."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        return
    from triton.runtime.interpreter import GridExecutor, InterpretedFunction

    launch, call = GridExecutor.__call__, InterpretedFunction.__call__
    modules = set()  # those for which this launch has replaced the language

    def launch_anew(self, *arguments, **options):
        modules.clear()
        modules.add(self.fn.__module__)
        return launch(self, *arguments, **options)

    def call_function(self, *arguments, **options):
        if self.fn.__module__ in modules:
            return self.rewrite()(*arguments, **options)
        modules.add(self.fn.__module__)
        return call(self, *arguments, **options)

    GridExecutor.__call__ = launch_anew
    InterpretedFunction.__call__ = call_function
