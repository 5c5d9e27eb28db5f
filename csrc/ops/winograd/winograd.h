// out = last(conv(first(x)) + bias + shortcut + residual)      by Winograd's minimal filtering F(m, r), in one pass
//
//   first   relu(x[n, y, x, c] * scale[n, c] + shift[n, c]), before the zero padding; or x as it is
//   conv    z[i, j, o] = sum over a, b < r and c of  first(x)[i s + a - padding, j s + b - padding, c] * weight[o, c, a, b]
//             z is [(h + 2 padding - r) / s + 1, ...], rounded down; s: the stride
//             r = 3  m = 1, 2, 4      r = 2  m = 1, 3, 5      any other  m = 1      m > 1: stride 1
//   doubled (r = 2)  nearest upsampling and a 3x3 convolution behind it, as one 2x2 convolution with outputs (p, q, o):
//           conv[2 i + p, 2 j + q, o] = z[i + p, j + q, (p, q, o)], a map of [2 h, 2 w]; z is never stored; padding 1
//           m = 1 does not compute z: by taps, each pixel of x times each of the nine weights w,
//           conv[y, x, o] = sum over a, b < 3 of  (sum over c of first(x)[(y + a - 1) / 2, (x + b - 1) / 2, c] * w[o, c, a, b])
//   last    relu, or nothing
//
// An m x m tile of z is  A^T [ sum over c of (G weight[o, c] G^T) * (B^T tile B) ] A  with an input tile of a = m + r - 1 a side: a * a
// products instead of m * m * r * r. m = 1 is the plain sum over taps and channels, where there is a stride. By taps a doubled map takes 9
// products a pixel of x and no more at its borders, where tiles hang over: up to 16 x 16 that is as little as F(5, 2) takes, with a sixteenth
// of its weights to come from memory.
// The transforms are in winograd_math.h; weights come transformed and packed (dali_icgan/ops/winograd.py).
//
// For the CPU only, where libraries convolve directly, near the processor's peak: there only fewer operations help. On CUDA this place
// is cuDNN's, whose tensor cores leave Winograd's transforms nothing to gain.
//
// T is float, double or BFloat16: maps and weights are stored in it, all else is computed in Wide<T>. Of BFloat16 the transformed inputs are
// rounded to it again, for an instruction that adds the products of two channels at once to a float sum: pairs of channels lie side by side.
//
// All maps are channels-last, their channels padded to a multiple of the vector's width: padding is zero in x and in the weights, and
// finite (zero, say) in scale and shift; what is written to it is zero (plus the padding of bias, shortcut and residual).
//   unpadded (m = 1, no scale)  x has its channels as they are, for maps of few: taps * inputs are padded together
// An element's bits depend on its own sample, r, s, m, its type and the instruction set: not on n, its place in the batch, threads or
// addresses, since every sum is taken in the order of (tap, channel), in chains of 256 multiply-adds, however tiles are cut into blocks.
// Callers guarantee shapes (the binding checks); nothing here allocates.
#pragma once

#include <cstdint>

#include "core/instructions.h"
#include "core/scalar.h"

namespace di {

struct WinogradParams {
  int64_t n, height, width;             // of x
  int64_t inputs, outputs;              // channels, with their padding; doubled: outputs of one of the four phases
  int r, m, stride, padding;
  bool doubled, unpadded, relu;         // relu: at the end
  int64_t scale_stride, shift_stride;   // from a sample's row to the next
};

template <class T> struct WinogradTensors {
  const T* x;          // [n, height, width, inputs]
  const Wide<T>* scale;   // [n, inputs], rows scale_stride apart; with shift, or both null: no scale, no shift, no relu
  const Wide<T>* shift;   // [n, inputs]
  const T* weight;     // [planes][panels][taps * inputs / factors][panel * width][factors] (unpadded: zeros behind the inputs), the last
                       // panel as narrow as what is left
  const Wide<T>* bias;    // [outputs] or null
  const T* shortcut;   // [n, out height / 2, out width / 2, outputs], upsampled by nearest, or null
  const T* residual;   // as out, may be out itself, or null
  T* out;              // [n, out height, out width, outputs]
};

struct WinogradLayout {
  int width;     // elements of a vector: what channels are padded to
  int panel;     // vectors of a panel of packed weights
  int factors;   // inputs that one instruction of the matrix product takes: 1, of bfloat16 2
};

template <class T> WinogradLayout winograd_layout(Instructions instructions);

// Rows of z for those of x, or columns.
inline int64_t winograd_out_size(const WinogradParams& params, int64_t size) {
  return (size + 2 * params.padding - params.r) / params.stride + 1;
}

// Bytes of workspace that one thread needs.
template <class T> int64_t winograd_workspace(const WinogradParams& params, Instructions instructions);

// workspace: `threads` times what winograd_workspace says.
template <class T>
void winograd_cpu(const WinogradTensors<T>& tensors, const WinogradParams& params, Instructions instructions, void* workspace,
                  int threads);

}  // namespace di
