#include "instructions.h"

namespace di {

bool processor_has(Instructions instructions) {
  switch (instructions) {
#if defined(__x86_64__)
    case Instructions::avx512_bf16: return processor_has(Instructions::avx512) && __builtin_cpu_supports("avx512bf16");
    case Instructions::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw");
    case Instructions::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    case Instructions::generic: return true;
    default: return false;
  }
}

bool processor_multiplies_bfloat16_faster() {
#if defined(__x86_64__)
  return processor_has(Instructions::avx512_bf16) && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

}  // namespace di
