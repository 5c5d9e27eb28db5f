// One block of tiles, once for all instruction sets: input transform, matrix products, output transform. Included by one translation
// unit an instruction set, inside a namespace of its own and behind its target pragma, with no standard header after it: whatever is
// instantiated here is compiled for that processor. V is a vector type with
//   Element, Number, kWidth, load, store, all, +, -, *, plus_product(a, b, c) = c + a b, minus_product(a, b, c) = c - a b, relu
// Elements are stored, numbers computed; one is the other but for bfloat16, whose transforms, sums and surroundings are float.
// No #pragma once: it belongs to the namespace that it is included in.

using di::winograd::Kernels;
using di::winograd::Plan;
using di::winograd::Work;

template <class V> using Element = typename V::Element;
template <class V> using Number = typename V::Number;

// What an instruction of the matrix product takes of either side: for each sum one number, of bfloat16 two (Pairs). Given: in what the
// transformed inputs wait for it.
template <class V> struct Singles {
  static constexpr int kNumbers = 1;
  using Given = Element<V>;
  V v;
  static inline __attribute__((always_inline)) Singles load(const Element<V>* p) { return {V::load(p)}; }
  static inline __attribute__((always_inline)) Singles all(const Element<V>* p) { return {V::all(*p)}; }
  static inline __attribute__((always_inline)) V plus_products(Singles a, Singles b, V c) { return V::plus_product(a.v, b.v, c); }
};
template <class V> struct FactorsOf { using Type = Singles<V>; };
template <class V> using Factors = typename FactorsOf<V>::Type;
template <class V> using Given = typename Factors<V>::Given;
template <class V> Given<V>* inputs_of(const Work<Element<V>>& work) { return static_cast<Given<V>*>(work.inputs); }

