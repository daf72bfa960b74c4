"""A closed loop through the program `wrk`, which costs a few microseconds of CPU time a request.

It knows nothing of models: any URL, body and headers. Its script counts statuses one by one, as 429 is no failure.
"""

import json
import math
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.bench.errors import Unusable
from app.bench.result import Result

CLIENT = "wrk"
MARK = "GENSERVE-BENCH "
TIMEOUT = 60  # seconds; wrk reserves 8 MB of address space for each
GRACE = 30  # seconds that wrk may take to begin and to sum up

# `response` runs in wrk's one thread, `done` in another Lua state: they meet through the thread's globals.
SCRIPT = """\
wrk.method = "POST"
wrk.body = {body}
{headers}
answered, refused, other = 0, 0, 0
function response(status)
  if status >= 200 and status < 300 then answered = answered + 1
  elseif status == 429 then refused = refused + 1
  else other = other + 1 end
end
function setup(thread) worker = thread end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{mark}{{"microseconds": %d, "answered": %d, "refused": %d, "other": %d, ' ..
    '"connect": %d, "read": %d, "write": %d, "timeout": %d, "p50": %d, "p90": %d, "p99": %d, "max": %d}}\\n',
    summary.duration, worker:get("answered"), worker:get("refused"), worker:get("other"),
    e.connect, e.read, e.write, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
"""


def version() -> str | None:
    """What wrk calls itself; None when it is not on the PATH."""
    program = shutil.which("wrk")
    if program is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)  # noqa: S603
    words = said.stdout.split()  # "wrk debian/4.1.0-3+b2 [epoll] Copyright ..."; the status is 1
    return words[1] if len(words) > 1 else "unknown"


def closed_loop(url: str, body: bytes, clients: int, seconds: float, headers: Mapping[str, str] = {}) -> Result:
    """POST the same body from so many connections, each of which sends again when it is answered.

    Args:
        url: the whole of it, path included.
        body: what is sent.
        clients: connections; at least 1.
        seconds: how long; wrk counts in whole ones, so it is rounded up.
        headers: of the request.

    Raises:
        Unusable: wrk is missing, can't connect, or ends without a summary.
    """
    program = shutil.which("wrk")
    if program is None:
        raise Unusable("wrk is not on the PATH")
    whole = max(1, math.ceil(seconds))
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as folder:
        path = Path(folder) / "load.lua"
        path.write_text(script(body, headers), encoding="ascii")
        command = [program, "-t1", f"-c{clients}", f"-d{whole}s", f"--timeout={TIMEOUT}s", f"-s{path}", url]
        said, cpu_seconds = _run(command, Path(folder) / "said", whole + GRACE)
    return parse(said, clients, cpu_seconds)


def _run(command: list[str], said: Path, patience: float) -> tuple[str, float]:
    """Run a program to its end: what it said, errors too, and its CPU seconds."""
    before = _children_seconds()
    # A session of its own: Ctrl-C is for us, who then end it.
    with said.open("wb") as file, subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            raise Unusable(f"wrk did not end within {patience:.0f} s") from None
        finally:
            process.kill()
    return said.read_text(errors="replace"), _children_seconds() - before


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended
    return usage.ru_utime + usage.ru_stime


def script(body: bytes, headers: Mapping[str, str]) -> str:
    """The Lua text for one load."""
    lines = [f"wrk.headers[{_quote(name.encode())}] = {_quote(value.encode())}" for name, value in headers.items()]
    return SCRIPT.format(body=_quote(body), headers="\n".join(lines), mark=MARK)


def _quote(data: bytes) -> str:
    """A Lua string of these bytes: by their numbers, so that none means anything."""
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'


def parse(said: str, clients: int, cpu_seconds: float) -> Result:
    """The output of wrk, with the line of our script in it, as a result.

    Raises:
        Unusable: the line is missing, as when wrk could not connect.
    """
    lines = [line for line in said.splitlines() if line.startswith(MARK)]
    if not lines:
        first = next((line for line in said.splitlines() if line.strip()), "nothing")
        raise Unusable(f"wrk ended without a summary; it said: {first}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    some = found["answered"] + found["refused"] + found["other"] > 0
    p50, p90, p99, most = (found[name] / 1e6 if some else None for name in ("p50", "p90", "p99", "max"))
    return Result(
        mode="closed",
        client=CLIENT,
        clients=clients,
        seconds=found["microseconds"] / 1e6,
        answered=found["answered"],
        in_time=found["answered"],
        refused=found["refused"],
        failed=sum(found[name] for name in ("other", "connect", "read", "write", "timeout")),
        p50=p50,
        p90=p90,
        p99=p99,
        max=most,
        client_cpu_seconds=cpu_seconds,
    )
