"""Run untrusted Python and record what its anchors print: the interpreter E of section 3.2.

An anchor is a `print` call whose one argument is the f-string 'NAME: {NAME}'. Anchors are recognised in the syntax tree before the
run and recorded by their site (the line of the call), so their texts may be blank, hold newlines or end in spaces.

    python sandbox.py prog.py "f(3)"                        trace a call and print it for a person
    python sandbox.py --require-isolation prog.py "f(3)"    the same, or refuse where a layer of isolation is missing
    python sandbox.py --self-test                           what this machine gives
    python tools/bench.py --only sandbox                    programs per second

    trace(program, call)         one program         trace_many(jobs)                       many, in order, on all cores
    check(program)               assertions          trace_inputs(program, entry, texts)    one trusted program, many untrusted inputs
    agreed(first, second)        the first of two runs of one job, as "nondeterministic" if they differ

How: each worker is a fresh interpreter (never a fork of the caller), its server, with an empty environment and a directory of its
own. It forks once per job. The child runs the program, leaves its report in memory shared with the server (no descriptor leads
there) and exits; the server keeps the deadline. Layers, each used where the system has it and named in Trace.missing where it does not:
    limits       CPU and wall time, memory, file size, descriptors, no new processes or threads; a session of its own (also on macOS)
    namespaces   PID, network, IPC, mount, and user unless we are root (Linux): nothing outside to signal, no network; the server is
                 process 1, so it can end whatever a program leaves running
    files        an empty root holding only the libraries and Python, read-only, and a small directory in memory (Linux)
    privileges   a user id of its own if we are root; no capabilities; none can be gained
    landlock     read Python, write the own directory, nothing else; no TCP (Linux 5.13)
    seccomp      an allow-list of system calls: no processes, no programs, no signals, no sockets (Linux with libseccomp); the server
                 is under it too, but for six calls that its children give up

Covered (each has a test): endless loops that swallow every exception and signal; fork bombs, daemons, threads; memory; output; deep
recursion; exits, crashes, kills; the user's files, environment, memory, descriptors; sockets; standard input; rebound builtins and
streams; lying __repr__, __eq__, __hash__; hostile input expressions; odd source text; results that change between runs.

Not covered:
  - A program can forge its own report: it shares a process with the code that reports, and frames or gc lead there. So its "ok" is
    no proof against whoever wrote it. For input prediction the program is ours and only the input is the model's (trace_inputs:
    literals, parsed by the caller, sent as data), and nothing can be forged, unless the program itself evaluates its input. Generated
    programs (check) can cheat here as in every scorer that runs the tests inside the program's process.
  - Kernel bugs, side channels (a program may whisper to the next one by the times of its directory), the load a program puts on the
    machine within its limits.
  - A result that depends on the time or on chance is found by a second run only if the two runs differ.
  - Without the Linux layers (macOS): the user's files, network and processes, and a process that outlives its worker until its CPU
    limit. Without the layer "files", a caller that is killed leaves its workers' directories behind.
  - Honest programs that need threads, subprocesses, sockets (so asyncio too) or more than MEMORY_LIMIT: "error" or "memory".
  - A timeout loses what was printed before it.
"""
import _sitebuiltins
import ast
import atexit
import builtins
import collections
import contextlib
import ctypes
import enum
import fcntl
import functools
import gc
import io
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import types
import typing
import warnings

__builtins__ = dict(vars(builtins))     # a program may rebind builtins; the functions below keep these

MEMORY_LIMIT = 512 << 20      # bytes of address space a program may take beyond the server's own
OUTPUT_LIMIT = 1 << 20        # characters of stdout, of anchors and of the value, each
ANCHOR_COST = 64              # characters that an anchor counts for beyond its text
REPORT_LIMIT = 16 << 20       # bytes of one job's report, escapes included
FILES_LIMIT = 16 << 20        # bytes of one file, and of all files where the layer "files" holds
INPUT_LIMIT = 1 << 14         # characters of one input expression
INPUTS_PER_FORK = 16
GRACE = 10                    # seconds after a job's limit until its server counts as stuck
LAYERS = ("namespaces", "files", "privileges", "landlock", "seccomp")    # beyond the limits; tests and bench take some away
PRELOAD = "__future__ bisect cmath collections copy functools heapq itertools json math operator re string typing".split()


class Status(enum.StrEnum):
    OK = "ok"              # it ran to its end
    ERROR = "error"        # it raised an exception
    SYNTAX = "syntax"      # its source does not compile
    INPUT = "input"        # the expression is no argument list of literals
    MISSING = "missing"    # it imports a module that this environment lacks
    TIMEOUT = "timeout"    # it did not end in time
    MEMORY = "memory"      # it asked for more memory than it may have
    OUTPUT = "output"      # it printed or returned more than is recorded
    EXIT = "exit"          # it called sys.exit
    KILLED = "killed"      # its process died, or its report is malformed
    LOST = "lost"          # the worker died twice under it
    NONDETERMINISTIC = "nondeterministic"   # two runs differ, or show addresses


