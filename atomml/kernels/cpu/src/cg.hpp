// The convolution with one radial weight per path; equations in atomml/kernels/reference_cg.py.
//
// Each edge contracts the coupling tensor with its harmonics once, to small matrices G_t[k,a] shared by all
// channels. A block of outputs of one degree stays in registers while the paths that end in it are visited.
#pragma once
#include <algorithm>
#include <vector>

#include "coupling.hpp"
#include "parallel.hpp"
#include "simd.hpp"
#include "terms.hpp"
#include "tiles.hpp"

namespace atomml {

constexpr int kEdgeBlock = 8;  // edges whose matrices are held at a time

template <class T> struct CGConv {
  Terms<T> terms;
  AtommlEdges edges;
  T* out;
  int64_t dim_x, dim_y, dim_out, n_paths, channels;
  const MatrixPlan<T>& plan;

  template <int D1, int D3, int V, bool Full>
  INLINE void path(Vec<T> (&acc)[D3][V], const T* g, const T* xa, const T* we, int n) const {
    Vec<T> wx[D1][V];
    UNROLL for (int v = 0; v < V; ++v) {
      const Vec<T> weight = load_n<Full>(we + v * kLanes<T>, n);
      UNROLL for (int a = 0; a < D1; ++a) wx[a][v] = weight * load_n<Full>(xa + a * channels + v * kLanes<T>, n);
    }
    UNROLL for (int k = 0; k < D3; ++k) {
      UNROLL for (int a = 0; a < D1; ++a) {
        const Vec<T> value = broadcast(g[k * D1 + a]);
        UNROLL for (int v = 0; v < V; ++v) acc[k][v] += value * wx[a][v];
      }
    }
  }

  template <int D3, int V, bool Full>
  INLINE void diagonal(Vec<T> (&acc)[D3][V], const T* g, const T* xa, const T* we, int n) const {
    UNROLL for (int v = 0; v < V; ++v) {
      const Vec<T> weight = load_n<Full>(we + v * kLanes<T>, n);
      UNROLL for (int k = 0; k < D3; ++k)
        acc[k][v] += broadcast(g[k]) * (weight * load_n<Full>(xa + k * channels + v * kLanes<T>, n));
    }
  }

  // Outputs k0 .. k0 + D3 of one row, from the edges k_begin .. k_end whose matrices for all terms are at g.
  template <int D3, int V, bool Full>
  void outputs(int64_t row, int64_t k_begin, int64_t k_end, const PathPlan* from, const PathPlan* to, const T* g, int64_t c, int n) const {
    T* o = out + (row * dim_out + from->k0) * channels + c;
    Vec<T> acc[D3][V] = {};
    if (k_begin > edges.pointer[row]) {
      UNROLL for (int k = 0; k < D3; ++k) {
        UNROLL for (int v = 0; v < V; ++v) acc[k][v] = load_n<Full>(o + k * channels + v * kLanes<T>, n);
      }
    }
    for (const Term<T>& term : terms) {
      for (int64_t k = k_begin; k < k_end; ++k, g += plan.numbers) {
        const int64_t e = edges.edge ? edges.edge[k] : k;
        const T* xe = term.x + edges.other[e] * dim_x * channels + c;
        const T* we = term.w + e * n_paths * channels + c;
        const int64_t later = std::min(k + kEdgeBlock, edges.edges - 1);
        const T* next = term.w + (edges.edge ? edges.edge[later] : later) * n_paths * channels + c;
        for (const PathPlan* p = from; p < to; ++p) {
          // weights stream from memory in an order that the processor does not foresee
          UNROLL for (int v = 0; v < V; ++v) __builtin_prefetch(next + p->path * channels + v * kLanes<T>);
          any_path<D3, V, Full>(acc, *p, g + p->matrix, xe + p->a0 * channels, we + p->path * channels, n);
        }
      }
    }
    UNROLL for (int k = 0; k < D3; ++k) {
      UNROLL for (int v = 0; v < V; ++v) store_n<Full>(o + k * channels + v * kLanes<T>, acc[k][v], n);
    }
  }

  template <int D3, int V, bool Full>
  INLINE void any_path(Vec<T> (&acc)[D3][V], const PathPlan& p, const T* g, const T* xa, const T* we, int n) const {
    if (p.diagonal) {
      diagonal<D3, V, Full>(acc, g, xa, we, n);
      return;
    }
    switch (p.d1) {
      case 1: path<1, D3, V, Full>(acc, g, xa, we, n); break;
      case 3: path<3, D3, V, Full>(acc, g, xa, we, n); break;
      case 5: path<5, D3, V, Full>(acc, g, xa, we, n); break;
      case 7: path<7, D3, V, Full>(acc, g, xa, we, n); break;
      case 9: path<9, D3, V, Full>(acc, g, xa, we, n); break;
    }
  }

  template <int D3>
  void block(int64_t row, int64_t k_begin, int64_t k_end, const PathPlan* from, const PathPlan* to, const T* g) const {
    // vectors at a time: enough independent sums to hide the latency of one, as long as they fit the registers
    constexpr int most = D3 == 1 ? 4 : D3 <= (kRegisters == 32 ? 7 : 3) ? 2 : 1;
    visit_channels<T, most>(channels, [&](auto vectors, auto full, int64_t c, int n) {
      outputs<D3, vectors, full>(row, k_begin, k_end, from, to, g, c, n);
    });
  }

  void rows(int64_t begin, int64_t end) const {
    std::vector<T> g(kEdgeBlock * plan.numbers * terms.n);
    for (int64_t row = begin; row < end; ++row) {
      std::fill_n(out + row * dim_out * channels, dim_out * channels, T(0));  // degrees without a path stay zero
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; k += kEdgeBlock) {
        const int64_t k_end = std::min(k + kEdgeBlock, edges.pointer[row + 1]);
        T* matrices = g.data();
        for (const Term<T>& term : terms)
          for (int64_t m = k; m < k_end; ++m, matrices += plan.numbers)
            plan.matrices(term.y + (edges.edge ? edges.edge[m] : m) * dim_y, matrices);
        blocks(row, k, k_end, g.data());
      }
    }
  }

  void blocks(int64_t row, int64_t k, int64_t k_end, const T* g) const {
    const PathPlan* last = plan.paths.data() + plan.paths.size();
    for (const PathPlan *from = plan.paths.data(), *to; from < last; from = to) {
      for (to = from; to < last && to->k0 == from->k0; ++to) {}
      switch (from->d3) {
        case 1: block<1>(row, k, k_end, from, to, g); break;
        case 3: block<3>(row, k, k_end, from, to, g); break;
        case 5: block<5>(row, k, k_end, from, to, g); break;
        case 7: block<7>(row, k, k_end, from, to, g); break;
        case 9: block<9>(row, k, k_end, from, to, g); break;
      }
    }
  }
};

}  // namespace atomml
