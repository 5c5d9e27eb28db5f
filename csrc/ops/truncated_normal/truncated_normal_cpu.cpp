#include "truncated_normal.h"
#include "truncated_normal_math.h"

namespace di {

double mass_within(double bound) {
  const auto reaches = [](double mass) { return normal_quantile(0.5 * mass, 0.5 - 0.5 * mass); };
  double low = 0, high = 1;   // reaches(low) <= bound; reaches(1) is infinite
  if (bound > reaches(1 - 0x1p-53)) return 1;
  for (double middle = 0.5; middle > low && middle < high; middle = low + 0.5 * (high - low))
    (reaches(middle) <= bound ? low : high) = middle;
  return low;
}

void normal_quantile_cpu(const double* probability, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double p = probability[i];
    out[i] = normal_quantile(p - 0.5, p < 0.5 ? p : 1 - p);
  }
}

template <class T>
void truncated_normal_cpu(const int64_t* index, const int64_t* repeat, T* out, const TruncatedNormalParams& params) {
  for (int64_t i = 0; i < params.n; ++i, out += params.count)
    for (int64_t j = 0; j < params.count; j += 2) {
      const PhiloxBlock block = random_block(params.key, index[i], repeat[i], uint32_t(j / 2));
      out[j] = round_to<T>(truncated_normal(bits64(block, 0), params));
      if (j + 1 < params.count) out[j + 1] = round_to<T>(truncated_normal(bits64(block, 1), params));
    }
}

template void truncated_normal_cpu(const int64_t*, const int64_t*, double*, const TruncatedNormalParams&);
template void truncated_normal_cpu(const int64_t*, const int64_t*, float*, const TruncatedNormalParams&);
template void truncated_normal_cpu(const int64_t*, const int64_t*, Half*, const TruncatedNormalParams&);
template void truncated_normal_cpu(const int64_t*, const int64_t*, BFloat16*, const TruncatedNormalParams&);

}  // namespace di
