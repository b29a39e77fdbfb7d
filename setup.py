"""Builds the C++ kernels, pymultiling._cpp, where a compiler and torch are at hand, and those in CUDA C++, pymultiling._cuda,
where torch is one for NVIDIA's GPUs and there is an nvcc. Without them the package installs all the same and runs on Triton or
plain PyTorch. Everything else about the package is in pyproject.toml.

Files in csrc/cpu/kernels hold device code without torch headers. They are compiled once per instruction set of x86-64
(once elsewhere), each time into a namespace of that name; csrc/cpu/dispatch.cpp picks one when the program runs. Each
kernel has a line in kernel_list.h there. An operator's file in csrc/cpu or csrc/cuda registers it, as
torch.ops.pymultiling_cpp.* or torch.ops.pymultiling_cuda.*; pymultiling/ops documents them.
"""

import platform
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
FLAGS = ["-std=c++20", "-O3", "-g0", "-fno-math-errno", "-ffp-contract=fast", "-fvisibility=hidden"]
FLAGS += ["-Wno-maybe-uninitialized"]  # GCC 12 finds it in its own AVX-512 headers
LEVELS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
}
GPUS = ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=[sm_90,compute_90]"]
THREADS = ["-fopenmp"] if platform.system() == "Linux" else []  # without it at::parallel_for runs on one thread
CUDA = "pymultiling._cuda"
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def extension_arguments() -> dict:
    """ext_modules and cmdclass for setup(); none where torch cannot be imported."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        _warn(error)
        return {}

    class BuildKernels(BuildExtension):
        def run(self) -> None:
            asked = self.compiler, self.inplace  # which a run that breaks leaves as it last had them
            while self.extensions:
                self.compiler, self.inplace = asked
                try:
                    return super().run()
                except Exception as error:  # noqa: BLE001, whatever a compiler, a linker or torch's checks of them may raise
                    last = self.extensions.pop()
                    _warn(error, "CUDA" if last.name == CUDA else "C++")

        def build_extensions(self) -> None:
            levels = LEVELS if ON_X86 else ["portable"]
            with ThreadPoolExecutor(2) as pool:
                objects = pool.map(self._compile_level, levels)
                self.extensions[0].extra_objects = [path for level in objects for path in level]
            super().build_extensions()

        def _compile_level(self, level: str) -> list[str]:
            return self.compiler.compile(
                sources("csrc/cpu/kernels/*.cpp"),
                output_dir=str(Path(self.build_temp) / level),
                macros=[("PYMULTILING_LEVEL", level)],
                extra_preargs=["-fPIC", *FLAGS, *LEVELS[level]],
                depends=[str(path) for path in ROOT.glob("csrc/**/*.h")],
            )

    extension = CppExtension(
        "pymultiling._cpp",
        sources("csrc/cpu/*.cpp"),
        extra_compile_args=[*FLAGS, *THREADS, *(["-DPYMULTILING_X86"] if ON_X86 else [])],
        extra_link_args=THREADS,
    )
    # The one that may be missing comes last.
    return {"ext_modules": [extension, *cuda_extension()], "cmdclass": {"build_ext": BuildKernels}}


def cuda_extension() -> list:
    """None where torch has no CUDA, or where there is no nvcc."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, CUDAExtension

    if torch.version.cuda is None or CUDA_HOME is None:
        return []
    flags = {"cxx": FLAGS[:3], "nvcc": ["-std=c++20", "-O3", *GPUS]}
    return [CUDAExtension(CUDA, sources("csrc/cuda/**/*.cpp", "csrc/cuda/**/*.cu"), extra_compile_args=flags)]


def _warn(error: Exception, language: str = "C++") -> None:
    instead = "Triton and plain PyTorch serve instead" if language == "CUDA" else "it will run on plain PyTorch"
    warnings.warn(f"pymultiling's {language} kernels are not built, {instead}: {error}", stacklevel=2)


# What made the demo model is no part of what is installed. The Triton kernels' folder stands beside the package.
PACKAGES = find_packages(include=["pymultiling*"], exclude=["*.training"])
setup(packages=[*PACKAGES, "pymultiling.triton_kernels"], **extension_arguments())
