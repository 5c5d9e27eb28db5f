// Random bits as a pure function of (seed, epoch, index, repeat, view): nothing is advanced, so nothing depends on batch size,
// threads, ranks or order of arrival, and any row can be drawn again. Saved loader states rely on this layout: it must never
// change.
//
//   generator   Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
//   epoch key   the first 64 bits of philox(counter = (epoch, 0, 0, kEpochTag), key = seed)
//   block b     philox(counter = (b, index[31:0], repeat, stream << 24 | view << 16 | index[47:32]), key = epoch key)
//   64 bits d   words 2 (d % 2) (low) and 2 (d % 2) + 1 (high) of block d / 2
//
// 64-bit words are split low half first. Ranges: seed 64 bits, epoch and repeat below 2^32, index below 2^48, view and stream
// below 2^8. A stream is a number per purpose (dali_icgan.ops.uniform.Stream); two purposes never share one.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace di {

struct PhiloxBlock { uint32_t word[4]; };

DI_HD PhiloxBlock philox4x32_10(PhiloxBlock counter, uint64_t key) {
  uint32_t a = counter.word[0], b = counter.word[1], c = counter.word[2], d = counter.word[3];
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t(a) * 0xD2511F53u, q = uint64_t(c) * 0xCD9E8D57u;
    a = uint32_t(q >> 32) ^ b ^ k0;
    b = uint32_t(q);
    c = uint32_t(p >> 32) ^ d ^ k1;
    d = uint32_t(p);
    k0 += 0x9E3779B9u;   // the golden ratio
    k1 += 0xBB67AE85u;   // sqrt(3) - 1
  }
  return {{a, b, c, d}};
}

DI_HD uint64_t bits64(const PhiloxBlock& block, int half) {
  return block.word[2 * half] | uint64_t(block.word[2 * half + 1]) << 32;
}

// What the rows of a batch share.
struct RandomKey {
  uint64_t key;    // epoch key
  uint32_t lane;   // stream << 24 | view << 16
};

constexpr uint32_t kEpochTag = 0x65706f63;

DI_HD RandomKey random_key(uint64_t seed, uint32_t epoch, uint32_t stream, uint32_t view) {
  return {bits64(philox4x32_10({{epoch, 0, 0, kEpochTag}}, seed), 0), stream << 24 | view << 16};
}

DI_HD PhiloxBlock random_block(const RandomKey& key, int64_t index, int64_t repeat, uint32_t block) {
  return philox4x32_10({{block, uint32_t(index), uint32_t(repeat), key.lane | uint32_t(index >> 32)}}, key.key);
}

// 53 bits in [0, 1): u < p never holds for p = 0 and always for p = 1.
DI_HD double unit_interval(uint64_t bits) { return double(int64_t(bits >> 11)) * 0x1p-53; }

}  // namespace di
