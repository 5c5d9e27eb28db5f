// What the dispatcher (tail_cpu.cpp) and the kernels of one instruction set tell each other. No functions here: an inline function
// compiled for AVX-512 in one translation unit could be the one that the linker keeps for all.
#pragma once

#include <cstdint>

#include "core/instructions.h"

namespace di::tail {

// Pixels are the vector's lanes: of each activated row there is a plane a channel, planes `pitch` apart, with a zero left of the image
// and zeros right of it, up to a whole number of blocks.
constexpr int64_t kBlock = 32;   // pixels that are convolved at a time
constexpr int64_t kTurned = 16;  // pixels that are turned from channels-last to planes at a time
constexpr int kRows = 2;         // output rows that are convolved at a time: they share two of their three activated rows

template <class V> struct Kernels {
  // planes[o][i] = turned[i][o] for kTurned pixels i of c channels
  void (*turn)(const V* turned, int64_t c, V* planes, int64_t pitch);
  // out[row][colour][pixel] of kRows rows of kBlock pixels, before tanh; above[i]: planes of the kRows + 2 activated rows, the first
  // pixel's left neighbour; weight: [c, 3, 3, colour]. Sums in the order of (channel, tap).
  void (*convolve)(const V* const* above, int64_t pitch, const V* weight, const V* bias, int64_t c, V* out);
};

extern const Kernels<float> generic_float, avx2_float, avx512_float;
extern const Kernels<double> generic_double, avx2_double, avx512_double;

}  // namespace di::tail
