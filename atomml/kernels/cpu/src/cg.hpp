// The convolution with one radial weight per path and its adjoints; equations in atomml/kernels/reference_cg.py.
//
// Each edge contracts the coupling tensor with its harmonics once, to small matrices G_t[k,a] shared by all
// channels. A block of outputs of one degree stays in registers while the paths that end in it are visited.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "coupling.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace atomml {

constexpr int kEdgeBlock = 8;  // edges whose matrices are held at a time

// visit(vectors, Full, channel, lanes) with at most `Most` vectors at a time.
template <class T, int Most, class Visit>
INLINE void over_channels(int64_t channels, Visit visit) {
  constexpr int lanes = kLanes<T>;
  int64_t c = 0;
  if constexpr (Most >= 4)
    for (; c + 4 * lanes <= channels; c += 4 * lanes) visit(std::integral_constant<int, 4>{}, std::true_type{}, c, lanes);
  if constexpr (Most >= 2)
    for (; c + 2 * lanes <= channels; c += 2 * lanes) visit(std::integral_constant<int, 2>{}, std::true_type{}, c, lanes);
  for (; c + lanes <= channels; c += lanes) visit(std::integral_constant<int, 1>{}, std::true_type{}, c, lanes);
  if (c < channels) visit(std::integral_constant<int, 1>{}, std::false_type{}, c, int(channels - c));
}

template <class T> struct CGConv {
  const T *x, *y, *w;
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

  // Outputs k0 .. k0 + D3 of one row, from the edges k_begin .. k_end whose matrices are at g.
  template <int D3, int V, bool Full>
  void outputs(int64_t row, int64_t k_begin, int64_t k_end, const PathPlan* from, const PathPlan* to, const T* g, int64_t c, int n) const {
    T* o = out + (row * dim_out + from->k0) * channels + c;
    Vec<T> acc[D3][V] = {};
    if (k_begin > edges.pointer[row]) {
      UNROLL for (int k = 0; k < D3; ++k) {
        UNROLL for (int v = 0; v < V; ++v) acc[k][v] = load_n<Full>(o + k * channels + v * kLanes<T>, n);
      }
    }
    for (int64_t k = k_begin; k < k_end; ++k, g += plan.numbers) {
      const int64_t e = edges.edge ? edges.edge[k] : k;
      const T* xe = x + edges.other[e] * dim_x * channels + c;
      const T* we = w + e * n_paths * channels + c;
      const int64_t later = std::min(k + kEdgeBlock, edges.edges - 1);
      const T* next = w + (edges.edge ? edges.edge[later] : later) * n_paths * channels + c;
      for (const PathPlan* p = from; p < to; ++p) {
        const T *gp = g + p->matrix, *xp = xe + p->a0 * channels, *wp = we + p->path * channels;
        // weights stream from memory in an order that the processor does not foresee
        UNROLL for (int v = 0; v < V; ++v) __builtin_prefetch(next + p->path * channels + v * kLanes<T>);
        if (p->diagonal) {
          diagonal<D3, V, Full>(acc, gp, xp, wp, n);
          continue;
        }
        switch (p->d1) {
          case 1: path<1, D3, V, Full>(acc, gp, xp, wp, n); break;
          case 3: path<3, D3, V, Full>(acc, gp, xp, wp, n); break;
          case 5: path<5, D3, V, Full>(acc, gp, xp, wp, n); break;
          case 7: path<7, D3, V, Full>(acc, gp, xp, wp, n); break;
          case 9: path<9, D3, V, Full>(acc, gp, xp, wp, n); break;
        }
      }
    }
    UNROLL for (int k = 0; k < D3; ++k) {
      UNROLL for (int v = 0; v < V; ++v) store_n<Full>(o + k * channels + v * kLanes<T>, acc[k][v], n);
    }
  }

  template <int D3>
  void block(int64_t row, int64_t k_begin, int64_t k_end, const PathPlan* from, const PathPlan* to, const T* g) const {
    // vectors at a time: enough independent sums to hide the latency of one, as long as they fit the registers
    constexpr int most = D3 == 1 ? 4 : D3 <= (kRegisters == 32 ? 7 : 3) ? 2 : 1;
    over_channels<T, most>(channels, [&](auto vectors, auto full, int64_t c, int n) {
      outputs<D3, vectors, full>(row, k_begin, k_end, from, to, g, c, n);
    });
  }

  void rows(int64_t begin, int64_t end) const {
    std::vector<T> g(kEdgeBlock * plan.numbers);
    const PathPlan* last = plan.paths.data() + plan.paths.size();
    for (int64_t row = begin; row < end; ++row) {
      std::fill_n(out + row * dim_out * channels, dim_out * channels, T(0));  // degrees without a path stay zero
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; k += kEdgeBlock) {
        const int64_t k_end = std::min(k + kEdgeBlock, edges.pointer[row + 1]);
        for (int64_t m = k; m < k_end; ++m)
          plan.matrices(y + (edges.edge ? edges.edge[m] : m) * dim_y, g.data() + (m - k) * plan.numbers);
        for (const PathPlan *from = plan.paths.data(), *to; from < last; from = to) {
          for (to = from; to < last && to->k0 == from->k0; ++to) {}
          switch (from->d3) {
            case 1: block<1>(row, k, k_end, from, to, g.data()); break;
            case 3: block<3>(row, k, k_end, from, to, g.data()); break;
            case 5: block<5>(row, k, k_end, from, to, g.data()); break;
            case 7: block<7>(row, k, k_end, from, to, g.data()); break;
            case 9: block<9>(row, k, k_end, from, to, g.data()); break;
          }
        }
      }
    }
  }
};

