// The arithmetic, once: which source pixels an output pixel takes, how much of each, and what is made of their sum.
//
// With s = max(scale, 1), a source pixel at distance t from the output pixel's centre weighs max(0, 1 - |t| / s), divided by the
// sum of the weights inside the window. Every output pixel of an axis takes the same number of taps; those beyond the triangle's
// foot weigh 0, so that loops have one length and never leave the window.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace di {

DI_HD float load(uint8_t x) { return float(x); }

// normalised = raw * scale + shift: (raw / 255 - mean) / std, or (raw * 0.5 + 0.5 - mean) / std where generated.
struct Normalisation { float scale, shift; };

DI_HD Normalisation normalisation(bool generated, double mean, double std) {
  if (generated) return {float(0.5 / std), float((0.5 - mean) / std)};
  return {float(1 / (255 * std)), float((0 - mean) / std)};
}

struct Taps {
  int32_t first;     // source pixels first ... first + count - 1
  float centre;      // the output pixel's centre, measured from the middle of the first of them
  float norm;        // 1 / sum of the weights
};

class TriangleFilter {
 public:
  DI_HD TriangleFilter(double offset, double scale, int32_t length)
      : offset_(offset), scale_(scale), support_(scale > 1 ? scale : 1), last_(length) {
    const double reach = ceil(2 * support_);
    count_ = reach < length ? int32_t(reach) : length;
    last_ -= count_;
    slope_ = 1 / float(support_);
  }

  DI_HD int32_t count() const { return count_; }

  DI_HD Taps taps(int32_t i) const {
    const double centre = offset_ + scale_ * (i + 0.5);
    const double left = floor(centre - support_ + 0.5);
    Taps taps{left <= 0 ? 0 : left >= last_ ? last_ : int32_t(left), 0, 1};
    taps.centre = float(centre - taps.first - 0.5);
    float sum = 0;
    for (int32_t k = 0; k < count_; ++k) sum += weight(taps, k);
    taps.norm = 1 / sum;
    return taps;
  }

  // The k-th tap's share.
  DI_HD float weight(const Taps& taps, int32_t k) const {
    const float height = 1 - fabsf(float(k) - taps.centre) * slope_;
    return (height > 0 ? height : 0) * taps.norm;
  }

 private:
  double offset_, scale_, support_;
  int32_t last_, count_;   // last_: the rightmost place for the first tap
  float slope_;
};

}  // namespace di
