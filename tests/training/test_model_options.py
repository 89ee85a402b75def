"""A model option is declared once, as a field of Config: from there come its flag, its check and its key in config.json."""

import json
from dataclasses import dataclass, fields
from unittest import mock

import pytest
import torch
from helpers import given_options

import pretrain
from formats import huggingface as hf
from kernels import Packing
from model import LAYER_KINDS, Config, LayerKind, Shared, Transformer, load, option
from training import cli
from training.flags import option_flags, option_names, options_from

GIVEN = given_options(Config)


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
    [field] = [f for f in fields(Config) if f.metadata.get("flag", f.name) == name]
    assert {key for key in usual if found[key] != usual[key]} == {field.name}
    wanted = not field.default if field.type is bool else GIVEN[name] if field.type is tuple else field.type(GIVEN[name])
    assert found[field.name] == wanted


def test_the_flags_are_those_of_pretrain():
    """A new option needs no line here, nor in EXPRESSED: with it set, a model is of our own kind (see below)."""
    assert option_names(Config).split() == [f"--{name.replace('_', '-')}" for name in GIVEN] and len(GIVEN) >= 12
    assert set(option_names(Config).split()) < set(pretrain.flags().names.values())
    assert hf.EXPRESSED <= {f.name for f in fields(Config)}                   # no name of a field that is gone


def test_a_new_kind_of_layer_is_one_entry(tmp_path):
    """Its flag is read, its window checked, its model runs and is saved as one of our own."""
    kinds = LAYER_KINDS | {"near": LayerKind(rope=False, window=True)}
    with mock.patch.dict(LAYER_KINDS, kinds):
        model = Transformer(Config(vocab_size=50, layers=2, width=16, heads=2, attention="near+rope", window=3))
        model.save(tmp_path)
        loaded, _ = load(tmp_path)
        assert loaded.config == model.config and json.loads((tmp_path / "config.json").read_text())["model_type"] == "nanothink"
        assert model.config.windows == (3, 0) and model.angles(torch.zeros(1, 1))["near"] == (None, None)
        seen = torch.randint(0, 50, (1, 9))
        changed = torch.cat([(seen[:, :1] + 1) % 50, seen[:, 1:]], dim=1)
        x, other = (model.layers[0](model.embed_tokens(t), shared_of(model, t)) for t in (seen, changed))
        assert not torch.equal(x[0, 2], other[0, 2]) and torch.equal(x[0, 3:], other[0, 3:])
        with pytest.raises(ValueError, match="layers with a window need its size"):
            Config(attention="near")
    with pytest.raises(ValueError, match="use rope, nope, window"):
        Config(attention="near", window=3)


def shared_of(model, tokens):
    packing = Packing(*tokens.shape, tokens.device)
    return Shared(False, model.angles(packing.positions), packing)


@dataclass
class Gated(Config):
    """As a user would add them: two lines in Config."""
    gate: bool = option(False, "a gate for each head")
    anchors: int = option(0, "tokens that every window sees")


def test_a_new_option_has_a_flag_a_check_and_a_key_in_config_json(tmp_path):
    assert parsed(Gated, "--gate", "--anchors", "2") | {"gate": False, "anchors": 0} == parsed(Gated)
    for wrong in ({"gate": 1}, {"anchors": -1}, {"anchors": True}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            Gated(**wrong)
    assert hf.config_for(Gated()) == hf.config_for(Config())                  # not set: the kind that it was before
    config = hf.config_for(Gated(gate=True, anchors=2))
    assert config["model_type"] == "nanothink"                                # else config.json would lose it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Gated(**hf.fields_from(hf.read_config(tmp_path))) == Gated(gate=True, anchors=2)


def test_an_older_config_json_of_our_own_kind_has_the_defaults_of_later_options(tmp_path):
    Transformer(Config(vocab_size=50, layers=1, width=16, heads=2, qk_norm="full")).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "nanothink"
    del config["fields"]["norm_after"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path)[0].config.norm_after is False
