// The kernels as the operators see them: one table of functions per instruction set. The kernels take pointers and
// sizes; only the files one folder up handle tensors.
#pragma once

#include "kernel_list.h"

namespace pymultiling {

#define PYMULTILING_MEMBER(result, name, ...) result (*name)(__VA_ARGS__);

struct Kernels {
  const char* instruction_set;
  PYMULTILING_KERNELS(PYMULTILING_MEMBER)
};

#undef PYMULTILING_MEMBER

}  // namespace pymultiling
