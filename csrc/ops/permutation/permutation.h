// The shuffled order of an epoch: position -> index, a bijection of [0, n) keyed by (seed, epoch), evaluated at any position on
// its own. O(1) memory; a loader's state needs the position only.
//
// Swap-or-not (Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012, figure 1). In round r with
// round key k < n, x and its partner k - x mod n trade places if a random bit of their maximum says so:
//
//   rounds      64 + 6 ceil(log2 n)
//   round key   k = (the 128 bits of block r, repeat 1, index 0) mod n
//   bit         the lowest of block r, repeat 0, index max(x, partner)
//
// with block, repeat and index of core/philox.h. Every round is its own inverse, so the map is a bijection for any n, not only
// for powers of two, and no value is walked past. A Feistel network would be cheaper, but it is far from uniform at small n.
//
// Why so many rounds: over the n! orders a round shrinks the distance from uniform by its second eigenvalue, at most 0.625 (at
// n = 4; computed for n = 2 to 6), so 64 rounds leave less than 1e-12. For large n the distance from uniform of the indices at
// any q positions is at most (2 n^1.5 / (r + 2)) ((q + n) / 2 n)^(r / 2 + 1) after r rounds (same paper): half the epoch of
// n = 1.28e6 differs from a random sample by less than 2e-5 in total variation.
#pragma once

#include <cstdint>

namespace di {

constexpr int64_t kMaxPermutation = int64_t{1} << 40;

void permutation_cpu(const int64_t* positions,   // [count], in [0, n)
                     int64_t* out,               // [count], may be positions
                     int64_t count, int64_t n, uint64_t seed, uint32_t epoch, uint32_t stream);

}  // namespace di
