"""The sandbox under attack: for each line of "Covered" in sandbox.py's docstring, programs that try it.

After every attack: the right status within the limit plus one second, no process and no file left behind, and an honest
program still runs. Set STEPCODE_DATA to a folder with cruxeval.jsonl to run the benchmark's programs too."""
import ast
import ctypes
import glob
import itertools
import json
import multiprocessing.util
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

tempfile.tempdir = tempfile.mkdtemp()       # so that what others leave in /tmp is not counted
os.chmod(tempfile.tempdir, 0o755)
multiprocessing.util.Finalize(None, shutil.rmtree, (tempfile.tempdir,), exitpriority=-200)    # after its own directory in it went

import sandbox  # noqa: E402
from sandbox import Status, check, trace, trace_inputs, trace_many  # noqa: E402
from tools import bench  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINUX = sys.platform == "linux"
FULL = LINUX and not trace("", "").missing
needs_isolation = pytest.mark.skipif(not FULL, reason="this machine does not give every layer of isolation")
HONEST = "def f(x):\n    y = x + 1\n    print(f'y: {y}')\n    return y"


def descendants(pid):
    """Process ids below `pid` (Linux)."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            child, _, rest = open(path).read().partition(" (")
        except OSError:
            continue
        parents.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(child))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def alive(pid):
    """Is there such a process, and has it not ended (Linux)?"""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_nothing_left():
    servers = [server for idle in sandbox._idle.values() for server in idle]
    if LINUX:
        for server in servers:      # the launcher, and process 1 of its namespace; nothing else
            assert len(descendants(server.process.pid)) <= 1
    assert not any(os.listdir(server.directory) for server in servers if os.path.exists(server.directory))
    assert set(glob.glob(os.path.join(tempfile.gettempdir(), "sandbox-*"))) <= {server.directory for server in servers}


def attack(program, call="", timeout=1.0):
    """Run it; then check the clock, the processes, the files and an honest program."""
    start = time.monotonic()
    result = trace(textwrap.dedent(program), call, timeout=timeout)
    seconds = time.monotonic() - start
    if os.getloadavg()[0] < (os.cpu_count() or 1):      # on a busy machine a starved job gets a second chance
        assert seconds < timeout + 1
    assert_nothing_left()
    assert trace(HONEST, "f(1)") == sandbox.Trace(Status.OK, [(3, "y", "2")], "2", missing=result.missing)
    return result


# ---- honest programs ---------------------------------------------------------------------------------------------------


def test_trace():
    result = trace("def f(a, b):\n    c = a + b\n    print(f'c: {c}')\n    print('hi', end='\\r\\n')\n    return [c]", "f(1, b=2)")
    assert result == sandbox.Trace("ok", [(3, "c", "3")], "[3]", "hi\r\n", "", result.missing)
    assert result.status == "ok" and str(result.status) == "ok"


def test_anchors_are_recognised_exactly():
    program = r'''
a, b, d = ' \n ', '', {'k': 1}
print(f'a: {a}')
print(f"b: {b}")
print(f'd: {d}'); print(f'b: {b}')
for i in range(2):
    print(f'i: {i}')
print(f'a:{a}'); print(f'a: {b}'); print(f'a: {a!r}'); print(f'a: {a:>3}'); print(f'a: {a}', end=''); print(f'{a=}'); print('a: ', a)
print(f'a: {a}', a); print(f'd: {d["k"]}'); print(f' a: {a}')
'''
    result = trace(program, "")
    assert result.anchors == [(3, "a", " \n "), (4, "b", ""), (5, "d", "{'k': 1}"), (5, "b", ""), (7, "i", "0"), (7, "i", "1")]
    assert result.stdout.count("a") >= 7


def test_a_program_that_redirects_its_prints_reads_its_anchors_too():
    program = """
import contextlib, io
def show(x):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print(f'x: {x}')
        print('y')
    return out.getvalue()
