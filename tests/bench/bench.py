"""Runs the jobs of the benchmark; run.sh says what they are and builds what this needs."""
import argparse
import contextlib
import dataclasses
import hashlib
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# Results, their mean size; requests, the mean size of their image; every so many ids; images, their mean size; files
# of the tree; bytes of a transfer; starts of an empty script in one measurement.
SIZES = {
    "full": dict(results=200000, result=5000, few=50000, requests=50000, request=30000, step=20, images=2000,
                 image=200000, tree=200000, transfer=200000000, starts=50),
    "small": dict(results=20000, result=5000, few=5000, requests=5000, request=30000, step=20, images=200,
                  image=200000, tree=20000, transfer=20000000, starts=20),
    "tiny": dict(results=2000, result=2000, few=500, requests=200, request=3000, step=20, images=40,
                 image=5000, tree=400, transfer=2000000, starts=2),
}

# What the last table calls the jobs.
WORDS = {
    "judge": "judge results", "judge-null": "judge results, to /dev/null", "accept": "judge with `accept()`",
    "index": "index requests, copy 5 %", "images": "images to requests", "walk": "find pictures",
    "upload": "upload a file", "download": "download a file", "sidecars": "results to a file each",
    "loop": "correction loop", "start": "an empty script",
}


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def stop(message):
    say("bench:", message)
    sys.exit(1)


@dataclasses.dataclass
class Program:
    """One way to do a job. argv(out) is its command, for outputs below the folder `out` or, without one, to
    /dev/null; what it prints goes to out/stdout where `prints` says so."""
    name: str
    argv: object
    env: dict = dataclasses.field(default_factory=dict)
    prints: bool = False
    checked: bool = True


@dataclasses.dataclass
class Sample:
    wall: float
    user: float
    system: float
    peak: int       # bytes
    from_disk: int  # bytes

    @property
    def cpu(self):
        return self.user + self.system


