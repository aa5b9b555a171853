"""The command line as a user meets it: instant help, clear errors, configurations that explain themselves."""

import json
import re
import struct
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from atomml.cli import main as cli
from atomml.config_manual import settings_of, template_of
from atomml.errors import CheckError, DataError
from atomml.training.config import TrainConfig

KINDS = ["train", "finetune", "tdn", "tdn_paper"]


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "atomml.cli.main", *arguments], capture_output=True, text=True, check=False
    )


def test_help_is_shown_in_less_than_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = command("--help")
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0
    assert min(seconds) < 1.0
    assert "train" in result.stdout


def test_nothing_heavy_is_imported_for_help():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "atomml.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "ase", "matplotlib", "numpy", "scipy", "e3nn", "pydantic", "yaml"}


@pytest.mark.parametrize("arguments", [["schema", "train"], ["template", "train"], ["info", "--help"]])
def test_torch_is_not_needed_to_explain_a_configuration(arguments):
    code = (
        "import sys; sys.argv = ['atomml', *sys.argv[1:]]\n"
        "from atomml.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'ase'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_has_a_help_text():
    group = typer.main.get_command(cli.app)
    for name, entry in group.commands.items():
        assert entry.help, name
        result = run(name, "--help")
        assert result.exit_code == 0, name


def test_version():
    assert re.fullmatch(r"atomml \d+\.\d+\.\d+\S*\n", run("--version").output)


@pytest.mark.parametrize(("error", "code"), [(DataError, 2), (CheckError, 1), (KeyboardInterrupt, 130)])
def test_exit_codes(monkeypatch, capsys, error, code):
    def fail(**_):
        raise (
            error("It broke.")
            if error is KeyboardInterrupt
            else error("It broke.", where="frame 3", fix="mend it")
        )

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    shown = capsys.readouterr().err
    if error is not KeyboardInterrupt:
        for text in ("It broke.", "where: frame 3", "to do: mend it"):
            assert text in shown
        assert ("Check failed" in shown) == (error is CheckError)


def test_error_of_a_command_is_a_panel_on_stderr_without_traceback(tmp_path):
    missing = tmp_path / "a_rather_long_name_for_a_configuration_file_that_does_not_exist_anywhere.yaml"
    result = command("validate", str(missing))
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert f"where: {missing}" in result.stderr
    assert result.stderr.startswith("╭─ Error")


def test_unknown_command_is_refused():
    assert command("trian").returncode == 2


@pytest.mark.parametrize("kind", KINDS)
def test_template_validates(kind, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(run("template", kind).output, encoding="utf-8")
    result = run("validate", str(file))
    assert result.exit_code == 0, result.output
    assert f"valid {kind} configuration" in result.output


@pytest.mark.parametrize("kind", KINDS)
def test_schema_names_every_key_with_its_meaning(kind):
    from atomml.cli.config import Kind, model_of

    table = run("schema", kind).output
    for setting in settings_of(model_of(Kind(kind))):
        assert setting.key in table
        assert setting.meaning, f"{setting.key} has no docstring"
        assert setting.group or setting.type


@pytest.mark.parametrize("kind", KINDS)
def test_json_schema_is_json(kind):
    schema = json.loads(run("schema", kind, "--json").output)
    assert schema["additionalProperties"] is False


def test_settings_know_defaults_limits_and_variants():
    settings = {setting.key: setting for setting in settings_of(TrainConfig)}
    assert settings["run_dir"].required
    assert settings["batch.batch_size"].default == 8  # of the group's default, not of the class
    assert settings["optimizer.lr"].type == "number > 0"
    assert settings["model[tdn].lmax"].type == "integer ≥ 1, ≤ 4"
    assert settings["model[tdn_paper]"].group
    assert settings["data.valid"].type.endswith("| null")


def test_template_shows_the_first_variant_only():
    text = template_of(TrainConfig)
    assert text.count("\nmodel:") == 1
    assert "kind: tdn\n" in text
    assert "average_degree" not in text


def test_validate_suggests_the_nearest_key(tmp_path):
    file = tmp_path / "config.yaml"
    text = run("template", "train").output
    file.write_text(text.replace("  lr:", "  learning_rat:").replace("epochs: 100", "epochs: -1"))
    result = command("validate", str(file))
    assert result.returncode == 2
    assert "optimizer.learning_rat: unknown key" in result.stderr
    assert "epochs: Input should be greater than 0 (got -1)" in result.stderr


@pytest.mark.parametrize("model", ["{cutoff: 5}", "{kind: mace}"])
def test_validate_says_which_networks_there_are(model, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"{{run_dir: r, data: {{train: t.xyz}}, epochs: 1, model: {model}}}")
    assert "model.kind: choose one of 'tdn', 'race', 'tdn_paper'" in command("validate", str(file)).stderr


def test_a_configuration_without_a_model_is_one_of_a_finetuning(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("{run_dir: r, data: {train: t.xyz}, epochs: 1}")
    assert "valid finetune configuration" in run("validate", str(file)).output


def test_validate_can_be_told_the_kind(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(run("template", "train").output, encoding="utf-8")
    result = command("validate", str(file), "--kind", "finetune")
    assert result.returncode == 2
    assert "model: unknown key" in result.stderr


@pytest.fixture
def model_file(tmp_path):
    header = {
        "format": "atomml-model",
        "format_version": 1,
        "atomml": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "config": {"kind": "tdn", "cutoff": 4.5, "lmax": 2, "channels": 16},
        "elements": [3, 17],
        "e0": {"3": -1.25, "17": -2.5},
        "parameters": 12345,
        "conservative": True,
        "factors": {"conv": {"lmax": 2, "kind": "cg_even", "rank": 18, "error": 1e-12}},
        "metrics": {"test": {"forces_mae": 0.0123456}},
        "licence": "MIT",
    }
    table = json.dumps({"__metadata__": {"atomml": json.dumps(header)}}).encode()
    path = tmp_path / "potential.safetensors"
    path.write_bytes(struct.pack("<Q", len(table)) + table)
    return path


def test_info_shows_what_the_header_says(model_file):
    output = run("info", str(model_file)).output
    for text in ("Li Cl", "4.5 Å", "12,345", "rank 18", "forces_mae 0.01235", "MIT", "-2.500000"):
        assert text in output
    assert json.loads(run("info", str(model_file), "--json").output)["elements"] == [3, 17]


def test_info_reads_the_header_without_torch(model_file):
    code = (
        "import sys; from atomml.cli.main import app\n"
        "try:\n    app(['info', sys.argv[1]])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model_file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_info_refuses_a_foreign_file(tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("not a model")
    result = command("info", str(path))
    assert result.returncode == 2
    assert "not a model file" in result.stderr
