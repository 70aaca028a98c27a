// A usual day of the JavaScript client. For every line of standard input: the day, as one line of JSON: pairs of a step and its outcome.

import { mkdtemp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { PassThrough, Readable, Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";

// Where make-client.sh has put it.
const folder = fileURLToPath(new URL("../../target/javascript-client/package.json", import.meta.url));
const k8s = await import(pathToFileURL(createRequire(folder).resolve("@kubernetes/client-node")));

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const namespace = "default";

/** Collects what is written to it. */
class Sink extends Writable {
  bytes = Buffer.alloc(0);
  _write(chunk, _encoding, done) {
    this.bytes = Buffer.concat([this.bytes, chunk]);
    this.emit("grown");
    done();
  }
  text() {
    return this.bytes.toString();
  }
  /** Waits until there is enough. */
  async until(enough) {
    while (!enough(this.bytes)) {
      await new Promise((resolve) => this.once("grown", resolve));
    }
  }
}

const map = (value) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "m", namespace }, data: { k: value } });
const policy = {
  apiVersion: "admissionregistration.k8s.io/v1",
  kind: "MutatingAdmissionPolicy",
  metadata: { name: "o" },
  spec: { reinvocationPolicy: "Never", failurePolicy: "Fail", mutations: [] },
};
const claim = {
  apiVersion: "resource.k8s.io/v1",
  kind: "ResourceClaim",
  metadata: { name: "r", namespace },
  spec: { devices: { requests: [] } },
};
const label = { metadata: { labels: { a: "b" } } };

/** The first events of a watch. */
async function watched(path, query, wanted) {
  const events = [];
  let controller;
  await new Promise((resolve, reject) => {
    const seen = (type, object) => {
      events.push([type, object]);
      if (events.length === wanted) resolve();
    };
    const ended = (error) => (events.length < wanted ? reject(error ?? new Error("ended")) : resolve());
    new k8s.Watch(config).watch(path, query, seen, ended).then((made) => (controller = made), reject);
  });
  controller?.abort();
  return events;
}

async function logs(container, options, enough) {
  const sink = new Sink();
  const finished = new Promise((resolve) => sink.once("finish", resolve));
  // It is not aborted: the client has nobody who would hear of that.
  await new k8s.Log(config).log(namespace, "p", container, sink, options);
  await (enough ? sink.until(enough) : finished);
  return enough ? sink.text().split("\n").slice(0, 5) : sink.text();
}

/** What a command in the pod writes, and how it ends. */
async function run(command, input) {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const stdin = input === undefined ? null : Readable.from([Buffer.from(input)]);
  let ended;
  const status = new Promise((resolve) => (ended = resolve));
  const exec = new k8s.Exec(config);
  const socket = await exec.exec(namespace, "p", "c", command, stdout, stderr, stdin, false, ended);
  const how = await status;
  return [socket.protocol, stdout.text(), stderr.text(), how];
}

/** Cp says nothing of the end of its work, so that a command tells that the file is there. */
async function copied() {
  const content = Buffer.from(Array.from({ length: 256_000 }, (_, at) => at % 256));
  const here = await mkdtemp(join(tmpdir(), "day-"));
  try {
    await mkdir(join(here, "to"));
    await writeFile(join(here, "to", "copied"), content);
    const cp = new k8s.Cp(config);
    await cp.cpToPod(namespace, "p", "c", join(here, "to"), "/tmp");
    const there = await until(() => run(["sh", "-c", "test -d /tmp; cat /tmp/copied"]), ([, out]) => out.length > 0);
    await cp.cpFromPod(namespace, "p", "c", "copied", join(here, "from"), "/tmp");
    const back = await until(
      () => readFile(join(here, "from", "copied")).catch(() => Buffer.alloc(0)),
      (bytes) => bytes.length >= content.length,
    );
    return [there[3], back.equals(content), await readdir(join(here, "from"))];
  } finally {
    await rm(here, { recursive: true });
  }
}

