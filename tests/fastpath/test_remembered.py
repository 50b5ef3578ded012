"""What is remembered of parameters changes nothing: what was seen before is read and settled as if new."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.bodies import parse
from gateway.api.tgi_answers import details_asked
from gateway.api.tgi_bodies import TgiBody
from gateway.api.tgi_requests import given_by
from gateway.config import ModelSpec
from gateway.errors import InvalidRequest
from gateway.fastpath import settled, tails
from gateway.fastpath.routes import ROUTES, readers
from gateway.fastpath.settled import Settled, SettledBook, said
from gateway.fastpath.tails import Tails
from gateway.preparing import GenerationRequest, prepare
from gateway.scenarios import RAW, ScenarioBook
from gateway.schemas import Prompt
from gateway.upstream.tgi_stream import Form

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",{}\\parmets:'), min_size=1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "max_new_tokens": st.sampled_from([1, 20, 20.0, True, "20", None, 0]),
    "temperature": st.sampled_from([1, 1.0, 0.5, True, 0, None]),
    "frequency_penalty": st.sampled_from([0, 0.0, -0.0, 1, 1.0]),
    "do_sample": st.sampled_from([True, False, 1, 0, None]),
    "details": st.sampled_from([True, False, None]),
    "best_of": st.sampled_from([1, 2]),
    "stop": st.lists(st.sampled_from(["a", "b", '","parameters":{}}', "模"]), max_size=5),
    "seed": st.sampled_from([0, 1, 2**64]),
    "unknown": st.just({"parameters": {}}),
}
PARAMETERS = st.fixed_dictionaries({}, optional=VALUES)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])


def read(body: bytes, by: Tails | None) -> tuple[Any, ...]:
    """Inputs, parameters with their types, and whether details are asked for; or what is wrong."""
    try:
        if by is None:
            found = parse(body, TgiBody)
            inputs, parameters, details = found.inputs, given_by(found), details_asked(found)
        else:
            inputs, tail = by.read(body)
            inputs, parameters, details = inputs, dict(tail.given), tail.details
            assert tail.said == said(parameters)
    except InvalidRequest as error:
        return (error.message, error.field)
    return inputs, repr(parameters), details


@given(texts=st.lists(TEXTS, min_size=2, max_size=4), parameters=PARAMETERS, separators=SEPARATORS)
def test_a_body_whose_end_is_known_is_read_as_new(
    texts: list[str], parameters: dict[str, Any], separators: tuple[str, str]
) -> None:
    remembering = Tails()
    for text in texts:
        body = json.dumps({"inputs": text, "parameters": parameters}, separators=separators).encode()
        assert read(body, remembering) == read(body, None)


KNOWN = b'"parameters":{"max_new_tokens":20}}'
ODD = [
    b'{"inputs":"one",' + KNOWN,
    b'{"inputs":"other", ' + KNOWN,
    b"{" + KNOWN,
    b"{," + KNOWN,
    b"," + KNOWN,
    KNOWN,
    b'{"inputs":"x",,' + KNOWN,
    b'{"inputs":"x"' + KNOWN,
    b'{"inputs":"x,' + KNOWN,
    b'{"inputs":"x\\",' + KNOWN,
    b'{"inputs":"x\\\\",' + KNOWN,
    b'{"inputs":"",' + KNOWN,
    b'{"inputs":7,' + KNOWN,
    b'{"inputs":"x"},' + KNOWN,
    b'[{"inputs":"x"},' + KNOWN,
    b'{"inputs":"x","more":{"a":1,' + KNOWN,
    b'{"inputs":"x","more":{"a":1,' + KNOWN + b"}",
    b'{"inputs":"x","more":[{"a":1,' + KNOWN + b"]}",
    b'{"inputs":"x","parameters":{"max_new_tokens":3},' + KNOWN,
    b'{"inputs":"x","parameters":{"max_new_tokens":-3},' + KNOWN,
    b'{"inputs":"x","parameters":{"a":1,' + KNOWN + b"}",
    b'{"inputs":"x","inputs":"y",' + KNOWN,
    b'{"inputs":"x",' + KNOWN + b"\n",
    b'{"inputs":"x",' + KNOWN + b"}",
    b'{"inputs":"x",' + KNOWN[:-1],
    b'{"inputs":"x",' + KNOWN[:-1] + b',"inputs":"y"}',
    b'{"inputs":"x",' + KNOWN[:-1] + b',"inp\\u0075ts":"y"}',
    b'{"inputs":"x",' + KNOWN[:-1] + b',"par\\u0061meters":{"max_new_tokens":4}}',
    b'{"inputs":"\xff",' + KNOWN,
    b'{"inputs":"\\ud800",' + KNOWN,
    b'{"inputs":"x", \x0b' + KNOWN,
    b'{"inputs":"x",//' + KNOWN,
]


@pytest.mark.parametrize("first", ODD[:2] + ODD[15:28])
def test_odd_bodies_are_read_as_new_whatever_was_read_before(first: bytes) -> None:
    remembering = Tails()
    read(first, remembering)
    for body in ODD:
        assert read(body, remembering) == read(body, None), body


def test_few_ends_are_remembered_and_no_long_ones() -> None:
    remembering = Tails()
    for number in range(1, tails.MOST_TAILS + 10):
        read(b'{"inputs":"x","parameters":{"max_new_tokens":%d}}' % number, remembering)
    assert 0 < len(remembering._known) <= tails.MOST_TAILS
    known = len(remembering._known)
    read(b'{"inputs":"x","parameters":{"adapter_id":"%b"}}' % (b"a" * tails.MOST_BYTES), remembering)
    read(b'{"inputs":"x","parameters":{"max_new_tokens":0}}', remembering)
    assert len(remembering._known) == known


SPECS = [
    ModelSpec.model_validate({"id": "a", "family": "llama3", "url": "http://127.0.0.1:1"}),
    ModelSpec.model_validate(
        {
            "id": "b",
            "url": "http://127.0.0.1:1",
            "family": "qwen2",
            "parameters": {"temperature": 0.5, "seed": 1},
        }
    ),
]
OTHER_VALUES = {**VALUES, "best_of": st.sampled_from([1, 2, True]), "top_p": st.sampled_from([0.5, 1, 1.0])}
WAYS: dict[str, st.SearchStrategy[Any]] = {
    "scenario": st.sampled_from([None, "qa", RAW]),
    "stream": st.booleans(),
    "without": st.sampled_from([frozenset[str](), frozenset({"max_new_tokens"}), frozenset({"seed"})]),
}
ASKED = st.builds(
    GenerationRequest,
    model=st.none(),
    inputs=TEXTS,
    messages=st.none(),
    parameters=st.fixed_dictionaries({}, optional=OTHER_VALUES),
    started=st.just(0.0),
    **WAYS,
)


def engine_gets(asked: GenerationRequest, spec: ModelSpec, book: SettledBook | None) -> Any:
    """The engine's request, as the fast path has it made; or what is wrong."""
    key = None if book is None else book.key(spec, asked, said(asked.parameters))
    found = None if book is None else book.find(key)
    try:
        prepared = prepare(asked, spec, ScenarioBook(), None if found is None else found.parameters)
    except InvalidRequest as error:
        return error.message
    prompt = prepared.prompt
    assert isinstance(prompt, Prompt)
    if found is None or found.stop != prompt.stop:
        found = Settled(prepared.parameters, prompt.stop, Form.of(prompt.stop, prepared.parameters))
        if book is not None:
            book.keep(key, found)
    assert isinstance(found.form, Form)
    return found.form.body(prompt.text), found.form.own_stops, repr(prepared.parameters)