class Trace(typing.NamedTuple):
    status: Status
    anchors: list = ()      # (site, name, text), in the order printed
    value: str = ""         # repr of the result
    stdout: str = ""        # what the other prints print
    error: str = ""         # one line, such as "ZeroDivisionError: division by zero"
    missing: tuple = ()     # layers of isolation that this machine does not give


# ---- what the other scripts call ---------------------------------------------------------------------------------------


def trace(program: str, call: str, *, timeout: float = 3.0, hash_seed: int = 0) -> Trace:
    """Run `program`, then evaluate the expression `call` in its globals (nothing if ""), within `timeout` seconds.

    Whatever the program does is a status, never an exception here. Programs of one hash seed may share a server, and with
    it addresses: to see whether a result depends on chance, compare two hash seeds with `agreed`."""
    return next(trace_many([(program, call)], workers=1, timeout=timeout, hash_seed=hash_seed))


def trace_many(jobs, *, workers: int | None = None, timeout: float = 3.0, hash_seed: int = 0):
    """Yield the Trace of each (program, call) of the iterable `jobs`, in order and in constant memory.

    `workers` is the number of jobs at a time (default: the cores), `timeout` the seconds for each. An exception raised by `jobs`
    itself goes through; closing the generator ends the programs that are running."""
    tasks = ({"program": program, "call": call, "timeout": timeout} for program, call in jobs)
    for traces in _run(tasks, workers, hash_seed):
        yield traces[0]


def check(program: str, *, timeout: float = 3.0) -> Trace:
    """Run a program of assertions: a Trace whose status is "ok" only if it ran to its end without an exception.

    Many at a time: trace_many((program, "") for program in programs)."""
    return trace(program, "", timeout=timeout)


def trace_inputs(program: str, entry: str, expressions: list[str], *, timeout: float = 3.0) -> list[Trace]:
    """Call `entry` of our own `program` with untrusted inputs: a list of Traces, one for each expression.

    An expression is the text of an argument list ("1, 'a'", "a=3") or of a call of `entry`; anything but literals is status "input".
    The program runs afresh for each input, so neither arguments nor globals leak (the state of imported modules does).
    Inputs share forks; a fork that fails, or leaves files, is repeated with each input alone, so `timeout` seconds hold for each."""
    problems = {text: _problem(entry, text) for text in expressions}
    found = {text: Trace(Status.INPUT, error=problem) for text, problem in problems.items() if problem}
    found |= _call_inputs(program, entry, [text for text in problems if text not in found], INPUTS_PER_FORK, timeout)
    alone = [text for text, result in found.items() if result.status not in ("ok", "error", "input")]
    found |= _call_inputs(program, entry, alone, 1, timeout)
    return [found[text] for text in expressions]


def _call_inputs(program, entry, texts, size, timeout):
    groups = [texts[i:i + size] for i in range(0, len(texts), size)]
    tasks = ({"program": program, "call": entry, "inputs": group, "timeout": timeout} for group in groups)
    found = {}
    for group, traces in zip(groups, _run(tasks, None, 0)):
        found.update(zip(group, traces if len(traces) == len(group) else traces[:1] * len(group)))
    return found


def agreed(first: Trace, second: Trace) -> Trace:
    """The first of two Traces of one job under different hash seeds; "nondeterministic" if they differ or show addresses."""
    texts = [first.value, first.stdout, first.error, *(text for _, _, text in first.anchors)]
    if first == second and not any(" at 0x" in text for text in texts):
        return first
    return first._replace(status=Status.NONDETERMINISTIC)


def require_isolation():
    """Raise RuntimeError where this machine does not give every layer of isolation."""
    result = trace("", "")
    if result.missing:
        raise RuntimeError("the sandbox lacks " + ", ".join(result.missing))
    if result.status != "ok":
        raise RuntimeError(f"the sandbox cannot run an empty program: {result.status} {result.error}")


def _trace(report, missing):
    """A Trace of what a child reported, which may be anything."""
    try:
        anchors = report.get("anchors", ())
        texts = [str(report.get(key, "")) for key in ("value", "stdout", "error")]
        if len(anchors) > OUTPUT_LIMIT / ANCHOR_COST:
            raise ValueError    # no child of ours reports so much; it would fill the caller's memory
        anchors = [(int(site), str(name), str(text)) for site, name, text in anchors]
        if sum(map(len, texts)) + sum(len(name) + len(text) for _, name, text in anchors) > 4 * OUTPUT_LIMIT:
            raise ValueError
        return Trace(Status(report["status"]), anchors, *texts, missing)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return Trace(Status.KILLED, error="malformed report", missing=missing)


# ---- input expressions: parsed by the caller, sent as data -------------------------------------------------------------


