// z[n, j] = factor * Q(mass * (u[n, j] - 1/2))     normal noise, cut where |z| = factor * bound
//
// Q(q) is the standard normal's quantile of probability 1/2 + q, mass the probability within +-bound, u the row's j-th 52 bits as
// the middle of an interval, (k + 1/2) / 2^52: never 0 or 1, and -z as likely as z. Element j reads half j % 2 of block j / 2.
// Exact: made of +, -, *, / and sqrt in double, so that CPU and CUDA agree bit for bit; one rounding to float, one to T.
#pragma once

#include <cstdint>

#include "core/philox.h"
#include "core/scalar.h"
#include "core/stream.h"

namespace di {

struct TruncatedNormalParams {
  int64_t n, count;     // count below 2^33
  RandomKey key;
  double mass, bound;   // mass = mass_within(bound); bound may be infinite
  double factor;
};

// The probability of |z| <= bound, consistent with the quantile that is used: Q(mass / 2) never exceeds bound.
double mass_within(double bound);

// The quantile of any probability in (0, 1), within 1e-12 from 1e-300 on.
void normal_quantile_cpu(const double* probability, double* out, int64_t count);

template <class T>
void truncated_normal_cpu(const int64_t* index,    // [n]
                          const int64_t* repeat,   // [n]
                          T* out,                  // [n, count]; T: double, float, Half, BFloat16
                          const TruncatedNormalParams& params);

template <class T>
void truncated_normal_cuda(const int64_t* index, const int64_t* repeat, T* out, const TruncatedNormalParams& params,
                           Stream stream);

}  // namespace di
