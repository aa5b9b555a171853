import json

import pytest

from atomml.demo import run_demo
from atomml.errors import ConfigError


def test_the_demo_trains_evaluates_simulates_and_reports(tmp_path):
    summary = run_demo(tmp_path / "demo", epochs=1, md_steps=10)
    report = (tmp_path / "demo" / "report.md").read_text()
    for line in report.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "demo" / line.split("(")[1].rstrip(")")).is_file()
    assert "RMSE, test" in report
    assert json.loads((tmp_path / "demo" / "summary.json").read_text()) == summary
    assert 0 < summary["metrics"]["test"]["forces_rmse"] < 2
    with pytest.raises(ConfigError, match="files in it"):
        run_demo(tmp_path / "demo")
