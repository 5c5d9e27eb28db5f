"""Settings in YAML, of anybody's."""

import pytest

from dali_icgan.training.run import Training

BOMB = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)) + "gan: {policies: *a40}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"x\.yaml must be YAML, got an alias, \*a0: write what it stands for"),
        ("gan: &a {policies: *a}", r"x\.yaml must be YAML, got an alias"),
        (
            "gan: !!python/object/apply:os.system [true]",
            r"x\.yaml must be YAML, got a tag, tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("gan: !!timestamp x", r"x\.yaml must be YAML, got a tag"),
        ("gan: " + "[" * 2000, r"x\.yaml must be YAML, got "),
        ("steps: 2001-99-99", r"x\.yaml must be YAML, got month must be in 1\.\.12"),
        (
            "gan: {seed: 0x" + "f" * 6000 + "}",
            r"x\.yaml: gan: seed must have at most 64 bits, got something of type int",
        ),
        ("gan: {steps: 0x1ffffffffffffffff}", r"x\.yaml: gan: steps must have at most 64 bits"),
        ("gan: {betas: []}", r"x\.yaml: gan: betas must be two numbers, got \[\]"),
        ("look_samples: .inf", r"x\.yaml: look_samples must be an integer >= 6, got inf"),
        ("extractor: {depths: [~]}", r"x\.yaml: extractor: depths must be a list, each an integer, got \[None\]"),
        ("truncation: '<<'", r"x\.yaml: truncation must be a number, got '<<'"),
    ],
)
def test_what_no_settings_are_is_refused_and_the_file_named(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Training.read(tmp_path / "x.yaml")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"gan: \xff")
    with pytest.raises(ValueError, match=r"x\.yaml must be YAML, got 'utf-8' codec can't decode") as found:
        Training.read(tmp_path / "x.yaml")
    assert type(found.value) is ValueError
