// Node functions of the fused evaluation, a block of atoms at a time, and their adjoints.
#pragma once
#include "gemm.hpp"
#include "math.hpp"
#include "tdn_edges.hpp"

namespace atomml {

// out[k] = sum_r matrix[k][r] in[r]: between ranks and components of one atom.
template <class T, int V, bool One>
INLINE void mix_atom(const T* matrix, const T* in, T* out, int64_t rows, int64_t columns, int64_t c_total) {
  const int64_t width = One ? V * kLanes<T> : c_total;
  visit_tiles<kTile<V>>(rows, [&](auto tile, int64_t k) {
    constexpr int K = tile;
    for (int64_t c = 0; c < width; c += V * kLanes<T>) {
      Vec<T> acc[K][V] = {};
      for (int64_t r = 0; r < columns; ++r) {
        Vec<T> x[V];
        UNROLL for (int v = 0; v < V; ++v) x[v] = load(in + r * width + c + v * kLanes<T>);
        UNROLL for (int a = 0; a < K; ++a) {
          const Vec<T> value = broadcast(matrix[(k + a) * columns + r]);
          UNROLL for (int v = 0; v < V; ++v) acc[a][v] += value * x[v];
        }
      }
      UNROLL for (int a = 0; a < K; ++a) {
        UNROLL for (int v = 0; v < V; ++v) store(out + (k + a) * width + c + v * kLanes<T>, acc[a][v]);
      }
    }
  });
}

template <class T, int V, bool One> struct NodeFunctions {
  const TdnModel<T>& m;
  TdnState<T>& s;
  TdnScratch<T>& scratch;
  static constexpr int lanes = kLanes<T>;

  INLINE int64_t width() const { return One ? V * lanes : m.c; }
  INLINE int64_t row() const { return m.dim * width(); }  // numbers of one atom

  // out (+)= in W_l for the degrees 0..lout of n atoms; `order` and `species` give each atom the matrix of its species.
  void linear(const T* w, const T* in, T* out, int64_t n, int64_t lout, bool add, const int32_t* species = nullptr) const {
    const int64_t square = width() * width();
    for (int64_t kind = 0; kind < (species ? m.species : 1); ++kind)
      for (int64_t l = 0; l <= lout; ++l) {
        int64_t rows = 0;
        for (int64_t i = 0; i < n; ++i)
          if (!species || species[i] == kind)
            for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k, ++rows) {
              scratch.in[rows] = in + i * row() + k * width();
              scratch.out[rows] = out + i * row() + k * width();
            }
        gemm<T>(scratch.in.data(), scratch.out.data(), rows, w + (kind * (lout + 1) + l) * square, width(), width(), add);
      }
  }

  // power_0 = message, power_n = power_(n-1) x message; of the last one only the components that are used.
  void powers(const T* message, int64_t dim_last) const {
    T* power = scratch.powers.data();
    std::copy(message, message + row(), power);
    for (int64_t n = 0; n < m.products; ++n, power += row()) multiply(power, message, power + row(), n + 1 == m.products ? dim_last : m.dim);
  }

  INLINE void multiply(const T* x, const T* z, T* out, int64_t dim) const {
    const int32_t* index = m.term_index;
    const T* value = m.at(m.term_value);
    int64_t n = 0;
    for (int64_t k = 0; k < dim; ++k) {
      const int64_t start = n;
      for (int64_t c = 0; c < width(); c += V * lanes) {
        Vec<T> acc[V] = {};
        for (n = start; n < m.terms && index[3 * n + 2] == k; ++n) {
          const Vec<T> v_n = broadcast(value[n]);
          const T *xa = x + index[3 * n] * width() + c, *zb = z + index[3 * n + 1] * width() + c;
          UNROLL for (int v = 0; v < V; ++v) acc[v] += (v_n * load(xa + v * lanes)) * load(zb + v * lanes);
        }
        UNROLL for (int v = 0; v < V; ++v) store(out + k * width() + c + v * lanes, acc[v]);
      }
    }
  }

