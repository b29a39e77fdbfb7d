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

std::vector<const Kernels*> supported_tables() {  // in ascending order of preference
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

const Kernels*& current_table() {
  static const Kernels* table = supported_tables().back();
  return table;
}

// Selects the kernels of "portable", "avx2" or "avx512"; "" selects nothing. Returns the instruction set in use. It is
// initially the best that the machine supports. For tests and comparisons only: do not call it while an operator runs.
std::string instruction_set(const std::string& name) {
  std::string names;
  bool is_known = name.empty();
  for (const Kernels* table : supported_tables()) {
    names += std::string(names.empty() ? "" : ", ") + table->instruction_set;
    if (name != table->instruction_set) continue;
    current_table() = table;
    is_known = true;
  }
  TORCH_CHECK_VALUE(is_known, "instruction set ", name, " is not available; this machine and build support ", names);
  return current_table()->instruction_set;
}

}  // namespace

const Kernels& kernels() { return *current_table(); }

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) { m.def("instruction_set(str name) -> str", &instruction_set); }

}  // namespace pymultiling
