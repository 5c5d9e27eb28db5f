// One block of queries, once for all instruction sets. Included by one translation unit an instruction set, inside a namespace of its own
// behind its target pragma and its Vector (core/vector_avx2.h), with no standard header after it: whatever is instantiated here is
// compiled for that processor. No #pragma once: it belongs to the namespace that it is included in.

using di::attention::kKeys;
using di::attention::Work;

template <class V> using Element = typename V::Element;
template <class V> constexpr int64_t kBlock = di::attention::kQueryBytes / sizeof(Element<V>);

// ln 2 in two parts, of which the first has so few bits that its product with an exponent is exact. shift: added to a number of the size
// of an exponent, it leaves that rounded, and biased as an exponent is, in the low bits of the mantissa. lowest: the logarithm of the
// smallest normal number. terms: of exp's series; the first one left out is below a tenth of an ulp at ln 2 / 2.
template <class T> struct ExpNumbers;
template <> struct ExpNumbers<float> {
  static constexpr float kHigh = 0x1.63p-1f, kLow = -0x1.bd0106p-13f, kShift = 0x1.8p23f + 127, kLowest = -0x1.5d589ep6f;
  static constexpr int kTerms = 8;
};
template <> struct ExpNumbers<double> {
  static constexpr double kHigh = 0x1.62e42feep-1, kLow = 0x1.a39ef35793c76p-33, kShift = 0x1.8p52 + 1023, kLowest = -0x1.6232bdd7abcd2p9;
  static constexpr int kTerms = 14;
};

// exp(x) for x <= 0, within 2 ulp: 2^n times exp's series at x - n ln 2. Zero below the smallest normal number; NaN stays.
template <class V> static inline __attribute__((always_inline)) V exp_of(V x) {
  using T = Element<V>;
  using Numbers = ExpNumbers<T>;
  const V shift = V::all(Numbers::kShift);
  const V shifted = V::plus_product(x, V::all(T(0x1.71547652b82fep0)), shift);   // x / ln 2
  const V n = shifted - shift;
  const V r = V::minus_product(n, V::all(Numbers::kLow), V::minus_product(n, V::all(Numbers::kHigh), x));
  double factorial = 1;
#pragma GCC unroll 16
  for (int i = 2; i < Numbers::kTerms; ++i) factorial *= i;
  V sum = V::all(T(1 / factorial));
#pragma GCC unroll 16
  for (int i = Numbers::kTerms - 1; i > 0; --i) {
    factorial /= i;   // exact
    sum = V::plus_product(sum, r, V::all(T(1 / factorial)));
  }
  return V::zero_below(x, V::all(Numbers::kLowest), sum * V::power(shifted));
}

// sum[r][c] = sum over k < depth of  a[r * a_row + k * a_step] * (vector c of b + k * b_step), each one chain.
template <class V, int R, int C>
static inline __attribute__((always_inline)) void multiply(V (&sum)[R][C], const Element<V>* a, int64_t a_row, int64_t a_step,
                                                           const Element<V>* b, int64_t b_step, int64_t depth) {
  const Element<V>* rows[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    rows[r] = a + r * a_row;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = V::all(0);
  }
  for (int64_t k = 0; k < depth; ++k, b += b_step) {
    V right[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) right[c] = V::load(b + c * V::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V left = V::all(rows[r][k * a_step]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = V::plus_product(left, right[c], sum[r][c]);
    }
  }
}

// Logits of R keys with C vectors of queries, and the largest so far of each query (of numbers alone: a NaN need not stay there).
template <class V, int R, int C>
void logits(const Element<V>* keys, const Element<V>* queries, Element<V>* out, Element<V>* largest, int64_t d) {
  constexpr int W = V::kWidth;
  V sum[R][C];
  multiply(sum, keys, d, 1, queries, kBlock<V>, d);
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    V most = V::load(largest + c * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      sum[r][c].store(out + r * kBlock<V> + c * W);
      most = V::largest(sum[r][c], most);
    }
    most.store(largest + c * W);
  }
}

// Weights of R queries times C vectors of v's columns over `depth` keys, added to out if `more`.
template <class V, int R, int C>
void weighted(const Element<V>* weights, const Element<V>* values, int64_t stride, Element<V>* out, int64_t out_row, int64_t depth,
              bool more) {
  V sum[R][C];
  multiply(sum, weights, 1, kBlock<V>, values, stride, depth);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      Element<V>* to = out + r * out_row + c * V::kWidth;
      (more ? V::load(to) + sum[r][c] : sum[r][c]).store(to);
    }
}

