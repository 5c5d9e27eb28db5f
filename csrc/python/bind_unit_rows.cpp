#include "core/device_guard.h"
#include "ops/unit_rows/unit_rows.h"
#include "registry.h"
#include "tensor_ref.h"

namespace di {
namespace {

void unit_rows(const TensorRef& x, const TensorRef& out, int threads, [[maybe_unused]] uintptr_t stream) {
  check_rank("x", x, 2);
  const UnitRowsParams params{x.size(0), x.size(1)};
  if (params.d < 1) fail("x", "have at least one column", text(x.shape));
  check_shape("out", out, x.shape);
  check_dtype("out", out, DType::float32);
  check_same_device("out", out, x);
  check_contiguous("x", x);
  check_contiguous("out", out);

  pybind11::gil_scoped_release without_gil;
  dispatch_float("x", x.dtype, [&](auto element) {
    using T = decltype(element);
    if (x.device < 0) {
      const int64_t bad = unit_rows_cpu<T>(x.data<T>(), out.data<float>(), params, threads);
      if (bad >= 0) fail("x", "have rows that are finite and not zero", "a row " + std::to_string(bad) + " that is not");
      return;
    }
#ifdef DI_WITH_CUDA
    const DeviceGuard on_device(x.device);
    unit_rows_cuda<T>(x.data<T>(), out.data<float>(), params, reinterpret_cast<Stream>(stream));
#else
    no_cuda_code("x");
#endif
  });
}

const Register registered{[](pybind11::module_& module) { module.def("unit_rows", &unit_rows); }};

}  // namespace
}  // namespace di
