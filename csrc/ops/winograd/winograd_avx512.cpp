#include <cstdint>
#include <cstring>

#include "winograd_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"   // GCC 12 says so of its own intrinsics (its bug 105593)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#include "winograd_math.h"   // behind the pragma: a template is compiled for what holds where it stands

namespace di::winograd {
namespace avx512 {

#include "core/vector_avx512.h"
#include "core/bfloat16_avx512.h"
#include "winograd_block.h"

template <> struct FactorsOf<Vector<BFloat16>> { using Type = WidenedPairs; };

}  // namespace avx512

// 24 sums and 2 weights: 27 of 32 registers; of bfloat16 24, 4 and a mask.
extern const Kernels<float> avx512_float;
extern const Kernels<double> avx512_double;
extern const Kernels<BFloat16> avx512_bfloat16;
const Kernels<BFloat16> avx512_bfloat16 = avx512::kernels<avx512::Vector<BFloat16>, 12, 2>();
const Kernels<float> avx512_float = avx512::kernels<avx512::Vector<float>, 12, 2>();
const Kernels<double> avx512_double = avx512::kernels<avx512::Vector<double>, 12, 2>();

}  // namespace di::winograd
#endif
