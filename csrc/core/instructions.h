// The instruction sets that a kernel with a translation unit for each is built for (vector_avx512.h, vector_avx2.h, vector_generic.h),
// and the choice among the kernels of an op.
#pragma once

namespace di {

enum class Instructions { generic, avx2, avx512, avx512_bf16 };
constexpr int kInstructionSets = 4;

bool processor_has(Instructions instructions);

// Whether AVX512_BF16 multiplies faster than AVX-512 multiplies floats. Known by the maker, since measuring would part ranks: AMD's
// processors that have it (Zen 4 and later) document twice the rate, Intel's have at most half of it.
bool processor_multiplies_bfloat16_faster();

// An op's kernels of one element type, in the order of the instruction sets; null where there are none. On other processors than x86-64
// only the generic ones are built: DI_X86(address) is null there.
template <class Kernels> struct KernelSets {
  const Kernels* of_set[kInstructionSets];
  const Kernels& operator[](Instructions instructions) const { return *of_set[int(instructions)]; }
};

#if defined(__x86_64__)
#define DI_X86(address) (address)
#else
#define DI_X86(address) nullptr
#endif

}  // namespace di