  // dx += d(out)/dx dout and dz += d(out)/dz dout.
  INLINE void multiply_adjoint(const T* x, const T* z, const T* dout, T* dx, T* dz, int64_t dim) const {
    const int32_t* index = m.term_index;
    const T* value = m.at(m.term_value);
    for (int64_t n = 0; n < m.terms && index[3 * n + 2] < dim; ++n) {
      const int64_t a = index[3 * n] * width(), b = index[3 * n + 1] * width(), k = index[3 * n + 2] * width();
      const Vec<T> v_n = broadcast(value[n]);
      for (int64_t c = 0; c < width(); c += lanes) {
        const Vec<T> g = v_n * load(dout + k + c);
        store(dx + a + c, load(dx + a + c) + g * load(z + b + c));
        store(dz + b + c, load(dz + b + c) + g * load(x + a + c));
      }
    }
  }

  const T* scale(const AtommlTdnLayer& layer, int64_t n, int64_t species, int64_t l) const {
    return m.at(layer.scales) + ((n * m.species + species) * (m.lmax + 1) + l) * width();
  }

  // many[k] = sum_n scale_n power_n, for the components that the layer gives.
  void many_body(const AtommlTdnLayer& layer, int64_t species, T* many) const {
    for (int64_t l = 0; l <= layer.lout; ++l)
      for (int64_t c = 0; c < width(); c += lanes)
        for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k) {
          Vec<T> total = {};
          for (int64_t n = 0; n <= m.products; ++n)
            total += load(scale(layer, n, species, l) + c) * load(scratch.powers.data() + n * row() + k * width() + c);
          store(many + k * width() + c, total);
        }
  }

  // dmessage from dmany, with the powers of the message at hand.
  void many_body_adjoint(const AtommlTdnLayer& layer, int64_t species, const T* dmany, T* dmessage) const {
    T* dpowers = scratch.dpowers.data();
    std::fill_n(dpowers, (m.products + 1) * row(), T(0));
    for (int64_t n = 0; n <= m.products; ++n)
      for (int64_t l = 0; l <= layer.lout; ++l)
        for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k)
          for (int64_t c = 0; c < width(); c += lanes)
            store(dpowers + n * row() + k * width() + c, load(scale(layer, n, species, l) + c) * load(dmany + k * width() + c));
    std::fill_n(dmessage, row(), T(0));
    const int64_t dim_last = (layer.lout + 1) * (layer.lout + 1);
    for (int64_t n = m.products; n > 0; --n)
      multiply_adjoint(scratch.powers.data() + (n - 1) * row(), scratch.powers.data(), dpowers + n * row(),
                       dpowers + (n - 1) * row(), dmessage, n == m.products ? dim_last : m.dim);
    for (int64_t c = 0; c < row(); c += lanes) store(dmessage + c, load(dmessage + c) + load(dpowers + c));
  }

  // x = f(out) for n atoms.
  void activate(const AtommlTdnLayer& layer, const T* out, T* x, int64_t n) const {
    if (m.nonlinearity == 1 && layer.lout > 0) gates(layer, out, n);
    for (int64_t i = 0; i < n; ++i, out += row(), x += row())
      for (int64_t l = 0; l <= layer.lout; ++l)
        for (int64_t c = 0; c < width(); c += lanes) {
          const Vec<T> factor = l == 0 && m.nonlinearity == 1 ? sigmoid<T>(load(out + c)) : factor_of(layer, out, i, l, c);
          for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k) store(x + k * width() + c, factor * load(out + k * width() + c));
        }
  }

  // What multiplies degree l of an atom: 1, the gate, or sigmoid(slope norm + shift).
  INLINE Vec<T> factor_of(const AtommlTdnLayer& layer, const T* out, int64_t i, int64_t l, int64_t c) const {
    if (m.nonlinearity == 0) return broadcast(T(1));
    if (m.nonlinearity == 1) return sigmoid<T>(load(scratch.scalars[0].data() + (i * layer.lout + l - 1) * width() + c));
    return sigmoid<T>(load(m.at(layer.slope) + l * width() + c) * norm(out, l, c) + load(m.at(layer.shift) + l * width() + c));
  }

  INLINE Vec<T> norm(const T* out, int64_t l, int64_t c) const {
    Vec<T> total = {};
    for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k) total += load(out + k * width() + c) * load(out + k * width() + c);
    return total * broadcast(T(1) / T(2 * l + 1));
  }

  // Arguments of the gates of n atoms: bias + out_0 G.
  void gates(const AtommlTdnLayer& layer, const T* out, int64_t n) const {
    const int64_t columns = layer.lout * width();
    for (int64_t i = 0; i < n; ++i) {
      scratch.in[i] = out + i * row();
      scratch.out[i] = scratch.scalars[0].data() + i * columns;
      std::copy_n(m.at(layer.gate_bias), columns, scratch.out[i]);
    }
    gemm<T>(scratch.in.data(), scratch.out.data(), n, m.at(layer.gate), width(), columns, true);
  }

  // dout from dx, in place of dx, for n atoms.
  void activate_adjoint(const AtommlTdnLayer& layer, const T* out, T* dx, int64_t n) const {
    if (m.nonlinearity == 0) return;
    const bool gated = m.nonlinearity == 1 && layer.lout > 0;
    if (gated) gates(layer, out, n);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t l = 0; l <= layer.lout; ++l)
        for (int64_t c = 0; c < width(); c += lanes) atom_adjoint(layer, out + i * row(), dx + i * row(), i, l, c);
    if (!gated) return;
    for (int64_t i = 0; i < n; ++i) {
      scratch.in[i] = scratch.scalars[1].data() + i * layer.lout * width();
      scratch.out[i] = dx + i * row();
    }
    gemm<T>(scratch.in.data(), scratch.out.data(), n, m.at(layer.gate_t), layer.lout * width(), width(), true);
  }

  INLINE void atom_adjoint(const AtommlTdnLayer& layer, const T* out, T* dx, int64_t i, int64_t l, int64_t c) const {
    const Vec<T> one = broadcast(T(1));
    if (m.nonlinearity == 1 && l == 0) {
      const Vec<T> x = load(out + c), g = sigmoid<T>(x);
      store(dx + c, load(dx + c) * (g + x * g * (one - g)));
      return;
    }
    const Vec<T> g = factor_of(layer, out, i, l, c);
    Vec<T> dot = {};
    for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k) {
      const Vec<T> gradient = load(dx + k * width() + c);
      dot += gradient * load(out + k * width() + c);
      store(dx + k * width() + c, g * gradient);
    }
    const Vec<T> dargument = dot * g * (one - g);
    if (m.nonlinearity == 1) {
      store(scratch.scalars[1].data() + (i * layer.lout + l - 1) * width() + c, dargument);
      return;
    }
    const Vec<T> dnorm = dargument * load(m.at(layer.slope) + l * width() + c) * broadcast(T(2) / T(2 * l + 1));
    for (int64_t k = l * l; k < (l + 1) * (l + 1); ++k)
      store(dx + k * width() + c, load(dx + k * width() + c) + dnorm * load(out + k * width() + c));
  }

  // Adds the readout of the scalars of n atoms to their energies, and stores its gradient in dx: of component 0 in
  // the last layer, added to it by earlier ones through `linear_readout`.
  void readout(const AtommlTdnLayer& layer, const T* x, int64_t first, int64_t n, T* dx) const {
    if (layer.linear_readout) {
      for (int64_t i = 0; i < n; ++i) {
        Vec<T> total = {};
        for (int64_t c = 0; c < width(); c += lanes) total += load(x + i * row() + c) * load(m.at(layer.linear_readout) + c);
        s.energy[first + i] += double(sum<T>(total));
      }
      return;
    }
    T *argument = scratch.hidden[0].data(), *gradient = scratch.hidden[1].data();
    for (int64_t i = 0; i < n; ++i) scratch.in[i] = x + i * row(), scratch.out[i] = argument + i * m.h;
    gemm<T>(scratch.in.data(), scratch.out.data(), n, m.at(layer.hidden), width(), m.h, false);
    for (int64_t i = 0; i < n; ++i) {
      Vec<T> total = {};
      for (int64_t h = 0; h < m.h; h += lanes) {
        const Vec<T> a = load(argument + i * m.h + h), g = sigmoid<T>(a), weight = load(m.at(layer.last_readout) + h);
        total += weight * a * g;
        store(gradient + i * m.h + h, weight * (g + a * g * (broadcast(T(1)) - g)));
      }
      s.energy[first + i] += double(sum<T>(total));
      scratch.in[i] = gradient + i * m.h, scratch.out[i] = dx + i * row();
    }
    gemm<T>(scratch.in.data(), scratch.out.data(), n, m.at(layer.hidden_t), m.h, width(), false);
  }
};

}  // namespace atomml
