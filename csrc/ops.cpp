// Registers most CPU operators as torch.ops.pymultiling_cpp.*; they are documented in pymultiling/ops.
#include "cpu/ops.h"

#include <torch/library.h>

#include "cpu/dispatch.h"

TORCH_LIBRARY(pymultiling_cpp, m) {
  m.def("active_count(Tensor x, Tensor documents, int count) -> Tensor");
  m.def("column_energy(Tensor x, Tensor documents, int count) -> Tensor");
  m.def("value_energy(Tensor attention, Tensor gram, Tensor documents, int count) -> Tensor");
  m.def("value_gram(Tensor weight, int kv_heads, int size) -> Tensor");
  m.def(
      "gated_ffn(Tensor gate, Tensor? up, str activation, Tensor documents, int count, Tensor? masks, "
      "Tensor? mask_ids) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("mask_neurons(Tensor x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> Tensor");
  m.def("mask_neurons_(Tensor(a!) x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> ()");
  m.def("nearest_neighbors(Tensor points, int k, str metric) -> (Tensor, Tensor)");
  m.def("instruction_set(str level) -> str", &pymultiling::instruction_set);
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) {
  m.impl("active_count", &pymultiling::active_count);
  m.impl("column_energy", &pymultiling::column_energy);
  m.impl("value_energy", &pymultiling::value_energy);
  m.impl("value_gram", &pymultiling::value_gram);
  m.impl("gated_ffn", &pymultiling::gated_ffn);
  m.impl("mask_neurons", &pymultiling::mask_neurons);
  m.impl("mask_neurons_", &pymultiling::mask_neurons_);
  m.impl("nearest_neighbors", &pymultiling::nearest_neighbors);
}
