// The formula, and the order of its sum, once. In a namespace of its own: an inline function of the same name in another op would be
// merged with it by the linker, without a word.
#pragma once

#include <cfloat>
#include <cmath>

#include "core/host_device.h"

namespace di::unit_rows_math {

// Element i of a row adds to partial sum i % 256: a warp's 32 lanes, each with 8 neighbouring elements (16 bytes of half) at a time,
// and whole vectors on the CPU. Then a lane's 8 sums are added one after the other, and the lanes pairwise: 16 apart, 8, 4, 2, 1.
constexpr int kUnitRowsWidth = 8;
constexpr int kUnitRowsLanes = 32;

// The square of a float is exact in double, so that each step of the sum rounds once, fused or not; it cannot overflow or vanish.
DI_HD double exact_square(float x) { return double(x) * double(x); }

DI_HD double sum_of_lane(const double* partial) {
  double sum = partial[0];
  for (int k = 1; k < kUnitRowsWidth; ++k) sum += partial[k];
  return sum;
}

DI_HD bool has_direction(double sum_of_squares) { return sum_of_squares > 0 && sum_of_squares <= DBL_MAX; }

DI_HD double inverse_norm(double sum_of_squares) { return has_direction(sum_of_squares) ? 1 / sqrt(sum_of_squares) : NAN; }

DI_HD float scale_to_unit(float x, double inverse_norm) { return float(double(x) * inverse_norm); }

}  // namespace di::unit_rows_math
