// The page at `/`: what runs here, how much goes through it, and a place to try topics.
//
// From the top: helpers; `numbers`, which asks the broker once a second; charts; `link`, the one connection that events
// come by; `list`, what came; `tree`, which asks all nodes who they are; and the forms, which tie them together. A new panel
// is a section of index.html and a function in `numbers.panels`. All addresses are relative, so that it also works where a proxy puts it under a path.

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
    tree.wake();
  } catch (error) {
    numbers.answers = false;
    showSilence(error);
    tree.draw();
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
    this.carrier = this.kind === 'websocket' ? openEvents() : openStream();
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

/** Opens a WebSocket that speaks the JSON protocol. Frames that are no answers go to `came`, the reason of its end to `lost`. */
function openSocket(name, { opened, came, lost, charactersMax = Infinity }) {
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
    send({ op: 'hello', name, policy: 'drop-oldest' });
    opened(carrier);
  };
  socket.onmessage = ({ data }) => {
    const frame = data.length > charactersMax ? { op: 'too long' } : JSON.parse(data);
    const answer = answers.get(frame.id);
    answers.delete(frame.id);
    if (frame.op === 'ok') answer?.resolve(frame);
    else if (frame.op === 'error') {
      reason = frame.text;
      answer?.reject(Object.assign(new Error(frame.text), { code: frame.code }));
    } else if (frame.op === 'draining') reason = 'The broker is ending';
    else came(frame);
  };
  socket.onclose = ({ code }) => lost(code === 1001 ? 'The broker is ending' : reason);
  return carrier;
}

