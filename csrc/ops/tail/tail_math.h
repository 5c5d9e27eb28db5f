// The formulas, once. Only operations that IEEE 754 rounds correctly: libm and CUDA differ by an ulp in exp and tanh.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "core/relu.h"
#include "core/scalar.h"

namespace di::tail_math {

template <class V> DI_HD V add(V conv, V shortcut, V bias) { return conv + shortcut + bias; }

template <class V> DI_HD V scale_shift_relu(V y, V scale, V shift) { return relu(scale * y + shift); }

DI_HD float fused(float a, float b, float c) { return fmaf(a, b, c); }
DI_HD double fused(double a, double b, double c) { return fma(a, b, c); }

// c0 + c1 x + c2 x^2 + ...
template <class V> DI_HD V series(V, double c) { return V(c); }
template <class V, class... C> DI_HD V series(V x, double c, C... higher) { return fused(x, series(x, higher...), V(c)); }

// exp x for |x| <= ln(2) / 2: Taylor's series until a term is below the type's rounding.
DI_HD float small_exp(float x) { return series(x, 1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040); }
DI_HD double small_exp(double x) {
  return series(x, 1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800,
                1. / 479001600, 1. / 6227020800);
}

// Where tanh rounds to 1, and the number that, added to another, leaves its nearest integer in the low bits: integers are counted
// from its own bits.
template <class V> struct Limits;
template <> struct Limits<float> {
  static constexpr float kLargest = 20, kRounder = 0x1.8p23f;
  static constexpr int kMantissa = 23;
  static constexpr uint32_t kOne = 127, kRounderBits = 0x4b400000;
  using Bits = uint32_t;
};
template <> struct Limits<double> {
  static constexpr double kLargest = 40, kRounder = 0x1.8p52;
  static constexpr int kMantissa = 52;
  static constexpr uint64_t kOne = 1023, kRounderBits = 0x4338000000000000;
  using Bits = uint64_t;
};

// With t = 2 |x| and e = exp(-t), tanh |x| = (1 - e) / (1 + e): its absolute error is that of e. e = 2^-k exp(k ln 2 - t), k the
// integer nearest to t / ln 2; that ln 2 is rounded does no harm, as e falls faster than k grows. A NaN stays one.
template <class V> DI_HD V tanh_by_exp(V x) {
  using L = Limits<V>;
  V t = x < 0 ? -2 * x : 2 * x;
  t = t > L::kLargest ? L::kLargest : t;
  const V counted = t * V(1.44269504088896340736) + L::kRounder, k = counted - L::kRounder;
  typename L::Bits bits;
  memcpy(&bits, &counted, sizeof(V));
  bits = (L::kOne + L::kRounderBits - bits) << L::kMantissa;
  V power;   // 2^-k
  memcpy(&power, &bits, sizeof(V));
  const V e = small_exp(fused(k, V(0.69314718055994530942), -t)) * power;
  const V y = (1 - e) / (1 + e);
  return x < 0 ? -y : y;
}

}  // namespace di::tail_math