def _problem(entry, text):
    """Why `text` is no input for `entry`, or ""."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of the parser, about "1if"
            _arguments(entry, text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as problem:
        return _describe(problem)
    return ""


def _arguments(entry, text):
    """The syntax tree of the call of `entry` that `text`, an argument list or the call itself, stands for: literals only."""
    if len(text) > INPUT_LIMIT:
        raise ValueError(f"longer than {INPUT_LIMIT} characters")
    for source in (text.strip(), f"{entry}({text}\n)"):
        try:
            call = ast.parse(source, mode="eval").body
        except SyntaxError:
            continue
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == entry:
            keywords = {keyword.arg for keyword in call.keywords}
            if len(keywords) < len(call.keywords):
                raise ValueError("keyword argument repeated")
            if None in keywords:        # **{}
                raise ValueError("not a literal")
            for node in [*call.args, *(keyword.value for keyword in call.keywords)]:
                _literal(node)
            return call
    raise ValueError(f"neither an argument list nor a call of {entry}")


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError("not a literal") from None     # the original message shows an address


# ---- the caller's side: servers and their jobs -------------------------------------------------------------------------

_idle = collections.defaultdict(list)       # (hash seed, with numpy, layers) -> servers
_told = set()                               # missing layers already spoken of
os.register_at_fork(after_in_child=_idle.clear)     # a fork of the caller must not talk to its parent's servers


@atexit.register
def _close_idle():
    for servers in _idle.values():
        while servers:
            servers.pop().close()


class _Server:
    """A fresh interpreter that forks once per job."""

    def __init__(self, key):
        import subprocess    # here, because the server, which runs this file too, must stay small: a fork costs by its size
        import tempfile
        self.key, self.missing, self.owner = key, None, os.getpid()
        hash_seed, numpy, layers = key
        self.directory = tempfile.mkdtemp(prefix="sandbox-")
        packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        options = {"numpy": numpy, "layers": layers, "packages": packages}
        environment = {"PYTHONHASHSEED": str(hash_seed), "LC_ALL": "C.UTF-8", "TZ": "UTC", "OPENBLAS_NUM_THREADS": "1",
                       "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                       "LD_BIND_NOW": "1"}      # links now what each child would link again
        flags = ["-s", "-S", "-P", "-B", "-X", "utf8"]      # -I and -E would ignore PYTHONHASHSEED
        start = "import sys; sys.path.insert(0, sys.argv[1]); import sandbox; sandbox._serve(sandbox.json.loads(sys.argv[2]))"
        arguments = [*flags, "-c", start, os.path.dirname(os.path.abspath(__file__)), json.dumps(options)]
        self.process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=self.directory,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def send(self, job):
        """Give it a job: (number, task, times tried before)."""
        self.job, self.deadline = job, time.monotonic() + job[1]["timeout"] + GRACE
        data = json.dumps(job[1]).encode()
        with contextlib.suppress(BrokenPipeError):      # it died: the coming read tells
            self.process.stdin.write(_SIZE.pack(len(data)) + data)
            self.process.stdin.flush()

    def receive(self):
        """The reply to its job: (did it get too little CPU, must the server end, Traces); None for the greeting, by which a new server says
        what it lacks. EOFError if it died or is late; a reply that has come is not late, however long the caller let it wait."""
        if time.monotonic() > self.deadline and not _speaking([self.process.stdout.fileno()], 0):
            raise EOFError("the worker is stuck")
        size, starved, retire = _HEAD.unpack(self._read(_HEAD.size))
        body = self._read(size)
        if self.missing is None:
            self.missing = tuple(json.loads(body))
            if not any(layer.startswith("files") for layer in self.missing):
                os.rmdir(self.directory)    # it was only the place where the server mounted its own
            for layer in set(self.missing) - _told:
                print("sandbox: this machine does not give", layer, file=sys.stderr)
            _told.update(self.missing)
            return None
        try:
            reports = json.loads(body)
        except (ValueError, RecursionError):
            reports = None
        if not isinstance(reports, list) or not 0 < len(reports) <= max(1, len(self.job[1].get("inputs", ()))):
            reports = [None]
        return starved, retire, [_trace(report, self.missing) for report in reports]

    def _read(self, size):
        data = bytearray()      # no byte more than asked for: what a buffer kept, poll would not see
        while len(data) < size:
            if not (piece := os.read(self.process.stdout.fileno(), size - len(data))):
                raise EOFError("the worker died")
            data += piece
        return data

    def close(self):
        if self.owner != os.getpid():
            return      # a fork of the caller leaves a loop over trace_many: the server goes on working for its parent
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if os.path.exists(self.directory):
            import subprocess
            subprocess.run(["rm", "-rf", self.directory], stderr=subprocess.DEVNULL)     # shutil fails on deep trees


def _run(tasks, workers, hash_seed):
    """Yield the Traces of each task (one, or one for each of its inputs), in order, on at most `workers` servers at a time."""
    workers = workers or os.cpu_count() or 1
    coming = ((number, task, 0) for number, task in enumerate(tasks))
    again, done, busy = [], {}, {}      # jobs to repeat; results by number; servers by descriptor
    taken, given, more = 0, 0, True     # how many jobs were begun, and how many results yielded; may `coming` hold more?
    try:
        while busy or again or more:
            # a slow job holds back the results of later ones, so these do not run ahead without end
            while len(busy) < workers and (again or more and taken - given < 16 * workers):
                job = again.pop() if again else next(coming, None)
                if job is None:
                    more = False
                    break
                taken = max(taken, job[0] + 1)
                server = _acquire((hash_seed, "numpy" in job[1]["program"], LAYERS))
                busy[server.process.stdout.fileno()] = server
                server.send(job)
            for fd in _ready(busy) if busy else ():
                server = busy[fd]
                try:
                    reply = server.receive()
                except EOFError as problem:     # as if starved: the job has one more try
                    reply = True, True, [Trace(Status.LOST, error=str(problem), missing=server.missing or ())]
                if reply is None:       # it was the greeting
                    continue
                starved, retire, traces = reply
                number, task, tries = server.job
                if starved and not tries:
                    again.append((number, task | {"timeout": 4 * task["timeout"]}, 1))
                else:
                    done[number] = traces
                _release(busy.pop(fd), retire)
            while given in done:
                yield done.pop(given)
                given += 1
    finally:
        for server in busy.values():
            server.close()


def _acquire(key):
    with contextlib.suppress(IndexError):       # none is left
        while True:
            server = _idle[key].pop()
            if server.process.poll() is None:
                return server
            server.close()      # it has died meanwhile
    return _Server(key)


def _release(server, retired):
    if retired or len(_idle[server.key]) >= (os.cpu_count() or 1):
        server.close()
    else:
        _idle[server.key].append(server)


def _ready(busy):
    """Descriptors of the servers that have something to say or are past their deadline."""
    patience = min(server.deadline for server in busy.values()) - time.monotonic()
    return _speaking(busy, max(patience, 0) * 1000 + 1) or [fd for fd, server in busy.items() if server.deadline < time.monotonic()]


def _speaking(descriptors, patience):
    """Those from which something, or the end, can be read within so many milliseconds."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(patience)]


