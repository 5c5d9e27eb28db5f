#include "uniform.h"

namespace di {

void uniform_cpu(const int64_t* index, const int64_t* repeat, double* out, int64_t n, int64_t count, const RandomKey& key) {
  for (int64_t i = 0; i < n; ++i, out += count)
    for (int64_t j = 0; j < count; j += 2) {
      const PhiloxBlock block = random_block(key, index[i], repeat[i], uint32_t(j / 2));
      out[j] = unit_interval(bits64(block, 0));
      if (j + 1 < count) out[j + 1] = unit_interval(bits64(block, 1));
    }
}

void randint_cpu(const int64_t* index, const int64_t* repeat, const int64_t* high, int64_t* out, int64_t n,
                 const RandomKey& key) {
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t range = uint64_t(high[i]), biased = (0 - range) % range;   // 2^64 mod range
    for (uint32_t draw = 0;; ++draw) {
      const uint64_t bits = bits64(random_block(key, index[i], repeat[i], draw / 2), int(draw % 2));
      const unsigned __int128 product = static_cast<unsigned __int128>(bits) * range;
      if (uint64_t(product) < biased) continue;
      out[i] = int64_t(product >> 64);
      break;
    }
  }
}

}  // namespace di
