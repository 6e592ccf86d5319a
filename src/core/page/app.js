// The page at `/`: what runs here, how much goes through it, and a place to try topics.
//
// From the top: helpers; `numbers`, which asks the broker once a second; charts; `link`, the one connection that events
// come by; `list`, what came; and the forms, which tie them together. A new panel is a section of index.html and a
// function in `numbers.panels`. All addresses are relative, so that it also works where a proxy puts it under a path.

const byId = (id) => document.getElementById(id);

/** An element with properties and children. A string becomes text, never markup, whatever stands in it. */
function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const inUnits = (digits) => new Intl.NumberFormat('en', { maximumFractionDigits: digits }).format;
const [whole, short] = [inUnits(0), inUnits(1)];
/** Small rates keep a digit behind the point, because one event in two seconds is not none. */
const rate = (value) => (value < 10 ? short(value) : whole(value));
const plural = (number, one) => `${whole(number)} ${one}${number === 1 ? '' : 's'}`;

function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const power = Math.min(Math.floor(Math.log10(Math.max(value, 1)) / 3), units.length - 1);
  return `${(power > 0 ? short : whole)(value / 1000 ** power)} ${units[power]}`;
}

const timeWith = (more) => new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', ...more }).format;
const [clock, clockMs] = [timeWith({}), timeWith({ fractionalSecondDigits: 3 })];

/** The JSON of an answer, or an error in the broker's own words. */
async function answerOf(response) {
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({})); // A proxy in between answers in words of its own.
  const text = said.error?.text ?? `the answer was ${response.status} ${response.statusText}`;
  throw Object.assign(new Error(text), { status: response.status });
}

// The numbers.

const POLL_MS = 1000;
/** A poll without an answer for so long has failed; after twice as long without any, connections are doubted too. */
const POLL_MS_MAX = 5000;
const HISTORY_MS = 120_000;

const numbers = {
  answers: false,
  /** When the broker answered last. */
  answered: null,
  /** What /varz said last, and `at` what time, to take the difference to. */
  last: null,
  /** Rates as they were, the oldest first. */
  samples: [],
  /** Called with the samples and the time after each poll that was answered. */
  panels: [],
};

async function poll() {
  const began = performance.now();
  try {
    const ask = async (path) => answerOf(await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(POLL_MS_MAX) }));
    const varz = { ...await ask('varz'), at: performance.now() };
    // One that was restarted counts from the beginning: that is no base for a difference.
    const isAnother = varz.server_id !== numbers.last?.server_id;
    if (isAnother || !numbers.answers) showInfo(await ask('info'));
    measure(varz, !isAnother && numbers.answers);
    showNode(varz);
    if (!numbers.answers) link.answersAgain();
    numbers.answers = true;
  } catch (error) {
    numbers.answers = false;
    showSilence(error);
  }
  setTimeout(poll, Math.max(0, began + POLL_MS - performance.now()));
}

function measure(varz, isNext) {
  const { last, samples, panels } = numbers;
  const difference = (name) => Math.max(0, varz[name] - last[name]) * 1000 / (varz.at - last.at);
  if (isNext) {
    const [inMsgs, outMsgs, inBytes, outBytes] = ['in_msgs', 'out_msgs', 'in_bytes', 'out_bytes'].map(difference);
    samples.push({ at: varz.at, inMsgs, outMsgs, inBytes, outBytes });
  }
  while (samples[0]?.at < varz.at - HISTORY_MS) samples.shift();
  numbers.last = varz;
  panels.forEach((panel) => panel(samples, varz.at));
}

function showInfo({ shards, run }) {
  byId('shards').textContent = whole(shards);
  sawRun(run);
}

function showNode(varz) {
  numbers.answered = new Date();
  byId('node').dataset.answers = 'yes';
  byId('node-note').textContent = `${varz.server_name} ${varz.version}`;
  byId('uptime').textContent = varz.uptime.match(/\d+[a-z]+/g).slice(0, 2).join(' '); // It comes as `1d2h3m4s`.
  byId('connections').textContent = whole(varz.connections);
  byId('subscriptions').textContent = whole(varz.subscriptions);
  byId('slow-consumers').textContent = whole(varz.slow_consumers);
  byId('slow-consumers').classList.toggle('warns', varz.slow_consumers > 0);
  byId('memory-tile').hidden = !varz.mem;
  byId('memory').textContent = bytes(varz.mem ?? 0);
}

