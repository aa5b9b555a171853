// Edge loops of the fused evaluation. Radial weights are read from the table for the edges of one atom at a time
// and never reach memory; sums over edges stay in registers.
#pragma once
#include "tdn_state.hpp"
#include "tiles.hpp"

namespace atomml {

// Ranks whose sums fit the registers beside V weights and the operands.
template <int V> constexpr int kTile = (kRegisters - V - 3) / V < 10 ? (kRegisters - V - 3) / V : 10;

// Channels are visited V vectors at a time. With One they are V vectors in all, known to the compiler.
template <class T, int V, bool One> struct EdgeLoops {
  const TdnModel<T>& m;
  TdnState<T>& s;
  TdnScratch<T>& scratch;
  static constexpr int lanes = kLanes<T>;

  INLINE int64_t width() const { return One ? V * lanes : m.c; }

  // w (and w') of the edges k of an atom: [edge][group][c].
  template <bool Slope>
  INLINE void radial(const AtommlTdnLayer& layer, int64_t begin, int64_t end, const int32_t* edge) const {
    const int64_t row = m.n_groups * width();
    const Vec<T> per_spacing = broadcast(T(1 / layer.spacing));
    T *w = scratch.w.data(), *dw = scratch.dw.data();
    for (int64_t k = begin; k < end; ++k, w += row, dw += row) {
      const int64_t e = edge ? edge[k] : k;
      const double x = s.distance[e] / layer.spacing;  // a distance that is not a number makes the weights so
      const int64_t interval = x < double(layer.intervals) ? int64_t(x) : layer.intervals - 1;
      const T* a = m.at(layer.table) + 4 * row * interval;
      const Vec<T> u = broadcast(T(x - double(interval)));
      for (int64_t c = 0; c < row; c += lanes) {
        const Vec<T> b1 = load(a + row + c), b2 = load(a + 2 * row + c), b3 = load(a + 3 * row + c);
        store(w + c, load(a + c) + u * (b1 + u * (b2 + u * b3)));
        if constexpr (Slope) store(dw + c, per_spacing * (b1 + u * ((b2 + b2) + u * (b3 + b3 + b3))));
      }
    }
  }

  // out[r] = sum over edges of q[r] w p[r]: features p are those of `other(edge)`, or with Shared one row for all ranks.
  template <bool Shared>
  INLINE void sum(const std::vector<RankRange>& ranges, int64_t ranks, const T* q, const T* p, const int32_t* other,
                  int64_t begin, int64_t end, const int32_t* edge, T* out) const {
    for (const RankRange& range : ranges)
      visit_tiles<kTile<V>>(range.size, [&](auto tile, int64_t offset) {
        for (int64_t c = 0; c < width(); c += V * lanes)
          sum_tile<tile, Shared>(range, range.first + offset, ranks, q, p, other, begin, end, edge, out, c);
      });
  }

  template <int R, bool Shared>
  INLINE void sum_tile(const RankRange& range, int64_t r, int64_t ranks, const T* q, const T* p, const int32_t* other,
                       int64_t begin, int64_t end, const int32_t* edge, T* out, int64_t c) const {
    Vec<T> acc[R][V] = {};
    const T* w = scratch.w.data() + range.weights * width() + c;
    for (int64_t k = begin; k < end; ++k, w += m.n_groups * width()) {
      const int64_t e = edge ? edge[k] : k;
      const T* pj = p + (Shared ? int64_t(s.species[other[e]]) : other[e] * ranks + r) * width() + c;
      const T* qe = q + e * ranks + r;
      Vec<T> we[V];
      UNROLL for (int v = 0; v < V; ++v) {
        we[v] = load(w + v * lanes);
        if constexpr (Shared) we[v] *= load(pj + v * lanes);
      }
      UNROLL for (int a = 0; a < R; ++a) {
        const Vec<T> value = broadcast(qe[a]);
        UNROLL for (int v = 0; v < V; ++v) {
          if constexpr (Shared) acc[a][v] += value * we[v];
          else acc[a][v] += value * (we[v] * load(pj + a * width() + v * lanes));
        }
      }
    }
    UNROLL for (int a = 0; a < R; ++a) {
      UNROLL for (int v = 0; v < V; ++v) store(out + (r + a) * width() + c + v * lanes, acc[a][v]);
    }
  }

  // Gradients on the edges that leave atom j: dq[r] = sum_c w p[r] ds[r], dr = sum_c w' sum_r q[r] p[r] ds[r], or
  // what they add to those of later layers.
  template <bool Shared>
  INLINE void adjoint(const std::vector<RankRange>& ranges, int64_t ranks, const T* q, const T* pj, const T* ds,
                      int64_t begin, int64_t end, T* dq, bool add_q, bool add_r) const {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t e = s.col_edge[k];
      const T* si = ds + int64_t(s.center[e]) * ranks * width();
      Vec<T> radial = {};
      for (const RankRange& range : ranges) {
        const int64_t weights = ((k - begin) * m.n_groups + range.weights) * width();
        const T *w = scratch.w.data() + weights, *dw = scratch.dw.data() + weights;
        visit_tiles<8>(range.size, [&](auto tile, int64_t offset) {
          const int64_t r = range.first + offset;
          adjoint_tile<tile, Shared>(q + e * ranks + r, pj + (Shared ? 0 : r) * width(), si + r * width(), w, dw,
                                     dq + e * ranks + r, radial, add_q);
        });
      }
      const T total = atomml::sum<T>(radial);
      s.dr[e] = add_r ? s.dr[e] + total : total;
    }
  }

  template <int R, bool Shared>
  INLINE void adjoint_tile(const T* qe, const T* pj, const T* si, const T* w, const T* dw, T* dq, Vec<T>& radial, bool add) const {
    Vec<T> acc[R] = {};
    for (int64_t c = 0; c < width(); c += V * lanes) {
      UNROLL for (int v = 0; v < V; ++v) {
        const int64_t at = c + v * lanes;
        const Vec<T> weight = load(w + at);
        Vec<T> total = {}, shared = {};
        if constexpr (Shared) shared = load(pj + at);
        UNROLL for (int a = 0; a < R; ++a) {
          const Vec<T> row = load(si + a * width() + at);
          if constexpr (Shared) {
            total += broadcast(qe[a]) * row;
            acc[a] += (weight * shared) * row;
          } else {
            const Vec<T> product = load(pj + a * width() + at) * row;
            total += broadcast(qe[a]) * product;
            acc[a] += weight * product;
          }
        }
        if constexpr (Shared) total *= shared;
        radial += total * load(dw + at);
      }
    }
    sums<T, R>(acc, dq, add);
  }
};

}  // namespace atomml
