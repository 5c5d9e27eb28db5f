#include <cstdint>

#include "attention_kernels.h"
#include "core/scalar.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wuninitialized"   // GCC 12 says both of its own intrinsics (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")

namespace di::attention {
namespace avx512 {

#include "core/vector_avx512.h"
#include "attention_block.h"

}  // namespace avx512

// 24 sums and 4 or 2 vectors: 28 of 32 registers.
extern const Kernels<float> avx512_float;
extern const Kernels<double> avx512_double;
const Kernels<float> avx512_float = avx512::kernels<avx512::Vector<float>, 6, 4, 12, 2>();
const Kernels<double> avx512_double = avx512::kernels<avx512::Vector<double>, 6, 4, 12, 2>();

}  // namespace di::attention
#endif