function showSilence(error) {
  const { answered, panels, samples } = numbers;
  panels.forEach((panel) => panel(samples, performance.now()));
  byId('node').dataset.answers = 'no';
  // With a status it was answered, though not as hoped.
  byId('node-note').textContent = error.status ? error.message : `No answer${answered ? ` since ${clock(answered)}` : ''}`;
  if (Date.now() - answered > 2 * POLL_MS_MAX) link.isSilent();
}

// Charts: two lines over the last two minutes.

const CHART_HEIGHT = 100;

function draw(name, properties) {
  const drawn = document.createElementNS('http://www.w3.org/2000/svg', name);
  Object.entries(properties).forEach(([key, value]) => drawn.setAttribute(key, value));
  return drawn;
}

/** The next round number, so that the scale stays while the rate moves. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].find((step) => step * power >= value) * power;
}

/** Draws two rates of the samples, `keys`, into a panel; the scale ends at `least` where there is nothing higher. */
function addChart(id, keys, format, least) {
  const part = (name) => byId(id).querySelector(`[data-part=${name}]`);
  const width = HISTORY_MS / 1000;
  // The picture is stretched to its box, the width of its lines is not.
  const svg = draw('svg', { viewBox: `0 0 ${width} ${CHART_HEIGHT}`, preserveAspectRatio: 'none', role: 'img' });
  const lines = [draw('path', { class: 'in' }), draw('path', { class: 'out' })];
  const cursor = draw('path', { class: 'cursor' });
  const top = make('span', { className: 'chart-top' });
  svg.append(draw('path', { class: 'grid', d: `M0 ${CHART_HEIGHT / 2}H${width}` }), lines[1], lines[0], cursor);
  part('chart').append(svg, top, make('span', { className: 'chart-left' }, '2 min ago'), make('span', { className: 'chart-right' }, 'now'));
  let [samples, now, pointer] = [[], 0, null];

  const x = (sample) => ((sample.at - now + HISTORY_MS) / 1000).toFixed(2);
  function show() {
    const highest = keys.map((key) => Math.max(0, ...samples.map((sample) => sample[key])));
    const scale = roundUp(Math.max(least, ...highest));
    keys.forEach((key, index) => {
      // Where polls failed, the line is broken.
      const goesOn = (place) => samples[place].at - samples[place - 1]?.at < 3 * POLL_MS;
      const corner = (sample, place) => `${goesOn(place) ? 'L' : 'M'}${x(sample)} ${(CHART_HEIGHT * (1 - sample[key] / scale)).toFixed(2)}`;
      lines[index].setAttribute('d', samples.map(corner).join(''));
      part(index === 0 ? 'in' : 'out').textContent = samples.at(-1)?.at === now ? format(samples.at(-1)[key]) : '–';
    });
    top.textContent = format(scale);
    svg.setAttribute('aria-label', `The last two minutes; at most ${format(highest[0])} in and ${format(highest[1])} out.`);
    showCursor();
  }

  /** Says what was measured where the pointer is. */
  function showCursor() {
    const then = now - HISTORY_MS * (1 - pointer);
    const near = pointer === null ? undefined : samples.find((sample) => Math.abs(sample.at - then) <= POLL_MS / 2 + 50);
    cursor.setAttribute('d', near ? `M${x(near)} 0V${CHART_HEIGHT}` : '');
    const [taken, given] = keys.map((key) => near && format(near[key]));
    part('note').textContent = near ? `${Math.round((now - near.at) / 1000)} s ago: ${taken} in, ${given} out` : '';
  }

  const point = (place) => {
    pointer = place;
    showCursor();
  };
  svg.addEventListener('pointermove', ({ offsetX }) => point(offsetX / svg.clientWidth));
  svg.addEventListener('pointerleave', () => point(null));
  numbers.panels.push((...given) => {
    [samples, now] = given;
    show();
  });
  show();
}

// The connection that events come by.

const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 15_000;
const OPEN_MS_MAX = 10_000;

