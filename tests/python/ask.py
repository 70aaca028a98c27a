"""For every line of standard input, GET or POST with a name: a request for config maps, and its outcome as one line."""

import sys

from kubernetes import client, config

core = client.CoreV1Api(config.new_client_from_config(config_file=sys.argv[1]))
for line in sys.stdin:
    words = line.split()
    try:
        if words[0] == "GET":
            core.list_namespaced_config_map("default")
        else:
            core.create_namespaced_config_map("default", {"metadata": {"name": words[1]}})
        print("answered", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
