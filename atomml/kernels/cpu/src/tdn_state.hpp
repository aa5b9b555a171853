// Model, working arrays and scratch space of the fused evaluation.
#pragma once
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "harmonics.hpp"
#include "parallel.hpp"
#include "simd.hpp"
#include "tdn_api.h"

namespace atomml {

// An array on a cache line that keeps its memory when it shrinks, and is not initialised.
template <class T> class Array {
 public:
  T* resize(size_t n) {
    if (n > capacity_) {
      release();
      // large arrays on large pages: rows of neighbours lie anywhere in them
      const size_t align = n * sizeof(T) < kLargePage ? 64 : kLargePage;
      data_ = static_cast<T*>(std::aligned_alloc(align, (n * sizeof(T) + 64 + align - 1) / align * align));
      if (!data_) throw std::bad_alloc();
      capacity_ = n;
      will_write(data_, int64_t(n));
    }
    return data_;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t k) { return data_[k]; }
  const T& operator[](size_t k) const { return data_[k]; }
  Array() = default;
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  Array(Array&& other) noexcept : data_(other.data_), capacity_(other.capacity_) { other.data_ = nullptr, other.capacity_ = 0; }
  ~Array() { release(); }

 private:
  void release() {
    std::free(data_);
    data_ = nullptr, capacity_ = 0;
  }
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

constexpr int kBlock = 12;  // atoms whose node functions are computed together: full tiles of rows for every degree

// Ranks of the convolution in one layer: `first` of each group and the radial weights that it takes.
struct RankRange {
  int64_t first, size, weights;
};

template <class T> struct TdnModel : AtommlTdnModel {
  std::vector<AtommlTdnLayer> layer_copies;
  std::vector<RankRange> ranges, ranges_first;
  std::vector<double> offsets_copy, repulsion_copy;
  int64_t dim, ranks, ranks_first;

  explicit TdnModel(const AtommlTdnModel& given) : AtommlTdnModel(given) {
    layer_copies.assign(given.layer, given.layer + layers);
    layer = layer_copies.data();
    dim = (lmax + 1) * (lmax + 1);
    ranks = ranges_of(n_groups, groups, nullptr, ranges);
    ranks_first = ranges_of(first_groups, groups_first, table_group_first, ranges_first);
  }
  const T* at(const void* p) const { return static_cast<const T*>(p); }

 private:
  static int64_t ranges_of(int64_t n, const int64_t* sizes, const int64_t* weights, std::vector<RankRange>& out) {
    int64_t first = 0;
    for (int64_t g = 0; g < n; ++g) {
      out.push_back({first, sizes[g], weights ? weights[g] : g});
      first += sizes[g];
    }
    return first;
  }
};

// Everything that is stored for a structure. Atoms are numbered in the order of evaluation, edges by centre.
template <class T> struct TdnState {
  int64_t atoms = 0, edges = 0;
  Array<int64_t> given_ptr, row_ptr, col_ptr;      // pairs of each given atom; edges by centre; edges by neighbour
  Array<int32_t> order, place;                      // atom given -> evaluated and back
  Array<int32_t> neighbor, center, col_edge, species;
  Array<T> unit[3], inverse_r;                      // geometry of each edge
  Array<double> distance;
  Array<T> q, q_first, dq, dq_first, dr;            // harmonics in rank space and gradients: [edges][ranks], [edges]
  std::vector<Array<T>> p;                          // of each layer, [atoms][ranks][c]; the first has none
  Array<T> ds[2], ds_first;                         // gradients of the sums, [atoms][ranks][c]
  std::vector<Array<T>> message, out;               // [atoms][dim][c] of each layer but the last
  Array<T> x, dx;                                   // features and their gradient, [atoms][dim][c]
  Array<T> pair_force[3];                           // dE/dr of each edge
  Array<double> energy, atom_virial;

  void resize(const TdnModel<T>& m, int64_t n, int64_t e, bool virial) {
    atoms = n, edges = e;
    const int64_t padded = e + kLanes<T>;
    for (auto* a : {&neighbor, &center, &col_edge}) a->resize(padded);
    for (auto* a : {&unit[0], &unit[1], &unit[2], &inverse_r, &dr, &pair_force[0], &pair_force[1], &pair_force[2]}) a->resize(padded);
    distance.resize(padded);
    q.resize(padded * m.ranks), dq.resize(padded * m.ranks);
    q_first.resize(padded * m.ranks_first), dq_first.resize(padded * m.ranks_first);
    p.resize(m.layers), message.resize(m.layers), out.resize(m.layers);
    for (int64_t t = 0; t < m.layers; ++t) {
      if (t > 0) p[t].resize(n * m.ranks * m.c);
      if (t + 1 < m.layers) message[t].resize(n * m.dim * m.c), out[t].resize(n * m.dim * m.c);
    }
    if (m.layers > 1) ds[1].resize(n * m.ranks * m.c);  // of layers of odd number
    if (m.layers > 2) ds[0].resize(n * m.ranks * m.c);
    ds_first.resize(n * m.ranks_first * m.c);
    x.resize(n * m.dim * m.c), dx.resize(n * m.dim * m.c);
    species.resize(n);
    energy.resize(n);
    if (virial) atom_virial.resize(n * 9);
  }
};

// Space of one thread: radial weights of the edges of an atom, and a block of atoms.
template <class T> struct TdnScratch {
  Array<T> w, dw, ranks, block[6], powers, dpowers, scalars[2], hidden[2];
  std::vector<const T*> in;
  std::vector<T*> out;

  void resize(const TdnModel<T>& m, int64_t most_edges) {
    w.resize(most_edges * m.n_groups * m.c + 1), dw.resize(most_edges * m.n_groups * m.c + 1);
    ranks.resize(std::max(m.ranks, m.ranks_first) * m.c);
    for (auto& b : block) b.resize(kBlock * m.dim * m.c);
    powers.resize((m.products + 1) * m.dim * m.c), dpowers.resize((m.products + 1) * m.dim * m.c);
    for (auto& s : scalars) s.resize(kBlock * std::max<int64_t>(m.lmax, 1) * m.c);
    for (auto& h : hidden) h.resize(kBlock * m.h);
    in.resize(kBlock * (2 * m.lmax + 1)), out.resize(kBlock * (2 * m.lmax + 1));
  }
};

}  // namespace atomml