const link = {
  /** `websocket` or `stream`. */
  kind: 'websocket',
  filters: new Set(),
  /** `idle`, `connecting`, `live`, `waiting` for the next try, or `refused`, where trying again would not help. */
  state: 'idle',
  /** What is open now: it has `close()`, and a WebSocket also `request(frame)`. */
  carrier: null,
  failures: 0,
  timer: 0,
  retryAt: 0,
  /** Since when events are missed. */
  missingSince: null,

  open() {
    this.close();
    if (this.kind === 'stream' && this.filters.size === 0) {
      this.show('idle', 'Not connected until you subscribe');
      return;
    }
    this.timer = setTimeout(() => this.lost('No answer'), OPEN_MS_MAX);
    this.carrier = this.kind === 'websocket' ? openSocket() : openStream();
    this.show('connecting', 'Connecting');
  },

  close() {
    clearTimeout(this.timer);
    if (this.state === 'live' && this.filters.size > 0) this.missingSince = new Date();
    this.carrier?.close();
    this.carrier = null;
  },

  isOpen(name) {
    clearTimeout(this.timer);
    this.failures = 0;
    if (this.missingSince !== null) {
      list.add({ note: `Not connected from ${clock(this.missingSince)} to ${clock(new Date())}: events of that time are missing.` });
      this.missingSince = null;
    }
    this.show('live', `Live over ${name}`);
  },

  /** Tries again after a wait, which doubles and is a bit random, so that pages do not all come back at once. */
  lost(reason = this.state === 'live' ? 'Connection lost' : 'No connection') {
    this.close();
    const wait = Math.min(RETRY_MS_MIN * 2 ** this.failures, RETRY_MS_MAX) * (0.75 + Math.random() / 4);
    this.failures += 1;
    this.retryAt = Date.now() + wait;
    this.timer = setTimeout(() => this.open(), wait);
    this.show('waiting', reason);
  },

  refused(reason) {
    this.close();
    this.show('refused', 'Refused');
    byId('subscribe-problem').textContent = reason;
  },

  /** The broker answers polls again, so the next try is due. */
  answersAgain() {
    if (this.state === 'waiting') this.open();
  },

  /** The broker has not answered polls for long: an open connection is not what it seems. */
  isSilent() {
    if (this.state === 'live') this.lost('No answer');
  },

  show(state, text) {
    this.state = state;
    byId('link').dataset.state = state;
    byId('link-text').textContent = text;
    byId('link-retry').hidden = state !== 'waiting';
    // Proxies that do not know WebSockets and browsers that keep the password from them are known to be in the way.
    byId('banner').hidden = !(this.kind === 'websocket' && this.failures > 2 && numbers.answers);
    showWait();
    list.show();
  },
};

/** Stands beside the state and is no part of it, so that it is not read aloud each second. */
function showWait() {
  const seconds = Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000));
  byId('link-wait').textContent = link.state === 'waiting' ? `, next try in ${seconds} s` : '';
}

/** Opens a WebSocket that speaks the JSON protocol, and subscribes. */
function openSocket() {
  const socket = new WebSocket(new URL('ws', document.baseURI).href.replace('http', 'ws'), 'sapwood.json');
  const answers = new Map();
  let [lastId, reason] = [0, undefined];
  const send = (frame) => socket.send(JSON.stringify(frame));
  const carrier = {
    request: (frame) => new Promise((resolve, reject) => {
      lastId += 1;
      answers.set(lastId, { resolve, reject });
      send({ ...frame, id: lastId });
    }),
    close() {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
      answers.forEach(({ reject }) => reject(new Error('the connection was lost before the answer came')));
    },
  };
  socket.onopen = () => {
    // A page that is too slow for what it asked for is to lose events, which it can show, rather than its connection.
    send({ op: 'hello', name: 'page', policy: 'drop-oldest' });
    // What is answered only once the broker has let this page in. A connection that ends meanwhile is dealt with below.
    const asked = [carrier.request({ op: 'ping' }), ...[...link.filters].map((filter) => subscribe('subscribe', filter, carrier))];
    Promise.all(asked).then(() => link.isOpen('WebSocket'), () => {});
  };
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    const answer = answers.get(frame.id);
    answers.delete(frame.id);
    // Frames that are not known here may come with a later version of the protocol.
    if (frame.op === 'message') list.addEvent(frame);
    else if (frame.op === 'gap') list.addGap(frame.events);
    else if (frame.op === 'welcome') sawRun(frame.run);
    else if (frame.op === 'draining') reason = 'The broker is ending';
    else if (frame.op === 'ok') answer?.resolve(frame);
    else if (frame.op === 'error') {
      reason = frame.text;
      answer?.reject(Object.assign(new Error(frame.text), { code: frame.code }));
    }
  };
  socket.onclose = ({ code }) => link.lost(code === 1001 ? 'The broker is ending' : reason);
  return carrier;
}

/** Opens the stream of server-sent events of all subscriptions. */
function openStream() {
  const url = `v1/topics?${inQuery(link.filters)}`;
  const source = new EventSource(url);
  const carrier = { close: () => source.close() };
  source.onopen = () => link.isOpen('event stream');
  source.onmessage = ({ data }) => list.addEvent(JSON.parse(data));
  source.addEventListener('gap', ({ data }) => list.addGap(JSON.parse(data).events));
  source.onerror = async () => {
    // Browsers try again by themselves, but not after every failure, and none says when: so the link does it.
    const mayBeRefused = source.readyState === EventSource.CLOSED;
    source.close();
    const refusal = mayBeRefused ? await refusalOf(url) : null;
    if (link.carrier !== carrier) return; // It was closed while we asked.
    if (refusal === null) link.lost();
    else link.refused(refusal);
  };
  return carrier;
}

