"""A usual day of the Python client. For every line of standard input: the day, as one line of JSON: pairs of a step and its outcome."""

import io
import json
import os
import sys
import tarfile
import tempfile

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.discovery import EagerDiscoverer
from kubernetes.dynamic.resource import ResourceList
from kubernetes.stream import portforward, stream

api = config.new_client_from_config(config_file=sys.argv[1])
core = client.CoreV1Api(api)
SPACE = "default"
# Seconds that no step takes.
LIMIT = 60


def plain(value):
    """As JSON has it."""
    if hasattr(value, "to_dict") and not hasattr(value, "openapi_types"):
        value = value.to_dict()
    return api.sanitize_for_serialization(value)


def config_map(value):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": value}}


def policy(name):
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": []},
    }


def claim(name):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {"devices": {"requests": []}},
    }


def discovered():
    # The client keeps what it found in a file, which would hide what it sees now.
    with tempfile.TemporaryDirectory() as folder:
        return DynamicClient(api, os.path.join(folder, "cache"), EagerDiscoverer)


def resources():
    found = discovered().resources.search()
    return sorted(
        [one.group_version, one.name, one.kind, one.namespaced, sorted(one.verbs)]
        for one in found
        if not isinstance(one, ResourceList)
    )


def watched(source, wanted, *args, **kwargs):
    """The first events of a watch."""
    events = []
    watcher = watch.Watch()
    for event in watcher.stream(source, *args, timeout_seconds=LIMIT, **kwargs):
        events.append([event["type"], event["raw_object"]])
        if len(events) == wanted:
            watcher.stop()
            break
    return events


def followed(lines):
    answer = core.read_namespaced_pod_log("p", SPACE, follow=True, _preload_content=False)
    found = [line.decode() for line, _ in zip(answer, range(lines))]
    answer.close()
    return found


def run(command, stdin=None, binary=False):
    """What a command in the pod writes, and how it ends."""
    process = stream(
        core.connect_get_namespaced_pod_exec,
        "p",
        SPACE,
        command=command,
        stdin=stdin is not None,
        stdout=True,
        stderr=True,
        tty=False,
        binary=binary,
        _preload_content=False,
    )
    if stdin is not None:
        process.write_stdin(stdin)
        process.close_channel(0)
    process.run_forever(timeout=LIMIT)
    result = [process.subprotocol, process.read_stdout(), process.read_stderr(), process.read_channel(3)]
    process.close()
    return result


def texts(result):
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in result]


def copied():
    content = bytes(range(256)) * 1000
    there = io.BytesIO()
    with tarfile.open(fileobj=there, mode="w") as archive:
        entry = tarfile.TarInfo("copied")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    to = run(["tar", "xf", "-", "-C", "/tmp"], there.getvalue(), binary=True)
    protocol, archive, *rest = run(["tar", "cf", "-", "/tmp/copied"], binary=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as back:
        same = back.extractfile("tmp/copied").read() == content
    return [texts(to), protocol, same, texts(rest)]


def forwarded(port, text):
    """What a port sends back. Without a text: what is said of it."""
    forward = portforward(core.connect_get_namespaced_pod_portforward, "p", SPACE, ports=str(port))
    socket = forward.socket(port)
    socket.settimeout(LIMIT)
    socket.sendall(text)
    answer = b""
    while not text or len(answer) < len(text):
        more = socket.recv(65536)
        if not more:
            break
        answer += more
    socket.close()
    return [answer.decode(), forward.error(port)]


def schema(path):
    answer = api.call_api("GET", api.configuration.host + "/openapi/v3" + path, {"Accept": "application/json"})
    return json.loads(answer.read())


def dynamic(body, patch):
    """Steps of a type that the client knows from discovery alone."""
    kind, name = body["kind"], body["metadata"]["name"]
    space = body["metadata"].get("namespace")

    def of(work):
        def step():
            resource = discovered().resources.get(api_version=body["apiVersion"], kind=kind)
            return work(resource)

        return step

    return [
        (f"create {kind}", of(lambda r: r.create(body=body, namespace=space))),
        (f"create {kind} again", of(lambda r: r.create(body=body, namespace=space))),
        (f"get {kind}", of(lambda r: r.get(name=name, namespace=space))),
        (f"list {kind}", of(lambda r: r.get(namespace=space))),
        (f"apply {kind}", of(lambda r: r.server_side_apply(body=body, namespace=space, field_manager="day", force_conflicts=True))),
        (f"patch {kind}", of(lambda r: r.patch(body=patch, name=name, namespace=space, content_type="application/merge-patch+json"))),
        (f"select {kind}", of(lambda r: r.get(namespace=space, label_selector="a=b"))),
        (f"watch {kind}", of(lambda r: watched(r.get, 1, namespace=space, serialize=False))),
        (f"delete {kind}", of(lambda r: r.delete(name=name, namespace=space))),
        (f"get {kind} that is gone", of(lambda r: r.get(name=name, namespace=space))),
    ]


LABEL = {"metadata": {"labels": {"a": "b"}}}
STEPS = [
    ("groups", lambda: client.ApisApi(api).get_api_versions()),
    ("api-resources", resources),
    ("create", lambda: core.create_namespaced_config_map(SPACE, config_map("one"))),
    ("create again", lambda: core.create_namespaced_config_map(SPACE, config_map("one"))),
    ("get", lambda: core.read_namespaced_config_map("m", SPACE)),
    ("list", lambda: core.list_namespaced_config_map(SPACE)),
    ("list in pages", lambda: core.list_namespaced_config_map(SPACE, limit=1)),
    ("patch", lambda: core.patch_namespaced_config_map("m", SPACE, LABEL)),
    ("replace", lambda: core.replace_namespaced_config_map("m", SPACE, config_map("two"))),
    ("watch", lambda: watched(core.list_namespaced_config_map, 1, SPACE, field_selector="metadata.name=m")),
    ("delete", lambda: core.delete_namespaced_config_map("m", SPACE)),
    ("get what is gone", lambda: core.read_namespaced_config_map("m", SPACE)),
    *dynamic(policy("o"), LABEL),
    *dynamic(claim("r"), LABEL),
    ("logs", lambda: core.read_namespaced_pod_log("p", SPACE, tail_lines=2)),
    ("logs of another container", lambda: core.read_namespaced_pod_log("p", SPACE, container="other")),
    ("follow logs", lambda: followed(5)),
    ("exec", lambda: run(["sh", "-c", "echo out; echo err >&2; exit 3"])),
    ("exec with input", lambda: run(["cat"], "said " * 10000)),
    ("exec of nothing", lambda: run(["nano"])),
    ("cp", copied),
    ("port-forward", lambda: forwarded(80, b"hello " * 10000)),
    ("port-forward to nothing", lambda: forwarded(81, b"")),
    ("explain policies", lambda: schema("/apis/admissionregistration.k8s.io/v1")),
    ("explain claims", lambda: schema("/apis/resource.k8s.io/v1")),
]

for _ in sys.stdin:
    day = []
    for name, step in STEPS:
        try:
            outcome = plain(step())
        except ApiException as error:
            try:
                body = json.loads(error.body)
            except (TypeError, ValueError):
                body = error.body
            outcome = {"refused": error.status, "reason": error.reason, "body": body}
        except Exception as error:
            outcome = {"failed": type(error).__name__, "said": str(error)}
        day.append([name, outcome])
    print(json.dumps(day), flush=True)