# ---- the server: a fork per job ----------------------------------------------------------------------------------------

# What a fork costs is the pages that are written to after it, by either side: each must be copied (2 microseconds; some 400 of
# them a job, 200 for a fork alone), and counting a reference is a write. So the code below does without what is merely elegant.

_SIZE, _HEAD = struct.Struct("!I"), struct.Struct("!I2?")      # of a task; of a report: size, starved, retire
_running, _late = 0, False      # process id of the child, and whether it had to be killed
_shared = None      # memory for the child's report
_stage = None       # the _Stage for its run
_seal = None        # a function that seals the child off just before its run
_flags = None       # the flags of the descriptors 0 to 2, which all programs of a server share
_WARM = "import re\ndef f(x):\n    print(x)\n    print(f'x: {x}')\n    return [x, 'a', {2.5: None}]"


def _serve(options):
    jobs, replies = open(os.dup(0), "rb"), open(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    del sys.path[:1], sys.argv[1:]      # this file's folder, and what the caller says here, are not the program's business
    sys.path += options["packages"]
    builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "Ctrl-D")      # of the module site, which -S leaves out
    for name in [*PRELOAD, "numpy"] if options["numpy"] else PRELOAD:
        with contextlib.suppress(ImportError):      # the program that imports it will say so
            __import__(name)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_FSIZE, FILES_LIMIT)
    _limit(resource.RLIMIT_AS, _address_space() + MEMORY_LIMIT)
    missing = _isolate(options["layers"], options["packages"])
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    global _stage, _flags
    _flags = fcntl.fcntl(0, fcntl.F_GETFL)
    signal.signal(signal.SIGALRM, _on_alarm)
    _execute({"program": _WARM, "call": "f(1)"}, None)      # what a first run makes, every child then shares
    _stage = _Stage()
    gc.collect()
    gc.freeze()     # the collector writes into every object it sees
    with contextlib.suppress(OSError):
        _libc("malloc_trim", 0)     # a fork copies the table of free pages too
    decode = json.JSONDecoder().raw_decode      # json.loads writes to more pages
    starved, retire, report = False, False, json.dumps(missing).encode()
    while True:
        replies.write(_HEAD.pack(len(report), starved, retire) + report)
        replies.flush()
        head = jobs.read(4)
        if retire or not head:
            return
        task, _ = decode(jobs.read(_SIZE.unpack(head)[0]).decode())
        starved, report = _fork(task)
        retire = _littered()


