#include "permutation.h"

#include <algorithm>

#include "core/clones.h"
#include "core/philox.h"

namespace di {
namespace {

constexpr int kMaxRounds = 64 + 6 * 40;
constexpr int64_t kChunk = 256;   // positions that stay in the first-level cache over all rounds

int round_count(int64_t n) {
  int bits = 0;
  while ((int64_t{1} << bits) < n) ++bits;
  return 64 + 6 * bits;
}

DI_CLONES void swap_or_not(int64_t* x, int64_t count, int64_t n, const int64_t* round_keys, int rounds, const RandomKey& key) {
  for (int r = 0; r < rounds; ++r)
    for (int64_t i = 0; i < count; ++i) {
      int64_t partner = round_keys[r] - x[i];
      partner += partner < 0 ? n : 0;
      const int64_t larger = std::max(x[i], partner);
      x[i] = random_block(key, larger, 0, uint32_t(r)).word[0] & 1 ? partner : x[i];
    }
}

}  // namespace

void permutation_cpu(const int64_t* positions, int64_t* out, int64_t count, int64_t n, uint64_t seed, uint32_t epoch,
                     uint32_t stream) {
  const RandomKey key = random_key(seed, epoch, stream, 0);
  const int rounds = round_count(n);
  int64_t round_keys[kMaxRounds];
  for (int r = 0; r < rounds; ++r) {
    const PhiloxBlock block = random_block(key, 0, 1, uint32_t(r));
    const auto bits = static_cast<unsigned __int128>(bits64(block, 1)) << 64 | bits64(block, 0);
    round_keys[r] = int64_t(bits % static_cast<unsigned __int128>(n));
  }
  std::copy(positions, positions + count, out);
  for (int64_t i = 0; i < count; i += kChunk) swap_or_not(out + i, std::min(kChunk, count - i), n, round_keys, rounds, key);
}

}  // namespace di
