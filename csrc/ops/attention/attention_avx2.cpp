#include <cstdint>

#include "attention_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma")

namespace di::attention {
namespace avx2 {

#include "core/vector_avx2.h"
#include "attention_block.h"

}  // namespace avx2

// 12 sums, 2 vectors and a number: 15 of 16 registers.
extern const Kernels<float> avx2_float;
extern const Kernels<double> avx2_double;
const Kernels<float> avx2_float = avx2::kernels<avx2::Vector<float>, 6, 2, 6, 2>();
const Kernels<double> avx2_double = avx2::kernels<avx2::Vector<double>, 6, 2, 6, 2>();

}  // namespace di::attention
#endif
