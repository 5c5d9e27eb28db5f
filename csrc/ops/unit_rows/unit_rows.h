// y[n, d] = x[n, d] / ||x[n, :]||_2      features as IC-GAN is conditioned on them
//
// Sums in double, in one order on both sides (unit_rows_math.h), and rounds once to float: CPU and CUDA agree bit for bit. A row that
// is zero or not finite has no direction and becomes NaN; there is no epsilon that would hide it.
// Callers guarantee shapes and layout (the binding checks); nothing here allocates or synchronises.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct UnitRowsParams {
  int64_t n, d;   // d: at least 1
};

// Returns the first row without a direction, -1 if there is none.
template <class T>
int64_t unit_rows_cpu(const T* x,   // [n, d]
                      float* y,     // [n, d], may be x
                      const UnitRowsParams& params, int threads);

template <class T> void unit_rows_cuda(const T* x, float* y, const UnitRowsParams& params, Stream stream);

}  // namespace di
