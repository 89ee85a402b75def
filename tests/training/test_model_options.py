"""A model option is declared once, as a field of Config: from there come its flag, its check and its key in config.json."""

import json
from dataclasses import dataclass, fields

import pytest

import pretrain
from formats import huggingface as hf
from model import Config, Transformer, load, option
from training import cli
from training.flags import option_flags, option_names, options_from

GIVEN = {"layers": "3", "width": "48", "heads": "6", "kv_heads": "3", "ff": "80", "attention": "rope+nope+window", "window": "7",
         "qk_norm": "head", "qkv_bias": None, "norm_after": None, "untied": None, "rope_theta": "500.5"}


def parsed(kind, *flags):
    p = cli.Parser("A script.")
    option_flags(p, kind)
    return options_from(p.parse_args(flags), kind)


def test_without_flags_a_new_model_is_the_default_one():
    args = pretrain.flags().parse_args(["--data", "x", "--out", "x", "--seq-len", "16"])
    assert vars(pretrain.new_model(args, 4096).config) == vars(Config())


@pytest.mark.parametrize("name", GIVEN)
def test_every_flag_sets_its_field_and_no_other(name):
    flags = [f"--{name.replace('_', '-')}", *([GIVEN[name]] if GIVEN[name] else [])]
    found, usual = parsed(Config, *flags), parsed(Config)
    field = {"untied": "tied"}.get(name, name)
    assert {key for key in usual if found[key] != usual[key]} == {field}
    wanted = {"attention": GIVEN["attention"], "qk_norm": "head", "rope_theta": 500.5, "tied": False}
    assert found[field] == wanted.get(field, True if GIVEN[name] is None else GIVEN[name].isdigit() and int(GIVEN[name]))


def test_the_flags_are_those_of_pretrain():
    assert option_names(Config).split() == [f"--{name.replace('_', '-')}" for name in GIVEN]
    assert set(option_names(Config).split()) < set(pretrain.flags().names.values())
    assert all(f.name in hf.EXPRESSED for f in fields(Config))


@dataclass
class Gated(Config):
    """As a user would add them: two lines in Config."""
    gate: bool = option(False, "a gate for each head")
    sinks: int = option(0, "tokens that every window sees")


def test_a_new_option_has_a_flag_a_check_and_a_key_in_config_json(tmp_path):
    assert parsed(Gated, "--gate", "--sinks", "2") | {"gate": False, "sinks": 0} == parsed(Gated)
    for wrong in ({"gate": 1}, {"sinks": -1}, {"sinks": True}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            Gated(**wrong)
    assert hf.config_for(Gated()) == hf.config_for(Config())                  # not set: the kind that it was before
    config = hf.config_for(Gated(gate=True, sinks=2))
    assert config["model_type"] == "nanothink"                                # else config.json would lose it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Gated(**hf.fields_from(hf.read_config(tmp_path))) == Gated(gate=True, sinks=2)


def test_an_older_config_json_of_our_own_kind_has_the_defaults_of_later_options(tmp_path):
    Transformer(Config(vocab_size=50, layers=1, width=16, heads=2, qk_norm="full")).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "nanothink"
    del config["fields"]["norm_after"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path)[0].config.norm_after is False