def _littered():
    """Has a program left files, locked the directory, or set flags of the descriptors? A server then ends, and its directory goes with it."""
    try:
        return bool(os.listdir(".")) or os.stat(".").st_mode & 0o777 != 0o700 or fcntl.fcntl(0, fcntl.F_GETFL) != _flags
    except OSError:
        return True


def _on_alarm(*_):
    """The job is late; or, in the child, the program has set an alarm."""
    global _late
    if not _running:
        _exit(1)
    _late = True
    with contextlib.suppress(ProcessLookupError):       # it has just ended
        os.kill(_running, signal.SIGKILL)


def _fork(task):
    """Run one job in a child: (was it starved of CPU, the bytes of its report)."""
    global _running, _late, _shared
    _late = False
    with mmap.mmap(-1, REPORT_LIMIT) as _shared:    # zeros; new for each job, so that nothing left running reaches the next one's
        _running = os.fork()
        if not _running:
            try:
                _child(task)
            finally:
                _exit(1)
        signal.setitimer(signal.ITIMER_REAL, task["timeout"], 0.1)
        _, code, usage = os.wait4(_running, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _sweep(_running)
        size, = _SIZE.unpack(_shared[:4])
        if code == 0 and not _late and 0 < size <= REPORT_LIMIT - 4:
            return False, _shared[4:4 + size]
    if _late:
        # less than half the time on a CPU, and preempted rather than asleep: worth another try, with more time. A program can feign
        # this on a busy machine, and gains four times its limit
        preempted = usage.ru_nivcsw > usage.ru_nvcsw + 5
        starved = preempted and usage.ru_utime + usage.ru_stime < task["timeout"] / 2
        return starved, _bytes([_result("timeout", f"not done after {task['timeout']:g} s")])
    code = os.waitstatus_to_exitcode(code)
    return False, _bytes([_result("killed", f"left with exit code {code}" if code >= 0 else signal.Signals(-code).name)])


def _sweep(child):
    """End whatever the child left running. Process 1 of a namespace may mean everybody; otherwise the child's group."""
    try:
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)
        while True:
            os.wait()
    except (ProcessLookupError, ChildProcessError, PermissionError):
        pass        # there is nothing left


# ---- the child: run the program ----------------------------------------------------------------------------------------

_exit, _quoted = os._exit, json.encoder.encode_basestring_ascii     # programs rebind such things


def _child(task):
    os.setsid()
    os.closerange(3, 64)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_CPU, int(task["timeout"]) + 2)
    if os.getppid() != 1:       # process 1 of a namespace takes its children with it anyway
        _die_with_parent()
    if _seal and _seal() != 0:
        _exit(1)
    inputs, here, results = task.get("inputs", [None]), os.getcwd(), []
    for text in inputs:
        results.append(_execute(task, text))
        if len(inputs) > 1 and (os.getcwd() != here or _littered()):     # the next input would find it: each alone
            results = [_result("killed", "left files, or another directory, to the next input")]
            break
    _report(results)


def _report(results):
    """Leave the results to the server, and end."""
    data = _bytes(results)
    if len(data) > REPORT_LIMIT - 4:
        data = _bytes([_too_much("reported")])
    _shared[:4 + len(data)] = _SIZE.pack(len(data)) + data
    _exit(0)


def _bytes(results):
    return f"[{', '.join(results)}]".encode()


def _result(status, error="", value="", stdout="", anchors=()):
    """The outcome of a run, in JSON. Without json.dumps, which needs builtins that the program may have broken, and more pages."""
    anchors = ", ".join([f"[{site}, {_quoted(name)}, {_quoted(text)}]" for site, name, text in anchors])
    return f'{{"status": "{status}", "error": {_quoted(error)}, "value": {_quoted(value)}, "stdout": {_quoted(stdout)}, "anchors": [{anchors}]}}'


def _too_much(what):
    return _result("output", f"more is {what} than is recorded")


def _execute(task, text):
    """The _result of one run of the program. Where it prints too much, the process reports that and ends."""
    global _stage
    try:
        code = _compile(task["program"])
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as problem:
        return _result("syntax", _describe(problem))
    stage, _stage = _stage or _Stage(), None    # the one at hand serves one run
    namespace, status, value, error = stage.main.__dict__, "ok", "", ""
    try:
        exec(code, namespace)
        if text is not None:
            # compiled, as any call is: equal texts and numbers of it may be one object
            call = compile(ast.Expression(_arguments(task["call"], text)), "<call>", "eval", 0, True)
            value = repr(eval(call, {"__builtins__": {}, "set": set, task["call"]: namespace[task["call"]]}))
        elif task["call"]:
            value = repr(eval(compile(task["call"].strip(), "<call>", "eval", 0, True), namespace))
    except BaseException as problem:
        status, error, value = _classify(problem), _describe(problem), ""
    if len(value) > OUTPUT_LIMIT:
        return _too_much("returned")
    stdout = stage.text()
    if len(stdout) > OUTPUT_LIMIT:      # bytes that are no text take four characters each
        return _too_much("printed")
    return _result(status, error, value, stdout, stage.anchors)