/** Opens a WebSocket that all subscriptions' events come by. */
function openEvents() {
  return openSocket('page', {
    opened(carrier) {
      // What is answered only once the broker has let this page in. A connection that ends meanwhile is dealt with by `lost`.
      const asked = [carrier.request({ op: 'ping' }), ...[...link.filters].map((filter) => subscribe('subscribe', filter, carrier))];
      Promise.all(asked).then(() => link.isOpen('WebSocket'), () => {});
    },
    came(frame) {
      // Frames that are not known here may come with a later version of the protocol.
      if (frame.op === 'message') list.addEvent(frame);
      else if (frame.op === 'gap') list.addGap(frame.events);
      else if (frame.op === 'welcome') sawRun(frame.run);
    },
    lost: (reason) => link.lost(reason),
  });
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
  if (lastRun !== null && run !== lastRun) {
    list.add({ note: 'The broker was restarted.' });
    tree.mayAskAgain();
  }
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
    // Who listens to everything hears what the nodes answer to the page itself, too.
    if (message.topic === tree.inbox) return;
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

// The tree of nodes. All that stands in an answer was said by others: it is checked, cut, and shown as text.

const ASK_MS = 2000;
/** Each shard of each node answers, by 1 or 2 kB. A tree of more is asked more seldom. */
const ANSWERS_A_SECOND_MAX = 1000;
/** What is beyond these in one round is not read: the connection is given up until the next. */
const ANSWERS_MAX = 8192;
/** A node with 255 children needs half of it. */
const ANSWER_CHARACTERS_MAX = 200_000;
const NODES_MAX = 4096;
const NODES_SHOWN_MAX = 200;
const SHARDS_MAX = 64;
/** A node has at most one parent and 255 children; of all nodes together no more links are remembered than these. */
const LINKS_MAX = 256;
const LINKS_ROUND_MAX = 16_384;
const NAME_CHARACTERS_MAX = 64;
const NAMES_MAX = 8;
/** A node that missed so many rounds is gone; until then it fades. */
const ROUNDS_MISSED_MAX = 2;
/** Over a longer time a mean says nothing about now. */
const RATE_MS_MAX = 60_000;

const tree = {
  /** Where nodes answer. Not by `randomUUID`, which browsers keep from pages that did not come over TLS. */
  inbox: `_INBOX.${[...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(16).padStart(8, '0')).join('')}`,
  /** A connection of its own, so that neither it nor the events wait for each other or drop what the other asked for. */
  carrier: null,
  isSubscribed: false,
  /** The id of the node that this page is connected to. */
  here: null,
  /** By id. */
  nodes: new Map(),
  rows: new Map(),
  /** How often was asked, and what has come since. */
  round: 0,
  answers: 0,
  links: 0,
  askedAt: -Infinity,
  /** Since when the broker has not even taken the question. */
  asksSince: null,
  /** When a question was answered last. */
  answered: null,
  failures: 0,
  timer: 0,
  drawTimer: 0,
  isOnScreen: false,
  /** This broker does not know the question, or keeps it from this page. */
  isRefused: false,

  isWanted() {
    return this.isOnScreen && !document.hidden && numbers.answers && !this.isRefused;
  },

  mayAskAgain() {
    this.isRefused = false;
    byId('tree').hidden = false;
    this.wake();
  },

  /** Asks when it is time to, for as long as somebody can see what comes of it. */
  wake() {
    if (this.timer !== 0 || !this.isWanted()) return;
    const wait = this.askedAt + this.waitMs() - performance.now();
    this.timer = setTimeout(() => {
      this.timer = 0;
      if (this.isWanted()) this.ask();
      this.wake();
    }, Math.max(0, wait));
  },

  waitMs() {
    return Math.max(Math.min(ASK_MS * 2 ** this.failures, RETRY_MS_MAX), this.answers * 1000 / ANSWERS_A_SECOND_MAX);
  },

  ask() {
    this.askedAt = performance.now();
    if (this.asksSince !== null) {
      if (this.askedAt - this.asksSince > OPEN_MS_MAX) this.lost();
      return;
    }
    this.asksSince = this.askedAt;
    if (this.carrier !== null) this.question();
    else this.open();
  },

  open() {
    this.carrier = openSocket('page-tree', {
      opened: () => this.question(),
      came: (frame) => this.take(frame),
      lost: () => this.lost(),
      charactersMax: 2 * ANSWER_CHARACTERS_MAX,
    });
    this.isSubscribed = false;
  },

  async question() {
    const { carrier, inbox } = this;
    [this.round, this.answers, this.links] = [this.round + 1, 0, 0];
    const asked = [carrier.request({ op: 'publish', topic: '$info', reply: inbox })];
    // Nobody listens behind this topic, so that its way begins and ends at the node which this page is connected to.
    if (this.here === null) asked.push(carrier.request({ op: 'publish', topic: `$trace:${inbox}.here`, reply: inbox }));
    if (!this.isSubscribed) asked.unshift(carrier.request({ op: 'subscribe', filter: inbox }));
    try {
      await Promise.all(asked);
      [this.asksSince, this.isSubscribed, this.failures, this.answered] = [null, true, 0, new Date()];
    } catch (error) {
      if (error.code !== undefined) this.refused();
      return; // Otherwise the connection was lost, which `lost` knows.
    }
    this.drawSoon();
  },

  close() {
    this.carrier?.close();
    [this.carrier, this.asksSince] = [null, null];
  },

  lost() {
    this.close();
    this.here = null;
    this.failures += 1;
    this.draw();
  },

  refused() {
    this.close();
    this.isRefused = true;
    byId('tree').hidden = true;
  },

  take({ op, data }) {
    if (op === 'welcome' || op === 'gap') return;
    this.answers += 1;
    if (this.answers > ANSWERS_MAX) {
      this.close();
      return;
    }
    const answer = answerIn(data);
    if (answer === null) return;
    // Only where it was published a way comes from nowhere.
    if (Array.isArray(answer.to)) this.here ??= answer.from === null ? answer.node : null;
    else this.know(answer);
    this.drawSoon();
  },

  know(answer) {
    const { node: id, shard: number } = answer;
    if (!this.nodes.has(id) && this.nodes.size === NODES_MAX) return;
    if (!Number.isInteger(number) || number < 0 || number >= SHARDS_MAX) return;
    const node = this.nodes.get(id) ?? { id, shards: new Map() };
    const shard = shardOf(answer, node.shards.get(number), LINKS_ROUND_MAX - this.links);
    this.links += shard.children.size;
    node.shards.set(number, Object.assign(shard, { round: this.round }));
    this.nodes.set(id, Object.assign(node, namesOf(answer), { parent: shard.parent, round: this.round }));
  },

  /** Forgets who has not answered for too long. */
  forget() {
    const isGone = ({ round }) => this.round - round > ROUNDS_MISSED_MAX + 1;
    this.nodes.forEach((node, id) => {
      if (isGone(node)) this.nodes.delete(id);
      node.shards.forEach((shard, number) => isGone(shard) && node.shards.delete(number));
    });
  },

  drawSoon() {
    if (this.drawTimer === 0) this.drawTimer = setTimeout(() => this.draw(), LIST_MS);
  },

  draw() {
    clearTimeout(this.drawTimer);
    this.drawTimer = 0;
    this.forget();
    const all = [...this.nodes.values()];
    const shown = chosen(all, this.nodes.get(this.here));
    const isAlone = all.length === 1;
    this.say(all.length);
    showParts(byId('tree-alone'), isAlone ? aloneText(all[0]) : []);
    byId('tree-rows').hidden = isAlone || all.length === 0;
    if (all.length > 0) this.stand(isAlone);
    this.drawRows(isAlone ? [] : shown);
    const more = all.length - shown.length;
    byId('tree-more').hidden = more === 0;
    byId('tree-more').textContent = `and ${whole(more)} more`;
  },

  /** Several nodes stand before what this one does, a single one behind it. */
  stand(isAlone) {
    const panel = byId('tree');
    const [first, last] = [byId('messages'), byId('bytes')];
    if (isAlone && last.nextElementSibling !== panel) last.after(panel);
    if (!isAlone && first.previousElementSibling !== panel) first.before(panel);
  },

  say(count) {
    const isLive = this.failures === 0 && numbers.answers;
    const seconds = plural(Math.round(this.waitMs() / 1000), 'second');
    // That a node is alone stands below.
    const nobody = this.failures > 2 ? 'No WebSocket opens, and nodes are asked over one' : 'Asking the nodes';
    const said = [nobody, ''][count] ?? `${count === NODES_MAX ? 'At least ' : ''}${plural(count, 'node')}, asked every ${seconds}`;
    byId('tree').dataset.answers = isLive ? 'yes' : 'no';
    byId('tree-note').textContent = isLive || this.answered === null ? said : `No answer since ${clock(this.answered)}`;
  },

  /** Rows stay the elements they are, so that nothing flickers, and what is selected stays so. */
  drawRows(nodes) {
    const figures = nodes.map((node) => branchOf(node, this.nodes.get(node.parent)));
    const highest = Math.max(10, ...figures.map(({ up, down }) => Math.max(up.rate, down.rate)));
    const wanted = new Set(nodes.map(({ id }) => id));
    this.rows.forEach((row, id) => {
      if (wanted.has(id)) return;
      row.item.remove();
      this.rows.delete(id);
    });
    let place = byId('nodes').firstElementChild;
    nodes.forEach((node, index) => {
      if (!this.rows.has(node.id)) this.rows.set(node.id, nodeRow(node.id));
      const row = this.rows.get(node.id);
      if (row.item === place) place = place.nextElementSibling;
      else byId('nodes').insertBefore(row.item, place);
      row.show(node, figures[index], { missed: Math.max(0, this.round - node.round - 1), isHere: node.id === this.here, highest: roundUp(highest) });
    });
  },
};

const objectOf = (value) => (typeof value === 'object' && value !== null ? value : {});
const listOf = (value, most) => (Array.isArray(value) ? value.slice(0, most) : []);
const textOf = (value) => (typeof value === 'string' ? value.slice(0, NAME_CHARACTERS_MAX) : '');
const countOf = (value) => (typeof value === 'number' && value >= 0 ? Math.min(value, Number.MAX_SAFE_INTEGER) : 0);
const isId = (value) => typeof value === 'string' && /^[0-9a-f]{16}$/.test(value);

/** What an answer says, if it is one. */
function answerIn(data) {
  if (typeof data !== 'string' || data.length > ANSWER_CHARACTERS_MAX) return null;
  try {
    const answer = objectOf(JSON.parse(data));
    return isId(answer.node) ? answer : null;
  } catch {
    return null;
  }
}

/** Who a node is and where it stands: `path` has the child numbers that lead to it, and is null while it is adrift. */
function namesOf({ name, tags, groups, address }) {
  const isPlace = typeof address === 'string' && /^(\/|(\/\d{1,3}){1,255})$/.test(address);
  const called = (kind, names) => listOf(names, NAMES_MAX).map(textOf).filter((text) => text !== '').map((text) => `${kind}=${text}`);
  return {
    name: textOf(name),
    called: [...called('tag', tags), ...called('group', groups)],
    address: isPlace ? address : null,
    path: isPlace ? address.split('/').filter((part) => part !== '').map(Number) : null,
    // Only who may have neighbours has tags, be it none.
    isInTree: Array.isArray(tags),
  };
}

/** What a shard says, and how much that is a second since it was asked before. */
function shardOf({ uptime_ms, counters, links, place }, before, linksLeft) {
  const { connections, events_published, events_delivered, links_lost } = objectOf(counters);
  const { root_for_ms } = objectOf(place);
  const all = listOf(links, LINKS_MAX).map(objectOf).filter(({ node }) => isId(node));
  const up = all.find(({ role }) => role === 'parent');
  const below = all.filter((branch) => branch !== up).slice(0, linksLeft);
  const ownConnections = all.reduce((sum, branch) => sum + countOf(branch.lanes_up), 0);
  const shard = {
    uptime: countOf(uptime_ms),
    clients: Math.max(0, countOf(connections) - ownConnections),
    linksLost: countOf(links_lost),
    rootSince: typeof root_for_ms === 'number' ? Date.now() - countOf(root_for_ms) : null,
    totals: { in: countOf(events_published), out: countOf(events_delivered), up: countOf(up?.events_out), down: countOf(up?.events_in) },
    parent: up?.node ?? null,
    branch: up && sideOf(up),
    children: new Map(below.map((branch) => [branch.node, sideOf(branch)])),
  };
  const ms = shard.uptime - (before?.uptime ?? Infinity);
  const isNext = ms > 0 && ms <= RATE_MS_MAX;
  const difference = (key) => Math.max(0, shard.totals[key] - before.totals[key]) * 1000 / ms;
  const isSame = (key) => isNext && (key === 'in' || key === 'out' || shard.parent === before.parent);
  shard.rates = Object.fromEntries(Object.keys(shard.totals).map((key) => [key, isSame(key) ? difference(key) : null]));
  return shard;
}

/** A link as one of its two sides sees it: its lanes on that shard, and what goes off by it. */
function sideOf(branch) {
  return {
    lanes: countOf(branch.lanes),
    lanesUp: countOf(branch.lanes_up),
    tripUs: typeof branch.round_trip_us === 'number' ? countOf(branch.round_trip_us) : null,
    lost: countOf(branch.events_lost),
    reconnects: countOf(branch.reconnects),
    filters: branch.everything_wanted === true ? Infinity : countOf(branch.filters_wanted),
  };
}

/** The sum over a node's shards, null if none of them knows. */
function sumOf(node, value) {
  const values = [...node.shards.values()].map(value).filter((known) => known !== null && known !== undefined);
  return values.length > 0 ? values.reduce((sum, known) => sum + known, 0) : null;
}

/** The link from a node to its parent, from what the shards of both say. */
function branchOf(node, parent) {
  const sides = [...node.shards.values()].flatMap(({ branch }) => branch ?? []);
  const others = [...parent?.shards.values() ?? []].flatMap(({ children }) => children.get(node.id) ?? []);
  const sum = (list, key) => list.reduce((total, side) => total + side[key], 0);
  // Each shard knows of all that is wanted.
  const filters = (list) => (list.length > 0 ? Math.max(...list.map((side) => side.filters)) : null);
  const trips = sides.map(({ tripUs }) => tripUs).filter((us) => us !== null);
  return {
    isThere: sides.length > 0,
    lanes: sum(sides, 'lanes'),
    lanesUp: sum(sides, 'lanesUp'),
    lost: sum(sides, 'lost') + sum(others, 'lost'),
    // Both sides count the same ones.
    reconnects: Math.max(sum(sides, 'reconnects'), sum(others, 'reconnects')),
    tripUs: trips.length > 0 ? Math.min(...trips) : null,
    up: { rate: sumOf(node, ({ rates }) => rates.up), filters: filters(sides) },
    down: { rate: sumOf(node, ({ rates }) => rates.down), filters: filters(others) },
  };
}

/** By place, parents before their children; who is adrift comes last. */
function byPlace(one, other) {
  if (one.path === null || other.path === null) return (one.path === null) - (other.path === null) || (one.id < other.id ? -1 : 1);
  const fork = one.path.findIndex((number, depth) => number !== other.path[depth]);
  const isSame = fork < 0 && one.path.length === other.path.length;
  if (isSame) return other.round - one.round || (one.id < other.id ? -1 : 1);
  return fork < 0 ? -1 : (one.path[fork] ?? -1) - (other.path[fork] ?? -1);
}

/** As many nodes as are shown, in order: those on the way to this page's first, then those nearest the root. */
function chosen(nodes, here) {
  const isOnTheWay = ({ path }) => path !== null && here?.path?.length >= path.length && path.every((number, depth) => number === here.path[depth]);
  const depth = (node) => (node === here || isOnTheWay(node) ? -1 : node.path?.length ?? Infinity);
  const most = nodes.length <= NODES_SHOWN_MAX ? nodes : [...nodes].sort((one, other) => (depth(one) === depth(other) ? byPlace(one, other) : depth(one) - depth(other)));
  return most.slice(0, NODES_SHOWN_MAX).sort(byPlace);
}

/** What is said about a node without others. */
function aloneText({ isInTree, path }) {
  if (!isInTree) return ['This node is alone: it was started with ', make('code', {}, '--node off'), '.'];
  if (path === null) return ['This node is alone so far, and looks for the others.'];
  const command = make('code', {}, 'sapwood serve --join ADDR');
  return ['This node is alone; another joins with ', command, '. ADDR is what stands behind ', make('code', {}, 'node'), ' in what this one printed when it started.'];
}

/** Shows text and elements, if they are others than before. */
function showParts(element, parts) {
  element.hidden = parts.length === 0;
  if (element.textContent !== parts.map((part) => part.textContent ?? part).join('')) element.replaceChildren(...parts);
}

function trip(us) {
  if (us < 1000) return `${whole(us)} µs`;
  return `${us < 100_000 ? short(us / 1000) : whole(us / 1000)} ms`;
}

/** A node's row, and a function that shows in it what the node says now. */
function nodeRow(id) {
  const part = (className) => make('span', { className });
  const [name, place, isHere, reign, called, missed, lanes] = ['name', 'code place', 'mark here', 'mark', 'code called', 'mark missed', 'mark bad'].map(part);
  const [linksLost, lost, reconnects] = ['mark bad', 'mark bad', 'mark'].map(part);
  const cell = (label, className, ...parts) => make('div', { className }, make('dt', {}, label), make('dd', {}, ...parts));
  const [clients, taken, given, tripText] = ['', '', '', ''].map(part);
  const ways = ['Up/s', 'Down/s'].map((label) => {
    const [rateText, filters, share] = ['', 'filters', 'share'].map(part);
    return { rateText, filters, share, element: cell(label, 'way', rateText, filters, share) };
  });
  const tripCell = cell('Round trip', 'trip', tripText);
  const figures = [cell('Clients', '', clients), cell('In/s', '', taken), cell('Out/s', '', given), tripCell, ...ways.map(({ element }) => element)];
  const who = make('div', { className: 'who' }, name, make('span', { className: 'code id' }, id.slice(0, 8)), place, isHere, reign, called, missed, linksLost, lanes, lost, reconnects);
  const item = make('li', {}, who, make('dl', {}, ...figures));
  const say = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
    if (element.hidden !== (text === '')) element.hidden = text === '';
  };
  const known = (value, format) => (value === null ? '–' : format(value));

  function showWay({ rateText, filters, share, element }, way, isThere, highest) {
    element.hidden = !isThere;
    say(rateText, known(way.rate, rate));
    say(filters, known(way.filters, (count) => (count === Infinity ? 'everything' : plural(count, 'filter'))));
    share.style.setProperty('--share', ((way.rate ?? 0) / highest).toFixed(3));
  }

  return {
    item,
    show(node, branch, { missed: rounds, isHere: isOwn, highest }) {
      item.dataset.missed = rounds;
      item.ariaLevel = String((node.path?.length ?? 0) + 1);
      item.ariaCurrent = isOwn ? 'true' : null;
      item.style.setProperty('--depth', node.path?.length ?? 0);
      say(name, node.name);
      say(place, node.address ?? 'adrift');
      say(isHere, isOwn ? 'this page' : '');
      const since = node.address === '/' ? sumOf(node, (shard) => shard.rootSince) : null;
      say(reign, since === null ? '' : `root since ${clock(since)}`);
      say(called, node.called.join(' '));
      const ended = sumOf(node, (shard) => shard.linksLost) ?? 0;
      say(linksLost, ended > 0 ? `${plural(ended, 'link')} lost` : '');
      say(missed, rounds > 0 ? 'no answer' : '');
      say(lanes, branch.lanesUp < branch.lanes ? `${whole(branch.lanesUp)} of ${plural(branch.lanes, 'lane')} up` : '');
      say(lost, branch.lost > 0 ? `${plural(branch.lost, 'event')} lost` : '');
      say(reconnects, branch.reconnects > 0 ? plural(branch.reconnects, 'reconnect') : '');
      say(clients, known(sumOf(node, (shard) => shard.clients), whole));
      say(taken, known(sumOf(node, ({ rates }) => rates.in), rate));
      say(given, known(sumOf(node, ({ rates }) => rates.out), rate));
      tripCell.hidden = !branch.isThere;
      say(tripText, known(branch.tripUs, trip));
      showWay(ways[0], branch.up, branch.isThere, highest);
      showWay(ways[1], branch.down, branch.isThere, highest);
    },
  };
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

/** Publishes, and returns how many subscriptions of this node the event reached, and whether others may have some. */
async function publish(topic, data) {
  if (isLiveSocket()) return link.carrier.request({ op: 'publish', topic, data });
  return answerOf(await fetch(`v1/topics/${encodeURIComponent(topic)}`, { method: 'POST', body: data }));
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
    const { count, beyond } = await publish(byId('topic').value, byId('payload').value);
    show('outcome', `Reached ${plural(count, 'subscription')}${beyond ? ' here, and other nodes' : ''}`);
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
document.addEventListener('visibilitychange', () => tree.wake());
// Nobody sees an answer that is drawn beside the window.
new IntersectionObserver((seen) => {
  tree.isOnScreen = seen.at(-1).isIntersecting;
  tree.wake();
}).observe(byId('tree'));
poll();