// R rows times C vectors of outputs over `depth` channels (a multiple of the width), added to m if `more`.
//   a: [depth / width][apart][width], first row    b: [depth / factors][C * width][factors]    m: [C][apart][width], first row
// next, next + other: weights of later use, fetched into the second-level cache on the way. From memory, where large layers have theirs,
// the first row alone would have to wait for b; this hides it behind the arithmetic (1.3 to 1.9 times as fast).
template <class V, int R, int C>
void multiply(const Given<V>* __restrict a, const Element<V>* __restrict b, Number<V>* __restrict m, int64_t depth, int64_t apart,
              bool more, const Element<V>* next, int64_t other) {
  using Taken = Factors<V>;
  constexpr int W = V::kWidth, N = Taken::kNumbers;
  V sum[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = V::all(0);
  for (int64_t k = 0; k < depth; k += W, a += (apart - 1) * W) {
    for (int i = 0; i < W; i += N, a += N, b += C * W * N, next += C * W * N) {
      __builtin_prefetch(next, 0, 2);
      __builtin_prefetch(next + other, 0, 2);
      Taken right[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) right[c] = Taken::load(b + c * W * N);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Taken left = Taken::all(a + r * W);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sum[r][c] = Taken::plus_products(left, right[c], sum[r][c]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      Number<V>* to = m + (c * apart + r) * W;
      (more ? V::load(to) + sum[r][c] : sum[r][c]).store(to);
    }
}

// All rows of a block, in nearly equal passes. A row's sum is the same chain whatever pass it falls into.
template <class V, int Rows, int C>
void multiply_rows(const Given<V>* a, const Element<V>* b, Number<V>* m, int64_t depth, int64_t apart, int64_t count, bool more,
                   const Element<V>* next) {
  constexpr int W = V::kWidth, N = Factors<V>::kNumbers;
  const int64_t passes = (count + Rows - 1) / Rows, least = count / passes, larger = count % passes;
  for (int64_t pass = 0, row = 0; pass < passes; ++pass) {
    const int64_t rows = least + (pass < larger);
    const Given<V>* from = a + row * W;
    Number<V>* to = m + row * W;
    const Element<V>* fetch = next + pass % C * W * N;                 // a column of what comes next in each pass,
    const int64_t other = passes == 1 ? int64_t{C - 1} * W * N : 0;   // or two in the only one
    row += rows;
    switch (rows) {
#define DI_ROWS(R) \
  case R:          \
    if constexpr (R <= Rows) multiply<V, R, C>(from, b, to, depth, apart, more, fetch, other); \
    break;
      DI_ROWS(1) DI_ROWS(2) DI_ROWS(3) DI_ROWS(4) DI_ROWS(5) DI_ROWS(6)
      DI_ROWS(7) DI_ROWS(8) DI_ROWS(9) DI_ROWS(10) DI_ROWS(11) DI_ROWS(12)
#undef DI_ROWS
    }
  }
}

// The block's products for columns [first, last), of which `first` begins a panel.
template <class V, int Rows, int Panel> void multiply_planes(const Work<Element<V>>& work, int64_t first, int64_t last) {
  constexpr int W = V::kWidth;
  // A piece of a panel stays in the first-level cache while all rows of the block pass over it. Pieces are summed apart, which also
  // rounds less than one long chain; so this number is part of the bits.
  constexpr int64_t kDepth = 256;
  const Plan& plan = work.plan;
  const auto wide = [&](int64_t column) { return plan.columns - column < Panel ? plan.columns - column : Panel; };
  const auto weights = [&](int64_t plane, int64_t column, int64_t begin) {
    return work.tensors.weight + ((plane * plan.columns + column) * plan.depth + begin * wide(column)) * W;
  };
  for (int64_t plane = 0; plane < plan.planes; ++plane)
    for (int64_t begin = 0; begin < plan.depth; begin += kDepth) {
      const int64_t depth = plan.depth - begin < kDepth ? plan.depth - begin : kDepth;
      const Given<V>* a = inputs_of<V>(work) + plane * plan.input_plane + begin * plan.rows;
      for (int64_t column = first; column < last; column += Panel) {
        Number<V>* m = work.outputs + plane * plan.output_plane + (column - first) * plan.rows * W;
        const Element<V>* b = weights(plane, column, begin);
        const Element<V>* next = column + Panel < last         ? weights(plane, column + Panel, begin)
                                 : begin + depth < plan.depth ? weights(plane, first, begin + depth)
                                                              : weights(plane + 1, first, 0);
        static_assert(Panel == 2);
        if (wide(column) == 2) multiply_rows<V, Rows, 2>(a, b, m, depth, plan.rows, work.tiles * plan.tile_rows, begin > 0, next);
        else multiply_rows<V, Rows, 1>(a, b, m, depth, plan.rows, work.tiles * plan.tile_rows, begin > 0, next);
      }
    }
}

// Where a tile lies: its sample, and its first row and column of z. Divided once a block, then stepped.
template <int M> struct Place {
  int64_t n, y, x;
  Place(const Plan& plan, int64_t tile) {
    const int64_t of_sample = plan.tiles_y * plan.tiles_x, rest = tile % of_sample;
    n = tile / of_sample, y = rest / plan.tiles_x * M, x = rest % plan.tiles_x * M;
  }
  void step(const Plan& plan) {
    if ((x += M) < plan.out_width) return;
    x = 0;
    if ((y += M) < plan.out_height) return;
    y = 0, ++n;
  }
};

// m = 1: the taps of every pixel of z, side by side.
template <class V, bool Scaled> void gather_taps(const Work<Element<V>>& work) {
  using T = Element<V>;
  constexpr int W = V::kWidth;
  const Plan& plan = work.plan;
  const WinogradParams& params = work.params;
  const int64_t inputs = params.inputs;
  Place<1> place(plan, work.first_tile);
  for (int64_t t = 0; t < work.tiles; ++t, place.step(plan)) {
    const int64_t y = place.y * params.stride - params.padding, x = place.x * params.stride - params.padding;
    const T* sample = work.tensors.x + place.n * params.height * params.width * inputs;
    const Number<V>* scale = work.tensors.scale + place.n * params.scale_stride;
    const Number<V>* shift = work.tensors.shift + place.n * params.shift_stride;
    Given<V>* to = inputs_of<V>(work) + t * W;
    for (int i = 0; i < params.r; ++i)
      for (int j = 0; j < params.r; ++j) {
        if (y + i < 0 || y + i >= params.height || x + j < 0 || x + j >= params.width) {
          for (int64_t c = 0; c < inputs; c += W, to += plan.rows * W) V::all(0).store(to);
          continue;
        }
        const T* from = sample + ((y + i) * params.width + x + j) * inputs;
        for (int64_t c = 0; c < inputs; c += W, to += plan.rows * W) {
          const V v = V::load(from + c);
          (Scaled ? V::relu(V::plus_product(V::load(scale + c), v, V::load(shift + c))) : v).store(to);
        }
      }
  }
}

// By taps: every pixel once, for all taps.
template <class V, bool Scaled> void gather_pixels(const Work<Element<V>>& work) {
  constexpr int W = V::kWidth;
  const Plan& plan = work.plan;
  const int64_t inputs = work.params.inputs;
  const Element<V>* from = work.tensors.x + work.first_tile * plan.tile_rows * inputs;
  for (int64_t t = 0; t < work.tiles; ++t) {
    const Number<V>* scale = work.tensors.scale + (work.first_tile + t) * work.params.scale_stride;
    const Number<V>* shift = work.tensors.shift + (work.first_tile + t) * work.params.shift_stride;
    for (int64_t pixel = 0; pixel < plan.tile_rows; ++pixel, from += inputs) {
      Given<V>* to = inputs_of<V>(work) + (t * plan.tile_rows + pixel) * W;
      for (int64_t c = 0; c < inputs; c += W, to += plan.rows * W) {
        const V v = V::load(from + c);
        (Scaled ? V::relu(V::plus_product(V::load(scale + c), v, V::load(shift + c))) : v).store(to);
      }
    }
  }
}

// The taps of every pixel of unpadded channels: a row of taps is one run of x.
template <class V> void gather_unpadded(const Work<Element<V>>& work) {
  using T = Element<V>;
  constexpr int W = V::kWidth;
  const Plan& plan = work.plan;
  const WinogradParams& params = work.params;
  const int64_t inputs = params.inputs, run = params.r * inputs;
  Place<1> place(plan, work.first_tile);
  for (int64_t t = 0; t < work.tiles; ++t, place.step(plan)) {
    const int64_t y = place.y * params.stride - params.padding, x = place.x * params.stride - params.padding;
    const int64_t begin = x < 0 ? -x * inputs : 0, right = (params.width - x) * inputs, end = right < run ? right : run;
    const T* from = work.tensors.x + ((place.n * params.height + y) * params.width + x) * inputs;
    for (int64_t k = 0; k < plan.depth; ++k) work.row[k] = T{};
    T* row = work.row;
    for (int i = 0; i < params.r; ++i, from += params.width * inputs, row += run)
      if (y + i >= 0 && y + i < params.height)
        for (int64_t k = begin; k < end; ++k) row[k] = from[k];
    Given<V>* to = inputs_of<V>(work) + t * W;
    for (int64_t k = 0; k < plan.depth; k += W, to += plan.rows * W) V::load(work.row + k).store(to);
  }
}

// B^T tile B of one tile. (y, x): its first row and column of the map, outside it at the borders.
template <class V, int M, int R, bool Scaled, bool Inside>
void transform_input_tile(const Work<Element<V>>& work, int64_t t, int64_t n, int64_t y, int64_t x) {
  using T = Element<V>;
  constexpr int W = V::kWidth, A = M + R - 1;
  const Plan& plan = work.plan;
  const int64_t height = work.params.height, width = work.params.width, inputs = work.params.inputs;
  const Number<V>* scale = work.tensors.scale + n * work.params.scale_stride;
  const Number<V>* shift = work.tensors.shift + n * work.params.shift_stride;
  const T* from = work.tensors.x + ((n * height + y) * width + x) * inputs;
  Given<V>* to = inputs_of<V>(work) + t * W;
  for (int64_t c = 0; c < inputs; c += W, from += W, to += plan.rows * W) {
    const V times = Scaled ? V::load(scale + c) : V::all(0), plus = Scaled ? V::load(shift + c) : V::all(0);
    V d[A][A];
    const T* row = from;
#pragma GCC unroll 1
    for (int i = 0; i < A; ++i, row += width * inputs) {
      const bool row_inside = Inside || (y + i >= 0 && y + i < height);
#pragma GCC unroll 6
      for (int j = 0; j < A; ++j) {
        d[i][j] = V::all(0);
        if (!row_inside || (!Inside && (x + j < 0 || x + j >= width))) continue;
        const V v = V::load(row + j * inputs);
        d[i][j] = Scaled ? V::relu(V::plus_product(times, v, plus)) : v;
      }
      di::winograd_math::transform_input(d[i]);
    }
    Given<V>* plane = to;
#pragma GCC unroll 1
    for (int j = 0; j < A; ++j, plane += plan.input_plane) {
      V column[A];
#pragma GCC unroll 6
      for (int i = 0; i < A; ++i) column[i] = d[i][j];
      di::winograd_math::transform_input(column);
#pragma GCC unroll 6
      for (int i = 0; i < A; ++i) column[i].store(plane + i * A * plan.input_plane);
    }
  }
}

template <class V, int M, int R, bool Scaled> void transform_inputs(const Work<Element<V>>& work) {
  constexpr int A = M + R - 1;
  Place<M> place(work.plan, work.first_tile);
  for (int64_t t = 0; t < work.tiles; ++t, place.step(work.plan)) {
    const int64_t y = place.y - work.params.padding, x = place.x - work.params.padding;
    if (y >= 0 && x >= 0 && y + A <= work.params.height && x + A <= work.params.width)
      transform_input_tile<V, M, R, Scaled, true>(work, t, place.n, y, x);
    else transform_input_tile<V, M, R, Scaled, false>(work, t, place.n, y, x);
  }
}

// All that comes behind the convolution at channels [c, c + width) of one pixel of out, and the store.
template <class V> struct Finish {
  const Work<Element<V>>& work;
  const int64_t height = work.params.doubled ? 2 * work.params.height : work.plan.out_height;
  const int64_t width = work.params.doubled ? 2 * work.params.width : work.plan.out_width;

  inline __attribute__((always_inline)) void operator()(V v, int64_t n, int64_t y, int64_t x, int64_t c) const {
    const WinogradTensors<Element<V>>& tensors = work.tensors;
    const int64_t outputs = work.params.outputs;
    if (tensors.bias) v = v + V::load(tensors.bias + c);
    if (tensors.shortcut)
      v = v + V::load(tensors.shortcut + ((n * (height / 2) + y / 2) * (width / 2) + x / 2) * outputs + c);
    const int64_t at = ((n * height + y) * width + x) * outputs + c;
    if (tensors.residual) v = v + V::load(tensors.residual + at);
    if (work.params.relu) v = V::relu(v);
    v.store(tensors.out + at);
  }
};

// By taps: a pixel of out is the sum of nine products, each of the pixel that its tap falls on.
template <class V> void sum_taps(const Work<Element<V>>& work, int64_t first, int64_t last) {
  constexpr int W = V::kWidth;
  const Plan& plan = work.plan;
  const int64_t height = work.params.height, width = work.params.width;
  const Finish<V> finish{work};
  for (int64_t t = 0; t < work.tiles; ++t)
    for (int64_t column = first; column < last; ++column) {
      const Number<V>* from = work.outputs + ((column - first) * plan.rows + t * plan.tile_rows) * W;
      for (int64_t y = 0; y < 2 * height; ++y)
        for (int64_t x = 0; x < 2 * width; ++x) {
          V v = V::all(0);
          for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) {
              const int64_t up_y = y + i - 1, up_x = x + j - 1;   // of the map behind the upsampling
              if (up_y >= 0 && up_y < 2 * height && up_x >= 0 && up_x < 2 * width)
                v = v + V::load(from + (3 * i + j) * plan.output_plane + (up_y / 2 * width + up_x / 2) * W);
            }
          finish(v, work.first_tile + t, y, x, column * W);
        }
    }
}

// A^T sums A for every tile of the block and the columns [first, last), then all that comes behind the convolution, and the store.
template <class V, int M, int R> void transform_outputs(const Work<Element<V>>& work, int64_t first, int64_t last) {
  constexpr int W = V::kWidth, A = M + R - 1;
  const Plan& plan = work.plan;
  const int64_t outputs = work.params.outputs, step = work.params.doubled ? 2 : 1;
  const Finish<V> finish{work};
  Place<M> place(plan, work.first_tile);
  for (int64_t t = 0; t < work.tiles; ++t, place.step(plan)) {
    const auto [n, z_y, z_x] = place;
    for (int64_t column = first; column < last; ++column) {
      const Number<V>* from = work.outputs + ((column - first) * plan.block + t) * W;
      V z[M][M];
      if constexpr (M == 1) {
        z[0][0] = V::load(from);
      } else {
        V half[M][A];
#pragma GCC unroll 6
        for (int j = 0; j < A; ++j) {
          V s[A], y[M];
#pragma GCC unroll 6
          for (int i = 0; i < A; ++i) s[i] = V::load(from + (i * A + j) * plan.output_plane);
          di::winograd_math::transform_output(s, y);
#pragma GCC unroll 6
          for (int i = 0; i < M; ++i) half[i][j] = y[i];
        }
#pragma GCC unroll 6
        for (int i = 0; i < M; ++i) di::winograd_math::transform_output(half[i], z[i]);
      }
      const int64_t phase = column * W / outputs, c = column * W - phase * outputs;   // phase 0 where nothing is doubled
      const int64_t out_y = step * z_y - (phase >> 1), out_x = step * z_x - (phase & 1);
#pragma GCC unroll 6
      for (int i = 0; i < M; ++i)
#pragma GCC unroll 6
        for (int j = 0; j < M; ++j) {
          const int64_t y = out_y + step * i, x = out_x + step * j;
          if (y >= 0 && y < finish.height && x >= 0 && x < finish.width) finish(z[i][j], n, y, x, c);
        }
    }
  }
}

template <class V, int Rows, int Panel, int M, int R> void run_block(const Work<Element<V>>& work) {
  if constexpr (M == 1) {
    if (work.plan.by_taps) work.tensors.scale ? gather_pixels<V, true>(work) : gather_pixels<V, false>(work);
    else if (work.params.unpadded) gather_unpadded<V>(work);
    else if (work.tensors.scale) gather_taps<V, true>(work);
    else gather_taps<V, false>(work);
  } else {
    if (work.tensors.scale) transform_inputs<V, M, R, true>(work);
    else transform_inputs<V, M, R, false>(work);
  }
  for (int64_t first = work.first_column; first < work.last_column; first += work.plan.group) {
    const int64_t end = first + work.plan.group, last = end < work.last_column ? end : work.last_column;
    multiply_planes<V, Rows, Panel>(work, first, last);
    if (M == 1 && work.plan.by_taps) sum_taps<V>(work, first, last);
    else transform_outputs<V, M, R>(work, first, last);
  }
}

template <class V, int Rows, int Panel> void run(const Work<Element<V>>& work) {
  if (work.params.m == 1) return run_block<V, Rows, Panel, 1, 1>(work);   // of any side: what lies behind the gathering is the same
  switch (10 * work.params.m + work.params.r) {
    case 32: return run_block<V, Rows, Panel, 3, 2>(work);
    case 52: return run_block<V, Rows, Panel, 5, 2>(work);
    case 23: return run_block<V, Rows, Panel, 2, 3>(work);
    case 43: return run_block<V, Rows, Panel, 4, 3>(work);
  }
}

template <class V, int Rows, int Panel> constexpr Kernels<Element<V>> kernels() {
  return {{V::kWidth, Panel, Factors<V>::kNumbers}, Rows, sizeof(Given<V>), &run<V, Rows, Panel>};
}
