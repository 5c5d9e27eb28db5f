// The formula, once. Only operations that IEEE 754 rounds correctly: libm and CUDA differ by an ulp in log and exp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"
#include "core/scalar.h"
#include "truncated_normal.h"

namespace di {

// c0 + c1 x + c2 x^2 + ...
DI_HD double polynomial(double, double c) { return c; }
template <class... C> DI_HD double polynomial(double x, double c, C... higher) { return c + x * polynomial(x, higher...); }

// ln x of a positive normal x, to a few ulp unless x is near 1. x = 2^e m with m within sqrt(2) of 1, and
// ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172: the series' first term left out is below 1e-17 of the sum.
DI_HD double natural_log(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  // Counted from sqrt(1/2), the high bits are the exponent of the m that is nearest to 1.
  const int64_t exponent = int64_t(bits - 0x3fe6a09e00000000) >> 52;
  bits -= uint64_t(exponent) << 52;
  double m;
  memcpy(&m, &bits, 8);
  const double s = (m - 1) / (m + 1), s2 = s * s;
  const double series = polynomial(s2, 1.0, 1.0 / 3, 1.0 / 5, 1.0 / 7, 1.0 / 9, 1.0 / 11, 1.0 / 13, 1.0 / 15,
                                    1.0 / 17, 1.0 / 19, 1.0 / 21);
  return double(exponent) * 0.693147180559945309417 + 2 * s * series;
}

// The standard normal's quantile of probability 1/2 + q; tail = 1/2 - |q| is given too, since it may be far smaller than q's
// rounding. Coefficients: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37
// (1988), routine PPND16.
DI_HD double normal_quantile(double q, double tail) {
  if (tail >= 0.075) {
    const double r = 0.180625 - q * q;
    return q *
           polynomial(r, 3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                      4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3) /
           polynomial(r, 1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
                      3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3);
  }
  double r = sqrt(-natural_log(tail)), z;
  if (r <= 5) {
    r -= 1.6;
    z = polynomial(r, 1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
                   1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4) /
        polynomial(r, 1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
                   1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9);
  } else {
    r -= 5;
    z = polynomial(r, 6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
                   2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7) /
        polynomial(r, 1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                   7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15);
  }
  return q < 0 ? -z : z;
}

DI_HD double truncated_normal(uint64_t bits, const TruncatedNormalParams& params) {
  const double u = (double(int64_t(bits >> 12)) + 0.5) * 0x1p-52;
  const double q = (u - 0.5) * params.mass;
  double z = normal_quantile(q, 0.5 - (q < 0 ? -q : q));
  z = z > params.bound ? params.bound : z < -params.bound ? -params.bound : z;   // the quantile is monotone to an ulp only
  return params.factor * z;
}

template <class T> DI_HD T round_to(double z) { return store<T>(float(z)); }
template <> DI_HD double round_to<double>(double z) { return z; }

}  // namespace di
