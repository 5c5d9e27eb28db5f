#include <cstdint>
#include <cstring>

#include "winograd_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"   // GCC 12 says so of its own intrinsics (its bug 105593)
#pragma GCC target("avx512bf16,avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#include "winograd_math.h"   // behind the pragma: a template is compiled for what holds where it stands

namespace di::winograd {
namespace avx512_bf16 {

#include "core/vector_avx512.h"
#include "core/bfloat16_avx512_bf16.h"
#include "winograd_block.h"

template <> struct FactorsOf<Vector<BFloat16>> { using Type = Pairs; };

}  // namespace avx512_bf16

// 24 sums and 2 weights: 27 of 32 registers.
extern const Kernels<BFloat16> avx512_bf16_bfloat16;
const Kernels<BFloat16> avx512_bf16_bfloat16 = avx512_bf16::kernels<avx512_bf16::Vector<BFloat16>, 12, 2>();

}  // namespace di::winograd
#endif