class Bench:
    def __init__(self, options):
        self.size = SIZES[options.size]
        self.rounds = options.rounds
        self.work = options.work
        self.bin = os.path.join(options.work, "bin")
        self.data = os.environ.get("BENCH_DATA") or os.path.join(options.work, "data-" + options.size)
        self.obatch_path = os.environ["OBATCH_BINARY"]
        shm = "/dev/shm"
        self.scratch = tempfile.mkdtemp(prefix="obatch-bench-", dir=shm if os.access(shm, os.W_OK) else None)
        self.env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.summary = []

    # ---- data

    def path(self, name):
        """A data file, made when it is not there."""
        path = os.path.join(self.data, name)
        if not os.path.exists(path):
            if "BENCH_DATA" in os.environ:
                stop(f"BENCH_DATA has no {name}")
            os.makedirs(self.data, exist_ok=True)
            say(f"making {path}")
            self.make(name, path + ".part")
            os.rename(path + ".part", path)
        return path

    def bytes_of(self, name):
        """The size of a data file, or of all files in a folder of data."""
        path = self.path(name)
        if not os.path.isdir(path):
            return os.path.getsize(path)
        return sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(path) for name in names)

    def check_room(self, jobs):
        """Whether what the jobs write has room, before any of them takes its time."""
        free = shutil.disk_usage(self.scratch).free
        needs = {name: ROOM[name](self) for name in jobs if name in ROOM}
        lacking = [f"{name} {need / 1e6:,.0f} MB" for name, need in needs.items() if need > free]
        if lacking:
            place, most = os.path.dirname(self.scratch), max(needs.values())
            remedy = f"make it larger (mount -o remount,size={most / 2**30 + 1:.0f}G {place})" \
                if os.path.ismount(place) else "make room there"
            stop(f"{place} has {free / 1e6:,.0f} MB left, and these jobs need more: {', '.join(lacking)}; {remedy}, "
                 "name other jobs, or take a smaller --size")

    def make(self, name, path):
        size = self.size
        arguments = {
            "results.jsonl": ("results", size["results"], size["result"]),
            "results50k.jsonl": ("results", size["few"], size["result"]),
            "requests.jsonl": ("requests", size["requests"], size["request"]),
            "ids.txt": ("ids", size["requests"], size["step"]),
            "images": ("images", size["images"], size["image"]),
            "tree": ("tree", size["tree"]),
        }
        if name == "up.jsonl":
            with open(self.path("requests.jsonl"), "rb") as source, open(path, "wb") as target:
                for _ in range(0, size["transfer"], 1000000):
                    target.write(source.read(1000000))
            return
        if os.path.isdir(path):
            shutil.rmtree(path)  # of a run that was interrupted
        subprocess.run([self.program("data"), *map(str, arguments[name]), path], check=True)

    # ---- programs

    def program(self, name):
        return os.path.join(self.bin, name)

    def python(self, script, *arguments):
        return ["python3", os.path.join(HERE, script + ".py"), *arguments]

    def node(self, script, *arguments):
        return ["node", os.path.join(HERE, script + ".js"), *arguments]

    def obatch(self, script, *arguments):
        return [self.obatch_path, "run", os.path.join(HERE, script + ".lua"), *arguments]

    def threads(self, argv, prefix="obatch"):
        return [Program(f"{prefix}, {count} thread{'s' if count > 1 else ''}", argv, {"OBATCH_THREADS": str(count)})
                for count in (1, 2)]

    def available(self, programs):
        for program in programs:
            command = program.argv(self.scratch)[0]
            if shutil.which(command):
                yield program
            else:
                say(f"{os.path.basename(command)} is not there: left out")

    # ---- measuring

    def run(self, program, out, env, times=1):
        """One run; a Sample. What fails stops the benchmark."""
        report = os.path.join(self.scratch, "sample")
        with contextlib.ExitStack() as stack:
            to = os.path.join(out, "stdout") if program.prints and out else os.devnull
            stdout = stack.enter_context(open(to, "wb"))
            stderr = stack.enter_context(tempfile.TemporaryFile())
            argv = [self.program("measure"), report, str(times), *program.argv(out)]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                                  env={**self.env, **env, **program.env}, check=False)
            stderr.seek(0)
            text = stderr.read().decode(errors="replace")
        if done.returncode != 0:
            stop(f"{program.name}: {text}")
        with open(report, encoding="ascii") as file:
            wall, user, system, peak, from_disk, code = file.read().split()
        if code != "0":
            stop(f"{program.name} ended with {code}: {' '.join(program.argv(out))}\n{text}")
        return Sample(float(wall) / times, float(user) / times, float(system) / times, int(peak) * 1024,
                      int(from_disk))

    @contextlib.contextmanager
    def output(self):
        """A fresh folder for outputs."""
        out = os.path.join(self.scratch, "out")
        os.mkdir(out)
        try:
            yield out
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def compare(self, title, programs, reference, amount, unit, digest=None, null=False, env=None, check_env=None,
                times=1):
        """Checks that all write the same, times them in turn, prints a table. `amount` of `unit` is the work of one
        run; digest(out) is what must be the same."""
        programs = list(self.available(programs))
        if reference not in (program.name for program in programs):
            stop(f"{title}: it cannot do without {reference}")
        agreed = None
        for program in programs:
            with self.output() as out:
                self.run(program, out, check_env or env or {}, times)
                found = digest(out) if digest and program.checked else None
            if found is not None:
                agreed = agreed or (found, program.name)
                if found != agreed[0]:
                    stop(f"{title}: {program.name} and {agreed[1]} do not agree")
        samples = {program.name: [] for program in programs}
        for done in range(self.rounds):
            say(f"{title}: round {done + 1} of {self.rounds}")
            for program in programs:
                with self.output() as out:
                    samples[program.name].append(self.run(program, None if null else out, env or {}, times))
        self.table(title, samples, reference, amount, unit)
        return samples

    def table(self, title, samples, reference, amount, unit):
        print(f"\n### {title}\n\n| program | seconds (all rounds) | CPU seconds | {unit}/s | times {reference} "
              "| peak memory |\n|---|---|---|---|---|---|")
        ratios = {}
        for name, rows in samples.items():
            walls = [row.wall for row in rows]
            wall = statistics.median(walls)
            ratios[name] = statistics.median(base.wall / row.wall for base, row in zip(samples[reference], rows))
            digits = 4 if wall < 0.1 else 3
            print(f"| {name} | {wall:.{digits}f} ({min(walls):.{digits}f} to {max(walls):.{digits}f}) "
                  f"| {statistics.median(row.cpu for row in rows):.{digits}f} | {amount / wall:,.0f} "
                  f"| {ratios[name]:.2f} | {megabytes(rows)} |", flush=True)
        self.summarize(title, samples, ratios, reference, amount, unit)

    # ---- what comes out

    def summarize(self, title, samples, ratios, reference, amount, unit):
        base = amount / statistics.median(row.wall for row in samples[reference])
        others = [f"{name} {figure(ratios[name])}" for name in samples
                  if name not in (reference, "limit") and not name.startswith("obatch")]
        limit = figure(ratios["limit"]) if "limit" in ratios else ""
        ours = [name for name in samples if name.startswith("obatch") and name != reference][-2:]
        self.row(title, f"{reference} ({base:,.0f} {unit}/s)", ", ".join(others), limit,
                 [f"{figure(ratios[name])} x" for name in ours], [row for name in ours for row in samples[name]])

    def row(self, title, reference, others, limit, figures, samples):
        """A row of the last table: one figure for each number of threads."""
        figures = [f"**{text}**" for text in figures] + [""] * (2 - len(figures))
        self.summary.append(f"| {WORDS[title]} | {reference} | {others} | {limit} | {figures[0]} | {figures[1]} "
                            f"| {megabytes(samples)} |")

    def print_summary(self):
        if self.summary:
            print("\n### All jobs\n\n| job | compared with | others | limit | obatch, 1 thread | 2 threads "
                  "| peak memory |\n|---|---|---|---|---|---|---|", *self.summary, sep="\n")

    def print_machine(self):
        def version(*argv):
            try:
                text = subprocess.run(argv, capture_output=True, text=True, check=False)
                return (text.stdout or text.stderr).split("\n")[0].strip()
            except OSError:
                return ""
        cpu = platform.machine()
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    cpu = line.split(":", 1)[1].strip()
                    break
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        facts = [f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GB", f"Linux {platform.release()}",
                 version(self.obatch_path, "--version"), "Python " + platform.python_version()]
        if shutil.which("node"):
            facts.append("Node " + version("node", "--version"))
        if os.path.exists(self.program("simdjson")):
            facts.append("simdjson " + version("pkg-config", "--modversion", "simdjson"))
        facts.append(" ".join(version("curl", "--version").split()[:2]))
        print("\nMeasured " + time.strftime("%Y-%m-%d") + " on " + "; ".join(filter(None, facts)) + ".")


