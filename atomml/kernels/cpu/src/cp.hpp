// The node-factored convolution and its adjoints; equations in atomml/kernels/reference.py.
//
// Sums over the edges of a row stay in registers: a tile of ranks times a pair of channel vectors, for which
// all edges of the row are visited. The weight vector of an edge is loaded once per tile.
#pragma once
#include <algorithm>
#include <vector>

#include "api.h"
#include "parallel.hpp"
#include "simd.hpp"
#include "terms.hpp"
#include "tiles.hpp"

namespace atomml {

// Vectors and ranks in a tile: its accumulators, a weight for each vector and the operands must fit the registers.
constexpr int kVectors = kRegisters == 32 ? 4 : 2;
constexpr int kRankTile = kRegisters == 32 ? 6 : 5;

struct RankGroup {
  int64_t first, size;  // ranks first .. first + size belong to one set of radial weights
};

inline std::vector<RankGroup> rank_groups(const int64_t* sizes, int64_t n) {
  std::vector<RankGroup> groups(n);
  int64_t first = 0;
  for (int64_t g = 0; g < n; ++g) {
    groups[g] = {first, sizes[g]};
    first += sizes[g];
  }
  return groups;
}

// Fixed is the number of channels if the compiler is to know it, else 0.
template <class T, int64_t Fixed> struct CPConv {
  const Terms<T>& terms;
  const AtommlEdges& edges;
  T* out;
  int64_t ranks, n_groups, given_channels;
  const std::vector<RankGroup>& groups;

  INLINE int64_t width() const { return Fixed ? Fixed : given_channels; }

  template <int R, int V, bool Full>
  INLINE void tile(int64_t row, int64_t g, int64_t r, int64_t c, int n) const {
    Vec<T> acc[R][V] = {};
    for (const Term<T>& term : terms) {
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k) {
        const int64_t e = edges.edge ? edges.edge[k] : k;
        const T* pj = term.x + (edges.other[e] * ranks + r) * width() + c;
        const T* qe = term.y + e * ranks + r;
        const T* wc = term.w + (e * n_groups + g) * width() + c;
        Vec<T> we[V];
        UNROLL for (int v = 0; v < V; ++v) we[v] = load_n<Full>(wc + v * kLanes<T>, n);
        UNROLL for (int a = 0; a < R; ++a) {
          UNROLL for (int v = 0; v < V; ++v)
            acc[a][v] += broadcast(qe[a]) * (we[v] * load_n<Full>(pj + a * width() + v * kLanes<T>, n));
        }
      }
    }
    T* o = out + (row * ranks + r) * width() + c;
    UNROLL for (int a = 0; a < R; ++a) {
      UNROLL for (int v = 0; v < V; ++v) store_n<Full>(o + a * width() + v * kLanes<T>, acc[a][v], n);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0; g < n_groups; ++g)
        visit_tiles<kRankTile>(groups[g].size, [&](auto size, int64_t offset) {
          visit_channels<T, kVectors>(width(), [&](auto vectors, auto full, int64_t c, int n) {
            tile<size, vectors, full>(row, g, groups[g].first + offset, c, n);
          });
        });
  }
};

