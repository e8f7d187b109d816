"""Modules are found and evaluated wherever functions keep them, and scoring changes nothing in them."""

import functools
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

import memlib
from memlib.data import ImageSet
from memlib.device import evaluating
from memlib.runs.modules import modules_of

IMAGES = ImageSet.of(np.random.default_rng(0).integers(0, 256, (20, 1, 2, 2), np.uint8))
GLOBAL, LISTED, elsewhere = nn.Sequential(), [], types.ModuleType("elsewhere_of_mine")


def made():
    """A network with batch norm and dropout, in training mode."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    network[2].running_mean += 0.3
    return network


class Holder:
    """Not a module; has one."""

    def __init__(self, network):
        self.network = network

    def encode(self, x):
        return self.network(x)

    @staticmethod
    def by_global(x):
        return GLOBAL(x)

    def __call__(self, x):
        return self.helper(x)

    def helper(self, x):
        return self.encode(x)


class Slotted:
    __slots__ = ("network",)

    def __init__(self, network):
        self.network = network

    def __call__(self, x):
        return self.network(x)


class Hiding(nn.Module):
    """A module with another in a list, where `eval` does not reach."""

    def __init__(self, network):
        super().__init__()
        self.parts = [network]

    def forward(self, x):
        return self.parts[0](x)


class OfClass:
    def __call__(self, x):
        return self.network(x)


def with_default(x, network=GLOBAL):
    return network(x)


def with_keyword(x, *, network=None):
    return network(x)


def by_global(x):
    return GLOBAL(x)


def by_list(x):
    return LISTED[0](x)


def by_inner(x):
    return (lambda y: next(GLOBAL(part) for part in [y]))(x)


def by_function(x):
    return by_inner(x)


def by_file(x):
    return elsewhere.network(x)


def by_table(x):
    return TABLE["networks"][0]["first"](x)


def wrapped(function):
    @functools.wraps(function)
    def outer(x):
        return function(x)

    return outer


TABLE = {"networks": [{"first": GLOBAL}]}


def of_class(network):
    return type("Own", (OfClass,), {"network": network, "__module__": __name__})()


def keyword(network):
    return functools.partial(with_keyword, network=network)


HIDDEN = {
    "itself": lambda network: network,
    "forward": lambda network: network.forward,
    "lambda": lambda network: lambda x: network(x),
    "lambda of a list": lambda network: (lambda each: lambda x: each[0](x))([network]),
    "lambda of a dict of tuples": lambda network: (lambda each: lambda x: each["a"][1](x))(
        {"a": (0, network)}
    ),
    "lambda of a lambda": lambda network: (lambda inner: lambda x: inner(x))(lambda x: network(x)),
    "lambda of an object": lambda network: (lambda holder: lambda x: holder.encode(x))(Holder(network)),
    "default": lambda network: lambda x, own=network: own(x),
    "keyword default": lambda network: lambda x, *, own=network: own(x),
    "method": lambda network: Holder(network).encode,
    "object": Holder,
    "slots": Slotted,
    "object of objects": lambda network: Holder(Holder(network)),
    "object of a list": lambda network: (lambda holder: lambda x: holder.network[0](x))(Holder([network])),
    "class": of_class,
    "module with a list": Hiding,
    "partial": keyword,
    "partial of a partial": lambda network: functools.partial(keyword(network)),
    "partial of a lambda": lambda network: functools.partial(lambda own, x: own(x), network),
    "partial of a list": lambda network: functools.partial(lambda own, x: own[0](x), [network]),
    "decorated": lambda network: wrapped(lambda x: network(x)),
    "of no gradients": lambda network: torch.no_grad()(lambda x: network(x)),
    "a wrapped library function": lambda network: functools.wraps(torch.relu)(lambda x: network(x)),
    "namespace": lambda network: (lambda of: lambda x: of.network(x))(types.SimpleNamespace(network=network)),
    "latent model": lambda network: (lambda of: lambda x: of.encoder(x))(
        memlib.LatentModel(network, network)
    ),
    "cached": lambda network: functools.lru_cache(lambda x: network(x)),
    "attribute of a function": lambda network: setattr(by_attribute, "network", network) or by_attribute,
    "global": by_global,
    "global list": by_list,
    "global table": by_table,
    "global in an inner function": by_inner,
    "global of another function": by_function,
    "global of a method": Holder(None).by_global,
    "global file": by_file,
}


def by_attribute(x):
    return by_attribute.network(x)


def hidden(name, network, monkeypatch):
    """A function that calls the network."""
    if not name.startswith("global"):
        return HIDDEN[name](network)
    for place in ("GLOBAL",):
        monkeypatch.setitem(globals(), place, network)
    monkeypatch.setitem(TABLE, "networks", [{"first": network}])
    monkeypatch.setattr(elsewhere, "network", network, raising=False)
    monkeypatch.setitem(globals(), "LISTED", [network])
    return HIDDEN[name]


@pytest.mark.parametrize("place", ["encoder", "decoder", "prepare"])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_modules_are_evaluated_and_left_as_they_were(name, place, monkeypatch):
    network = made()
    network[3].train(name != "lambda")
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [part.training for part in network.modules()]
    right = scored(made().eval(), place)
    np.testing.assert_array_equal(scored(hidden(name, network, monkeypatch), place), right)
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def scored(function, place):
    """log p(x) of a model that has a function, from (B, 4) or images to (B, 3), in this place."""
    parts = {
        "encoder": lambda x: Normal(torch.zeros(len(x), 4), 1.0),
        "decoder": lambda z: Normal(z[:, :1, None, None].expand(-1, 1, 2, 2), 1.0),
    }
    if place == "encoder":
        parts |= {"encoder": lambda x: Normal(function(x), 1.0)}
    elif place == "decoder":
        parts |= {
            "decoder": lambda z: Normal(function(z).sum(-1)[:, None, None, None].expand(-1, 1, 2, 2), 1.0)
        }
    else:
        parts |= {
            "prepare": lambda levels: function(levels / 255),
            "decoder": lambda z: Normal(z[:, :3], 1.0),
        }
    return memlib.LatentModel(**parts, num_samples=30, proposal="encoder").log_prob(IMAGES)


def test_modes_are_back_after_an_error():
    network = made()

    def fail(x):
        network(x)
        raise KeyError

    with pytest.raises(KeyError):
        memlib.LatentModel(fail, fail).log_prob(IMAGES)
    assert network.training


def test_the_nearest_module_comes_first_and_loops_end():
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    loop = [one]
    loop.append(loop)
    loop.append({"again": loop})
    assert modules_of(two, lambda x: loop) == [two, one]
    with evaluating(*modules_of(lambda x: torch.relu(x))):
        pass


def test_the_modules_of_libraries_are_left_alone():
    assert modules_of(lambda x: torch.nn.functional.relu(np.sqrt(x)), Normal) == []


def test_a_descriptor_that_holds_no_function_holds_no_module():
    class Nothing(classmethod):  # such as libraries have, whose `__func__` is never set
        def __init__(self, function):
            pass

    class Owner:
        answer = Nothing(abs)

    network = nn.Linear(1, 1)
    assert modules_of(lambda x: (Owner.answer, network)) == [network]
