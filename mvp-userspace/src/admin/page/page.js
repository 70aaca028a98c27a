'use strict';
// Whatever servers and clients are called becomes text: nodes are made one by one, and no markup is ever parsed.
const MINUTE = 60000;
const RANGES = [['1 h', 60], ['6 h', 360], ['24 h', 1440]];
const ROWS = 500;
const state = { status: null, skew: null, history: null, report: null, range: 60, seen: '', noted: -1, loaded: 0 };
const at = (id) => document.getElementById(id);

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

function draw(name, attributes, text) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function table(id, head, rows) {
  const heading = make('tr', {}, ...head.map((cell) => make('th', { scope: 'col' }, cell)));
  const body = rows.map((row) => make('tr', {}, ...row.map((cell) => (cell instanceof Node ? cell : make('td', {}, cell)))));
  at(id).replaceChildren(make('thead', {}, heading), make('tbody', {}, ...body));
}

function cell(kind, text) {
  return make('td', { class: kind }, text);
}

function age(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 1) return ms + 'ms';
  if (s < 60) return s + 's';
  if (s < 3600) return Math.floor(s / 60) + 'm' + (s % 60) + 's';
  if (s < 86400) return Math.floor(s / 3600) + 'h' + (Math.floor(s / 60) % 60) + 'm';
  return Math.floor(s / 86400) + 'd' + (Math.floor(s / 3600) % 24) + 'h';
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
const rate = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(1));

function showStatus() {
  const status = state.status;
  document.title = 'mvp on ' + status.node;
  at('title').textContent = 'mvp on ' + status.node;
  const stance = at('stance');
  stance.textContent = status.stance.line || status.stance.word;
  stance.className = status.stance.word === 'passing by' ? 'bad' : '';
  const report = state.report;
  const tiles = [
    ['Guard', status.guard.state + (status.guard.steers ? '' : ' (not steered)')],
    ['Requests per second', rate(Object.values(status.traffic.perSecond).reduce((a, b) => a + b, 0))],
    ['Forwarded per second', rate(status.traffic.forwardedPerSecond)],
    ['Prevented per second', rate(status.traffic.preventedPerSecond)],
    ['False 404s prevented, 24 h', report ? report.prevented : '-'],
    ['Served while the server was down, 24 h', report ? report.servedWhileDown : '-'],
    ['Errors of the agent, 24 h', report ? report.errors.reduce((sum, row) => sum + row.count, 0) : '-'],
    ['Connections of before', status.retirement.retiring ? status.retirement.open : '-'],
  ];
  at('tiles').replaceChildren(...tiles.map(([name, value]) => make('li', {}, make('b', {}, value), name)));
  at('unknown').textContent = report ? report.unknown.join(' ') : '';
  table('servers', ['Server', 'Version', 'Available', 'Proved', 'Knowledge', 'Requests', 'Last error'], status.servers.map((server) => [
    server.name + (server.local ? ' (this node)' : ''),
    server.version || '-',
    server.available ? cell('good', server.stopping ? 'yes, stopping' : 'yes') : cell('bad', 'no'),
    server.proof.assertedUsers.proved && server.proof.tokens.proved ? cell('good', 'yes') : cell('warn', 'no'),
    server.knowledge + (server.ageMs === null ? '' : ', ' + age(server.ageMs) + ' old'),
    server.outstanding,
    server.lastError || '',
  ]));
}

function showSkew() {
  const { servers, rows } = state.skew;
  const wanted = at('filter').value.trim().toLowerCase();
  const named = rows.map((row) => [
    (row.group ? row.group + '/' : '') + row.version,
    row.resource + (row.subresource ? '/' + row.subresource : ''),
    row.servers,
  ]);
  const found = named.filter(([groupVersion, resource]) => (groupVersion + '/' + resource).toLowerCase().includes(wanted));
  const words = { serves: ['good', 'serves'], lacks: ['bad', 'lacks'], unknown: ['faint', 'unknown'] };
  const shown = found.slice(0, ROWS).map(([groupVersion, resource, cells]) => [
    groupVersion, resource, ...servers.map((server) => {
      const known = cells[server.name] || { state: 'unknown', missing: [] };
      return known.state === 'partial' ? cell('warn', 'without ' + known.missing.join(', ')) : cell(...(words[known.state] || words.unknown));
    }),
  ]);
  at('skew-line').textContent = rows.length === 0 ? 'No two servers are known to differ.'
    : found.length + ' of ' + rows.length + ' differences' + (found.length > ROWS ? ', the first ' + ROWS + ' shown' : '');
  const versions = servers.map((server) => server.name + ' ' + (server.version || '?') + (server.newest ? ' (newest)' : ''));
  table('skew', ['Group and version', 'Resource', ...versions], shown);
}

