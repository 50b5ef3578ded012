"""Runs one engine on request: PID 1 of an engine's container, or an ordinary child process.

    supervisor.py --listen HOST:PORT [options] -- COMMAND…

It can only ever run the COMMAND it was started with: the HTTP API takes verbs, never a command line.

Who owns what: the main thread alone forks, signals, reaps and changes the state. Others post it a job; what
it publishes is replaced as a whole and never edited, so that any thread may read it. One reader thread per
run feeds the log. The only locks are those inside the feeds. The main thread must be the one that forks: the
kernel ties "die with your parent" to the forking thread.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import ctypes
import functools
import hmac
import ipaddress
import json
import os
import queue
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

GRACE_S = 100.0  # just above the 90 s that TGI takes at most to drain
LIFELINE_GRACE_S = 10.0  # who started us is gone: nobody waits for these answers any more
SWEEP_S, DRAIN_S, TICK_S = 30.0, 1.0, 0.02  # killed processes may take; the rest of their log; between looks
LOG_LINES, LINE_BYTES, CHUNK_BYTES, SECRET_CHARS = 2000, 4096, 65536, 8
BODY_BYTES, CONNECTIONS, FOLLOWERS, HEARTBEAT_S = 4096, 64, 16, 15.0
TOKEN_ENV, MASK = "SUPERVISOR_TOKEN", "***"
PRIVATE = (TOKEN_ENV, "GATEWAY_")  # variables that begin so, API keys among them, are not the engine's
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NOTHING = dict.fromkeys(("pid", "exit_code", "exit_signal", "phase", "progress", "reason"))
PHASES = ("starting", "downloading", "loading", "warming_up", "ready")
PATTERNS = (  # the first that fits a line decides
    (r"\bphase=(?P<phase>[a-z_]+)(?:\s+progress=(?P<done>[0-9.]+))?", ""),
    (r"Starting (?:check and )?download process", "downloading"),  # TGI, down to "Connected"
    (r"\bDownload: \[(?P<done>\d+)/(?P<total>\d+)\]", "downloading"),
    (r"Starting shard", "loading"),
    (r"Warming up model", "warming_up"),
    (r"text_generation_router.*: Connected$|\"message\":\"Connected\"", "ready"),
    (r"Loading safetensors checkpoint shards:.*\| (?P<done>\d+)/(?P<total>\d+)", "loading"),  # vLLM
    (r"Application startup complete|main: model loaded", "ready"),  # vLLM; llama.cpp's server
)
CONTROL = re.compile(  # what a terminal would obey: CSI; OSC and the like; short escapes, C0 and C1 but tab
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)
# Of an option or variable that is secret.
NAME = r"(?i:[\w-]*(?:key|token|secret|passw(?:or)?d|credentials?))"
PAIR = re.compile("(" + NAME + r"=|(?i:\bbearer\s+))(\S+)")


class Refused(Exception):
    """A request that is not served: HTTP status, type, and what to do in words."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def read_phase(line: str) -> Optional[Tuple[int, float]]:
    """What a log line says: the phase as its place in PHASES, and how far it is (0..1)."""
    for pattern, phase in PATTERNS:
        found = re.search(pattern, line)
        if found:
            said = found.groupdict()
            done, total = said.get("done") or "0", said.get("total") or "1"
            with contextlib.suppress(ValueError, ZeroDivisionError):  # an unknown phase, or "progress=1.2.3"
                # Hundredths bound how many events one phase can cause.
                return PHASES.index(phase or said["phase"]), round(min(float(done) / float(total), 1.0), 2)
    return None


