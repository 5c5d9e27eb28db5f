// The one-dimensional transforms of F(m, r), over vectors of channels. a = m + r - 1 points p_i: 0, 1, -1 and infinity where a = 4;
// 0, 5/8, -5/8, 3/2, -3/2 and infinity where a = 6 (all numbers below exact in float; half the error of 0, 1, -1, 2, -2). With N_i(x)
// the product over j != i of (x - p_j) and N(x) that over all finite points,
//   B^T: row i has the coefficients of N_i, the last row those of N
//   A^T: row k has p_i^k, and in the last column 1 where k = m - 1
//   G:   row i has p_i^k / N_i(p_i), and in the last row 1 where k = r - 1 (in dali_icgan/ops/winograd.py, with the same points)
// Source: Winograd 1980, Arithmetic Complexity of Computations; Lavin and Gray 2015 (arXiv 1509.09308).
// V is an instruction set's own type, so that nothing here is shared between translation units built for different processors.
#pragma once

namespace di::winograd_math {

constexpr double kP = 0.625, kQ = 1.5;   // the points of a = 6
constexpr double kPP = kP * kP, kQQ = kQ * kQ;

// d := B^T d, in place. The points p and -p share the even and the odd part of their polynomial.
template <class V> static inline __attribute__((always_inline)) void transform_input(V (&d)[4]) {
  const V d1 = d[1], d2 = d[2];
  d[0] = d2 - d[0];
  d[1] = d2 + d1;
  d[2] = d2 - d1;
  d[3] = d[3] - d1;
}

template <class V> static inline __attribute__((always_inline)) void transform_input(V (&d)[6]) {
  const V p = V::all(kP), q = V::all(kQ), pp = V::all(kPP), qq = V::all(kQQ), sum = V::all(kPP + kQQ), product = V::all(kPP * kQQ);
  const V even_p = V::minus_product(qq, d[2], d[4]), odd_p = V::minus_product(qq, d[1], d[3]);
  const V even_q = V::minus_product(pp, d[2], d[4]), odd_q = V::minus_product(pp, d[1], d[3]);
  d[0] = V::plus_product(product, d[0], V::minus_product(sum, d[2], d[4]));
  d[5] = V::plus_product(product, d[1], V::minus_product(sum, d[3], d[5]));
  d[1] = V::plus_product(p, odd_p, even_p);
  d[2] = V::minus_product(p, odd_p, even_p);
  d[3] = V::plus_product(q, odd_q, even_q);
  d[4] = V::minus_product(q, odd_q, even_q);
}

// y = A^T s, of m values.
template <class V, int M> static inline __attribute__((always_inline)) void transform_output(const V (&s)[4], V (&y)[M]) {
  static_assert(M == 2 || M == 3);
  const V even = s[1] + s[2], odd = s[1] - s[2];
  y[0] = s[0] + even;
  y[1] = odd;
  if constexpr (M == 3) y[2] = even;
  y[M - 1] = y[M - 1] + s[3];
}

template <class V, int M> static inline __attribute__((always_inline)) void transform_output(const V (&s)[6], V (&y)[M]) {
  static_assert(M == 4 || M == 5);
  const V even_p = s[1] + s[2], odd_p = s[1] - s[2], even_q = s[3] + s[4], odd_q = s[3] - s[4];
  y[0] = s[0] + (even_p + even_q);
  y[1] = V::plus_product(V::all(kQ), odd_q, V::all(kP) * odd_p);
  y[2] = V::plus_product(V::all(kQQ), even_q, V::all(kPP) * even_p);
  y[3] = V::plus_product(V::all(kQQ * kQ), odd_q, V::all(kPP * kP) * odd_p);
  if constexpr (M == 5) y[4] = V::plus_product(V::all(kQQ * kQQ), even_q, V::all(kPP * kPP) * even_p);
  y[M - 1] = y[M - 1] + s[5];
}

}  // namespace di::winograd_math
