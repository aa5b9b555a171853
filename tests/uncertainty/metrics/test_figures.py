import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from atomml.errors import DataError
from atomml.uncertainty.metrics import central_probability
from atomml.uncertainty.metrics.figures import error_figure, reliability_figure, sparsification_figure
from tests.uncertainty.metrics.samples import scalars


def drawn(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert not plt.get_fignums()  # no global state
    return buffer.tell() > 5000


def test_reliability_shows_every_curve_with_its_error(rng):
    error, std = scalars(rng, 300, 2.0)
    curves = {"before": central_probability(error, std), "after": central_probability(error, 2 * std)}
    figure = reliability_figure(curves, title="energies")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels] == ["before", "after"]
    assert drawn(figure)
    with pytest.raises(DataError, match="no curve"):
        reliability_figure({})


@pytest.mark.parametrize("case", ["usual", "constant", "few", "some exact", "all exact"])
def test_errors_are_drawn_against_deviations(rng, case):
    error, std = scalars(rng, 15 if case == "few" else 500)
    if case == "constant":
        std = np.ones_like(std)
    if "exact" in case:
        error[: None if case == "all exact" else 100] = 0.0
    figure = error_figure(error, std, unit="eV/Å")
    assert "eV/Å" in figure.axes[0].get_xlabel()
    assert drawn(figure)


def test_sparsification_names_its_area(rng):
    figure = sparsification_figure(*scalars(rng, 500))
    assert "AUSE" in figure.axes[0].get_legend().get_texts()[0].get_text()
    assert drawn(figure)