class _Stage(io.BytesIO):
    """What a run finds in place: an empty __main__, a stdout that prints into these bytes, a recorder of anchors; the last two up to
    their limits. The server makes one for all its children, each of which has its copy; only a fork's later inputs need another."""

    def __init__(self):
        super().__init__()
        self.anchors, self.room = [], OUTPUT_LIMIT
        self.writer = sys.stdout = sys.__stdout__ = io.TextIOWrapper(self, "utf-8", "backslashreplace", "")
        self.main = sys.modules["__main__"] = types.ModuleType("__main__")
        self.main.__builtins__ = builtins
        builtins.__anchor__ = self.anchor

    def anchor(self, site, name, text):
        self.room -= len(text) + ANCHOR_COST
        if self.room < 0:
            _report([_too_much("printed in anchors")])
        self.anchors.append((site, name, text))
        if sys.stdout is not self.writer and sys.stdout is not None:
            sys.stdout.write(f"{name}: {text}\n")      # the program reads, or sends elsewhere, what it prints

    def write(self, data):
        if self.tell() + len(data) > OUTPUT_LIMIT:
            _report([_too_much("printed")])
        return super().write(data)

    def close(self):
        pass    # what was printed is still wanted

    def text(self):
        try:
            self.writer.flush()
        except ValueError:      # the program closed or detached it
            pass
        return self.getvalue().decode("utf-8", "backslashreplace")


def _classify(problem):
    for kind, status in ((MemoryError, "memory"), (ModuleNotFoundError, "missing"), (SystemExit, "exit")):
        if isinstance(problem, kind):
            return status
    return "error"


def _describe(problem):
    """The exception's name and the first line of its message."""
    try:
        return f"{type(problem).__name__}: {problem}".partition("\n")[0][:500].removesuffix(": ")
    except BaseException:
        return "an exception that cannot be shown"


def _compile(program):
    """The program's code, in which each anchor calls the recorder instead of print."""
    if "print" not in program:
        return compile(program, "<program>", "exec", dont_inherit=True)
    tree = ast.parse(program, "<program>")
    for node in ast.walk(tree):
        if name := anchor_name(node):
            value = node.args[0].values[1]
            node.func.id = "__anchor__"
            node.args = [ast.Constant(node.lineno), ast.Constant(name), ast.JoinedStr([value])]
            ast.fix_missing_locations(node)
    return compile(tree, "<program>", "exec", dont_inherit=True)


def anchor_name(node):
    """NAME if a node of a syntax tree is the call print(f'NAME: {NAME}'), else None."""
    match node:
        case ast.Call(func=ast.Name(id="print"), keywords=[], args=[ast.JoinedStr(values=[
                ast.Constant(value=label), ast.FormattedValue(value=ast.Name(id=name), conversion=-1, format_spec=None)])]):
            return name if label == f"{name}: " else None


# ---- isolation ---------------------------------------------------------------------------------------------------------


def _limit(kind, value):
    try:
        resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):       # macOS refuses some; a lower limit stays
        pass


def _address_space():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return 0


_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE = {"NS": 0x20000, "IPC": 0x8000000, "USER": 0x10000000, "PID": 0x20000000, "NET": 0x40000000}
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38


def _libc(name, *arguments):
    """A call into the C library. Raises OSError where it fails, or where there is no such function."""
    function = getattr(_LIBC, name, None)
    if sys.platform != "linux" or not function:
        raise OSError(f"no {name} here")
    result = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _isolate(layers, packages):
    """Take away from this process, and so from its children, what programs must not have: the layers missing, each with its reason."""
    missing, state = [], types.SimpleNamespace(readable=_readable(packages), viewed=False)
    for name, layer in _LAYERS.items():
        try:
            if name not in layers:
                raise OSError("switched off")
            _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            layer(state)
        except OSError as problem:
            missing.append(f"{name} ({problem.strerror or problem})")
    if os.getpid() == 1:
        _die_with_parent()      # the launcher; changing user had cleared it
    return missing


def _die_with_parent():
    if sys.platform == "linux":
        _libc("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _readable(packages):
    """Directories that Python needs to read; none inside another."""
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", os.path.join(sys.base_prefix, "lib"),
              os.path.dirname(os.__file__), *packages]
    wanted = sorted({os.path.abspath(path) for path in wanted if os.path.isdir(path)})
    return [path for path in wanted if not any(path.startswith(other + "/") for other in wanted)]


