#include <cstdint>

#include "tail_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"   // GCC 12 says so of its own intrinsics (its bug 105593)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")

namespace di::tail {
namespace avx512 {

#include "core/vector_avx512.h"
#include "tail_block.h"

}  // namespace avx512

extern const Kernels<float> avx512_float;
extern const Kernels<double> avx512_double;
const Kernels<float> avx512_float = {&avx512::turn<float>, &avx512::convolve<avx512::Vector<float>>};
const Kernels<double> avx512_double = {&avx512::turn<double>, &avx512::convolve<avx512::Vector<double>>};

}  // namespace di::tail
#endif