def mask(command: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The command with secrets replaced, and the secrets."""
    shown: List[str] = []
    secrets: List[str] = []
    for place, argument in enumerate(command):
        if place and re.match("--?" + NAME + "$", command[place - 1]):
            secrets.append(argument)
            shown.append(MASK)
        else:
            secrets += [value for _, value in PAIR.findall(argument)]
            shown.append(PAIR.sub(r"\1" + MASK, argument))
    return shown, secrets


def family(group: int) -> Optional[List[int]]:
    """Living processes below this one or in ``group``; None where there is no /proc.

    As subreaper (or PID 1) this process inherits orphans, so those that left the group are found as well.
    """
    proc = Path("/proc")
    if not (proc / "self").exists():
        return None
    children: Dict[int, List[int]] = collections.defaultdict(list)
    living, found, todo = set(), set(), [os.getpid()]
    for pid in (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            state, parent, pgrp = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            children[int(parent)].append(pid)
            living.update([pid] if state not in (b"Z", b"X") else [])
            found.update([pid] if int(pgrp) == group else [])
    while todo:
        below = children[todo.pop()]
        found.update(below)
        todo += below
    return sorted(found & living)


def resident_bytes(pid: int) -> int:
    """Memory of a process, shared pages by share where the kernel tells; 0 if it is gone."""
    total = 0
    with contextlib.suppress(OSError):
        total = int(Path("/proc/%d/statm" % pid).read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        lines = Path("/proc/%d/smaps_rollup" % pid).read_bytes().splitlines()
        total = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    return total


class Feed:
    """Counted entries of which the newest are kept; any thread may put, read and wait for them."""

    def __init__(self, size: int) -> None:
        self.entries: collections.deque[Any] = collections.deque(maxlen=size)
        self.count, self.changed = 0, threading.Condition()

    def put(self, new: Sequence[Any]) -> None:
        with self.changed:
            self.entries.extend(new)
            self.count += len(new)
            self.changed.notify_all()

    def after(self, seen: int, timeout_s: float = 0.0) -> Tuple[int, List[Any]]:
        """The count, and the entries after count ``seen`` as far as they are kept; waits for one."""
        with self.changed:
            self.changed.wait_for(lambda: self.count > seen, timeout_s)
            new = min(self.count - seen, len(self.entries))
            return self.count, list(self.entries)[len(self.entries) - new :]


class Engine:
    """The one command, its processes, its log and its state."""

    def __init__(self, command: Sequence[str], grace_s: float, env: Dict[str, str], token: str) -> None:
        self.command, self.grace_s, self.env = list(command), grace_s, env
        self.shown, hidden = mask(command)
        hidden += [token, *(value for name, value in env.items() if re.match(NAME + "$", name))]
        # Short values would blot out ordinary words; longest first, as one secret may begin another.
        known = sorted({secret for secret in hidden if len(secret) >= SECRET_CHARS}, key=len, reverse=True)
        self.secrets = re.compile("|".join(map(re.escape, known)) or r"(?!)")
        self.libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.published: Dict[str, Any] = {"state": "stopped", "since": time.time(), "starts": 0, **NOTHING}
        self.history, self.log = Feed(256), Feed(LOG_LINES)
        self.history.put([self.published])
        self.child: Optional[subprocess.Popen[bytes]] = None
        self.exit: Optional[int] = None  # of the leader, as subprocess counts: a negative one is a signal
        self.ended_at = 0.0
        self.deadline: Optional[float] = None  # set once a stop was asked for; SIGKILL is due then
        self.last_line: Optional[str] = None  # known once the log of the run has been read to its end
        self.leaving = self.signalled = False
        self.stderr_flows = True
        self.jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)

    # Any thread.

    def post(self, job: Callable[[], object]) -> None:
        """Has the main thread run a job soon."""
        self.jobs.put(job)
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake anyway
            os.write(self.wake_write, b"\0")

    def ask(self, verb: str, grace_s: Optional[float]) -> bool:
        """Has the main thread apply a verb; whether there was anything to do. Raises Refused."""
        answer: concurrent.futures.Future[bool] = concurrent.futures.Future()

        def job() -> None:
            try:
                answer.set_result(self.apply(verb, grace_s))
            except Refused as refused:
                answer.set_exception(refused)

        self.post(job)
        return answer.result(timeout=30)

    def status(self, published: Optional[Dict[str, Any]] = None, memory: bool = False) -> Dict[str, Any]:
        """What is (or was) published, with what is looked up on asking: memory takes 30 ms for each GB."""
        core = published or self.published
        pids = family(core["pid"]) if memory and core["pid"] else None
        memory_bytes = sum(map(resident_bytes, pids)) if pids else None
        lines = self.log.after(self.log.count - 20)[1]
        return {**core, "command": self.shown, "lines": lines, "memory_bytes": memory_bytes}

    # The reader thread of a run.

    def read(self, pipe: Any, run: int) -> None:
        """Takes all that the engine prints, fast or endless, until the last holder of the pipe is gone."""
        held, chunk, last, said = b"", b"\n", "", (0, 0.0)
        while chunk:
            chunk = os.read(pipe.fileno(), CHUNK_BYTES)
            *lines, held = (held + (chunk or b"\n")).replace(b"\r", b"\n").split(b"\n")
            held = held[:LINE_BYTES]  # a line without an end must not grow
            texts = self._keep(lines)
            last = texts[-1] if texts else last
            for text in texts if PHASES[said[0]] != "ready" else ():
                now = read_phase(text)
                if now and now > said:  # never backwards
                    said = now
                    self.post(functools.partial(self._phase, run, PHASES[now[0]], now[1] or None))
        pipe.close()
        self.post(functools.partial(self._drained, run, last))

    def _keep(self, lines: Sequence[bytes]) -> List[str]:
        """Cuts, cleans and keeps lines that are not empty; passes on what stderr takes without blocking."""
        texts = [CONTROL.sub("", line[:LINE_BYTES].decode("utf-8", "replace")) for line in lines]
        # TGI logs its arguments at start, the API key among them.
        texts = [self.secrets.sub(MASK, text) for text in texts if text.strip()]
        self.log.put(texts)
        data = "".join(text + "\n" for text in texts).encode()
        with contextlib.suppress(OSError, ValueError):  # stderr is gone
            for start in range(0, len(data), select.PIPE_BUF):
                self.stderr_flows = bool(select.select([], [2], [], 0.1 if self.stderr_flows else 0)[1])
                if not self.stderr_flows:
                    break
                os.write(2, data[start : start + select.PIPE_BUF])
        return texts

    # The main thread.

    def run(self, lifeline: bool) -> None:
        """Serves until told to leave (by a signal, or the end of stdin) and the engine is gone."""
        if self.libc:
            self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        while self.child or not self.leaving:
            watched = [self.wake_read, 0] if lifeline else [self.wake_read]
            ready = select.select(watched, [], [], self._due_s())[0]
            if 0 in ready and not os.read(0, CHUNK_BYTES):
                lifeline = False
                self._leave(min(self.grace_s, LIFELINE_GRACE_S))
            for number in os.read(self.wake_read, CHUNK_BYTES) if self.wake_read in ready else b"":
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._leave(0.0 if self.signalled else self.grace_s)
                    self.signalled = True
            while not self.jobs.empty():
                self.jobs.get()()
            self._reap()
            self._settle()

    def _due_s(self) -> Optional[float]:
        if self.child is None or (self.exit is None and self.deadline is None):
            return None  # only a signal or a job can change anything
        return TICK_S if self.exit is not None else max((self.deadline or 0) - time.monotonic(), TICK_S)

    def _leave(self, grace_s: float) -> None:
        self.leaving = True
        self.apply("stop", grace_s)

    def apply(self, verb: str, grace_s: Optional[float] = None) -> bool:
        """Whether the verb found anything to do in the present state. Raises Refused."""
        state = self.published["state"]
        if state not in TRANSITIONS[verb] or (verb == "start" and self.leaving):
            now = "the supervisor is ending" if self.leaving else "the engine is %s; try again after" % state
            raise Refused(409, "conflict", "cannot %s: %s" % (verb, now))
        action = TRANSITIONS[verb][state]
        if action:
            action(self, self.grace_s if grace_s is None else grace_s)
        return action is not None

    def _publish(self, **changes: Any) -> None:
        if self.published == {**self.published, **changes}:
            return
        if changes.get("state", self.published["state"]) != self.published["state"]:
            changes["since"] = time.time()
        self.published = {**self.published, **changes}
        self.history.put([self.published])

    def _phase(self, run: int, phase: str, progress: Optional[float]) -> None:
        if (self.published["state"], self.published["starts"]) == ("running", run):
            self._publish(phase=phase, progress=progress)

    def _drained(self, run: int, last_line: str) -> None:
        if self.published["starts"] == run:
            self.last_line = last_line

    def _bind(self, parent: int) -> None:
        """In the child, before the engine: kill -9 of the supervisor must not leave the device taken."""
        if self.libc:
            self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    def start(self, _grace_s: float) -> None:
        news: Dict[str, Any] = {**NOTHING, "starts": self.published["starts"] + 1}
        self.deadline = self.exit = self.last_line = None
        try:
            self.child = subprocess.Popen(  # noqa: S603 - what the operator gave, and no shell
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env=self.env,
                start_new_session=True,
                preexec_fn=functools.partial(self._bind, os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._publish(
                **{**news, "state": "failed", "reason": "cannot run %s: %s" % (self.shown[0], error)}
            )
            return
        self._publish(**{**news, "state": "running", "pid": self.child.pid, "phase": PHASES[0]})
        threading.Thread(target=self.read, args=(self.child.stdout, news["starts"]), daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the leader alone: TGI's launcher drains and ends its shards itself."""
        if self.child and self.exit is None:
            if self.deadline is None:
                os.kill(self.child.pid, signal.SIGTERM)
            self.deadline = min(self.deadline or float("inf"), time.monotonic() + grace_s)
            self._publish(state="stopping", phase=None, progress=None)

    def forget(self, _grace_s: float) -> None:
        """After a failure nothing is left to stop; the reason stays."""
        self._publish(state="stopped")

    def _reap(self) -> None:
        """The only place that waits for processes: the engine's leader, and orphans left to us."""
        pid = -1
        while pid:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if self.child and pid == self.child.pid and self.exit is None:
                self.exit = self.child.returncode = os.waitstatus_to_exitcode(status)
                self.ended_at = time.monotonic()

    def _settle(self) -> None:
        """Kills what is overdue or left over, and publishes the end once all of it is gone."""
        now = time.monotonic()
        if self.child is None or (self.exit is None and (self.deadline is None or now < self.deadline)):
            return
        left = self._kill(self.child.pid)
        if self.exit is None:
            return
        if left and now < self.ended_at + SWEEP_S:
            self._publish(state="stopping")
        elif left or self.last_line is not None or now >= self.ended_at + DRAIN_S:
            self.child = None
            self._publish(**self._end(self.exit, left))

    def _kill(self, group: int) -> List[int]:
        """SIGKILL to all that is left of the engine; who it was."""
        pids = family(group)
        for pid in [-group] if pids is None else pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return pids or []

    def _end(self, code: int, left: Sequence[int]) -> Dict[str, Any]:
        how = "exit code %d" % code if code >= 0 else "signal %d, %s" % (-code, signal.strsignal(-code))
        state, reason = "stopped", None
        if left:
            pids = ", ".join(map(str, left))
            state, reason = "failed", "SIGKILL did not end pid %s; the memory is still taken" % pids
        elif self.deadline is None:
            told = (how, self.published["phase"], self.last_line or "none")
            state, reason = "failed", "the engine ended by itself (%s) while %s; its last line: %s" % told
        elif code == -signal.SIGKILL:
            reason = "the engine did not end in time after SIGTERM and was killed"
        ended = {"exit_code": code} if code >= 0 else {"exit_signal": -code}
        return {**NOTHING, "state": state, "reason": reason, **ended}


# Verb → state → what is done: None for nothing, no entry for a refusal. One more verb is one more row.
TRANSITIONS: Dict[str, Dict[str, Optional[Callable[[Engine, float], None]]]] = {
    "start": {"stopped": Engine.start, "failed": Engine.start, "running": None},
    "stop": {"running": Engine.stop, "stopping": Engine.stop, "stopped": None, "failed": Engine.forget},
}
FIELDS: Dict[str, Tuple[str, ...]] = {"start": (), "stop": ("grace_s",)}  # what a verb's body may hold


class Api(BaseHTTPRequestHandler):
    """One connection; each request is read whole before it is refused, or a reset would eat the answer."""

    protocol_version, server_version, sys_version = "HTTP/1.1", "supervisor", ""
    timeout, disable_nagle_algorithm = 15, True
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing: stderr belongs to the engine's log, and a request line may hold anything."""

    def send_error(self, code: int, message: Optional[str] = None, explain: Optional[str] = None) -> None:
        self._refuse(Refused(405 if code == 501 else code, "invalid_request", message or "not understood"))

    def do_GET(self) -> None:
        self._answer({"/status": self._status, "/events": self._events, "/logs": self._logs})

    def do_POST(self) -> None:
        self._answer({"/" + verb: functools.partial(self._apply, verb) for verb in TRANSITIONS})

    def _answer(self, routes: Dict[str, Callable[[Dict[str, Any]], None]]) -> None:
        try:
            body = self._body()
            path, _, query = self.path.partition("?")
            self._admit(path, routes)
            routes[path](body or dict(urllib.parse.parse_qsl(query)))
        except Refused as refused:
            self._refuse(refused)
        except OSError:
            self.close_connection = True  # who asked is gone, or takes nothing

    def _admit(self, path: str, routes: Dict[str, Callable[[Dict[str, Any]], None]]) -> None:
        given = self.headers.get("authorization", "").encode("latin-1", "replace")
        if self.server.token and not hmac.compare_digest(given, b"Bearer " + self.server.token.encode()):
            raise Refused(401, "unauthorized", "send the supervisor's token as Authorization: Bearer TOKEN")
        if path not in routes:
            raise Refused(404, "not_found", "%s knows only %s" % (self.command, ", ".join(routes)))

    def _body(self) -> Dict[str, Any]:
        length = self.headers.get("content-length", "0")
        if not (length.isdecimal() and length.isascii()) or "transfer-encoding" in self.headers:
            raise Refused(411, "invalid_request", "send the body with its Content-Length")
        data = self.rfile.read(min(int(length), 256 * BODY_BYTES))
        if int(length) > BODY_BYTES:
            raise Refused(413, "payload_too_large", "a body holds at most %d bytes" % BODY_BYTES)
        try:
            body = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "invalid_json", "the body must be a JSON object, or empty")
        return body

    def _apply(self, verb: str, body: Dict[str, Any]) -> None:
        unknown = ", ".join(sorted(set(body) - set(FIELDS[verb])))
        if unknown:
            raise Refused(422, "validation", "%s takes no %s: the command is fixed" % (verb, unknown))
        grace_s = body.get("grace_s")
        if grace_s is not None and not (type(grace_s) in (int, float) and 0 <= grace_s <= 3600):
            raise Refused(422, "validation", "grace_s must be a number of seconds from 0 to 3600")
        changed = self.server.engine.ask(verb, grace_s)
        self._reply(202 if changed or verb != "start" else 200, self.server.engine.status())

    def _status(self, query: Dict[str, Any]) -> None:
        self._reply(200, self.server.engine.status(memory=query.get("memory") == "1"))

    def _events(self, _: Dict[str, Any]) -> None:
        def event(entry: Dict[str, Any]) -> bytes:
            return b"event: status\ndata: %s\n\n" % json.dumps(self.server.engine.status(entry)).encode()

        history = self.server.engine.history
        self._follow("text/event-stream", history, history.count - 1, event, b": alive\n\n")

    def _logs(self, query: Dict[str, Any]) -> None:
        tail = str(query.get("tail", "200"))
        if not (tail.isdecimal() and tail.isascii()):
            raise Refused(422, "validation", "tail must be a number of lines")
        kind, log = "text/plain; charset=utf-8", self.server.engine.log
        count, lines = log.after(log.count - min(int(tail[:9]), LOG_LINES))
        if query.get("follow") == "1":
            self._follow(kind, log, count - len(lines), lambda line: line.encode() + b"\n")
        else:
            self._send(200, kind, "".join(line + "\n" for line in lines).encode())

    def _follow(
        self, kind: str, feed: Feed, seen: int, render: Callable[[Any], bytes], heartbeat: bytes = b""
    ) -> None:
        """Writes entries as they come until the client goes; a slow one misses what is no longer kept."""
        if not self.server.followers.acquire(blocking=False):
            raise Refused(503, "overloaded", "at most %d may follow at a time" % FOLLOWERS)
        try:
            self._head(200, kind, {"Cache-Control": "no-store", "Connection": "close"})
            written_at, client = time.monotonic(), self.connection
            while not select.select([client], [], [], 0)[0] or client.recv(1, socket.MSG_PEEK):
                seen, new = feed.after(seen, 1.0)
                data = b"".join(map(render, new))
                if not data and time.monotonic() - written_at > HEARTBEAT_S:
                    data = heartbeat
                if data:
                    self.wfile.write(data)
                    written_at = time.monotonic()
        finally:
            self.server.followers.release()

    def _head(self, status: int, kind: str, headers: Dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self._head(status, kind, {"Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def _reply(self, status: int, answer: Dict[str, Any], **headers: str) -> None:
        self._send(status, "application/json", json.dumps(answer).encode(), **headers)

    def _refuse(self, refused: Refused) -> None:
        answer = {"error": {"type": refused.kind, "message": str(refused)}}
        with contextlib.suppress(OSError):  # who asked is gone
            self._reply(refused.status, answer, Connection="close")


class Server(ThreadingHTTPServer):
    """Bounded threads: a connection too many is closed at once."""

    daemon_threads, request_queue_size = True, CONNECTIONS

    def __init__(self, host: str, port: int, engine: Engine, token: str) -> None:
        self.engine, self.token = engine, token
        self.connections = threading.BoundedSemaphore(CONNECTIONS)
        self.followers = threading.BoundedSemaphore(FOLLOWERS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Api)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look its own name up in the DNS

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had: the engine may have used up the container's
            self.connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a connection that broke before its request concerns nobody."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    usage = "%(prog)s --listen HOST:PORT [options] -- COMMAND…"
    parser = argparse.ArgumentParser(usage=usage, allow_abbrev=False)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="port 0: any that is free")
    parser.add_argument("--token-file", help="holds the token that callers must send; or set " + TOKEN_ENV)
    parser.add_argument("--grace-s", type=float, default=GRACE_S, help="SIGTERM to SIGKILL (%(default)s)")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="stop and leave when stdin closes")
    parser.add_argument("--announce", action="store_true", help="print the address as one JSON line")
    parser.add_argument("--autostart", action="store_true", help="start the engine at once")
    split = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:split])
    options.command = argv[split + 1 :]
    options.host, _, port = options.listen.rpartition(":")
    if not options.command or not options.host or not port.isdecimal() or not 0 <= options.grace_s <= 3600:
        parser.error("needed: --listen HOST:PORT, a grace of 0 to 3600 s, and a command after --")
    options.port, options.token = int(port), read_token(parser, options.token_file)
    if not options.token and not is_loopback(options.host.strip("[]")):
        parser.error("a token is needed on %s: give --token-file or set %s" % (options.host, TOKEN_ENV))
    return options


def read_token(parser: argparse.ArgumentParser, path: Optional[str]) -> str:
    if not path:
        return os.environ.get(TOKEN_ENV, "")
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        parser.error("cannot read the token: %s" % error)
    return token or parser.error("the token file %s is empty" % path)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    env = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    engine = Engine(options.command, options.grace_s, env, options.token)
    try:
        server = Server(options.host.strip("[]"), options.port, engine, options.token)
    except OSError as error:
        sys.stderr.write("supervisor: cannot listen on %s: %s\n" % (options.listen, error))
        return 1
    signal.set_wakeup_fd(engine.wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the wake-up pipe carries the number to the main loop
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if options.announce:
        address = "%s:%d" % (options.host, server.server_address[1])
        sys.stdout.write(json.dumps({"address": address}) + "\n")
        sys.stdout.flush()
    if options.autostart:
        engine.post(functools.partial(engine.apply, "start"))
    engine.run(options.exit_on_stdin_eof)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