def figure(ratio):
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}"


def megabytes(rows):
    return f"{max(row.peak for row in rows) / 1e6:.1f} MB"


def file_digest(path):
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def folder_digest(top):
    """Of the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            total.update(f"{os.path.relpath(path, top)}\0{os.path.getsize(path)}\0".encode(errors="surrogateescape"))
            with open(path, "rb") as file:
                total.update(file.read())
    return total.hexdigest()


# ---------------------------------------------------------------- the jobs

PAGE = 4096  # what a small file takes at least

# The bytes that one run of a job writes to the folder for outputs, about.
ROOM = {
    "judge": lambda bench: bench.bytes_of("results.jsonl"),
    "judge-null": lambda bench: bench.bytes_of("results.jsonl"),  # when it is checked
    "accept": lambda bench: bench.bytes_of("results.jsonl"),
    "index": lambda bench: bench.bytes_of("requests.jsonl") // bench.size["step"],
    "images": lambda bench: bench.bytes_of("images") * 4 // 3 + bench.size["images"] * 1000,
    "walk": lambda bench: bench.size["tree"] * 200,
    "upload": lambda bench: bench.bytes_of("up.jsonl"),
    "download": lambda bench: bench.bytes_of("up.jsonl"),
    "sidecars": lambda bench: bench.bytes_of("results50k.jsonl") + bench.size["few"] * PAGE,
    "loop": lambda bench: 5 * bench.bytes_of("requests.jsonl"),
}


def judge_programs(bench, results):
    def to(command, *more):
        return lambda out: command(out and out + "/good" or os.devnull, out and out + "/bad" or os.devnull, *more)
    return [
        Program("limit", to(lambda *outs: [bench.program("limit"), "judge", results, *outs]), checked=False),
        Program("simdjson", to(lambda *outs: [bench.program("simdjson"), "judge", results, *outs])),
        Program("Node", to(lambda *outs: bench.node("judge", results, *outs))),
        Program("Python", to(lambda *outs: bench.python("judge", results, *outs))),
        *bench.threads(to(lambda *outs: bench.obatch("judge", results, *outs))),
    ]


def two_files(out):
    return file_digest(out + "/good"), file_digest(out + "/bad")


def judge(bench):
    results = bench.path("results.jsonl")
    bench.compare("judge", judge_programs(bench, results), "Python", os.path.getsize(results) / 1e6, "MB", two_files)


def judge_null(bench):
    results = bench.path("results.jsonl")
    bench.compare("judge-null", judge_programs(bench, results), "Python", os.path.getsize(results) / 1e6, "MB",
                  two_files, null=True)


def accept(bench):
    results = bench.path("results.jsonl")
    policy = os.path.join(HERE, "accept.lua")
    programs = judge_programs(bench, results)[-2:] + bench.threads(
        lambda out: bench.obatch("judge", results, out + "/good", out + "/bad", policy), "obatch with accept()")
    bench.compare("accept", programs, "obatch, 1 thread", os.path.getsize(results) / 1e6, "MB", two_files)


def index(bench):
    requests, ids = bench.path("requests.jsonl"), bench.path("ids.txt")
    bench.compare("index", [
        Program("limit", lambda out: [bench.program("limit"), "index", requests, ids, out + "/out"], checked=False),
        Program("simdjson", lambda out: [bench.program("simdjson"), "index", requests, ids, out + "/out"]),
        Program("Python", lambda out: bench.python("index", requests, ids, out + "/out")),
        *bench.threads(lambda out: bench.obatch("index", requests, ids, out + "/out")),
    ], "Python", os.path.getsize(requests) / 1e6, "MB", folder_digest)


def images(bench):
    folder = bench.path("images")
    bench.compare("images", [
        Program("limit", lambda out: [bench.program("limit"), "images", folder, out + "/part"], checked=False),
        Program("Node", lambda out: bench.node("images", folder, out + "/part")),
        Program("Python", lambda out: bench.python("images", folder, out + "/part")),
        *bench.threads(lambda out: bench.obatch("images", folder, out + "/part")),
    ], "Python", bench.bytes_of("images") / 1e6, "MB", folder_digest)


def walk(bench):
    tree = bench.path("tree")

    def lines(out):
        [name] = os.listdir(out)
        with open(os.path.join(out, name), "rb") as file:
            return sorted(file)
    pictures = ["-type", "f", "(", "-iname", "*.jpg", "-o", "-iname", "*.png", ")"]
    bench.compare("walk", [
        Program("limit", lambda out: [bench.program("limit"), "walk", tree, out + "/out"]),
        Program("find", lambda out: ["find", "-H", tree, *pictures], prints=True),
        Program("Python", lambda out: bench.python("walk", tree, out + "/out")),
        *bench.threads(lambda out: bench.obatch("walk", tree, out + "/out")),
    ], "Python", bench.size["tree"], "files", lines)


def sidecars(bench):
    results = bench.path("results50k.jsonl")
    bench.compare("sidecars", [
        Program("limit", lambda out: [bench.program("limit"), "sidecars", results, out], checked=False),
        Program("Node", lambda out: bench.node("sidecars", results, out)),
        Program("Python", lambda out: bench.python("sidecars", results, out)),
        *bench.threads(lambda out: bench.obatch("sidecars", results, out)),
    ], "Python", os.path.getsize(results) / 1e6, "MB", folder_digest)


@contextlib.contextmanager
def server(bench, *argv):
    """A server that prints where it listens: the words of its first line."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=bench.env, text=True)
    try:
        yield process.stdout.readline().split()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def transfer(bench, what, programs, digest):
    file, kept = bench.path("up.jsonl"), os.path.join(bench.scratch, "kept")
    with server(bench, bench.program("server"), file, kept) as [port]:
        def env(base):
            return {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}{base}/v1", "OPENAI_API_KEY": "none"}
        bench.compare(what, programs(file, port), "Python", os.path.getsize(file) / 1e6, "MB", digest(file, kept),
                      env=env(""), check_env=env("/keep"))


