// Screened nuclear repulsion (Ziegler, Biersack, Littmark); equations in atomml/nn/repulsion.py.
#pragma once
#include <cmath>

#include "tdn_state.hpp"

namespace atomml {

// Adds half the energy of each pair to its centre, and its derivative to the force of the pair.
template <class T> void add_repulsion(const TdnModel<T>& m, TdnState<T>& s, int64_t begin, int64_t end) {
  constexpr double coulomb = 14.399645478, bohr = 0.529177210903;
  constexpr double c[4] = {0.18175, 0.50986, 0.28022, 0.02817}, d[4] = {3.19980, 0.94229, 0.40290, 0.20162};
  const double *z = m.repulsion, *power = z + m.species, *radius = power + m.species;
  for (int64_t i = begin; i < end; ++i)
    for (int64_t e = s.row_ptr[i]; e < s.row_ptr[i + 1]; ++e) {
      const int32_t a = s.species[i], b = s.species[s.neighbor[e]];
      const double r = s.distance[e], reach = std::min(m.repulsion_reach * (radius[a] + radius[b]), m.cutoff);
      const double x = r / reach;
      if (x >= 1) continue;
      const double inverse_length = (power[a] + power[b]) / (0.8854 * bohr);
      double phi = 0, dphi = 0;
      for (int k = 0; k < 4; ++k) {
        const double term = c[k] * std::exp(-d[k] * r * inverse_length);
        phi += term, dphi -= d[k] * inverse_length * term;
      }
      const double x5 = x * x * x * x * x, envelope = 1 - x5 * x * (28 - x * (48 - 21 * x));
      const double denvelope = -x5 * (168 - x * (336 - 168 * x)) / reach;
      const double strength = coulomb * z[a] * z[b] / r, energy = strength * phi * envelope;
      const double slope = strength * (dphi * envelope + phi * denvelope) - energy / r;
      s.energy[i] += 0.5 * energy / m.scale;
      for (int k = 0; k < 3; ++k) s.pair_force[k][e] += T(0.5 * slope * double(s.unit[k][e]));
    }
}

}  // namespace atomml
