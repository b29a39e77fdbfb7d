// The device code as the operators see it: one table of functions per instruction set. They take pointers and sizes;
// tensors stop at the files one folder up.
#pragma once

#include "kernel_list.h"

namespace pymultiling {

#define PYMULTILING_MEMBER(result, name, ...) result (*name)(__VA_ARGS__);

struct Kernels {
  const char* level;
  PYMULTILING_KERNELS(PYMULTILING_MEMBER)
};

#undef PYMULTILING_MEMBER

}  // namespace pymultiling