def upload(bench):
    def programs(file, port):
        limit = Program("limit", lambda out: [bench.program("limit"), "upload", port, file], checked=False)
        curl = ["curl", "-sf", "-F", "purpose=batch", "-F", f"file=@{file};type=application/jsonl"]
        shell = ["sh", "-c", 'exec "$@" "$OPENAI_BASE_URL/files"', "sh"]
        return [limit, Program("curl", lambda out: [*shell, *curl]),
                Program("Python", lambda out: bench.python("transfer", "upload", file)),
                *bench.threads(lambda out: bench.obatch("transfer", "upload", file))]

    def digest(file, kept):
        def of_form(_):
            with open(kept, "rb") as sent, open(file, "rb") as whole:
                form, expected = sent.read(), whole.read()
            os.remove(kept)
            start = form.index(b"\r\n\r\n", form.index(b"filename=")) + 4
            if not form.startswith(expected, start) or not form.startswith(b"\r\n--", start + len(expected)):
                stop("upload: what came is not the file")
            return True
        return of_form
    transfer(bench, "upload", programs, digest)


def download(bench):
    def programs(_, port):
        url = f"http://127.0.0.1:{port}/v1/files/file-1/content"
        return [Program("limit", lambda out: [bench.program("limit"), "download", port, out + "/out"]),
                Program("curl", lambda out: ["curl", "-sf", "-o", out + "/out", url]),
                Program("Python", lambda out: bench.python("transfer", "download", out + "/out")),
                *bench.threads(lambda out: bench.obatch("transfer", "download", out + "/out"))]

    def digest(file, _):
        expected = file_digest(file)

        def of_copy(out):
            if file_digest(out + "/out") != expected:
                stop("download: what came is not the file")
            return True
        return of_copy
    transfer(bench, "download", programs, digest)


