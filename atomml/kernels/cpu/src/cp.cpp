#include "cp.hpp"

namespace atomml {
namespace {

template <class T>
int mix(const T* matrix, const T* x, T* out, int64_t n, int64_t r, int64_t a, int64_t c, int threads) {
  return guarded([&] {
    const Mix<T> kernel{matrix, x, out, r, a, c};
    std::vector<int64_t> pointer(n + 1, 0);
    parallel_rows(pointer.data(), n, useful_threads(threads, double(n) * r * a * c),
                  [&](int64_t begin, int64_t end) { kernel.rows(begin, end); });
  });
}

template <class T, int64_t Fixed>
void compute_gradients(const Gradients<T>& g, const std::vector<RankGroup>& groups, int64_t c, int threads) {
  const int64_t ranks = groups.back().first + groups.back().size, n_groups = int64_t(groups.size());
  const auto conv = [&](int64_t begin, int64_t end) {
    if (g.ds) CPConv<T, Fixed>{g.of_s, *g.by_center, g.ds, ranks, n_groups, c, groups}.rows(begin, end);
  };
  const auto conv_x = [&](int64_t begin, int64_t end) {
    CPConv<T, Fixed>{g.of_x, *g.by_neighbor, g.dx, ranks, n_groups, c, groups}.rows(begin, end);
  };
  const auto adjoint = [&](const AtommlEdges& edges, bool leaving, int64_t begin, int64_t end) {
    CPAdjoint<T, Fixed>{g.of_yw, g.s, edges, g.dy, g.dw, ranks, n_groups, c, groups, leaving}.rows(begin, end);
  };
  compute(g, double(ranks) * c, threads, conv, conv_x, adjoint);
}

template <class T>
int cp_gradients(const Gradients<T>& g, const int64_t* sizes, int64_t n_groups, int64_t c, int threads) {
  if (!g.valid()) return kBadIndex;
  return guarded([&] {
    const auto groups = rank_groups(sizes, n_groups);
    if (g.dw) will_write(g.dw, g.by_center->edges * n_groups * c);
    if (c == 64) compute_gradients<T, 64>(g, groups, c, threads);
    else compute_gradients<T, 0>(g, groups, c, threads);
  });
}

}  // namespace
}  // namespace atomml

#define ATOMML_DEFINE(T, S)                                                                                        \
  int atomml_mix_##S(const T* matrix, const T* x, T* out, int64_t n, int64_t r, int64_t a, int64_t c,              \
                     int threads) {                                                                                \
    return atomml::mix(matrix, x, out, n, r, a, c, threads);                                                       \
  }                                                                                                                \
  int atomml_cp_conv_##S(const T* p, const T* q, const T* w, const AtommlEdges* by_center, T* out,                 \
                         const int64_t* groups, int64_t n_groups, int64_t c, int threads) {                        \
    return atomml::cp_gradients(atomml::Gradients<T>::conv(p, q, w, by_center, out), groups, n_groups, c,          \
                                threads);                                                                          \
  }                                                                                                                \
  int atomml_cp_backward_##S(const T* s, const T* p, const T* q, const T* w, const AtommlEdges* by_center,         \
                             const AtommlEdges* by_neighbor, T* dp, T* dq, T* dw, const int64_t* groups,           \
                             int64_t n_groups, int64_t c, int threads) {                                           \
    return atomml::cp_gradients(atomml::Gradients<T>::first(s, p, q, w, by_center, by_neighbor, dp, dq, dw),       \
                                groups, n_groups, c, threads);                                                     \
  }                                                                                                                \
  int atomml_cp_backward2_##S(const T* s, const T* p, const T* q, const T* w, const T* alpha, const T* beta,       \
                              const T* gamma, const AtommlEdges* by_center, const AtommlEdges* by_neighbor,        \
                              T* ds, T* dp, T* dq, T* dw, const int64_t* groups, int64_t n_groups, int64_t c,      \
                              int threads) {                                                                       \
    return atomml::cp_gradients(                                                                                   \
        atomml::Gradients<T>::second(s, p, q, w, alpha, beta, gamma, by_center, by_neighbor, ds, dp, dq, dw),      \
        groups, n_groups, c, threads);                                                                             \
  }
ATOMML_DEFINE(float, f32)
ATOMML_DEFINE(double, f64)