// Both adjoints on edges: with z_t[b] = sum_ak M_t[a,b,k] x[a] s[k], dw_t = sum_b y[b] z_t[b] for each channel
// and dy[b] = sum over channels and paths of w_t z_t[b].
template <class T, bool WantY, bool WantW> struct CGAdjoint {
  const T *x, *y, *w, *s;
  AtommlEdges edges;
  T *dy, *dw;
  int64_t dim_x, dim_y, dim_out, n_paths, channels;
  const TermPlan<T>& plan;

  template <int V, bool Full>
  INLINE void multiply(const PathPlan& p, const T* xj, const T* si, Vec<T>* products, int n) const {
    for (int64_t a = 0; a < p.d1; ++a) {
      Vec<T> xa[V];
      UNROLL for (int v = 0; v < V; ++v) xa[v] = load_n<Full>(xj + (p.a0 + a) * channels + v * kLanes<T>, n);
      for (int64_t k = 0; k < p.d3; ++k) {
        UNROLL for (int v = 0; v < V; ++v)
          products[(a * p.d3 + k) * V + v] = xa[v] * load_n<Full>(si + (p.k0 + k) * channels + v * kLanes<T>, n);
      }
    }
  }

  template <int V, bool Full>
  INLINE void vectors(const T* xj, const T* si, const T* ye, const T* we, T* dwe, Vec<T>* products, Vec<T>* total, int n) const {
    for (size_t m = 0; m < plan.paths.size(); ++m) {
      const PathPlan& p = plan.paths[m];
      if (m == 0 || p.a0 != plan.paths[m - 1].a0 || p.k0 != plan.paths[m - 1].k0) multiply<V, Full>(p, xj, si, products, n);
      Vec<T> weight[V] = {}, dweight[V] = {};
      if constexpr (WantY) {
        UNROLL for (int v = 0; v < V; ++v) weight[v] = load_n<Full>(we + p.path * channels + v * kLanes<T>, n);
      }
      const int64_t* first = plan.first.data() + plan.start[m];
      for (int b = 0; b < p.d2; ++b) {
        Vec<T> z[V] = {};
        for (const Term<T>*term = plan.terms.data() + first[b], *last = plan.terms.data() + first[b + 1]; term < last; ++term) {
          const Vec<T> value = broadcast(term->value);
          const Vec<T>* product = products + term->product * V;
          UNROLL for (int v = 0; v < V; ++v) z[v] += value * product[v];
        }
        if constexpr (WantW) {
          const Vec<T> yb = broadcast(ye[p.b0 + b]);
          UNROLL for (int v = 0; v < V; ++v) dweight[v] += yb * z[v];
        }
        if constexpr (WantY) {
          Vec<T> sum_b = total[p.b0 + b];
          UNROLL for (int v = 0; v < V; ++v) sum_b += weight[v] * z[v];
          total[p.b0 + b] = sum_b;
        }
      }
      if constexpr (WantW) {
        UNROLL for (int v = 0; v < V; ++v) store_n<Full>(dwe + p.path * channels + v * kLanes<T>, dweight[v], n);
      }
    }
  }

  void rows(int64_t begin, int64_t end) const {
    constexpr int most = kRegisters == 32 ? 4 : 2;
    const size_t bytes = sizeof(Vec<T>);
    constexpr int largest = 9 * 9;  // products of the highest degrees
    std::vector<T> space((largest * most + dim_y + 1) * kLanes<T>);
    auto* aligned = reinterpret_cast<Vec<T>*>((reinterpret_cast<uintptr_t>(space.data()) + bytes - 1) / bytes * bytes);
    Vec<T> *total = aligned, *products = aligned + dim_y;
    for (int64_t row = begin; row < end; ++row)
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k) {
        const int64_t e = edges.edge ? edges.edge[k] : k;
        std::fill_n(total, dim_y, Vec<T>{});
        const T *xj = x + edges.other[e] * dim_x * channels, *si = s + row * dim_out * channels;
        over_channels<T, most>(channels, [&](auto count, auto full, int64_t c, int n) {
          vectors<count, full>(xj + c, si + c, WantW ? y + e * dim_y : nullptr,
                               WantY ? w + e * n_paths * channels + c : nullptr,
                               WantW ? dw + e * n_paths * channels + c : nullptr, products, total, n);
        });
        if constexpr (WantY)
          for (int64_t b = 0; b < dim_y; ++b) dy[e * dim_y + b] = sum<T>(total[b]);
      }
  }
};

}  // namespace atomml
