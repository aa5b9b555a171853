// From pairs and positions to the edges within the cutoff, in the order of evaluation.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>

#include "parallel.hpp"
#include "tdn_state.hpp"

namespace atomml {

// Above it features of neighbours do not fit the cache unless near atoms have near numbers.
constexpr int64_t kReorderAtoms = 1024;

inline bool valid(const AtommlTdnInput& in, int64_t n_species) {
  bool good = in_range(in.species, in.atoms, n_species) && in_range(in.graph, in.atoms, in.graphs) &&
              in_range(in.neighbor, in.pairs, in.atoms) && in_range(in.center, in.pairs, in.atoms);
  for (int64_t e = 1; e < in.pairs; ++e) good &= in.center[e - 1] <= in.center[e];
  return good && in.pairs < INT32_MAX && in.atoms < INT32_MAX;
}

// Bits of x at every third place.
inline uint64_t spread_bits(uint64_t x) {
  x &= 0x1fffff;
  x = (x | x << 32) & 0x1f00000000ffff;
  x = (x | x << 16) & 0x1f0000ff0000ff;
  x = (x | x << 8) & 0x100f00f00f00f00f;
  x = (x | x << 4) & 0x10c30c30c30c30c3;
  return (x | x << 2) & 0x1249249249249249;
}

// Atoms along a Z-order curve through bins of the size of the cutoff; coordinates are taken modulo the cell.
template <class T> void order_atoms(const AtommlTdnInput& in, double cutoff, TdnState<T>& s) {
  int32_t* order = s.order.resize(in.atoms);
  std::iota(order, order + in.atoms, 0);
  if (in.atoms > kReorderAtoms && in.graphs == 1) {
    const double* c = in.cells;
    const double det = c[0] * (c[4] * c[8] - c[5] * c[7]) - c[1] * (c[3] * c[8] - c[5] * c[6]) + c[2] * (c[3] * c[7] - c[4] * c[6]);
    std::vector<std::pair<uint64_t, int32_t>> keys(in.atoms);
    for (int64_t i = 0; i < in.atoms; ++i) {
      double r[3] = {in.positions[3 * i], in.positions[3 * i + 1], in.positions[3 * i + 2]};
      if (std::abs(det) > 1e-9) {
        double f[3];
        for (int k = 0; k < 3; ++k) {  // f = r cell^-1 by Cramer's rule
          const double *a = c + 3 * ((k + 1) % 3), *b = c + 3 * ((k + 2) % 3);
          f[k] = (r[0] * (a[1] * b[2] - a[2] * b[1]) + r[1] * (a[2] * b[0] - a[0] * b[2]) + r[2] * (a[0] * b[1] - a[1] * b[0])) / det;
          f[k] -= std::floor(f[k]);
        }
        for (int k = 0; k < 3; ++k) r[k] = f[0] * c[k] + f[1] * c[3 + k] + f[2] * c[6 + k];
      }
      uint64_t key = 0;
      for (int k = 0; k < 3; ++k) {
        const double bin = r[k] / (0.5 * cutoff) + (1 << 20);
        key |= spread_bits(bin > 0 && bin < (1 << 21) ? uint64_t(bin) : 0) << k;
      }
      keys[i] = {key, int32_t(i)};
    }
    std::sort(keys.begin(), keys.end());
    for (int64_t i = 0; i < in.atoms; ++i) order[i] = keys[i].second;
  }
  int32_t* place = s.place.resize(in.atoms);
  for (int64_t i = 0; i < in.atoms; ++i) place[order[i]] = int32_t(i);
}

// r_j + S cell - r_i of a pair.
INLINE void pair_vector(const AtommlTdnInput& in, int64_t e, double r[3]) {
  const double *i = in.positions + 3 * in.center[e], *j = in.positions + 3 * in.neighbor[e], *shift = in.shift + 3 * e;
  const double* cell = in.cells + 9 * in.graph[in.center[e]];
  for (int k = 0; k < 3; ++k) r[k] = j[k] - i[k] + (shift[0] * cell[k] + shift[1] * cell[3 + k] + shift[2] * cell[6 + k]);
}

// Counts the edges of each atom within the cutoff. A distance that is not a number counts: it must not vanish.
template <class T> void count_edges(const AtommlTdnInput& in, double cutoff, TdnState<T>& s, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    int64_t count = 0;
    for (int64_t e = s.given_ptr[s.order[i]]; e < s.given_ptr[s.order[i] + 1]; ++e) {
      double r[3];
      pair_vector(in, e, r);
      count += !(r[0] * r[0] + r[1] * r[1] + r[2] * r[2] >= cutoff * cutoff);
    }
    s.row_ptr[i + 1] = count;
  }
}

