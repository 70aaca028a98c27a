// HTTP/2 by Node.js (nghttp2), over one connection. For every line of standard input, which is a list as JSON, what came of it, as one
// line of JSON:
//
// ["get", PATH], ["many", COUNT, PATH], ["post", PATH, BYTES], ["trailers", PATH], ["cancel", PATH]: see the functions;
// ["begin", PATH] and ["finish"]: an upload in two halves; ["goodbye"]: whether the server has said that it goes.

import { readFile } from "node:fs/promises";
import http2 from "node:http2";
import { createInterface } from "node:readline";

const HALF = 20_000;

const where = JSON.parse(await readFile(process.argv[2], "utf8"));
const read = (name) => readFile(where[name]);
const [ca, cert, key] = await Promise.all(["ca", "cert", "key"].map(read));
const session = http2.connect(where.url, { ca, cert, key });
let said = null;
session.on("goaway", (code, last) => {
  said = { code, last };
});
session.on("error", () => {});

/** A request, and the promise of its answer. */
function ask(method, path, options = {}) {
  const stream = session.request({ ":method": method, ":path": path }, options);
  const answer = new Promise((resolve, reject) => {
    const answer = { status: 0, text: "" };
    stream.setEncoding("utf8");
    stream.on("response", (fields) => {
      answer.status = fields[":status"];
    });
    stream.on("data", (text) => {
      answer.text += text;
    });
    stream.on("trailers", (fields) => {
      answer.trailers = { ...fields };
    });
    // The whole answer. What is left of an upload that was refused is not wanted any more.
    stream.on("end", () => {
      resolve(answer);
      stream.close(http2.constants.NGHTTP2_NO_ERROR);
    });
    stream.on("error", reject);
    stream.on("close", () => reject(new Error(`code ${stream.rstCode}`)));
  });
  return { stream, answer };
}

const get = (path) => ask("GET", path).answer;

/** The status of so many requests at once. */
async function many(count, path) {
  const answers = await Promise.all(Array.from({ length: count }, () => get(path)));
  return answers.map((answer) => answer.status);
}

function post(path, size) {
  const { stream, answer } = ask("POST", path);
  stream.end(Buffer.from(Array.from({ length: size }, (_, at) => at % 251)));
  return answer;
}

/** A short upload with a trailer. */
function trailers(path) {
  const { stream, answer } = ask("POST", path, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "x-mvp-trailer": "said" }));
  stream.end("body");
  return answer;
}

/** Gives an answer up when some of it has come. */
async function cancel(path) {
  const { stream, answer } = ask("GET", path);
  answer.catch(() => {});
  await new Promise((resolve) => stream.once("data", resolve));
  const closed = new Promise((resolve) => stream.once("close", resolve));
  stream.close(http2.constants.NGHTTP2_CANCEL);
  await closed;
  return true;
}

let upload;

function begin(path) {
  upload = ask("POST", path);
  upload.answer.catch(() => {});
  upload.stream.write("x".repeat(HALF));
  return null;
}

function finish() {
  upload.stream.end("x".repeat(HALF));
  return upload.answer;
}

const goodbye = () => said;

const steps = { get, many, post, trailers, cancel, begin, finish, goodbye };
for await (const line of createInterface({ input: process.stdin })) {
  const [step, ...rest] = JSON.parse(line);
  let told;
  try {
    told = await steps[step](...rest);
  } catch (error) {
    told = { error: String(error) };
  }
  console.log(JSON.stringify(told ?? null));
}
process.exit(0);