"""
    result = trace(program, "show(3)")
    assert (result.value, result.anchors, result.stdout) == (repr("x: 3\ny\n"), [(5, "x", "3")], "")
    assert trace("import sys\nsys.stdout = None\nx = 1\nprint(f'x: {x}')", "").status == "ok"


def test_a_program_finds_what_a_script_finds():
    assert trace("import sys", "sys.argv[1:]").value == "[]"  # not the server's, which name the caller's folders
    assert [check(code).status for code in ("exit(0)", "quit()", "try: exit(0)\nexcept SystemExit: pass")] == ["exit", "exit", "ok"]


def test_errors_keep_what_was_printed():
    result = trace("x = 1\nprint(f'x: {x}')\nprint('p')\ny = 1 / 0", "y")
    assert (result.status, result.anchors, result.stdout) == ("error", [(2, "x", "1")], "p\n")
    assert result.error == "ZeroDivisionError: division by zero"


def test_check():
    assert check("assert 1 + 1 == 2").status == "ok"
    assert check("assert 1 + 1 == 3, 'no'").error == "AssertionError: no"


@pytest.mark.parametrize("program, status", [("def f(:", "syntax"), ("import no_such_package", "missing"), ("", "ok"), ("\r\nx = 1\r\n", "ok"),
                                             ("x = '\0'", "syntax"), ("x = '\ud800'", "syntax"), ("x =\\\n", "syntax"), ("(" * 10_000, "syntax"),
                                             ("x = " + "-" * 100_000 + "1", "syntax"), ("x = '" + "y" * 2_000_000 + "'", "ok")])
def test_source_text(program, status):
    assert attack(program).status == status


def test_main_and_dataclasses():
    program = "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nok = __name__ == '__main__'"
    assert trace(program, "(P(1), ok)").value == "(P(x=1), True)"


def test_numpy():
    pytest.importorskip("numpy")
    assert check("import numpy as np\nassert (np.ones((50, 50)) @ np.ones((50, 50))).sum() == 125000").status == "ok"
    assert check("import numpy as np\nx = np.ones(1 << 40)").status == "memory"


def test_values():
    assert trace("", "float('nan'), float('inf'), 1e999, '\\ud800', 'a\\x00b'").value == r"(nan, inf, inf, '\ud800', 'a\x00b')"
    assert trace("x = '\\ud800 \\x00'\nprint(f'x: {x}')", "").anchors == [(2, "x", "\ud800 \0")]
    assert "4300" in trace("", "10 ** 5000").error


# ---- hostile programs --------------------------------------------------------------------------------------------------

SWALLOW = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
"""
DAEMON = """
import os, time
def f():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                time.sleep(1)
        os._exit(0)
    return 1
"""
ATTACKS = {
    "endless loop": ("while True: pass", "timeout"),
    "endless sleep": ("import time\ntime.sleep(1000)", "timeout"),
    "endless loop that swallows": (SWALLOW, "timeout"),
    "endless loop in the source's repr": ("class L:\n  def __repr__(self):\n    while True: pass\nx = L()", "timeout", "x"),
    "fork bomb": ("import os\nwhile True: os.fork()", "error"),
    "fork bomb that swallows": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "timeout"),
    "daemon": (DAEMON, "error", "f()"),
    "thread": ("import threading\nthreading.Thread(target=print).start()", "error"),
    "subprocess": ("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])", "error"),
    "program": ("import os\nos.execv('/bin/sh', ['sh'])", "error"),
    "list": ("x = []\nwhile True: x.append([0] * 1_000_000)", "memory"),
    "string": ("x = 'y' * (1 << 34)", "memory"),
    "power": ("x = 7 ** (7 ** 12)", "timeout memory"),
    "memory in pieces": ("import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(100)]", "error memory"),
    "endless output": ("while True: print('x' * 1000)", "output"),
    "endless output that swallows": ("while True:\n  try:\n    while True: print('x' * 1000)\n  except BaseException: pass", "output"),
    "endless error output": ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "timeout"),
    "endless anchors": ("x = 1\nwhile True: print(f'x: {x}')", "output"),
    "output that is no text": ("import sys\nsys.stdout.buffer.write(b'\\xff' * 1_000_000)", "output"),
    "long line": ("print('x' * 100_000_000)", "output"),
    "long value": ("", "output", "'x' * 10_000_000"),
    "long anchor": ("x = 'x' * 10_000_000\nprint(f'x: {x}')", "output"),
    "long error": ("raise ValueError('x' * 10_000_000)", "error"),
    "recursion": ("def f(): return f()", "error", "f()"),
    "recursion without limit": ("import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return f() + 1", "memory killed error timeout", "f()"),
    "sys.exit": ("import sys\nsys.exit(0)", "exit"),
    "SystemExit": ("raise SystemExit", "exit"),
    "os._exit": ("import os\nos._exit(0)", "killed"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "error"),
    "abort": ("import os\nos.abort()", "killed"),
    "segfault": ("import ctypes\nctypes.string_at(0)", "killed"),
    "rebound os._exit": ("import os\nos._exit = lambda code: None", "ok"),
    "recursion limit": ("import sys\nsys.setrecursionlimit(60)", "ok killed error"),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", "error"),
    "kill everybody": ("import os\nos.kill(-1, 9)", "error"),
    "stop the parent": ("import os\nos.kill(os.getppid(), 19)", "error"),
    "interrupt the parent through a pipe": ("import fcntl, os\nfd, _ = os.pipe()\nfcntl.fcntl(fd, fcntl.F_SETOWN, os.getppid())", "error"),
    "the same with bits that the kernel drops": ("import ctypes\nassert ctypes.CDLL(None).syscall(72, 0, ctypes.c_long(8 + (1 << 32)), 1) == 0", "error"),
    "limits of the parent": ("import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "error"),
    "more limits": ("import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (9, 9))", "error"),
    "raise __str__": ("class E(Exception):\n  def __str__(self): raise self\nraise E", "error"),
    "raise no text": ("class E(Exception):\n  __str__ = lambda self: 3\nraise E", "error"),
    "repr no text": ("class R:\n  __repr__ = lambda self: 3", "error", "R()"),
    "repr a lying text": ("class S(str):\n  __len__ = lambda s: 1\n  __str__ = lambda s: 3\nclass R:\n  __repr__ = lambda self: S('r')", "ok", "R()"),
    "big file": ("f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", "error killed"),
    "many files": ("n = 0\nwhile True:\n  open(str(n), 'w').write('x'); n += 1", "error"),
    "deep directories": ("import os\nfor _ in range(900):\n  os.mkdir('d'); os.chdir('d')", "ok"),
    "lock the directory": ("import os\nopen('x', 'w')\nos.chmod('.', 0)", "ok"),
    "memory file": ("import os\nos.memfd_create('x')", "error"),
    "trace the parent": ("import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0", "error"),
    "standard input": ("input()", "error"),
    "lying equality": ("class E:\n  __eq__ = lambda *a: True\n  __hash__ = lambda s: 0\n  __repr__ = lambda s: 'E'\nassert E() == 1", "ok", "E()"),
    "alarm": ("import signal, time\nsignal.alarm(1)\ntime.sleep(5)", "killed timeout"),
    "an own namespace": ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0", "error"),
}


