#include "dispatch.h"

#include <c10/util/Exception.h>
#include <torch/library.h>

#include <string>
#include <vector>

namespace pymultiling {

namespace portable {
extern const Kernels table;
}
#ifdef PYMULTILING_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

std::vector<const Kernels*> supported() {  // best last
  std::vector<const Kernels*> tables = {&portable::table};
#ifdef PYMULTILING_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&avx2::table);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      tables.push_back(&avx512::table);
  }
#endif
  return tables;
}

const Kernels*& chosen() {
  static const Kernels* table = supported().back();
  return table;
}

// Uses the kernels of "portable", "avx2" or "avx512"; "" changes nothing. Returns the one in use, which is at first the
// best that the machine has. For tests and comparisons; not to be called while an operator runs.
std::string instruction_set(const std::string& level) {
  std::string names;
  bool found = level.empty();
  for (const Kernels* table : supported()) {
    names += std::string(names.empty() ? "" : ", ") + table->level;
    if (level != table->level) continue;
    chosen() = table;
    found = true;
  }
  TORCH_CHECK_VALUE(found, "no instruction set ", level, " here; this machine and build have ", names);
  return chosen()->level;
}

}  // namespace

const Kernels& kernels() { return *chosen(); }

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) { m.def("instruction_set(str level) -> str", &instruction_set); }

}  // namespace pymultiling
