// The arithmetic, once: the triangle filter, how it is applied to 8 bits and to floats, normalisation, the cubic kernel.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "core/scalar.h"

namespace di::prepare_features_math {

// --- The triangle filter: which of `edge` source pixels make pixel `index` of `resolution`, and with what weight.
// In double and in this order of operations, because Pillow's integer weights are rounded from exactly these values.

struct TriangleSpan {
  int first, count;
  double centre, inverse_width, total;   // of the tent; total: of its unnormalised weights
};

DI_HD double tent(const TriangleSpan& span, int k) {
  const double x = fabs((span.first + k - span.centre + 0.5) * span.inverse_width);
  return x < 1 ? 1 - x : 0;
}

DI_HD TriangleSpan triangle_span(int edge, int resolution, int index) {
  const double scale = double(edge) / resolution, width = scale < 1 ? 1 : scale, centre = (index + 0.5) * scale;
  const int begin = int(centre - width + 0.5), end = int(centre + width + 0.5);
  const int first = begin < 0 ? 0 : begin;
  TriangleSpan span{first, (end < edge ? end : edge) - first, centre, 1 / width, 0};
  for (int k = 0; k < span.count; ++k) span.total += tent(span, k);
  return span;
}

// Upper bound of a span's count.
DI_HD int triangle_taps(int edge, int resolution) {
  const int width = (edge + resolution - 1) / resolution;
  return 2 * width + 1;
}

// --- A filter applied: 8-bit pixels with 22-bit integer weights, rounded to 8 bits after each pass; floats as they are.

template <class S> struct Resample {
  using Weight = float;
  using Value = float;   // after a pass
  DI_HD static float weight(double w) { return float(w); }
  DI_HD static float start() { return 0; }
  DI_HD static float finish(float sum) { return sum; }
  DI_HD static float value(S pixel) { return load(pixel); }
  DI_HD static float unit_range(float value) { return value; }
};

template <> struct Resample<uint8_t> {
  using Weight = int32_t;
  using Value = uint8_t;
  static constexpr int kBits = 22;
  DI_HD static int32_t weight(double w) { return int32_t(0.5 + w * (1 << kBits)); }
  DI_HD static int32_t start() { return 1 << (kBits - 1); }
  DI_HD static uint8_t finish(int32_t sum) { return uint8_t((sum >> kBits) > 255 ? 255 : sum >> kBits); }
  DI_HD static uint8_t value(uint8_t pixel) { return pixel; }
  DI_HD static float unit_range(uint8_t value) { return float(value) / 255; }
};

DI_HD float normalise(float value, float mean, float std) { return (value - mean) / std; }

// --- The cubic kernel of Keys (1981) with a = -0.75, torch's: pixels first .. first + 3, clamped to the image.

struct CubicSpan {
  int first;
  float weight[4];
};

DI_HD int clamped(int index, int size) { return index < 0 ? 0 : index < size ? index : size - 1; }

DI_HD float cubic_near(float t) { return 1 - t * t * (2.25f - 1.25f * t); }

// The position is an exact fraction; only t, its distance from the pixel to the left, is rounded.
DI_HD CubicSpan cubic_span(int resolution, int size, bool align_corners, int index) {
  const int numerator = align_corners ? index * (resolution - 1) : (2 * index + 1) * resolution - size;
  const int denominator = align_corners ? (size > 1 ? size - 1 : 1) : 2 * size;
  const int left = numerator >= 0 ? numerator / denominator : -1;   // the first half pixel lies left of pixel 0
  const float t = float(numerator - left * denominator) / float(denominator), s = 1 - t;
  return {left - 1, {-0.75f * t * s * s, cubic_near(t), cubic_near(s), -0.75f * s * t * t}};
}

DI_HD float cubic(const float (&w)[4], float a, float b, float c, float d) { return w[0] * a + w[1] * b + w[2] * c + w[3] * d; }

}  // namespace di::prepare_features_math
