"""Helm's own library (its Go SDK, packed for Python) on a chart: render.py CHART

For every line of standard input, a JSON object, one line of JSON:
{"render": VALUES, "namespace": NAME} -> {"files": {TEMPLATE: TEXT}}, once the values have passed the chart's schema
{"lint": VALUES} -> {"messages": [TEXT]}
{"plain": null} -> {"files": {FILE: TEXT}}: the manifests of deploy/ for those who have no Helm, as plain.json says
Whatever Helm refuses is {"error": TEXT}.
"""

import json
import os
import sys

import helm_python as helm

folder = sys.argv[1]
HEADER = "# Made from deploy/chart by `cargo xtask manifests`: change it there.\n"


def render(values, namespace):
    with helm.Chart.load(folder) as chart:
        chart.validate_schema(chart.merge_values(values))
        files = chart.render(values, name="mvp", namespace=namespace)
    return {path.split("/templates/")[-1]: text for path, text in files.items()}


def plain():
    with open(os.path.join(os.path.dirname(__file__), "plain.json")) as file:
        wanted = json.load(file)
    files = {}
    for one in wanted:
        text = render(one["values"], "kube-system")[one["template"]]
        lines = [line.rstrip() for line in text.strip().splitlines()]
        files[one["file"]] = HEADER + "\n".join(lines) + "\n"
    with open(os.path.join(folder, "files/dashboard.json")) as file:
        files["dashboard.json"] = file.read()
    return files


for line in sys.stdin:
    asked = json.loads(line)
    try:
        if "lint" in asked:
            found = helm.lint(folder, asked["lint"], strict=True, namespace="kube-system")
            answer = {"messages": [message["error"] for message in found["messages"]] + found["errors"]}
        elif "plain" in asked:
            answer = {"files": plain()}
        else:
            answer = {"files": render(asked["render"], asked["namespace"])}
    except helm.HelmError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
