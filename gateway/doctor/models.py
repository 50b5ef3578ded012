"""What the registry names: keys, weights, and whether each engine and supervisor can be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx

from gateway.auth import Keys
from gateway.config import ModelSpec
from gateway.doctor.findings import Finding, Surroundings, failure, first_line, ok, warning
from gateway.doctor.machine import folder_of
from gateway.settings import SettingsError, read_secret
from gateway.upstream.address import shown

PROBE_TIMEOUT_S = 5.0
_INSIDE = "Inside the containers' network: docker compose exec gateway python -m gateway doctor"


def checks(around: Surroundings) -> Iterator[Finding]:
    yield keys(around)
    if around.registry is None:
        return
    yield from weights(around)
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda spec: list(reachability(around, spec)), around.registry.models):
            yield from found


def keys(around: Surroundings) -> Finding:
    try:
        asked_for = Keys.from_settings(around.settings).asked_for
    except SettingsError as error:
        return failure("keys", str(error), "python -m gateway keys new NAME makes a key.")
    if asked_for:
        return ok("keys", "a key is asked for")
    if around.settings.loopback:
        return ok("keys", "no key is asked for, and only this machine can connect")
    hint = "Make sure that what stands in front asks for one, or unset GATEWAY_ALLOW_ANONYMOUS."
    return warning("keys", "Everybody on the network may use this gateway without a key.", hint)


def weights(around: Surroundings) -> Iterator[Finding]:
    models = around.registry.models if around.registry else ()
    for spec in models:
        if spec.supervisor is None:
            continue
        name = f"weights {spec.id}"
        if folder := folder_of(around.models, spec.id, spec.name):
            yield _complete(name, folder, [one.name for one in folder.iterdir()])
        else:
            folder = around.models / spec.id
            hint = f"Fetch them: python -m gateway models pull {spec.id}"
            yield warning(name, f"There is nothing in {folder}.", hint)
            yield from _token(around, spec)


def _complete(name: str, folder: object, files: list[str]) -> Finding:
    if "config.json" not in files or not any(one.endswith(".safetensors") for one in files):
        hint = "Fetch it again: what is there already is kept."
        return failure(name, f"{folder} has no config.json, or no .safetensors file.", hint)
    return ok(name, f"{folder} has {len(files)} files")


def _token(around: Surroundings, spec: ModelSpec) -> Iterator[Finding]:
    if spec.family == "llama3" and not around.environment.get("HF_TOKEN"):
        hint = "Accept the licence on the model's page, make a token there, and export HF_TOKEN=…"
        yield warning(f"token {spec.id}", "Llama's weights are gated, and HF_TOKEN is not set.", hint)


# ---------------------------------------------------------------- what can be reached


def reachability(around: Surroundings, spec: ModelSpec) -> Iterator[Finding]:
    if spec.supervisor is not None:
        supervisor = _supervisor(around, spec)
        yield supervisor
        if supervisor.level != "ok":
            return  # without it the engine cannot be there either
    if spec.url is not None:
        yield _engine(spec)


def _supervisor(around: Surroundings, spec: ModelSpec) -> Finding:
    name, url = f"supervisor {spec.id}", f"{(spec.supervisor or '').rstrip('/')}/status"
    if trouble := _unresolved(name, url):
        return trouble
    path = around.settings.supervisor_token_file
    try:
        token = read_secret(path, "GATEWAY_SUPERVISOR_TOKEN_FILE").strip() if path else ""
        answer = httpx.get(
            url,
            headers={"authorization": f"Bearer {token}"},
            timeout=PROBE_TIMEOUT_S,
            trust_env=False,
        )
    except SettingsError as error:
        return failure(name, str(error), "Put the supervisors' token there.")
    except httpx.HTTPError as error:
        return failure(name, f"{shown(url)} does not answer: {error}.", "See whether its container runs.")
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        hint = "GATEWAY_SUPERVISOR_TOKEN_FILE must hold the token that the supervisor was given."
        return failure(name, "The supervisor does not accept our token.", hint)
    if answer.status_code != httpx.codes.OK:
        what = f"{shown(url)} answers with {answer.status_code}: {first_line(answer.text)[:200]}."
        return failure(name, what, "Something else may listen there: check `supervisor` in the registry.")
    return ok(name, f"{shown(url)} answers")


def _engine(spec: ModelSpec) -> Finding:
    name, url = f"engine {spec.id}", f"{(spec.url or '').rstrip('/')}/health"
    if trouble := _unresolved(name, url):
        return trouble
    try:
        answer = httpx.get(url, timeout=PROBE_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        if spec.managed:
            return ok(name, "not in; the gateway starts it when somebody asks")
        return failure(name, f"{shown(url)} does not answer: {error}.", "Start it, or correct its `url`.")
    if answer.status_code != httpx.codes.OK:
        return warning(name, f"{shown(url)} answers with {answer.status_code}.", "It may still be loading.")
    return ok(name, f"{shown(url)} answers")


def _unresolved(name: str, url: str) -> Finding | None:
    host = urlsplit(url).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return warning(name, f"The name {host} is not known here.", _INSIDE)
    return None