def _namespaces(state):
    """New PID, network, IPC and mount namespaces, through a user namespace if we are not root. Goes on as process 1."""
    uid, gid = os.getuid(), os.getgid()
    _libc("unshare", _CLONE["NS"] | _CLONE["IPC"] | _CLONE["PID"] | _CLONE["NET"] | (_CLONE["USER"] if uid else 0))
    server = os.fork()
    if server:
        os.closerange(0, 2)
        os.closerange(3, 64)
        os.waitpid(server, 0)
        _exit(0)
    if uid:
        for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _files(state):
    """A root directory that holds only what Python reads, and an empty directory in memory."""
    if os.getpid() != 1:
        raise OSError("needs namespaces")
    root = os.getcwd()
    _libc("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    _libc("mount", b"none", root.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=1m")
    for path in state.readable:
        os.makedirs(root + path)
        _libc("mount", path.encode(), (root + path).encode(), None, _MS_BIND | _MS_REC, None)
    own = root + root       # the own directory keeps its name
    os.makedirs(own)
    read_only = struct.pack("4Q", 1 | _MS_NOSUID | _MS_NODEV, 0, 0, 0)      # struct mount_attr
    _libc("syscall", 442, -100, root.encode(), 0x8000, read_only, len(read_only))   # mount_setattr, for all below root
    _libc("mount", b"none", own.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=700,nr_inodes=1000,size=%d" % FILES_LIMIT)
    os.chdir(root)
    _libc("pivot_root", b".", b".")
    _libc("umount2", b".", 2)       # 2: detach; the old root is gone
    os.chdir(root)
    state.viewed = True


def _privileges(state):
    """Give up all capabilities, for good; if root, become a user that owns nothing else."""
    readable = state.viewed or all(_open_to_all(path) for path in state.readable)
    if os.getuid() == 0 and readable:
        _change_user()
    _libc("capset", struct.pack("2I", 0x20080522, 0), bytes(24))
    _libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getuid() == 0:
        raise OSError("still root without its capabilities: another user could not read Python's libraries")


def _change_user():
    for user in (1_000_000_000 + os.getpid(), 65534):      # a container may map 65536 users only
        try:
            os.chown(".", user, user)
            os.setgroups([])
            os.setresgid(user, user, user)
            return os.setresuid(user, user, user)
        except OSError as problem:
            reason = problem
    raise reason


def _open_to_all(path):
    while path != "/":
        if os.stat(path).st_mode & 5 != 5:
            return False
        path = os.path.dirname(path)
    return True


def _landlock(state):
    """Read Python's libraries, write the own directory; no TCP, no abstract sockets, no signals outside."""
    version = _libc("syscall", 444, None, 0, 1)     # landlock_create_ruleset, here only asked for its version
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1       # to files: one bit for each that the version knows
    network = 3 if version >= 4 else 0      # bind and connect TCP
    scope = 3 if version >= 6 else 0        # abstract sockets, signals
    size = 8 if version < 4 else 16 if version < 6 else 24      # the struct grew by one field with each of the two
    rules = _libc("syscall", 444, struct.pack("3Q", rights, network, scope)[:size], size, 0)
    for path, allowed in [(path, 0b1100) for path in state.readable] + [(".", rights)]:     # 0b1100: read files, list directories
        fd = os.open(path, os.O_PATH)
        _libc("syscall", 445, rules, 1, struct.pack("=Qi", allowed, fd), 0)     # landlock_add_rule; 1: for all below a path
        os.close(fd)
    _libc("syscall", 446, rules, 0)     # landlock_restrict_self
    os.close(rules)


_ALLOWED = """
    access alarm arch_prctl brk chdir chmod clock_getres clock_gettime clock_nanosleep close close_range dup dup2 dup3 epoll_create1
    epoll_ctl epoll_pwait epoll_wait eventfd2 exit exit_group faccessat faccessat2 fchdir fchmod fchmodat fcntl fdatasync fstat
    fstatfs fsync ftruncate futex getcwd getdents64 getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getrandom
    getrlimit getrusage getsid gettid gettimeofday getuid ioctl lseek lstat madvise mincore mkdir mkdirat mmap mprotect mremap munmap
    nanosleep newfstatat open openat pipe pipe2 poll ppoll pread64 prlimit64 pselect6 pwrite64 read readlink readlinkat readv rename
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait
    sched_getaffinity sched_yield select set_robust_list set_tid_address setitimer sigaltstack stat statfs statx sysinfo time times
    truncate umask uname unlink unlinkat utimensat wait4 waitid write writev
""".split()
_SERVERS_OWN = "clone clone3 fork kill prctl setsid".split()    # its children give them up
_ONLY = {    # system call -> the arguments that it may have, one of these each: (which, comparison of libseccomp, value)
    "prlimit64": [(0, 4, 0)],               # equal to 0: of a process its own limits only
    "fcntl": [(1, 2, 8), (1, 4, 1030)],     # below 8, F_SETOWN, by which a descriptor would signal any process; F_DUPFD_CLOEXEC
}


def _seccomp(state):
    """An allow-list of system calls; the rest fails with EPERM. The server takes it on once, with what it needs to fork and to kill.
    A child adds a second filter against just that: a call must pass both, and a short one is put on faster."""
    global _seal
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise OSError("no libseccomp.so.2") from None
    library.seccomp_init.restype = ctypes.c_void_p
    allow, refuse = 0x7fff0000, 0x50000 | 1     # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
    if _filter(library, refuse, allow, _ALLOWED + _SERVERS_OWN)() != 0:
        raise OSError("the filter was refused")
    _seal = _filter(library, allow, refuse, _SERVERS_OWN)


def _filter(library, default, action, names):
    """A function that puts a filter on the calling process (`action` for the system calls of these names, `default` for all others)
    and returns 0 if the kernel took it."""
    rules = ctypes.c_void_p(library.seccomp_init(default))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:      # this architecture lacks it
            continue
        for only in _ONLY.get(name, [None]):    # None: with any arguments
            test = struct.pack("=IIQQ", *only, 0) if only else None     # struct scmp_arg_cmp
            library.seccomp_rule_add_array(rules, action, number, 1 if only else 0, test)
    library.seccomp_attr_set(rules, 8, 2)       # SCMP_FLTATR_CTL_OPTIMIZE: a binary tree
    reader, writer = os.pipe()
    if library.seccomp_export_bpf(rules, writer):
        raise OSError("libseccomp made no filter")
    os.close(writer)
    code = os.read(reader, 1 << 16)
    os.close(reader)
    code = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(code)))      # struct sock_fprog
    return functools.partial(_LIBC.prctl, _PR_SET_SECCOMP, ctypes.c_long(2), program, code)     # 2: SECCOMP_MODE_FILTER, read from `program`


