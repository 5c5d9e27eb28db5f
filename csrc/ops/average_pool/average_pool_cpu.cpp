#include <algorithm>
#include <vector>

#include "average_pool.h"
#include "average_pool_math.h"
#include "core/clones.h"
#include "core/thread_pool.h"

namespace di {

using namespace average_pool_math;

namespace {

template <class T>
DI_CLONES void pool_image(const T* __restrict__ x, double* __restrict__ sum, float* __restrict__ mean, const AveragePoolParams& params) {
  const int64_t c = params.c;
  for (int64_t o = 0; o < c; ++o) sum[o] = 0;
  for (int64_t p = 0; p < params.pixels; ++p, x += params.x_pixel)
    for (int64_t o = 0; o < c; ++o) sum[o] += double(load(x[o]));
  for (int64_t o = 0; o < c; ++o) mean[o] = mean_of(sum[o], params.pixels);
}

}  // namespace

template <class T> void average_pool_cpu(const T* x, float* mean, const AveragePoolParams& params, int threads) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, params.pixels * params.c));
  parallel_for(params.n, grain, threads, [&](int64_t begin, int64_t end) {
    std::vector<double> sum(params.c);
    for (int64_t n = begin; n < end; ++n) pool_image(x + n * params.pixels * params.x_pixel, sum.data(), mean + n * params.c, params);
  });
}

template void average_pool_cpu(const float*, float*, const AveragePoolParams&, int);
template void average_pool_cpu(const double*, float*, const AveragePoolParams&, int);
template void average_pool_cpu(const Half*, float*, const AveragePoolParams&, int);
template void average_pool_cpu(const BFloat16*, float*, const AveragePoolParams&, int);

}  // namespace di