// Calls f(first, Rows<how many>) over [0, count) in nearly equal passes of at most `Most`. A row is the same chain whatever pass it
// falls into.
template <int N> struct Rows { static constexpr int value = N; };
template <int Most, class F> static inline __attribute__((always_inline)) void in_passes(int64_t count, F f) {
  const int64_t passes = (count + Most - 1) / Most, least = count / passes, larger = count % passes;
  for (int64_t pass = 0, first = 0; pass < passes; ++pass) {
    const int64_t rows = least + (pass < larger);
    switch (rows) {
#define DI_ROWS(R) \
  case R:          \
    if constexpr (R <= Most) f(first, Rows<R>{}); \
    break;
      DI_ROWS(1) DI_ROWS(2) DI_ROWS(3) DI_ROWS(4) DI_ROWS(5) DI_ROWS(6)
      DI_ROWS(7) DI_ROWS(8) DI_ROWS(9) DI_ROWS(10) DI_ROWS(11) DI_ROWS(12)
#undef DI_ROWS
    }
    first += rows;
  }
}

// weights := exp(logits - largest) of `keys` keys; their sums added to `sums`.
template <class V> void exponentials(const Work<Element<V>>& work, int64_t first, int64_t keys) {
  for (int64_t i = 0; i < work.count; i += V::kWidth) {
    const V most = V::load(work.largest + i);
    V sum = V::all(0);
    Element<V>* at = work.weights + first * kBlock<V> + i;
    for (int64_t j = 0; j < keys; ++j, at += kBlock<V>) {
      const V weight = exp_of(V::load(at) - most);
      weight.store(at);
      sum = sum + weight;
    }
    (V::load(work.sums + i) + sum).store(work.sums + i);
  }
}

// outputs += weights times values, over `keys` keys; the first time without what was there.
template <class V, int Queries, int Panel> void products(const Work<Element<V>>& work, int64_t first, int64_t keys) {
  using T = Element<V>;
  constexpr int64_t W = V::kWidth;
  const int64_t e = work.params.e, wide = (e + W - 1) / W * W;
  const T* v = work.tensors.v + (work.sample * work.params.keys + first) * e;
  const T* weights = work.weights + first * kBlock<V>;
  for (int64_t c = 0; c < e; c += Panel * W) {
    const T* from = v + c;
    int64_t stride = e;
    if (c + Panel * W > e && wide > e) {   // a vector may not reach beyond the last row
      stride = Panel * W;
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t x = 0; x < stride; ++x) work.values[j * stride + x] = c + x < e ? from[j * e + x] : T(0);
      from = work.values;
    }
    in_passes<Queries>(work.count, [&](int64_t i, auto rows) {
      constexpr int R = decltype(rows)::value;
      T* to = work.outputs + i * wide + c;
      if (wide - c >= Panel * W) return weighted<V, R, Panel>(weights + i, from, stride, to, wide, keys, first > 0);
      for (int64_t x = 0; x < wide - c; x += W) weighted<V, R, 1>(weights + i, from + x, stride, to + x, wide, keys, first > 0);
    });
  }
}

// In registers: the logits of Keys keys with Columns vectors of queries, then the sums of Queries queries and Panel vectors of v's columns.
template <class V, int Keys, int Columns, int Queries, int Panel> void run(const Work<Element<V>>& work) {
  using T = Element<V>;
  constexpr int64_t W = V::kWidth;
  static_assert(kBlock<V> % (Columns * W) == 0);
  const int64_t d = work.params.d, e = work.params.e, keys = work.params.keys, wide = (e + W - 1) / W * W;
  const T* q = work.tensors.q + (work.sample * work.params.queries + work.first) * d;
  const T* k = work.tensors.k + work.sample * keys * d;
  for (int64_t x = 0; x < d; ++x)
    for (int64_t i = 0; i < kBlock<V>; ++i) work.queries[x * kBlock<V> + i] = i < work.count ? q[i * d + x] : T(0);
  for (int64_t i = 0; i < kBlock<V>; ++i) work.largest[i] = -__builtin_inf(), work.sums[i] = 0;

  for (int64_t first = 0; first < keys; first += kKeys)
    for (int64_t i = 0; i < work.count; i += Columns * W)
      in_passes<Keys>(keys - first < kKeys ? keys - first : kKeys, [&](int64_t j, auto rows) {
        logits<V, decltype(rows)::value, Columns>(k + (first + j) * d, work.queries + i, work.weights + (first + j) * kBlock<V> + i,
                                                  work.largest + i, d);
      });
  for (int64_t first = 0; first < keys; first += kKeys) {
    const int64_t some = keys - first < kKeys ? keys - first : kKeys;
    exponentials<V>(work, first, some);
    products<V, Queries, Panel>(work, first, some);
  }

  T* out = work.tensors.out + (work.sample * work.params.queries + work.first) * work.params.out_stride;
  for (int64_t i = 0; i < work.count; ++i, out += work.params.out_stride) {
    const T factor = 1 / work.sums[i];
    const T* from = work.outputs + i * wide;
    int64_t c = 0;
    for (; c + W <= e; c += W) (V::load(from + c) * V::all(factor)).store(out + c);
    for (; c < e; ++c) out[c] = from[c] * factor;
  }
}

template <class V, int Keys, int Columns, int Queries, int Panel> constexpr di::attention::Kernels<Element<V>> kernels() {
  return {V::kWidth, Panel * V::kWidth, &run<V, Keys, Columns, Queries, Panel>};
}