_LAYERS = {"namespaces": _namespaces, "files": _files, "privileges": _privileges, "landlock": _landlock, "seccomp": _seccomp}


# ---- the command line --------------------------------------------------------------------------------------------------


def _show(result, call):
    for site, name, text in result.anchors:
        print(f"line {site:<4} {name}: {text}")
    if result.stdout:
        print("--- printed\n" + result.stdout.rstrip("\n"))
    print("---", result.status, result.error)
    if not call:
        print("no CALL was given, so only the module ran; for a function: python sandbox.py PROGRAM 'f(3)'")
    elif result.status == "ok":
        print(result.value)


_TRIALS = {    # what a program may try -> its code, which must not end without an exception
    "reads the caller's files": "open({file!r}).read()",
    "writes outside its directory": "open({file!r} + '2', 'w')",
    "starts a process": "import os\nif os.fork() == 0: os._exit(0)",
    "signals the caller": "import os\nos.kill({pid}, 0)",
    "opens a socket": "import socket\nsocket.socket().bind(('127.0.0.1', 0))",
    "takes memory": "'x' * (1 << 40)",
}


def _self_test():
    """Print the layers this machine gives and try what they are for; the number of attempts that succeeded."""
    import tempfile
    missing = trace("", "").missing
    for layer in ("limits",) + LAYERS:
        print(f"{layer:12}", next((m.partition(" ")[2] for m in missing if m.startswith(layer)), "yes"))
    with tempfile.NamedTemporaryFile() as secret:
        tried = {name: check(code.format(file=secret.name, pid=os.getpid())) for name, code in _TRIALS.items()}
    for name, result in tried.items():
        print(f"a program that {name:30}", "NOT STOPPED" if result.status == "ok" else f"stopped: {result.error}")
    start = time.monotonic()
    count = sum(result.status == "ok" for result in trace_many([("def f(x):\n    return x + 1", "f(1)")] * 200))
    print(f"{count} of 200 programs in {time.monotonic() - start:.1f} s")
    return sum(result.status == "ok" for result in tried.values()) + (count < 200)


def main():
    import argparse
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("program", nargs="?", help="file with the program")
    parser.add_argument("call", nargs="?", default="", help="expression to evaluate in it, such as 'f(3)'")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    parser.add_argument("--require-isolation", action="store_true", help="refuse to run where a layer of isolation is missing")
    parser.add_argument("--self-test", action="store_true", help="print which layers this machine gives, and try them")
    args = parser.parse_args()
    if not 0 < args.timeout < 1e6:
        parser.error("--timeout must be above 0, and finite")
    if not args.program and not args.self_test:
        parser.error("give a program, or --self-test")
    try:
        if args.require_isolation:
            require_isolation()
        if args.self_test:
            sys.exit(_self_test())
        with open(args.program, encoding="utf-8", errors="surrogateescape", newline="") as file:
            program = file.read()
    except (OSError, RuntimeError) as problem:
        parser.error(str(problem))
    sys.stdout.reconfigure(errors="backslashreplace")       # half a surrogate pair is a text for Python, and for no terminal
    result = agreed(*(trace(program, args.call, timeout=args.timeout, hash_seed=seed) for seed in (0, 1)))
    _show(result, args.call)
    sys.exit(result.status != "ok")


if __name__ == "__main__":
    main()
