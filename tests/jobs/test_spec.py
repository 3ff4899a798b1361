"""JobSpec: defaults, TOML, what wins, what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jobs.cli import main
from jobs.errors import ConfigError, SpecError
from jobs.resolving import resolve
from jobs.spec import AUTO, OPTIONS, JobSpec

NEEDED = {"model": "m.onnx", "input": ("in",), "output": "out"}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = resolve({**NEEDED, "input": ("a/*.parquet", "../b")})
    assert spec.model == str(tmp_path / "m.onnx")
    assert spec.input == (str(tmp_path / "a/*.parquet"), str(tmp_path.parent / "b"))
    assert spec.output == str(tmp_path / "out")


def test_paths_of_a_config_are_relative_to_it(tmp_path: Path) -> None:
    config = write(tmp_path / "job.toml", 'model = "m.onnx"\ninput = "in"\noutput = "/out"\n')
    spec = resolve({}, config)
    assert (spec.model, spec.input) == (str(tmp_path / "m.onnx"), (str(tmp_path / "in"),))
    assert spec.output == "/out"


def test_command_line_wins_over_config(tmp_path: Path) -> None:
    config = write(
        tmp_path / "job.toml",
        'model = "m"\ninput = ["a", "b"]\noutput = "o"\nengines = 4\non-error = "skip"\n'
        'keep = ["id"]\n[bind]\nx = "pixels"\n',
    )
    spec = resolve({"engines": 2, "input": ("c",)}, config)
    assert spec.engines == 2 and spec.input == (str(Path.cwd() / "c"),)
    assert spec.on_error == "skip" and spec.keep == ("id",)
    assert spec.bindings == {"x": "pixels"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine = 2", "unknown option 'engine'; did you mean 'engines'?"),
        ("engines = 'two'", "job.toml: engines: expected an integer, got 'two'"),
        ("engines = true", "engines: expected an integer, got True"),
        ("engines = 0", "engines: expected at least 1, got 0"),
        ("executor = 'rai'", "expected one of local, ray, got 'rai'; did you mean 'ray'?"),
        ("batch_rows = 99999999999", "batch_rows: expected at most 16,777,216, got 99999999999"),
        ("stall_seconds = nan", "stall_seconds: expected at least 0.1, got nan"),
        ("stall_seconds = inf", "stall_seconds: expected at most 604,800, got inf"),
        ("stall_seconds = 'x'", "stall_seconds: expected a number, got 'x'"),
        ("restart = 1", "restart: expected true or false, got 1"),
        ("format = 1", "format: expected a string, got 1"),
        ("model = 1", "job.toml: model: expected a string, got 1"),
        ("output = ['a']", "output: expected a string, got ['a']"),
        ("output = ''", "output: expected a path, got ''"),
        ("output = '~nobody-here/x'", "output: expected a path, got '~nobody-here/x'"),
        ("input = 5", "job.toml: input: expected a string or a list of strings, got 5"),
        ("input = ['']", "input: expected a path, got ''"),
        ("input = { a = 1 }", "input: expected a string or a list of strings, got {'a': 1}"),
        ("keep = true", "job.toml: keep: expected a string or a list of strings, got True"),
        ("keep = [1]", "keep: expected a string or a list of strings, got [1]"),
        ("off = 3", "off: expected a string or a list of strings, got 3"),
        ("bind = 3", "bind: expected a list of strings or a table of them, got 3"),
        ("bind = { x = 3 }", "bind: expected a list of strings or a table of them"),
        ("bind = ['x']", "bind: expected INPUT=FIELD, got 'x'"),
        ("bind = ['x=a', 'x=b']", "input 'x' is bound twice"),
        ("select = 3", "select: expected a string, a list of strings or a table of them, got 3"),
        ("select = ['=a']", "select: expected OUTPUT or OUTPUT=FIELD, got '=a'"),
        ("select = ['y=']", "select: expected OUTPUT or OUTPUT=FIELD, got 'y='"),
        ("select = ['y', 'y=b']", "select: expected each output once, got 'y' twice"),
        ("select = ['y=a', 'z=a']", "select: expected each field once, got 'a' twice"),
        ("input = [1]", "input: expected a string or a list of strings, got [1]"),
        ("engines = = 2", "expected TOML"),
        ("address = 'auto'", "add --executor ray"),
        ("stages = 2\ndomain = 'socket'", "has several; do without one of them"),
        ("stages = 'many'", "stages: expected an integer or 'auto', got 'many'"),
        ("stages = 0", "stages: expected at least 1, got 0"),
        ("scorer_memory = '2 pounds'", "scorer_memory: expected bytes as 2GiB or 500MB, got '2 p"),
        ("max_errors = 3", "add --on-error skip"),
    ],
)
def test_config_refused(tmp_path: Path, text: str, said: str) -> None:
    given = {name: f"{name} = 'x'" for name in NEEDED if not text.startswith(name)}
    config = write(tmp_path / "job.toml", "\n".join([*given.values(), text]))
    with pytest.raises(SpecError) as caught:
        resolve({}, config)
    assert said in str(caught.value)
    ours = caught.value.exit_code == 1
    assert (
        ours == isinstance(caught.value, ConfigError) == str(caught.value).startswith(str(config))
    )


def test_missing_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.toml: cannot be read"):
        resolve(NEEDED, tmp_path / "nowhere.toml")


@pytest.mark.parametrize("given", [{"output": ""}, {"output": " "}, {"input": ("a", "")}])
def test_saying_nothing_is_not_the_working_folder(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"expected a path, got '"):
        resolve({**NEEDED, **given})


@pytest.mark.parametrize("name", ["model", "input", "output"])
def test_needed_options(name: str) -> None:
    with pytest.raises(SpecError, match=f"expected --{name}, got none"):
        resolve({k: v for k, v in NEEDED.items() if k != name})


def test_keep_nothing_differs_from_keep_all() -> None:
    assert resolve(NEEDED).keep is None
    assert resolve({**NEEDED, "keep": ""}).keep == ()
    assert resolve({**NEEDED, "keep": "id, label"}).keep == ("id", "label")


def test_names_with_a_comma_are_kept_in_quotes() -> None:
    names = ("id", "a,b", 'c"d')
    spec = resolve({**NEEDED, "keep": 'id, "a,b",c"d'})
    assert spec.keep == names
    words = shlex.split(spec.command())
    again = words[words.index("--keep") + 1]
    assert again == 'id,"a,b","c""d"' and resolve({**NEEDED, "keep": again}).keep == names
    for text in ('"a', '"a"b', "a\nb"):
        with pytest.raises(SpecError, match="keep: expected names"):
            resolve({**NEEDED, "keep": text})


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("--keep id --keep 'a, b' --keep '\"c,d\"'", ("id", "a", "b", "c,d")),
        ("--keep ''", ()),
        ("", None),
    ],
)
def test_keep_may_be_given_several_times(
    said: str, kept: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobSpec] = []
    monkeypatch.setattr("jobs.run.score", lambda spec: seen.append(spec) or 0)
    words = shlex.split(f"run --model /m --input /a --output /o {said}")
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen[0].keep == kept


def test_outputs_may_be_chosen_as_a_list_or_as_a_table(tmp_path: Path) -> None:
    config = write(tmp_path / "job.toml", '[select]\nlogits = "score"\n"out/1" = "label"\n')
    assert resolve(NEEDED, config).selection == {"logits": "score", "out/1": "label"}
    chosen = resolve({**NEEDED, "select": ("logits = score", "label")})
    assert list(chosen.selection.items()) == [("logits", "score"), ("label", "label")]
    assert resolve(NEEDED).selection == {}


def test_resume_command_parses_back_to_the_same_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec(
        model="/m m.onnx", input=("/a", "/b'c"), output="/o", bind=("x=f",), keep=(),
        executor="ray", address="auto", engines=2, threads=1, batch_rows=7, format="arrow",
        on_error="skip", max_errors=0, stall_seconds=1.5, max_restarts=9, restart=True,
        progress="none", stages=AUTO, scorer_memory=3 << 30, smt=True, select=("y=a", "z"),
    )  # fmt: skip
    seen: list[JobSpec] = []
    monkeypatch.setattr("jobs.run.score", lambda spec: seen.append(spec) or 0)
    words = shlex.split(spec.command())
    result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    differing = {n for n in OPTIONS if getattr(seen[0], n) != getattr(spec, n)}
    assert differing == {"restart"}, "a resume must not restart"


@pytest.mark.parametrize(
    ("said", "meant"), [("2GiB", 2 << 30), ("1.5 MB", 1_500_000), ("4096", 4096), (77, 77)]
)
def test_amounts_of_memory_are_read_as_written(said: Any, meant: int) -> None:
    assert resolve({**NEEDED, "scorer_memory": said}).scorer_memory == meant


def test_every_option_is_on_the_command_line() -> None:
    command = main.commands["run"]
    flags = {option.name for option in command.params if isinstance(option, click.Option)}
    assert flags == {*OPTIONS, "config"}
    assert all(option.metadata["help"] for option in OPTIONS.values())
    assert Path(resolve(NEEDED).model).is_absolute()


def test_a_tokenizer_is_a_path_and_needs_not_be_given(tmp_path: Path) -> None:
    config = write(tmp_path / "job.toml", 'tokenizer = "t/tokenizer.json"\nmax_tokens = 7\n')
    spec = resolve(NEEDED, config)
    assert spec.tokenizer == str(tmp_path / "t" / "tokenizer.json")
    assert f"--tokenizer {spec.tokenizer} --max-tokens 7" in spec.command()
    assert resolve(NEEDED).tokenizer is None
    with pytest.raises(SpecError, match="max_tokens: expected at least 1, got 0"):
        resolve({**NEEDED, "max_tokens": 0})


def test_arrow_files_know_no_snappy() -> None:
    with pytest.raises(SpecError, match="compression: Arrow files know zstd and lz4, not snappy"):
        resolve({**NEEDED, "format": "arrow", "compression": "snappy"})
    assert resolve({**NEEDED, "compression": "snappy"}).compression == "snappy"
