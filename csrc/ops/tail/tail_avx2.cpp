#include <cstdint>

#include "tail_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma")

namespace di::tail {
namespace avx2 {

#include "core/vector_avx2.h"
#include "tail_block.h"

}  // namespace avx2

extern const Kernels<float> avx2_float;
extern const Kernels<double> avx2_double;
const Kernels<float> avx2_float = {&avx2::turn<float>, &avx2::convolve<avx2::Vector<float>>};
const Kernels<double> avx2_double = {&avx2::turn<double>, &avx2::convolve<avx2::Vector<double>>};

}  // namespace di::tail
#endif
