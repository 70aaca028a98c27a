"""For every line of standard input: a whole dynamic discovery, as one line of JSON."""

import json
import os
import sys
import tempfile

from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.discovery import EagerDiscoverer
from kubernetes.dynamic.resource import ResourceList

client = config.new_client_from_config(config_file=sys.argv[1])
for _ in sys.stdin:
    # The client keeps what it found in a file, which would hide what it sees now.
    with tempfile.TemporaryDirectory() as folder:
        found = DynamicClient(client, os.path.join(folder, "cache"), EagerDiscoverer)
        resources = [one for one in found.resources.search() if not isinstance(one, ResourceList)]
        names = sorted({f"{one.group_version} {one.name}" for one in resources})
        print(json.dumps(names), flush=True)