def loop(bench):
    """The client's own CPU time and memory: all else is the sandbox's doing."""
    requests = bench.path("requests.jsonl")
    with open(requests, "rb") as file:
        count = sum(1 for _ in file)
    samples = {}
    for done in range(min(bench.rounds, 3)):
        say(f"loop: round {done + 1} of {min(bench.rounds, 3)}")
        for program in bench.threads(lambda out: [
                bench.obatch_path, "correction_loop", "--base-dir", out + "/job", "--original-requests", requests,
                "--poll-wait", "1", "--quiet"]):
            with bench.output() as out, server(
                    bench, bench.obatch_path, "sandbox", "--port", "0", "--dir", out + "/sandbox", "--model",
                    os.path.join(HERE, "model.lua"), "--batch-seconds", "0") as words:
                env = {"OPENAI_BASE_URL": words[-1] + "/v1", "OPENAI_API_KEY": "none"}
                samples.setdefault(program.name, []).append(bench.run(program, out, env))
                with open(out + "/job/final_results.jsonl", "rb") as file:
                    answered = sum(1 for _ in file)
                if answered != count or os.path.exists(out + "/job/iteration_3"):
                    stop(f"loop: {answered} of {count} requests were answered, or not in two iterations")
    print("\n### loop\n\n| program | CPU seconds of the client (all rounds) | user, system | peak memory |\n"
          "|---|---|---|---|")
    for name, rows in samples.items():
        cpu = [row.cpu for row in rows]
        user, system = (statistics.median(getattr(row, field) for row in rows) for field in ("user", "system"))
        print(f"| {name} | {statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}) | {user:.2f}, {system:.2f} "
              f"| {megabytes(rows)} |", flush=True)
    bench.row("loop", "CPU time of the client", "", "",
              [f"{statistics.median(row.cpu for row in rows):.1f} s" for rows in samples.values()],
              [row for rows in samples.values() for row in rows])