/** Why a stream does not open, which EventSource keeps to itself; null where trying again may help. */
async function refusalOf(url) {
  const abort = new AbortController();
  try {
    const response = await fetch(url, { signal: abort.signal });
    if (!response.ok) await answerOf(response);
    return null;
  } catch (error) {
    return error.status >= 400 && error.status < 500 ? error.message : null;
  } finally {
    abort.abort();
  }
}

// Not by URLSearchParams, which writes a blank as `+`.
const inQuery = (filters) => [...filters].map((filter) => `topic=${encodeURIComponent(filter)}`).join('&');

let lastRun = null;

/** Each start of the broker has another value. */
function sawRun(run) {
  if (lastRun !== null && run !== lastRun) list.add({ note: 'The broker was restarted.' });
  lastRun = run;
}

// What came.

const EVENTS_MAX = 300;
/** A payload may have 64 MiB, and nobody reads that in a list. */
const PAYLOAD_CHARACTERS_MAX = 4000;
/** How often the list changes at most: a reader sees no more, and the browser has other things to do. */
const LIST_MS = 200;

const list = {
  came: 0,
  dropped: 0,
  /** What is not shown yet, the oldest first. */
  waiting: [],
  isPaused: false,
  timer: 0,

  add(item) {
    this.waiting.push({ at: new Date(), ...item });
    if (this.waiting.length > EVENTS_MAX) this.waiting.shift();
    // Not by animation frames, which stand still while the page is in the background.
    if (this.timer === 0) this.timer = setTimeout(() => this.show(), LIST_MS);
  },

  addEvent(message) {
    this.came += 1;
    this.add({ message });
  },

  /** Gaps that follow each other are one. */
  addGap(events) {
    const last = this.waiting.at(-1);
    this.dropped += events ?? 0;
    if (events === null) this.add({ note: 'Events may be missing here.' });
    else if (last?.gap) last.gap += events;
    else this.add({ gap: events });
  },

  show() {
    const rows = byId('events');
    clearTimeout(this.timer);
    this.timer = 0;
    if (!this.isPaused) {
      rows.prepend(...this.waiting.map(row).reverse());
      this.waiting = [];
      while (rows.children.length > EVENTS_MAX) rows.lastChild.remove();
    }
    const shown = rows.querySelectorAll('.event').length;
    const counts = [`${shown < this.came ? `${whole(shown)} of ` : ''}${plural(this.came, 'event')}`];
    if (this.dropped > 0) counts.push(`${whole(this.dropped)} dropped`);
    byId('events-note').textContent = this.came > 0 ? counts.join(', ') : '';
    const held = this.waiting.length > 0 ? ` (${this.waiting.length} new)` : '';
    byId('pause').textContent = this.isPaused ? `Go on${held}` : 'Pause';
    rows.hidden = rows.children.length === 0;
    byId('empty').hidden = !rows.hidden;
    const topics = [...link.filters].join(', ');
    const listening = link.state === 'live' ? `Listening to ${topics}. Nothing has come yet.` : `Not listening to ${topics} yet.`;
    byId('empty').textContent = topics === '' ? 'Subscribe to a topic, and what is published to it appears here.' : listening;
  },

  clear() {
    [this.came, this.dropped, this.waiting] = [0, 0, []];
    byId('events').replaceChildren();
    this.show();
  },
};

function row({ at, message, gap, note }) {
  const time = make('time', { dateTime: at.toISOString() }, clockMs(at));
  const said = note ?? (gap && `${plural(gap, 'event')} dropped here, because this page reads too slowly.`);
  if (said) return make('li', { className: 'note' }, time, make('p', {}, said));
  const text = message.data ?? message.data_b64 ?? '';
  const details = (message.headers ?? []).map(([name, value]) => `${name}: ${value}`);
  if (text === '') details.push('empty');
  if (message.data_b64 !== undefined) details.push('base64');
  const isCut = text.length > PAYLOAD_CHARACTERS_MAX;
  if (isCut) details.push(`the first ${whole(PAYLOAD_CHARACTERS_MAX)} of ${plural(text.length, 'character')}`);
  if (message.reply) details.push(`reply to ${message.reply}`);
  if (message.last) details.push('last reply');
  // A line may end behind each point of a topic.
  const topic = make('span', { className: 'topic' }, ...message.topic.split(/(?<=\.)/).flatMap((token) => [token, make('wbr')]));
  const made = make('li', { className: 'event' }, time, topic);
  if (text !== '') made.append(make('pre', {}, text.slice(0, PAYLOAD_CHARACTERS_MAX)));
  if (details.length > 0) made.append(make('ul', { className: 'details' }, ...details.map((detail) => make('li', {}, detail))));
  return made;
}

