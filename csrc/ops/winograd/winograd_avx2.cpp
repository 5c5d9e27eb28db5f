#include <cstdint>

#include "winograd_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma")
#include "winograd_math.h"   // behind the pragma: a template is compiled for what holds where it stands

namespace di::winograd {
namespace avx2 {

#include "core/vector_avx2.h"
#include "winograd_block.h"

}  // namespace avx2

// 12 sums, 2 weights and an input: 15 of 16 registers.
extern const Kernels<float> avx2_float;
extern const Kernels<double> avx2_double;
const Kernels<float> avx2_float = avx2::kernels<avx2::Vector<float>, 6, 2>();
const Kernels<double> avx2_double = avx2::kernels<avx2::Vector<double>, 6, 2>();

}  // namespace di::winograd
#endif