def start(bench):
    script = os.path.join(HERE, "empty.lua")
    bench.compare("start", [
        Program("lua5.4", lambda out: ["lua5.4", script]),
        Program("Python", lambda out: ["python3", "-c", ""]),
        Program("obatch", lambda out: [bench.obatch_path, "run", script]),
    ], "lua5.4", 1, "starts", times=bench.size["starts"])


JOBS = {"judge": judge, "judge-null": judge_null, "accept": accept, "index": index, "images": images, "walk": walk,
        "upload": upload, "download": download, "sidecars": sidecars, "loop": loop, "start": start}


def repeat(path, copies):
    """Makes a file as many times as long."""
    length = os.path.getsize(path)
    with open(path, "rb") as source, open(path, "ab") as target:
        for _ in range(copies - 1):
            source.seek(0)
            for left in range(length, 0, -(1 << 20)):
                target.write(source.read(min(left, 1 << 20)))


def growth(bench, sizes):
    """Jobs judge and index, one after the other with more and more data. The files are removed at the end."""
    folder = os.path.join(bench.work, "growth")
    os.makedirs(folder, exist_ok=True)
    try:
        need, free = (max(sizes) * 1.1 + 1) * 1e9, shutil.disk_usage(folder).free
        say(f"growth: {folder} has room for {free / 1e9:.0f} GB, {need / 1e9:.0f} GB are needed")
        if free < need:
            stop("growth: that is too little")
        print("\n### growth\n\n| job | GB | lines | threads | seconds | MB/s | peak memory | from the disk |\n"
              "|---|---|---|---|---|---|---|---|")
        for job, kind, mean, line in ("judge", "results", 5000, 4550), ("index", "requests", 30000, 30480):
            for size in sizes:
                data, ids = os.path.join(folder, kind), os.path.join(folder, "ids")
                # Ids of requests are to differ; results are made once and repeated, which takes a tenth of the time.
                once = int((min(size, 1) if kind == "results" else size) * 1e9 / line)
                copies = round(size * 1e9 / line / once)
                count = once * copies
                subprocess.run([bench.program("data"), kind, str(once), str(mean), data], check=True)
                repeat(data, copies)
                subprocess.run([bench.program("data"), "ids", str(count), "1000", ids], check=True)
                argv = {"judge": lambda out: bench.obatch("judge", data, os.devnull, os.devnull),
                        "index": lambda out: bench.obatch("index", data, ids, out + "/out")}[job]
                for program in bench.threads(argv):
                    with bench.output() as out:
                        row = bench.run(program, out, {})
                    total = os.path.getsize(data)
                    print(f"| {job} | {total / 1e9:.1f} | {count:,} | {program.env['OBATCH_THREADS']} | {row.wall:.1f} "
                          f"| {total / 1e6 / row.wall:,.0f} | {megabytes([row])} "
                          f"| {min(1, row.from_disk / total):.0%} |", flush=True)
                os.remove(data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def gigabytes(text):
    return [float(size) for size in text.split(",")]


def main():
    parser = argparse.ArgumentParser(prog="run.sh", description=f"Jobs: {', '.join(JOBS)}; growth. run.sh says more.")
    parser.add_argument("--work", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one that is not (5)")
    parser.add_argument("--gigabytes", type=gigabytes, default="1,4,16", help="the sizes of growth (1,4,16)")
    parser.add_argument("jobs", nargs="*", metavar="JOB")
    options = parser.parse_args()
    unknown = [name for name in options.jobs if name != "growth" and name not in JOBS]
    if unknown or options.rounds < 1:
        parser.error(f"there is no job '{unknown[0]}'" if unknown else "--rounds must be 1 or more")
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    bench = Bench(options)
    try:
        bench.check_room(options.jobs or JOBS)
        bench.print_machine()
        for name in options.jobs or JOBS:
            if name == "growth":
                growth(bench, options.gigabytes)
            else:
                JOBS[name](bench)
        bench.print_summary()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)


main()
