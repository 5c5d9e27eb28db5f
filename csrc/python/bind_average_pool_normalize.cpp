#include "channels_last.h"
#include "ops/average_pool/average_pool.h"
#include "ops/unit_rows/unit_rows.h"
#include "registry.h"

namespace di {
namespace {

// Two ops, one after the other: average_pool, then unit_rows in place.
void average_pool_normalize(const TensorRef& x, const TensorRef& out, int threads, uintptr_t stream) {
  check_sizes("x", x);
  const AveragePoolParams params{x.size(0), x.size(1) * x.size(2), x.size(3), pixel_stride("x", x)};
  if (params.pixels < 1 || params.c < 1) fail("x", "have at least one pixel and channel", text(x.shape));
  check_shape("out", out, {params.n, params.c});
  check_dtype("out", out, DType::float32);
  check_same_device("out", out, x);
  check_contiguous("out", out);

  pybind11::gil_scoped_release without_gil;
  float* const rows = out.data<float>();
  const UnitRowsParams shape{params.n, params.c};
  dispatch_activation(
      "x", x,
      [&](auto element) {
        using T = decltype(element);
        average_pool_cpu<T>(x.data<T>(), rows, params, threads);
        const int64_t bad = unit_rows_cpu<float>(rows, rows, shape, threads);
        if (bad >= 0) fail("x", "have means that are finite and not all zero", "an image " + std::to_string(bad) + " whose are not");
      },
      [&](auto element) {
        using T = decltype(element);
        average_pool_cuda<T>(x.data<T>(), rows, params, reinterpret_cast<Stream>(stream));
        unit_rows_cuda<float>(rows, rows, shape, reinterpret_cast<Stream>(stream));
      });
}

const Register registered{[](pybind11::module_& module) { module.def("average_pool_normalize", &average_pool_normalize); }};

}  // namespace
}  // namespace di