@given(seen=st.lists(st.tuples(ASKED, st.sampled_from(SPECS)), max_size=4), data=st.data())
def test_parameters_that_are_known_are_settled_as_new(
    seen: list[tuple[GenerationRequest, ModelSpec]], data: st.DataObject
) -> None:
    book = SettledBook()
    for asked, spec in seen:
        assert engine_gets(asked, spec, book) == engine_gets(asked, spec, None)
    for asked, _ in seen * 3:
        spec, ways = data.draw(st.sampled_from(SPECS)), data.draw(st.fixed_dictionaries(WAYS))
        again = replace(asked, inputs=data.draw(TEXTS), **ways)
        assert engine_gets(again, spec, book) == engine_gets(again, spec, None)


def test_all_that_parameters_depend_on_tells_them_apart() -> None:
    book, asked = SettledBook(), GenerationRequest(None, "x", None, {}, 0.0)
    others = [
        replace(asked, scenario="qa"),
        replace(asked, stream=True),
        replace(asked, without=frozenset({"seed"})),
    ]
    keys = [book.key(SPECS[0], one, b"{}") for one in (asked, *others)]
    assert len({*keys, book.key(SPECS[1], asked, b"{}"), book.key(SPECS[0], asked, b"[]")}) == 6
    assert book.key(SPECS[0], replace(asked, inputs="y", started=1.0), b"{}") == keys[0]


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), (0, False), ("1", 1), (("a",), ("a", "b"))]
)
def test_values_that_are_equal_to_python_alone_are_kept_apart(one: Any, other: Any) -> None:
    assert said({"seed": one}) != said({"seed": other})


def test_few_parameters_are_remembered_and_no_long_ones() -> None:
    book, asked = SettledBook(), GenerationRequest(None, "x", None, {}, 0.0)
    settled_once = Settled({}, (), Form.of((), {}))
    for number in range(settled.MOST + 10):
        book.keep(book.key(SPECS[0], asked, b"%d" % number), settled_once)
    assert 0 < len(book._known) <= settled.MOST
    assert book.key(SPECS[0], asked, b"x" * (settled.MOST_BYTES + 1)) is None
    assert book.key(SPECS[0], asked, said({"stop": ("\ud800",)})) is None


def test_every_route_has_its_reader() -> None:
    assert readers().keys() == ROUTES