function showEvents() {
  const events = state.history.events.slice(-200).reverse();
  table('events', ['Time', 'Event', 'Of', 'Detail'], events.map((event) => [
    new Date(event.atMs).toLocaleString(), event.kind, event.subject || 'agent', event.detail,
  ]));
}

// What held from when to when: [from, to, value], of events that begin and end it.
function spans(events, begins, ends, from, to) {
  const all = [];
  let since = null;
  for (const event of events) {
    const begun = begins(event);
    if (since !== null && (begun !== null || ends(event))) {
      all.push([since.at, event.atMs, since.value]);
      since = null;
    }
    if (begun !== null) since = { at: event.atMs, value: begun };
  }
  if (since !== null) all.push([since.at, to, since.value]);
  return all.map(([a, b, value]) => [Math.max(a, from), Math.min(b, to), value]).filter(([a, b]) => b > a);
}

function showTimeline() {
  const { events, minutes, nowMs, beginsMs } = state.history;
  const holder = at('timeline');
  const width = Math.max(280, holder.clientWidth);
  const from = nowMs - state.range * MINUTE;
  const names = state.status.servers.map((server) => server.name);
  const left = 0, bars = 70, row = 40;
  const height = 20 + names.length * row + 40 + bars + 22;
  const x = (ms) => left + (Math.min(Math.max(ms, from), nowMs) - from) / (nowMs - from) * (width - left);
  const svg = draw('svg', { viewBox: '0 0 ' + width + ' ' + height, role: 'img', 'aria-label': 'Versions of the servers, states of the guard, and requests by the minute; the events below say the same in words' });
  const versions = [];
  const block = (a, b, y, tall, kind, title) => {
    const rect = draw('rect', { x: x(a), y, width: Math.max(1, x(b) - x(a)), height: tall, class: kind });
    rect.append(draw('title', {}, title));
    svg.append(rect);
  };
  let y = 4;
  for (const name of names) {
    const own = events.filter((event) => event.subject === name);
    svg.append(draw('text', { x: 0, y: y + 11 }, name));
    const current = state.status.servers.find((server) => server.name === name).version;
    let known = spans(own, (e) => ((e.kind === 'server_seen' || e.kind === 'server_version') && e.value ? e.value : null), (e) => e.kind === 'server_left', from, nowMs);
    if (known.length === 0 && current) known = [[Math.max(from, beginsMs), nowMs, current]];
    for (const [a, b, version] of known) {
      if (!versions.includes(version)) versions.push(version);
      block(a, b, y + 15, 18, 'v' + versions.indexOf(version) % 4, name + ' ' + version);
      if (x(b) - x(a) > 60) svg.append(draw('text', { x: x(a) + 4, y: y + 28 }, version));
    }
    for (const [a, b] of spans(own, (e) => (e.kind === 'server_unavailable' ? 'down' : null), (e) => e.kind === 'server_available' || e.kind === 'server_left', from, nowMs)) {
      block(a, b, y + 15, 18, 'down', name + ' is not available');
    }
    y += row;
  }
  svg.append(draw('text', { x: 0, y: y + 11 }, 'agent'));
  const started = (e) => e.kind === 'agent_started';
  for (const [a, b, why] of spans(events, (e) => (e.kind === 'guard_armed' ? e.value : null), (e) => e.kind === 'guard_idle' || started(e), from, nowMs)) {
    block(a, b, y + 15, 8, 'armed', 'armed: ' + why);
  }
  for (const [a, b, why] of spans(events, (e) => (e.kind === 'passing_by' ? e.value : null), (e) => e.kind === 'takes_connections' || started(e), from, nowMs)) {
    block(a, b, y + 24, 8, 'passing', 'passing by: ' + why);
  }
  y += 40;
  const counts = minutes.map((minute) => [minute.minute * MINUTE, minute.forwarded, minute.prevented.reduce((sum, entry) => sum + entry.count, 0)]);
  const inside = counts.filter(([time]) => time >= from - MINUTE);
  const most = Math.max(1, ...inside.map(([, forwarded]) => forwarded));
  for (const [time, forwarded, prevented] of inside) {
    for (const [count, kind] of [[forwarded, 'forwarded'], [prevented, 'prevented']]) {
      const tall = count / most * bars;
      if (count > 0) block(time, time + MINUTE, y + bars - tall, tall, kind, clock(time) + ': ' + count + ' ' + kind);
    }
  }
  svg.append(draw('line', { x1: 0, x2: width, y1: y + bars, y2: y + bars, class: 'axis' }));
  svg.append(draw('text', { x: 0, y: y + 10, class: 'faint' }, 'up to ' + most + ' per minute'));
  const ticks = width < 500 ? 2 : 6;
  for (let n = 0; n <= ticks; n += 1) {
    const anchor = n === 0 ? 'start' : n === ticks ? 'end' : 'middle';
    svg.append(draw('text', { x: left + (width - left) * n / ticks, y: y + bars + 16, class: 'faint', 'text-anchor': anchor }, clock(from + (nowMs - from) * n / ticks)));
  }
  holder.replaceChildren(svg);
}