// Writes the edges of each atom.
template <class T>
void write_edges(const AtommlTdnInput& in, const TdnModel<T>& m, TdnState<T>& s, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    int64_t at = s.row_ptr[i];
    s.species[i] = int32_t(in.species[s.order[i]]);
    for (int64_t e = s.given_ptr[s.order[i]]; e < s.given_ptr[s.order[i] + 1]; ++e) {
      double r[3];
      pair_vector(in, e, r);
      const double square = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
      if (square >= m.cutoff * m.cutoff) continue;
      const double d = std::sqrt(square);
      s.neighbor[at] = s.place[in.neighbor[e]], s.center[at] = int32_t(i);
      s.distance[at] = d;
      s.inverse_r[at] = T(1 / d);
      for (int k = 0; k < 3; ++k) s.unit[k][at] = T(r[k] / d);
      ++at;
    }
  }
}

// The transpose: edges by neighbour, in the order of their numbers.
template <class T> void transpose_edges(TdnState<T>& s) {
  int64_t* ptr = s.col_ptr.resize(s.atoms + 1);
  std::fill_n(ptr, s.atoms + 1, 0);
  for (int64_t e = 0; e < s.edges; ++e) ++ptr[s.neighbor[e] + 1];
  for (int64_t j = 0; j < s.atoms; ++j) ptr[j + 1] += ptr[j];
  for (int64_t e = 0; e < s.edges; ++e) s.col_edge[ptr[s.neighbor[e]]++] = int32_t(e);
  for (int64_t j = s.atoms; j > 0; --j) ptr[j] = ptr[j - 1];
  ptr[0] = 0;
}

// q = b y of the edges begin .. end, a vector of edges at a time.
template <class T>
void rank_harmonics(const TdnModel<T>& m, const HarmonicNorms& norms, const T* b, int64_t ranks, TdnState<T>& s, T* q, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<T>;
  Vec<T> y[kMaxDim];
  for (int64_t e = begin; e < end; e += lanes) {
    const int n = int(std::min<int64_t>(lanes, end - e));
    harmonics<Vec<T>, T, false>(int(m.lmax), norms, load(&s.unit[0][e]), load(&s.unit[1][e]), load(&s.unit[2][e]), y, nullptr, nullptr, nullptr);
    for (int64_t r = 0; r < ranks; ++r) {
      Vec<T> value = {};
      for (int64_t k = 0; k < m.dim; ++k) value += broadcast(b[k * ranks + r]) * y[k];
      for (int k = 0; k < n; ++k) q[(e + k) * ranks + r] = value[k];
    }
  }
}

// dE/dr = scale (dr e + (1 - e e) grad(b dq . Y) / |r|), in eV/Angstrom.
template <class T>
void edge_forces(const TdnModel<T>& m, const HarmonicNorms& norms, TdnState<T>& s, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<T>;
  Vec<T> y[kMaxDim], gx[kMaxDim], gy[kMaxDim], gz[kMaxDim], dy[kMaxDim];
  auto gather = [&](const T* b, const T* dq, int64_t ranks, int64_t e, int n) {
    for (int64_t r = 0; r < ranks; ++r) {
      Vec<T> value = {};
      for (int k = 0; k < n; ++k) value[k] = dq[(e + k) * ranks + r];
      for (int64_t k = 1; k < m.dim; ++k) dy[k] += broadcast(b[k * ranks + r]) * value;
    }
  };
  for (int64_t e = begin; e < end; e += lanes) {
    const int n = int(std::min<int64_t>(lanes, end - e));
    const Vec<T> unit[3] = {load(&s.unit[0][e]), load(&s.unit[1][e]), load(&s.unit[2][e])};
    harmonics<Vec<T>, T, true>(int(m.lmax), norms, unit[0], unit[1], unit[2], y, gx, gy, gz);
    std::fill_n(dy, m.dim, Vec<T>{});
    gather(m.at(m.b_first), s.dq_first.data(), m.ranks_first, e, n);
    if (m.layers > 1) gather(m.at(m.b), s.dq.data(), m.ranks, e, n);
    Vec<T> g[3] = {};
    for (int64_t k = 1; k < m.dim; ++k) g[0] += dy[k] * gx[k], g[1] += dy[k] * gy[k], g[2] += dy[k] * gz[k];
    const Vec<T> along = unit[0] * g[0] + unit[1] * g[1] + unit[2] * g[2];
    const Vec<T> inverse = load(&s.inverse_r[e]), dr = load(&s.dr[e]), scale = broadcast(T(m.scale));
    for (int k = 0; k < 3; ++k) {
      const Vec<T> force = scale * (unit[k] * dr + inverse * (g[k] - unit[k] * along));
      for (int v = 0; v < n; ++v) s.pair_force[k][e + v] = force[v];
    }
  }
}

}  // namespace atomml
