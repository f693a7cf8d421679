"""The clients that hack/bench can start containers with. They run inside the lab."""

import os
import json
import signal
import subprocess
import time
import urllib.parse


class Failed(Exception):
    """A run that must not become a number."""


def call(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not in PATH") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def quietly(*command):
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)


def add_netns(name):
    call("ip", "netns", "add", name)
    call("ip", "-n", name, "link", "set", "lo", "up")


class Ctr:
    """ctr: each container joins a network namespace that was made beforehand."""

    namespace = "default"
    early_probe = True

    def __init__(self, workloads):
        pass

    def close(self):
        pass

    def prepare(self, name, url):
        """Answers where the container will be asked: a network namespace and a URL."""
        add_netns(name)
        return name, url

    def run(self, name, workload, flags):
        call("ctr", "run", "--detach", *flags, "--hostname", name, "--log-uri", f"file:///tmp/{name}.log",
             "--with-ns", f"network:/run/netns/{name}", f"localhost/thaw/{workload}:latest", name)

    def log(self, name):
        return call("tail", "-n", "20", f"/tmp/{name}.log")

    def remove(self, name):
        quietly("ctr", "task", "kill", "--signal", "SIGKILL", name)
        quietly("ctr", "task", "delete", "--force", name)
        quietly("ctr", "container", "delete", name)
        quietly("ip", "netns", "delete", name)


class Publishing:
    """A client that publishes a port of each container in the network namespace `host`."""

    port = 20000
    # Each container gets fresh volumes where its image declares some.
    allow = ["--annotation", "thaw.dev/persistent-mounts=allow"]

    def prepare(self, name, url):
        # A port of its own for each: nothing of the last container may answer in place of the next.
        self.port += 1
        parts = urllib.parse.urlsplit(url)
        self.publish = f"127.0.0.1:{self.port}:{parts.port}"
        return self.host, parts._replace(netloc=f"127.0.0.1:{self.port}").geturl()


class Docker(Publishing):
    """docker: bridge network and a published port, on a dockerd whose network namespace stands for the host."""

    namespace = "moby"
    early_probe = True
    host = "docker-host"
    folder = "/run/docker-bench"

    def __init__(self, workloads):
        os.makedirs(self.folder)
        add_netns(self.host)
        settings = {
            "data-root": "/var/lib/thaw/docker-bench",
            "exec-root": f"{self.folder}/exec",
            "pidfile": f"{self.folder}/pid",
            "hosts": [f"unix://{self.folder}/socket"],
            "containerd": "/run/containerd/containerd.sock",
        }
        with open(f"{self.folder}/daemon.json", "w") as file:
            json.dump(settings, file)
        command = ["nsenter", f"--net=/run/netns/{self.host}", "dockerd", "--config-file", file.name]
        with open(f"{self.folder}/log", "w") as log:
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait()
            for workload in workloads:
                self.load(workload)
        except Failed:
            self.close()
            raise

    def wait(self):
        give_up = time.monotonic() + 60
        while True:
            try:
                return self.docker("version")
            except Failed:
                if time.monotonic() > give_up:
                    raise
            time.sleep(0.1)

    def load(self, workload):
        convert = ["python3", "/src/hack/lib/docker-archive.py", f"/images/{workload}.tar"]
        archive = "/var/lib/thaw/docker-bench.tar"
        with open(archive, "wb") as file:
            subprocess.run(convert, stdout=file, check=True)
        self.docker("load", "--input", archive)
        os.unlink(archive)

    def close(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait()
        quietly("ip", "netns", "delete", self.host)

    def docker(self, *words):
        return call("docker", "--host", f"unix://{self.folder}/socket", *words)

    def run(self, name, workload, flags):
        self.docker("run", "--detach", *self.allow, *flags, "--name", name, "--hostname", name, "--publish", self.publish,
                    f"localhost/thaw/{workload}")

    def log(self, name):
        return self.docker("logs", "--tail", "20", name)

    def remove(self, name):
        try:
            self.docker("rm", "--force", "--volumes", name)
        except Failed:
            pass  # it was never made


class Nerdctl(Publishing):
    """nerdctl: bridge network and a published port, in the network namespace of the lab."""

    namespace = "default"
    host = "nerdctl-host"
    # nerdctl listens on the port itself until the firewall leads it into the container: who asks earlier is never answered.
    early_probe = False

    def __init__(self, workloads):
        call("nerdctl", "version")
        call("ip", "netns", "attach", self.host, "1")

    def close(self):
        quietly("ip", "netns", "delete", self.host)

    def run(self, name, workload, flags):
        call("nerdctl", "run", "--detach", *self.allow, *flags, "--name", name, "--hostname", name, "--publish", self.publish,
             f"localhost/thaw/{workload}:latest")

    def log(self, name):
        return call("nerdctl", "logs", "--tail", "20", name)

    def remove(self, name):
        quietly("nerdctl", "rm", "--force", "--volumes", name)


CLIENTS = {"ctr": Ctr, "docker": Docker, "nerdctl": Nerdctl}