async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: 'application/json' }, cache: 'no-store' });
  if (!answer.ok) throw new Error(path + ': ' + answer.status);
  return answer.json();
}

// The status comes every second; the rest is asked for when the status says that it has changed.
async function follow(status) {
  state.status = status;
  const seen = JSON.stringify(status.servers.map((server) => [server.name, server.version, server.keys, server.knowledge]));
  const asked = [];
  if (seen !== state.seen) asked.push(ask('/skew').then((skew) => { state.skew = skew; state.seen = seen; }));
  if (status.traffic.noted !== state.noted || Date.now() - state.loaded > 10000) {
    state.loaded = Date.now();
    asked.push(ask('/history?since=24h').then((history) => { state.history = history; state.noted = status.traffic.noted; }));
    asked.push(ask('/report?since=24h').then((report) => { state.report = report; }));
  }
  await Promise.all(asked);
  showStatus();
  if (asked.length > 0) {
    showSkew();
    showEvents();
    showTimeline();
  }
  document.documentElement.dataset.ready = 'yes';
}

function say(text, kind) {
  at('live').textContent = text;
  at('live').className = kind;
}

let busy = false;
async function taken(status) {
  if (busy) return;
  busy = true;
  try {
    await follow(status);
    say('Live: ' + new Date().toLocaleTimeString(), 'faint');
  } catch (error) {
    say('The agent does not answer: ' + error.message, 'bad');
  } finally {
    busy = false;
  }
}

for (const [name, minutes] of RANGES) {
  const button = make('button', { type: 'button', 'aria-pressed': String(minutes === state.range) }, name);
  button.addEventListener('click', () => {
    state.range = minutes;
    for (const other of at('ranges').children) other.setAttribute('aria-pressed', String(other === button));
    if (state.history) showTimeline();
  });
  at('ranges').append(button);
}
at('filter').addEventListener('input', () => { if (state.skew) showSkew(); });
window.addEventListener('resize', () => { if (state.history) showTimeline(); });

ask('/status').then(taken, (error) => say('The agent does not answer: ' + error.message, 'bad')).then(() => {
  // `/?still` shows one moment, to be printed or kept.
  if (new URLSearchParams(location.search).has('still')) return;
  const stream = new EventSource('/stream');
  stream.addEventListener('status', (message) => taken(JSON.parse(message.data)));
  stream.addEventListener('error', () => say('The connection to the agent is lost; it is tried again.', 'warn'));
});
