"""Reads a registry file and finds everything that is wrong with it at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ByteSize, TypeAdapter, ValidationError

from gateway.config import ModelSpec, Registry
from gateway.fields import did_you_mean, follows, in_words, names_at
from gateway.problems import Problem, points_at
from gateway.registry_aliases import alias_problems

__all__ = ["Problem", "RegistryError", "device_of", "load", "parse"]


class RegistryError(Exception):
    """The file cannot be used. ``problems`` has all of them."""

    def __init__(self, source: str, problems: Collection[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__(f"{source}: {count}\n{lines}")


def load(path: Path, *, families: Collection[str], engines: Collection[str]) -> Registry:
    """Read and check ``path``. Raises RegistryError with every problem found.

    What exists elsewhere in the program (families, engine kinds) is handed in.
    """
    source = str(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506  a SafeLoader, see below
    except OSError as error:
        raise RegistryError(source, [Problem("file", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise RegistryError(source, [Problem("file", f"is not UTF-8: {error.reason}")]) from error
    except yaml.YAMLError as error:
        raise RegistryError(source, [Problem("file", f"is not YAML: {_on_one_line(error)}")]) from error
    return parse(raw, source, families=families, engines=engines)


def parse(raw: object, source: str, *, families: Collection[str], engines: Collection[str]) -> Registry:
    """Check data that has been read already. Raises RegistryError with every problem found."""
    if not isinstance(raw, dict):
        raise RegistryError(source, [Problem("file", "must be a mapping with the key `models`")])
    problems: list[Problem] = []
    registry = None
    try:
        registry = Registry.model_validate(raw)
    except ValidationError as error:
        problems += [_explain(detail) for detail in error.errors() if not follows(detail)]
    problems += _across(raw, families, engines)
    if registry is None or problems:
        raise RegistryError(source, _without_repeats(problems))
    return registry


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a key stand twice and keeps the last; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in seen.items():
            if count > 1 and key != "<<":
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"the key `{key}` stands {count} times in the mapping at line {line}")
        return super().construct_mapping(node, deep=deep)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _without_repeats(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


# ---------------------------------------------------------------- what a single field gets wrong


def _explain(detail: Mapping[str, Any]) -> Problem:
    loc = tuple(detail["loc"])
    path = _path(loc)
    if detail["type"] == "extra_forbidden":
        allowed = names_at(Registry, loc[:-1])
        return Problem(
            path, f"unknown key{did_you_mean(str(loc[-1]), allowed)}; allowed here: {', '.join(allowed)}"
        )
    if detail["type"] == "missing":
        return Problem(path, "is required")
    if detail["type"] == "string_pattern_mismatch":
        return Problem(path, f"{detail['input']!r} does not have the right form: {_form_at(loc)}")
    message = in_words(str(detail["msg"]))
    return Problem(path, f"{message[:1].lower()}{message[1:]} (got {_short(detail['input'])})")


_NAME_FORM = "letters, digits, `.`, `_`, `-`, at most 64, beginning with a letter or digit"
_URL_FORM = "an address such as http://127.0.0.1:8080"
_FORMS = {"url": _URL_FORM, "supervisor": _URL_FORM, "replicas": _URL_FORM}


def _form_at(loc: tuple[Any, ...]) -> str:
    names = [part for part in loc if isinstance(part, str)]
    return _FORMS.get(names[-1], _NAME_FORM) if names else _NAME_FORM


def _path(loc: tuple[Any, ...]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part == "[key]":
            text += " (the key itself)"
        else:
            text += f".{part}" if text else str(part)
    return text or "file"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------- what two places get wrong together


def _across(raw: Mapping[str, Any], families: Collection[str], engines: Collection[str]) -> Iterator[Problem]:
    """Checks between records, on the raw data: they must speak also where single fields are wrong."""
    models = [model if isinstance(model, dict) else {} for model in _list(raw.get("models"))]
    ids = [str(model["id"]) for model in models if "id" in model]
    devices = [str(device.get("id")) for device in _list(raw.get("devices")) if isinstance(device, dict)]
    yield from _names(raw, models, ids)
    for index, model in enumerate(models):
        path = f"models[{index}]"
        yield from _known(f"{path}.family", model.get("family"), families)
        yield from _known(f"{path}.engine", model.get("engine"), engines)
        yield from _where(path, model)
        yield from _replicas(path, model)
        yield from _ports(path, model)
        yield from _without_effect(path, model)
        yield from _memory(path, model, devices)
    yield from _room(raw, models)
    for name, scenario in _dict(raw.get("scenarios")).items():
        yield from _scenario(f"scenarios.{name}", str(name), _dict(scenario))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(raw: Mapping[str, Any], models: list[dict[str, Any]], ids: list[str]) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    for index, model in enumerate(models):
        own = [(f"models[{index}].id", model["id"])] if "id" in model else []
        own += [
            (f"models[{index}].aliases[{at}]", alias) for at, alias in enumerate(_list(model.get("aliases")))
        ]
        for path, name in own:
            if str(name) in owner:
                yield Problem(path, f"the name `{name}` is taken already, by {owner[str(name)]}")
            owner.setdefault(str(name), path)
    known = sorted(set(owner))
    for alias in _dict(raw.get("aliases")):
        if str(alias) in owner:
            yield Problem(f"aliases.{alias}", f"the name `{alias}` is taken already, by {owner[str(alias)]}")
    yield from alias_problems(_dict(raw.get("aliases")), sorted(set(ids)))
    if raw.get("default_model") is not None:
        targets = sorted({*known, *map(str, _dict(raw.get("aliases")))})
        yield from points_at("default_model", raw["default_model"], targets)


def _known(path: str, value: object, allowed: Collection[str]) -> Iterator[Problem]:
    if isinstance(value, str) and value not in allowed:
        yield Problem(
            path,
            f"`{value}` does not exist{did_you_mean(value, allowed)}; allowed: {', '.join(sorted(allowed))}",
        )


def _where(path: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    if model.get("url") is None and model.get("command") is None:
        yield Problem(
            path, "needs `url` (an engine that runs somewhere) or `command` (one that the gateway starts)"
        )
    if model.get("command") is not None and (model.get("url") or model.get("supervisor")):
        yield Problem(
            path, "has `command` and also `url` or `supervisor`: with `command` the gateway chooses both"
        )
    if model.get("supervisor") is not None and model.get("url") is None:
        yield Problem(path, "has `supervisor` but no `url`: say where its engine answers")
    command = model.get("command")
    if isinstance(command, list) and command and not any("{port}" in str(part) for part in command):
        yield Problem(f"{path}.command", "must contain {port}, the port on which the engine is to listen")


def _replicas(path: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    """Several engines behind one model are a matter of whoever runs them."""
    for key in ("replicas", "routing"):
        if model.get(key) and _managed(model):
            how = "command" if model.get("command") is not None else "supervisor"
            yield Problem(
                f"{path}.{key}",
                f"cannot be used with `{how}`: a supervisor starts and stops one engine; leave out `{how}` "
                "where somebody else runs the engines, or give each a model of its own",
            )
    if model.get("replicas") and model.get("url") is None and not _managed(model):
        yield Problem(f"{path}.replicas", "needs `url`: the first of the addresses stands there")
    urls = [str(url).rstrip("/") for url in (model.get("url"), *_list(model.get("replicas"))) if url]
    for url, count in Counter(urls).items():
        if count > 1:
            yield Problem(f"{path}.replicas", f"the address {url} stands {count} times in this model")


def _ports(path: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    addresses = [(key, model.get(key)) for key in ("url", "supervisor")]
    addresses += [(f"replicas[{at}]", url) for at, url in enumerate(_list(model.get("replicas")))]
    for key, url in addresses:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            continue
        authority = url.split("://", 1)[1].partition("/")[0]
        port = authority.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port[:9]) <= 65535):
            yield Problem(f"{path}.{key}", f"has the port {_short(port)}; a port is a number from 1 to 65535")


_NEED_CONTROL = ("pinned", "preload", "idle_timeout_s", "memory", "device")


def _without_effect(path: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    """What says how an engine comes and goes says nothing about one that is not ours to start."""
    if model.get("url") is None or _managed(model):
        return
    for key in _NEED_CONTROL:
        if model.get(key) not in (None, False):
            yield Problem(
                f"{path}.{key}",
                "has no effect: with `url` alone somebody else starts and stops the engine; "
                "add `supervisor`, or leave it out",
            )


def _managed(model: Mapping[str, Any]) -> bool:
    return model.get("command") is not None or model.get("supervisor") is not None


def _memory(path: str, model: Mapping[str, Any], devices: list[str]) -> Iterator[Problem]:
    device = model.get("device")
    if device is not None and str(device) not in devices:
        there = ", ".join(devices) or "none; add `devices:`"
        yield Problem(f"{path}.device", f"`{device}` is no device here; there are: {there}")
    managed = _managed(model)
    if managed and len(devices) > 1 and device is None:
        yield Problem(f"{path}.device", f"is required when there are several devices: {', '.join(devices)}")
    if managed and devices and model.get("memory") is None:
        yield Problem(f"{path}.memory", "is required for a model that shares a device, such as 10GiB")


def _room(raw: Mapping[str, Any], models: list[dict[str, Any]]) -> Iterator[Problem]:
    """Whether each model fits its device alone, and those that never leave it fit together."""
    devices = [_dict(device) for device in _list(raw.get("devices"))]
    first: dict[str, int] = {}
    for at, device in enumerate(devices):
        if "id" not in device:
            continue
        name, there = str(device["id"]), _bytes(device.get("memory"))
        if device.get("memory") is None and device.get("reader") != "nvml":
            yield Problem(f"devices[{at}].memory", "is required unless the reader is nvml, such as 12GiB")
        if first.setdefault(name, at) != at:
            taken = f"devices[{first[name]}].id"
            yield Problem(f"devices[{at}].id", f"the name `{name}` is taken already, by {taken}")
        elif there is not None:
            yield from _too_large(models, name, there, alone=len(devices) == 1)


def _too_large(models: list[dict[str, Any]], device: str, there: int, *, alone: bool) -> Iterator[Problem]:
    pinned: dict[str, int] = {}
    for index, model in enumerate(models):
        needs = _bytes(model.get("memory"))
        own = str(model["device"]) == device if model.get("device") is not None else alone
        if needs is None or not own or not _managed(model):
            continue
        if needs > there:
            message = f"{_size(needs)} is more than its device `{device}` has, {_size(there)}"
            yield Problem(f"models[{index}].memory", message)
        elif model.get("pinned") is True:
            pinned[str(model.get("id", f"models[{index}]"))] = needs
    if sum(pinned.values()) > there:
        names = ", ".join(pinned)
        message = f"the pinned models of `{device}` ({names}) need {_size(sum(pinned.values()))} together"
        yield Problem("models", f"{message}, and it has {_size(there)}: unpin one, or declare more memory")


def _bytes(value: object) -> int | None:
    """None where it is missing or wrong, which is said elsewhere."""
    try:
        return TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        return None


def _size(count: int) -> str:
    return ByteSize(count).human_readable()


def _scenario(path: str, name: str, scenario: Mapping[str, Any]) -> Iterator[Problem]:
    if name == "raw":
        yield Problem(path, "`raw` means that inputs are sent as they are, and cannot be redefined")
    user = scenario.get("user", "{inputs}")
    texts = user.items() if isinstance(user, dict) else [("", user)]
    for language, text in texts:
        if isinstance(text, str) and text.count("{inputs}") != 1:
            where = f"{path}.user.{language}" if language else f"{path}.user"
            yield Problem(
                where, "must contain {inputs} exactly once: the place where the request's inputs go"
            )


def device_of(model: ModelSpec, registry: Registry) -> str | None:
    """The device whose memory a model takes: its own word, or the only one there is."""
    if not model.managed or not registry.devices:
        return None
    return model.device or registry.devices[0].id
