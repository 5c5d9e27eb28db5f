#include "core/architectures.h"
#include "core/build_info.h"
#include "core/device_guard.h"
#include "registry.h"
#include "tensor_ref.h"

namespace py = pybind11;

// module_local: the tests load the installed module and its emulated twin into one process.
PYBIND11_MODULE(_C, module) {
  using di::DType, di::TensorRef;
  py::enum_<DType>(module, "DType", py::module_local())
      .value("float32", DType::float32)
      .value("float64", DType::float64)
      .value("float16", DType::float16)
      .value("bfloat16", DType::bfloat16)
      .value("uint8", DType::uint8)
      .value("int32", DType::int32)
      .value("int64", DType::int64);
  py::class_<TensorRef>(module, "TensorRef", py::module_local())
      .def(py::init<uintptr_t, DType, int, std::vector<int64_t>, std::vector<int64_t>>(), py::arg("address"), py::arg("dtype"),
           py::arg("device"), py::arg("shape"), py::arg("strides"));
#if defined(DI_EMULATE_CUDA)
  module.attr("cuda") = "emulated";   // for tests: kernels run on the CPU
#elif defined(DI_WITH_CUDA)
  module.attr("cuda") = "built";
#else
  module.attr("cuda") = "absent";
#endif
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const di::DeviceError& fault) {
      py::set_error(py::module_::import("dali_icgan.errors").attr("DeviceError"), fault.what());
    }
  });
  module.def("device_fault", &di::device_fault, py::arg("major"), py::arg("minor"), py::arg("architectures"));
  module.attr("architectures") = di::kArchitectures;
  module.attr("compiler") = di::kCompiler;
  module.attr("cuda_compiler") = di::kCudaCompiler;
  module.attr("commit") = di::kCommit;
  for (di::Binding bind : di::bindings()) bind(module);
}