// Both adjoints on edges. For a tile of ranks all channels of one edge are visited; the sums of dq over
// channels stay in registers, those of dw over ranks in the output row.
template <class T, int64_t Fixed> struct CPAdjoint {
  const Terms<T>& terms;
  const T* s;
  const AtommlEdges& edges;
  T *dq, *dw;
  int64_t ranks, n_groups, given_channels;
  const std::vector<RankGroup>& groups;
  bool leaving;  // the edges leave their rows: p is that of the row, s at the other end

  INLINE int64_t width() const { return Fixed ? Fixed : given_channels; }

  template <int R, int V, bool Full, bool ToQ, bool ToW>
  INLINE void block(Vec<T> (&acc)[R], const T* pj, const T* si, const T* qe, const T* we, T* dwe, bool start, int n) const {
    UNROLL for (int v = 0; v < V; ++v) {
      const int64_t shift = v * kLanes<T>;
      Vec<T> weight = {}, total = {};
      if constexpr (ToQ) weight = load_n<Full>(we + shift, n);
      if constexpr (ToW) {
        if (!start) total = load_n<Full>(dwe + shift, n);
      }
      UNROLL for (int a = 0; a < R; ++a) {
        const Vec<T> product = load_n<Full>(pj + a * width() + shift, n) * load_n<Full>(si + a * width() + shift, n);
        if constexpr (ToW) total += broadcast(qe[a]) * product;
        if constexpr (ToQ) acc[a] += weight * product;
      }
      if constexpr (ToW) store_n<Full>(dwe + shift, total, n);
    }
  }

  // One term for a tile of ranks and all channels of an edge; `start`: nothing is in dw yet.
  template <bool ToQ, bool ToW, int R>
  INLINE void add(Vec<T> (&acc)[R], const Term<T>& term, int64_t j, const T* si, int64_t e, int64_t g, int64_t r, bool start) const {
    const T* pj = term.x + (j * ranks + r) * width();
    const T* qe = ToW ? term.y + e * ranks + r : nullptr;
    const int64_t weights = (e * n_groups + g) * width();
    visit_channels<T, kVectors>(width(), [&](auto vectors, auto full, int64_t c, int n) {
      block<R, vectors, full, ToQ, ToW>(acc, pj + c, si + c, qe, ToQ ? term.w + weights + c : nullptr, ToW ? dw + weights + c : nullptr, start, n);
    });
  }

  // A tile of ranks of one edge; `start`: it is the first of its group.
  template <int R> INLINE void edge(int64_t row, int64_t e, int64_t g, int64_t r, bool start) const {
    const int64_t i = leaving ? edges.other[e] : row, j = leaving ? row : edges.other[e];
    const T* si = s + (i * ranks + r) * width();
    Vec<T> acc[R] = {};
    for (const Term<T>& term : terms) {
      const bool to_q = dq && term.w, to_w = dw && term.y;
      if (to_q && to_w) add<true, true>(acc, term, j, si, e, g, r, start);
      else if (to_q) add<true, false>(acc, term, j, si, e, g, r, start);
      else if (to_w) add<false, true>(acc, term, j, si, e, g, r, start);
      start = start && !to_w;
    }
    if (dw && start) std::fill_n(dw + (e * n_groups + g) * width(), width(), T(0));
    if (dq) {
      UNROLL for (int a = 0; a < R; ++a) dq[e * ranks + r + a] = sum<T>(acc[a]);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t k = edges.pointer[row]; k < edges.pointer[row + 1]; ++k)
        for (int64_t g = 0; g < n_groups; ++g)
          visit_tiles<8>(groups[g].size, [&](auto size, int64_t offset) {
            edge<size>(row, edges.edge ? edges.edge[k] : k, g, groups[g].first + offset, offset == 0);
          });
  }
};

// out = matrix · x for every node: change between components and ranks.
template <class T> struct Mix {
  const T *matrix, *x;
  T* out;
  int64_t r_total, a_total, channels;

  template <int R, int V, bool Full>
  INLINE void tile(int64_t node, int64_t r, int64_t c, int n) const {
    Vec<T> acc[R][V] = {};
    const T* xn = x + node * a_total * channels + c;
    const T* m = matrix + r * a_total;
    for (int64_t a = 0; a < a_total; ++a) {
      Vec<T> xa[V];
      UNROLL for (int v = 0; v < V; ++v) xa[v] = load_n<Full>(xn + a * channels + v * kLanes<T>, n);
      UNROLL for (int k = 0; k < R; ++k) {
        UNROLL for (int v = 0; v < V; ++v) acc[k][v] += broadcast(m[k * a_total + a]) * xa[v];
      }
    }
    T* o = out + (node * r_total + r) * channels + c;
    UNROLL for (int k = 0; k < R; ++k) {
      UNROLL for (int v = 0; v < V; ++v) store_n<Full>(o + k * channels + v * kLanes<T>, acc[k][v], n);
    }
  }

  void rows(int64_t begin, int64_t end) const {
    for (int64_t node = begin; node < end; ++node)
      visit_tiles<kRankTile>(r_total, [&](auto size, int64_t r) {
        visit_channels<T, kVectors>(channels, [&](auto vectors, auto full, int64_t c, int n) {
          tile<size, vectors, full>(node, r, c, n);
        });
      });
  }
};

}  // namespace atomml