async function until(look, enough) {
  for (;;) {
    const seen = await look();
    if (enough(seen)) return seen;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function forwarded(port, text) {
  const [output, errors, input] = [new Sink(), new Sink(), new PassThrough()];
  const socket = await new k8s.PortForward(config).portForward(namespace, "p", [port], output, errors, input);
  input.write(text);
  await Promise.race([
    output.until((bytes) => bytes.length >= text.length),
    errors.until((bytes) => bytes.length > 0),
  ]);
  socket.close();
  return [output.text(), errors.text()];
}

/** An answer that no class of the client stands for. */
async function raw(path) {
  const { fetch } = createRequire(folder)("undici");
  const context = new k8s.RequestContext(config.getCurrentCluster().server + path, "GET");
  await config.applySecurityAuthentication(context);
  const answer = await fetch(context.getUrl(), { headers: context.getHeaders(), dispatcher: context.getDispatcher() });
  return [answer.status, await answer.json()];
}

/** Everything that discovery finds, as the client's users walk through it. */
async function resources() {
  const groups = (await config.makeApiClient(k8s.ApisApi).getAPIVersions()).groups;
  const versions = groups.flatMap((group) => group.versions.map((version) => `/apis/${version.groupVersion}`));
  const lists = await Promise.all(["/api/v1", ...versions].map(async (path) => [path, await raw(path)]));
  return [groups, lists];
}

/** Steps of a type of which the client knows what discovery says. */
function dynamic(object, plural) {
  const { apiVersion, kind } = object;
  const space = object.metadata.namespace;
  const path = space ? `/apis/${apiVersion}/namespaces/${space}/${plural}` : `/apis/${apiVersion}/${plural}`;
  const { ServerSideApply, MergePatch } = k8s.PatchStrategy;
  const patched = { ...object, metadata: { ...object.metadata, ...label.metadata } };
  return [
    [`create ${kind}`, () => objects.create(object)],
    [`create ${kind} again`, () => objects.create(object)],
    [`get ${kind}`, () => objects.read(object)],
    [`list ${kind}`, () => objects.list(apiVersion, kind, space)],
    [`apply ${kind}`, () => objects.patch(object, undefined, undefined, "day", true, ServerSideApply)],
    [`patch ${kind}`, () => objects.patch(patched, undefined, undefined, undefined, undefined, MergePatch)],
    [`select ${kind}`, () => objects.list(apiVersion, kind, space, undefined, undefined, undefined, undefined, "a=b")],
    [`watch ${kind}`, () => watched(path, {}, 1)],
    [`delete ${kind}`, () => objects.delete(object)],
    [`get ${kind} that is gone`, () => objects.read(object)],
  ];
}

const strategic = k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.StrategicMergePatch);
const steps = [
  ["api-resources", resources],
  ["create", () => core.createNamespacedConfigMap({ namespace, body: map("one") })],
  ["create again", () => core.createNamespacedConfigMap({ namespace, body: map("one") })],
  ["get", () => core.readNamespacedConfigMap({ namespace, name: "m" })],
  ["list", () => core.listNamespacedConfigMap({ namespace })],
  ["list in pages", () => core.listNamespacedConfigMap({ namespace, limit: 1 })],
  ["patch", () => core.patchNamespacedConfigMap({ namespace, name: "m", body: label }, strategic)],
  ["replace", () => core.replaceNamespacedConfigMap({ namespace, name: "m", body: map("two") })],
  ["watch", () => watched(`/api/v1/namespaces/${namespace}/configmaps`, { fieldSelector: "metadata.name=m" }, 1)],
  ["delete", () => core.deleteNamespacedConfigMap({ namespace, name: "m" })],
  ["get what is gone", () => core.readNamespacedConfigMap({ namespace, name: "m" })],
  ...dynamic(policy, "mutatingadmissionpolicies"),
  ...dynamic(claim, "resourceclaims"),
  ["logs", () => logs("c", { tailLines: 2 })],
  ["logs of another container", () => logs("other", {})],
  ["follow logs", () => logs("c", { follow: true }, (bytes) => bytes.filter((byte) => byte === 10).length >= 5)],
  ["exec", () => run(["sh", "-c", "echo out; echo err >&2; exit 3"])],
  ["exec with input", () => run(["cat"], "said ".repeat(10_000))],
  ["exec of nothing", () => run(["nano"])],
  ["cp", copied],
  ["port-forward", () => forwarded(80, "hello ".repeat(10_000))],
  ["port-forward to nothing", () => forwarded(81, "hello")],
  ["explain policies", () => raw("/openapi/v3/apis/admissionregistration.k8s.io/v1")],
  ["explain claims", () => raw("/openapi/v3/apis/resource.k8s.io/v1")],
];

for await (const _ of createInterface(process.stdin)) {
  const day = [];
  for (const [name, step] of steps) {
    let outcome;
    try {
      outcome = (await step()) ?? null;
    } catch (error) {
      let body = error.body;
      try {
        body = JSON.parse(body);
      } catch {
        // It is no JSON, or an object already.
      }
      // The message of an answer has all its fields in it, which are compared one by one.
      const said = error.message.split("\nHeaders:")[0];
      outcome = { failed: error.constructor.name, code: error.code ?? error.statusCode, body, headers: error.headers, said };
    }
    day.push([name, outcome]);
  }
  console.log(JSON.stringify(day));
}
process.exit(0);