// The forms.

const isLiveSocket = () => link.kind === 'websocket' && link.state === 'live';

/** Subscribes on an open WebSocket, or unsubscribes. A filter that the broker refuses is taken back. */
async function subscribe(op, filter, carrier) {
  try {
    await carrier.request({ op, filter });
  } catch (error) {
    if (error.code === undefined) throw error; // Not refused: the connection was lost, and will come again.
    link.filters.delete(filter);
    showFilters();
    byId('subscribe-problem').textContent = `${filter}: ${error.message}`;
  }
}

/** What is not live now asks for all filters once it is; a stream has to be opened anew to ask for others. */
function changeFilters(op, filter) {
  if (op === 'subscribe') link.filters.add(filter);
  else link.filters.delete(filter);
  if (link.filters.size === 0) link.missingSince = null; // Nothing is left that could miss anything.
  showFilters();
  if (link.kind === 'stream') link.open();
  else if (isLiveSocket()) subscribe(op, filter, link.carrier).catch(() => {});
}

function showFilters() {
  byId('subscribe-problem').textContent = '';
  byId('filters').replaceChildren(...[...link.filters].map((filter) => {
    const remove = make('button', { type: 'button', ariaLabel: `Unsubscribe from ${filter}` }, '×');
    remove.addEventListener('click', () => {
      changeFilters('unsubscribe', filter);
      byId('filter').focus(); // The button that had the focus is gone.
    });
    return make('li', {}, make('span', {}, filter), remove);
  }));
  list.show();
  // In the address subscriptions survive a reload, and can be sent to somebody.
  const parts = [inQuery(link.filters), link.kind === 'stream' ? 'by=stream' : ''].filter((part) => part !== '');
  history.replaceState(null, '', `${location.pathname}${location.search}${parts.length > 0 ? '#' : ''}${parts.join('&')}`);
}

/** Publishes, and returns how many subscriptions of this node the event reached. */
async function publish(topic, data) {
  if (isLiveSocket()) return (await link.carrier.request({ op: 'publish', topic, data })).count;
  const response = await fetch(`v1/topics/${encodeURIComponent(topic)}`, { method: 'POST', body: data });
  return (await answerOf(response)).count;
}

byId('subscribe').addEventListener('submit', (event) => {
  event.preventDefault();
  const filter = byId('filter').value;
  byId('filter').value = '';
  if (!link.filters.has(filter)) changeFilters('subscribe', filter);
});

byId('publish').addEventListener('submit', async (event) => {
  event.preventDefault();
  const show = (className, text) => Object.assign(byId('outcome'), { className, textContent: text });
  show('outcome', 'Publishing');
  try {
    show('outcome', `Reached ${plural(await publish(byId('topic').value, byId('payload').value), 'subscription')}`);
  } catch (error) {
    // `fetch` fails by a TypeError, in words of the browser, where there is no answer.
    show('problem', `Not published: ${error instanceof TypeError ? 'the broker does not answer' : error.message}`);
  }
});

byId('payload').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) byId('publish').requestSubmit();
});

byId('pause').addEventListener('click', () => {
  list.isPaused = !list.isPaused;
  list.show();
});
byId('clear').addEventListener('click', () => list.clear());
byId('link-retry').addEventListener('click', () => link.open());

const carriers = document.querySelectorAll('[name=carrier]');
carriers.forEach((choice) => choice.addEventListener('change', () => {
  link.close();
  link.kind = choice.value;
  link.failures = 0;
  link.open();
  showFilters();
}));

addChart('messages', ['inMsgs', 'outMsgs'], rate, 10);
addChart('bytes', ['inBytes', 'outBytes'], bytes, 1000);
const kept = new URLSearchParams(location.hash.slice(1));
link.filters = new Set(kept.getAll('topic').filter((filter) => filter !== ''));
link.kind = kept.get('by') === 'stream' ? 'stream' : 'websocket';
carriers.forEach((choice) => { choice.checked = choice.value === link.kind; });
showFilters();
link.open();
setInterval(showWait, 250);
poll();
