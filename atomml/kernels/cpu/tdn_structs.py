"""The structures of tdn_api.h for ctypes."""

from __future__ import annotations

import ctypes

__all__ = ["Input", "Layer", "Model", "Output"]


def _fields(text: str) -> list[tuple[str, type]]:
    """``"name:kind ..."`` as ctypes fields: i an int64, d a double, p an address."""
    kinds = {"i": ctypes.c_int64, "d": ctypes.c_double, "p": ctypes.c_void_p}
    return [(name, kinds[kind]) for name, _, kind in (word.partition(":") for word in text.split())]


class Layer(ctypes.Structure):
    """``AtommlTdnLayer``."""

    _fields_ = _fields(
        "lout:i intervals:i spacing:d table:p w_in:p w_in_t:p h_first:p w_msg:p w_msg_t:p scales:p w_out:p w_out_t:p "
        "w_res:p w_res_t:p res_first:p gate:p gate_t:p gate_bias:p slope:p shift:p linear_readout:p hidden:p "
        "hidden_t:p last_readout:p"
    )


class Model(ctypes.Structure):
    """``AtommlTdnModel``."""

    _fields_ = _fields(
        "lmax:i c:i h:i species:i products:i layers:i nonlinearity:i cutoff:d scale:d offsets:p n_groups:i "
        "first_groups:i groups:p groups_first:p a:p a_t:p b:p b_first:p d:p d_t:p d_first:p d_first_t:p "
        "table_group_first:p terms:i term_index:p term_value:p repulsion:p repulsion_reach:d layer:p"
    )


class Input(ctypes.Structure):
    """``AtommlTdnInput``."""

    _fields_ = _fields(
        "atoms:i graphs:i pairs:i species:p graph:p positions:p cells:p neighbor:p center:p shift:p threads:i"
    )


class Output(ctypes.Structure):
    """``AtommlTdnOutput``."""

    _fields_ = [*_fields("energies:p forces:p virial:p features:p"), ("phases", ctypes.c_double * 16)]
