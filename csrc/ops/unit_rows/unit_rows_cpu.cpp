#include <algorithm>
#include <atomic>

#include "core/clones.h"
#include "core/thread_pool.h"
#include "unit_rows.h"
#include "unit_rows_math.h"

namespace di {

using namespace unit_rows_math;

namespace {

template <class T> DI_CLONES double sum_of_squares(const T* x, int64_t d) {
  constexpr int kPartials = kUnitRowsLanes * kUnitRowsWidth;
  double partial[kPartials] = {}, lane[kUnitRowsLanes];
  int64_t i = 0;
  for (; i + kPartials <= d; i += kPartials)
    for (int k = 0; k < kPartials; ++k) partial[k] += exact_square(load(x[i + k]));
  for (int k = 0; i + k < d; ++k) partial[k] += exact_square(load(x[i + k]));
  for (int l = 0; l < kUnitRowsLanes; ++l) lane[l] = sum_of_lane(partial + l * kUnitRowsWidth);
  for (int apart = kUnitRowsLanes / 2; apart; apart /= 2)
    for (int l = 0; l < apart; ++l) lane[l] += lane[l + apart];
  return lane[0];
}

template <class T> DI_CLONES void scale_row(const T* x, double inverse_norm, float* y, int64_t d) {
  for (int64_t i = 0; i < d; ++i) y[i] = scale_to_unit(load(x[i]), inverse_norm);
}

}  // namespace

template <class T> int64_t unit_rows_cpu(const T* x, float* y, const UnitRowsParams& params, int threads) {
  std::atomic<int64_t> bad{params.n};
  parallel_for(params.n, std::max<int64_t>(1, 65536 / params.d), threads, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const double sum = sum_of_squares(x + n * params.d, params.d);
      scale_row(x + n * params.d, inverse_norm(sum), y + n * params.d, params.d);
      if (has_direction(sum)) continue;
      for (int64_t first = bad; n < first && !bad.compare_exchange_weak(first, n);) {}
    }
  });
  return bad < params.n ? int64_t(bad) : -1;
}

template int64_t unit_rows_cpu(const float*, float*, const UnitRowsParams&, int);
template int64_t unit_rows_cpu(const Half*, float*, const UnitRowsParams&, int);
template int64_t unit_rows_cpu(const BFloat16*, float*, const UnitRowsParams&, int);

}  // namespace di