@needs_isolation
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name):
    program, statuses, *call = ATTACKS[name]
    result = attack(program, *call, timeout=1 if "timeout" in statuses else 3)
    assert result.status in statuses.split(), result


@needs_isolation
def test_every_other_system_call_is_refused():
    """By number, so also those that Python has no function for, and those of the x32 table, at which the process ends."""
    library = ctypes.CDLL("libseccomp.so.2")
    allowed = {library.seccomp_syscall_resolve_name(name.encode()) for name in sandbox._ALLOWED}
    others = sorted(set(range(600)) - allowed - {335, 336})     # uretprobe and uprobe pass every filter, and end the process themselves
    program = f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        def f():
            return [n for n in {others} if libc.syscall(n, 0, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM]
    """
    assert attack(program, "f()").value == str(others)
    if os.uname().machine == "x86_64":
        assert attack(f"import ctypes\nctypes.CDLL(None).syscall({0x40000000 + 39})").error == "SIGSYS"      # getpid


def test_keeps_nothing_after_the_end():
    program = """
        import atexit, sys
        class D:
            def __del__(self): print('late')
        d = D()
        atexit.register(print, 'late')
        sys.excepthook = print
        def f(): return 1
    """
    result = attack(program, "f()")
    assert (result.status, result.value, result.stdout) == ("ok", "1", "")


def test_rebinding():
    program = """
        import builtins, json, sys, os
        x = 5
        for name in ('repr', 'len', 'isinstance', 'str', 'type', 'exec', 'compile', 'print', 'getattr', 'BaseException'):
            setattr(builtins, name, None)
        json.dumps = os._exit = sys.settrace = lambda *a, **k: None
        sys.stdout = sys.stderr = sys.__stdout__ = None
        def print(*a): raise SystemExit
        print(f'x: {x}')
        def f(): return [x]
    """
    result = attack(program, "f()")
    assert (result.status, result.anchors, result.value) == ("ok", [(9, "x", "5")], "[5]")


def test_forged_bytes_on_every_descriptor():
    program = """
        import os
        for fd in range(1024):
            try: os.write(fd, b'\\x00\\x00\\x00\\x05[1,2]')
            except OSError: pass
            try: os.close(fd)
            except OSError: pass
    """
    result = attack(program, "7")
    assert (result.status, result.value, result.stdout) == ("ok", "7", "")


@pytest.mark.parametrize("junk", ["{", "5", "[]", "[5]", "[{}]", "[[]]", '[{"status": "best"}]', '[{"status": "ok", "anchors": 5}]', "[" * 100_000,
                                  '[{"status": "ok", "anchors": [[1e999, 1, 1]]}]', '{"status": "ok"}', "null", '[{"status": []}]'])
def test_malformed_reports(junk):
    program = f"""
        import os, struct, sys
        frame = sys._getframe()
        while '_shared' not in frame.f_globals:
            frame = frame.f_back
        junk = {junk!r}.encode()
        frame.f_globals['_shared'][:4 + len(junk)] = struct.pack('!I', len(junk)) + junk
        os._exit(0)
    """
    assert attack(program).status == "killed"


def test_a_forged_report_cannot_fill_the_callers_memory():
    """1.5 million anchors, 16 MB as text, would be some 300 MB here: refused."""
    program = """
        import os, struct, sys
        frame = sys._getframe()
        while '_shared' not in frame.f_globals:
            frame = frame.f_back
        junk = ('[{"status": "ok", "anchors": [' + '[1,"",""],' * 1_500_000 + '[1,"",""]]}]').encode()
        frame.f_globals['_shared'][:4 + len(junk)] = struct.pack('!I', len(junk)) + junk
        os._exit(0)
    """
    result = attack(program, timeout=3)
    assert (result.status, result.anchors) == ("killed", ())
    for junk in ("b'[' + b'0,' * 100_000 + b'0]'",  # as many Traces
                 "b'[{\"status\": \"ok\", \"anchors\": [[1, \"\", \"' + b'a' * 5_000_000 + b'\"]]}]'"):
        start = program.index("junk = "), program.index("\n", program.index("junk = "))
        result = attack(program[:start[0]] + f"junk = {junk}" + program[start[1]:], timeout=3)
        assert (result.status, result.anchors, result.error) == ("killed", (), "malformed report")


def test_streams():
    program = "import sys\nsys.__stdout__.write('a')\nsys.__stderr__.write('b')\nassert sys.__stdin__.read() == sys.stdin.read() == ''"
    result = attack(program)
    assert (result.status, result.stdout) == ("ok", "a")


def test_closed_streams():
    program = "import sys\nprint('a', flush=True)\nsys.stdout.buffer.write(b'\\xff\\r\\n')\nsys.stdout.close()\nsys.stdin.close()"
    assert attack(program).stdout == "a\n\\xff\r\n"


@needs_isolation
def test_files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    os.chmod(secret, 0o666)
    for act in (f"open({str(secret)!r}).read()", f"os.remove({str(secret)!r})", f"open({str(tmp_path / 'new')!r}, 'w')",
                f"os.listdir({str(tmp_path)!r})", "open('/etc/passwd')", "open('/tmp/x', 'w')", "open(os.__file__, 'a')", "os.mkdir('/x')",
                "os.listdir('/proc')", "os.symlink('/', 'x'); os.listdir('x/etc')", "os.chroot('.')", "os.listdir('/root')"):
        assert attack("import os\n" + act).error.startswith(("PermissionError", "FileNotFoundError", "OSError")), act
    assert secret.read_text() == "sesame" and not (tmp_path / "new").exists()


def test_own_directory():
    assert attack("open('mine', 'w').write('1')\nassert open('mine').read() == '1'").status == "ok"
    assert trace("import os", "os.listdir('.')").value == "[]"


def test_a_locked_directory_is_not_the_next_programs():
    assert attack("import os\nos.chmod('.', 0o500)").status == "ok"
    assert check("open('mine', 'w').write('1')").status == "ok"


@needs_isolation
def test_flags_and_locks_of_the_standard_descriptors_are_not_the_next_programs():
    flags = trace("import fcntl", "fcntl.fcntl(0, fcntl.F_GETFL)").value
    assert attack("import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)").status == "ok"
    assert trace("import fcntl", "fcntl.fcntl(0, fcntl.F_GETFL)").value == flags
    assert check("import fcntl\nfcntl.flock(0, fcntl.LOCK_EX)").status == "error"  # it would stand on the machine's own /dev/null


def test_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("API_KEY", "sesame")
    (tmp_path / "open").write_text("sesame")
    with open(tmp_path / "open") as file:
        os.set_inheritable(file.fileno(), True)
        for servers in sandbox._idle.values():      # so that the worker starts while the secrets are there
            while servers:
                servers.pop().close()
        result = attack("""
            import gc, os
            def f():
                found = [k for k in os.environ if 'API' in k]
                for fd in range(3, 1024):
                    try: found.append(os.fstat(fd))
                    except OSError: pass
                return found + [o for o in gc.get_objects() if type(o) is dict and 'API_KEY' in o]
        """, "f()")
    assert result.value == "[]", result


def test_memory_of_the_previous_program():
    assert trace("x = 'sesame' * 10\nprint(x)", "x").status == "ok"
    program = """
        import gc, mmap
        def f():
            blocks = [o for o in gc.get_objects() if isinstance(o, tuple)] + gc.get_objects()
            found = [m for m in _maps()]
            return [bytes(m[:4096]).count(b'sesa' + b'me') for m in found]
        def _maps():
            import sys
            frame = sys._getframe()
            while frame:
                yield from (v for v in [*frame.f_locals.values(), *frame.f_globals.values()] if isinstance(v, mmap.mmap))
                frame = frame.f_back
    """
    assert set(json.loads(trace(textwrap.dedent(program), "f()").value)) == {0}


@needs_isolation
def test_network(tmp_path):
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    servers[1].bind(str(tmp_path / "s"))
    servers[1].listen()
    servers[2].bind(("127.0.0.1", 0))
    for act in (f"socket.create_connection({servers[0].getsockname()!r})", "socket.create_server(('127.0.0.1', 0))",
                f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})", "socket.socket(socket.AF_UNIX).connect('\\0abstract')",
                f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {servers[2].getsockname()!r})", "socket.socketpair()"):
        assert attack("import socket\n" + act).error.startswith("PermissionError"), act
    for server in servers:
        server.close()


@needs_isolation
@pytest.mark.parametrize("layers", [("namespaces", "files", "privileges", "landlock"), ("privileges", "landlock", "seccomp"), ("namespaces",)])
def test_a_daemon_ends_without_some_layers(layers, monkeypatch):
    """Either it cannot start (seccomp, or a user of its own with no processes left) or it ends with its program (namespaces)."""
    monkeypatch.setattr(sandbox, "LAYERS", layers)
    assert attack(DAEMON, "f()").status in ("ok", "error")
    assert attack("import os\nos.kill(-1, 19)").status in ("ok", "error")


ALONE = {      # layers -> what they must stop without the others' help
    ("namespaces",): ["import socket\nsocket.create_connection({address!r})", "import os\nos.kill({caller}, 0)"],
    ("namespaces", "files"): ["open({secret!r})", "open({secret!r} + '2', 'w')", "import os\nopen(os.__file__, 'a')", "open('/etc/passwd')"],
    ("namespaces", "files", "privileges"): ["import os\nos.fork()", "import os\nos.setuid(0)", "import os\nos.chroot('.')"],
    ("landlock",): ["open({secret!r})", "open({secret!r} + '2', 'w')", "import os\nopen(os.__file__, 'a')",
                    "import socket\nsocket.create_connection({address!r})"],
    (): ["f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", "x = [[0] * 1_000_000 for _ in range(100)]"],
    ("seccomp",): ["import socket\nsocket.create_connection({address!r})", "import os\nos.kill({caller}, 0)", "import os\nos.fork()",
                   "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {caller})"],
}


@needs_isolation
@pytest.mark.parametrize("layers", ALONE)
def test_a_layer_alone(layers, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "LAYERS", layers)
    os.chmod(tmp_path, 0o777)
    (tmp_path / "secret").write_text("sesame")
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"secret": str(tmp_path / "secret"), "address": server.getsockname(), "caller": os.getpid()}
        for act in ALONE[layers]:
            assert attack(act.format(**names), timeout=3).status in ("error", "memory"), act
    missing = {layer.split()[0] for layer in trace("", "").missing}
    assert missing >= set(sandbox._LAYERS) - set(layers)


def test_require_isolation(monkeypatch, capfd):
    monkeypatch.setattr(sandbox, "LAYERS", ())
    with pytest.raises(RuntimeError, match="namespaces"):
        sandbox.require_isolation()
    sandbox._told.clear()
    capfd.readouterr()
    trace("", "", hash_seed=3)
    trace("", "", hash_seed=4)
    assert capfd.readouterr().err.count("namespaces") == 1     # said once, not for each worker


def test_without_linux(tmp_path):
    """What is left on macOS, played here by a copy of the file: no system calls of Linux, no /proc, no limit of address space."""
    text = (ROOT / "sandbox.py").read_text()
    for old, new in ("sys.platform", "'darwin'"), ("/proc/", "/no/"), ("    try:\n        resource.setrlimit(kind, (value, value))", """
    try:
        if kind == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        resource.setrlimit(kind, (value, value))"""):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "sandbox.py").write_text(text)
    code = """
import sandbox
jobs = [("print('hi')", "1 + 1"), ("while True: pass", ""), ("import os; os.abort()", ""), ("while True: print('x' * 1000)", ""), ("import sys; sys.exit()", ""),
        ("open('left', 'w').write('x')", ""), ("import os", "os.listdir('.')")]
print([(str(t.status), t.value, t.stdout) for t in sandbox.trace_many(jobs, timeout=1, workers=1)])
print([t.value for t in sandbox.trace_inputs("def f(x): return x * 2", "f", ["1", "'a'"])])
print(len(sandbox.trace("", "").missing))
"""
    environment = dict(os.environ, TMPDIR=str(tmp_path))
    shown = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path)}, capture_output=True,
                           text=True, timeout=60)
    lines = shown.stdout.splitlines()
    assert lines[0] == str([("ok", "2", "hi\n"), ("timeout", "", ""), ("killed", "", ""), ("output", "", ""), ("exit", "", ""), ("ok", "", ""), ("ok", "[]", "")])
    assert lines[1:] == ["['2', \"'aa'\"]", "5"]
    assert shown.stderr.count("this machine does not give") == 5
    assert not list(tmp_path.glob("sandbox-*"))


@pytest.mark.xfail(strict=True, reason="a program shares its process with the code that reports: see Not covered in sandbox.py")
def test_a_generated_program_cannot_forge_a_pass():
    program = """
        import sys
        frame = sys._getframe()
        while '_report' not in frame.f_globals:
            frame = frame.f_back
        frame.f_globals['_report']([frame.f_globals['_result']('ok')])
        assert False
    """
    assert check(textwrap.dedent(program)).status == "error"


# ---- untrusted inputs of a trusted program -----------------------------------------------------------------------------

IDENTITY = "def f(*a, **k): return a, k"


def test_inputs():
    texts = ["1, 'a'", "f(1, 'a')", "", "f()", "a=[1]", "{1: (2, None)}, -1.5, b'x', {2}, 1+2j", "1e999", "'f(1)'", "f(f='(')", "1,", "set()"]
    values = [trace.value for trace in trace_inputs(IDENTITY, "f", texts)]
    assert values == ["((1, 'a'), {})", "((1, 'a'), {})", "((), {})", "((), {})", "((), {'a': [1]})",
                      "(({1: (2, None)}, -1.5, b'x', {2}, (1+2j)), {})", "((inf,), {})", "(('f(1)',), {})", "((), {'f': '('})", "((1,), {})",
                      "((set(),), {})"]


def test_an_input_is_called_as_a_call_is():
    """What is compiled may be one object where what is read is not, and a program may ask, or count its frames."""
    program = """
def f(mode, x=0):
    if mode is 'add':
        return x + 1
    return x is mode
def deep(n):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
"""
    for entry, arguments in (("f", "'add', 3"), ("f", "1000, 1000"), ("f", "(1, 2), x=(1, 2)"), ("f", "[1], [1]"), ("deep", "0")):
        assert trace_inputs(program, entry, [arguments])[0].value == trace(program, f"{entry}({arguments})").value
    assert trace_inputs(program, "f", ["'add', 3"])[0].value == "4"


def test_files_and_directories_do_not_pass_to_the_next_input():
    program = "import os\ndef f(x):\n    open('log', 'a').write(str(x))\n    return open('log').read()"
    assert [result.value for result in trace_inputs(program, "f", ["1", "2", "3"])] == ["'1'", "'2'", "'3'"]
    program = "import os\nhere = os.getcwd()\ndef f(x):\n    if x == 1: os.chdir('/')\n    return os.getcwd() == here"
    assert [result.value for result in trace_inputs(program, "f", ["1", "2", "3"])] == [str(x != 1) for x in (1, 2, 3)]


HOSTILE_INPUTS = ["(f := lambda *a: 1)", "f(1) + f(2)", "1) + f(2", "1)(2", "1) if 1 else f(2", "1)\nimport os\nf(2", "__import__('os')", "exit()", "x",
                  "lambda: 1", "[x for x in (1,)]", "*[1]", "**{'a': 1}", "type('E', (), {'__eq__': lambda *a: True})()", "f(f(1))",
                  "g(1)", "f.x(1)", "1 == 1", "f'{1}'", "'a' * 10 ** 9", "1" * 5000, "(" * 10_000 + ")" * 10_000, "[" * 150 + "]" * 150 + "[",
                  "-" * 50_000 + "1", "[" * 5000, "1," * 600_000, "\0", "'\ud800", "'\ud800'", "{[]: 1}", "{{}}", "a=1, a=2", "f(1)\nf(2)", "1 #", "# 1",
                  "f(1", "f(1))", ")", "...", "a=", "yield", "await x", "not 1", "f(1) #", "1;2", "0777", "'" * 7, "1_"]


def test_hostile_inputs():
    for text, result in zip(HOSTILE_INPUTS, trace_inputs(IDENTITY, "f", HOSTILE_INPUTS), strict=True):
        if text in ("1 #", "# 1", "f(1) #", "..."):
            assert result.status == "ok", text      # comments and the ellipsis are harmless
        else:
            assert result.status == "input" and result.error, text
            assert " at 0x" not in result.error


def test_the_parsers_warnings_stay_silent(recwarn):
    assert [r.status for r in trace_inputs(IDENTITY, "f", ["1if 1else 2", "0x1or 2", "'\\d'"])] == ["input", "input", "ok"]
    assert not list(recwarn)


def test_inputs_do_not_meet():
    program = "count = 0\ndef f(a, seen=[]):\n    global count\n    count += 1\n    seen.append(a)\n    a.append(1)\n    return count, seen"
    assert {result.value for result in trace_inputs(program, "f", ["[]", "f([])", "a=[]"] * 20)} == {"(1, [[1]])"}


def test_one_bad_input_spoils_only_itself():
    program = "def f(n):\n    while n == 3: pass\n    if n == 5: import os; os._exit(0)\n    return 'x' * n"
    results = trace_inputs(program, "f", [str(n) for n in range(8)] + ["10 ** 7", "10000000", "'a'"], timeout=0.5)
    assert [result.status for result in results] == ["ok"] * 3 + ["timeout", "ok", "killed", "ok", "ok", "input", "output", "error"]
    assert_nothing_left()


def test_a_program_that_does_not_run():
    assert [r.status for r in trace_inputs("def f(:", "f", ["1", "2"])] == ["syntax"] * 2
    assert [r.status for r in trace_inputs("x = 1", "f", ["1"])] == ["error"]
    assert trace_inputs(HONEST, "f", []) == []


# ---- two runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["list({'a', 'b', 'c', 'd', 'e', 'f'})", "object()", "random.random()", "time.time()", "hash('a')", "id([])"])
def test_nondeterministic(call):
    runs = [trace("import random, time", call, hash_seed=seed) for seed in (0, 1)]
    assert sandbox.agreed(*runs).status == "nondeterministic"


def test_deterministic():
    runs = [trace(HONEST, "f(1)", hash_seed=seed) for seed in (0, 1)]
    assert sandbox.agreed(*runs) == runs[0]
    lucky = trace("", "'<f at 0x7f00>'")        # two servers may by chance give the same address
    assert sandbox.agreed(lucky, lucky).status == "nondeterministic"


# ---- workers -----------------------------------------------------------------------------------------------------------


def test_many_in_order_and_lazily():
    jobs = ((f"import time\ntime.sleep({random.random() / 50})", str(n)) for n in itertools.count())
    assert [result.value for result in itertools.islice(trace_many(jobs, workers=3), 60)] == [str(n) for n in range(60)]
    assert_nothing_left()
    assert list(trace_many([])) == []


def test_a_slow_job_holds_back_but_loses_nothing():
    """While the first job runs, the other worker goes on, but not without limit: results that must wait are kept in memory."""
    taken = []
    jobs = ((taken.append(n), ("import time\ntime.sleep(2)" if n == 0 else "", str(n)))[1] for n in range(400))
    results = trace_many(jobs, workers=2)
    assert next(results).value == "0" and 10 < len(taken) < 50
    assert [result.value for result in results] == [str(n) for n in range(1, 400)]


def test_the_last_job_is_retried_too():
    trace("", "")
    victim = sandbox._idle[0, False, sandbox.LAYERS][-1]
    timer = threading.Timer(0.5, os.killpg, (victim.process.pid, signal.SIGKILL))
    timer.start()
    assert [result.value for result in trace_many([("import time\ntime.sleep(1)", "5")], workers=2)] == ["5"]
    timer.join()
    assert victim not in sandbox._idle[0, False, sandbox.LAYERS]


def test_a_starved_job_has_four_times_the_time(monkeypatch):
    sent, send, receive = [], sandbox._Server.send, sandbox._Server.receive
    monkeypatch.setattr(sandbox._Server, "send", lambda self, job: sent.append(job[1]["timeout"]) or send(self, job))

    def starve(self):
        reply = receive(self)
        return reply and (len(sent) == 1, *reply[1:])

    monkeypatch.setattr(sandbox._Server, "receive", starve)
    assert trace("", "7", timeout=1.0).value == "7" and sent == [1.0, 4.0]


def test_an_error_of_the_jobs_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        list(trace_many((HONEST, f"f({1 / n})") for n in (2, 1, 0)))
    assert_nothing_left()


def test_a_reply_that_comes_with_the_greeting_is_seen():
    server = sandbox._Server((0, False, ()))
    try:
        server.send((0, {"program": "def f(): return 1", "call": "f()", "timeout": 3.0}, 0))
        time.sleep(1)  # by now the greeting and the reply are in the pipe
        assert server.receive() is None
        server.deadline = time.monotonic() + 0.5
        assert sandbox._ready({server.process.stdout.fileno(): server}) and server.receive()[2][0].value == "1"
    finally:
        server.close()


def test_a_reply_is_not_late_because_the_caller_is():
    trace("", "")
    server = sandbox._idle[0, False, sandbox.LAYERS].pop()
    try:
        server.send((0, {"program": "", "call": "7", "timeout": 3.0}, 0))
        assert sandbox._ready({server.process.stdout.fileno(): server})
        server.deadline = 0
        assert server.receive()[2][0].value == "7"
        with pytest.raises(EOFError, match="stuck"):    # it has nothing more to say
            server.receive()
    finally:
        server.close()


def test_a_worker_that_dies_is_replaced(monkeypatch):
    trace("", "")
    victim, = [s for s in sandbox._idle[0, False, sandbox.LAYERS]][-1:]
    os.killpg(victim.process.pid, signal.SIGKILL)
    assert trace(HONEST, "f(1)").value == "2"
    list(trace_many([("import time\ntime.sleep(0.2)", "")] * 2, workers=2))
    for idle in sandbox._idle.values():         # all of them at once: no job may be lost to them
        for server in idle:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
    assert trace(HONEST, "f(1)").value == "2"
    monkeypatch.setattr(sandbox._Server, "receive", lambda self: (_ for _ in ()).throw(EOFError("the worker died")))
    assert trace(HONEST, "f(1)").status == "lost"
    monkeypatch.undo()
    assert trace(HONEST, "f(1)").value == "2"
    assert_nothing_left()


@pytest.mark.skipif(not LINUX, reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("layers", [sandbox.LAYERS, ("seccomp",)])
def test_ending_the_caller_leaves_nothing(number, layers, tmp_path):
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell's background jobs inherit that it is ignored
sys.path.insert(0, {str(ROOT)!r})
import sandbox
sandbox.LAYERS = {layers!r}
list(sandbox.trace_many([('import time; time.sleep(9)', '')] * 4, timeout=3))
"""
    environment = dict(os.environ, TMPDIR=str(tmp_path))
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 10
    while len(below := descendants(caller.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    below = descendants(caller.pid)
    caller.send_signal(number)
    caller.wait(5)
    deadline = time.monotonic() + (1 if number == signal.SIGINT else 10)
    while any(map(alive, below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert below and not list(filter(alive, below))
    if number == signal.SIGINT or FULL and layers == sandbox.LAYERS:
        assert not os.listdir(tmp_path)


def test_a_fork_of_the_caller_has_its_own_workers():
    trace(HONEST, "f(1)")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if not sandbox._idle and trace(HONEST, "f(1)").value == "2" and not sandbox._close_idle() else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert trace(HONEST, "f(2)").value == "3"


def test_a_fork_of_the_caller_does_not_end_its_parents_workers():
    """It may leave a loop over trace_many whose programs are running."""
    trace(HONEST, "f(1)")
    server = sandbox._idle[0, False, sandbox.LAYERS][-1]
    child = os.fork()
    if child == 0:
        try:
            server.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert server.process.poll() is None


# ---- the command line, and the other files -----------------------------------------------------------------------------


def command(*arguments):
    return subprocess.run([sys.executable, str(ROOT / "sandbox.py"), *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_command_line(tmp_path):
    (tmp_path / "p.py").write_text(HONEST + "\nprint('hello')")
    shown = command(tmp_path / "p.py", "f(3)")
    assert shown.returncode == 0 and "y: 4" in shown.stdout and "hello" in shown.stdout and shown.stdout.endswith("ok \n4\n")
    (tmp_path / "bad.py").write_bytes(b"x = '\xff'")
    bad, bare = command(tmp_path / "bad.py", "x"), command(tmp_path / "p.py")
    assert "syntax" in bad.stdout and bad.returncode == 1
    assert "hello" in bare.stdout and "no CALL was given" in bare.stdout and bare.returncode == 0
    (tmp_path / "half.py").write_text("x = '\\ud800'\nprint(f'x: {x}')\nraise ValueError(x)")
    assert command(tmp_path / "half.py").stdout.startswith("line 2    x: \\ud800\n--- error ValueError: \\ud800\n")


def test_the_command_line_runs_under_two_hash_seeds(tmp_path):
    (tmp_path / "p.py").write_text("x = 1")
    shown = command(tmp_path / "p.py", "hash('a')")
    assert shown.returncode == 1 and "nondeterministic" in shown.stdout


def test_one_line_errors(tmp_path):
    for arguments, words in ((), "give a program"), (("no_such.py",), "no_such.py"), (("--timeout", "0", "p.py"), "--timeout"):
        shown = command(*arguments)
        assert shown.returncode == 2 and words in shown.stderr.splitlines()[-1]
    code = "import sys, sandbox; sandbox.LAYERS = (); sys.argv[1:] = ['--require-isolation', '--self-test']; sandbox.main()"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 2 and "the sandbox lacks namespaces" in shown.stderr.splitlines()[-1] and not shown.stdout


@needs_isolation
def test_a_machine_whose_children_cannot_be_sealed_is_refused(tmp_path):
    text = (ROOT / "sandbox.py").read_text()
    assert "if _seal and _seal() != 0:" in text
    (tmp_path / "sandbox.py").write_text(text.replace("if _seal and _seal() != 0:", "if True:"))
    shown = subprocess.run([sys.executable, "sandbox.py", "--require-isolation", "--self-test"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 2 and "cannot run an empty program: killed" in shown.stderr.splitlines()[-1]


@needs_isolation
def test_self_test():
    shown = command("--require-isolation", "--self-test")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "NOT STOPPED" not in shown.stdout


FILES = sorted(set(ROOT.glob("*.py")) - {ROOT / "sandbox.py"}) + sorted(ROOT.glob("tools/*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_else_executes_foreign_code(path):
    forbidden = {"pickle", "marshal"} | ({"subprocess"} if path.parent == ROOT else set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Import):
            assert not forbidden & {name.name.partition(".")[0] for name in node.names}, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in forbidden, f"{path.name}:{node.lineno}"


# ---- real programs, and endurance --------------------------------------------------------------------------------------


def test_cruxeval():
    path = pathlib.Path(os.environ.get("STEPCODE_DATA", "data"), "cruxeval.jsonl")
    if not path.exists():
        pytest.skip("no cruxeval.jsonl in $STEPCODE_DATA")
    rows = [json.loads(line) for line in path.open()]
    results = trace_many((row["code"] + f"\nassert {row['output']} == f({row['input']})", "") for row in rows)
    assert [row["id"] for row, result in zip(rows, results, strict=True) if result.status != "ok"] == []


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_nothing_grows_or_stays_behind():
    """100,000 programs, one in 500 of them hostile: neither the caller nor a server grows by more than 8 MB; no process, no file more."""
    (_, caller, server, *held), *_, (_, later_caller, later_server, *later_held) = bench.endurance(100_000)
    assert later_caller < caller + 8 and later_server < server + 8 and later_held == held
    assert_nothing_left()
