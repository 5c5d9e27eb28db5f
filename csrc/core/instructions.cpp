#include "instructions.h"

namespace di {

bool processor_has(Instructions instructions) {
  switch (instructions) {
#if defined(__x86_64__)
    case Instructions::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw");
    case Instructions::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    case Instructions::generic: return true;
    default: return false;
  }
}

}  // namespace di
