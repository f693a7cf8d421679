"""The part of hack/bench that runs inside the lab. See hack/bench --help."""

import argparse
import ctypes
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse

from lib.clients import CLIENTS, Failed, call

CONNECT_TIMEOUT = 0.02  # a SYN that is dropped is retried by the kernel only after a second
POLL = 0.001
DEADLINE = 120  # seconds; more than the slowest application needs on a busy machine
CLONE_NEWNET = 0x40000000
STOCK, THAW = "io.containerd.runc.v2", "io.containerd.thaw.v1"
NEVER = ["--annotation", "thaw.dev/snapshot-policy=Never"]
MODES = {"cold-stock": (STOCK, []), "cold-thaw": (THAW, NEVER), "thawed-warm": (THAW, [])}


def enter_netns(name):
    with open(f"/run/netns/{name}") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def first_answer(url):
    """Polls until a 200 was read; returns the monotonic time of that."""
    request = f"GET {url.path or '/'} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode()
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        try:
            with socket.create_connection((url.hostname, url.port), timeout=CONNECT_TIMEOUT) as client:
                client.settimeout(DEADLINE)
                client.sendall(request)
                status = client.recv(4096)
            if re.match(rb"HTTP/1\.[01] 200 ", status):
                return time.monotonic()
        except OSError:
            pass
        time.sleep(POLL)
    return None


class Probe:
    """A child inside the container's network namespace; it polls from before the container is created."""

    def __init__(self, netns, url):
        self.read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.read)
            enter_netns(netns)
            answered = first_answer(urllib.parse.urlsplit(url))
            os.write(write, str(answered or "").encode())
            os._exit(0)
        os.close(write)

    def wait(self):
        with os.fdopen(self.read) as pipe:
            answered = pipe.read()
        os.waitpid(self.pid, 0)
        if not answered:
            raise Failed(f"no answer within {DEADLINE} s")
        return float(answered)

    def stop(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.read)


class Container:
    """A container of one client; gone at the end of the `with` block."""

    def __init__(self, client, name, workload, mode):
        self.client, self.name, self.workload = client, name, workload
        runtime, extra = MODES[mode]
        self.flags = ["--runtime", runtime, *extra]

    def __enter__(self):
        with open(f"/images/{self.workload}.json") as file:
            self.netns, self.url = self.client.prepare(self.name, json.load(file)["ready"])
        return self

    def start(self):
        """Returns milliseconds from the create call to the first 200."""
        probe = Probe(self.netns, self.url) if self.client.early_probe else None
        time.sleep(0.05)  # the probe is up before the clock starts
        begin = time.monotonic()
        try:
            self.client.run(self.name, self.workload, self.flags)
        except Failed:
            if probe:
                probe.stop()
            raise
        probe = probe or Probe(self.netns, self.url)
        try:
            return (probe.wait() - begin) * 1000
        except Failed as failure:
            raise Failed(f"{failure}; the end of its log:\n{self.client.log(self.name)}") from None

    def outcome(self):
        return json.loads(call("thaw", "explain", "-n", self.client.namespace, "-o", "json", self.name))

    def __exit__(self, *_):
        self.client.remove(self.name)


def say(text):
    print(text, file=sys.stderr, flush=True)


def capture(client, workload):
    """Makes the snapshot that thawed-warm starts from, and brings it into the node's cache."""
    with Container(client, f"{workload}-donor", workload, "cold-thaw") as donor:
        donor.start()
        begin = time.monotonic()
        call("thaw", "capture", "-n", client.namespace, donor.name)
        say(f"  {workload:10} captured in {time.monotonic() - begin:.1f} s")
    with Container(client, f"{workload}-warmup", workload, "thawed-warm") as clone:
        clone.start()
        expect_restored(clone.outcome())


def expect_restored(outcome):
    if outcome["result"].lower() != "restored":
        raise Failed(f"not restored: {outcome['result']}, {outcome.get('reason')}: {outcome.get('detail')}")


def measure(client, workload, mode, number):
    with Container(client, f"{workload}-{mode}-{number}", workload, mode) as container:
        ms = container.start()
        outcome = container.outcome() if mode != "cold-stock" else {}
        if mode == "thawed-warm":
            expect_restored(outcome)
    return ms, outcome


