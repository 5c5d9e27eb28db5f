// What the dispatcher (winograd_cpu.cpp) and the kernels of one instruction set tell each other. No functions here: an inline function
// compiled for AVX-512 in one translation unit could be the one that the linker keeps for all.
#pragma once

#include "winograd.h"

namespace di::winograd {

// How a convolution is cut: tiles go in blocks of at most `block`, vectors of outputs in groups of at most `group`.
struct Plan {
  bool by_taps;                        // doubled and m = 1: a tile is a whole sample
  int64_t out_height, out_width;       // of z
  int64_t tiles_x, tiles_y, tiles;     // of one sample; of all
  int64_t tile_rows;                   // of the matrices that are multiplied: 1 a tile, by taps one a pixel of x
  int64_t planes, depth;               // matrices multiplied; terms of each one's sums: taps * inputs, unpadded: up to whole vectors
  int64_t columns;                     // vectors of outputs, over all phases
  int64_t block, rows, group;          // rows: of a whole block
  int64_t input_plane, output_plane;   // elements from one plane of the block's matrices to the next
};

// One block of tiles through the columns [first_column, last_column).
template <class T> struct Work {
  const WinogradTensors<T>& tensors;
  const WinogradParams& params;
  const Plan& plan;
  int64_t first_tile, tiles, first_column, last_column;
  void* inputs;   // [planes][depth / width][rows][width], planes input_plane apart (by taps 0: one for all), of what the kernel multiplies
  Wide<T>* outputs;   // [planes][group][rows][width], planes output_plane apart
  T* row;       // [depth], of one tile
};

template <class T> struct Kernels {
  WinogradLayout layout;
  int rows;    // of tiles that one pass of the matrix product holds in registers
  int given;   // bytes of one of the inputs that are multiplied
  void (*run)(const Work<T>&);
};

extern const Kernels<float> generic_float, avx2_float, avx512_float;
extern const Kernels<double> generic_double, avx2_double, avx512_double;
extern const Kernels<BFloat16> generic_bfloat16, avx512_bfloat16, avx512_bf16_bfloat16;

}  // namespace di::winograd
