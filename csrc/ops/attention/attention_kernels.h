// What the dispatcher (attention_cpu.cpp) and the kernels of one instruction set tell each other. No functions here: an inline function
// compiled for AVX-512 in one translation unit could be the one that the linker keeps for all.
#pragma once

#include "attention.h"

namespace di::attention {

constexpr int64_t kQueryBytes = 256;   // of one number each of a block's queries: 64 in float, 32 in double
constexpr int64_t kKeys = 64;          // a piece of keys: its weights and values meet in the first-level cache. Part of the bits

// One block of queries, and where its numbers are kept. Queries lie side by side: block = kQueryBytes / sizeof(T) of them.
template <class T> struct Work {
  const AttentionTensors<T>& tensors;
  const AttentionParams& params;
  int64_t sample, first, count;   // queries
  T* queries;   // [d][block], zero beyond count
  T* largest;   // [block]: of a query's logits
  T* sums;      // [block]: of its weights
  T* weights;   // [keys][block]: logits first
  T* values;    // [kKeys][panel]: the last columns of v where they do not fill vectors
  T* outputs;   // [block][e, rounded up to vectors]
};

template <class T> struct Kernels {
  int width;   // elements of a vector
  int panel;   // columns of v that one pass takes
  void (*run)(const Work<T>&);
};

extern const Kernels<float> generic_float, avx2_float, avx512_float;
extern const Kernels<double> generic_double, avx2_double, avx512_double;

}  // namespace di::attention