def row(workload, mode, cpus, results):
    times = [ms for ms, _ in results]
    stages = {}
    for _, outcome in results:
        for stage in outcome.get("stages", []):
            stages.setdefault(stage["name"], []).append(stage["ms"])
    return {
        "workload": workload,
        "mode": mode,
        "cpus": cpus,
        "runs": len(times),
        "first_answer_ms": {
            "min": round(min(times), 1),
            "median": round(statistics.median(times), 1),
            "max": round(max(times), 1),
        },
        "stages_ms": {name: round(statistics.median(values), 1) for name, values in stages.items()},
        "bytes": results[-1][1].get("bytes", {}),
    }


def versions():
    def first(pattern, *command):
        try:
            found = re.search(pattern, call(*command))
        except (Failed, FileNotFoundError):
            return None
        return found.group(1) if found else None

    return {
        "kernel": os.uname().release,
        "containerd": first(r"\b(\d+\.\d+\.\d+)", "containerd", "--version"),
        "runc": first(r"version (\S+)", "runc", "--version"),
        "criu": first(r"Version: (\S+)", "criu", "--version"),
        "thaw": first(r"(\d+\.\d+\.\d+\S*)", "thaw", "--version"),
    }


def medians(rows, mode):
    return {row["workload"]: row["first_answer_ms"]["median"] for row in rows if row["mode"] == mode}


def too_slow(rows, at_least):
    """A line for each workload that is not thawed so many times sooner than it starts cold."""
    cold, thawed = medians(rows, "cold-stock"), medians(rows, "thawed-warm")
    ratios = {workload: cold[workload] / thawed[workload] for workload in cold}
    return [
        f"{workload}: {ratio:.2f} times sooner, but {at_least:g} were asked for"
        for workload, ratio in ratios.items()
        if ratio < at_least
    ]


def table(rows):
    cold = medians(rows, "cold-stock")
    lines = [f"{'workload':10} {'mode':12} {'cpus':>4} {'runs':>4} {'min ms':>9} {'median ms':>9} {'max ms':>9} {'vs cold':>8}"]
    for row in rows:
        times = row["first_answer_ms"]
        ratio = f"{cold[row['workload']] / times['median']:.1f}x" if row["workload"] in cold else ""
        lines.append(
            f"{row['workload']:10} {row['mode']:12} {row['cpus']:4} {row['runs']:4} "
            f"{times['min']:9.1f} {times['median']:9.1f} {times['max']:9.1f} {ratio:>8}"
        )
    return "\n".join(lines)


def bench(client, workload, modes, runs, cpus):
    results = {mode: [] for mode in modes}
    if "thawed-warm" in modes:
        capture(client, workload)
    for number in range(runs):
        for mode in modes:
            ms, outcome = measure(client, workload, mode, number)
            results[mode].append((ms, outcome))
            say(f"  {workload:10} {mode:12} {number + 1}/{runs} {ms:9.1f} ms")
    return [row(workload, mode, cpus, results[mode]) for mode in modes]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", required=True)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--client", choices=CLIENTS, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--at-least", type=float)
    args = parser.parse_args()
    modes = args.mode.split(",")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or args.runs < 1:
        sys.exit(f"error: unknown mode {unknown}" if unknown else "error: --runs must be 1 or more")
    if args.at_least is not None and not {"cold-stock", "thawed-warm"} <= set(modes):
        sys.exit("error: --at-least compares cold-stock with thawed-warm: --mode has to name both")
    cpus = len(os.sched_getaffinity(0))
    rows, workloads = [], args.workload.split(",")
    try:
        client = CLIENTS[args.client](workloads)
    except Failed as failure:
        sys.exit(f"error: {args.client}: {failure}")
    try:
        for workload in workloads:
            rows += bench(client, workload, modes, args.runs, cpus)
    except Failed as failure:
        sys.exit(f"error: {workload}: {failure}")
    finally:
        client.close()
    with open(args.json, "w") as file:
        json.dump({"client": args.client, "versions": versions(), "rows": rows}, file, indent=2)
        file.write("\n")
    print(table(rows))
    if args.at_least is not None:
        slow = too_slow(rows, args.at_least)
        if slow:
            sys.exit("\n".join(f"error: {line}" for line in slow))


if __name__ == "__main__":
    main()
