"""Builds the compiled kernels. Everything else about the package is in pyproject.toml.

There are two extensions. pymultiling._cpp has the C++ kernels and needs torch and a C++ compiler. pymultiling._cuda has
the CUDA C++ kernels and also needs nvcc and a torch for NVIDIA GPUs. If one of them cannot be built, the package is
installed without it and uses Triton or plain PyTorch instead.

The files in csrc/cpu/kernels contain kernels without torch headers. On x86-64 they are compiled once per instruction
set, each time into a namespace with that name; on other machines they are compiled once. csrc/cpu/dispatch.cpp selects
the instruction set at run time. csrc/cpu/kernels/kernel_list.h lists all kernels.

The files in csrc/cpu and csrc/cuda register the operators as torch.ops.pymultiling_cpp.* and
torch.ops.pymultiling_cuda.*. pymultiling/ops documents the operators.
"""

import platform
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
# The host code of the CUDA extension needs no other flags: it only checks arguments and launches the kernel.
HOST_FLAGS = ["-std=c++20", "-O3", "-g0"]
FLAGS = [*HOST_FLAGS, "-fno-math-errno", "-ffp-contract=fast", "-fvisibility=hidden"]
FLAGS += ["-Wno-maybe-uninitialized"]  # GCC 12 warns about its own AVX-512 headers
# {name: flags} of the instruction sets. Each name is also that of a namespace (csrc/cpu/kernels/instruction_set.h).
INSTRUCTION_SETS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
}
GPU_ARCHITECTURES = ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=[sm_90,compute_90]"]
OPENMP = ["-fopenmp"] if platform.system() == "Linux" else []  # at::parallel_for needs OpenMP to use threads
CUDA_EXTENSION = "pymultiling._cuda"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def sources(*patterns: str) -> list[str]:
    """Returns the paths that match any of the patterns, relative to the root."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def extension_arguments() -> dict[str, Any]:
    """Returns ext_modules and cmdclass for setup(), or nothing if torch cannot be imported."""
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        warn(error, "C++")
        return {}

    cpp_extension = CppExtension(
        "pymultiling._cpp",
        sources("csrc/cpu/*.cpp"),
        extra_compile_args=[*FLAGS, *OPENMP, *(["-DPYMULTILING_X86"] if IS_X86 else [])],
        extra_link_args=OPENMP,
    )
    extensions = [cpp_extension, *cuda_extension()]

    class BuildKernels(BuildExtension):
        def run(self) -> None:
            """Builds all extensions. If one cannot be built, drops it with a warning and builds the others again."""
            # A run that fails leaves changed values in these two options.
            requested_options = self.compiler, self.inplace
            while self.extensions:
                self.compiler, self.inplace = requested_options
                self._current = self.extensions[-1]  # the extension to drop if building fails
                try:
                    super().run()
                    self._keep_version_of_torch()
                    return
                except Exception as error:  # noqa: BLE001, compilers, linkers and torch raise various exceptions
                    self.extensions.remove(self._current)
                    warn(error, "CUDA" if self._current.name == CUDA_EXTENSION else "C++")

        def _keep_version_of_torch(self) -> None:
            """Writes next to each extension for which torch it was built. It is not loaded under another one."""
            for extension in self.extensions:
                path = Path(self.get_ext_fullpath(extension.name))
                path.with_name(f"{extension.name.split('.')[-1]}.torch").write_text(torch.__version__, "utf-8")

        def build_extensions(self) -> None:
            if cpp_extension in self.extensions:
                self._current = cpp_extension
                instruction_sets = INSTRUCTION_SETS if IS_X86 else ["portable"]
                # Each thread waits for one compiler at a time. More than two at once would slow each other down on a
                # machine with two cores.
                with ThreadPoolExecutor(2) as pool:
                    objects = pool.map(self._compile_for, instruction_sets)
                    cpp_extension.extra_objects = [path for paths in objects for path in paths]
            # torch first checks the CUDA version, if there is a CUDA extension, which is always the last one. If that
            # check fails, the last extension is the one to drop.
            self._current = self.extensions[-1]
            super().build_extensions()

        def build_extension(self, ext: Extension) -> None:
            self._current = ext
            super().build_extension(ext)

        def _compile_for(self, instruction_set: str) -> list[str]:
            """Compiles csrc/cpu/kernels for an instruction set and returns the paths of the object files."""
            return self.compiler.compile(
                sources("csrc/cpu/kernels/*.cpp"),
                output_dir=str(Path(self.build_temp) / instruction_set),
                macros=[("PYMULTILING_INSTRUCTION_SET", instruction_set)],
                extra_preargs=["-fPIC", *FLAGS, *INSTRUCTION_SETS[instruction_set]],
                depends=[str(path) for path in ROOT.glob("csrc/**/*.h")],
            )

    return {"ext_modules": extensions, "cmdclass": {"build_ext": BuildKernels}}


def cuda_extension() -> list[Extension]:
    """Returns the CUDA extension, or nothing if torch has no CUDA or nvcc is missing."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, CUDAExtension

    if torch.version.cuda is None or CUDA_HOME is None:
        return []
    flags = {"cxx": HOST_FLAGS, "nvcc": ["-std=c++20", "-O3", *GPU_ARCHITECTURES]}
    return [CUDAExtension(CUDA_EXTENSION, sources("csrc/cuda/**/*.cpp", "csrc/cuda/**/*.cu"), extra_compile_args=flags)]


def warn(error: Exception, language: str) -> None:
    """Warns that the kernels of a language are not built."""
    replacement = "Triton or plain PyTorch" if language == "CUDA" else "plain PyTorch"
    reason = str(error) or type(error).__name__
    warnings.warn(
        f"pymultiling's {language} kernels cannot be built; {replacement} will be used instead: {reason}",
        stacklevel=2,
    )


# The scripts that trained the demo model are not installed. The folder of the Triton kernels is next to the package.
PACKAGES = find_packages(include=["pymultiling*"], exclude=["*.training"])
setup(packages=[*PACKAGES, "pymultiling.triton_kernels"], **extension_arguments())
