// out[i] = normalise(flip(resize(window of source[i])))      the last step before a batch is trained on, in one pass
//
// A row's source is a region of a real image (uint8, interleaved) or a generated image (G in [-1, 1], interleaved or planar).
// The resize is the antialiased triangle filter of assemble_math.h, vertical first. Sums are float, in source order; the affine
// map of each kind of source takes raw values to normalised ones: sum * scale + shift, one rounding to T. Multiplications and
// additions are separate (beside loads and conversions an FMA saves nothing measurable, and plain x86-64 has none): CPU and
// CUDA agree bit for bit. Callers guarantee what the binding checks; device memory is neither allocated nor waited for here.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

// What is read for one image of the batch. Made on the host, uploaded as it is.
struct AssembleRow {
  const void* data;                  // the window's first value: uint8_t, or G where generated
  int64_t row_stride;                // in values
  int64_t channel_stride;            // 1: R, G, B beside each other; else planes, their pixels beside each other
  double offset_y, offset_x;         // output pixel i has its centre at offset + scale * (i + 0.5), in pixels of the window
  double scale_y, scale_x;
  int32_t height, width;             // of the window
  int32_t generated, flip;           // 0 or 1
};

struct AssembleParams {
  int64_t n;                         // at most 65535
  int32_t height, width;             // of the output
  bool channels_last;                // of the output
  float scale[2][3], shift[2][3];    // [real, generated][channel]
};

template <class G, class T>
void assemble_cpu(const AssembleRow* rows,   // [n]
                  T* out,                    // [n, 3, height, width] or, channels_last, [n, height, width, 3]
                  const AssembleParams& params, int threads);

template <class G, class T>
void assemble_cuda(const AssembleRow* rows, T* out, const AssembleParams& params, Stream stream);

}  // namespace di
