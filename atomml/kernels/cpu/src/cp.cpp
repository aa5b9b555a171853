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

template <class T>
int cp_conv(const T* p, const T* q, const T* w, const AtommlEdges* edges, T* out, const int64_t* groups,
            int64_t n_groups, int64_t c, int threads) {
  if (!valid(*edges)) return kBadIndex;
  return guarded([&] {
    const auto parts = rank_groups(groups, n_groups);
    const int64_t ranks = parts.back().first + parts.back().size;
    const CPConv<T> kernel{p, q, w, *edges, out, ranks, n_groups, c, parts};
    parallel_rows(edges->pointer, edges->rows, useful_threads(threads, double(edges->edges) * ranks * c),
                  [&](int64_t begin, int64_t end) { kernel.rows(begin, end); });
  });
}

template <class T>
int cp_qw(const T* p, const T* q, const T* w, const T* s, const AtommlEdges* edges, T* dq, T* dw,
          const int64_t* groups, int64_t n_groups, int64_t c, int threads) {
  if (!valid(*edges)) return kBadIndex;
  return guarded([&] {
    const auto parts = rank_groups(groups, n_groups);
    const int64_t ranks = parts.back().first + parts.back().size;
    will_write(dw, edges->edges * n_groups * c);
    auto run = [&](auto want_q, auto want_w) {
      const CPAdjoint<T, want_q, want_w> kernel{p, q, w, s, *edges, dq, dw, ranks, n_groups, c, parts};
      parallel_rows(edges->pointer, edges->rows, useful_threads(threads, 2.0 * edges->edges * ranks * c),
                    [&](int64_t begin, int64_t end) { kernel.rows(begin, end); });
    };
    if (dq && dw) run(std::true_type{}, std::true_type{});
    else if (dq) run(std::true_type{}, std::false_type{});
    else if (dw) run(std::false_type{}, std::true_type{});
  });
}

}  // namespace
}  // namespace atomml

#define ATOMML_DEFINE(T, S)                                                                                      \
  int atomml_mix_##S(const T* matrix, const T* x, T* out, int64_t n, int64_t r, int64_t a, int64_t c,            \
                     int threads) {                                                                              \
    return atomml::mix(matrix, x, out, n, r, a, c, threads);                                                     \
  }                                                                                                              \
  int atomml_cp_conv_##S(const T* p, const T* q, const T* w, const AtommlEdges* edges, T* out,                   \
                         const int64_t* groups, int64_t n_groups, int64_t c, int threads) {                      \
    return atomml::cp_conv(p, q, w, edges, out, groups, n_groups, c, threads);                                   \
  }                                                                                                              \
  int atomml_cp_qw_##S(const T* p, const T* q, const T* w, const T* s, const AtommlEdges* edges, T* dq, T* dw,   \
                       const int64_t* groups, int64_t n_groups, int64_t c, int threads) {                        \
    return atomml::cp_qw(p, q, w, s, edges, dq, dw, groups, n_groups, c, threads);                               \
  }
ATOMML_DEFINE(float, f32)
ATOMML_DEFINE(double, f64)
