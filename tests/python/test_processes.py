"""Processes that begin with fork, and how many threads they take."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORKS = """
import multiprocessing, sys, warnings
import livekv
warnings.simplefilter("ignore")  # Python 3.12 warns of threads
model = livekv.Model(sys.argv[1], n_threads=2)
session = model.session(256)
session.prefill([1, 2, 3])

def work(i):
    fresh = model.session(256).prefill([1, 2, 3, 4 + i])
    fork = session.fork().prefill([4 + i])
    return int(fresh.argmax()), int(fork.argmax())

if __name__ == "__main__":
    expected = [work(i) for i in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(work, range(4)).get(60) == expected
    assert [work(i) for i in range(4)] == expected
    print("done")
"""


def run(code, *arguments, **changes):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | changes
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, env=environment)  # fmt: skip


def test_a_pool_of_forked_processes_computes(livekv, story):
    done = run(FORKS, story)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


BESIDE = """
import itertools, os, signal, sys, threading
import livekv
path, what = sys.argv[1:]
model = livekv.Model(path, n_threads=1)
expected = int(model.session(64).prefill([1, 2, 3]).argmax())
done, rounds = threading.Event(), itertools.count()

def beside():
    while not done.is_set():
        if what == "loads":
            livekv.Model(path, n_threads=1)
        else:
            model.session(64, n_threads=1 + next(rounds) % 3)  # with an engine of its own, which goes at once

thread = threading.Thread(target=beside)
thread.start()
for i in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        other = livekv.Model(path, n_threads=1) if what == "loads" else model
        os._exit(int(other.session(64, n_threads=1 + i % 3).prefill([1, 2, 3]).argmax()) != expected)
    assert os.waitpid(child, 0)[1] == 0, i
done.set()
thread.join()
print("done")
"""


@pytest.mark.uninstrumented
@pytest.mark.parametrize("what", ["loads", "opens"])
def test_forks_while_another_thread_loads_models_or_opens_sessions(livekv, story, what):
    done = run(BESIDE, story, what)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_threads_by_default_are_those_of_the_affinity(livekv, tools, story):
    one = {min(os.sched_getaffinity(0))}
    command = [str(tools.bin_dir / "livekv-cli"), "--help"]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}

    def default(**kwargs):
        said = subprocess.run(command, capture_output=True, text=True, check=True, **kwargs).stdout
        return next(line for line in said.splitlines() if "--threads" in line)

    assert "default 1)" in default(env=environment, preexec_fn=lambda: os.sched_setaffinity(0, one))
    usual = default(env=environment)
    assert default(env=environment | {"OMP_NUM_THREADS": "999"}) == usual
    assert "default 1)" in default(env=environment | {"OMP_NUM_THREADS": "1"})
    told = run("import livekv, os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(livekv.default_threads())")
    assert told.stdout == "1\n"
    told = run("import livekv; print(livekv.default_threads(), livekv.system_info()['n_threads'])", OMP_NUM_THREADS="1")
    assert told.stdout == "1 1\n"
    assert livekv.default_threads() == livekv.Model(story).n_threads


@pytest.mark.uninstrumented
def test_more_threads_than_memory_allows_are_one_line(tools, story):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    command = [str(tools.bin_dir / "livekv-cli"), "-m", str(story), "-p", "a", "-n", "2", "-t", "400"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1 and "livekv-cli: cannot compute with 400 threads" in done.stderr.splitlines()[-1]


# With 12 or less there is no memory for the program itself, or for what the C++ library sets up before main.
@pytest.mark.uninstrumented
@pytest.mark.parametrize("mib", [14, 16, 17, 18, 19, 20, 21, 22, 24, 26, 28, 29, 30, 31, 32, 64])
def test_whatever_the_memory_a_tool_runs_or_says_one_line(tools, story, mib):
    import resource

    command = [str(tools.bin_dir / "livekv-cli"), "-m", str(story), "-p", "a word", "-n", "2", "-t", "2"]
    done = subprocess.run(command, capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20)))  # fmt: skip
    if done.returncode == 127:
        pytest.skip("the program itself does not fit")
    assert done.returncode in (0, 1), done.stderr
    if done.returncode == 1:
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("livekv-cli: "), done.stderr
